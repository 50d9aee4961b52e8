"""The job that executes a run: it starts workers, publishes their reports, and restarts them if they crash.

Workers are processes (`deepseek.trainjob.agent`) that write checkpoints to the artifact store. Each start of the
workers uses its own directory. A checkpoint is used only after it has been published in a transaction that checks the
lease, so processes left over from an earlier lease cannot affect the run. A run keeps its last two checkpoints. Crashed
workers are restarted up to `max_restarts` times. If the store does not respond, the run waits for the store
indefinitely, and loses only the work done since the last checkpoint.
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
from common.cores import num_cores
from common.errors import Internal, MeshError, Unavailable
from common.files import disk_error
from common.jobs import JobError, JobState, Lease, LeaseLost
from common.jobs.child import ChildProcess, attempt_directory, reported_error
from common.jobs.history import final_state
from common.processes import python
from common.remote import until_answered
from services.trainer.directives import DirectiveStore
from services.trainer.mailboxes import Mailbox, Mailboxes
from services.trainer.private_runs import PrivateRuns
from services.trainer.run import Run
from services.trainer.runs import RunStore

JOB_KIND = "trainer.run"

_POLL_S = 0.1
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_RETRIED = (*_AWAY, "INTERNAL")
_RELEASING = ("evaluation", "checkpoint")
_PUBLISHED = ("precision", "step", "evaluation", "adjustment", "directive", "checkpoint", "warning")
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0

_logger = logging.getLogger(__name__)


class _End(enum.Enum):
    """How a group of workers ended."""

    DONE = enum.auto()  # the workers have finished or were stopped on request
    AWAY = enum.auto()  # a service that the workers depend on does not respond
    CRASHED = enum.auto()


def job_spec(run_id: str) -> str:
    """Returns the spec of the job that executes a run."""
    return json.dumps({"run_id": run_id})


class RunHandler:
    """Handles jobs of the kind `trainer.run`. Several runs may execute at once, each in its own thread.

    Args:
        runs: Store of the runs.
        home: Home directory of the service, in which workers cache measurements of this host.
        directory: Working directory, with one subdirectory per active run.
        store: Entries to add to the workers' job file. They say how to open the artifact store, and where to write
            trace spans.
        artifacts: Artifact store, from which superseded checkpoints are deleted.
        record: Function that writes to the audit log, such as `AuditLog.append`.
        private_runs: Debits the budgets of private runs.
        directives: Store of directives to runs.
        mailboxes: Passes directives on to the workers.
        max_runs: Maximum number of concurrent runs. Each new run gets an equal share of the cores.
        max_restarts: Number of times that crashed workers are restarted before the run fails.
        stop_grace_s: Time that workers get to write a last checkpoint when they are stopped, in seconds.
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
        private_runs: PrivateRuns,
        directives: DirectiveStore,
        mailboxes: Mailboxes,
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
        self._private_runs = private_runs
        self._directives = directives
        self._mailboxes = mailboxes
        self._debited: set[str] = set()
        self._max_runs = max_runs
        self._max_restarts = max_restarts
        self._stop_grace_s = stop_grace_s

    def __call__(self, lease: Lease) -> None:
        """Executes the run of the leased job, starting from the run's last checkpoint if it has one.

        Raises:
            LeaseLost: Another trainer has taken over the job.
        """
        name = f"runs/{json.loads(lease.job.spec)['run_id']}"
        run = self._runs.get(lease.job.tenant, name)

        def close(state: JobState, error: JobError | None = None) -> Callable[[Session], None]:
            return lambda session: self._runs.publish(session, run, [final_state(state, error)])

        try:
            with attempt_directory(self._directory / run.run_id, lease.attempt) as directory:
                self._train(lease, name, directory)
        except Unavailable as error:
            # The trainer's database is unavailable, which is not the fault of the run. The next lease holder continues
            # the run.
            raise LeaseLost(str(error)) from error
        except (MeshError, OSError) as error:
            failure = (
                disk_error(error, self._directory, "files of the trainer") if isinstance(error, OSError) else error
            )
            lease.fail(failure, close(JobState.FAILED, JobError.of(failure)))
        else:
            if lease.cancelled.is_set() and not lease.finished:
                lease.mark_cancelled(close(JobState.CANCELLED))
        finally:
            self._runs.wake()

    def _train(self, lease: Lease, name: str, directory: Path) -> None:
        """Starts the workers, and restarts them until they finish, are stopped or have crashed too often."""
        num_crashes, pause_s = 0, _FIRST_PAUSE_S
        for start in itertools.count():
            if lease.cancelled.is_set() or lease.stopping.is_set():
                return
            run = self._runs.get(lease.job.tenant, name)
            child, last_directive = self._start(lease, run, directory / str(start))
            with child, self._mailboxes.open(run, child.directory, last_directive) as mailbox:
                end = self._follow(lease, run, child, mailbox)
                tail = child.log_tail() if end is _End.CRASHED else ""
            if end is _End.DONE:
                return
            if end is _End.CRASHED:
                num_crashes += 1
                _logger.warning("the workers of %s crashed (%d times in attempt %d)", name, num_crashes, lease.attempt)
                if num_crashes > self._max_restarts:
                    # Messages in the log of a private run may depend on private examples.
                    shown = "their log is not published" if run.spec.privacy else f"last lines of their log:\n{tail}"
                    message = f"the workers crashed {num_crashes} times; {shown}"
                    raise Internal("WORKERS_CRASHED", message)
                continue
            if self._runs.get(lease.job.tenant, name).checkpoint_step > run.checkpoint_step:
                pause_s = _FIRST_PAUSE_S
            _pause(lease, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _start(self, lease: Lease, run: Run, directory: Path) -> tuple[ChildProcess, int]:
        """Starts the workers. Returns them, and the number of the last directive that they get in the job file."""
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
            directives, last_directive = self._directives.at_start(session, run)
        self._runs.wake()
        job = {
            "spec": run.executed_spec.to_json(),
            "dataset_manifest_sha256": run.dataset_manifest_sha256,
            "tenant": run.tenant,
            **self._store,
            "checkpoint_sha256": run.checkpoint.sha256 if run.checkpoint else None,
            "attempt": lease.attempt,
            "exportable": run.exportable,
            "init_manifest_sha256": run.init_manifest,
            "directives": [one.to_json() for one in directives],
        }
        # All workers of a run are on this machine. torch's TCP stores would listen on every network interface and
        # unpickle what they receive, so the workers find each other through a file instead (deepseek.trainjob.train).
        # On Linux, Gloo's connections stay on loopback.
        env = {"OMP_NUM_THREADS": str(num_threads), "DEEPSEEK_HOME": str(self._home)}
        env |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        child = ChildProcess(directory, python("deepseek.trainjob.agent", str(num_workers)), job, env=env)
        return child, last_directive

    def _num_threads(self, run: Run) -> int:
        """Returns the number of threads per worker.

        A new run gets its share of the cores. A resumed run keeps its number of threads per worker. The number is
        reduced if the run's workers together would otherwise have more threads than there are cores, because waiting
        threads spin and would compete with working threads.
        """
        cores = num_cores()
        if run.num_threads:
            return min(run.num_threads, max(1, cores // run.spec.num_workers))
        return max(1, cores // self._max_runs // run.spec.num_workers)

    def _follow(self, lease: Lease, run: Run, child: ChildProcess, mailbox: Mailbox) -> _End:
        """Publishes the workers' reports, and passes directives on, until the workers exit."""
        asked_at: float | None = None
        under_way = away = False
        while True:
            ended = child.wait(_POLL_S)
            mailbox.poll()
            # The reports are read after checking whether the process has ended, so that its last reports are not
            # missed.
            events = child.events()
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
                        child.wait_for_span_export()
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
                    return _End.DONE  # nothing is left to save, or no time is left to save it
            elif ended:
                return _End.AWAY if away else _End.CRASHED

    def _publish(self, lease: Lease, run: Run, reported: list[dict[str, Any]]) -> None:
        news = [event for event in reported if event["kind"] in _PUBLISHED]
        if not news:
            return
        if run.spec.privacy and any(event["kind"] in _RELEASING for event in news):
            self._debit(lease, run)
        events = [(event["kind"], _payload(event)) for event in news]
        with lease.transaction() as session:
            self._runs.publish(session, run, events, train_s=run.train_s + news[-1]["train_s"])
            if any(kind == "directive" and one["action"] == "stop" and not one["error"] for kind, one in events):
                lease.cancel(session)  # together with the answer, so that no crash can separate them
        self._runs.wake()
        if any(kind == "checkpoint" for kind, _ in events):
            self._drop_superseded(lease, run)
        steps = [payload for kind, payload in events if kind == "step"]
        if steps:
            step, num_steps = steps[-1]["step"], steps[-1]["num_steps"]
            lease.update(progress=step / max(1, num_steps), message=f"step {step} of {num_steps}")

    def _debit(self, lease: Lease, run: Run) -> None:
        """Debits the budget of a private run before anything that depends on its data is published."""
        if run.name not in self._debited:
            debit = until_answered(lease, lambda: self._private_runs.debit(run), callee="registry", cancellable=False)
            if debit is None:
                raise LeaseLost("the process is stopping, and the run is not debited yet")
            self._debited.add(run.name)

    def _drop_superseded(self, lease: Lease, run: Run) -> None:
        """Deletes all but the run's last two checkpoints and its best weights. A failure is retried later."""
        superseded = self._runs.superseded(run)
        if not superseded:
            return
        try:
            for one in superseded:
                artifact = one.artifact
                if not one.is_needed:
                    # Like every deletion, this one is recorded before it takes effect.
                    self._record(
                        tenant=artifact.tenant,
                        subject="trainer",
                        method="trainer.drop",
                        resource=artifact.uri,
                        reason="CHECKPOINT_SUPERSEDED",
                    )
                    # The bytes are kept if they were stored again after the run's next checkpoint was published: an
                    # equal run may be about to publish them.
                    self._artifacts.expire(artifact.tenant, artifact.sha256, one.next_us)
        except MeshError as error:
            _logger.warning("checkpoints of %s that are no longer needed could not be deleted: %s", run.name, error)
            return
        with lease.transaction() as session:
            self._runs.drop(session, run, superseded)

    def _complete(self, lease: Lease, run: Run, finished: Mapping[str, Any]) -> None:
        def effect(session: Session) -> str:
            train_s = run.train_s + finished["train_s"]
            events = [final_state(JobState.SUCCEEDED)]
            self._runs.publish(session, run, events, train_s=train_s, best=finished)
            return run.name

        lease.complete(effect)
        self._runs.wake()


def _pause(lease: Lease, seconds: float) -> None:
    """Waits for a number of seconds; ends early if the run has to stop."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not lease.cancelled.is_set():
        if lease.lost.is_set():
            raise LeaseLost
        if lease.stopping.wait(_POLL_S):
            return


def _fewer_threads(num_threads: int, run: Run) -> str:
    return (
        f"the run has trained with {run.num_threads} threads per worker, but this machine has too few cores; the run "
        f"continues with {num_threads}, so the last digits of the weights may differ from those of an uninterrupted run"
    )


def _payload(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("kind", "train_s")}
