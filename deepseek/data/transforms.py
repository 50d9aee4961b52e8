"""Image transforms with the same names, arguments and outputs as torchvision's. They need only Pillow and torch.

These transforms are deterministic and prepare an image for a model. Random changes are handled elsewhere, in
`deepseek.data.augmentations`. Some transforms work on a `PIL.Image.Image`, others on a float tensor [C, H, W]; the
docstring of each transform states which.

Source: torchvision 0.2x, `transforms/functional.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.scalars import python_value

_GREATEST_INT16 = 32_767

BILINEAR = Image.Resampling.BILINEAR
"""Pillow's bilinear filter. It applies antialiasing when an image is made smaller."""


class Compose:
    """Applies transforms one after another.

    Args:
        transforms: Transforms, in the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        """Returns the output of the last transform."""
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """Resizes a Pillow image.

    Args:
        size: Size of the output in pixels, as a pair (height, width) or as a single integer. If it is a single integer,
            it is the length of the shorter side, the aspect ratio is preserved, and the longer side is rounded down.
        interpolation: Resampling filter of Pillow.

    Raises:
        ValueError: `size` is neither a positive integer nor a pair of positive integers.
    """

    def __init__(self, size: int | Sequence[int], interpolation: Image.Resampling = BILINEAR) -> None:
        self.size = _side_or_pair(size)
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns a resized image, or the given image itself if it already has the required size."""
        width, height = _pillow(image).size
        if isinstance(self.size, int):
            short, long = sorted((width, height))
            new_long = int(self.size * long / short)
            target = (self.size, new_long) if width <= height else (new_long, self.size)
        else:
            target = (self.size[1], self.size[0])
        return image if target == (width, height) else image.resize(target, self.interpolation)


class CenterCrop:
    """Crops a Pillow image to its centre. An image that is too small is first padded with zeros, i.e. black.

    Args:
        size: Size of the output in pixels, as a pair (height, width) or as a single integer for both.

    Raises:
        ValueError: `size` is neither a positive integer nor a pair of positive integers.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        checked = _side_or_pair(size)
        self.size = (checked, checked) if isinstance(checked, int) else checked

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the cropped image."""
        width, height = _pillow(image).size
        crop_height, crop_width = self.size
        if crop_width > width or crop_height > height:
            left = max(0, (crop_width - width) // 2)
            top = max(0, (crop_height - height) // 2)
            right = max(0, (crop_width - width + 1) // 2)
            bottom = max(0, (crop_height - height + 1) // 2)
            padded = Image.new(image.mode, (width + left + right, height + top + bottom))
            padded.paste(image, (left, top))
            image, (width, height) = padded, padded.size
        x = round((width - crop_width) / 2.0)
        y = round((height - crop_height) / 2.0)
        return image.crop((x, y, x + crop_width, y + crop_height))


class ToTensor:
    """Converts a Pillow image, or a uint8 array [H, W, C] or [H, W], to a tensor [C, H, W].

    uint8 values are scaled to float32 in [0, 1]. Images of mode `1` become float32 with the values 0 and 1. Images of
    the modes `I`, `I;16` and `F` become int32, int16 and float32 tensors, respectively, and are not scaled. Images of
    mode `I;16` with values above 32,767 are rejected, whereas torchvision converts these values to negative ones.
    """

    def __call__(self, image: Image.Image | np.ndarray[Any, Any]) -> Tensor:
        """Returns the tensor.

        Raises:
            TypeError: The input is neither an image nor an array.
            ValueError: The array has neither 2 nor 3 dimensions, or an image of mode `I;16` has values above 32,767.
        """
        if isinstance(image, Image.Image):
            dtypes: dict[str, type[np.generic]] = {"I": np.int32, "F": np.float32}
            array = np.array(image, dtypes.get(image.mode), copy=True)
            if image.mode.startswith("I;16"):
                if array.max(initial=0) > _GREATEST_INT16:
                    raise ValueError(
                        f"the image has values up to {array.max()}, but int16 holds at most {_GREATEST_INT16}; first "
                        "scale the image to 8 bits with deepseek.data.pictures.as_shown"
                    )
                array = array.astype(np.int16)
            if image.mode == "1":
                array = array.astype(np.uint8) * 255
        elif isinstance(image, np.ndarray):
            array = image
        else:
            raise TypeError(f"ToTensor takes a Pillow image or an array, not {type(image).__name__}")
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3:
            raise ValueError(f"the array has {array.ndim} dimensions; ToTensor takes [H, W, C] or [H, W]")
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        return tensor.to(torch.float32).div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Normalizes each channel of a float tensor: subtracts the mean, then divides by the standard deviation.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel; no value may be 0.
        inplace: Whether to modify the given tensor itself instead of a copy.

    Raises:
        ValueError: A standard deviation is 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        if not all(std):
            raise ValueError(f"std is {list(std)}; no value may be 0")
        self.mean = mean
        self.std = std
        self.inplace = inplace

    def __call__(self, image: Tensor) -> Tensor:
        """Returns a normalized float tensor [..., C, H, W].

        Raises:
            TypeError: The input is not a float tensor.
            ValueError: The tensor has fewer than 3 dimensions.
        """
        if not isinstance(image, Tensor) or not image.is_floating_point():
            raise TypeError("Normalize takes a float tensor; put ToTensor before Normalize")
        if image.ndim < 3:
            raise ValueError(f"the tensor has shape {tuple(image.shape)}; Normalize takes [..., C, H, W]")
        mean = torch.as_tensor(self.mean, dtype=image.dtype, device=image.device)[:, None, None]
        std = torch.as_tensor(self.std, dtype=image.dtype, device=image.device)[:, None, None]
        return (image if self.inplace else image.clone()).sub_(mean).div_(std)


def _pillow(image: Image.Image) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a Pillow image, not {type(image).__name__}; put ToTensor after this transform")
    return image


def _side_or_pair(size: int | Sequence[int]) -> int | tuple[int, int]:
    given = python_value(size)
    sides = [python_value(side) for side in given] if isinstance(given, Sequence) else [given]
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"size is {size}; it must be a positive integer or a pair of them: (height, width)")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
