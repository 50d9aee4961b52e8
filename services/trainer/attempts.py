"""Carries out a run: starts the workers, follows what they report, and starts them anew when they crash.

Training happens in processes of its own (`deepseek.training.agent`), one directory a start. The workers put
checkpoints into the store, where nobody knows them; a checkpoint counts once it is published in a transaction that
proves that the lease is still held. So one start's work at most is ever published, whatever processes are left over.
A run keeps its last two checkpoints; earlier ones are deleted once a newer one is published.

Workers that crash are started anew a few times; a run without working space fails. While the store does not answer, it
is waited for without end: that is no fault of the run, which loses what it did since its last checkpoint and nothing
else.
"""

import enum
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from common.artifacts import ArtifactStore
from common.artifacts.store import disk_error
from common.cores import num_cores
from common.errors import Internal, MeshError, Unavailable
from common.jobs import JobError, JobState, Lease, LeaseLost
from common.processes import python
from services.trainer.children import Child, attempt_directory, reported_error
from services.trainer.runs import Run, RunStore, final_state

_POLL_S = 0.1
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_RETRIED = (*_AWAY, "INTERNAL")
_PUBLISHED = ("precision", "step", "evaluation", "checkpoint", "warning")
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0

_log = logging.getLogger(__name__)


class _End(enum.Enum):
    """How one start of the workers ended."""

    DONE = enum.auto()  # they have finished, or stopped on request
    AWAY = enum.auto()  # something that they need does not answer
    CRASHED = enum.auto()


class RunHandler:
    """Job handler of kind `trainer.run`; carries out several runs at once, a thread each.

    Args:
        runs: Where runs are kept.
        home: Home of the service, where workers cache measurements of this host.
        directory: Working space; holds a directory a run while it is under way.
        store: How a worker opens the artifact store and where its spans go, as members of its job file.
        artifacts: The artifact store itself.
        record: Writes to the audit log, as `AuditLog.append`.
        max_runs: Number of runs that share the cores.
        max_restarts: How often crashed workers are started anew before the run fails.
        stop_grace_s: Seconds that workers get for their last checkpoint.
    """

    def __init__(
        self,
        runs: RunStore,
        home: Path,
        directory: Path,
        store: Mapping[str, Any],
        *,
        artifacts: ArtifactStore,
        record: Callable[..., None],
        max_runs: int = 1,
        max_restarts: int,
        stop_grace_s: float,
    ) -> None:
        self._runs = runs
        self._home = home
        self._directory = directory
        self._store = store
        self._artifacts = artifacts
        self._record = record
        self._max_runs = max_runs
        self._max_restarts = max_restarts
        self._stop_grace_s = stop_grace_s

    def __call__(self, lease: Lease) -> None:
        """Carries out the run of the lease's job from its last checkpoint on.

        Raises:
            LeaseLost: Another trainer carries it out.
        """
        name = f"runs/{json.loads(lease.job.spec)['run_id']}"
        run = self._runs.get(lease.job.tenant, name)

        def close(state: JobState, error: JobError | None = None) -> Callable[[Session], None]:
            return lambda session: self._runs.publish(session, run, [final_state(state, error)])

        try:
            with attempt_directory(self._directory / run.run_id, lease.attempt) as directory:
                self._train(lease, name, directory)
        except Unavailable as error:
            # Our own database is away; the run has done nothing wrong. Whoever gets the lease next goes on with it.
            raise LeaseLost(str(error)) from error
        except (MeshError, OSError) as error:
            failure = (
                disk_error(error, self._directory, "files of the trainer") if isinstance(error, OSError) else error
            )
            lease.fail(failure, close(JobState.FAILED, JobError.of(failure)))
        else:
            if lease.cancelled.is_set() and not lease.finished:
                lease.cancel_done(close(JobState.CANCELLED))
        finally:
            self._runs.wake()

    def _train(self, lease: Lease, name: str, directory: Path) -> None:
        """Starts workers until they have finished, or are to stop, or have crashed too often."""
        num_crashes, pause_s = 0, _FIRST_PAUSE_S
        for start in itertools.count():
            if lease.cancelled.is_set() or lease.stopping.is_set():
                return
            run = self._runs.get(lease.job.tenant, name)
            with self._start(lease, run, directory / str(start)) as child:
                end = self._follow(lease, run, child)
                tail = child.log_tail() if end is _End.CRASHED else ""
            if end is _End.DONE:
                return
            if end is _End.CRASHED:
                num_crashes += 1
                _log.warning("the workers of %s crashed (%d times in attempt %d)", name, num_crashes, lease.attempt)
                if num_crashes > self._max_restarts:
                    raise Internal("WORKERS_CRASHED", f"the workers crashed {num_crashes} times; at the end:\n{tail}")
                continue
            if self._runs.get(lease.job.tenant, name).checkpoint_step > run.checkpoint_step:
                pause_s = _FIRST_PAUSE_S
            _pause(lease, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _start(self, lease: Lease, run: Run, directory: Path) -> Child:
        events: list[tuple[str, Mapping[str, Any]]] = [
            ("attempt", {"attempt": lease.attempt, "start_step": run.checkpoint_step})
        ]
        num_workers = run.spec.num_workers
        num_threads = self._num_threads(run)
        if run.num_threads and num_threads < run.num_threads:
            events.append(("warning", {"message": _fewer_threads(num_threads, run)}))
        with lease.transaction() as session:
            if self._runs.last_state(session, run) == JobState.PENDING.name:
                events.insert(0, ("state", {"state": JobState.RUNNING.name}))
            self._runs.publish(session, run, events, num_threads=num_threads)
        self._runs.wake()
        job = {
            "spec": run.spec.to_json(),
            "dataset_manifest_sha256": run.dataset_manifest_sha256,
            "tenant": run.tenant,
            **self._store,
            "checkpoint_sha256": run.checkpoint.sha256 if run.checkpoint else None,
            "attempt": lease.attempt,
        }
        # All workers of a run are on this machine. torch's TCP stores listen on every interface and what is in them is
        # unpickled, so the workers meet by a file (deepseek.training.session). Gloo's connections stay on loopback.
        env = {"OMP_NUM_THREADS": str(num_threads), "DEEPSEEK_HOME": str(self._home)}
        env |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        return Child(directory, python("deepseek.training.agent", str(num_workers)), job, env=env)

    def _num_threads(self, run: Run) -> int:
        """Threads of each worker: the number that the run started with, or its share of the cores if it is new.

        Never more than there are cores: waiting threads spin, and would compete for a core with those that work.
        """
        cores = num_cores()
        if run.num_threads:
            return min(run.num_threads, max(1, cores // run.spec.num_workers))
        return max(1, cores // self._max_runs // run.spec.num_workers)

    def _follow(self, lease: Lease, run: Run, child: Child) -> _End:
        """Publishes what the workers report until they end."""
        asked_at: float | None = None
        under_way = away = False
        while True:
            ended = child.wait(_POLL_S)
            events = child.events()  # read after the look at the process, so that nothing of an ended one is missed
            under_way = under_way or bool(events)
            self._publish(lease, run, events)
            for event in events:
                match event["kind"]:
                    case "failed" if event["code"] not in _RETRIED:
                        raise reported_error(event)
                    case "failed" if event["code"] in _AWAY:
                        away = True
                        lease.update(message=f"waiting: {event['message']}")
                    case "finished":
                        self._complete(lease, run, event)
                        child.let_export()
                        return _End.DONE
                    case "stopped":
                        return _End.DONE
            if lease.lost.is_set():
                raise LeaseLost
            if lease.cancelled.is_set() or lease.stopping.is_set():
                if asked_at is None:
                    asked_at = time.monotonic()
                    child.ask_to_stop()
                    if lease.cancelled.is_set():
                        with lease.transaction() as session:
                            self._runs.publish(session, run, [("state", {"state": JobState.CANCELLING.name})])
                        self._runs.wake()
                if ended or not under_way or time.monotonic() - asked_at > self._stop_grace_s:
                    return _End.DONE  # nothing more to save
            elif ended:
                return _End.AWAY if away else _End.CRASHED

    def _publish(self, lease: Lease, run: Run, reported: list[dict[str, Any]]) -> None:
        news = [event for event in reported if event["kind"] in _PUBLISHED]
        if not news:
            return
        events = [(event["kind"], _payload(event)) for event in news]
        with lease.transaction() as session:
            self._runs.publish(session, run, events, train_s=run.train_s + news[-1]["train_s"])
        self._runs.wake()
        if any(kind == "checkpoint" for kind, _ in events):
            self._drop_superseded(lease, run)
        steps = [payload for kind, payload in events if kind == "step"]
        if steps:
            step, num_steps = steps[-1]["step"], steps[-1]["num_steps"]
            lease.update(progress=step / max(1, num_steps), message=f"step {step} of {num_steps}")

    def _drop_superseded(self, lease: Lease, run: Run) -> None:
        """Deletes the run's checkpoints before its last two. Failed deletions are retried after the next checkpoint."""
        superseded = self._runs.superseded(run)
        if not superseded:
            return
        try:
            for one in superseded:
                artifact = one.artifact
                if not one.is_needed:
                    # Recorded before it is deleted, like every deletion.
                    self._record(
                        tenant=artifact.tenant,
                        subject="trainer",
                        method="trainer.drop",
                        resource=artifact.uri,
                        reason="CHECKPOINT_SUPERSEDED",
                    )
                    # An equal run may have stored the same bytes since, to publish them next; then they are kept.
                    self._artifacts.expire(artifact.tenant, artifact.sha256, one.next_us)
        except MeshError as error:
            _log.warning("checkpoints of %s that are no longer needed could not be deleted: %s", run.name, error)
            return
        with lease.transaction() as session:
            self._runs.drop(session, run, superseded[-1].sequence)

    def _complete(self, lease: Lease, run: Run, finished: Mapping[str, Any]) -> None:
        def effect(session: Session) -> str:
            train_s = run.train_s + finished["train_s"]
            events = [final_state(JobState.SUCCEEDED)]
            self._runs.publish(session, run, events, train_s=train_s, metrics=finished["metrics"])
            return run.name

        lease.complete(effect)
        self._runs.wake()


def _pause(lease: Lease, seconds: float) -> None:
    """Waits, unless the run is to end before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not lease.cancelled.is_set():
        if lease.lost.is_set():
            raise LeaseLost
        if lease.stopping.wait(_POLL_S):
            return


def _fewer_threads(num_threads: int, run: Run) -> str:
    return (
        f"the run has trained with {run.num_threads} threads per worker, but this machine has too few cores; it "
        f"continues with {num_threads}, so the last digits of the weights may differ from those of an uninterrupted run"
    )


def _payload(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("kind", "train_s")}
