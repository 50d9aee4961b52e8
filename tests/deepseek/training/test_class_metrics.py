"""The metrics of classifiers, compared with their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.training.class_metrics import F1, Auc, Precision, Recall, TopKAccuracy
from deepseek.training.metrics import Accuracy, Metric

NUM_CLASSES = 5


def task(num_samples: int = 300, num_classes: int = NUM_CLASSES) -> tuple[Tensor, Tensor]:
    """Logits and targets, of which some are ignored. The last class is rare."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(-1, num_classes, (num_samples,), generator=generator)
    target[target == num_classes - 1] = 0
    target[7] = num_classes - 1
    logits = torch.randn(num_samples, num_classes, generator=generator)
    logits[torch.arange(num_samples), target.clamp(min=0)] += 1.0
    return logits, target


def value(metric: Metric, outputs: Tensor, target: Tensor, batch_size: int = 1000) -> float:
    """The figure over batches, whose sums are added in float64 as the trainer does."""
    totals = torch.zeros(metric.num_sums, dtype=torch.float64)
    for start in range(0, len(target), batch_size):
        sums = metric.sums(outputs[start : start + batch_size], target[start : start + batch_size])
        assert sums.shape == (metric.num_sums,)
        totals += sums
    return metric.result(totals.tolist())


def by_definition(outputs: Tensor, target: Tensor, average: str) -> dict[str, float]:
    """Precision, recall and F1 from the confusion matrix, averaged over the classes that occur."""
    valid = target >= 0
    predicted, expected = outputs.argmax(1)[valid].numpy(), target[valid].numpy()
    matrix = np.zeros((NUM_CLASSES, NUM_CLASSES))
    np.add.at(matrix, (expected, predicted), 1)
    matrix = matrix[:, matrix.sum(0) + matrix.sum(1) > 0][matrix.sum(0) + matrix.sum(1) > 0]
    hits, columns, rows = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    if average == "micro":
        hits, columns, rows = hits.sum(keepdims=True), columns.sum(keepdims=True), rows.sum(keepdims=True)
    precision = np.divide(hits, columns, out=np.zeros_like(hits), where=columns > 0)
    recall = np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(hits), where=both > 0)
    weights = rows if average == "weighted" else np.ones_like(rows)
    figures = {"precision": precision, "recall": recall, "f1": f1}
    return {name: float(np.average(figure, weights=weights)) for name, figure in figures.items()}


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("metric", [Precision, Recall, F1])
def test_a_figure_per_class_is_that_of_its_definition(metric: type[F1], average: str) -> None:
    outputs, target = task()
    expected = by_definition(outputs, target, average)[metric.name]
    assert value(metric(average), outputs, target) == pytest.approx(expected, abs=1e-12)


METRICS = [Accuracy(), *(kind(one) for kind in (Precision, Recall, F1) for one in ("macro", "micro", "weighted"))]
METRICS += [TopKAccuracy(2), Auc(NUM_CLASSES)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: f"{metric.name}")
def test_a_figure_does_not_depend_on_the_batches(metric: Metric) -> None:
    outputs, target = task()
    whole = value(metric, outputs, target)
    assert 0 < whole < 1
    assert {value(metric, outputs, target, size) for size in (1, 7, 64)} == {whole}
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    assert value(metric, outputs[order], target[order], 7) == whole


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: f"{metric.name}")
def test_nothing_to_count_is_not_a_number(metric: Metric) -> None:
    assert math.isnan(value(metric, torch.zeros(3, NUM_CLASSES), torch.full((3,), -1)))
    assert math.isnan(metric.result([0.0] * metric.num_sums))


def test_micro_f1_is_accuracy() -> None:
    outputs, target = task()
    assert value(F1("micro"), outputs, target) == value(Accuracy(), outputs, target)


def test_a_single_logit_tells_two_classes_apart() -> None:
    target = torch.tensor([1, 1, 0, 0, 1])
    logit = torch.tensor([0.5, -0.1, -2.0, 0.3, 4.0])
    two = torch.stack([torch.zeros(5), logit], 1)
    for metric in (Accuracy(), F1(), Precision("weighted"), Auc()):
        expected = value(metric, two, target)
        for outputs in (logit, logit[:, None]):
            assert value(metric, outputs, target) == expected
            assert value(metric, outputs, target.float()) == expected
    assert value(Accuracy(), logit, target) == 0.6


def exact_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs in the right order."""
    pairs = scores[positive][:, None] - scores[~positive][None]
    return float(((pairs > 0) + (pairs == 0) / 2).mean())


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_auc_of_two_classes_is_the_share_of_pairs_in_order(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (4000,), generator=generator)
    scores = (torch.randn(4000, generator=generator) + shift * target) * scale
    expected = exact_auc(scores.double().numpy(), target.numpy() == 1)
    metric = Auc()
    assert value(metric, scores, target, 100) == pytest.approx(expected, abs=1e-4)
    shared = metric.sums(scores, target).double().view(2, -1)
    bound = float((shared[0] * shared[1]).sum() / (shared[0].sum() * shared[1].sum())) / 2
    assert abs(value(metric, scores, target) - expected) <= bound < 1e-2


def test_auc_of_several_classes_is_the_mean_over_one_versus_rest() -> None:
    outputs, target = task(2000)
    valid = target >= 0
    odds = outputs.double().softmax(1)[valid].numpy()
    areas = [exact_auc(odds[:, i], target[valid].numpy() == i) for i in range(NUM_CLASSES)]
    assert value(Auc(NUM_CLASSES), outputs, target) == pytest.approx(np.mean(areas), abs=1e-4)
    without = target.where(target != 2, -1)
    odds, kept = outputs.double().softmax(1)[without >= 0].numpy(), without[without >= 0].numpy()
    areas = [exact_auc(odds[:, i], kept == i) for i in (0, 1, 3, 4)]
    assert value(Auc(NUM_CLASSES), outputs, without) == pytest.approx(np.mean(areas), abs=1e-4)


def test_ties_count_half_and_extreme_scores_have_a_rank() -> None:
    assert value(Auc(), torch.zeros(4), torch.tensor([0, 1, 0, 1])) == 0.5
    extreme = torch.tensor([-math.inf, math.inf, -1e30, 1e30, 0.0, math.nan])
    assert value(Auc(), extreme, torch.tensor([0, 1, 0, 1, 1, 0])) == 1.0
    sure = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0], [0.0, 0.0, 200.0]])
    assert value(Auc(3), sure, torch.tensor([0, 1, 2])) == 1.0


@pytest.mark.parametrize("k", [1, 2, NUM_CLASSES, 9])
def test_top_k_accuracy_is_the_share_of_targets_among_the_best(k: int) -> None:
    outputs, target = task()
    valid = target >= 0
    best = outputs[valid].argsort(1, descending=True)[:, :k]
    expected = (best == target[valid, None]).any(1).double().mean().item()
    assert value(TopKAccuracy(k), outputs, target) == pytest.approx(expected, abs=1e-12)
    assert value(TopKAccuracy(1), outputs, target) == value(Accuracy(), outputs, target)


def test_equal_logits_are_ranked_by_their_class() -> None:
    outputs, target = torch.zeros(4, 4), torch.arange(4)
    assert [value(TopKAccuracy(k), outputs, target) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert value(TopKAccuracy(1), torch.full((4, 4), math.nan), target) == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: f"{metric.name}")
@pytest.mark.parametrize("outputs", [torch.zeros(2, NUM_CLASSES), [torch.zeros(3)]])
def test_outputs_of_another_form_are_refused(metric: Metric, outputs: Tensor) -> None:
    with pytest.raises(InvalidArgument) as caught:
        metric.sums(outputs, torch.zeros(3, dtype=torch.int64))
    assert caught.value.reason == "WRONG_SHAPE"


def test_more_classes_than_expected_are_refused_with_the_number_to_set() -> None:
    outputs, target = task()
    with pytest.raises(InvalidArgument, match="set num_classes to 5"):
        Auc().sums(outputs, target)
    with pytest.raises(InvalidArgument, match="set max_classes to 5"):
        F1(max_classes=3).sums(outputs, target)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: F1("binary"), "average"),
        (lambda: Recall(max_classes=1), "max_classes"),
        (lambda: TopKAccuracy(0), "k"),
        (lambda: Auc(1), "num_classes"),
        (lambda: Auc(num_bins=1), "num_bins"),
    ],
)
def test_a_parameter_out_of_range_is_refused(build, field: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidArgument) as caught:
        build()
    assert caught.value.field == field
