"""The part of a model manifest that describes where an imported model comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from deepseek.data.canonical_json import Node
from deepseek.data.manifest import SHA256

_MAX_ITEMS = 1024


@dataclass(frozen=True)
class Origin:
    """Where an imported model comes from, and what its import found.

    Attributes:
        file: Name of the imported file.
        sha256: SHA-256 of that file, without external data, in lower-case hexadecimal.
        producer: Program that wrote the file, e.g. `skl2onnx 1.20`; empty if the file does not say.
        opsets: Version of each operator set, by domain; the standard domain is `ai.onnx`.
        operators: Number of nodes per operator, by the operator's name.
        batch_sizes: Batch sizes with which the import ran requests.
        license: Licence of the model; empty if unknown.
        note: Note of the user who imported the model.
        remarks: What the import changed or could not do, one sentence per remark.
    """

    file: str
    sha256: str
    producer: str = ""
    opsets: Mapping[str, int] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = ()
    license: str = ""
    note: str = ""
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the members of the manifest's object."""
        return {**asdict(self), "batch_sizes": list(self.batch_sizes), "remarks": list(self.remarks)}

    @classmethod
    def read(cls, node: Node) -> Self:
        """Reads the untrusted object of a manifest."""
        members = node.object(
            "file", "sha256", "producer", "opsets", "operators", "batch_sizes", "license", "note", "remarks"
        )
        return cls(
            file=members["file"].string(),
            sha256=members["sha256"].string(SHA256),
            producer=members["producer"].string(),
            opsets=_counts(members["opsets"]),
            operators=_counts(members["operators"]),
            batch_sizes=tuple(size.integer(minimum=1) for size in members["batch_sizes"].array(max_items=_MAX_ITEMS)),
            license=members["license"].string(),
            note=members["note"].string(),
            remarks=tuple(remark.string() for remark in members["remarks"].array(max_items=_MAX_ITEMS)),
        )


def _counts(node: Node) -> dict[str, int]:
    return {name: one.integer(minimum=1) for name, one in node.mapping(max_items=_MAX_ITEMS).items()}
