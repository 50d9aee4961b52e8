"""Which checkpoints of a run are kept, and how the others are deleted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.artifacts import Artifact, open_store
from common.jobs import JobState
from services.trainer.references import references
from services.trainer.run import Run
from tests.services.trainer.run_in_process import InProcessRun


def checkpoint(here: InProcessRun, run: Run, step: int) -> Artifact:
    """Publishes a checkpoint of a run."""
    artifact = Artifact(f"{step:064x}", 1, "application/x", "default")
    with here.database.transaction() as session:
        here.runs.publish(session, run, [("checkpoint", {"step": step, "artifact": artifact.to_json()})])
    return artifact


@pytest.mark.slow
def test_a_run_keeps_its_last_two_and_says_which_it_gives_up(tmp_path: Path) -> None:
    here = InProcessRun(tmp_path)
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
    weights = [
        Artifact.from_json(event["best_weights"]) for event in here.events("checkpoint") if event["best_weights"]
    ]
    assert len(weights) > 1
    assert [store.exists("default", one.sha256) for one in weights] == [False] * (len(weights) - 1) + [True]
    superseded = {one.uri for one in (*made[:-2], *weights[:-1])}
    assert {record["resource"] for record in here.records} == superseded
    assert len(here.records) == len(superseded)
    assert {record["reason"] for record in here.records} == {"CHECKPOINT_SUPERSEDED"}


def test_what_was_not_deleted_is_tried_again_until_it_is_given_up(tmp_path: Path) -> None:
    here = InProcessRun(tmp_path)
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
            here.runs.drop(session, here.run(), [first, second])
        assert [one.artifact for one in here.runs.superseded(here.run())] == made[2:3]
    finally:
        here.close()


def test_weights_are_given_up_once_a_later_epoch_is_better(tmp_path: Path) -> None:
    here = InProcessRun(tmp_path)
    try:
        run = here.run()
        first, second = (Artifact(f"{n:064x}", 1, "application/x", "default") for n in (101, 102))
        for step, best in ((1, first), (2, None), (3, second)):
            payload = {"step": step, "artifact": Artifact(f"{step:064x}", 1, "application/x", "default").to_json()}
            if best:
                payload["best_weights"] = best.to_json()
            with here.database.transaction() as session:
                here.runs.publish(session, run, [("checkpoint", payload)])
        assert here.run().best_weights == second
        assert here.run().trained == here.run().checkpoint, "no epoch is known to be the best"
        superseded = here.runs.superseded(run)
        assert [one.artifact.sha256 for one in superseded] == [f"{1:064x}", first.sha256]
        with here.database.transaction() as session:
            kept = {one.sha256 for one in references(session)}
            here.runs.drop(session, run, superseded)
        assert second.sha256 in kept
        assert first.sha256 not in kept
        assert here.runs.superseded(run) == []
        with here.database.transaction() as session:
            here.runs.publish(session, run, [], best={"step": 2, "epoch": 2, "metrics": {"loss": 0.6}})
        assert here.run().trained == second
        # The last epoch is the best: its weights are in the last checkpoint.
        with here.database.transaction() as session:
            here.runs.publish(session, run, [], best={"step": 3, "epoch": 3, "metrics": {"loss": 0.5}})
        ended = here.run()
        assert ended.best_weights == ended.checkpoint
        assert (ended.best_step, ended.best_epoch, ended.metrics) == (3, 3, {"loss": 0.5})
    finally:
        here.close()


def test_a_checkpoint_that_another_run_begins_with_stays(tmp_path: Path) -> None:
    here = InProcessRun(tmp_path)
    try:
        run = here.run()
        adopted = checkpoint(here, run, 1)
        here.jobs.cancel("default", run.job.name)
        with here.database.transaction() as session:
            name = here.create(session, run.spec, run.dataset_manifest_sha256, adopt=True)
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


def test_nothing_is_given_up_while_a_run_executes_that_may_store_the_same_files(tmp_path: Path) -> None:
    here = InProcessRun(tmp_path)
    try:
        run = here.run()
        here.claim("owner")
        made = [checkpoint(here, run, step) for step in (1, 2, 3)]
        with here.database.transaction() as session:
            other = replace(run.spec, seed=run.spec.seed + 1)
            here.create(session, other, run.dataset_manifest_sha256)
            here.create(session, replace(run.spec, epochs=99), run.dataset_manifest_sha256)
        here.claim("another owner")
        assert [one.artifact for one in here.runs.superseded(run)] == made[:1]
        here.claim("the owner of the twin")
        assert here.runs.superseded(run) == []
    finally:
        here.close()
