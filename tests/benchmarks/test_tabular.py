"""The tabular benchmark: its curves are complete, and its networks learn as they did."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tabular.network import Configuration, learning_curve, pixels
from benchmarks.tabular.table import CURVES, configurations, read_table, write_table
from benchmarks.tabular.train import NUM_EPOCHS, SPACE


def test_every_configuration_has_a_complete_curve() -> None:
    table = read_table()
    assert table.space == SPACE
    assert set(table.curves) == set(configurations(SPACE))
    assert table.num_epochs == NUM_EPOCHS
    for curve in table.curves.values():
        assert len(curve.accuracies) == len(curve.losses) == NUM_EPOCHS
        assert all(0 <= accuracy <= 1 for accuracy in curve.accuracies)


def test_good_and_bad_configurations_differ_and_few_are_best() -> None:
    final = sorted(curve.accuracies[-1] for curve in read_table().curves.values())
    assert final[0] < 0.3
    assert final[-1] > 0.93
    assert sum(accuracy > final[-1] - 0.001 for accuracy in final) <= 10


def test_a_configuration_is_found_by_its_values() -> None:
    table = read_table()
    configuration = next(configurations(table.space))
    assert table.curve(asdict(configuration)) == table.curves[configuration]
    with pytest.raises(KeyError):
        table.curve({**asdict(configuration), "width": 17})


def test_the_file_is_small_and_says_where_it_comes_from() -> None:
    assert CURVES.stat().st_size < 1_000_000
    about = json.loads(CURVES.read_text(encoding="utf-8"))
    assert {"commit", "cpu", "torch", "images", "seed", "num_training", "num_validation"} <= set(about)


def test_written_curves_are_read_back(tmp_path: Path) -> None:
    space = {**{name: values[:1] for name, values in SPACE.items()}, "depth": (1, 3)}
    curves = [{"num_right": [1, 2], "loss": [None, 0.5], "seconds": 1.0} for _ in range(2)]
    write_table(tmp_path / "curves.json", {"num_epochs": 2, "num_validation": 4}, space, curves)
    table = read_table(tmp_path / "curves.json")
    assert [curve.accuracies for curve in table.curves.values()] == [(0.25, 0.5)] * 2
    assert all(np.isnan(curve.losses[0]) and curve.losses[1] == 0.5 for curve in table.curves.values())


def test_a_network_learns_and_repeats_its_curve() -> None:
    source = np.random.default_rng(1)
    patterns = source.integers(0, 256, (10, 28, 28))
    labels = source.integers(0, 10, 400)
    noisy = np.clip(patterns[labels] + source.normal(0, 40, (400, 28, 28)), 0, 255).astype(np.uint8)
    data = pixels(noisy), torch.from_numpy(labels)
    configuration = Configuration(0.1, 0.9, 64, 1e-5, 16, 1)
    runs = [
        learning_curve(
            configuration, (data[0][:300], data[1][:300]), (data[0][300:], data[1][300:]), num_epochs=5, seed=2
        )
        for _ in range(2)
    ]
    assert runs[0]["num_right"] == runs[1]["num_right"]
    assert runs[0]["num_right"][-1] > 90


def test_a_loss_that_is_not_finite_is_stored_as_none() -> None:
    data = torch.ones(64, 196), torch.zeros(64, dtype=torch.long)
    curve = learning_curve(Configuration(1e30, 0.9, 64, 1e-5, 16, 3), data, data, num_epochs=3, seed=0)
    assert curve["loss"][-1] is None
