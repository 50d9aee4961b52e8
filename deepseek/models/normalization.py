"""The normalization layers that the networks for images and audio offer under the parameter `norm`."""

import math

from torch import nn

from common.errors import InvalidArgument

NORMS = ("batch", "group")
"""Known kinds of normalization."""

_MAX_GROUPS = 32


def check_norm(norm: str) -> None:
    """Checks the name of a kind of normalization.

    Raises:
        InvalidArgument: BAD_VALUE at `norm`.
    """
    if norm not in NORMS:
        message = f"norm is {str(norm)[:80]!r}; it must be one of: {', '.join(NORMS)}"
        raise InvalidArgument("BAD_VALUE", message, field="norm")


def norm_2d(norm: str, channels: int) -> nn.Module:
    """Builds the layer that normalizes float [B, channels, H, W].

    Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167) mixes the samples of a batch and keeps running
    statistics with an integer counter, so it suits neither federated rounds nor DP-SGD. Group normalization (Wu & He
    2018, arXiv:1803.08494) treats each sample on its own. There are up to 32 groups, as in that paper, but a group has
    at least two channels, because narrow networks learn more slowly with one.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, math.gcd(2 * _MAX_GROUPS, channels) // 2), channels)
