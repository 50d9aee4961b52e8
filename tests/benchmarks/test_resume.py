"""The resume benchmark counts every id per epoch, and its trials kill real readers."""

import json
import subprocess
import sys

from benchmarks.report import ROOT
from benchmarks.resume import MAX_LATER_STEPS, NUM_SAMPLES, SEED, WORLD_SIZES, counted, draw
from benchmarks.resume_reader import NUM_EPOCHS


def test_trials_depend_on_the_seed_alone() -> None:
    trials = [draw(SEED, number) for number in range(20)]
    assert trials == [draw(SEED, number) for number in range(20)] != [draw(SEED + 1, number) for number in range(20)]
    assert all(len(trial.kills) == len(WORLD_SIZES) - 1 for trial in trials)
    assert {bool(trial.num_processes) for trial in trials} == {True, False}


def test_no_trial_can_end_before_its_last_kill() -> None:
    steps = NUM_EPOCHS * (NUM_SAMPLES // 16)
    kills = [draw(SEED, number).kills for number in range(100)]
    assert all(sum(kill[0] + MAX_LATER_STEPS for kill in trial) < steps for trial in kills)


def test_lost_and_repeated_ids_are_counted_per_epoch() -> None:
    whole = [{"epoch": epoch, "ids": list(range(NUM_SAMPLES))} for epoch in range(NUM_EPOCHS)]
    assert counted(whole) == {"acknowledged": NUM_EPOCHS * NUM_SAMPLES, "lost": 0, "repeated": 0}
    assert counted([*whole[:2], {"epoch": 1, "ids": [3, 4]}])["repeated"] == 2
    assert counted([*whole[:2], {"epoch": 2, "ids": [7, 7, NUM_SAMPLES]}]) == {
        "acknowledged": 2 * NUM_SAMPLES + 3,
        "lost": NUM_SAMPLES - 1,
        "repeated": 2,
    }


def test_killed_readers_lose_and_repeat_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.resume", "--trials", "1", "--seed", "7", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    assert (result["trials"], result["kills"], result["lost"], result["repeated"]) == (1, 5, 0, 0)
    assert result["acknowledged"] == NUM_EPOCHS * NUM_SAMPLES
