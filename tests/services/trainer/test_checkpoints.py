"""Which checkpoints of a run are kept, and how the others are deleted."""

import json
from pathlib import Path

import pytest

from common.artifacts import Artifact, open_store
from common.jobs import JobState
from services.trainer.runs import Run
from tests.services.trainer.test_attempts import InProcess


def checkpoint(here: InProcess, run: Run, step: int) -> Artifact:
    """Publishes a checkpoint of a run."""
    artifact = Artifact(f"{step:064x}", 1, "application/x", "default")
    with here.database.transaction() as session:
        here.runs.publish(session, run, [("checkpoint", {"step": step, "artifact": artifact.to_json()})])
    return artifact


@pytest.mark.slow
def test_a_run_keeps_its_last_two_and_says_which_it_gives_up(tmp_path: Path) -> None:
    here = InProcess(tmp_path)
    try:
        here.carry_out(here.claim("owner")).join(240)
        assert here.run().job.state is JobState.SUCCEEDED, here.run().job
    finally:
        here.close()
    made = [Artifact.from_json(event["artifact"]) for event in here.events("checkpoint")]
    store = open_store(f"file://{tmp_path / 'store'}")
    assert len(made) > 2
    assert [store.exists("default", one.sha256) for one in made] == [False] * (len(made) - 2) + [True, True]
    assert here.run().checkpoint == made[-1]
    assert [record["resource"] for record in here.records] == [one.uri for one in made[:-2]]
    assert {record["reason"] for record in here.records} == {"CHECKPOINT_SUPERSEDED"}


def test_what_was_not_deleted_is_tried_again_until_it_is_given_up(tmp_path: Path) -> None:
    here = InProcess(tmp_path)
    try:
        made = [checkpoint(here, here.run(), step) for step in (1, 2)]
        assert here.runs.superseded(here.run()) == []
        made += [checkpoint(here, here.run(), step) for step in (3, 4)]
        first, second = here.runs.superseded(here.run())
        assert [first.artifact, second.artifact] == made[:2]
        assert first.next_us <= second.next_us
        # Killed before it was recorded: the same again, and the newest one too.
        checkpoint(here, here.run(), 5)
        assert [one.artifact for one in here.runs.superseded(here.run())] == made[:3]
        with here.database.transaction() as session:
            here.runs.drop(session, here.run(), second.sequence)
        assert [one.artifact for one in here.runs.superseded(here.run())] == made[2:3]
    finally:
        here.close()


def test_a_checkpoint_that_another_run_begins_with_stays(tmp_path: Path) -> None:
    here = InProcess(tmp_path)
    try:
        run = here.run()
        adopted = checkpoint(here, run, 1)
        here.jobs.cancel("default", run.job.name)
        with here.database.transaction() as session:
            name = here.runs.create(session, "default", run.spec, run.dataset_manifest_sha256, "f" * 64, adopt=True)
        assert here.runs.get("default", name).checkpoint == adopted
        for step in (2, 3):
            checkpoint(here, run, step)
        (one,) = here.runs.superseded(run)
        assert (one.artifact, one.is_needed) == (adopted, True)
        # The other run must not delete the checkpoint that it began with.
        other = here.runs.get("default", name)
        for step in (4, 5, 6):
            checkpoint(here, other, step)
        assert [json.loads(one.artifact.to_json())["sha256"] for one in here.runs.superseded(other)] == [f"{4:064x}"]
    finally:
        here.close()
