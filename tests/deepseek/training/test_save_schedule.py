"""When the next checkpoint is due, with a clock that the test sets."""

import pytest

from deepseek.training.save_schedule import MAX_SHARE, SaveSchedule


class Clock:
    """A clock that the test advances."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def save(pace: SaveSchedule, clock: Clock, seconds: float) -> None:
    with pace.saving():
        clock.now += seconds


@pytest.mark.parametrize(("cost", "pause"), [(0.1, 10.0), (2.0, 28.0), (0.0, 10.0), (100.0, 1890.0)])
def test_the_pause_is_the_interval_or_what_keeps_saving_cheap(cost: float, pause: float) -> None:
    clock = Clock()
    pace = SaveSchedule(10.0, clock)
    clock.now += 9.9
    assert not pace.due
    clock.now += 0.1
    assert pace.due
    save(pace, clock, cost)
    clock.now += pause - 0.01
    assert not pace.due
    clock.now += 0.02
    assert pace.due


@pytest.mark.parametrize("costs", [[1.0], [0.1, 300.0, 0.1], [1.0, 100.0, 100.0], [30.0, 0.01]])
def test_saving_never_takes_more_than_its_share_once_it_is_due_again(costs: list[float]) -> None:
    clock = Clock()
    pace, began_at, spent_s = SaveSchedule(10.0, clock), clock.now, 0.0
    for number in range(30):
        while not pace.due:
            clock.now += 1.0
        assert spent_s <= MAX_SHARE * (clock.now - began_at)
        cost = costs[number % len(costs)]
        save(pace, clock, cost)
        spent_s += cost
    assert clock.now - began_at < max(30 * 10.0, spent_s / MAX_SHARE) + 30 * (1.0 + 10.0)


def test_a_save_that_fails_counts_too() -> None:
    clock = Clock()
    pace = SaveSchedule(1.0, clock)

    def fail() -> None:
        with pace.saving():
            clock.now += 1.0
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    clock.now += 18.9
    assert not pace.due
    clock.now += 0.2
    assert pace.due
