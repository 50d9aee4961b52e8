"""Training runs: submit a spec, watch it learn, stop it, export the model."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from common.errors import InvalidArgument, Unavailable
from deepseek.client import jobs
from deepseek.client.pages import pages
from deepseek.models.selection import DEFAULT_ACCEPTED_LOSS
from deepseek.training.runspec import RunSpec
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh


def parse_spec(spec: Mapping[str, Any]) -> trainer_pb2.RunSpec:
    """Reads a run spec from plain data, such as a JSON or TOML file.

    Raises:
        InvalidArgument: UNKNOWN_FIELD or BAD_VALUE, with the field's path.
    """
    text = json.dumps(RunSpec.from_json(spec).to_json())
    try:
        return json_format.Parse(text, trainer_pb2.RunSpec())
    except json_format.ParseError as error:
        raise InvalidArgument("BAD_VALUE", f"the run spec cannot be sent: {error}", field="spec") from error


class Runs:
    """Reached as `Mesh.runs`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._stub = trainer_pb2_grpc.TrainerServiceStub(mesh.channel("trainer"))

    def submit(
        self, spec: Mapping[str, Any] | trainer_pb2.RunSpec, *, reuse: bool = True
    ) -> tuple[trainer_pb2.Run, bool]:
        """Starts a run.

        Args:
            spec: What to train, with the field names of `RunSpec`.
            reuse: Return an equal run that has succeeded or is under way, if there is one; else go on from the last
                checkpoint of an equal one that failed or was stopped.

        Returns:
            The run, and whether it existed already.

        Raises:
            InvalidArgument: With the field's path, as `TrainerService.SubmitRun` documents.
        """
        message = spec if isinstance(spec, trainer_pb2.RunSpec) else parse_spec(spec)
        request = trainer_pb2.SubmitRunRequest(spec=message, reuse=reuse, request_id=uuid.uuid4().hex)
        response = self._stub.SubmitRun(request)
        return response.run, response.reused

    def get(self, name: str) -> trainer_pb2.Run:
        """Looks a run up by name (`runs/<id>`)."""
        run: trainer_pb2.Run = self._stub.GetRun(trainer_pb2.GetRunRequest(name=name)).run
        return run

    def list(self) -> Iterator[trainer_pb2.Run]:
        """Every run, newest first."""
        for page in pages(self._stub.ListRuns, trainer_pb2.ListRunsRequest()):
            yield from page.runs

    def watch(self, name: str, *, after_sequence: int = 0, patience_s: float = 30) -> Iterator[trainer_pb2.RunEvent]:
        """The run's events, live, across restarts of the trainer; ends when the run has finished.

        Args:
            name: `runs/<id>`.
            after_sequence: Skip events up to this one.
            patience_s: Seconds for which the trainer may be away before this gives up.
        """
        last_seen = time.monotonic()
        while True:
            try:
                for response in self._stub.WatchRun(
                    trainer_pb2.WatchRunRequest(name=name, after_sequence=after_sequence)
                ):
                    after_sequence, last_seen = response.event.sequence, time.monotonic()
                    yield response.event
                return
            except Unavailable:
                if time.monotonic() - last_seen > patience_s:
                    raise
                time.sleep(0.2)

    def wait(self, name: str) -> trainer_pb2.Run:
        """Waits until the run has succeeded.

        Raises:
            MeshError: The run's own error if it FAILED; Cancelled if it was stopped.
        """
        jobs.wait(self._mesh.channel("trainer"), self.get(name).job)
        return self.get(name)

    def stop(self, name: str) -> trainer_pb2.Run:
        """Asks a run to stop; its last checkpoint stays."""
        run: trainer_pb2.Run = self._stub.StopRun(trainer_pb2.StopRunRequest(name=name)).run
        return run

    def export(
        self,
        run: str,
        model: str,
        *,
        int8: bool = False,
        int8_max_loss: float = DEFAULT_ACCEPTED_LOSS,
        on_change: Callable[[job_pb2.Job], None] | None = None,
    ) -> registry_pb2.ModelVersion:
        """Exports a run's model to ONNX and registers it.

        Args:
            run: `runs/<id>`, SUCCEEDED.
            model: Id of the model; it need not exist.
            int8: Also quantise to int8. Inference serves that file where it is at least 1.3 times as fast and accurate
                enough.
            int8_max_loss: Largest accepted loss compared with the float32 file, a fraction from 0 (none) to 1.
            on_change: Called with every state of the export job.

        Returns:
            The model version.
        """
        request = trainer_pb2.ExportModelRequest(
            run=run, model=f"models/{model}", int8=int8, int8_max_loss=int8_max_loss, request_id=uuid.uuid4().hex
        )
        job = jobs.wait(self._mesh.channel("trainer"), self._stub.ExportModel(request).job, on_change=on_change)
        return self._mesh.models.version(job.result)
