"""The arithmetic of the privacy benchmark, and that its private training is what accounting describes."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import privacy_training
from benchmarks.accounting_cases import random_cases
from benchmarks.privacy import exact_gap, ratio, summary, upper_bound
from benchmarks.privacy_images import _coefficients, _normalized, strokes
from benchmarks.privacy_run import run_spec, train_run
from benchmarks.privacy_training import PlainChoice, PrivateChoice, accuracy, clipped_sum, train_plain, train_private
from benchmarks.privacy_tuning import CHOICES, PLAIN, PRIVATE, best
from deepseek.privacy.accounting import epsilon
from deepseek.privacy.clipping import clip
from deepseek.privacy.releases import Release
from deepseek.trainjob.spec_parts import DpSgdSpec


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels_N = torch.randint(10, (400,), generator=generator)
    centres_KD = torch.randn(10, 30, generator=generator)
    noise_ND = torch.randn(400, 30, generator=generator)
    return nn.functional.normalize(centres_KD[labels_N] + 0.3 * noise_ND), labels_N


def test_the_clipped_sum_is_the_sum_of_clipped_gradients(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    features_ND, labels_N = data[0][:20], data[1][:20]
    weights_DK = torch.randn(31, 10, generator=torch.Generator().manual_seed(2)).requires_grad_()
    expected = np.zeros((31, 10))
    for x_D, label in zip(features_ND, labels_N, strict=True):
        logits_K = x_D @ weights_DK[:-1] + weights_DK[-1]
        (gradient_DK,) = torch.autograd.grad(nn.functional.cross_entropy(logits_K, label), weights_DK)
        expected += clip({"weights": gradient_DK.numpy()}, 0.9)["weights"]
    found = clipped_sum(features_ND, labels_N, weights_DK.detach(), 0.9)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_private_training_releases_as_much_as_its_budget_allows(
    data: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    real = privacy_training.gaussian_noise

    def recorded(shape: tuple[int, ...], standard_deviation: float) -> np.ndarray:
        drawn.append(standard_deviation)
        return real(shape, standard_deviation)

    monkeypatch.setattr(privacy_training, "gaussian_noise", recorded)
    train_private(*data, PrivateChoice(7, 0.5, 10.0, 0.9), epsilon=3.0, delta=1e-6, public=400)
    spent = epsilon([Release(deviation / 0.5) for deviation in drawn], 1e-6)
    assert len(drawn) == 7
    assert 2.95 < spent <= 3.0


def test_training_learns_with_and_without_privacy(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert accuracy(*data, train_plain(*data, PlainChoice(20, 50, 2.0, 0.0), seed=0)) > 0.95
    private = train_private(*data, PrivateChoice(30, 1.0, 1.0, 0.9), epsilon=100.0, delta=1e-6, public=400)
    assert accuracy(*data, private) > 0.9
    without_budget = train_private(*data, PrivateChoice(30, 1.0, 1.0, 0.9), epsilon=0.01, delta=1e-6, public=400)
    assert accuracy(*data, without_budget) < 0.6


def test_a_run_spec_makes_the_steps_of_a_choice() -> None:
    choice = PrivateChoice(20, 0.5, 2.0, 0.9)
    spec = run_spec(choice, epsilon=3.0, num_features=30, public=400, seed=1)
    assert spec.privacy is not None
    assert (spec.privacy.num_steps(spec.epochs), spec.batch_size) == (20, 40)
    assert spec.optimizer.params == {"lr": 4.0, "momentum": 0.9}
    assert spec.privacy.clip_norm == 0.5


def test_a_run_learns_as_much_as_its_budget_allows(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    def trained(epsilon: float) -> float:
        spec = run_spec(PrivateChoice(60, 1.0, 1.0, 0.9), epsilon=epsilon, num_features=30, public=400, seed=1)
        weights_DK = train_run(*data, spec, delta=1e-6)
        assert weights_DK.shape == (31, 10)
        return accuracy(*data, weights_DK)

    assert trained(100.0) > 0.9
    assert trained(0.01) < 0.6


def test_a_run_that_makes_more_steps_than_are_accounted_for_is_an_error(
    data: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_spec(PrivateChoice(20, 1.0, 1.0, 0.9), epsilon=3.0, num_features=30, public=400, seed=1)
    monkeypatch.setattr(DpSgdSpec, "release", lambda self, epochs: Release(self.noise_multiplier, 0.1, 19))
    with pytest.raises(RuntimeError, match="would be debited"):
        train_run(*data, spec, delta=1e-6)


def test_features_of_an_image_do_not_depend_on_other_images() -> None:
    pixels = torch.from_numpy(strokes(6).astype(np.float32) / 255)
    together, alone = (_normalized(_coefficients(part)) for part in (pixels, pixels[2:3]))
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-6)
    assert together.shape == (6, 81 * 49)


def test_coefficients_of_a_constant_image_have_energy_only_in_the_lowest_band() -> None:
    coefficients = _coefficients(torch.full((1, 28, 28), 0.5))
    torch.testing.assert_close(coefficients[:, 0], torch.full((1, 49), 0.5), rtol=1e-4, atol=1e-5)
    assert coefficients[:, 1:].abs().max() < 1e-5


def test_wavelets_respond_to_their_own_angle() -> None:
    columns = torch.arange(28) * (0.75 * math.pi)
    stripes = (torch.cos(columns)[None, None, :].expand(1, 28, 28) + 1) / 2
    first_order_A = _coefficients(stripes)[0, 1:9].mean(-1)
    assert int(first_order_A.argmax()) == 4  # an eighth of pi per angle, counted from the vertical axis
    assert first_order_A.max() > 5 * first_order_A[0]


def test_frozen_choices_are_the_best_of_equally_many_candidates() -> None:
    choices = json.loads(CHOICES.read_text(encoding="utf-8"))
    assert choices["num_candidates"] == len(PLAIN) == len(PRIVATE)
    for name, candidates in (("plain", PLAIN), ("epsilon_3", PRIVATE), ("epsilon_8", PRIVATE)):
        assert best(candidates, choices[name]["accuracies"]) == choices[name]


def test_cases_are_the_same_for_a_seed() -> None:
    assert random_cases(5) == random_cases(9)[:5] != random_cases(5, seed=1)


def test_the_gap_to_exact_values_is_small() -> None:
    assert exact_gap() < 1e-3


def test_losses_are_paired_by_split() -> None:
    splits = [
        {
            "nonprivate_accuracy": 0.99 + shift,
            "accuracy_eps3": 0.97 + shift,
            "accuracy_eps8": 0.98 + shift,
            "accuracy_eps3_run": 0.96 + shift,
        }
        for shift in (0.0, 0.005, -0.005)
    ]
    cases = [{"ours": 1.0, "fine_pessimistic": 0.999, "optimistic": 0.9, "prv_lower": 1.1}]
    found = summary(cases, splits)
    assert found["loss_eps3_points"] == pytest.approx(2.0)
    assert found["loss_eps3_upper_points"] == pytest.approx(2.0)
    assert found["loss_eps8_upper_points"] == pytest.approx(1.0)
    assert found["accuracy_eps3_run"] == pytest.approx(0.96)
    assert found["loss_eps3_run_points"] == found["loss_eps3_run_upper_points"] == pytest.approx(3.0)
    assert (found["below_optimistic"], found["below_prv"]) == (0, 1)
    assert found["max_over_fine_pld"] == pytest.approx(1 / 0.999)


def test_the_upper_bound_is_students() -> None:
    assert upper_bound([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(3 + 2.131847 * math.sqrt(2.5 / 5))


def test_a_bound_of_zero_must_be_met_exactly() -> None:
    assert ratio({"ours": 0.0, "fine_pessimistic": 0.0}) == 1.0
    assert ratio({"ours": 1e-9, "fine_pessimistic": 0.0}) == math.inf
