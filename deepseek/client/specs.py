"""Run specs for common tasks, derived from a data set on a mesh."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepseek.client.names import version_name

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh
    from deepseek.data.manifest import DatasetManifest


def derive_spec(
    mesh: "Mesh", task: str, dataset: str, target: str = "", *, train_split: str = "", epochs: int | None = None
) -> dict[str, Any]:
    """Returns a run spec for a task, as `deepseek train --task` derives it from the schema and a few samples.

    Args:
        mesh: The mesh that has the data set.
        task: A key of `deepseek.tasks.TASKS`, e.g. `tabular`.
        dataset: The data set version, e.g. `colours` or `colours:3`.
        target: Name of the field to predict; may be empty if only one field can be the target.
        train_split: Split to train on; empty as in `deepseek.tasks.training_split`.
        epochs: Number of epochs; None means the number that suits the task.

    Raises:
        MeshError: Any error of `deepseek.tasks.task_spec`, or an error of the mesh.
    """
    from deepseek.tasks import Sniffed, task_spec, training_split

    version = mesh.datasets.version(version_name(dataset, "datasets", field="dataset"))
    manifest = mesh.datasets.manifest(version)
    split = training_split(manifest.splits, train_split)
    samples = _sniffed_samples(mesh, version.name, manifest, split)
    sniffed = Sniffed(manifest.fields, samples, manifest.num_samples(split))
    return task_spec(
        task,
        sniffed,
        manifest.splits,
        dataset_version=version.name,
        target=target,
        train_split=split,
        epochs=epochs,
    )


def _sniffed_samples(mesh: "Mesh", version: str, manifest: "DatasetManifest", split: str) -> list[Mapping[str, Any]]:
    """Returns the values of at least one sample of a split, without reading much more than `MAX_SNIFFED_BYTES`."""
    from deepseek.client.samples import from_proto
    from deepseek.tasks import MAX_SNIFFED_BYTES, NUM_SNIFFED, SNIFFED_AMONG

    num_samples, num_bytes = manifest.num_samples(split), sum(one.size_bytes for one in manifest.shards(split))
    among = min(num_samples, SNIFFED_AMONG, MAX_SNIFFED_BYTES * num_samples // num_bytes)
    step = max(1, among // NUM_SNIFFED)
    samples, read = [], 0
    for number, sample in enumerate(mesh.datasets.read(version, split)):
        if number % step == 0:
            samples.append(from_proto(sample, manifest.fields).values)
        read += sample.ByteSize()
        if len(samples) == NUM_SNIFFED or read >= MAX_SNIFFED_BYTES:
            break
    return samples
