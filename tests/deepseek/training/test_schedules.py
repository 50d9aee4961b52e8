import pytest
import torch

from common.errors import InvalidArgument
from deepseek.training.schedules import constant, cosine, one_cycle


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


@pytest.mark.parametrize("schedule", [constant(), cosine(), cosine(warmup=1.0), one_cycle(), one_cycle(pct_start=0)])
def test_very_short_runs_have_rates(schedule) -> None:  # type: ignore[no-untyped-def]
    for num_updates in (1, 2, 3):
        assert all(0 <= schedule(update, num_updates) <= 1 for update in range(num_updates + 1))


def test_shares_out_of_range_are_refused() -> None:
    for make in (lambda: cosine(warmup=2), lambda: one_cycle(pct_start=-1), lambda: one_cycle(div_factor=0)):
        with pytest.raises(InvalidArgument):
            make()
