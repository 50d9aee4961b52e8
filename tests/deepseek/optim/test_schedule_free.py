import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.optim.interface import InterfaceAdapter
from deepseek.optim.schedule_free import ScheduleFreeAdamW
from deepseek.training import MixedPrecisionTrainer
from tests.deepseek.training.tasks import Classifier, Points, weights

CURVATURE = np.array([1.0, 10.0, 0.1])


def by_definition(rates: list[float], weight_decay: float) -> np.ndarray:
    """Algorithm 1 of the paper on a quadratic function: the averages after each step."""
    beta1, beta2 = 0.9, 0.99
    x = z = np.array([1.0, -2.0, 3.0])
    v, weight_sum, averages = np.zeros(3), 0.0, []
    for t, base in enumerate(rates, 1):
        y = (1 - beta1) * z + beta1 * x
        gradient = CURVATURE * y
        v = beta2 * v + (1 - beta2) * gradient**2
        rate = base * math.sqrt(1 - beta2**t)
        z = z - rate * gradient / (np.sqrt(v) + 1e-8) - rate * weight_decay * y
        weight_sum += rate**2
        c = rate**2 / weight_sum
        x = (1 - c) * x + c * z
        averages.append(x)
    return np.array(averages)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_weights_are_the_averages_of_the_paper(weight_decay: float) -> None:
    param = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = InterfaceAdapter(ScheduleFreeAdamW([param], betas=(0.9, 0.99), weight_decay=weight_decay))
    rates = [0.01, 0.02, *[0.05] * 18]
    for rate, average in zip(rates, by_definition(rates, weight_decay), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.move()
        param.grad = torch.tensor(CURVATURE).float() * param.detach()
        optimizer.move_back()
        optimizer.step()
        np.testing.assert_allclose(param.detach().numpy(), average, rtol=1e-4, atol=1e-5)


def trainer_of(**options: object) -> MixedPrecisionTrainer:
    return MixedPrecisionTrainer(Classifier(), "schedule_free_adamw", "fp32", lr=0.02, schedule="constant", **options)  # type: ignore[arg-type]


def test_it_learns_without_a_decaying_rate_and_saves_the_weights_that_it_evaluates(tmp_path: Path) -> None:
    dataset, trainer = Points(64), trainer_of(metrics=["accuracy"])
    result = trainer.fit(dataset, epochs=30, batch_size=16, evaluation=dataset)
    assert result.metrics["accuracy"] > 0.95
    trainer.save(tmp_path / "checkpoint")
    again = trainer_of(metrics=["accuracy"])
    again.load(tmp_path / "checkpoint")
    assert again.evaluate(dataset, batch_size=16) == trainer.evaluate(dataset, batch_size=16) == result.metrics


def test_the_gradients_are_those_of_another_point_than_the_average() -> None:
    seen: list[Tensor] = []
    dataset, trainer = Points(32), trainer_of()
    trainer.model.register_forward_pre_hook(lambda *_: seen.append(weights(trainer.model).clone()))
    between: list[Tensor] = []
    trainer.fit(dataset, epochs=4, batch_size=32, stop=lambda: between.append(weights(trainer.model).clone()))
    assert len(seen) == len(between) == 4
    assert torch.equal(seen[0], between[0])
    assert not any(torch.equal(one, other) for one, other in zip(seen[2:], between[2:], strict=True))


def test_a_skipped_or_failed_step_leaves_the_weights_as_they_were() -> None:
    trainer = trainer_of()
    trainer.fit(Points(32), epochs=3, batch_size=16)
    before = weights(trainer.model).clone()
    broken = Points(32, broken=range(32))
    result = trainer.fit(broken, epochs=4, batch_size=16)
    assert result.num_skipped_steps == 2
    assert torch.equal(weights(trainer.model), before)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.fit([{"x": torch.zeros(2), "target": 0}] * 32, epochs=5, batch_size=16)
    assert torch.equal(weights(trainer.model), before)


def test_a_rate_of_zero_changes_nothing() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = InterfaceAdapter(ScheduleFreeAdamW([param], lr=0.0))
    param.grad = torch.ones(2)
    optimizer.step()
    assert param.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("params", "field"),
    [({"betas": (1.0, 0.9)}, "betas"), ({"eps": -1.0}, "eps"), ({"weight_decay": math.inf}, "weight_decay")],
)
def test_parameters_out_of_range_are_refused(params: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ScheduleFreeAdamW([nn.Parameter(torch.ones(1))], **params)  # type: ignore[arg-type]
    assert caught.value.field == field
