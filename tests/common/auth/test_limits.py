"""Buckets and streams a caller."""

import pytest

from common.auth import LOCAL, Caller, Role
from common.auth.limits import CallerLimits
from common.errors import ResourceExhausted

ANA, BEN = Caller("default", "ana", Role.READER), Caller("default", "ben", Role.READER)
TRAINER = Caller("default", "service:trainer", Role.WRITER)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limits(clock: Clock) -> CallerLimits:
    return CallerLimits(rate=10, burst=3, max_streams=2, max_streams_per_tenant=3, clock=clock)


def test_a_burst_passes_and_then_only_the_rate(clock: Clock) -> None:
    counted = limits(clock)
    for _ in range(3):
        counted.count(ANA)
    with pytest.raises(ResourceExhausted) as caught:
        counted.count(ANA)
    assert caught.value.reason == "RATE_EXCEEDED"
    assert caught.value.retry_delay_s == pytest.approx(0.1)
    clock.now += 0.1
    counted.count(ANA)
    with pytest.raises(ResourceExhausted):
        counted.count(ANA)


def test_refused_calls_do_not_put_the_next_one_off(clock: Clock) -> None:
    counted = limits(clock)
    for _ in range(3):
        counted.count(ANA)
    for _ in range(100):
        with pytest.raises(ResourceExhausted):
            counted.count(ANA)
    clock.now += 0.1
    counted.count(ANA)


def test_nobody_is_limited_by_others(clock: Clock) -> None:
    counted = limits(clock)
    for _ in range(3):
        counted.count(ANA)
    counted.count(BEN)
    for _ in range(50):
        counted.count(TRAINER)
        counted.count(LOCAL)


def test_a_quiet_time_saves_up_no_more_than_a_burst(clock: Clock) -> None:
    counted = limits(clock)
    counted.count(ANA)
    clock.now += 3600
    for _ in range(3):
        counted.count(ANA)
    with pytest.raises(ResourceExhausted):
        counted.count(ANA)


def test_streams_are_counted_while_they_are_open(clock: Clock) -> None:
    counted = limits(clock)
    with counted.stream(ANA), counted.stream(ANA):
        with pytest.raises(ResourceExhausted) as caught, counted.stream(ANA):
            pass
        assert caught.value.reason == "TOO_MANY_STREAMS"
        with counted.stream(BEN), counted.stream(TRAINER), counted.stream(TRAINER), counted.stream(TRAINER):
            pass
    with counted.stream(ANA), counted.stream(ANA):
        pass


def test_a_tenant_takes_no_more_streams_than_its_own_with_many_names(clock: Clock) -> None:
    counted = limits(clock)
    other = Caller("other", "ana", Role.READER)
    with counted.stream(ANA), counted.stream(ANA), counted.stream(BEN):
        with pytest.raises(ResourceExhausted, match="tenant default has 3 open streams"), counted.stream(BEN):
            pass
        with counted.stream(other):
            pass
    with counted.stream(BEN), counted.stream(BEN):
        pass
