"""The client of a whole mesh: a connection that has one object per kind of resource."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.channel import MAX_MESSAGE_BYTES
from common.environment import home
from deepseek.client.connection import Connection
from deepseek.client.mesh_file import MeshFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepseek.client.artifacts import Artifacts
    from deepseek.client.datasets import Datasets
    from deepseek.client.federated import Federations
    from deepseek.client.inference import Inference
    from deepseek.client.models import Models
    from deepseek.client.privacy import Budgets
    from deepseek.client.runs import Runs
    from deepseek.client.studies import Studies
    from deepseek.client.watermarks import Watermarks
    from deepseek.data.stored import StoredDataset


class Mesh(Connection):
    """A client of every service in a mesh. Thread-safe; use it as a context manager or call `close`.

    The module of each client class is imported when the class is first used, so that the command line starts fast.
    """

    @cached_property
    def artifacts(self) -> "Artifacts":
        """Content of versions, checkpoints and manifests."""
        from deepseek.client.artifacts import Artifacts

        return Artifacts(self)

    @cached_property
    def datasets(self) -> "Datasets":
        """Client for uploads, data set versions and their samples."""
        from deepseek.client.datasets import Datasets

        return Datasets(self)

    def dataset(
        self,
        name: str,
        split: str = "train",
        *,
        fields: "Sequence[str] | None" = None,
        decode: bool = True,
        transform: "Callable[[dict[str, Any]], Any] | None" = None,
        cache: Path | None = None,
        cache_bytes: int | None = None,
    ) -> "StoredDataset":
        """Returns a split of a data set version, for training with PyTorch.

        Args:
            name: Name of the version, e.g. `colours`, `colours:3` or `colours@champion`.
            split: Split to read.
            fields: Names of the fields to read; None means all.
            decode: Whether to decode images and audio.
            transform: Function that is applied to each sample.
            cache: Folder of the local cache; None means `cache/shards` in the home directory.
            cache_bytes: Budget of the cache in bytes; None means 20 GiB.

        Raises:
            InvalidArgument: BAD_NAME, UNKNOWN_SPLIT, UNKNOWN_FIELD.
            NotFound: The version does not exist.
        """
        from deepseek.client.names import version_name
        from deepseek.data.shard_cache import DEFAULT_CACHE_BYTES, ShardCache
        from deepseek.data.stored import StoredDataset

        version = self.datasets.version(version_name(name, "datasets", field="name"))
        shards = ShardCache(
            cache or home() / "cache" / "shards",
            self.artifacts.fetch,
            max_bytes=DEFAULT_CACHE_BYTES if cache_bytes is None else cache_bytes,
        )
        return StoredDataset(
            self.datasets.manifest(version), split, shards, fields=fields, decode=decode, transform=transform
        )

    @cached_property
    def runs(self) -> "Runs":
        """Training runs and exports."""
        from deepseek.client.runs import Runs

        return Runs(self)

    @cached_property
    def models(self) -> "Models":
        """Client for models, with their versions, aliases and lineage."""
        from deepseek.client.models import Models

        return Models(self)

    @cached_property
    def budgets(self) -> "Budgets":
        """Privacy budgets, which limit how much the results of all runs reveal about a data set."""
        from deepseek.client.privacy import Budgets

        return Budgets(self)

    @cached_property
    def federated(self) -> "Federations":
        """Federations, their nodes, and federated runs."""
        from deepseek.client.federated import Federations

        return Federations(self)

    @cached_property
    def studies(self) -> "Studies":
        """Studies, which search for good values of parameters, and their trials."""
        from deepseek.client.studies import Studies

        return Studies(self)

    @cached_property
    def inference(self) -> "Inference":
        """Inference with loaded models, over the Open Inference Protocol."""
        from deepseek.client.inference import Inference

        return Inference(self)

    @cached_property
    def watermarks(self) -> "Watermarks":
        """Watermarks in images and text, and the keys for marking and detection."""
        from deepseek.client.watermarks import Watermarks

        return Watermarks(self)


def connect(
    path: Path | str | None = None, *, deadline_s: float = 30, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> Mesh:
    """Connects to a mesh.

    Args:
        path: Path of the mesh file. None means `mesh.json` in the home directory. The home directory is
            `$DEEPSEEK_HOME` or, if this variable is not set, `~/.deepseek`.
        deadline_s: Default deadline of a unary call, in seconds.
        max_message_bytes: Maximum size of a message that the client sends or receives. Increase it if the services
            accept larger messages.

    Raises:
        FailedPrecondition: MESH_NOT_FOUND if the mesh file does not exist, MESH_FILE_UNREADABLE if it cannot be read.
        InvalidArgument: BAD_MESH_FILE if the file is not a valid mesh file.
    """
    file = MeshFile.read(Path(path) if path else MeshFile.default_path())
    return Mesh(file, deadline_s=deadline_s, max_message_bytes=max_message_bytes)
