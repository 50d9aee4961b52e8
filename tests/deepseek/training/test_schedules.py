from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, MultiStepLR

from common.errors import InvalidArgument
from deepseek.training.schedules import Schedule, constant, cosine, exponential, linear, one_cycle, step


def test_constant_changes_nothing() -> None:
    assert constant()(7, 10) == 1.0


@pytest.mark.parametrize(("pct_start", "num_updates"), [(0.3, 100), (0.5, 11), (0.1, 7)])
def test_one_cycle_is_torchs(pct_start: float, num_updates: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, total_steps=num_updates, pct_start=pct_start, cycle_momentum=False
    )
    ours = one_cycle(pct_start=pct_start)
    for update in range(num_updates):
        assert 2.0 * ours(update, num_updates) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if update < num_updates - 1:
            theirs.step()


def test_cosine_warms_up_and_ends_at_its_final_factor() -> None:
    schedule = cosine(warmup=0.2, final=0.1)
    factors = [schedule(update, 10) for update in range(11)]
    assert factors[:3] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "schedule",
    [
        constant(),
        cosine(),
        cosine(warmup=1.0),
        one_cycle(),
        one_cycle(pct_start=0),
        linear(0.5),
        exponential(0.5),
        step(warmup=0.5),
        step(at=(0.0, 1.0)),
    ],
)
def test_very_short_runs_have_rates(schedule) -> None:  # type: ignore[no-untyped-def]
    for num_updates in (1, 2, 3):
        assert all(0 <= schedule(update, num_updates) <= 1 for update in range(num_updates + 1))


@pytest.mark.parametrize("make", [constant, cosine, linear, exponential, step])
def test_every_schedule_has_the_same_warm_up(make: Callable[..., Schedule]) -> None:
    schedule, whole = make(warmup=0.2), make()
    assert [schedule(update, 10) for update in range(2)] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert [schedule(update + 2, 10) for update in range(8)] == [whole(update, 8) for update in range(8)]


def test_decays_are_torchs() -> None:
    cases = [
        (linear(final=0.2), partial(LinearLR, start_factor=1.0, end_factor=0.2, total_iters=10)),
        (exponential(final=0.1), partial(ExponentialLR, gamma=0.1**0.1)),
        (step(at=(0.3, 0.8), factor=0.5), partial(MultiStepLR, milestones=[3, 8], gamma=0.5)),
    ]
    for schedule, scheduler in cases:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        theirs = scheduler(optimizer)
        for update in range(10):
            assert schedule(update, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            optimizer.step()
            theirs.step()


def test_shares_out_of_range_are_refused() -> None:
    for make in (
        lambda: cosine(warmup=2),
        lambda: one_cycle(pct_start=-1),
        lambda: one_cycle(div_factor=0),
        lambda: constant(warmup=-1),
        lambda: linear(final=2),
        lambda: exponential(final=0),
        lambda: step(at=(2.0,)),
        lambda: step(factor=-1),
    ):
        with pytest.raises(InvalidArgument):
            make()
