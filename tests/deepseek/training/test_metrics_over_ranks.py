"""Losses and metrics of one model on one, two and three ranks."""

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from deepseek.components import LOSSES
from deepseek.training import MixedPrecisionTrainer
from deepseek.training.class_metrics import F1, Auc, Precision, Recall, TopKAccuracy
from deepseek.training.metrics import Accuracy
from tests.deepseek.training.ranks import check_ranks
from tests.deepseek.training.tasks import NUM_CLASSES, Classifier, Points


def evaluate(folder: Path) -> None:
    """Evaluates a model; rank 0 writes the figures."""
    loss = LOSSES.build("cross_entropy", {"class_weights": [1.0, 5.0, 0.25]})
    metrics = [Accuracy(), F1(), Precision("weighted"), Recall("micro"), Auc(NUM_CLASSES), TopKAccuracy(2)]
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", loss=loss, metrics=metrics)
    # Of 31 samples in batches of 6, the last batch has one sample, so some ranks have none.
    figures = trainer.evaluate(Points(31, ignored=4), batch_size=6)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size == 1 or dist.get_rank() == 0:
        (folder / f"{world_size}.json").write_text(json.dumps(figures))


def test_figures_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    figures = []
    for world_size in (1, 2, 3):
        check_ranks(world_size, evaluate, tmp_path)
        figures.append(json.loads((tmp_path / f"{world_size}.json").read_text()))
    whole, *others = figures
    loss = whole.pop("loss")
    for other in others:
        assert other.pop("loss") == pytest.approx(loss, rel=1e-5)
        assert other == whole
