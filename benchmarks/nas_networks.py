"""The networks that the benchmark of architecture search compares: searched ones, and residual networks by hand.

The residual networks are those of He et al. 2015 for small images (arXiv:1512.03385, section 4.2), with projections as
shortcuts: three stages of `num_blocks` blocks, with 16, 32 and 64 channels unless they are scaled.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.models.resnet import BasicBlock
from deepseek.models.searched_conv_net import searched_cnn
from deepseek.nas.conv_space import ConvSpec
from deepseek.nas.cost import measured_cost
from deepseek.nas.space import Cost

NUM_CLASSES, SIDE = 10, 28


@dataclass(frozen=True)
class ResNetSpec:
    """A residual network.

    Attributes:
        num_blocks: Number of blocks per stage: 1 for ResNet-8, 2 for ResNet-14.
        widths: Channels of the three stages.
    """

    num_blocks: int
    widths: tuple[int, int, int] = (16, 32, 64)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {"num_blocks": self.num_blocks, "widths": list(self.widths)}


Network = ResNetSpec | ConvSpec


class ResNet(nn.Module):
    """A residual network for grey images."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        first, _, last = spec.widths
        self.stem = nn.Sequential(nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        blocks, num_in = [], first
        for stage, width in enumerate(spec.widths):
            for i in range(spec.num_blocks):
                blocks.append(BasicBlock(num_in, width, 2 if stage and not i else 1, "batch"))
                num_in = width
        self.blocks = nn.Sequential(*blocks)
        self.classes = nn.Linear(last, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, 10], for pixels, uint8 [B, H, W, 1]."""
        x = image.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()
        logits: Tensor = self.classes(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def build(network: Network) -> nn.Module:
    """Builds a network, with weights from torch's global generator."""
    if isinstance(network, ResNetSpec):
        return ResNet(network)
    return searched_cnn(NUM_CLASSES, channels=1, **network.to_json())


def cost(network: Network) -> Cost:
    """Returns the cost of a network for an image."""
    if isinstance(network, ConvSpec):
        return network.cost(NUM_CLASSES, 1, SIDE, SIDE)
    return measured_cost(ResNet(network), {"image": torch.zeros(1, SIDE, SIDE, 1, dtype=torch.uint8)})


def from_json(data: dict[str, Any]) -> Network:
    """Reads a network from its JSON form."""
    if "num_blocks" in data:
        return ResNetSpec(data["num_blocks"], tuple(data["widths"]))
    return ConvSpec.from_json(data)


def width_scaled(num_blocks: int, parameters: int) -> ResNetSpec:
    """Returns the narrowest residual network that has at least a number of parameters.

    The widths of the three stages have the ratio 1 : 2 : 4, rounded.
    """
    for quarter in range(1, 4 * 64):
        base = quarter / 4
        spec = ResNetSpec(num_blocks, (max(1, round(base)), max(1, round(2 * base)), max(1, round(4 * base))))
        if sum(one.numel() for one in ResNet(spec).parameters()) >= parameters:
            return spec
    raise ValueError(f"no residual network with {parameters} parameters in three stages of up to 64 channels")
