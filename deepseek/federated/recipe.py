"""The recipe of a federated run: all that a node needs to build the run's model and to encode its own data.

The coordinator creates it once per run (`deepseek.federated.prepare`), and every task contains it as JSON. The arrays
that the rounds train are not part of the recipe; each task contains them separately. This module does not import torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from deepseek.data.manifest import Field
from deepseek.federated.arrays import Shapes
from deepseek.federated.product import product_version
from deepseek.interchange.schema import fields_from_json, fields_to_json
from deepseek.trainjob import json_values
from deepseek.trainjob.runspec import RunSpec

MEDIA_TYPE = "application/vnd.deepseek.federated-recipe.v1+json"
MAX_BYTES = 900 << 10
"""Maximum size of the JSON text. A task's header, of which the recipe is a part, has at most 1 MiB."""

_FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """What the coordinator and all nodes of a run share.

    Attributes:
        product: Version of this package that created the recipe. Other versions may train differently.
        spec: Complete spec of the run.
        fields: Fields of the reference data that the spec uses, with all labels. Every node's data must have them.
        encoders: State of the fitted encoders: one per input, then that of the target.
        shapes: Names and shapes of the arrays that the rounds train.
        fixed: Further state of the model, which no round changes and which the spec's seed does not determine:
            safetensors bytes in base64; empty if there is none.
        frozen: Names of the modules that stay in evaluation mode, because they keep running statistics. Their
            statistics are those of the reference data.
        rest_sha256: Digest of all state of the model outside of the arrays.
    """

    product: str
    spec: RunSpec
    fields: tuple[Field, ...]
    encoders: tuple[Mapping[str, Any], ...]
    shapes: Shapes
    fixed: str = ""
    frozen: tuple[str, ...] = ()
    rest_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form, which `from_json` reads."""
        return {
            "format": _FORMAT,
            "product": self.product,
            "spec": self.spec.to_json(),
            "fields": fields_to_json(self.fields),
            "encoders": [dict(state) for state in self.encoders],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "fixed": self.fixed,
            "frozen": list(self.frozen),
            "rest_sha256": self.rest_sha256,
        }

    def to_bytes(self) -> bytes:
        """Returns the JSON text. Equal recipes give equal bytes.

        Raises:
            ResourceExhausted: RECIPE_TOO_LARGE.
        """
        data = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        if len(data) > MAX_BYTES:
            message = (
                f"the recipe of the run has {len(data)} bytes; at most {MAX_BYTES} fit into a task. Use encoders with "
                "smaller vocabularies, or freeze fewer parameters"
            )
            raise ResourceExhausted("RECIPE_TOO_LARGE", message, field="spec")
        return data

    @classmethod
    def from_json(cls, data: Any, *, path: str = "recipe") -> "Recipe":
        """Reads the JSON form, which may come from an untrusted source.

        Raises:
            FailedPrecondition: WRONG_VERSION if another version of this package created the recipe.
            InvalidArgument: UNKNOWN_FIELD or BAD_VALUE for an invalid member; BAD_SCHEMA for invalid fields.
        """
        if not isinstance(data, Mapping):
            raise InvalidArgument("BAD_VALUE", f"expected an object, found {type(data).__name__}", field=path)
        # The version comes first, because another version's recipe may have other members.
        own, product = product_version(), data.get("product")
        if product != own or data.get("format") != _FORMAT:
            message = (
                f"the coordinator has the version {str(product)[:80]} and this node the version {own}; install the "
                "same version on both"
            )
            raise FailedPrecondition("WRONG_VERSION", message, field=f"{path}.product")
        members = {"format", *cls.__dataclass_fields__}
        json_values.check_keys(data, dict.fromkeys(members), path)
        if missing := sorted(members - data.keys()):
            raise InvalidArgument("BAD_VALUE", f"{missing[0]} is missing", field=f"{path}.{missing[0]}")
        return cls(
            product=own,
            spec=RunSpec.from_json(data["spec"], path=f"{path}.spec"),
            fields=fields_from_json(data["fields"]),
            encoders=tuple(
                _object(state, f"{path}.encoders[{i}]")
                for i, state in json_values.items(data["encoders"], f"{path}.encoders")
            ),
            shapes=_shapes(data["shapes"], f"{path}.shapes"),
            fixed=json_values.text(data["fixed"], f"{path}.fixed"),
            frozen=tuple(
                json_values.text(name, f"{path}.frozen[{i}]")
                for i, name in json_values.items(data["frozen"], f"{path}.frozen")
            ),
            rest_sha256=json_values.text(data["rest_sha256"], f"{path}.rest_sha256"),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Recipe":
        """Reads the JSON text.

        Raises:
            FailedPrecondition, InvalidArgument: As for `from_json`.
        """
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument("BAD_VALUE", "the recipe is not valid JSON", field="recipe") from error
        return cls.from_json(document)


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidArgument("BAD_VALUE", f"expected an object, found {type(value).__name__}", field=path)
    return value


def _shapes(value: Any, path: str) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, shape in _object(value, path).items():
        sizes = [json_values.integer(size, f"{path}.{name}") for _, size in json_values.items(shape, f"{path}.{name}")]
        if any(size < 0 for size in sizes):
            raise InvalidArgument("BAD_VALUE", f"the shape of {name[:80]} is {sizes}", field=f"{path}.{name}")
        found[name] = tuple(sizes)
    return dict(sorted(found.items()))
