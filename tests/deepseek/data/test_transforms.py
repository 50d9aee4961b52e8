"""Transforms give the sizes of torchvision 0.2x, derived from its source."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepseek.data import transforms


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        (224, (640, 480), (298, 224)),
        (224, (480, 640), (224, 298)),
        (224, (100, 100), (224, 224)),
        (7, (10, 33), (7, 23)),
        ([50], (100, 200), (50, 100)),
        ((30, 50), (100, 100), (50, 30)),
        ((12, 16), (16, 12), (16, 12)),
        (np.int64(224), (640, 480), (298, 224)),
        (np.array([30, 50]), (100, 100), (50, 30)),
        ((np.int64(30), 50), (100, 100), (50, 30)),
    ],
)
def test_resize_returns_the_size_of_torchvision(size: Any, given: tuple[int, int], expected: tuple[int, int]) -> None:
    assert transforms.Resize(size)(noise(*given)).size == expected


def test_resize_is_bilinear_with_antialiasing() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    shrunk = np.array(transforms.Resize(8)(Image.fromarray(stripes)))
    assert np.abs(shrunk[:, 1:-1].astype(int) - 127).max() <= 16
    enlarged = np.array(transforms.Resize((1, 4))(Image.fromarray(np.array([[0, 200]], np.uint8))))
    assert enlarged.tolist() == [[0, 50, 150, 200]]


def test_resize_of_the_right_size_changes_nothing() -> None:
    image = noise(20, 10)
    assert transforms.Resize(10)(image) is image


@pytest.mark.parametrize("size", [0, -1, (), (1, 2, 3), (4, 0), (1.5, 2), None, "8", np.float32(8), True])
def test_a_bad_size_is_refused(size: Any) -> None:
    for transform in (transforms.Resize, transforms.CenterCrop):
        with pytest.raises(ValueError, match="size is"):
            transform(size)


def test_center_crop_takes_the_middle() -> None:
    image = noise(11, 8)
    expected = np.array(image)[2:6, 4:8]  # torchvision: round((11 - 4) / 2) = 4, round((8 - 4) / 2) = 2
    assert np.array_equal(np.array(transforms.CenterCrop(4)(image)), expected)


def test_center_crop_surrounds_a_small_image_with_black() -> None:
    cropped = np.array(transforms.CenterCrop((5, 2))(Image.new("L", (3, 2), 9)))
    assert cropped.shape == (5, 2)
    assert cropped[:, 0].tolist() == [0, 9, 9, 0, 0]


def test_to_tensor_scales_bytes() -> None:
    tensor = transforms.ToTensor()(noise(4, 3))
    assert tensor.shape == (3, 3, 4)
    assert tensor.dtype == torch.float32
    assert torch.equal((tensor * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(np.array(noise(4, 3))))
    assert tensor.is_contiguous()


@pytest.mark.parametrize(
    ("mode", "dtype", "value", "expected"),
    [("L", torch.float32, 255, 1.0), ("1", torch.float32, 1, 1.0), ("I", torch.int32, 70_000, 70_000),
     ("F", torch.float32, 2.5, 2.5), ("I;16", torch.int16, 300, 300)],
)  # fmt: skip
def test_to_tensor_keeps_the_range_of_other_modes(mode: str, dtype: torch.dtype, value: Any, expected: float) -> None:
    tensor = transforms.ToTensor()(Image.new(mode, (2, 3), value))
    assert tensor.shape == (1, 3, 2)
    assert tensor.dtype == dtype
    assert tensor.unique().tolist() == [expected]


@pytest.mark.parametrize("order", ["<", ">"])
def test_to_tensor_does_not_wrap_16_bit_values(order: str) -> None:
    values = np.array([[0, 32_767]], order + "u2")
    assert transforms.ToTensor()(Image.fromarray(values)).tolist() == [[[0, 32_767]]]
    with pytest.raises(ValueError, match=r"up to 32768.*scale the image"):
        transforms.ToTensor()(Image.fromarray(values + 1))


def test_to_tensor_takes_arrays() -> None:
    assert transforms.ToTensor()(np.full((2, 3), 51, np.uint8)).unique().tolist() == [pytest.approx(0.2)]
    assert transforms.ToTensor()(np.ones((2, 3, 4), np.float64)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="1 dimensions"):
        transforms.ToTensor()(np.ones(3))
    with pytest.raises(TypeError, match="not list"):
        transforms.ToTensor()([1, 2])


def test_normalize_subtracts_and_divides() -> None:
    image = torch.ones(3, 2, 2)
    normalized = transforms.Normalize([0.0, 0.5, 1.0], [1.0, 0.25, 2.0])(image)
    assert normalized[:, 0, 0].tolist() == [1.0, 2.0, 0.0]
    assert image.eq(1).all()
    transforms.Normalize([1.0] * 3, [1.0] * 3, inplace=True)(image)
    assert image.eq(0).all()


def test_normalize_refuses_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="no value may be 0"):
        transforms.Normalize([0.0], [0.0])
    with pytest.raises(TypeError, match="float tensor"):
        transforms.Normalize([0.0], [1.0])(torch.ones(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        transforms.Normalize([0.0], [1.0])(torch.ones(2, 2))


def test_a_tensor_where_an_image_is_needed_is_refused() -> None:
    for transform in (transforms.Resize(4), transforms.CenterCrop(4)):
        with pytest.raises(TypeError, match="put ToTensor after"):
            transform(torch.ones(3, 8, 8))


def test_compose_applies_in_order() -> None:
    transform = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8), transforms.ToTensor()])
    assert transform(noise(30, 20)).shape == (3, 8, 8)
