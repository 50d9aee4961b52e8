"""A worker for tests that kill it. It evaluates trials, and records acknowledged changes in a file.

Started as `python -m tests.services.tuner.crash_worker ADDRESS STUDY CLIENT_ID JOURNAL ATTEMPT`. On SIGTERM, it ends
after the trial that it evaluates. Every call is repeated until it is answered, as a worker does that outlives the
tuner. What it measures depends on the attempt, so that a measurement of an earlier attempt can be told apart.
"""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from google.protobuf import json_format

from common.channel import open_channel
from common.errors import UNANSWERED
from protos.trainer.v1 import trainer_pb2
from protos.tuner.v1 import tuner_pb2, tuner_pb2_grpc

NUM_STEPS = 3
PATIENCE_S = 60.0


class Journal:
    """A file with one line per acknowledged call, which a kill can neither tear nor take back."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **record: Any) -> None:
        """Records the acknowledged changes."""
        os.write(self._file, json.dumps(record).encode() + b"\n")


def answer(call: Any, request: Any) -> Any:
    """Calls until there is an answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call(request)
        except UNANSWERED:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def evaluate(stub: tuner_pb2_grpc.TunerServiceStub, study: str, client_id: str, journal: Journal, attempt: int) -> None:
    """Evaluates one trial."""
    (trial,) = answer(stub.SuggestTrials, tuner_pb2.SuggestTrialsRequest(parent=study, client_id=client_id)).trials
    values = json_format.MessageToDict(trial.parameters)
    journal.write(given=trial.name, parameters=values)
    loss = float(values["depth"]) + attempt / 1024
    metrics = [trainer_pb2.MetricValue(name="loss", value=loss)]
    for step in range(1, NUM_STEPS + 1):
        measurement = tuner_pb2.Measurement(step=step, metrics=metrics)
        request = tuner_pb2.AddMeasurementRequest(name=trial.name, measurement=measurement, check_early_stopping=True)
        added = answer(stub.AddMeasurement, request)
        journal.write(measured=trial.name, step=step, loss=None if added.already_measured else loss)
    final = tuner_pb2.CompleteTrialRequest(name=trial.name, final=tuner_pb2.FinalMetrics(metrics=metrics))
    answer(stub.CompleteTrial, final)
    journal.write(ended=trial.name, loss=loss)


def main(address: str, study: str, client_id: str, path: str, attempt: str) -> None:
    """Evaluates trials until SIGTERM."""
    enough = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: enough.set())
    with open_channel(address, deadline_s=10) as channel:
        stub = tuner_pb2_grpc.TunerServiceStub(channel)
        journal = Journal(path)
        while not enough.is_set():
            evaluate(stub, study, client_id, journal, int(attempt))


if __name__ == "__main__":
    main(*sys.argv[1:])
