"""Image transforms with the names, arguments and results of torchvision's, on Pillow and torch alone.

Only what is needed to prepare an image for a network is here; random transforms are augmentations
(`deepseek.data.augmentations`). A transform takes and gives either a `PIL.Image.Image` or a float tensor [C, H, W];
each says which.

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
"""Pillow's bilinear filter; it is antialiased where it shrinks."""


class Compose:
    """Applies transforms one after another.

    Args:
        transforms: Callables, first to last.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        """Returns what the last transform gives."""
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """Resizes a Pillow image.

    Args:
        size: An integer is the length of the shorter side, and the aspect ratio is kept (the longer side is rounded
            down); a pair is height and width. Pixels.
        interpolation: Pillow's filter.

    Raises:
        ValueError: `size` is neither a positive integer nor a pair of them.
    """

    def __init__(self, size: int | Sequence[int], interpolation: Image.Resampling = BILINEAR) -> None:
        self.size = _side_or_pair(size)
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the resized image; the same one if it has that size already."""
        width, height = _pillow(image).size
        if isinstance(self.size, int):
            short, long = sorted((width, height))
            new_long = int(self.size * long / short)
            target = (self.size, new_long) if width <= height else (new_long, self.size)
        else:
            target = (self.size[1], self.size[0])
        return image if target == (width, height) else image.resize(target, self.interpolation)


class CenterCrop:
    """Cuts out the middle of a Pillow image; one that is too small is first surrounded with black.

    Args:
        size: Height and width; an integer is both. Pixels.

    Raises:
        ValueError: `size` is neither a positive integer nor a pair of them.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        checked = _side_or_pair(size)
        self.size = (checked, checked) if isinstance(checked, int) else checked

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns an image of the size."""
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
    """Turns a Pillow image, or a uint8 array [H, W, C] or [H, W], into a tensor [C, H, W].

    uint8 values are scaled to float32 in [0, 1]; other values keep their range: modes `I`, `I;16` and `F` become int32,
    int16 and float32, and mode `1` becomes 0 and 1 in float32. Values of mode `I;16` above 32,767 are refused, whereas
    torchvision wraps them around to negative values.
    """

    def __call__(self, image: Image.Image | np.ndarray[Any, Any]) -> Tensor:
        """Returns the tensor.

        Raises:
            TypeError: It is neither.
            ValueError: The array has neither 2 nor 3 dimensions, or a 16-bit image has values that exceed int16.
        """
        if isinstance(image, Image.Image):
            dtypes: dict[str, type[np.generic]] = {"I": np.int32, "F": np.float32}
            array = np.array(image, dtypes.get(image.mode), copy=True)
            if image.mode.startswith("I;16"):
                if array.max(initial=0) > _GREATEST_INT16:
                    message = f"the image has 16-bit values up to {array.max()}; int16 holds up to {_GREATEST_INT16}"
                    raise ValueError(f"{message}; scale it to 8 bits first: deepseek.data.pictures.as_shown")
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
            raise ValueError(f"ToTensor takes an array [H, W, C] or [H, W], not one of {array.ndim} dimensions")
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        return tensor.to(torch.float32).div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts a mean from every channel of a float tensor and divides by a standard deviation.

    Args:
        mean: One a channel.
        std: One a channel, not 0.
        inplace: Change the given tensor.

    Raises:
        ValueError: A deviation is 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        if not all(std):
            raise ValueError(f"std is {list(std)}: dividing by zero")
        self.mean = mean
        self.std = std
        self.inplace = inplace

    def __call__(self, image: Tensor) -> Tensor:
        """Normalises a float tensor [..., C, H, W].

        Raises:
            TypeError: It is not a float tensor.
            ValueError: It has fewer than 3 dimensions.
        """
        if not isinstance(image, Tensor) or not image.is_floating_point():
            raise TypeError("Normalize takes a float tensor; put ToTensor before it")
        if image.ndim < 3:
            raise ValueError(f"Normalize takes a tensor [..., C, H, W], not one of shape {tuple(image.shape)}")
        mean = torch.as_tensor(self.mean, dtype=image.dtype, device=image.device)[:, None, None]
        std = torch.as_tensor(self.std, dtype=image.dtype, device=image.device)[:, None, None]
        return (image if self.inplace else image.clone()).sub_(mean).div_(std)


def _pillow(image: Image.Image) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise TypeError(f"a Pillow image is needed, not {type(image).__name__}; put ToTensor after this transform")
    return image


def _side_or_pair(size: int | Sequence[int]) -> int | tuple[int, int]:
    given = python_value(size)
    sides = [python_value(side) for side in given] if isinstance(given, Sequence) else [given]
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"size is {size}; it must be a positive integer or a pair (height, width) of them")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
