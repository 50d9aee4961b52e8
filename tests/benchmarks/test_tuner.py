"""The problems and the arithmetic of the tuner's benchmark."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tuner_faults
from benchmarks.search_problems import MAX_TRIALS, best_of_random, effort, num_steps_of, problems
from benchmarks.tuner import (
    NUM_PER_WORKER,
    NUM_WORKERS,
    SEEDS,
    SPEC,
    TARGET_SEEDS,
    figures,
    latency,
    loss_of,
    parallel_errors,
)
from common.channel import open_channel
from deepseek.search.study_spec import StudySpec
from tests.harness.in_process import service_in_process
from tests.services.tuner.conftest import studies_at


@pytest.mark.parametrize("name", ["branin", "hartmann6", "tabular"])
def test_a_search_ends_at_its_target(name: str) -> None:
    assert effort(name, 3, math.inf, algorithm="random") == {"trials": 1, "steps": num_steps_of(name), "reached": 1}


def test_a_target_out_of_reach_counts_as_all_trials_and_all_their_steps() -> None:
    missed = {"trials": MAX_TRIALS, "steps": MAX_TRIALS, "reached": 0}
    assert effort("branin", 3, -1.0, algorithm="random") == missed
    found = effort("tabular", 3, -1.0, algorithm="random", pruner="asha")
    assert found == {"trials": MAX_TRIALS, "steps": 16 * MAX_TRIALS, "reached": 0}


def test_the_best_of_random_trials_is_reached_by_the_same_random_trials() -> None:
    target = best_of_random("hartmann6", 5)
    assert effort("hartmann6", 5, target, algorithm="random")["trials"] <= 100


def test_early_stopping_takes_fewer_steps_per_trial() -> None:
    target = best_of_random("tabular", 5)
    full = effort("tabular", 6, target, algorithm="random")
    early = effort("tabular", 6, target, algorithm="random", pruner="asha")
    assert full["steps"] == 16 * full["trials"]
    assert early["steps"] < 8 * early["trials"]


def test_the_tabular_problem_has_the_losses_of_the_table() -> None:
    losses = problems()["tabular"].losses(_middle("tabular"))
    assert len(losses) == 16
    assert losses[-1] < losses[0]


def test_figures_are_medians_of_pairs() -> None:
    def needed(trials: int, steps: int, reached: int = 1) -> dict[str, Any]:
        return {"trials": trials, "steps": steps, "reached": reached}

    found = {
        "default": [needed(10, 160), needed(20, 320), needed(40, 640)],
        "random": [needed(40, 640), needed(40, 640), needed(50, 800)],
        "asha": [needed(30, 80), needed(30, 160), needed(300, 4800, 0)],
    }
    made = figures("tabular", found)
    assert made["default_tabular_trials"] == 20
    assert made["default_tabular_vs_random"] == 0.5
    assert made["asha_tabular_missed"] == 1
    assert made["asha_epoch_fraction"] == 0.1
    assert made["asha_epochs_vs_random"] == 0.25
    assert made["asha_epochs_vs_default"] == 0.5
    assert made["asha_epoch_fraction_interval"] == [0.05, 3.0]


def test_the_seeds_of_the_target_are_not_those_that_are_compared() -> None:
    assert not set(SEEDS) & set(TARGET_SEEDS)
    assert len(SEEDS) == len(TARGET_SEEDS) == 20


def test_no_call_of_parallel_workers_fails(tmp_path: Path) -> None:
    with service_in_process("tuner", tmp_path / "home") as server, open_channel(server.address) as channel:
        studies = studies_at(channel)
        studies.create("latency", SPEC)
        assert parallel_errors(studies) == 0
        assert studies.get("latency").num_ended == NUM_WORKERS * NUM_PER_WORKER


def test_ratios_compare_blocks() -> None:
    blocks = {
        "mesh": [4.0, 6.0, 8.0],
        "combined": [2.0, 4.0, 6.0],
        "memory": [2.0, 2.0, 2.0],
        "sqlite": [40.0, 40.0, 40.0],
    }
    found = latency({"blocks": blocks, "parallel_errors": 0})
    assert found["latency_vs_memory"] == 3.0
    assert found["latency_vs_sqlite"] == pytest.approx(0.15)
    assert found["mesh_ms"] == 6.0
    assert found["latency_combined_vs_memory"] == 2.0


def test_the_spec_of_the_latency_is_valid() -> None:
    StudySpec.from_json(SPEC).check()
    assert loss_of(0.01, 512) == 1.0


def _middle(name: str) -> dict[str, Any]:
    return {parameter.name: parameter.domain.values()[0] if name == "tabular" else 0.5 for parameter in _of(name)}  # type: ignore[index]


def _of(name: str) -> Any:
    return problems()[name].space.parameters


def test_the_totals_of_all_kills_are_reported() -> None:
    record = {"trials_given": 9, "measurements": 25, "ended": 8, "lost": 0, "given_twice": 0}
    first = {"kills": 10, "tuner_kills": 4, "worker_kills": 6, **record}
    second = {"kills": 3, "worker_kills": 3, **record, "lost": 2}
    assert tuner_faults.summary([first, second]) == {
        "n": 13,
        "tuner_kills": 4,
        "worker_kills": 9,
        "trials_given": 18,
        "measurements": 50,
        "ended": 16,
        "lost": 2,
        "given_twice": 0,
    }
