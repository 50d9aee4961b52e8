"""ResNet-50 (He et al. 2015, arXiv:1512.03385), the classic image classifier.

It is version 1.5, where the 3 x 3 convolution of a block has the stride rather than the 1 x 1 before it, and its
parameters have torchvision's names, so weights trained there load here. Only depth 50 is offered: it is the reference
that figures are given for, not a family of networks.

Shapes: B images, H x W pixels, C classes.
"""

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument

_EXPANSION = 4
_BLOCKS = (3, 4, 6, 3)
# Mean and deviation of ImageNet's pixels, which the published weights expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class ResNet(nn.Module):
    """See the module. Built by `resnet50`."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, _BLOCKS[0], stride=1)
        self.layer2 = _stage(256, 128, _BLOCKS[1], stride=2)
        self.layer3 = _stage(512, 256, _BLOCKS[2], stride=2)
        self.layer4 = _stage(1024, 512, _BLOCKS[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * _EXPANSION, num_classes)
        # Buffers, so that they are part of an exported graph; not saved, so that published weights fit.
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Scores every class.

        Args:
            image: float [B, 3, H, W], taken as it is, or uint8 [B, H, W, 3], normalised by ImageNet's mean and
                deviation.

        Returns:
            Logits, float [B, C].

        Raises:
            InvalidArgument: WRONG_TYPE if it is neither.
        """
        if image.dtype == torch.uint8 and image.ndim == 4 and image.shape[-1] == 3:
            image = (image.permute(0, 3, 1, 2).to(self.fc.weight.dtype) / 255 - self.mean) / self.std
            # In memory as [B, C, H, W]: otherwise the gradients of the 1 x 1 convolutions are laid out otherwise than
            # their weights, and data-parallel training copies each of them and warns.
            image = image.contiguous()
        if not image.is_floating_point() or image.ndim != 4 or image.shape[1] != 3:
            message = f"image is {image.dtype} {tuple(image.shape)}; needed is float [B, 3, H, W] or uint8 [B, H, W, 3]"
            raise InvalidArgument("WRONG_TYPE", message, field="image")
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class Bottleneck(nn.Module):
    """Convolutions 1 x 1, 3 x 3 and 1 x 1 beside a shortcut."""

    def __init__(self, num_in: int, num_mid: int, stride: int) -> None:
        super().__init__()
        num_out = num_mid * _EXPANSION
        self.conv1 = nn.Conv2d(num_in, num_mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_mid)
        self.conv2 = nn.Conv2d(num_mid, num_mid, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_mid)
        self.conv3 = nn.Conv2d(num_mid, num_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(num_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or num_in != num_out:
            shortcut = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, num_in, H, W] to [B, 4 num_mid, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        activated: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return activated


def _stage(num_in: int, num_mid: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    first = Bottleneck(num_in, num_mid, stride)
    return nn.Sequential(first, *(Bottleneck(num_mid * _EXPANSION, num_mid, 1) for _ in range(num_blocks - 1)))


def resnet50(num_classes: int = 1000) -> ResNet:
    """Builds ResNet-50 with fresh weights; 25.6 million parameters with 1000 classes.

    Args:
        num_classes: Number of classes.

    Raises:
        InvalidArgument: BAD_VALUE if there is no class.
    """
    if num_classes < 1:
        raise InvalidArgument("BAD_VALUE", f"num_classes is {num_classes}; at least 1 is needed", field="num_classes")
    return ResNet(num_classes)
