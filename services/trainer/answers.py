"""Answers to directives, stored together with the events that they are.

A directive is answered when a worker has applied or refused it, or when its run ends. The first answer counts: workers
that resume apply directives again, and a run may end while a directive is under way.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from common.database import now_us
from common.errors import FailedPrecondition, MeshError
from common.jobs import JobState
from common.jobs.job import UNFINISHED, JobRow
from deepseek.steering.directive import REPEATED, Directive
from services.trainer.tables import DirectiveRow, RunRow

Ack = Mapping[str, Any]
"""The answer to a directive: the payload of an event of the kind `directive`."""
Events = Sequence[tuple[str, Mapping[str, Any]]]
"""Pairs of kind and payload."""


def refused(directive: Directive, error: MeshError) -> Ack:
    """Returns the answer to a directive that is not applied."""
    found = {"code": error.code, "reason": error.reason, "message": error.message, "field": error.field}
    return {
        "directive_id": directive.id,
        "action": directive.action,
        "applied_step": 0,
        "late": False,
        "apply_us": now_us(),
        "old": None,
        "new": None,
        "error": found,
    }


def settled(session: Session, row: RunRow, events: Events) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the events to store, and notes which directives they answer.

    An answer to a directive that has been answered is left out. Before the event that ends the run, the directives that
    have not been answered are answered. The caller must store each event before it asks for the next one.
    """
    for kind, payload in events:
        if kind == "state" and JobState[payload["state"]].final:
            message = f"the run ended with the state {payload['state']} before it applied the directive"
            for one in session.scalars(_of(row).where(DirectiveRow.ack.is_(None)).order_by(DirectiveRow.number)):
                directive = Directive.from_json(json.loads(one.content))
                ack = refused(directive, FailedPrecondition("RUN_ENDED", message, field="directive"))
                _answer(one, ack, row.num_events + 1)
                yield "directive", ack
        if kind == "directive":
            answered = session.get(DirectiveRow, (row.tenant, row.run_id, payload["directive_id"]))
            if answered is None or answered.ack:
                continue
            _answer(answered, payload, row.num_events + 1)
        yield kind, payload


def _answer(row: DirectiveRow, ack: Ack, sequence: int) -> None:
    row.ack, row.sequence = json.dumps(dict(ack)), sequence
    is_repeated = ack["action"] in REPEATED and not ack["error"]
    row.applied_step = ack["applied_step"] if is_repeated else 0


def restored(tenant: str | None = None) -> Select[str | None]:
    """Selects the checkpoints that active runs restore, or would restore again after a crash."""
    query = (
        select(DirectiveRow.artifact)
        .join(RunRow, (RunRow.tenant == DirectiveRow.tenant) & (RunRow.run_id == DirectiveRow.run_id))
        .join(JobRow, JobRow.job_id == RunRow.job_id)
        .where(JobRow.state.in_(UNFINISHED), DirectiveRow.artifact.is_not(None))
    )
    return query.where(DirectiveRow.tenant == tenant) if tenant else query


def _of(row: RunRow) -> Select[DirectiveRow]:
    return select(DirectiveRow).where(DirectiveRow.tenant == row.tenant, DirectiveRow.run_id == row.run_id)
