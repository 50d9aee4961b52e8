"""The comparison with plain Flower and the kills of federated runs: their data, their measurements and summaries."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import federated, federated_faults
from benchmarks.accounting_cases import lower_bound
from benchmarks.federated import SIZE, write_data
from benchmarks.federated_kills import TARGETS, kill_program
from benchmarks.federated_worker import TimedWorker, read_loads
from deepseek.demo import colours, federation
from deepseek.privacy.accounting import epsilon
from deepseek.privacy.releases import Release
from tests.deepseek.federated.pictures import write_folder
from tests.deepseek.federated.runs import prepared, request

BLOCKS = [
    {
        "part": "block",
        "round": number,
        "mesh_round_s": 2.0,
        "flower_round_s": 8.0 + number,
        "isolated_round_s": 6.0 + number,
        "mesh_first_s": 5.0,
        "flower_first_s": 9.0,
        "isolated_first_s": 7.0,
    }
    for number in range(3)
]
TRIAL: dict[str, Any] = {
    "part": "trial",
    "round": 0,
    "hit": True,
    "finished": True,
    "bit_equal": True,
    "undercounted": False,
    "num_debits": 4,
    "num_released": 4,
    "rounds_lost": 0,
    "kills": [{}, {}],
}
SAMPLED = {**TRIAL, "part": "sampled", "bit_equal": None, "kills": [{}]}


def test_plain_flower_gets_the_same_images_as_the_nodes(tmp_path: Path) -> None:
    own, shares, files = write_data(tmp_path)
    assert len(shares) == len(files) == federation.NUM_NODES
    counts = []
    for share, file in zip(shares, files, strict=True):
        with np.load(file) as data:
            assert data["images"].shape == (len(list(share.rglob("*.png"))), SIZE, SIZE, 3)
            counts.append(np.bincount(data["labels"], minlength=len(colours.COLOURS)).tolist())
    assert counts == [[len(list((share / "train" / c).iterdir())) for c in colours.COLOURS] for share in shares]
    of_nodes = {path.name for share in shares for path in share.rglob("*.png")}
    assert not of_nodes & {path.name for path in (own / "train").rglob("*.png")}


def test_rates_are_ratios_of_the_times_of_later_rounds() -> None:
    found = federated.summary(BLOCKS)
    assert (found["rounds_vs_flower"], found["rounds_vs_process_isolation"]) == (4.5, 3.5)
    assert found["rounds_vs_flower_interval"] == [4.0, 5.0]
    assert (found["flower_round_s"], found["mesh_first_s"]) == (9.0, 5.0)
    assert found["rounds_vs_flower_train_only"] is None
    more = [{**block, "flower_train_round_s": 3.0, "no_preload_round_s": 4.0} for block in BLOCKS]
    found = federated.summary(more)
    assert (found["rounds_vs_flower_train_only"], found["rounds_without_preload_vs_flower"]) == (1.5, 2.25)


def test_a_run_without_all_of_its_rounds_has_no_rate() -> None:
    assert federated._seconds([10.0, 14.0, 16.0, 18.0], 3) == {"first_s": 4.0, "round_s": 2.0}
    assert federated._seconds([10.0, 14.0], 1) == {"first_s": 4.0, "round_s": 4.0}
    with pytest.raises(RuntimeError, match="2 of 3 rounds"):
        federated._seconds([10.0, 14.0, 16.0], 3)


def test_loading_of_later_rounds_is_apart_from_that_of_the_first() -> None:
    loads = [(0, 3.0), (0, 5.0), (1, 1.0), (1, 1.0), (2, 0.25), (2, 0.75), (3, 0.5), (3, 0.5)]
    assert federated.load_seconds(loads, 3, 2) == {"first_load_s": 5.0, "load_s": 0.5}
    assert federated.load_seconds(loads[:4], 1, 2) == {"first_load_s": 5.0, "load_s": 1.0}
    found = federated.summary([{**block, "mesh_load_s": 0.5, "flower_load_s": 0.25} for block in BLOCKS])
    assert (found["mesh_load_s"], found["flower_load_s"], found["isolated_load_s"]) == (0.5, 0.25, None)


def test_the_worker_of_the_benchmark_writes_how_long_each_task_loaded_data(tmp_path: Path) -> None:
    run, data = prepared(tmp_path / "run"), write_folder(tmp_path / "pictures", range(60))
    work = tmp_path / "work"
    work.mkdir()
    worker = TimedWorker(work)
    checked, _ = worker(request(run.recipe, data, kind="evaluate", check=True), run.initial)
    trained, _ = worker(request(run.recipe, data), run.initial)
    assert read_loads(work) == [(0, checked["load_s"]), (1, trained["load_s"])]
    assert checked["load_s"] > trained["load_s"]


def test_deviations_are_counted() -> None:
    lost = {**TRIAL, "finished": False, "bit_equal": False, "rounds_lost": 1}
    wrong = {**TRIAL, "undercounted": True, "num_released": 2}
    found = federated_faults.summary([TRIAL, lost, wrong, SAMPLED, {**SAMPLED, "hit": False, "undercounted": True}])
    assert (found["trials"], found["kills"], found["finished"], found["bit_equal"]) == (3, 8, 2, 2)
    assert (found["epsilon_undercounted"], found["debits_without_release_max"]) == (2, 2)
    assert (found["sampled_finished"], found["kills_missed"], found["rounds_lost_max"]) == (2, 1, 1)
    assert federated_faults.summary([{**TRIAL, "bit_equal": None}])["bit_equal"] is None


@pytest.mark.parametrize(
    "change",
    [{"hit": False}, {"finished": False}, {"bit_equal": False}, {"undercounted": True}, {"rounds_lost": 2}],
    ids=str,
)
@pytest.mark.parametrize("trial", [TRIAL, SAMPLED], ids=["trial", "sampled"])
def test_a_trial_that_did_not_end_as_required_fails_the_benchmark_and_certifies_nothing(
    change: dict[str, Any], trial: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified: list[bool] = []
    monkeypatch.setattr(federated_faults, "certify", lambda area, result, *, full: certified.append(full))
    progress = tmp_path / "progress.jsonl"
    progress.touch()
    federated_faults.report_trials([TRIAL, trial], {}, progress, full=True)
    with pytest.raises(SystemExit, match="1"):
        federated_faults.report_trials([TRIAL, {**trial, **change}], {}, progress, full=True)
    assert certified == [True, False]


def test_a_kill_counts_only_if_there_was_such_a_process() -> None:
    assert kill_program(os.getpid(), "no-such-program", search_s=0.1) == 0
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "some-program"]) as process:
        assert kill_program(process.pid, "some-program", search_s=0.1) == 0  # not a descendant of itself
        assert kill_program(os.getpid(), "some-program", search_s=10) == 1
        assert process.wait(10) == -9


def test_the_least_epsilon_of_sampled_rounds_is_just_below_ours() -> None:
    releases = [Release(5.0, 1.0, 4), Release(5.0, 0.5, 4)]
    ours = epsilon(releases, 1e-6)
    assert 0.98 * ours < lower_bound(releases, 1e-6) <= ours
    assert lower_bound(releases, 1e-6) > epsilon([Release(5.0, 0.5, 8)], 1e-6)
    assert lower_bound([], 1e-6) == 0


def test_consecutive_trials_kill_every_part() -> None:
    assert {TARGETS[number % len(TARGETS)] for number in range(4)} == {
        "coordinator",
        "superlink",
        "serverapp",
        "supernode",
    }
