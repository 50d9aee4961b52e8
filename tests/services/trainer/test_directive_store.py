"""Directives in the database: what workers get when they start, and that no query reads directives it does not need."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from deepseek.steering.directive import Directive
from deepseek.training.events import DirectiveEvent, Values
from services.trainer.directives import DirectiveStore
from tests.services.trainer.run_in_process import InProcessRun


@pytest.fixture
def run(tmp_path: Path) -> Iterator[InProcessRun]:
    made = InProcessRun(tmp_path)
    yield made
    made.database.close()


def rate(name: str) -> Directive:
    return Directive(name, "set_learning_rate", 0.01)


def answer(run: InProcessRun, name: str, step: int) -> None:
    """Stores the answer of a worker."""
    values = Values(0.01, 0.9)
    ack = asdict(DirectiveEvent(name, "set_learning_rate", step, False, 0, values, values))
    found = run.runs.get("default", run.name)
    with run.database.transaction() as session:
        run.runs.publish(session, found, [("directive", ack)])


def test_workers_get_what_was_applied_since_the_checkpoint_and_what_is_not_answered(run: InProcessRun) -> None:
    store, found = DirectiveStore(run.database, run.runs), run.runs.get("default", run.name)
    for name in ("a", "b", "c", "d"):
        assert store.accept(found, rate(name)) is None
    answer(run, "b", 7)
    answer(run, "a", 9)
    with run.database.transaction() as session:
        given, last = store.at_start(session, found)
    assert [(one.id, one.applied_step) for one in given] == [("b", 7), ("a", 9), ("c", 0), ("d", 0)]
    assert last == 4
    with run.database.transaction() as session:
        given, _ = store.at_start(session, replace(found, checkpoint_step=8))
    assert [one.id for one in given] == ["a", "c", "d"]


def test_no_query_reads_all_directives_of_a_run(run: InProcessRun) -> None:
    store, found = DirectiveStore(run.database, run.runs), run.runs.get("default", run.name)
    plans: dict[str, str] = {}

    def explain(connection: Any, _cursor: Any, statement: str, given: Any, _context: Any, _many: bool) -> None:
        if statement.startswith("SELECT") and " directives" in statement:
            cursor = connection.connection.cursor()
            plans[statement] = " ".join(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given))

    event.listen(run.database.engine, "before_cursor_execute", explain)
    store.accept(found, rate("a"))
    store.after(found, 0)
    with run.database.transaction() as session:
        store.at_start(session, found)
    answer(run, "a", 3)
    event.remove(run.database.engine, "before_cursor_execute", explain)
    used = [plan for plan in plans.values() if "directive_id=?" not in plan]
    assert len(used) == 4
    allowed = ("directives_unanswered", "directives_by_step (tenant=? AND run_id=? AND applied_step")
    assert all(any(index in plan for index in allowed) for plan in used), plans
