"""Code shared by the commands that upload samples: progress of the commit, and the message after Ctrl-C."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from common.errors import NotFound
from deepseek.cli.interrupts import when_interrupted

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh
    from protos.job.v1 import job_pb2


@contextmanager
def committing(dataset: str, bar: Progress, task: TaskID) -> "Iterator[Callable[[job_pb2.Job], None]]":
    """Yields a function that shows the progress of a commit.

    After Ctrl-C, the samples of the upload are dropped, unless the commit has begun. A commit that has begun continues
    in the mesh.

    Args:
        dataset: Id of the data set.
        bar: The progress bar.
        task: The task of the upload on that bar.
    """
    text = f"stopped; the samples were dropped, and no new version of {dataset} was made"

    def on_change(job: "job_pb2.Job") -> None:
        nonlocal text
        text = f"stopped watching; the commit continues, and `deepseek dataset list` shows the version of {dataset}"
        bar.update(task, note=job.message)

    with when_interrupted(lambda: text):
        yield on_change


def version_names(mesh: "Mesh", dataset: str) -> set[str]:
    """Returns the names of the versions of a data set, which need not exist."""
    try:
        return {version.name for version in mesh.datasets.versions(dataset)}
    except NotFound:
        return set()


def unchanged(version: str, earlier: Collection[str]) -> str:
    """Returns the end of a line that says whether an upload made a version; equal samples are the same version."""
    return "; unchanged, no new version" if version in earlier else ""
