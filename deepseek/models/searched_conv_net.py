"""The convolutional networks of architecture search, built from a `deepseek.nas.conv_space.ConvSpec`.

The network itself normalises the uint8 pixels, so an exported model accepts the output of the image encoder. It uses
ReLU only, which stays cheap and exact in int8.

Shapes: B images, H x W pixels, C channels, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.models.arguments import check_dropout, check_positive
from deepseek.models.normalization import check_norm, norm_2d
from deepseek.nas.conv_space import ConvSpec, ConvStage, squeezed
from deepseek.nas.spec_values import check_size


class SearchedConvNet(nn.Module):
    """Image classifier. Build it with `searched_cnn`."""

    def __init__(self, spec: ConvSpec, num_classes: int, channels: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.channels = channels
        self.stem = _convolution(channels, spec.stem, 3, norm=norm)
        stages, num_in = [], spec.stem
        for stage in spec.stages:
            blocks = [
                _Block(stage, num_in if i == 0 else stage.width, norm, is_first=i == 0) for i in range(stage.depth)
            ]
            stages.append(nn.Sequential(*_pooling(stage), *blocks))
            num_in = stage.width
        self.stages = nn.Sequential(*stages)
        # Not in place, because the last operation of a stage may be a ReLU whose output the backward pass needs.
        self.head = _convolution(num_in, spec.head, 1, norm=norm) if spec.head else nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(spec.head or num_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, K].

        Args:
            image: Pixels as uint8 [B, H, W, C]; a network for 3 channels takes grey images of 1 channel, too. Or float
                [B, C, H, W], which is used unchanged.

        Raises:
            InvalidArgument: WRONG_TYPE if `image` has any other dtype or shape.
        """
        if image.dtype == torch.uint8 and image.ndim == 4:
            if image.shape[-1] == 1 and self.channels == 3:
                image = torch.cat([image] * 3, -1)
            # Contiguous as [B, C, H, W], as in `ResNet.forward`.
            image = image.permute(0, 3, 1, 2).to(self.classes.weight.dtype).div(127.5).sub(1.0).contiguous()
        if not image.is_floating_point() or image.ndim != 4 or image.shape[1] != self.channels:
            message = f"image is {image.dtype} {tuple(image.shape)}; use uint8 [B, H, W, {self.channels}]"
            raise InvalidArgument("WRONG_TYPE", message, field="image")
        features = self.head(self.stages(self.stem(image)))
        logits: Tensor = self.classes(self.dropout(features.mean((2, 3))))
        return logits


class _Block(nn.Module):
    def __init__(self, stage: ConvStage, num_in: int, norm: str, *, is_first: bool) -> None:
        super().__init__()
        stride = 2 if is_first and stage.pooling == "stride" else 1
        middle = num_in * stage.expansion
        layers: list[nn.Module] = []
        if stage.block == "separable":
            if stage.expansion > 1:
                layers.append(_convolution(num_in, middle, 1, norm=norm))
            layers.append(_convolution(middle, middle, stage.kernel, stride=stride, groups=middle, norm=norm))
        else:
            middle = stage.width if stage.expansion == 1 else middle
            layers.append(_convolution(num_in, middle, stage.kernel, stride=stride, norm=norm))
        if stage.squeeze:
            layers.append(_Squeeze(middle))
        if stage.block == "separable" or stage.expansion > 1:
            layers += [nn.Conv2d(middle, stage.width, 1, bias=False), norm_2d(norm, stage.width)]
        self.layers = nn.Sequential(*layers)
        self.adds_input = stage.skip and stride == 1 and num_in == stage.width

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.layers(x)
        return mapped + x if self.adds_input else mapped


class _Squeeze(nn.Module):
    """Scales every channel by a factor from 0 to 1 that depends on the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed(channels), 1)
        self.expand = nn.Conv2d(squeezed(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * factors


def _convolution(
    num_in: int, num_out: int, kernel: int, *, norm: str, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        norm_2d(norm, num_out),
        nn.ReLU(inplace=True),
    )


def _pooling(stage: ConvStage) -> list[nn.Module]:
    """Returns the pooling before a stage. It halves height and width, rounded up, as a convolution of stride 2 does."""
    if stage.pooling == "max":
        return [nn.MaxPool2d(3, stride=2, padding=1)]
    if stage.pooling == "average":
        return [nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)]
    return []


def searched_cnn(
    num_classes: int,
    stem: int,
    stages: list[Mapping[str, Any]],
    head: int = 0,
    channels: int = 3,
    dropout: float = 0.0,
    norm: str = "batch",
) -> SearchedConvNet:
    """Image classifier of any size, described by stages of residual blocks, e.g. by an architecture search.

    Its input `image` takes the output of the encoder `image`.

    Args:
        num_classes: Number of classes; 1 to predict a number. In a run spec, its default is the number of the target's
            labels.
        stem: Number of channels of the first convolution.
        stages: The stages, in order; each with `block`, `depth`, `width`, `kernel`, `expansion`, `skip`, `squeeze` and
            `pooling` (docs/nas.md).
        head: Number of channels of a 1 x 1 convolution before global average pooling; 0 for none.
        channels: Number of channels of the images: 1 for grey images only, or 3.
        dropout: Probability that a feature of the last layer is dropped in training; at least 0 and below 1.
        norm: Normalization of the convolutions: `batch`, or `group` for federated rounds and DP-SGD.

    Raises:
        InvalidArgument: BAD_VALUE, UNKNOWN_FIELD or MISSING_FIELD, with the path of the invalid argument as the field.
    """
    spec = ConvSpec.from_json({"stem": stem, "stages": stages, "head": head})
    check_positive({"num_classes": num_classes})
    if channels not in (1, 3):
        raise InvalidArgument("BAD_VALUE", f"channels is {channels}; it must be 1 or 3", field="channels")
    check_size(spec.cost(num_classes, channels, 1, 1).parameters, "num_classes")
    check_dropout(dropout)
    check_norm(norm)
    return SearchedConvNet(spec, num_classes, channels, dropout, norm)
