import itertools
import json
from typing import Any

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.data.sampler import ResumableSampler


def steps(world_size: int, *, epochs: int = 1, **options: Any) -> list[list[int]]:
    """Returns the global batches: the samples of all ranks in each step, in global order."""
    samplers = [ResumableSampler(103, 12, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    batches = []
    for _ in range(epochs):
        for parts in zip(*samplers, strict=True):
            batch = [0] * sum(map(len, parts))
            for rank, part in enumerate(parts):
                batch[rank::world_size] = part
            batches.append(batch)
    return batches


@pytest.mark.parametrize("world_size", [2, 3, 4, 12])
def test_the_global_order_is_the_same_whatever_the_number_of_ranks(world_size: int) -> None:
    assert steps(world_size, epochs=2, seed=7) == steps(1, epochs=2, seed=7)


def test_every_sample_occurs_once_per_epoch() -> None:
    assert sorted(index for batch in steps(1) for index in batch) == list(range(103))


def test_the_last_batch_holds_the_remaining_samples() -> None:
    assert [len(batch) for batch in steps(1)] == [12] * 8 + [7]
    assert list(ResumableSampler(3, 8, shuffle=False)) == [[0, 1, 2]]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first, second = ResumableSampler(50, 50, seed=1), ResumableSampler(50, 50, seed=2)
    assert first.order(0).tolist() != first.order(1).tolist()
    assert first.order(0).tolist() != second.order(0).tolist()
    assert first.order(3).tolist() == ResumableSampler(50, 50, seed=1).order(3).tolist()


def test_the_order_never_changes_between_versions() -> None:
    assert ResumableSampler(8, 1, seed=42).order(5).tolist() == ORDER_OF_SEED_42_EPOCH_5


ORDER_OF_SEED_42_EPOCH_5 = [2, 3, 0, 5, 6, 7, 4, 1]


def test_numpy_numbers_become_python_numbers_in_the_state() -> None:
    sampler = ResumableSampler(np.int64(8), np.int32(3), seed=np.uint64(42))  # type: ignore[arg-type]
    next(iter(sampler))
    restored = ResumableSampler(8, 3, seed=42)
    restored.load_state(json.loads(json.dumps(sampler.state())))
    assert list(restored) == list(sampler)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("stop_after", [0, 1, 8, 9, 14])
def test_training_resumes_exactly_where_it_stopped(stop_after: int, shuffle: bool) -> None:
    uninterrupted = steps(1, epochs=3, shuffle=shuffle)
    sampler = ResumableSampler(103, 12, shuffle=shuffle)
    seen: list[list[int]] = []
    while len(seen) < stop_after:
        for batch in sampler:
            seen.append(batch)
            if len(seen) == stop_after:
                break
    state = json.loads(json.dumps(sampler.state()))
    again = ResumableSampler(103, 12, shuffle=shuffle)
    again.load_state(state)
    while again.epoch < 3:
        seen.extend(again)
    assert seen == uninterrupted


def test_training_resumes_with_another_number_of_ranks() -> None:
    whole = steps(1, seed=3)
    one = ResumableSampler(103, 12, seed=3)
    for _ in zip(range(4), one, strict=False):
        pass
    rest = []
    samplers = [ResumableSampler(103, 12, seed=3, rank=rank, world_size=2) for rank in range(2)]
    for sampler in samplers:
        sampler.load_state({"seed": 3, "epoch": 0, "position": 48})
    for left, right in zip(*samplers, strict=True):
        pairs = itertools.zip_longest(left, right)  # the left may have one more
        rest.append([index for pair in pairs for index in pair if index is not None])
    assert rest == whole[4:]


def test_the_steps_left_are_counted() -> None:
    sampler = ResumableSampler(103, 12)
    assert (len(sampler), sampler.steps_per_epoch) == (9, 9)
    next(iter(sampler))
    assert (len(sampler), sampler.steps_per_epoch) == (8, 9)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"num_samples": 0, "batch_size": 1}, "num_samples"),
        ({"num_samples": 9, "batch_size": 0}, "batch_size"),
        ({"num_samples": 9, "batch_size": 1, "world_size": 2}, "batch_size"),
        ({"num_samples": 9, "batch_size": 4, "world_size": 2, "rank": 2}, "rank"),
        ({"num_samples": 9, "batch_size": 4, "seed": -1}, "seed"),
    ],
)
def test_a_bad_argument_is_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ResumableSampler(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"seed": 0, "epoch": 0},
        {"seed": 0, "epoch": 0, "position": "1"},
        {"seed": 0, "epoch": 0, "position": -1},
        {"seed": 0, "epoch": True, "position": 0},
        {"seed": 1, "epoch": 0, "position": 0},
        {"seed": 0, "epoch": 0, "position": 104},
        {"seed": 0, "epoch": 0, "position": 0, "more": 0},
    ],
)
def test_a_state_of_another_sampler_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ResumableSampler(103, 12).load_state(state)
    assert caught.value.reason == "BAD_STATE"
