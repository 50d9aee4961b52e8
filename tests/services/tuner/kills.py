"""Kills a tuner and its workers at random moments, and counts lost changes and trials that were given twice."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from deepseek.client.studies import Studies
from protos.tuner.v1 import tuner_pb2
from tests.harness.processes import wait_until
from tests.harness.subprocesses import ServiceSubprocess
from tests.services.tuner.conftest import studies_at
from tests.services.tuner.specs import SPEC

_ROOT = Path(__file__).parents[3]

NUM_WORKERS = 4
LONGEST_PAUSE_S = 1.0
"""Longest pause before a kill. Before half of the kills, a worker gets an answer first, however slow the machine is."""


class WorkerProcess:
    """A worker that is started again under the same name after a kill.

    Args:
        tuner: The tuner.
        study: Name of the study.
        client_id: Name of the worker.
        folder: Folder for its journal and log.
    """

    def __init__(self, tuner: ServiceSubprocess, study: str, client_id: str, folder: Path) -> None:
        self.client_id = client_id
        self.journal = folder / f"{client_id}.jsonl"
        self._log = folder / f"{client_id}.log"
        self._arguments = (tuner.address, study, client_id, str(self.journal))
        self._attempt = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it."""
        self._attempt += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.services.tuner.crash_worker", *self._arguments, str(self._attempt)],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """Kills it, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        """Lets it finish its trial.

        Raises:
            RuntimeError: It did not end as it should.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            # While it starts, SIGTERM ends it at once.
            failed = self._process.wait(60) not in (0, -signal.SIGTERM)
        except subprocess.TimeoutExpired:
            failed = True
        if failed:
            raise RuntimeError(f"{self.client_id} failed:\n{self._log.read_text(encoding='utf-8')[-5000:]}")

    def close(self) -> None:
        """Ends it, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


@dataclass
class Acknowledged:
    """What the tuner has acknowledged to one worker.

    Attributes:
        given: Parameters by name of the trial.
        measured: Value by name of the trial and step.
        ended: Value by name of the trial.
        again: Names of trials that were given to the worker after it had ended them.
    """

    given: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    measured: dict[tuple[str, int], float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, journal: Path) -> "Acknowledged":
        """Reads the journal of a worker."""
        found = cls()
        for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
            match json.loads(line):
                case {"given": name, "parameters": parameters}:
                    found.again += [name] if name in found.ended else []
                    found.given.setdefault(name, parameters)
                case {"measured": name, "step": step, "loss": loss}:
                    if loss is not None:
                        found.measured[name, step] = loss
                case {"ended": name, "loss": loss}:
                    found.ended[name] = loss
        return found


def run_kills(folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Kills the tuner or one of its workers several times while they search.

    Args:
        folder: Empty folder.
        num_kills: Number of kills.
        seed: Seed of the moments, and of what is killed.

    Returns:
        Number of kills, of acknowledged trials, measurements and ends; `lost`: the acknowledged ones that are not
        stored as they were acknowledged; `given_twice`: trials that were given to two workers, or after their end.
    """
    source, killed = random.Random(seed), Counter[str]()
    with ExitStack() as owned:
        tuner = ServiceSubprocess("tuner", folder)
        tuner.start()
        owned.callback(tuner.close)
        studies = studies_at(tuner.channel())
        study = studies.create("kills", SPEC).name
        workers = [WorkerProcess(tuner, study, f"worker-{number}", folder) for number in range(NUM_WORKERS)]
        for worker in workers:
            owned.callback(worker.close)
            worker.start()
        for _ in range(num_kills):
            if source.random() < 0.5:
                answered = _journal_bytes(workers)
                wait_until(lambda answered=answered: _journal_bytes(workers) > answered, "an answer", timeout_s=120)
            time.sleep(source.uniform(0, LONGEST_PAUSE_S))
            victim = source.choice([tuner, source.choice(workers)])
            victim.kill()
            victim.start()
            killed["tuner" if victim is tuner else "worker"] += 1
        for worker in workers:
            worker.finish()
        # A worker that was killed before it learned of its last trial learns of it now.
        for worker in workers:
            _give_back(studies, study, worker)
        told = {worker.client_id: Acknowledged.read(worker.journal) for worker in workers}
        stored = {trial.name: studies.trial(trial.name) for trial in studies.trials(study)}
    return {
        "kills": num_kills,
        **{f"{name}_kills": number for name, number in sorted(killed.items())},
        "trials_given": sum(len(one.given) for one in told.values()),
        "measurements": sum(len(one.measured) for one in told.values()),
        "ended": sum(len(one.ended) for one in told.values()),
        "lost": len(list(_lost(told, stored))),
        "given_twice": len(list(_given_twice(told, stored))),
    }


def _journal_bytes(workers: Sequence[WorkerProcess]) -> int:
    return sum(worker.journal.stat().st_size for worker in workers if worker.journal.exists())


def _give_back(studies: Studies, study: str, worker: WorkerProcess) -> None:
    """Adds the active trials of a worker to its journal."""
    active = [
        trial
        for trial in studies.trials(study)
        if trial.client_id == worker.client_id and not trial.HasField("end_time")
    ]
    if active:
        given = studies.suggest(study, worker.client_id, len(active))
        with worker.journal.open("a", encoding="utf-8") as journal:
            for trial in given:
                record = {"given": trial.name, "parameters": json_format.MessageToDict(trial.parameters)}
                journal.write(json.dumps(record) + "\n")


def _lost(told: Mapping[str, Acknowledged], stored: Mapping[str, tuner_pb2.Trial]) -> Iterator[str]:
    """Yields acknowledged changes that are not stored."""
    for client_id, one in told.items():
        for name, parameters in one.given.items():
            trial = stored.get(name)
            if trial is None or trial.client_id != client_id:
                yield name
            elif json_format.MessageToDict(trial.parameters) != parameters:
                yield f"{name}: other parameters"
        for (name, step), loss in one.measured.items():
            measurements = stored[name].measurements if name in stored else ()
            if [entry.metrics[0].value for entry in measurements if entry.step == step] != [loss]:
                yield f"{name}, step {step}"
        for name, loss in one.ended.items():
            trial = stored.get(name)
            if trial is None or [entry.value for entry in trial.metrics] != [loss] or not trial.HasField("end_time"):
                yield f"{name}: its end"


def _given_twice(told: Mapping[str, Acknowledged], stored: Mapping[str, tuner_pb2.Trial]) -> Iterator[str]:
    """Yields the trials that more than one worker got, that a worker got after their end, or that nobody got."""
    times = Counter(name for one in told.values() for name in one.given)
    yield from (name for name, number in times.items() if number > 1)
    yield from (name for one in told.values() for name in one.again)
    yield from (name for name in stored if name not in times)
