"""Convolutional networks for images: their specs, their exact costs, and a space of them.

A network is a stem, stages of residual blocks, and a head. A block is `dense`, a full convolution (the fused block of
EfficientNetV2, Tan and Le 2021, arXiv:2104.00298), or `separable`, an inverted bottleneck around a depthwise
convolution (MobileNetV2, Sandler et al. 2018, arXiv:1801.04381). It may have a squeeze-and-excitation (Hu et al. 2017,
arXiv:1709.01507). `deepseek.models.searched_conv_net` builds the torch module. Imports no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.errors import InvalidArgument
from deepseek.nas import spec_values
from deepseek.nas.space import Cost, Gene, Genes, Space, check_choices
from deepseek.nas.spec_values import joined

BLOCKS = ("dense", "separable")
POOLINGS = ("none", "stride", "max", "average")
"""How a stage halves height and width: not at all; by the stride of its first convolution; by max or average pooling
before it."""

MAX_STAGES = 8
MAX_DEPTH = 16
MAX_WIDTH = 1024
MAX_KERNEL = 7
MAX_EXPANSION = 8
SQUEEZE_RATIO = 4
"""Channels of a squeeze-and-excitation divided by its hidden channels."""


@dataclass(frozen=True)
class ConvStage:
    """A stage: blocks of the same width.

    Attributes:
        block: One of `BLOCKS`.
        depth: Number of blocks.
        width: Number of channels of a block's output.
        kernel: Height and width of the kernels; odd.
        expansion: Number of channels inside a block, as a multiple of the channels of its input.
        skip: Whether a block adds its input to its output, where their shapes agree.
        squeeze: Whether a block has a squeeze-and-excitation.
        pooling: One of `POOLINGS`.
    """

    block: str
    depth: int
    width: int
    kernel: int
    expansion: int
    skip: bool
    squeeze: bool
    pooling: str

    @classmethod
    def from_json(cls, data: Any, path: str) -> "ConvStage":
        """Reads a stage; see `ConvSpec.from_json`."""
        given = spec_values.members(data, [field.name for field in fields(cls)], path)
        return cls(
            block=spec_values.one_of(given["block"], joined(path, "block"), BLOCKS),
            depth=spec_values.whole(given["depth"], joined(path, "depth"), 1, MAX_DEPTH),
            width=spec_values.whole(given["width"], joined(path, "width"), 1, MAX_WIDTH),
            kernel=spec_values.whole(given["kernel"], joined(path, "kernel"), 1, MAX_KERNEL, odd=True),
            expansion=spec_values.whole(given["expansion"], joined(path, "expansion"), 1, MAX_EXPANSION),
            skip=spec_values.flag(given["skip"], joined(path, "skip")),
            squeeze=spec_values.flag(given["squeeze"], joined(path, "squeeze")),
            pooling=spec_values.one_of(given["pooling"], joined(path, "pooling"), POOLINGS),
        )


@dataclass(frozen=True)
class ConvSpec:
    """A convolutional network.

    Attributes:
        stem: Number of channels of the first convolution, 3 x 3.
        stages: The stages, in order.
        head: Number of channels of a 1 x 1 convolution before global average pooling; 0 for none.
    """

    stem: int
    stages: tuple[ConvStage, ...]
    head: int

    @classmethod
    def from_json(cls, data: Any, path: str = "") -> "ConvSpec":
        """Reads a spec from its JSON form.

        Args:
            data: Decoded JSON object, with exactly the attributes of the spec.
            path: Path of the spec in the caller's request, for error messages.

        Raises:
            InvalidArgument: BAD_VALUE, UNKNOWN_FIELD or MISSING_FIELD at the field.
        """
        given = spec_values.members(data, [field.name for field in fields(cls)], path)
        stages = joined(path, "stages")
        spec = cls(
            stem=spec_values.whole(given["stem"], joined(path, "stem"), 1, MAX_WIDTH),
            stages=tuple(
                ConvStage.from_json(stage, f"{stages}[{i}]")
                for i, stage in spec_values.elements(given["stages"], stages, MAX_STAGES)
            ),
            head=spec_values.whole(given["head"], joined(path, "head"), 0, 4 * MAX_WIDTH),
        )
        spec_values.check_size(spec.cost(1, 3, 1, 1).parameters, stages)
        return spec

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form, which is also the parameters of the component `searched_cnn`."""
        return {"stem": self.stem, "stages": [asdict(stage) for stage in self.stages], "head": self.head}

    def cost(self, num_classes: int, channels: int, height: int, width: int) -> Cost:
        """Returns what the network costs for images of one size.

        Args:
            num_classes: Number of classes.
            channels: Number of channels of an image, 1 or 3.
            height: Height of an image in pixels.
            width: Width of an image in pixels.
        """
        parameters, macs = 0, 0
        for one_parameters, one_macs in self._operations(num_classes, channels, height, width):
            parameters, macs = parameters + one_parameters, macs + one_macs
        return Cost(parameters, macs)

    def _operations(self, num_classes: int, channels: int, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Yields the parameters and the MACs of every operation."""
        yield _convolution(channels, self.stem, 3, height * width)
        num_in = self.stem
        for stage in self.stages:
            for i in range(stage.depth):
                before = height * width
                if i == 0 and stage.pooling != "none":
                    height, width = -(-height // 2), -(-width // 2)
                    before = before if stage.pooling == "stride" else height * width
                yield from _block(stage, num_in, before, height * width)
                num_in = stage.width
        if self.head:
            yield _convolution(num_in, self.head, 1, height * width)
            num_in = self.head
        yield num_in * num_classes + num_classes, num_in * num_classes


def _block(stage: ConvStage, num_in: int, before: int, after: int) -> Iterator[tuple[int, int]]:
    """Yields the costs of a block's operations; `before` and `after` are the positions of its input and output."""
    middle = num_in * stage.expansion
    if stage.block == "separable":
        if stage.expansion > 1:
            yield _convolution(num_in, middle, 1, before)
        yield _convolution(1, middle, stage.kernel, after)
    else:
        middle = stage.width if stage.expansion == 1 else middle
        yield _convolution(num_in, middle, stage.kernel, after)
    if stage.squeeze:
        hidden = squeezed(middle)
        yield 2 * middle * hidden + hidden + middle, 2 * middle * hidden
    if stage.block == "separable" or stage.expansion > 1:
        yield _convolution(middle, stage.width, 1, after)


def _convolution(num_in: int, num_out: int, kernel: int, positions: int) -> tuple[int, int]:
    """Returns the costs of a convolution without bias, and of the normalization after it."""
    weights = num_in * num_out * kernel * kernel
    return weights + 2 * num_out, weights * positions


def squeezed(channels: int) -> int:
    """Returns the number of hidden channels of a squeeze-and-excitation."""
    return max(1, channels // SQUEEZE_RATIO)


@dataclass(frozen=True)
class StageChoices:
    """Choices for the attributes of a `ConvStage`."""

    blocks: tuple[str, ...] = BLOCKS
    depths: tuple[int, ...] = (1, 2, 3)
    widths: tuple[int, ...] = (16, 24, 32, 48, 64)
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[int, ...] = (1, 2, 3, 4)
    skips: tuple[bool, ...] = (True, False)
    squeezes: tuple[bool, ...] = (False, True)
    poolings: tuple[str, ...] = ("stride", "max", "average")


SMALL_IMAGES = (
    StageChoices(depths=(1, 2), widths=(16, 24, 32), poolings=("none", "stride", "max")),
    StageChoices(widths=(24, 32, 48)),
    StageChoices(widths=(32, 48, 64, 96)),
)
"""Choices for images of 28 or 32 pixels."""


@dataclass(frozen=True)
class ConvSpace(Space[ConvSpec]):
    """A space of convolutional networks with a fixed number of stages.

    Attributes:
        stems: Choices for the stem.
        stages: Choices for each stage.
        heads: Choices for the head.

    Raises:
        InvalidArgument: BAD_VALUE at a gene if there is no choice for it, or a choice that no spec may have.
    """

    stems: tuple[int, ...] = (8, 16, 24, 32)
    stages: tuple[StageChoices, ...] = SMALL_IMAGES
    heads: tuple[int, ...] = (0, 64, 128)

    def __post_init__(self) -> None:
        choices = self.choices()
        check_choices(choices)
        first = {name: values[0] for name, values in choices.items()}
        for name, values in choices.items():
            for value in values:
                ConvSpec.from_json(self.spec({**first, name: value}).to_json())

    def choices(self) -> Mapping[str, tuple[Gene, ...]]:
        """Returns the choices of `stem`, of `stages[0].block` and so on, and of `head`."""
        return {
            "stem": self.stems,
            **{
                f"stages[{i}].{name.removesuffix('s')}": values
                for i, stage in enumerate(self.stages)
                for name, values in vars(stage).items()
            },
            "head": self.heads,
        }

    def spec(self, genes: Mapping[str, Any]) -> ConvSpec:
        """Returns the network that genes describe."""
        stages = tuple(
            ConvStage(**{field.name: genes[f"stages[{i}].{field.name}"] for field in fields(ConvStage)})
            for i in range(len(self.stages))
        )
        return ConvSpec(genes["stem"], stages, genes["head"])

    def genes(self, spec: ConvSpec) -> Genes:
        """Returns the genes of a network of the space; see `Space.genes`."""
        if len(spec.stages) != len(self.stages):
            message = f"the network has {len(spec.stages)} stages; the networks of the space have {len(self.stages)}"
            raise InvalidArgument("NOT_IN_SPACE", message, field="stages")
        stages = {
            f"stages[{i}].{name}": value for i, one in enumerate(spec.stages) for name, value in vars(one).items()
        }
        return self._checked({"stem": spec.stem, **stages, "head": spec.head})
