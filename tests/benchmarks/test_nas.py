"""The arithmetic of the benchmark of architecture search, its baselines, and its protocol on tiny trainings."""

import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import nas_protocol, nas_training
from benchmarks.clock import Clock
from benchmarks.nas import PLANS, QUICK
from benchmarks.nas_figure import write_figure
from benchmarks.nas_images import DIVISIONS, NAMES, Augmentation, Images
from benchmarks.nas_networks import ResNet, ResNetSpec, build, cost, from_json, width_scaled
from benchmarks.nas_protocol import RESNETS, Protocol, Tuned, better, gain
from benchmarks.nas_training import RECIPES, Size, packed, train, unpacked
from benchmarks.report import ROOT
from deepseek.nas.conv_space import ConvSpace
from deepseek.nas.records import Records


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Images]:
    """Stripes: the class is the row of the stripe."""
    rng = np.random.default_rng(0)

    def images(number: int) -> Images:
        labels = np.arange(number, dtype=np.int64) % 10
        pixels = rng.integers(0, 50, (number, 28, 28), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[2 + 2 * label] += 200
        return Images(pixels, labels)

    found = {"train": images(200), "validation": images(50), "test": images(40)}
    monkeypatch.setattr(nas_training, "divided", lambda name: found)
    monkeypatch.setattr(nas_protocol, "divided", lambda name: found)
    return found


SIZE = Size("mnist", 200, 100, 40)


class Here:
    """Trains at once, in this process. Can be interrupted after a number of trainings.

    Attributes:
        trained: Network, seed and part of each training.
    """

    def __init__(self, survived: int = 1000) -> None:
        self.trained: list[tuple[Any, int, str]] = []
        self._survived = survived

    def submit(self, function: Any, *arguments: Any) -> "Future[Any]":
        if len(self.trained) == self._survived:
            raise KeyboardInterrupt
        self.trained.append((arguments[0], *arguments[-2:]))
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


def protocol(records: Path, pool: Here, **changes: Any) -> Protocol:
    plan = replace(QUICK, size=SIZE, settings=replace(QUICK.settings, pool=4, population=2, generations=1), **changes)
    made: Any = pool
    return Protocol(plan, ConvSpace(), Records(records), made, 2)


def test_the_baselines_have_the_known_numbers_of_parameters() -> None:
    assert cost(RESNETS["resnet8"]).parameters == 77_754
    assert cost(RESNETS["resnet14"]).parameters == 174_970
    assert cost(ResNetSpec(1, (12, 24, 48))).parameters == 44_014


@pytest.mark.parametrize("parameters", [20_000, 48_000, 110_000])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_rival_has_as_many_parameters_and_hardly_more(num_blocks: int, parameters: int) -> None:
    found = cost(width_scaled(num_blocks, parameters)).parameters
    assert parameters <= found < 1.12 * parameters


def test_networks_survive_their_json_form() -> None:
    space = ConvSpace()
    for network in (*RESNETS.values(), space.sample(np.random.default_rng(0))):
        assert from_json(network.to_json()) == network
        assert build(network)(torch.zeros(2, 28, 28, 1, dtype=torch.uint8)).shape == (2, 10)
    assert isinstance(build(RESNETS["resnet8"]), ResNet)


def test_a_gain_is_paired_by_seed_and_image() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random((10, 2000)) < 0.9
    ours = theirs | (rng.random((10, 2000)) < 0.1)
    points, (low, high) = gain(ours, theirs)
    assert points == pytest.approx(100 * (ours.mean() - theirs.mean()))
    assert 0 < low < points < high < 2
    assert gain(theirs, theirs) == (0.0, [0.0, 0.0])
    other = rng.random((10, 2000)) < 0.9
    low, high = gain(other, theirs)[1]
    assert low < 0 < high


def test_a_gain_of_one_lucky_seed_is_no_gain() -> None:
    theirs = np.zeros((10, 500), bool)
    ours = theirs.copy()
    ours[0, :250] = True
    assert gain(ours, theirs)[1][0] == 0.0


def test_bits_survive_packing() -> None:
    right = np.random.default_rng(0).random(37) < 0.5
    assert (unpacked(packed(right), 37) == right).all()


def test_images_are_augmented_in_training_only() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    images = Images(pixels, np.arange(6))
    plain = images.collate([4, 1])
    assert plain["image"].shape == (2, 28, 28, 1)
    assert torch.equal(plain["image"][..., 0], torch.from_numpy(pixels[[4, 1]]))
    assert plain["target"].tolist() == [4, 1]
    changed = images.augmented(Augmentation(2, flip=True)).collate(list(range(6)))
    assert not torch.equal(changed["image"], images.collate(list(range(6)))["image"])


def test_a_training_repeats_and_learns(parts: dict[str, Images]) -> None:
    arguments = ({"num_blocks": 1, "widths": [4, 8, 16]}, asdict(RECIPES[0]), asdict(SIZE), 20, 3, "test")
    first, second = train(*arguments), train(*arguments)
    assert first["correct"] == second["correct"]
    assert first["accuracy"] == unpacked(first["correct"], 40).mean() > 0.3


def invented(network: Any, recipe: dict[str, Any], size: Any, units: int, seed: int, part: str) -> dict[str, Any]:
    """Trains nothing, and takes a second. Recipes with a high learning rate only do well once."""
    value = recipe["lr"] + recipe["augment"] - (100 if seed == 1 and recipe["lr"] > 0.01 else 0)
    return {"accuracy": value, "seconds": 1.0, "correct": packed(np.ones(40, bool))}


def test_tuning_tries_all_recipes_then_the_better_ones_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas_protocol, "train", invented)
    pool = Here()
    made = protocol(tmp_path / "records", pool, num_recipes=8)
    tuned = made.tune(RESNETS["resnet8"], 6.0)
    assert [seed for _, seed, _ in pool.trained] == [0] * 8 + [1] * 4
    assert tuned.seconds == 6.0  # 12 trainings of one second by two workers
    assert tuned.accuracy == max(RECIPES[i].lr + RECIPES[i].augment for i in range(8) if RECIPES[i].lr < 0.01)
    assert made.tune(RESNETS["resnet8"], 6.0) == tuned
    assert protocol(tmp_path / "records", Here(), num_recipes=8).tune(RESNETS["resnet8"], 6.0) == tuned
    assert len(pool.trained) == 12
    longer = made.tune(RESNETS["resnet8"], 7.0)
    assert len(pool.trained) == 14
    assert longer.seconds == 7.0


def test_every_network_but_the_baselines_is_tuned_for_as_long_as_the_winner(
    parts: dict[str, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas_protocol, "train", invented)
    made = protocol(tmp_path / "records", Here(), num_recipes=8, tuning_s=5.0)
    winner, seconds = made.searched(40_000)
    tuned = [
        winner,
        made.rival(cost(winner.network).parameters),
        made.searched(40_000, kind="random")[0],
        *(made.best_by(proxy, 40_000) for proxy in ("parameters", "macs")),
    ]
    assert [one.seconds for one in tuned] == [5.0] * 5
    assert seconds > 0


def test_the_search_sees_no_test_image_and_the_finals_are_paired(parts: dict[str, Images], tmp_path: Path) -> None:
    pool = Here()
    made = protocol(tmp_path / "records", pool)
    baseline = made.baseline(0.0)
    searched, seconds = made.searched(40_000)
    assert seconds > 0
    assert cost(searched.network).parameters <= 40_000
    rival = made.rival(cost(searched.network).parameters)
    assert cost(rival.network).parameters >= cost(searched.network).parameters
    picks = {f"most_{proxy}": made.best_by(proxy, 40_000) for proxy in ("parameters", "macs")}
    assert all(cost(pick.network).parameters <= 40_000 for pick in picks.values())
    assert {part for *_, part in pool.trained} == {"validation"}
    pool.trained.clear()
    right = made.finals({"searched": searched, "baseline": baseline, **picks})
    assert {part for *_, part in pool.trained} == {"test"}
    shapes = {name: found.shape for name, found in right.items()}
    assert shapes == {
        "searched": (2, 40),
        "baseline": (2, 40),
        "most_parameters": (1, 40),  # controls have fewer seeds
        "most_macs": (1, 40),
    }
    again = protocol(tmp_path / "records", Here())
    assert again.searched(40_000) == (searched, seconds)
    assert (again.finals({"searched": searched})["searched"] == right["searched"]).all()


def test_an_interruption_lengthens_the_time_and_changes_nothing_else(
    parts: dict[str, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas_protocol, "train", invented)
    expected, _ = protocol(tmp_path / "whole", Here()).searched(40_000)
    path, key = tmp_path / "records", ["search", 40_000]
    for survived in (1, 3, 2):
        with pytest.raises(KeyboardInterrupt):
            protocol(path, Here(survived)).searched(40_000)
        Records(path).put("clock", key, Records(path).get("clock", key) + 100.0)
    found, seconds = protocol(path, Here()).searched(40_000)
    assert found == expected
    assert seconds > 300
    assert protocol(path, Here(0)).searched(40_000) == (expected, seconds)


def test_a_killed_process_loses_hardly_any_time(tmp_path: Path) -> None:
    path = tmp_path / "records"
    program = f"""
import time
from pathlib import Path
from benchmarks.clock import Clock
from deepseek.nas.records import Records
with Clock(Records(Path({str(path)!r})), "work", interval_s=0.01):
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            time.sleep(0.01)
        process.kill()
    records = Records(path)
    before = Clock(records, "work").seconds
    assert before >= 0.05
    with Clock(records, "work") as clock:
        pass
    assert clock.seconds > before


def test_the_figure_shows_every_network(tmp_path: Path) -> None:
    names = ("searched", "baseline", "width_scaled", "random", "most_parameters", "most_macs")
    each = {
        name: {"parameters": 1000 * i, "test_accuracy_by_seed": [0.9, 0.92 - i / 100]} for i, name in enumerate(names)
    }
    write_figure(tmp_path / "new" / "nas.png", {"fashion": {"each": each}, "mnist": {"each": each}})
    with Image.open(tmp_path / "new" / "nas.png") as image:
        assert image.width > image.height
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 100


def test_the_better_baseline_is_chosen_on_validation_images() -> None:
    worse, best = (
        Tuned(RESNETS[name], RECIPES[0], value, 1.0) for name, value in (("resnet8", 0.9), ("resnet14", 0.91))
    )
    assert better([worse, best]) == best


def test_the_plans_are_frozen() -> None:
    assert set(PLANS) == set(NAMES) == set(DIVISIONS)
    assert all(len(digest) == 64 for digest in DIVISIONS.values())
    for plan in PLANS.values():
        assert plan.num_seeds == 10
        assert plan.settings.rungs[-1].epochs == plan.units
        assert plan.size.extent(plan.units) == (plan.size.num_train, 2 if plan.size.data == "fashion" else 1)
        assert plan.num_recipes == len(RECIPES)
