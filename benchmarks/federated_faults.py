"""Counts federated runs that do not finish, or end with another model or too small an epsilon, after `kill -9`.

A federation has four stock SuperNodes, as in `deepseek federated demo`. Each trial kills a process at a random moment
of a run without privacy, of one with client-level privacy, and of one that also samples nodes. The runs without privacy
come first, because a federation with a budget refuses them; their models must be bit-equal to that of an undisturbed
run. After a private run, the ledger must show at least the epsilon of all rounds that were ever released. A kill may
cost at most the work of one round. Plain Flower ends such a run as failed. `--quick` has private runs of one round.
"""

import argparse
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.accounting_cases import lower_bound
from benchmarks.federated_kills import TARGETS, kill_process
from benchmarks.report import Record, Rounds, certify, print_figures, progress_file, provenance
from deepseek.client import Mesh
from deepseek.demo import colours, federation
from deepseek.federated.flower.supernode import Node
from deepseek.privacy.releases import Release
from protos.federated.v1 import federated_pb2 as pb
from protos.job.v1 import job_pb2
from protos.privacy.v1 import privacy_pb2
from tests.deepseek.privacy.gaussian_oracle import exact_epsilon
from tests.harness.mesh import MeshProcesses

NUM_TRIALS, QUICK_TRIALS = 20, 1
NUM_ROUNDS, QUICK_ROUNDS = 4, 1
QUICK_NODES = 1
SEED = 20261130
PATIENCE_S = 300.0
SAMPLED_S = 8.0
"""Deadline of the rounds that sample nodes, in seconds: all of them take this long."""
_NOISE, _EPSILON, _DELTA = 5.0, 400.0, 1e-6
_BUDGET = "budgets/faults"
_CLIP_NORM = 0.01  # so small that the noise does not destroy the model
_RATE = 0.5
_LATEST_S = 4.0
"""Longest time from the start of a round to the kill, in seconds; about the duration of a round."""
_MAX_TRIES = 6

Kind = Literal["plain", "private", "sampled"]


@dataclass(frozen=True)
class Kill:
    """What is killed, in which round, and how many seconds after the round has started."""

    target: str
    round: int
    delay_s: float


@dataclass(frozen=True)
class Outcome:
    """A run that has ended.

    Attributes:
        run: The run.
        rounds_lost: Of how many rounds the kill may have cost work: those that were in progress at the kill, or were
            started more than once.
        hit: Whether a process was killed before the last round was released.
    """

    run: pb.Run
    rounds_lost: int
    hit: bool


class Federation:
    """A federation on processes that can be killed.

    Attributes:
        mesh: The services.
        client: Client of the mesh.
        name: Name of the federation.
        version: Reference data.
        nodes: The nodes.
    """

    def __init__(self, mesh: MeshProcesses, client: Mesh, name: str, version: str, nodes: Sequence[Node]) -> None:
        self.mesh, self.client, self.name = mesh, client, name
        self.version, self.nodes = version, nodes

    def run(self, num_rounds: int, kind: Kind, kill: Kill | None = None) -> Outcome:
        """Executes a run."""
        name = self.client.federated.start(self.name, self._spec(num_rounds, kind)).name
        planned: dict[int, float] = {}
        killed_s = ended_s = math.inf
        num_lost = num_killed = 0
        for event in self.client.federated.watch(name, patience_s=PATIENCE_S):
            one = event.round.round
            time_s = event.time.ToMicroseconds() / 1e6
            if one.state == pb.ROUND_STATE_PLANNED:
                num_lost += one.round in planned
                planned.setdefault(one.round, time_s)
            elif one.state == pb.ROUND_STATE_COLLECTED:
                num_lost += planned[one.round] < killed_s < time_s
            elif one.state == pb.ROUND_STATE_RELEASED and one.round == num_rounds:
                ended_s = time_s
            if kill and one.round == kill.round and one.state == pb.ROUND_STATE_PLANNED:
                target, delay_s, kill = kill.target, kill.delay_s, None
                time.sleep(delay_s)
                num_killed, killed_s = kill_process(target, self.mesh.services["federated"], self.nodes[0])
        return Outcome(self.client.federated.run(name), num_lost, num_killed > 0 and killed_s < ended_s)

    def disturbed(self, num_rounds: int, kind: Kind, kill: Kill) -> tuple[Outcome, Kill]:
        """Executes a run with a kill, and returns both. If the run ends before the kill, tries again with half the
        delay."""
        for _ in range(_MAX_TRIES):
            outcome = self.run(num_rounds, kind, kill)
            if outcome.hit or not _finished(outcome.run, num_rounds):
                break
            kill = Kill(kill.target, kill.round, kill.delay_s / 2)
        return outcome, kill

    def _spec(self, num_rounds: int, kind: Kind) -> dict[str, Any]:
        spec = federation.spec(self.version, "")
        spec |= {"num_rounds": num_rounds, "register_every": num_rounds, "deadline_s": PATIENCE_S, "local_epochs": 1}
        spec |= {"quorum": len(self.nodes)}
        if kind != "plain":
            client = {"unit": "UNIT_CLIENT", "clip_norm": _CLIP_NORM, "noise_multiplier": _NOISE, "delta": _DELTA}
            spec |= {"privacy": {**client, "budget": _BUDGET}, "target_model": f"{federation.MODEL}-private"}
        if kind == "sampled":
            spec |= {"sampling": {"rate": _RATE}, "deadline_s": SAMPLED_S, "quorum": 0}
        return spec

    def plain(self, number: int, num_rounds: int, undisturbed: str) -> Record:
        """Executes the run without privacy of a trial, and returns its record.

        Args:
            number: Number of the trial.
            num_rounds: Number of rounds.
            undisturbed: Digest of the undisturbed run's model.
        """
        outcome, kill = self.disturbed(num_rounds, "plain", _kills(number, num_rounds)[0])
        same = self._same(outcome.run, num_rounds, undisturbed)
        return {**_record(outcome, num_rounds, kill), "bit_equal": same}

    def trial(self, number: int, num_rounds: int, plain: Record | None) -> Record:
        """Executes the private run of a trial, and returns the record of the trial.

        Args:
            number: Number of the trial.
            num_rounds: Number of rounds.
            plain: Record of the run without privacy; None if there was none.
        """
        outcome, kill = self.disturbed(num_rounds, "private", _kills(number, num_rounds)[1])
        parts = [*([plain] if plain else []), _record(outcome, num_rounds, kill)]
        num_released = sum(release.count for release in self._released())
        # Equal releases without sampling are one release with less noise, whose epsilon is known exactly.
        exact = exact_epsilon(_NOISE / math.sqrt(num_released), _DELTA) if num_released else 0.0
        return {
            "target": kill.target,
            "kills": [kill for part in parts for kill in part["kills"]],
            "hit": all(part["hit"] for part in parts),
            "finished": all(part["finished"] for part in parts),
            "errors": [error for part in parts for error in part["errors"]],
            "rounds_lost": max(part["rounds_lost"] for part in parts),
            "bit_equal": plain["bit_equal"] if plain else None,
            **self._ledger(exact * (1 - 1e-9)),
        }

    def sampled(self, number: int, num_rounds: int) -> Record:
        """Executes the private run of a trial that samples nodes, and returns its record."""
        outcome, kill = self.disturbed(num_rounds, "sampled", _kills(number, num_rounds)[2])
        record = {**_record(outcome, num_rounds, kill), "target": kill.target, "bit_equal": None}
        return {**record, **self._ledger(lower_bound(self._released(), _DELTA))}

    def _ledger(self, least: float) -> Record:
        """Returns what the ledger shows, and whether that is below the least epsilon of everything released."""
        budget = self.client.budgets.get(_BUDGET)
        return {
            "epsilon_spent": budget.epsilon_spent,
            "epsilon_least": least,
            "num_debits": budget.num_debits,
            "num_released": sum(release.count for release in self._released()),
            "undercounted": budget.epsilon_spent < least,
        }

    def _released(self) -> list[Release]:
        """Returns what the private runs have released, by their specs and by how many rounds they have released."""
        runs = [run for run in self.client.federated.runs(self.name) if run.HasField("privacy") and run.num_released]
        return [
            Release(run.spec.privacy.noise_multiplier, run.spec.sampling.rate or 1.0, run.num_released) for run in runs
        ]

    def _same(self, run: pb.Run, num_rounds: int, undisturbed: str) -> bool:
        return _finished(run, num_rounds) and self.digest(run) == undisturbed

    def protect(self) -> None:
        """Creates the budget, after which the federation accepts only private runs."""
        unit = privacy_pb2.UNIT_CLIENT
        self.client.budgets.create(_BUDGET, dataset=self.name, unit=unit, epsilon=_EPSILON, delta=_DELTA)

    def undisturbed(self, num_rounds: int) -> str:
        """Returns the digest of the last model of a run without kills."""
        run = self.run(num_rounds, "plain").run
        if not _finished(run, num_rounds):
            raise RuntimeError(f"the undisturbed run failed: {run.job.error.message}")
        return self.digest(run)

    def digest(self, run: pb.Run) -> str:
        """Returns the digest of a run's last model."""
        return str(self.client.federated.model(run.name).arrays.sha256)


def _kills(number: int, num_rounds: int) -> list[Kill]:
    """Returns what is killed in a trial, in which round and after how many seconds, for each of its three runs."""
    chance = random.Random(f"{SEED}-{number}")
    target = TARGETS[number % len(TARGETS)]
    return [Kill(target, chance.randint(1, num_rounds), chance.uniform(0, _LATEST_S)) for _ in range(3)]


def _record(outcome: Outcome, num_rounds: int, kill: Kill) -> Record:
    run = outcome.run
    return {
        "kills": [{"round": kill.round, "delay_s": kill.delay_s}],
        "hit": outcome.hit,
        "finished": _finished(run, num_rounds),
        "errors": [run.job.error.message] if run.job.HasField("error") else [],
        "rounds_lost": outcome.rounds_lost,
    }


def _finished(run: pb.Run, num_rounds: int) -> bool:
    return bool(run.job.state == job_pb2.JOB_STATE_SUCCEEDED and run.num_released == num_rounds)


@contextmanager
def running_federation(num_nodes: int) -> Iterator[Federation]:
    """Starts a mesh with a federation whose nodes are online."""
    with ExitStack() as owned:
        folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="federated-faults-")))
        mesh = MeshProcesses(folder / "home", owned)
        for name in ("federated", "ingest"):
            mesh.start(name)
        mesh.file.write(folder / "home" / "mesh.json")
        client = owned.enter_context(Mesh(mesh.file, patience_s=PATIENCE_S))
        own, shares = colours.write(folder / "data", federation.NUM_NODES)
        version = federation.import_reference(client, own)
        name = client.federated.create("faults").name
        nodes = owned.enter_context(federation.joined(client, name, shares[:num_nodes], folder))
        yield Federation(mesh, client, name, version, nodes)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns how many trials there were, and how many ended as required."""
    trials = [record for record in records if record["part"] == "trial"]
    sampled = [record for record in records if record["part"] == "sampled"]
    both = [*trials, *sampled]
    equal = [one["bit_equal"] for one in trials if one["bit_equal"] is not None]
    return {
        "trials": len(trials),
        "kills": sum(len(one["kills"]) for one in both),
        "kills_missed": sum(not one["hit"] for one in both),
        "finished": sum(one["finished"] for one in trials),
        "sampled_finished": sum(one["finished"] for one in sampled),
        "bit_equal": sum(equal) if equal else None,
        "rounds_lost_max": max(one["rounds_lost"] for one in both),
        "epsilon_undercounted": sum(one["undercounted"] for one in both),
        "debits_without_release_max": max(one["num_debits"] - one["num_released"] for one in both),
    }


def deviations(records: Sequence[Record]) -> list[Record]:
    """Returns the records of trials that did not end as required, or in which nothing was killed in time."""
    return [
        one
        for one in records
        if one["part"] in ("trial", "sampled")
        and not (
            one["hit"]
            and one["finished"]
            and one["bit_equal"] is not False
            and not one["undercounted"]
            and one["rounds_lost"] <= 1
        )
    ]


def report_trials(records: Sequence[Record], result: dict[str, Any], progress: Path, *, full: bool) -> None:
    """Prints and certifies the result; if a trial did not end as required, it is not certified, and the exit code is 1.

    Args:
        records: Records of all trials.
        result: Result of the benchmark.
        progress: File of the records, which is removed.
        full: Whether the result may be certified.
    """
    print_figures(result)
    wrong = deviations(records)
    for record in wrong:
        print(f"{record['part']} {record['round']}: {json.dumps(record)}")
    progress.unlink(missing_ok=True)
    certify("federated_faults", result, full=full and not wrong)
    print(json.dumps(result))
    if wrong:
        sys.exit(1)


def main() -> None:
    """Runs the missing trials, prints the results, and certifies them if this was a full run on a clean tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated_faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=NUM_TRIALS, help="number of trials; 20 are certified")
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="private runs of one round; certify nothing")
    arguments = parser.parse_args()
    quick = arguments.quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes are stopped and folders removed
    num_trials, num_rounds = (QUICK_TRIALS, QUICK_ROUNDS) if quick else (arguments.trials, NUM_ROUNDS)
    where = provenance()
    file = progress_file("federated_faults", where, "quick" if quick else "full")
    if quick:
        file.unlink(missing_ok=True)
    rounds = Rounds(file)
    with running_federation(QUICK_NODES if quick else federation.NUM_NODES) as made:
        plain: list[Record | None] = [None] * num_trials
        if not quick:
            undisturbed = made.undisturbed(num_rounds)
            for number in range(num_trials):
                plain[number] = rounds.measure("plain", number, partial(made.plain, number, num_rounds, undisturbed))
        made.protect()
        for number in range(num_trials):
            rounds.measure("trial", number, partial(made.trial, number, num_rounds, plain[number]))
        for number in range(num_trials):
            rounds.measure("sampled", number, partial(made.sampled, number, num_rounds))
    result = {"n": num_trials, "quick": quick, "seed": SEED, "rounds": num_rounds, **summary(rounds.records), **where}
    report_trials(rounds.records, result, file, full=num_trials >= NUM_TRIALS)


if __name__ == "__main__":
    main()
