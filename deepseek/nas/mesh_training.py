"""Trains the networks of a search as runs on a mesh, so that every training has curves that a user can open.

Equal runs are reused, so a training that a crash interrupted is not repeated, even if its result was not stored.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic

from common.errors import InvalidArgument, MeshError
from deepseek.client.samples import from_proto
from deepseek.client.specs import derive_spec
from deepseek.data import encoders
from deepseek.nas.conv_space import ConvSpace, ConvSpec
from deepseek.nas.search import Problem
from deepseek.nas.space import SpecT
from deepseek.nas.trainings import Training
from protos.job.v1 import job_pb2

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

PROXY_SAMPLES = 32
_TAG = "search"


@dataclass(frozen=True)
class MeshTraining(Generic[SpecT]):
    """Trains networks as runs, e.g. as `Problem.train`.

    Attributes:
        mesh: The mesh.
        run_spec: Run spec, without the members `model`, `epochs` and `seed`.
        component: Component that builds a network from its spec, e.g. `searched_cnn`.
        params: Parameters of the component besides the spec.
        metric: Metric of the evaluation data that the search maximizes.
        ahead: Number of runs that are submitted at a time; the trainer decides how many of them run at once.
        tags: Tags of the runs.
    """

    mesh: "Mesh"
    run_spec: Mapping[str, Any]
    component: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    ahead: int = 4
    tags: Mapping[str, str] = field(default_factory=dict)

    def spec(self, training: Training[Any]) -> dict[str, Any]:
        """Returns the run spec of a training."""
        model = {"name": self.component, "params": {**self.params, **training.spec.to_json()}}
        return {**self.run_spec, "model": model, "epochs": training.epochs, "seed": training.seed}

    def run(self, training: Training[Any]) -> str:
        """Submits a training, and returns the name of its run; an equal run is reused."""
        run, reused = self.mesh.runs.submit(self.spec(training), exportable=True)
        if self.tags and not reused:
            self.mesh.runs.update(run.name, set_tags=self.tags)
        return run.name

    def __call__(self, trainings: Sequence[Training[SpecT]]) -> Iterator[tuple[Training[SpecT], float]]:
        """Yields each training with the metric of its run, in the order of the trainings; NaN if the run failed.

        Raises:
            MeshError: The mesh does not answer, or somebody stopped a run.
        """
        waiting: deque[tuple[Training[SpecT], str]] = deque()
        for training in trainings:
            waiting.append((training, self.run(training)))
            if len(waiting) >= self.ahead:
                yield self._finished(*waiting.popleft())
        while waiting:
            yield self._finished(*waiting.popleft())

    def _finished(self, training: Training[SpecT], name: str) -> tuple[Training[SpecT], float]:
        try:
            run = self.mesh.runs.wait(name)
        except MeshError:
            if self.mesh.runs.get(name).job.state != job_pb2.JOB_STATE_FAILED:
                raise
            return training, math.nan
        return training, {metric.name: metric.value for metric in run.metrics}.get(self.metric, math.nan)


def image_search(
    mesh: "Mesh", dataset: str, target: str = "", *, space: ConvSpace, tags: Mapping[str, str] = MappingProxyType({})
) -> tuple[Problem[ConvSpec], MeshTraining[ConvSpec]]:
    """Prepares a search for a classifier of images on a mesh.

    The run specs are those of `deepseek train --task image-classification`, with another model: the accuracy is
    measured on the validation split, or on a held-out share of the training split, and never on a test split.

    Args:
        mesh: The mesh that has the data set.
        dataset: The data set version, e.g. `colours` or `colours:3`.
        target: Name of the label to predict; may be empty if there is only one.
        space: Space of the networks.
        tags: Tags of the runs.

    Returns:
        The problem, for `Search`, and the trainings that it uses.

    Raises:
        MeshError: Any error of `deepseek.client.specs.derive_spec`.
    """
    # Imported here, because client programs should start without torch.
    import torch

    from deepseek.models.searched_conv_net import SearchedConvNet, searched_cnn

    derived = derive_spec(mesh, "image-classification", dataset, target)
    image = derived["inputs"][0]
    encoder = image["encoder"]["params"]
    size, channels = encoder["size"], 1 if encoder["mode"] == "L" else 3
    version = mesh.datasets.version(derived["dataset_version"])
    manifest = mesh.datasets.manifest(version)
    labels = manifest.field(derived["target"]["field"]).labels
    if not labels:
        raise InvalidArgument("BAD_VALUE", f"{derived['target']['field']} has no labels", field="target")
    made = encoders.restore("image", encoder, field="image")
    made.bind(manifest.field(image["field"]))
    arrays = []
    for sample in mesh.datasets.read(version.name, derived.get("train_split", "train")):
        arrays.append(torch.from_numpy(made.encode(from_proto(sample, manifest.fields).values[image["field"]]).copy()))
        if len(arrays) == PROXY_SAMPLES:
            break
    batch = torch.stack(arrays * (2 if len(arrays) == 1 else 1)).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)

    def build(spec: ConvSpec) -> SearchedConvNet:
        return searched_cnn(len(labels), channels=channels, **spec.to_json())

    run_spec = {name: value for name, value in derived.items() if name not in ("model", "epochs", "early_stopping")}
    training = MeshTraining[ConvSpec](
        mesh, run_spec, "searched_cnn", {"channels": channels}, tags={_TAG: "nas", **tags}
    )
    problem = Problem(
        space,
        lambda spec: spec.cost(len(labels), channels, size, size),
        build,
        {"image": batch},
        training,
        key=json.dumps([run_spec, channels], sort_keys=True),
    )
    return problem, training
