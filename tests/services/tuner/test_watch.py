"""Watching studies over gRPC."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from common.errors import FailedPrecondition, MeshError, NotFound
from deepseek.client.studies import Studies
from protos.tuner.v1 import tuner_pb2
from tests.services.tuner.specs import SPEC, Start


@pytest.mark.parametrize("why", ["all trials", "all points"])
def test_a_watch_ends_with_the_last_trial_of_a_study(studies: Studies, why: str) -> None:
    points = {"parameters": [{"name": "x", "choices": {"values": [1, 2]}}], "algorithm": {"name": "grid"}}
    studies.create("digits", {**SPEC, "max_trials": 2} if why == "all trials" else {**SPEC, **points})
    seen: list[tuner_pb2.Trial] = []
    watcher = threading.Thread(target=lambda: seen.extend(studies.watch("digits")), daemon=True)
    watcher.start()
    for trial in studies.suggest("digits", "worker", 3):
        studies.complete(trial.name, loss=1.0)
    with pytest.raises(FailedPrecondition):
        studies.suggest("digits", "worker")
    watcher.join(30)
    assert not watcher.is_alive()
    assert {trial.name for trial in seen} == {"studies/digits/trials/1", "studies/digits/trials/2"}


def test_a_watch_does_not_continue_with_another_study_of_the_same_name(start: Start) -> None:
    watching, other = start(), start()
    watching.create("digits", SPEC)
    watching.suggest("digits", "worker")
    watch = watching._stub.WatchStudy(tuner_pb2.WatchStudyRequest(name="studies/digits"))
    assert next(iter(watch)).trial.name == "studies/digits/trials/1"
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(list, watch)
        other.delete("digits")
        other.create("digits", SPEC)
        other.suggest("digits", "worker", 5)
        with pytest.raises(NotFound) as error:
            ended.result(30)
    assert error.value.reason == "STUDY_NOT_FOUND"


def test_watching_yields_every_trial_in_its_last_state(studies: Studies) -> None:
    studies.create("digits", SPEC)
    studies.suggest("digits", "worker", 2)
    studies.complete("digits/1", loss=1.0)
    stored = list(studies.watch("digits", stored_only=True))
    assert [trial.name.rpartition("/")[2] for trial in stored] == ["2", "1"]
    assert not list(studies.watch("digits", after_sequence=stored[-1].sequence, stored_only=True))
    seen: list[tuner_pb2.Trial] = []
    watcher = threading.Thread(target=lambda: seen.extend(studies.watch("digits")))
    watcher.start()
    studies.complete("digits/2", loss=2.0)
    studies.suggest("digits", "worker")
    studies.stop("digits")
    studies.end_early("digits/3")
    watcher.join(30)
    assert not watcher.is_alive()
    last = {trial.name.rpartition("/")[2]: trial.state for trial in seen}
    assert last == {
        "1": tuner_pb2.TRIAL_STATE_SUCCEEDED,
        "2": tuner_pb2.TRIAL_STATE_SUCCEEDED,
        "3": tuner_pb2.TRIAL_STATE_STOPPED,
    }


def test_a_stopping_server_ends_watches(tmp_path: Any) -> None:
    from common.channel import open_channel
    from tests.harness.in_process import service_in_process
    from tests.services.tuner.conftest import studies_at

    with service_in_process("tuner", tmp_path / "home") as server, open_channel(server.address) as channel:
        studies = studies_at(channel)
        studies.create("digits", SPEC)
        watch = studies._stub.WatchStudy(tuner_pb2.WatchStudyRequest(name="studies/digits"))
        studies.suggest("digits", "worker")
        next(iter(watch))
        stopper = threading.Thread(target=lambda: server.stop(5))
        stopper.start()
        with pytest.raises((MeshError, grpc.RpcError)):
            list(watch)
        stopper.join(30)
        assert not stopper.is_alive()
