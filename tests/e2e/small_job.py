"""The main job, small: eight pictures, one epoch."""

from deepseek.client import Mesh
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from protos.registry.v1 import registry_pb2
from tests.harness.images import image_file

SPEC = {
    "model": {"name": "image_question", "params": {"vocabulary": 8, "num_classes": 2, "width": 4, "features": 8}},
    "metrics": [{"name": "accuracy"}],
    "inputs": [
        {"field": "image", "encoder": {"name": "image", "params": {"size": 32}}},
        {"field": "question", "encoder": {"name": "words", "params": {"length": 4, "vocabulary": 8}}},
    ],
    "target": {"field": "answer"},
    "eval_split": "train",
    "epochs": 1,
    "batch_size": 4,
}
FIELDS = (
    Field("image", "image", repeated=False, labels=()),
    Field("question", "text", repeated=True, labels=()),
    Field("answer", "label", repeated=True, labels=("no", "yes")),
)


def train_and_serve(mesh: Mesh, name: str) -> registry_pb2.ModelVersion:
    """Uploads pictures, reads them back, trains, exports and loads.

    Args:
        mesh: Where.
        name: Of the data set and of the model.

    Returns:
        The version of the model that is served.
    """
    samples = [
        Sample(str(i), "train", {"image": image_file(i), "question": ["is it?", "why?"], "answer": ["yes", "no"]})
        for i in range(8)
    ]
    version = mesh.datasets.upload(name, FIELDS, samples)
    assert [sample.key for sample in mesh.datasets.read(version.name)] == [str(i) for i in range(8)]
    run, _ = mesh.runs.submit({**SPEC, "dataset_version": version.name})
    assert mesh.runs.wait(run.name).metrics
    model = mesh.runs.export(run.name, name)
    mesh.inference.load(name)
    return model
