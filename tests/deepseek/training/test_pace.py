"""When the next checkpoint is due, by a clock that stands where a test puts it."""

import pytest

from deepseek.training.pace import MAX_SHARE, Pace


class Clock:
    """A clock that moves only when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def save(pace: Pace, clock: Clock, seconds: float) -> None:
    with pace.saving():
        clock.now += seconds


@pytest.mark.parametrize(("cost", "pause"), [(0.1, 10.0), (2.0, 38.0), (0.0, 10.0)])
def test_the_pause_is_the_interval_or_what_keeps_saving_cheap(cost: float, pause: float) -> None:
    clock = Clock()
    pace = Pace(10.0, clock)
    clock.now += 9.9
    assert not pace.due
    clock.now += 0.1
    assert pace.due
    save(pace, clock, cost)
    clock.now += pause - 0.01
    assert not pace.due
    clock.now += 0.02
    assert pace.due
    assert cost / (cost + pause) <= MAX_SHARE + 1e-9


def test_one_slow_save_of_three_does_not_hold_up_the_next() -> None:
    clock = Clock()
    pace = Pace(1.0, clock)
    for cost in (0.1, 300.0, 0.1):
        save(pace, clock, cost)
        clock.now += 2.0
        assert pace.due


def test_a_save_that_fails_counts_too() -> None:
    clock = Clock()
    pace = Pace(1.0, clock)

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
