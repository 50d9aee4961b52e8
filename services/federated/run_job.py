"""The job that executes a federated run: it prepares the run once, and then executes its rounds with `RoundRunner`.

All writes are in transactions that check the lease, so a coordinator that has lost the job changes nothing. If this
process ends, the next lease holder continues with the stored round. While another service does not respond, the run
waits.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from common.artifacts import Artifact, ArtifactStore
from common.database import Database
from common.errors import UNANSWERED, Aborted, Cancelled, Internal, MeshError, Violation
from common.files import disk_error
from common.jobs import JobError, JobState, Lease, LeaseLost
from common.jobs.child import ChildProcess, attempt_directory
from common.jobs.following import Crashed, follow
from common.jobs.history import final_state
from common.jobs.job import JobRow
from common.processes import python
from deepseek.federated.arrays import from_bytes, shapes_of
from deepseek.federated.ports import SystemClock
from deepseek.federated.round_runner import RoundRunner
from deepseek.federated.rounds import Round, RoundState
from deepseek.federated.run_spec import below
from services.federated.collaborators import ArtifactVault, RunEngine, TenantLedger
from services.federated.evaluation import Evaluator
from services.federated.nodes import NodeStore
from services.federated.plans import fit_settings, plan_of
from services.federated.ports import Budgets, Registry
from services.federated.publishing import ModelPublisher, forget
from services.federated.round_store import SqlRoundStore, shown
from services.federated.run import FederatedRun
from services.federated.runs import Event, RunStore, warning
from services.federated.superlink import SuperLink

JOB_KIND = "federated.run"

_logger = logging.getLogger(__name__)


class _Stopping(Exception):
    """This process is shutting down; another one continues the run."""


def job_spec(run: str) -> str:
    """Returns the spec of the job that executes a run."""
    return json.dumps({"run": run})


class RunHandler:
    """Handles jobs of the kind `federated.run`. Several runs may execute at once, each in its own thread.

    Args:
        database: Migrated database.
        runs: Runs in the same database.
        nodes: Nodes in the same database.
        superlink: Carries tasks to nodes.
        store: Artifact store.
        registry: Registers model versions.
        budgets: Ledger of privacy budgets.
        directory: Working directory, with one subdirectory per active run.
        options: Entries of child processes' job files. They say how to open the artifact store, and where to write
            trace spans.
        max_runs: Maximum number of concurrent runs, among which the cores are divided.
        max_restarts: Number of times that a crashed child process is restarted before the run fails or, while a model
            is evaluated, before the round is released without a model version.
        evaluation_s: Seconds after which a child process that evaluates a model counts as crashed.
        max_round_bytes: Size in bytes that the updates of a round may have together.
    """

    def __init__(
        self,
        database: Database,
        runs: RunStore,
        nodes: NodeStore,
        superlink: SuperLink,
        store: ArtifactStore,
        registry: Registry,
        budgets: Budgets,
        directory: Path,
        options: Mapping[str, Any],
        *,
        max_runs: int,
        max_restarts: int,
        evaluation_s: float,
        max_round_bytes: float,
    ) -> None:
        self._database = database
        self._runs = runs
        self._nodes = nodes
        self._superlink = superlink
        self._store = store
        self._registry = registry
        self._budgets = budgets
        self._directory = directory
        self._options = options
        self._max_runs = max_runs
        self._max_restarts = max_restarts
        self._evaluation_s = evaluation_s
        self._max_round_bytes = max_round_bytes

    def __call__(self, lease: Lease) -> None:
        """Executes the run of the leased job, starting from its current round.

        Raises:
            LeaseLost: Another coordinator has taken over the job, or a service does not respond.
        """
        name = str(json.loads(lease.job.spec)["run"])
        run = self._runs.get(lease.job.tenant, name)

        def close(state: JobState, error: JobError | None = None) -> Callable[[Session], None]:
            def effect(session: Session) -> None:
                self._runs.publish(session, run.tenant, run.run_id, [final_state(state, error)])

            return effect

        try:
            with attempt_directory(self._directory / run.run_id, lease.attempt) as directory:
                self._execute(lease, run, directory)
        except _Stopping:
            return
        except (*UNANSWERED, Aborted) as error:
            if isinstance(error, Cancelled) and lease.cancelled.is_set():
                lease.mark_cancelled(close(JobState.CANCELLED))
                return
            # The run itself has not failed. The next lease holder continues it.
            raise LeaseLost(str(error)) from error
        except (MeshError, OSError) as error:
            failure = disk_error(error, self._directory, "files of the run") if isinstance(error, OSError) else error
            message = self._with_names(run, failure.message)
            failure = type(failure)(failure.reason, message, violations=failure.violations)
            lease.fail(failure, close(JobState.FAILED, JobError.of(failure)))
        finally:
            self._runs.wake()

    def _execute(self, lease: Lease, run: FederatedRun, directory: Path) -> None:
        def check() -> None:
            if lease.lost.is_set():
                raise LeaseLost(f"{lease.job.name} is held by another coordinator")
            if lease.cancelled.is_set():
                raise Cancelled("RUN_STOPPED", f"{run.name} was stopped")
            if lease.stopping.is_set():
                raise _Stopping

        @contextmanager
        def transaction() -> Iterator[Session]:
            with lease.transaction() as session:
                yield session
            self._runs.wake()

        def warn(reason: str, message: str) -> None:
            event = warning(reason, self._with_names(run, message))
            with transaction() as session:
                self._runs.publish(session, run.tenant, run.run_id, [event])

        if not run.initial_model:
            check()  # later, the runner does: a run that is stopped still releases what it has debited
        events: list[Event] = [("attempt", {"attempt": lease.attempt, "round": run.num_released + 1})]
        with transaction() as session:
            if self._runs.last_state(session, run) == JobState.PENDING.name:
                events.insert(0, ("state", {"state": JobState.RUNNING.name}))
            self._runs.publish(session, run.tenant, run.run_id, events)
        run = self._prepared(lease, run, directory / "prepare", transaction, warn)
        assert run.recipe is not None, "the run is prepared"
        assert run.initial_model is not None, "the run is prepared"
        recipe = json.loads(self._store.read(run.tenant, run.recipe))
        initial = from_bytes(self._store.read(run.tenant, run.initial_model), field="initial_model")
        plan = plan_of(
            run.name,
            run.spec,
            run.nodes,
            run.privacy,
            shapes=shapes_of(initial),
            initial_model=run.initial_model,
            recipe=recipe,
            max_round_bytes=self._max_round_bytes,
        )
        store = SqlRoundStore(
            self._database,
            run.tenant,
            transaction=transaction,
            announce=lambda session, changed: self._announce(session, lease, run, changed),
        )
        job = self._reference_data(run)
        with Evaluator(
            directory / "evaluator",
            recipe,
            job,
            max_runs=self._max_runs,
            max_restarts=self._max_restarts,
            timeout_s=self._evaluation_s,
        ) as evaluator:
            runner = RoundRunner(
                plan,
                store=store,
                engine=RunEngine(self._superlink, run.run_id),
                vault=ArtifactVault(self._store, run.tenant),
                ledger=TenantLedger(self._budgets, run.tenant),
                publisher=ModelPublisher(run, self._database, transaction, evaluator, self._registry, warn),
                clock=SystemClock(),
                check=check,
                warn=warn,
                members=lambda: {node.fingerprint for node in self._nodes.of(run.tenant, run.federation_id)},
            )
            with below("spec"):
                runner.run()

        def effect(session: Session) -> str:
            self._runs.publish(session, run.tenant, run.run_id, [final_state(JobState.SUCCEEDED)])
            return run.name

        lease.complete(effect)

    def _announce(self, session: Session, lease: Lease, run: FederatedRun, changed: Round) -> None:
        """Notifies watchers of a change to a round, in the transaction that stores the change."""
        names = {node.fingerprint: node.name for node in self._nodes.of(run.tenant, run.federation_id)}
        row = self._runs.publish(session, run.tenant, run.run_id, [("round", shown(changed, names))])
        if changed.state is RoundState.RELEASED:
            row.num_released = changed.round
            forget(session, run, changed)
        job = session.get(JobRow, lease.job_id)
        assert job is not None, "the lease has checked that the job exists"
        job.progress = row.num_released / run.spec.num_rounds
        job.message = f"round {changed.round} of {run.spec.num_rounds}: {changed.state.name.lower()}"

    def _with_names(self, run: FederatedRun, text: str) -> str:
        """Returns a text for people, in which nodes have their names instead of the fingerprints of their keys."""
        for node in self._nodes.of(run.tenant, run.federation_id):
            text = text.replace(node.fingerprint, node.name)
        return text

    def _prepared(
        self,
        lease: Lease,
        run: FederatedRun,
        directory: Path,
        transaction: Callable[[], AbstractContextManager[Session]],
        warn: Callable[[str, str], None],
    ) -> FederatedRun:
        """Returns the run with its recipe and its initial model, which the first attempt makes in a child process."""
        if run.recipe and run.initial_model:
            return run
        fit = fit_settings(run.spec, run.privacy)
        job = {
            **self._options,
            **self._reference_data(run),
            "spec": run.spec.model.to_json(),
            "checkpoint_sha256": None,
            "fit": fit.to_json(),
        }
        event = self._run_child(lease, run, directory, job, warn)
        recipe, arrays = Artifact.from_json(event["recipe"]), Artifact.from_json(event["arrays"])
        with transaction() as session:
            self._runs.prepared(session, run, recipe=recipe.sha256, initial_model=arrays.sha256)
        return self._runs.get(run.tenant, run.name)

    def _run_child(
        self,
        lease: Lease,
        run: FederatedRun,
        directory: Path,
        job: Mapping[str, Any],
        warn: Callable[[str, str], None],
    ) -> Mapping[str, Any]:
        """Runs the child process that prepares a run, until it has finished."""
        num_crashes = 0
        while True:
            argv = python("deepseek.federated.prepare")
            # One thread: the nodes may be on this machine, too, and preparing takes seconds.
            environment = {"OMP_NUM_THREADS": "1"}
            with ChildProcess(directory / str(num_crashes), argv, job, env=environment) as child:
                try:
                    event = follow(lease, child, on_warning=partial(warn, "PREPARATION"))
                except Crashed as crash:
                    num_crashes += 1
                    _logger.warning("the preparation of %s crashed (%d times)", run.name, num_crashes)
                    if num_crashes > self._max_restarts:
                        what = f"the preparation crashed {num_crashes} times; last lines of its log:\n{crash}"
                        raise Internal("PREPARATION_CRASHED", what) from crash
                    continue
                except MeshError as error:
                    raise _in_spec(error) from error
            if event is not None:
                return event
            if lease.cancelled.is_set():
                raise Cancelled("RUN_STOPPED", f"{run.name} was stopped")
            raise _Stopping

    def _reference_data(self, run: FederatedRun) -> dict[str, Any]:
        """Returns how child processes read the run's reference data."""
        store = {name: value for name, value in self._options.items() if name.startswith("store_")}
        data = {"dataset_manifest_sha256": run.dataset_manifest_sha256, "tenant": run.tenant}
        return {**store, **data, "init_manifest_sha256": run.init_manifest}


def _in_spec(error: MeshError) -> MeshError:
    """Returns an error about the spec of the model, with the paths that its fields have in the spec of the run."""

    def path(field: str) -> str:
        if error.reason.startswith("NOT_PRIVATE_"):
            return f"spec.model.{field}"
        return field.replace("spec.", "spec.model.", 1) if field.startswith("spec.") else field

    violations = [Violation(path(one.field), one.description) for one in error.violations]
    return type(error)(error.reason, error.message, violations=violations)
