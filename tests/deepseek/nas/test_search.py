"""A search over tiny networks that train for real, on shapes that a network learns in seconds."""

import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.nas.conv_space import ConvSpace, ConvSpec, StageChoices
from deepseek.nas.halving import Rung
from deepseek.nas.records import Records
from deepseek.nas.search import Problem, Progress, Search
from deepseek.nas.search_settings import Settings
from deepseek.nas.trainings import Training, in_order
from deepseek.training.trainer import MixedPrecisionTrainer
from tests.deepseek.nas.networks import TRANSFORMERS, build

SPACE = ConvSpace(
    stems=(4, 8),
    stages=(
        StageChoices(
            depths=(1, 2), widths=(4, 8, 16), kernels=(1, 3), expansions=(1, 2), poolings=("stride", "max", "average")
        ),
    ),
    heads=(0, 8),
)
SETTINGS = Settings(
    pool=12, population=4, generations=2, offspring=2, epochs=1, rungs=(Rung(3, 2), Rung(2, 3, 2)), max_parameters=3000
)


@cache
def shapes(seed: int, number: int) -> list[dict[str, Any]]:
    """Grey images of 8 pixels with a horizontal line, a vertical line or a dot."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(number):
        image = rng.integers(0, 60, (8, 8, 1), dtype=np.uint8)
        row, column = rng.integers(1, 7, 2)
        image[(slice(row, row + 1), slice(None), slice(row, row + 2))[i % 3],
              (slice(None), slice(column, column + 1), slice(column, column + 2))[i % 3]] += 180  # fmt: skip
        samples.append({"image": image, "target": i % 3})
    return samples


def train(training: Training[ConvSpec]) -> float:
    model = build(training.spec, seed=training.seed)
    trainer = MixedPrecisionTrainer(model, "adamw", "fp32", lr=0.01, metrics=["accuracy"], seed=training.seed)
    trainer.fit(shapes(0, 48), epochs=training.epochs, batch_size=8, on_event=lambda event: None)
    return trainer.evaluate(shapes(1, 48))["accuracy"]


def batch() -> dict[str, Tensor]:
    return {"image": torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))}


def problem(**changes: Any) -> Problem[ConvSpec]:
    made = Problem(SPACE, lambda spec: spec.cost(3, 1, 8, 8), partial(build), batch(), partial(in_order, train=train))
    return replace(made, **changes)


def invented(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
    """Accuracies that need no training: networks with 16 channels, few parameters and a head are good."""
    for one in reversed(trainings):
        spec = one.spec
        yield one, 0.1 * spec.stages[0].width - spec.cost(3, 1, 8, 8).parameters / 1e4 + 0.05 * bool(spec.head)


QUICK = replace(SETTINGS, objectives=("accuracy", "parameters", "macs"), proxies=("parameters", "macs"))


@pytest.mark.slow
def test_a_search_finds_a_small_network_that_learns() -> None:
    seen: list[Progress] = []
    outcome = Search(problem(), SETTINGS, on_progress=seen.append).run()
    assert len(outcome.finalists) == 2
    best = outcome.finalists[0]
    assert best.accuracy >= outcome.finalists[1].accuracy
    assert best.cost.parameters == sum(parameter.numel() for parameter in build(best.spec).parameters()) <= 3000
    again = [train(Training(best.spec, 3, seed)) for seed in range(2)]
    assert best.accuracy == pytest.approx(float(np.mean(again)))
    assert outcome.front
    assert all(len(values) == 4 and values[3] > 0 for _, values in outcome.front)
    assert outcome.num_trainings == 4 * 2 + 3 + 2 * 2
    assert [one.stage for one in seen if one.done == one.total][-2:] == ["evolution", "halving"]
    assert max(one.done / one.total for one in seen) == 1


def test_nothing_above_the_limits_is_trained() -> None:
    trained: list[ConvSpec] = []

    def watched(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        trained.extend(one.spec for one in trainings)
        yield from invented(trainings)

    settings = replace(QUICK, max_parameters=1500, max_macs=20_000, population=6, generations=4)
    Search(problem(train=watched), settings).run()
    costs = [spec.cost(3, 1, 8, 8) for spec in trained]
    assert all(cost.parameters <= 1500 and cost.macs <= 20_000 for cost in costs)
    assert len(set(trained)) > 12


def test_evolution_beats_random_networks_at_the_same_number_of_trainings() -> None:
    goal = SPACE.genes(SPACE.sample(np.random.default_rng(1)))

    def alike(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        for one in trainings:
            genes = SPACE.genes(one.spec)
            yield one, float(sum(genes[name] == value for name, value in goal.items()))

    settings = replace(
        QUICK, objectives=("accuracy",), population=8, generations=8, offspring=1, rungs=(Rung(1, 1),), max_parameters=0
    )
    gains = []
    for seed in range(8):
        made = replace(settings, seed=seed)
        found, random = Search(problem(train=alike), made).run(), Search(problem(train=alike), made).run_random()
        gains.append(found.finalists[0].accuracy - random.finalists[0].accuracy)
    assert np.mean(gains) > 0.5


def test_a_search_repeats_itself() -> None:
    outcomes = [Search(problem(train=invented), QUICK).run() for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].finalists != Search(problem(train=invented), replace(QUICK, seed=1)).run().finalists


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survived", [0, 1, 5, 9, 12])
def test_an_interrupted_search_ends_with_the_same_result(survived: int, tmp_path: Path) -> None:
    path, trained = tmp_path / "records.jsonl", [0]

    def counted(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        for result in invented(trainings):
            trained[0] += 1
            yield result

    def interrupted(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        for result in counted(trainings):
            if trained[0] > survived:
                raise Killed
            yield result

    expected = Search(problem(train=invented), QUICK).run()
    with pytest.raises(Killed):
        Search(problem(train=interrupted), QUICK, records=Records(path)).run()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "accuracy", "key"')  # the crash cut a line short
    trained[0] = 0
    assert Search(problem(train=counted), QUICK, records=Records(path)).run() == expected
    assert trained[0] == expected.num_trainings - survived
    trained[0] = 0
    assert Search(problem(train=counted), QUICK, records=Records(path)).run() == expected
    assert trained[0] == 0


def search_in_a_process(path: Path) -> None:
    torch.set_num_threads(1)
    Search(problem(), QUICK, records=Records(path)).run()


@pytest.mark.slow
@pytest.mark.faults
def test_a_search_that_was_killed_resumes_with_the_same_result(tmp_path: Path) -> None:
    expected = Search(problem(), QUICK).run()
    path = tmp_path / "records.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=search_in_a_process, args=(path,))
    process.start()
    while process.is_alive() and (not path.exists() or path.read_bytes().count(b'"accuracy"') < 3):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Search(problem(), QUICK, records=Records(path)).run() == expected


def test_results_of_other_data_are_not_used(tmp_path: Path) -> None:
    def better_with_a_small_stem(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        return ((one, -float(one.spec.stem)) for one in trainings)

    records = Records(tmp_path / "records.jsonl")
    Search(problem(train=invented, key="digits"), QUICK, records=records).run()
    other = problem(train=better_with_a_small_stem, key="letters")
    assert Search(other, QUICK, records=records).run() == Search(other, QUICK).run()


@pytest.mark.slow
def test_latencies_are_measured_once_per_network(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    settings = replace(SETTINGS, population=2, generations=1, rungs=(Rung(2, 1),), proxies=("parameters",))
    outcomes = [Search(problem(train=invented), settings, records=Records(path)).run() for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert path.read_bytes().count(b'"latency"') == 2
    other = Search(problem(train=invented), replace(settings, seed=5), records=Records(path))
    networks = [found.spec for found in outcomes[0].evaluated]
    assert other.pool[0] not in networks  # so its latencies are relative to another network
    assert other._latencies(networks) == other._latencies(networks)
    assert path.read_bytes().count(b'"latency"') == 4


def test_a_transformer_is_searched_by_its_costs() -> None:
    searched: Problem[Any] = Problem(
        TRANSFORMERS,
        lambda spec: spec.cost(11, 5),
        partial(build),
        {"text": torch.zeros(2, 5, dtype=torch.int64)},
        lambda trainings: ((one, -one.spec.cost(11, 5).macs) for one in trainings),
    )
    settings = replace(QUICK, proxies=("parameters", "macs"), pool=8, max_parameters=0)
    outcome = Search(searched, settings).run()
    assert outcome.finalists[0].cost.macs <= outcome.finalists[1].cost.macs


def test_failed_trainings_are_passed_over() -> None:
    def often_failing(trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        for one, value in invented(trainings):
            yield one, math.nan if one.spec.stages[0].skip else value

    outcome = Search(problem(train=often_failing), QUICK).run()
    assert not outcome.finalists[0].spec.stages[0].skip
    assert not any(spec.stages[0].skip for spec, _ in outcome.front)
    with pytest.raises(FailedPrecondition, match="every training failed"):
        Search(problem(train=lambda trainings: ((one, math.nan) for one in trainings)), QUICK).run()


def test_finalists_whose_training_failed_are_left_out() -> None:
    last = QUICK.rungs[-1]

    def train_last(trainings: Sequence[Training[ConvSpec]], fails: Iterator[bool]) -> Iterator[tuple[Any, float]]:
        for one, value in invented(trainings):
            yield one, math.nan if one.epochs == last.epochs and next(fails, False) else value

    outcome = Search(problem(train=partial(train_last, fails=iter([True]))), QUICK).run()
    assert len(outcome.finalists) == last.entrants - 1
    assert all(math.isfinite(one.accuracy) for one in outcome.finalists)
    with pytest.raises(FailedPrecondition, match="the trainings of all finalists failed"):
        Search(problem(train=partial(train_last, fails=itertools.repeat(True))), QUICK).run()


def test_limits_that_no_network_meets_are_refused() -> None:
    with pytest.raises(FailedPrecondition, match="raise max_parameters or max_macs") as caught:
        Search(problem(train=invented), replace(QUICK, max_parameters=10)).run()
    assert caught.value.reason == "NOTHING_FITS"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pool": 0}, "pool"),
        ({"generations": 0}, "generations"),
        ({"epochs": 0}, "epochs"),
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("parameters",)}, "objectives"),
        ({"objectives": ("accuracy", "speed")}, "objectives"),
        ({"proxies": ("luck",)}, "proxies"),
        ({"rungs": ()}, "rungs"),
        ({"max_parameters": -1}, "max_parameters"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        replace(SETTINGS, **changes)
    assert caught.value.field == field


@pytest.mark.parametrize("line", ["hello", "[]", '{"kind": "accuracy"}'])
def test_a_file_that_is_not_of_a_search_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(FailedPrecondition, match=r"line 1 of .* is not a record"):
        Records(path)


def test_a_write_that_fails_leaves_no_part_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    program = f"""
import resource
from pathlib import Path
from deepseek.nas.records import Records
path = Path({str(path)!r})
records = Records(path)
records.put("accuracy", 1, 0.5)
before = path.read_bytes()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
try:
    records.put("accuracy", 2, 0.25)
except OSError:
    assert path.read_bytes() == before
else:
    raise AssertionError("the record was stored")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
records.put("accuracy", 3, 0.75)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    records = Records(path)
    assert [records.has("accuracy", key) for key in (1, 2, 3)] == [True, False, True]
