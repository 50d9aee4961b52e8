"""The convolutional trunk of the small networks `cnn` and `audio_classifier`.

Shapes: B samples, C channels, H x W positions.
"""

from torch import nn

from deepseek.models.normalization import norm_2d


def trunk(num_in: int, width: int, norm: str) -> nn.Sequential:
    """Builds six 3 x 3 convolutions, which map float [B, num_in, H, W] to [B, 4 width, H / 8, W / 8], rounded up.

    Each convolution is followed by normalization (`norm_2d`) and ReLU. Every second one halves height and width by its
    stride, so the trunk accepts inputs of any size.
    """
    return nn.Sequential(
        _convolution(num_in, width, norm),
        _convolution(width, width, norm, stride=2),
        _convolution(width, 2 * width, norm),
        _convolution(2 * width, 2 * width, norm, stride=2),
        _convolution(2 * width, 4 * width, norm),
        _convolution(4 * width, 4 * width, norm, stride=2),
    )


def _convolution(num_in: int, num_out: int, norm: str, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False),
        norm_2d(norm, num_out),
        nn.ReLU(inplace=True),
    )
