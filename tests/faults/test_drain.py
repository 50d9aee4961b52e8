"""SIGTERM: what was accepted is finished, what is new is refused, and goes through once the service is back."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.channel import open_channel
from common.errors import MeshError, Unavailable
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from tests.faults.workload import answer, request_id
from tests.harness.processes import wait_until
from tests.harness.subprocesses import ServiceSubprocess
from tests.services.ingest.client import NUMBERS, IngestClient, messages, number

pytestmark = pytest.mark.faults

SAMPLES = [number(i) for i in range(60)]


def test_a_service_told_to_stop_finishes_what_it_has_accepted_and_refuses_the_rest(tmp_path: Path) -> None:
    with ExitStack() as owned:
        service = ServiceSubprocess("ingest", tmp_path, settings={"registry": "127.0.0.1:1", "drain_s": "60"})
        owned.callback(service.close)
        service.start()
        client = IngestClient(service.channel(), service.channel())
        upload = client.create("drained", NUMBERS)
        created = client.state(upload)
        go_on = threading.Event()

        def requests() -> Iterator[ingest_pb2.UploadSamplesRequest]:
            yield from messages(upload, SAMPLES[:50])
            go_on.wait(60)
            yield ingest_pb2.UploadSamplesRequest(offset=50, samples=SAMPLES[50:])

        accepted = client.ingest.UploadSamples.future(requests(), timeout=120)
        wait_until(lambda: client.state(upload).update_time != created.update_time, "the stream to be accepted")
        os.kill(service.pid, signal.SIGTERM)

        create = ingest_pb2.CreateUploadRequest(dataset="datasets/later", schema=NUMBERS, request_id=request_id())

        def is_refused() -> bool:
            with open_channel(service.address, retry=False) as channel:
                try:
                    ingest_pb2_grpc.IngestServiceStub(channel).GetUpload(ingest_pb2.GetUploadRequest(name=upload))
                except Unavailable:
                    return True
            return False

        wait_until(is_refused, "new calls to be refused")
        go_on.set()
        assert accepted.result(60).upload.num_samples == len(SAMPLES)
        service.stop()

        made: list[str] = []
        call = threading.Thread(target=lambda: made.append(answer(client.ingest.CreateUpload, create).upload.name))
        call.start()
        service.start()
        call.join(60)
        assert client.state(upload).num_samples == len(SAMPLES)
        assert [client.state(name).dataset for name in made] == ["datasets/later"]


NUM_CALLERS = 6


def test_whoever_calls_while_it_stops_hears_that_it_does_and_nothing_else(tmp_path: Path) -> None:
    errors: list[MeshError] = []

    def call_until_refused(address: str) -> None:
        with open_channel(address) as channel:
            stub = ingest_pb2_grpc.IngestServiceStub(channel)
            while True:
                try:
                    stub.CreateUpload(ingest_pb2.CreateUploadRequest(dataset="datasets/d", schema=NUMBERS), timeout=20)
                except MeshError as error:
                    errors.append(error)
                    return

    with ExitStack() as owned:
        service = ServiceSubprocess("ingest", tmp_path, settings={"registry": "127.0.0.1:1"})
        owned.callback(service.close)
        for _ in range(5):
            service.start()
            callers = [threading.Thread(target=call_until_refused, args=(service.address,)) for _ in range(NUM_CALLERS)]
            for caller in callers:
                caller.start()
            time.sleep(0.5)
            service.stop()
            for caller in callers:
                caller.join(60)
    assert len(errors) == 5 * NUM_CALLERS
    assert {error.code for error in errors} == {"UNAVAILABLE"}
