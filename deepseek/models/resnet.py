"""ResNet-18 and ResNet-50 (He et al. 2015, arXiv:1512.03385), the classic image classifiers.

ResNet-50 is version 1.5: a block applies its stride in the 3 x 3 convolution, not in the 1 x 1 convolution before it.
The parameters have the same names as in torchvision, so weights trained with torchvision can be loaded. Other depths
are not provided: 18 suits small data sets, and published benchmark results refer to 50.

Shapes: B images, H x W pixels, C classes.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.models.arguments import check_positive
from deepseek.models.normalization import check_norm, norm_2d

# Mean and standard deviation of ImageNet's pixels; the published weights expect pixels normalized with them.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class ResNet(nn.Module):
    """A residual network. Build it with `resnet18` or `resnet50`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        block: "type[BasicBlock | Bottleneck]",
        num_blocks: tuple[int, ...],
        num_classes: int,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        widths = [64 * block.expansion * 2**stage for stage in range(4)]
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_2d(norm, 64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, 64, 64, num_blocks[0], stride=1, norm=norm)
        self.layer2 = _stage(block, widths[0], 128, num_blocks[1], stride=2, norm=norm)
        self.layer3 = _stage(block, widths[1], 256, num_blocks[2], stride=2, norm=norm)
        self.layer4 = _stage(block, widths[2], 512, num_blocks[3], stride=2, norm=norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        # Buffers, so that they are part of an exported graph; not persistent, because published weights lack them.
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, C].

        Args:
            image: Images as float [B, 3, H, W], which are used unchanged, or as uint8 [B, H, W, 3], which are
                normalized with ImageNet's mean and standard deviation.

        Raises:
            InvalidArgument: WRONG_TYPE if `image` has any other dtype or shape.
        """
        if image.dtype == torch.uint8 and image.ndim == 4 and image.shape[-1] == 3:
            image = (image.permute(0, 3, 1, 2).to(self.fc.weight.dtype) / 255 - self.mean) / self.std
            # Contiguous as [B, C, H, W]. Otherwise the gradients of the 1 x 1 convolutions have a different layout from
            # their weights, and data-parallel training copies each gradient and warns.
            image = image.contiguous()
        if not image.is_floating_point() or image.ndim != 4 or image.shape[1] != 3:
            message = f"image is {image.dtype} {tuple(image.shape)}; use float [B, 3, H, W] or uint8 [B, H, W, 3]"
            raise InvalidArgument("WRONG_TYPE", message, field="image")
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut connection around them."""

    expansion: ClassVar[int] = 1

    def __init__(self, num_in: int, num_mid: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_mid, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm_2d(norm, num_mid)
        self.conv2 = nn.Conv2d(num_mid, num_mid, 3, padding=1, bias=False)
        self.bn2 = norm_2d(norm, num_mid)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(num_in, num_mid, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, num_in, H, W] to [B, num_mid, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        activated: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return activated


class Bottleneck(nn.Module):
    """Three convolutions (1 x 1, 3 x 3 and 1 x 1) with a shortcut connection around them."""

    expansion: ClassVar[int] = 4

    def __init__(self, num_in: int, num_mid: int, stride: int, norm: str) -> None:
        super().__init__()
        num_out = num_mid * self.expansion
        self.conv1 = nn.Conv2d(num_in, num_mid, 1, bias=False)
        self.bn1 = norm_2d(norm, num_mid)
        self.conv2 = nn.Conv2d(num_mid, num_mid, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm_2d(norm, num_mid)
        self.conv3 = nn.Conv2d(num_mid, num_out, 1, bias=False)
        self.bn3 = norm_2d(norm, num_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(num_in, num_out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, num_in, H, W] to [B, 4 num_mid, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        activated: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return activated


def _shortcut(num_in: int, num_out: int, stride: int, norm: str) -> nn.Module | None:
    if stride == 1 and num_in == num_out:
        return None
    return nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False), norm_2d(norm, num_out))


def _stage(
    block: type[BasicBlock | Bottleneck], num_in: int, num_mid: int, num_blocks: int, *, stride: int, norm: str
) -> nn.Sequential:
    first = block(num_in, num_mid, stride, norm)
    return nn.Sequential(first, *(block(num_mid * block.expansion, num_mid, 1, norm) for _ in range(num_blocks - 1)))


def resnet18(num_classes: int = 1000, norm: str = "batch") -> ResNet:
    """ResNet-18, an image classifier with 11.7 million parameters for 1000 classes.

    Args:
        num_classes: Number of classes.
        norm: Normalization: `batch`, which published weights need, or `group` for federated rounds and DP-SGD.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"num_classes": num_classes})
    check_norm(norm)
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, norm)


def resnet50(num_classes: int = 1000, norm: str = "batch") -> ResNet:
    """ResNet-50, an image classifier with 25.6 million parameters for 1000 classes.

    Args:
        num_classes: Number of classes.
        norm: Normalization: `batch`, which published weights need, or `group` for federated rounds and DP-SGD.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"num_classes": num_classes})
    check_norm(norm)
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, norm)
