"""Augmentations of images and sounds besides the flip."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.data.augmentations import ColorJitter, Noise, RandomCrop, RandomErasing, RandomRotation, TimeShift

IMAGES = [RandomCrop(), RandomRotation(), ColorJitter(), RandomErasing(1.0), Noise(0.1)]
SOUNDS = [TimeShift(), Noise()]


def images(channels: int = 3, num_images: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (num_images, 12, 16, channels), generator=generator, dtype=torch.uint8)


def sounds() -> Tensor:
    return torch.randn(20, 100, generator=torch.Generator().manual_seed(0))


def name(augmentation: object) -> str:
    return type(augmentation).__name__


@pytest.mark.parametrize(
    ("augmentation", "batch"),
    [(one, images(channels)) for one in IMAGES for channels in (1, 3)] + [(one, sounds()) for one in SOUNDS],
    ids=lambda value: name(value) if callable(value) else "",
)
def test_a_batch_keeps_its_form_and_the_same_seed_gives_the_same_changes(
    augmentation: Callable[[Tensor], Tensor], batch: Tensor
) -> None:
    given, results = batch.clone(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(augmentation(batch))
    first, again, other = results
    assert (first.shape, first.dtype) == (batch.shape, batch.dtype)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(batch, given)
    changes = first.float() - batch.float()
    assert len({tuple(change.flatten().tolist()) for change in changes}) > 10  # each sample is changed on its own
    nested = batch.unflatten(0, (4, 5))
    torch.manual_seed(5)
    assert augmentation(nested).shape == nested.shape


@pytest.mark.parametrize(
    ("augmentation", "batch"),
    [
        (RandomCrop(0), images()),
        (RandomRotation(0), images()),
        (ColorJitter(0, 0, 0), images()),
        (RandomErasing(0), images()),
        (Noise(0), images()),
        (TimeShift(0), sounds()),
        (Noise(0), sounds()),
    ],
    ids=lambda value: name(value) if callable(value) else "",
)
def test_a_change_of_size_zero_changes_nothing(augmentation: Callable[[Tensor], Tensor], batch: Tensor) -> None:
    assert torch.equal(augmentation(batch), batch)


def test_a_crop_moves_the_content_by_up_to_the_padding() -> None:
    torch.manual_seed(0)
    batch = torch.zeros(200, 9, 11, 1, dtype=torch.uint8)
    batch[:, 4, 5] = 255
    moved = [(int(i) - 4, int(j) - 5) for i, j, _ in (image.nonzero()[0] for image in RandomCrop(3)(batch))]
    assert set(moved) == {(i, j) for i in range(-3, 4) for j in range(-3, 4)}
    cropped = RandomCrop(1000)(images())  # black, except for a few pixels
    assert not cropped.bool().all()


def test_a_rotation_is_pillows() -> None:
    torch.manual_seed(3)
    angle = math.degrees(float((2 * torch.rand(1) - 1) * math.radians(90)))
    smooth = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)
    torch.manual_seed(3)
    found = RandomRotation(90)(torch.from_numpy(smooth)[None, ..., None])[0, ..., 0].numpy()
    expected = np.asarray(Image.fromarray(smooth).rotate(angle, Image.Resampling.BILINEAR))
    inside = np.asarray(Image.fromarray(np.full((40, 60), 255, np.uint8)).rotate(angle, Image.Resampling.BILINEAR))
    difference = np.abs(found.astype(int) - expected)[inside == 255]
    assert np.percentile(difference, 95) <= 2
    assert abs(angle) > 5


def test_a_turn_by_90_degrees_keeps_every_pixel() -> None:
    square = images()[:1, :, :12]
    angles = torch.rand
    try:
        torch.rand = lambda *size: torch.ones(size)  # type: ignore[assignment,method-assign]
        turned = RandomRotation(90)(square)
    finally:
        torch.rand = angles  # type: ignore[method-assign]
    assert torch.equal(turned[0], torch.rot90(square[0], 1))


def test_colours_stay_in_the_range_of_their_factors() -> None:
    torch.manual_seed(0)
    grey = torch.full((300, 2, 2, 3), 100, dtype=torch.uint8)
    brightness = ColorJitter(0.5, 0, 0)(grey)[:, 0, 0, 0]
    assert 50 <= brightness.min() < 60
    assert 140 < brightness.max() <= 150
    assert torch.equal(ColorJitter(0, 0.9, 0.9)(grey), grey)  # a grey image of one brightness has neither
    red = torch.tensor([200, 50, 50], dtype=torch.uint8).expand(300, 2, 2, 3)
    changed = ColorJitter(0, 0, 1.0)(red)[:, 0, 0]
    assert (changed[:, 0] - changed[:, 1].int()).min() < 20
    assert (changed[:, 1] == changed[:, 2]).all()


def test_a_rectangle_of_the_given_size_is_erased() -> None:
    torch.manual_seed(0)
    batch = torch.zeros(300, 20, 20, 1, dtype=torch.uint8)
    erased = RandomErasing(1.0, area=(0.1, 0.2), aspect=2.0)(batch)[..., 0]
    for image in erased:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert 30 <= height * width <= 95  # of 400, up to rounding of the sides
        assert (image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 0).float().mean() > 0.8
        assert height / width < 2.6
    half = RandomErasing(0.5)(batch).flatten(1).any(1).float().mean()
    assert 0.4 < half < 0.6


def test_a_shift_moves_a_sound_and_fills_with_silence() -> None:
    torch.manual_seed(0)
    batch = torch.zeros(400, 100)
    batch[:, 50] = 1.0
    positions = TimeShift(0.1)(batch).argmax(1) - 50
    assert set(positions.tolist()) == set(range(-10, 11))
    assert (TimeShift(1.0)(torch.ones(50, 100)) == 0).any()


def test_noise_has_up_to_the_given_strength() -> None:
    torch.manual_seed(0)
    stds = Noise(0.5)(torch.zeros(200, 1000)).std(1)
    assert 0.0 <= stds.min() < 0.05
    assert 0.45 < stds.max() < 0.55
    pixels = Noise(0.1)(torch.full((200, 30, 30, 3), 128, dtype=torch.uint8)).float().flatten(1)
    assert 20 < pixels.std(1).max() < 28
    assert Noise(1.0)(torch.zeros(5, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("augmentation", [RandomCrop(), RandomRotation(), ColorJitter(), RandomErasing()], ids=name)
@pytest.mark.parametrize("batch", [torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(2, 9)])
def test_what_is_no_batch_of_images_is_refused(augmentation: Callable[[Tensor], Tensor], batch: Tensor) -> None:
    with pytest.raises(InvalidArgument) as caught:
        augmentation(batch)
    assert caught.value.reason == "WRONG_TYPE"


@pytest.mark.parametrize("augmentation", SOUNDS, ids=name)
def test_numbers_of_another_type_are_refused(augmentation: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        augmentation(torch.zeros(2, 9, dtype=torch.int64))
    assert caught.value.reason == "WRONG_TYPE"


@pytest.mark.parametrize(
    ("build", "params", "field"),
    [
        (RandomCrop, {"padding": -1}, "padding"),
        (RandomRotation, {"degrees": 181}, "degrees"),
        (ColorJitter, {"contrast": 1.5}, "contrast"),
        (RandomErasing, {"probability": 2}, "probability"),
        (RandomErasing, {"area": (0.5, 0.1)}, "area"),
        (RandomErasing, {"area": (0.5, 1.1)}, "area"),
        (RandomErasing, {"aspect": 0.5}, "aspect"),
        (TimeShift, {"share": math.nan}, "share"),
        (Noise, {"std": -1}, "std"),
    ],
)
def test_a_parameter_out_of_range_is_refused(build: Callable[..., Any], params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build(**params)
    assert caught.value.field == field
