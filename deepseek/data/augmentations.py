"""Augmentations: random changes of a training batch that keep its meaning.

An augmentation is a callable on a batch of encoded values. Its randomness comes from torch's global generator, which
the trainer seeds anew for every step and rank, so a resumed run draws what an uninterrupted one would have drawn.
"""

import torch
from torch import Tensor

from common.errors import InvalidArgument


class RandomFlip:
    """Mirrors images left to right, each with a probability of its own.

    Args:
        probability: Of one image's being mirrored, 0 to 1.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0.0 <= probability <= 1.0:
            message = f"probability is {probability}; it must be from 0 to 1"
            raise InvalidArgument("BAD_VALUE", message, field="probability")
        self._probability = probability

    def __call__(self, batch: Tensor) -> Tensor:
        """Mirrors images.

        Args:
            batch: [..., H, W, C], any dtype; every leading index is one image.

        Returns:
            A tensor of the same shape and dtype.

        Raises:
            InvalidArgument: WRONG_TYPE if the batch has fewer than 4 dimensions.
        """
        if batch.ndim < 4:
            message = f"random_flip needs a batch of images [B, H, W, C], not {tuple(batch.shape)}"
            raise InvalidArgument("WRONG_TYPE", message)
        flip = torch.rand(batch.shape[:-3]) < self._probability
        return torch.where(flip[..., None, None, None], batch.flip(-2), batch)
