"""DP-SGD: gradients of single examples, clipping, the samples and the noise that are really drawn, and refusals."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.privacy.releases import Release
from deepseek.training import Event, MixedPrecisionTrainer, StepEvent
from deepseek.training.dp_settings import DpSgd
from deepseek.training.dp_sgd import PoissonSampler, PrivateReplica
from tests.deepseek.training.tasks import Classifier, Points, weights

SETTINGS = DpSgd(noise_multiplier=1.0, max_grad_norm=0.5, expected_batch_size=16, sampling_rate=0.25)
ALL = DpSgd(noise_multiplier=1e-12, max_grad_norm=0.05, expected_batch_size=24, sampling_rate=1.0)


class Tied(nn.Module):
    """Uses the weights of its layer outside of the layer, too, which hooks do not see."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 8] -> [B, 3]."""
        return F.linear(self.first(x).relu(), self.first.weight)[:, :3]


def one_by_one(model: nn.Module, dataset: Points, max_norm: float) -> list[Tensor]:
    """The sum of the clipped gradients, from one backward pass per example."""
    params = list(model.parameters())
    sums = [torch.zeros_like(param) for param in params]
    for x, target in zip(dataset.x, dataset.target, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(x[None]), target[None]), params)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient * min(1.0, max_norm / norm)
    return sums


@pytest.mark.parametrize("kind", [Classifier, Tied])
def test_a_step_is_the_sum_of_clipped_gradients_of_single_examples(kind: Any) -> None:
    dataset = Points(24)
    trainer = MixedPrecisionTrainer(kind(), torch.optim.SGD, "fp32", lr=1.0, dp_sgd=ALL)
    trainer.fit(dataset, on_event=lambda event: None)
    expected = one_by_one(kind(), dataset, ALL.max_grad_norm)
    moved = weights(kind()) - weights(trainer.model)
    torch.testing.assert_close(moved, torch.cat([one.flatten() for one in expected]) / 24, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_gradients_and_clipping_are_those_of_opacus() -> None:
    dataset, model = Points(24), Classifier()
    wrapped = GradSampleModule(model)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), 1.0),
        noise_multiplier=0.0,
        max_grad_norm=ALL.max_grad_norm,
        expected_batch_size=ALL.expected_batch_size,
    )
    F.cross_entropy(wrapped(dataset.x), dataset.target).backward()
    optimizer.step()
    trainer = MixedPrecisionTrainer(Classifier(), torch.optim.SGD, "fp32", lr=1.0, dp_sgd=ALL)
    trainer.fit(dataset, on_event=lambda event: None)
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)


def test_one_example_changes_the_sum_by_at_most_the_clipping_norm() -> None:
    model = Classifier()
    replica = PrivateReplica(model, ALL)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e12, 1e30, math.inf, math.nan):
        shapes = {name: param.shape for name, param in replica.params.items()}
        gradients = {name: torch.randn(1, *shape, generator=generator) * scale for name, shape in shapes.items()}
        replica.add(gradients)
        total = torch.cat([one.flatten() for one in replica._sums.values()]) * replica._grid
        assert float(total.norm()) <= ALL.max_grad_norm
        assert (float(total.norm()) > 0) == math.isfinite(scale)
        replica._sums = {}


@pytest.mark.parametrize("scale", [0.37, 3.0])
def test_sums_of_neighbouring_batches_differ_by_at_most_the_clipping_norm(scale: float) -> None:
    # In float32, the sum of 255 clipped values would be rounded to multiples of 1.5e-5.
    replica = PrivateReplica(nn.Linear(1, 1, bias=False), DpSgd(1.0, 1.0, 1, 1.0))
    generator = torch.Generator().manual_seed(0)
    values = scale * (1 + 0.1 * torch.rand(255, 1, 1, generator=generator))
    sums = []
    for size in range(1, 256):
        replica.add({"weight": values[:size]})
        sums.append(float(replica._sums.pop("weight")) * replica._grid)
    replica.add({"weight": values.flip(0)})
    assert float(replica._sums["weight"]) * replica._grid == sums[-1], "the sum does not depend on the order"
    changes = np.diff([0.0, *sums])
    assert changes.max() <= 1.0
    np.testing.assert_allclose(changes, np.minimum(values.flatten().numpy(), 1.0), rtol=1e-7)


def test_the_noise_that_is_added_has_the_stated_deviation_and_differs_between_steps() -> None:
    # The gradients are zero, so the steps consist of noise only.
    settings = DpSgd(noise_multiplier=3.0, max_grad_norm=0.5, expected_batch_size=4, sampling_rate=0.02)
    trainer = MixedPrecisionTrainer(Zero(), torch.optim.SGD, "fp32", lr=1.0, dp_sgd=settings)
    assert trainer.release is None
    trainer.fit(Points(1), on_event=lambda event: None)
    assert trainer.release == settings.release(1) == Release(3.0, 0.02, 50)
    moved = weights(trainer.model).double().numpy() * settings.expected_batch_size / math.sqrt(50)
    assert trainer.step == 50
    assert moved.std() == pytest.approx(3.0 * 0.5, rel=0.02)  # 5 standard errors
    assert abs(moved.mean()) < 5 * 1.5 / math.sqrt(len(moved))


class Zero(nn.Module):
    """40,000 weights without any influence on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(40_000))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 8] -> [B, 3]."""
        return x[:, :3] + 0 * self.unused.sum()


def test_samples_are_poisson_with_the_stated_rate() -> None:
    sampler = PoissonSampler(500, 0.03, source=random.Random(0))
    counts = np.zeros(500)
    sizes = []
    for _ in range(30):
        for indices in sampler:
            counts[indices] += 1
            sizes.append(len(indices))
    num_steps = 30 * 34
    assert len(sizes) == num_steps
    assert np.mean(sizes) == pytest.approx(15, abs=5 * math.sqrt(15 / num_steps))
    assert np.var(sizes) == pytest.approx(500 * 0.03 * 0.97, rel=0.25)
    assert np.var(counts) == pytest.approx(num_steps * 0.03 * 0.97, rel=0.35)  # no example is drawn more often


@pytest.mark.parametrize("num_samples", [1, 10, 250])
def test_a_resumed_sampler_repeats_no_step(num_samples: int) -> None:
    for done in (0, 1, 19, 99, 100):
        sampler = PoissonSampler(num_samples, 0.01)
        steps = iter(sampler)
        for _ in range(done):
            next(steps)
        resumed = PoissonSampler(num_samples, 0.01)
        resumed.load_state(sampler.state())
        assert len(list(resumed)) == 100 - done
        earlier = PoissonSampler(num_samples, 0.01)
        earlier.load_state({name: value for name, value in sampler.state().items() if name != "step"})
        assert len(list(earlier)) <= 100 - done, "a state of an earlier release makes no more steps than were debited"


def test_a_resumed_trainer_makes_all_steps_once() -> None:
    settings = DpSgd(noise_multiplier=1.0, max_grad_norm=0.5, expected_batch_size=1, sampling_rate=0.02)
    first = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", dp_sgd=settings)
    files: list[bytes] = []
    first.fit(Points(7), epochs=2, on_event=lambda event: None, checkpoint=files.append, stop=lambda: first.step == 59)
    assert first.step == 60
    second = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", dp_sgd=settings)
    second._step.load_state_dict(first.state_dict())
    second.fit(Points(7), epochs=2, on_event=lambda event: None)
    assert second.step == 100


@pytest.mark.parametrize("step", [-1, 1, 100, 1.0, "1"])
def test_a_state_whose_step_does_not_fit_is_refused(step: Any) -> None:
    with pytest.raises(InvalidArgument, match="does not fit its position 5") as caught:
        PoissonSampler(10, 0.1).load_state({"seed": 0, "epoch": 0, "position": 5, "step": step})
    assert (caught.value.reason, caught.value.field) == ("BAD_STATE", "step")


def test_samples_too_large_for_exact_sums_are_refused() -> None:
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", dp_sgd=ALL)
    with pytest.raises(InvalidArgument, match="use a lower sampling rate") as caught:
        trainer._step.begin(PoissonSampler(1 << 20, 1.0), 1 << 20, saves=False)
    assert caught.value.field == "dp_sgd.sampling_rate"


def test_the_number_of_steps_does_not_depend_on_the_data() -> None:
    steps = []
    for num_samples in (1, 7, 60):
        trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", dp_sgd=SETTINGS)
        trainer.fit(Points(num_samples), epochs=3, on_event=lambda event: None)
        steps.append(trainer.step)
    assert steps == [12, 12, 12]


def test_figures_leave_empty_samples_out() -> None:
    events: list[Event] = []
    rare = DpSgd(noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1, sampling_rate=0.01)
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", dp_sgd=rare, metrics=["accuracy"], lr=1e-3)
    trainer.fit(Points(2), on_event=events.append)
    (last,) = (event for event in events if isinstance(event, StepEvent) and event.step == 100)
    assert all(math.isfinite(value) for value in last.metrics.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_with_noise(precision: str) -> None:
    trainer = MixedPrecisionTrainer(Classifier(), "adam", precision, lr=0.02, metrics=["accuracy"], dp_sgd=SETTINGS)
    dataset = Points(600)
    before = trainer.evaluate(dataset)["accuracy"]
    trainer.fit(dataset, epochs=20, on_event=lambda event: None)
    assert trainer.evaluate(dataset)["accuracy"] > before + 0.2


def test_virtual_steps_give_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk in (5, 256):
        monkeypatch.setattr("deepseek.training.dp_sgd._MAX_CHUNK", chunk)
        trainer = MixedPrecisionTrainer(Classifier(), torch.optim.SGD, "fp32", lr=1.0, dp_sgd=ALL)
        trainer.fit(Points(24), on_event=lambda event: None)
        found.append(weights(trainer.model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)


def test_the_proximal_term_is_added_after_the_noise() -> None:
    model = Classifier()
    replica = PrivateReplica(model, ALL, proximal_mu=0.5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(1.0)
    replica.backward(torch.zeros(()), 1.0)
    for param in model.parameters():
        torch.testing.assert_close(param.grad, torch.full_like(param, 0.5))


@pytest.mark.parametrize(
    ("model", "optimizer", "precision", "reason", "message"),
    [
        (
            Classifier(batch_norm=True),
            "sgd",
            "fp32",
            "NOT_PRIVATE_MODEL",
            r'layers.1 is a BatchNorm1d, .* norm="group"',
        ),
        (
            nn.Sequential(nn.BatchNorm1d(8, affine=False), nn.Linear(8, 3)),
            "sgd",
            "fp32",
            "NOT_PRIVATE_MODEL",
            "BatchNorm1d",
        ),
        (nn.Sequential(nn.LSTM(8, 3)), "sgd", "fp32", "NOT_PRIVATE_MODEL", "0 is a LSTM, .* opacus.layers"),
        (Classifier(), "lbfgs", "fp32", "NOT_PRIVATE_OPTIMIZER", "sgd or adam"),
        (Classifier(), "sgd", "fp16", "NOT_PRIVATE_PRECISION", "use fp32 or bf16"),
    ],
)
def test_what_is_not_private_is_refused_with_the_remedy(
    model: nn.Module, optimizer: str, precision: str, reason: str, message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message) as caught:
        MixedPrecisionTrainer(model, optimizer, precision, dp_sgd=SETTINGS)
    assert caught.value.reason == reason


def test_batch_normalization_that_is_frozen_is_accepted() -> None:
    model = Classifier(batch_norm=True)
    model.layers[1].eval()
    trainer = MixedPrecisionTrainer(model, "sgd", "fp32", dp_sgd=SETTINGS)
    trainer.fit(Points(24), on_event=lambda event: None)


class Branching(Classifier):
    """Looks at values, so the gradients of single examples cannot be computed together."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


def test_a_model_whose_single_gradients_cannot_be_computed_is_refused() -> None:
    trainer = MixedPrecisionTrainer(Branching(), "sgd", "fp32", dp_sgd=ALL)
    with pytest.raises(FailedPrecondition, match="cannot be computed for this model") as caught:
        trainer.fit(Points(8), on_event=lambda event: None)
    assert caught.value.reason == "NOT_PRIVATE_MODEL"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_multiplier": 0.0}, "BAD_NOISE"),
        ({"noise_multiplier": math.inf}, "BAD_NOISE"),
        ({"max_grad_norm": 0.0}, "BAD_VALUE"),
        ({"max_grad_norm": 1e-13}, "BAD_VALUE"),
        ({"expected_batch_size": 0}, "BAD_VALUE"),
        ({"sampling_rate": 0.0}, "BAD_RATE"),
        ({"sampling_rate": 1.1}, "BAD_RATE"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        DpSgd(**{**vars(SETTINGS), **change})
    assert (caught.value.reason, caught.value.field) == (reason, next(iter(change)))
