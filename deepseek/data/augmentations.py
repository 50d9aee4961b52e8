"""Augmentations: random changes to training batches that preserve the meaning of the samples.

An augmentation is a callable that takes and returns a batch of encoded values. It draws random numbers from torch's
global generator. The trainer seeds this generator for each step and rank, so a resumed run draws the same numbers
as an uninterrupted run. Each image or sound is changed independently of the others.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import InvalidArgument

_GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""


class RandomFlip:
    """Flips each image of a batch horizontally with a given probability.

    Args:
        probability: Probability of flipping an image, from 0 to 1.
    """

    def __init__(self, probability: float = 0.5) -> None:
        self._probability = _share(probability, "probability")

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch in which some of the images are flipped.

        Args:
            batch: Images of any dtype, [..., H, W, C]. Each image is flipped independently of the others.

        Raises:
            InvalidArgument: WRONG_TYPE if the batch has fewer than 4 dimensions.
        """
        if batch.ndim < 4:
            message = f"the batch has the shape {tuple(batch.shape)}; random_flip needs images [B, H, W, C]"
            raise InvalidArgument("WRONG_TYPE", message)
        flip = torch.rand(batch.shape[:-3]) < self._probability
        return torch.where(flip[..., None, None, None], batch.flip(-2), batch)


class RandomCrop:
    """Pads each image with black on all sides, and crops it to its original size at a random place.

    This moves the content by up to `padding` pixels in each direction (He et al. 2015, section 4.2).

    Args:
        padding: Number of pixels to pad on each side; at least 0.
    """

    def __init__(self, padding: int = 4) -> None:
        if padding < 0:
            raise InvalidArgument("BAD_VALUE", f"padding is {padding}; it must be at least 0", field="padding")
        self._padding = padding

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch of moved images.

        Args:
            batch: Images, uint8 [..., H, W, C] with 1 or 3 channels.

        Raises:
            InvalidArgument: WRONG_TYPE if the batch has any other form.
        """
        _check_images(batch, "random_crop")
        images = batch.flatten(0, -4)
        offsets = torch.randint(-self._padding, self._padding + 1, (2, len(images), 1))
        rows = torch.arange(images.shape[1]) + offsets[0]
        columns = torch.arange(images.shape[2]) + offsets[1]
        inside = _is_inside(rows, images.shape[1])[:, :, None] & _is_inside(columns, images.shape[2])[:, None, :]
        rows, columns = rows.clamp(0, images.shape[1] - 1), columns.clamp(0, images.shape[2] - 1)
        numbers = torch.arange(len(images))[:, None, None]
        cropped = images[numbers, rows[:, :, None], columns[:, None, :]]
        return torch.where(inside[..., None], cropped, 0).view(batch.shape)


class RandomRotation:
    """Rotates each image around its centre by a random angle, with bilinear interpolation. Corners become black.

    Args:
        degrees: Largest angle in either direction, in degrees, from 0 to 180.
    """

    def __init__(self, degrees: float = 15.0) -> None:
        if not 0.0 <= degrees <= 180.0:
            raise InvalidArgument("BAD_VALUE", f"degrees is {degrees}; it must be from 0 to 180", field="degrees")
        self._degrees = degrees

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch of rotated images.

        Args:
            batch: Images, uint8 [..., H, W, C] with 1 or 3 channels.

        Raises:
            InvalidArgument: WRONG_TYPE if the batch has any other form.
        """
        _check_images(batch, "random_rotation")
        images = batch.flatten(0, -4).permute(0, 3, 1, 2).float()
        angles = (2 * torch.rand(len(images)) - 1) * math.radians(self._degrees)
        # The coordinates of grid_sample run from -1 to 1 along both sides, which differ in length.
        sine, cosine, stretch = angles.sin(), angles.cos(), images.shape[2] / images.shape[3]
        zero = torch.zeros_like(angles)
        theta = torch.stack(
            [
                torch.stack([cosine, -sine * stretch, zero], 1),
                torch.stack([sine / stretch, cosine, zero], 1),
            ],
            1,
        )
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        rotated = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return rotated.permute(0, 2, 3, 1).round().to(batch.dtype).reshape(batch.shape)


class ColorJitter:
    """Changes brightness, contrast and saturation of each image by random factors, in this order.

    A factor is drawn uniformly from 1 - x to 1 + x, where x is the parameter. Images of one channel keep their
    saturation.

    Args:
        brightness: Maximum change of the brightness, from 0 to 1.
        contrast: Maximum change of the contrast, i.e. of the distance to the mean brightness of the image, from 0 to 1.
        saturation: Maximum change of the saturation, i.e. of the distance to the grey image, from 0 to 1.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        self._brightness = _share(brightness, "brightness")
        self._contrast = _share(contrast, "contrast")
        self._saturation = _share(saturation, "saturation")

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch of changed images.

        Args:
            batch: Images, uint8 [..., H, W, C] with 1 or 3 channels.

        Raises:
            InvalidArgument: WRONG_TYPE if the batch has any other form.
        """
        _check_images(batch, "color_jitter")
        pixels = batch.float()
        pixels = (pixels * _factors(batch, self._brightness)).clamp(0, 255)
        mean = _grey(pixels).mean((-3, -2), keepdim=True)
        pixels = (mean + (pixels - mean) * _factors(batch, self._contrast)).clamp(0, 255)
        grey = _grey(pixels)
        saturated = (grey + (pixels - grey) * _factors(batch, self._saturation)).clamp(0, 255)
        return saturated.round().to(batch.dtype)


class RandomErasing:
    """Erases a random rectangle of each image with a given probability (Zhong et al. 2020, arXiv:1708.04896).

    Erased pixels get random values.

    Args:
        probability: Probability of erasing a rectangle of an image, from 0 to 1.
        area: Smallest and largest area of the rectangle, as shares of the area of the image, from 0 to 1.
        aspect: Largest ratio of the sides of the rectangle, in either direction; at least 1.
    """

    def __init__(self, probability: float = 0.5, area: tuple[float, float] = (0.02, 0.33), aspect: float = 3.3) -> None:
        self._probability = _share(probability, "probability")
        self._area = (_share(area[0], "area"), _share(area[1], "area"))
        if self._area[0] > self._area[1]:
            raise InvalidArgument("BAD_VALUE", f"area is {area}; the first must not exceed the second", field="area")
        if not 1.0 <= aspect < math.inf:
            raise InvalidArgument("BAD_VALUE", f"aspect is {aspect}; it must be finite and at least 1", field="aspect")
        self._aspect = aspect

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch in which rectangles of some images are erased.

        Args:
            batch: Images, uint8 [..., H, W, C] with 1 or 3 channels.

        Raises:
            InvalidArgument: WRONG_TYPE if the batch has any other form.
        """
        _check_images(batch, "random_erasing")
        height, width = batch.shape[-3:-1]
        drawn = torch.rand(5, *batch.shape[:-3])
        smallest, largest = self._area
        area = (smallest + (largest - smallest) * drawn[0]) * height * width
        ratio = torch.exp((2 * drawn[1] - 1) * math.log(self._aspect))
        rows = (area * ratio).sqrt().round().clamp(max=height)
        columns = (area / ratio).sqrt().round().clamp(max=width)
        inside = _range(height, (height - rows) * drawn[2], rows)[..., :, None]
        inside = inside & _range(width, (width - columns) * drawn[3], columns)[..., None, :]
        inside = inside & (drawn[4] < self._probability)[..., None, None]
        noise = torch.randint(0, 256, batch.shape, dtype=batch.dtype)
        return torch.where(inside[..., None], noise, batch)


class TimeShift:
    """Shifts each sound by a random time. Silence fills the gap; audio shifted beyond the end is dropped.

    Args:
        share: Maximum shift in either direction, as a share of the duration, from 0 to 1.
    """

    def __init__(self, share: float = 0.1) -> None:
        self._share = _share(share, "share")

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch of shifted sounds.

        Args:
            batch: Waveforms, float [..., T].

        Raises:
            InvalidArgument: WRONG_TYPE if the batch is not of a float type.
        """
        if not batch.is_floating_point() or batch.ndim < 2:
            message = f"the batch is {batch.dtype} {tuple(batch.shape)}; time_shift needs waveforms, float [B, T]"
            raise InvalidArgument("WRONG_TYPE", message)
        length = batch.shape[-1]
        shift = ((2 * torch.rand(batch.shape[:-1]) - 1) * self._share * length).round().long()
        source = torch.arange(length) - shift[..., None]
        shifted = batch.gather(-1, source.clamp(0, length - 1))
        return torch.where(_is_inside(source, length), shifted, 0.0)


class Noise:
    """Adds normally distributed noise of a random strength to each sound, image or number.

    The standard deviation is drawn uniformly from 0 to `std` for each sample.

    Args:
        std: Largest standard deviation of the noise: for float values in their own unit, e.g. 0.01 for a waveform from
            -1 to 1, and for uint8 values as a share of 255.
    """

    def __init__(self, std: float = 0.01) -> None:
        if not 0.0 <= std < math.inf:
            raise InvalidArgument("BAD_VALUE", f"std is {std}; it must be finite and at least 0", field="std")
        self._std = std

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns a batch with noise.

        Args:
            batch: Values of any float type or uint8, [B, ...].

        Raises:
            InvalidArgument: WRONG_TYPE if the batch is of another type.
        """
        is_bytes = batch.dtype == torch.uint8
        if not is_bytes and not batch.is_floating_point():
            raise InvalidArgument("WRONG_TYPE", f"the batch is {batch.dtype}; noise needs float or uint8 values")
        strength = torch.rand(len(batch), *[1] * (batch.ndim - 1)) * self._std * (255 if is_bytes else 1)
        noisy = batch + strength * torch.randn(batch.shape)
        return (noisy.round().clamp(0, 255) if is_bytes else noisy).to(batch.dtype)


def _check_images(batch: Tensor, user: str) -> None:
    if batch.dtype != torch.uint8 or batch.ndim < 4 or batch.shape[-1] not in (1, 3):
        message = f"the batch is {batch.dtype} {tuple(batch.shape)}; {user} needs images, uint8 [B, H, W, 3]"
        raise InvalidArgument("WRONG_TYPE", message)


def _is_inside(positions: Tensor, length: int) -> Tensor:
    return (positions >= 0) & (positions < length)


def _factors(batch: Tensor, most: float) -> Tensor:
    """Returns a random factor for each image, [..., 1, 1, 1]."""
    return 1 + (2 * torch.rand(*batch.shape[:-3], 1, 1, 1) - 1) * most


def _grey(pixels: Tensor) -> Tensor:
    """Returns the brightness of each pixel, [..., H, W, 1]."""
    return pixels if pixels.shape[-1] == 1 else (pixels * torch.tensor(_GREY)).sum(-1, keepdim=True)


def _range(length: int, start: Tensor, count: Tensor) -> Tensor:
    """Returns which of the positions up to `length` are in a range, bool [..., length]."""
    first = start.round()[..., None]
    positions = torch.arange(length)
    return (positions >= first) & (positions < first + count[..., None])


def _share(value: float, name: str) -> float:
    if not 0.0 <= value <= 1.0:
        raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be from 0 to 1", field=name)
    return value
