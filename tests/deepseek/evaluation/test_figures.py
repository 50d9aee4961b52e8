"""Figures against values computed by hand and by scikit-learn 1.9, and against the metrics of training."""

import math

import numpy as np
import pytest
import torch

from deepseek.evaluation import figures
from deepseek.training.class_metrics import F1, Auc
from deepseek.training.metrics import Accuracy, Metric
from deepseek.training.number_metrics import R2, MeanAbsoluteErrorMetric, RootMeanSquaredError

LABELS = ("cat", "dog", "fox")
TARGET = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]]
)


def confusion() -> figures.Array:
    return figures.confusion_matrix(TARGET, PROBABILITIES.argmax(1), 3)


def test_a_row_of_a_confusion_matrix_is_a_target() -> None:
    assert confusion().tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_each_class_has_its_figures() -> None:
    cat, dog, fox = figures.class_figures(confusion(), LABELS)
    assert (cat.label, cat.support) == ("cat", 3)
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (dog.precision, dog.recall, dog.f1) == (0.5, 0.5, 0.5)
    assert (fox.precision, fox.recall, fox.f1) == (1, 1, 1)


def test_a_class_that_does_not_occur_has_figures_of_zero_and_does_not_count() -> None:
    found = figures.confusion_matrix(np.array([0, 0]), np.array([0, 0]), 2)
    absent = figures.class_figures(found, ("a", "b"))[1]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0, 0, 0, 0)
    assert figures.classification(found, np.array([0, 0]), np.array([[1.0, 0], [1.0, 0]]))["macro_f1"] == 1


def test_figures_of_a_classifier_are_those_of_scikit_learn() -> None:
    found = figures.classification(confusion(), TARGET, PROBABILITIES)
    # accuracy_score, f1_score(average="macro"), log_loss, roc_auc_score(multi_class="ovr")
    assert found == pytest.approx(
        {"accuracy": 4 / 6, "macro_f1": 13 / 18, "log_loss": 0.8115226220, "auc": 0.7847222222}, abs=1e-9
    )


def test_a_certain_mistake_leaves_the_log_loss_finite() -> None:
    found = figures.confusion_matrix(np.array([1]), np.array([0]), 2)
    loss = figures.classification(found, np.array([1]), np.array([[1.0, 0.0]]))["log_loss"]
    assert loss == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_ties_count_half_in_the_auc() -> None:
    assert figures.auc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert math.isnan(figures.auc(np.array([0.5, 0.6]), np.array([True, True])))


def test_figures_of_predicted_numbers() -> None:
    found = figures.regression(np.array([3.0, -0.5, 2.0, 7.0]), np.array([2.5, 0.0, 2.0, 8.0]))
    assert found == pytest.approx({"rmse": math.sqrt(0.375), "mae": 0.5, "r2": 0.9486081370})
    assert math.isnan(figures.regression(np.array([1.0, 1.0]), np.array([1.0, 2.0]))["r2"])


@pytest.mark.parametrize(("metric", "name"), [(Accuracy(), "accuracy"), (F1(), "macro_f1"), (Auc(5), "auc")])
def test_figures_of_classes_agree_with_training(metric: Metric, name: str) -> None:
    draw = np.random.default_rng(0)
    logits, target = draw.normal(size=(500, 5)), draw.integers(5, size=500)
    logits[np.arange(500), target] += 1
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = figures.confusion_matrix(target, logits.argmax(1), 5)
    trained = metric.result(metric.sums(torch.tensor(logits), torch.tensor(target)).tolist())
    # Training counts the scores of the AUC in bins.
    assert figures.classification(counts, target, shares)[name] == pytest.approx(trained, abs=1e-4)


@pytest.mark.parametrize("metric", [RootMeanSquaredError(), MeanAbsoluteErrorMetric(), R2()])
def test_figures_of_numbers_agree_with_training(metric: Metric) -> None:
    draw = np.random.default_rng(0)
    target = draw.normal(size=300)
    predicted = target + draw.normal(size=300)
    trained = metric.result(metric.sums(torch.tensor(predicted), torch.tensor(target)).tolist())
    assert figures.regression(target, predicted)[metric.name] == pytest.approx(trained)


def test_the_probability_of_a_class_that_the_classifier_does_not_know_is_0() -> None:
    known = PROBABILITIES[:, :2]
    padded = np.pad(known, ((0, 0), (0, 1)))
    matrix = figures.confusion_matrix(TARGET, known.argmax(1), 3)
    assert figures.classification(matrix, TARGET, known) == figures.classification(matrix, TARGET, padded)
