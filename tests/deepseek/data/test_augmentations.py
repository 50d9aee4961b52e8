import pytest
import torch

from common.errors import InvalidArgument
from deepseek.data.augmentations import RandomFlip


def images() -> torch.Tensor:
    return torch.arange(200 * 2 * 3 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(200, 2, 3, 3)


def test_about_half_of_the_images_are_mirrored_and_the_others_unchanged() -> None:
    torch.manual_seed(0)
    batch = images()
    flipped = RandomFlip()(batch)
    mirrored = (flipped == batch.flip(2)).flatten(1).all(1)
    kept = (flipped == batch).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 70 < int(mirrored.sum()) < 130
    assert flipped.dtype == batch.dtype


def test_the_same_seed_mirrors_the_same_images() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(RandomFlip()(images()))
    assert torch.equal(*results)


def test_the_batch_that_was_given_is_not_changed() -> None:
    batch = images()
    RandomFlip(1.0)(batch)
    assert torch.equal(batch, images())


def test_a_probability_of_one_or_zero_is_certain() -> None:
    assert torch.equal(RandomFlip(1.0)(images()), images().flip(2))
    assert torch.equal(RandomFlip(0.0)(images()), images())


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_an_invalid_probability_is_refused(probability: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        RandomFlip(probability)
    assert caught.value.field == "probability"


def test_a_tensor_that_is_not_a_batch_of_images_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        RandomFlip()(torch.zeros(4, 16))
