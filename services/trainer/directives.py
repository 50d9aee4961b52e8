"""Directives in the database: stored before they are passed on, and answered exactly once.

The answer is an event of the run. It is stored in the same transaction as the row of its directive, so a run that
resumes repeats exactly the directives that its history says were applied.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.database import Database, now_us
from common.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from common.jobs import JobState
from common.jobs.job import JobRow
from common.names import parse
from deepseek.steering.directive import REPEATED, Directive
from services.trainer.answers import Ack
from services.trainer.run import Run
from services.trainer.runs import RunStore
from services.trainer.tables import DirectiveRow, RunRow

MAX_UNANSWERED = 1000
"""Maximum number of unanswered directives per run."""
MAX_DIRECTIVES = 100_000
"""Maximum number of directives that a run gets."""


@dataclass(frozen=True)
class Numbered:
    """A directive, and its place in the order in which a run got its directives, from 1."""

    number: int
    directive: Directive


class DirectiveStore:
    """Directives of all runs. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
        runs: Run store in the same database.
    """

    def __init__(self, database: Database, runs: RunStore) -> None:
        self._database = database
        self._runs = runs

    def accept(self, run: Run, directive: Directive) -> Ack | None:
        """Stores a directive, unless it has been stored before.

        Returns:
            The answer, if it has been answered; None if the answer will be an event of the run.

        Raises:
            InvalidArgument: MISSING_FIELD, BAD_VALUE or UNKNOWN_COMPONENT.
            AlreadyExists: DIRECTIVE_ID_REUSED.
            NotFound: CHECKPOINT_NOT_FOUND or RUN_NOT_FOUND.
            FailedPrecondition: RUN_ENDED or RUN_MISMATCH.
            ResourceExhausted: TOO_MANY_DIRECTIVES.
        """
        directive = directive.checked()
        with self._database.transaction() as session:
            row = self._runs.row(session, run.tenant, run.run_id, lock=True)
            known = session.get(DirectiveRow, (run.tenant, run.run_id, directive.id))
            if known is not None:
                return _answer(known, directive)
            job = session.get_one(JobRow, row.job_id)
            if JobState(job.state).final:
                message = f"{run.name} has ended with the state {job.state}"
                raise FailedPrecondition("RUN_ENDED", message, field="directive")
            self._check_number(session, row)
            content, artifact = self._complete(session, row, directive)
            row.num_directives = (row.num_directives or 0) + 1
            session.add(
                DirectiveRow(
                    tenant=run.tenant,
                    run_id=run.run_id,
                    directive_id=directive.id,
                    number=row.num_directives,
                    content=json.dumps(content.to_json()),
                    artifact=artifact,
                )
            )
            return None

    def after(self, run: Run, number: int) -> Sequence[Numbered]:
        """Returns the unanswered directives with greater numbers, in order."""
        with self._database.snapshot() as session:
            return _unanswered(session, run, number)

    def at_start(self, session: Session, run: Run) -> tuple[Sequence[Directive], int]:
        """Returns the directives that workers get when they start, and the number of the last one that is stored.

        First come those that were applied since the last checkpoint, in the order in which they were applied.
        """
        own = (DirectiveRow.tenant == run.tenant, DirectiveRow.run_id == run.run_id)
        later = select(DirectiveRow).where(*own, DirectiveRow.applied_step > run.checkpoint_step)
        old = select(DirectiveRow).where(*own, DirectiveRow.applied_step.is_(None), DirectiveRow.sequence.is_not(None))
        repeated = []
        for row in sorted([*session.scalars(later), *session.scalars(old)], key=lambda row: row.sequence or 0):
            directive, ack = Directive.from_json(json.loads(row.content)), json.loads(row.ack or "{}")
            if directive.action in REPEATED and not ack["error"] and ack["applied_step"] > run.checkpoint_step:
                repeated.append(replace(directive, applied_step=ack["applied_step"]))
        last = self._runs.row(session, run.tenant, run.run_id).num_directives or 0
        return [*repeated, *(one.directive for one in _unanswered(session, run, 0))], last

    def _complete(self, session: Session, row: RunRow, directive: Directive) -> tuple[Directive, str | None]:
        """Returns what is stored of a directive: with the time at which it expires, and the checkpoint to restore."""
        if directive.expire_after_s:
            directive = replace(directive, expire_us=now_us() + round(1e6 * directive.expire_after_s))
        if directive.action != "restore":
            return directive, None
        source, step = self._source(session, row, directive.value["run"]), directive.value["step"]
        kept = self._runs.kept_checkpoints(session, source)
        if step not in kept:
            steps = " and ".join(map(str, sorted(kept))) or "no step"
            message = f"the run keeps no checkpoint of step {step}; it keeps those of {steps}"
            raise NotFound("CHECKPOINT_NOT_FOUND", message, field="directive.restore.step")
        sha256 = Artifact.from_json(kept[step]).sha256
        return replace(directive, value={**directive.value, "sha256": sha256}), kept[step]

    def _source(self, session: Session, row: RunRow, name: str) -> RunRow:
        """Returns the run whose checkpoint is restored: the run itself, or one that trains the same model."""
        if not name:
            return row
        field = "directive.restore.run"
        (run_id,) = parse(name, "runs/{}", field=field)
        source = self._runs.row(session, row.tenant, run_id, field=field)
        own, other = json.loads(row.spec), json.loads(source.spec)
        alike = all(own[part] == other[part] for part in ("model", "inputs", "target"))
        alike = alike and own["optimizer"]["name"] == other["optimizer"]["name"]
        alike = alike and row.dataset_manifest_sha256 == source.dataset_manifest_sha256
        if not alike or own["privacy"] or other["privacy"]:
            message = (
                f"{name} trains another model, on other data, with another optimizer, or one of the runs is private"
            )
            raise FailedPrecondition("RUN_MISMATCH", message, field=field)
        return source

    def _check_number(self, session: Session, row: RunRow) -> None:
        unanswered = select(func.count()).where(
            DirectiveRow.tenant == row.tenant, DirectiveRow.run_id == row.run_id, DirectiveRow.ack.is_(None)
        )
        if (row.num_directives or 0) >= MAX_DIRECTIVES:
            message = f"the run got {row.num_directives} directives; at most {MAX_DIRECTIVES} are accepted"
            raise ResourceExhausted("TOO_MANY_DIRECTIVES", message, field="directive")
        if (session.scalar(unanswered) or 0) >= MAX_UNANSWERED:
            message = f"the run has {MAX_UNANSWERED} unanswered directives; wait until it has answered some"
            raise ResourceExhausted("TOO_MANY_DIRECTIVES", message, field="directive")


def _unanswered(session: Session, run: Run, number: int) -> Sequence[Numbered]:
    query = select(DirectiveRow).where(
        DirectiveRow.tenant == run.tenant,
        DirectiveRow.run_id == run.run_id,
        DirectiveRow.number > number,
        DirectiveRow.ack.is_(None),
    )
    rows = session.scalars(query.order_by(DirectiveRow.number))
    return [Numbered(row.number, Directive.from_json(json.loads(row.content))) for row in rows]


def _answer(row: DirectiveRow, directive: Directive) -> Ack | None:
    """Returns the answer to a directive that is sent again; None if there is none yet."""
    stored, sent = json.loads(row.content), directive.to_json()
    if row.artifact:
        stored["value"].pop("sha256")
    if any(stored[name] != sent[name] for name in ("action", "value", "apply_at_step", "expire_after_s")):
        message = f"the run got another directive with the id {directive.id!r}; choose another id"
        raise AlreadyExists("DIRECTIVE_ID_REUSED", message, field="directive.id")
    return json.loads(row.ack) if row.ack else None
