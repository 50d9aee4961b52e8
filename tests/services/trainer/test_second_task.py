"""Another task through the same calls: a character language model on the language reference that comes with Python."""

from pydoc_data.topics import topics

import pytest

from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.exports import export, manifest_of
from tests.services.trainer.tasks import TEXT_FIELDS, add_dataset, passages, text_spec


@pytest.mark.slow
def test_a_language_model_is_trained_and_exported_by_the_same_calls(mesh: TrainerMesh) -> None:
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))[:20_000]
    version = add_dataset(mesh.registry.channel(), mesh.home / "store", "manual", TEXT_FIELDS, passages(text))
    name = mesh.submit(text_spec(version, epochs=10)).name
    events = list(mesh.watch(name))
    run = mesh.run(name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED, run.job
    evaluations = [
        {metric.name: metric.value for metric in event.evaluation.metrics}
        for event in events
        if event.HasField("evaluation")
    ]
    perplexities = [evaluation["perplexity"] for evaluation in evaluations]
    assert perplexities == sorted(perplexities, reverse=True)
    assert perplexities[-1] < 15  # guessing evenly among 96 tokens has 96
    assert evaluations[-1]["next_token_accuracy"] > 0.3

    job = export(mesh, pb.ExportModelRequest(run=name, model="models/manual"))
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
    request = registry_pb2.GetModelVersionRequest(name=job.result)
    manifest = manifest_of(mesh, mesh.models.GetModelVersion(request).model_version)
    (measured,) = manifest.measurements
    assert measured.metric == "next_token_accuracy"
    assert measured.value == pytest.approx(evaluations[-1]["next_token_accuracy"], abs=0.02)
    assert manifest.outputs[0].shape == (-1, 32, 96)
