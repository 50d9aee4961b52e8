"""One block of trials, every fault once: nothing acknowledged is lost, nothing is torn, done twice or left undone."""

import pytest

from benchmarks.faults import SEED, WRONG, run_trials, summary
from tests.faults.findings import Findings
from tests.faults.trials import BLOCK_SIZE, EMBEDDED, STACK, draw

NUM_TRIALS = BLOCK_SIZE


def test_a_trial_is_known_by_its_seed_and_number_alone() -> None:
    trials = [draw(SEED, i) for i in range(3 * NUM_TRIALS)]
    assert [draw(SEED, i) for i in reversed(range(3 * NUM_TRIALS))] == trials[::-1]
    assert [draw(SEED + 1, i) for i in range(3 * NUM_TRIALS)] != trials


def test_every_block_of_trials_has_every_fault() -> None:
    blocks = [[draw(7, NUM_TRIALS * block + i) for i in range(NUM_TRIALS)] for block in range(3)]
    kinds = [sorted((trial.backend, trial.fault) for trial in block) for block in blocks]
    assert kinds[0] == kinds[1] == kinds[2]
    assert {"kill", "cut", "stall", "store_away", "database_away", "disk_full", "pause"} <= {
        kind for _, kind in kinds[0]
    }
    assert blocks[0] != blocks[1]


def test_the_summary_counts_what_is_wrong_and_ranks_restarts() -> None:
    rows = [vars(Findings(num_acknowledged=10, restarts_s=[i / 10])) for i in range(1, 21)]
    good = summary(rows, seed=1)
    assert [good[name] for name in WRONG] == [0, 0, 0, 0]
    assert (good["trials"], good["acknowledged_writes"]) == (20, 200)
    assert (good["p95_restart_s"], good["max_restart_s"]) == (1.9, 2.0)
    assert good["p95_restart_s_interval"][0] <= 1.9 <= good["p95_restart_s_interval"][1]
    # The rule of three, exactly: twenty trials without a failure do not show that failures are rarer than this.
    assert good["wrong_trials_share_below"] == pytest.approx(0.1391, abs=1e-4)

    rows[3]["lost_writes"] = ["a", "b"]
    bad = summary(rows, seed=1)
    assert (bad["lost_writes"], bad["wrong_trials"], bad["wrong_trials_share_below"]) == (2, 1, None)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1800)  # beside other tests, on a slow machine
@pytest.mark.parametrize("backend", [EMBEDDED, STACK])
def test_nothing_that_was_acknowledged_is_lost_torn_or_done_twice(backend: str) -> None:
    trials = [trial for trial in (draw(SEED, i) for i in range(NUM_TRIALS)) if trial.backend == backend]
    for trial, findings in run_trials(trials):
        assert not findings.wrong, trial
        assert findings.num_acknowledged
        assert findings.restarts_s
