"""Small transformers for texts: their specs, their exact costs, and a space of them.

All layers have the same width. The number of heads and the size of the feed-forward network are chosen per layer
(AutoFormer, Chen et al. 2021, arXiv:2107.00651). `deepseek.models.searched_transformer_net` builds the torch module.
Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.errors import InvalidArgument
from deepseek.nas import spec_values
from deepseek.nas.space import Cost, Gene, Genes, Space, check_choices
from deepseek.nas.spec_values import joined

MAX_LAYERS = 48
MAX_WIDTH = 4096
MAX_HEADS = 64
MAX_MLP_RATIO = 8


@dataclass(frozen=True)
class TransformerLayer:
    """A layer.

    Attributes:
        heads: Number of attention heads.
        mlp_ratio: Hidden features of the feed-forward network, as a multiple of the width.
    """

    heads: int
    mlp_ratio: int


@dataclass(frozen=True)
class TransformerSpec:
    """A transformer.

    Attributes:
        width: Number of features per position; a multiple of twice the heads of every layer.
        layers: The layers, in order.
    """

    width: int
    layers: tuple[TransformerLayer, ...]

    @classmethod
    def from_json(cls, data: Any, path: str = "") -> "TransformerSpec":
        """Reads a spec from its JSON form.

        Args:
            data: Decoded JSON object, with exactly the attributes of the spec.
            path: Path of the spec in the caller's request, for error messages.

        Raises:
            InvalidArgument: BAD_VALUE, UNKNOWN_FIELD or MISSING_FIELD at the field.
        """
        given = spec_values.members(data, [field.name for field in fields(cls)], path)
        width = spec_values.whole(given["width"], joined(path, "width"), 1, MAX_WIDTH)
        where, layers = joined(path, "layers"), []
        for i, one in spec_values.elements(given["layers"], where, MAX_LAYERS):
            layer = spec_values.members(one, [field.name for field in fields(TransformerLayer)], f"{where}[{i}]")
            heads = spec_values.whole(layer["heads"], f"{where}[{i}].heads", 1, MAX_HEADS)
            if width % (2 * heads):
                message = f"the width {width} is not a multiple of {2 * heads}, twice the number of heads"
                raise InvalidArgument("BAD_VALUE", message, field=f"{where}[{i}].heads")
            ratio = spec_values.whole(layer["mlp_ratio"], f"{where}[{i}].mlp_ratio", 1, MAX_MLP_RATIO)
            layers.append(TransformerLayer(heads, ratio))
        spec = cls(width, tuple(layers))
        spec_values.check_size(spec.cost(1, 1).parameters, where)
        return spec

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form, which is also the parameters of the component `searched_transformer`."""
        return {"width": self.width, "layers": [asdict(layer) for layer in self.layers]}

    def cost(self, vocabulary: int, length: int) -> Cost:
        """Returns what the network costs for texts of one length.

        Args:
            vocabulary: Number of token ids.
            length: Number of tokens of a text.
        """
        products = [(4 + 2 * layer.mlp_ratio) * self.width**2 for layer in self.layers]
        embedding, norms = vocabulary * self.width, (2 * len(self.layers) + 1) * self.width
        attention = 2 * length * self.width * len(self.layers)
        return Cost(sum(products) + embedding + norms, length * (sum(products) + attention + embedding))


@dataclass(frozen=True)
class TransformerSpace(Space[TransformerSpec]):
    """A space of transformers.

    Attributes:
        widths: Choices for the width.
        depths: Choices for the number of layers.
        heads: Choices for the heads of a layer; every width must be a multiple of twice each of them.
        mlp_ratios: Choices for the feed-forward network of a layer.

    Raises:
        InvalidArgument: BAD_VALUE at a gene if there is no choice for it, or a choice that no spec may have.
    """

    widths: tuple[int, ...] = (32, 64, 96, 128)
    depths: tuple[int, ...] = (1, 2, 3, 4)
    heads: tuple[int, ...] = (1, 2, 4)
    mlp_ratios: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        check_choices({"depth": self.depths})
        spec_values.elements(list(range(max(self.depths))), "depth", MAX_LAYERS)
        spec_values.whole(min(self.depths), "depth", 1, MAX_LAYERS)
        check_choices(self.choices())
        for width in self.widths:
            for heads in self.heads:
                for ratio in self.mlp_ratios:
                    layers = (TransformerLayer(heads, ratio),) * max(self.depths)
                    TransformerSpec.from_json(TransformerSpec(width, layers).to_json())

    def choices(self) -> Mapping[str, tuple[Gene, ...]]:
        """Returns the choices of `width`, `depth`, and `layers[0].heads` and so on for the largest depth."""
        layers = {
            f"layers[{i}].{name}": values
            for i in range(max(self.depths))
            for name, values in (("heads", self.heads), ("mlp_ratio", self.mlp_ratios))
        }
        return {"width": self.widths, "depth": self.depths, **layers}

    def spec(self, genes: Mapping[str, Any]) -> TransformerSpec:
        """Returns the network that genes describe. The genes of layers beyond the depth have no effect."""
        layers = tuple(
            TransformerLayer(genes[f"layers[{i}].heads"], genes[f"layers[{i}].mlp_ratio"])
            for i in range(genes["depth"])
        )
        return TransformerSpec(genes["width"], layers)

    def genes(self, spec: TransformerSpec) -> Genes:
        """Returns the genes of a network of the space; see `Space.genes`."""
        unused = {name: values[0] for name, values in self.choices().items()}
        used = {f"layers[{i}].{name}": value for i, one in enumerate(spec.layers) for name, value in vars(one).items()}
        return self._checked({**unused, "width": spec.width, "depth": len(spec.layers), **used})
