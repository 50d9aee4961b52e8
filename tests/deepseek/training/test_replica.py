"""The proximal term of FedProx. tests/deepseek/training/test_parallel.py covers averaging over ranks."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import InvalidArgument
from deepseek.data import ResumableSampler
from deepseek.training import Event, MixedPrecisionTrainer, StepEvent
from tests.deepseek.training.tasks import Classifier, Points, weights

MU = 0.5


def test_the_proximal_term_adds_mu_times_the_distance_to_the_gradient() -> None:
    dataset, num_epochs, lr = Points(24), 5, 0.1
    options = {"loss": F.cross_entropy, "lr": lr, "proximal_mu": MU}
    trainer = MixedPrecisionTrainer(Classifier(), torch.optim.SGD, "fp32", **options)
    trainer.fit(dataset, epochs=num_epochs, batch_size=24)
    model = Classifier()
    starts = [param.detach().clone() for param in model.parameters()]
    for epoch in range(num_epochs):
        order = torch.from_numpy(ResumableSampler(24, 24).order(epoch))
        gradients = torch.autograd.grad(
            F.cross_entropy(model(dataset.x[order]), dataset.target[order]), [*model.parameters()]
        )
        with torch.no_grad():
            for param, start, gradient in zip(model.parameters(), starts, gradients, strict=True):
                param -= lr * (gradient + MU * (param - start))
    torch.testing.assert_close(weights(trainer.model), weights(model))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("mu", [0.1, 10.0])
def test_a_larger_mu_keeps_the_weights_closer_in_every_precision(precision: str, mu: float) -> None:
    moved = []
    for factor in (0.0, mu):
        trainer = MixedPrecisionTrainer(Classifier(), "sgd", precision, lr=0.05, proximal_mu=factor)
        trainer.fit(Points(64), epochs=4)
        moved.append(float((weights(trainer.model) - weights(Classifier())).norm()))
    assert 0 < moved[1] < moved[0]


def test_an_optimizer_with_a_closure_minimizes_the_loss_with_the_term() -> None:
    dataset = Points(32)

    @torch.no_grad()
    def objective(mu: float, at: torch.nn.Module) -> float:
        distance = (weights(at) - weights(Classifier())).square().sum()
        return float(F.cross_entropy(at(dataset.x), dataset.target) + mu / 2 * distance)

    trained = {}
    for mu in (0.0, 1.0):
        trainer = MixedPrecisionTrainer(Classifier(), "lbfgs", "fp32", proximal_mu=mu)
        trainer.fit(dataset, batch_size=32, epochs=3)
        trained[mu] = trainer.model
    assert objective(1.0, trained[1.0]) < objective(1.0, trained[0.0])
    assert objective(0.0, trained[0.0]) < objective(0.0, trained[1.0])


def test_reported_losses_do_not_include_the_term() -> None:
    dataset, losses = Points(32), list[float]()

    def on_event(event: Event) -> None:
        if isinstance(event, StepEvent):
            losses.append(event.metrics["loss"])

    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", lr=1e-9, proximal_mu=1e6)
    before = trainer.evaluate(dataset)["loss"]
    trainer.fit(dataset, batch_size=32, on_event=on_event)
    assert losses == [pytest.approx(before)]


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(mu: float) -> None:
    with pytest.raises(InvalidArgument, match="proximal_mu is"):
        MixedPrecisionTrainer(Classifier(), proximal_mu=mu)
