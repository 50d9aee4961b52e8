"""Values that describe loaded models: the version, the served file, and the host that the file was chosen for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.inference.engine import Engine, Mode
from services.inference.statistics import Statistics


@dataclass(frozen=True)
class HostKind:
    """A kind of host. On hosts of the same kind, a model file produces the same outputs at about the same speed.

    Attributes:
        instruction_set: Instruction set, by its name in `deepseek.processor`.
        runtime: Device, number of threads, and version of the runtime.
    """

    instruction_set: str
    runtime: str

    def __str__(self) -> str:
        return f"{self.instruction_set}, {self.runtime}"


@dataclass(frozen=True)
class ServedFile:
    """The model file with which this host serves a version.

    Attributes:
        name: Name of the file in the manifest.
        variant: Form of the model, e.g. `int8`.
        sha256: Digest of the file.
        mode: Mode of computation (see `engine.Mode`).
        reason: Reason why this file is served, for human readers.
    """

    name: str
    variant: str
    sha256: str
    mode: Mode
    reason: str


@dataclass(frozen=True)
class LoadedModel:
    """A loaded version of a model, which serves requests.

    Attributes:
        model_id: Id of the model in the registry.
        number: Number of the version.
        manifest_sha256: Digest of the version's manifest.
        file: The file that is served.
        engine: Engine that runs this file.
        labels: Labels of the last axis of each output that has such labels, by the name of the output.
        statistics: Statistics of the requests since the version was loaded.
    """

    model_id: str
    number: int
    manifest_sha256: str
    file: ServedFile
    engine: Engine
    labels: Mapping[str, Sequence[str]]
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def takes_batches(self) -> bool:
        """Whether the first dimension of every input and output is a batch axis, whose size may vary."""
        tensors = (*self.engine.inputs, *self.engine.outputs)
        return bool(self.engine.inputs) and all(tensor.dims and isinstance(tensor.dims[0], str) for tensor in tensors)


@dataclass(frozen=True)
class IndexEntry:
    """An entry of the repository index.

    `number` is the number of the version that is loaded, being loaded or waiting to be restored; None if there is none.
    For a loaded model, `reason` names the served file and says why it was chosen. For other models, `reason` says why
    no version is loaded.
    """

    model_id: str
    number: int | None
    state: str
    reason: str = ""
