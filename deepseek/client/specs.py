"""Run specs for common tasks, derived from a data set on a mesh."""

import itertools
from typing import TYPE_CHECKING, Any

from deepseek.client.names import version_name

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh


def derive_spec(mesh: "Mesh", task: str, dataset: str, target: str = "") -> dict[str, Any]:
    """Returns a run spec for a task, as `deepseek train --task` derives it from the schema and a few samples.

    Args:
        mesh: The mesh that has the data set.
        task: A key of `deepseek.tasks.TASKS`, e.g. `tabular`.
        dataset: The data set version, e.g. `colours` or `colours:3`.
        target: Name of the field to predict; may be empty if only one field can be the target.

    Raises:
        MeshError: Any error of `deepseek.tasks.task_spec`, or an error of the mesh.
    """
    from deepseek.client.samples import from_proto
    from deepseek.tasks import NUM_SNIFFED, SNIFFED_AMONG, Sniffed, task_spec

    version = mesh.datasets.version(version_name(dataset, "datasets", field="dataset"))
    manifest = mesh.datasets.manifest(version)
    split = "train" if "train" in manifest.splits else min(manifest.splits)
    num_samples = manifest.num_samples(split)
    step = max(1, min(num_samples, SNIFFED_AMONG) // NUM_SNIFFED)
    spread = itertools.islice(mesh.datasets.read(version.name, split), 0, NUM_SNIFFED * step, step)
    samples = [from_proto(sample, manifest.fields).values for sample in spread]
    sniffed = Sniffed(manifest.fields, samples, num_samples)
    return task_spec(task, sniffed, manifest.splits, dataset_version=version.name, target=target)
