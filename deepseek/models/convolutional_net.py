"""A small convolutional network for images, e.g. of 8 to 128 pixels; `resnet18` and `resnet50` are the larger ones.

The network itself normalises the uint8 pixels, so an exported model accepts the output of the image encoder.

Shapes: B images, H x W pixels, C channels, K classes.
"""

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.models.arguments import check_dropout, check_positive
from deepseek.models.convolutions import trunk
from deepseek.models.normalization import check_norm


class ConvolutionalNet(nn.Module):
    """Small image classifier. Build it with `cnn`."""

    def __init__(self, num_classes: int, width: int, dropout: float, norm: str = "batch") -> None:
        super().__init__()
        self.trunk = trunk(3, width, norm)
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(4 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, K].

        Args:
            image: Pixels, uint8 [B, H, W, C], with 3 channels, or with 1 channel for grey images.

        Raises:
            InvalidArgument: WRONG_TYPE if `image` has any other dtype or shape.
        """
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[-1] not in (1, 3):
            message = f"image is {image.dtype} {tuple(image.shape)}; use uint8 [B, H, W, 3] or [B, H, W, 1]"
            raise InvalidArgument("WRONG_TYPE", message, field="image")
        if image.shape[-1] == 1:
            image = torch.cat([image] * 3, -1)
        # Contiguous as [B, C, H, W], as in `ResNet.forward`.
        pixels = image.permute(0, 3, 1, 2).to(self.classes.weight.dtype).div(127.5).sub(1.0).contiguous()
        logits: Tensor = self.classes(self.dropout(self.trunk(pixels).mean((2, 3))))
        return logits


def cnn(num_classes: int, width: int = 32, dropout: float = 0.1, norm: str = "batch") -> ConvolutionalNet:
    """Small image classifier of six convolutions, with 0.3 million parameters by default.

    Its input `image` takes the output of the encoder `image`, in colour or grey. Three of the convolutions have a
    stride of 2, as in All-CNN (Springenberg et al. 2015, arXiv:1412.6806).

    Args:
        num_classes: Number of classes; 1 to predict a number. In a run spec, its default is the number of the target's
            labels.
        width: Number of channels of the first convolution; the last one has four times as many.
        dropout: Probability that a feature of the last layer is dropped in training; at least 0 and below 1.
        norm: Normalization of the convolutions: `batch`, or `group` for federated rounds and DP-SGD.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"num_classes": num_classes, "width": width})
    check_dropout(dropout)
    check_norm(norm)
    return ConvolutionalNet(num_classes, width, dropout, norm)
