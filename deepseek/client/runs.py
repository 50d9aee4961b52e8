"""Client of a mesh's training runs: submits, watches, stops, labels and deletes runs, and exports models.

Names of runs are ids or resource names: `x7` or `runs/x7`.
"""

from __future__ import annotations

import builtins
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from common.errors import Cancelled, FailedPrecondition, InvalidArgument
from deepseek.client import jobs
from deepseek.client.connection import Connection
from deepseek.client.models import Models
from deepseek.client.names import Collection, budget_name, run_name, series_id, version_name
from deepseek.client.pages import pages
from deepseek.client.resume import PATIENCE_S, resumed
from deepseek.client.run_log import RunLog
from deepseek.client.steering import Steering
from deepseek.models.selection import DEFAULT_ACCEPTED_LOSS
from deepseek.trainjob.json_values import plain
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import Problems
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc

SUBMIT_PRIVATE_S = 180.0
"""Deadline of SubmitRun for a private run, in seconds: it may compute how much noise a budget allows."""

_VERSIONS: Mapping[str, Collection] = {"dataset_version": "datasets", "init": "models"}


def parse_spec(spec: Mapping[str, Any], *, path: str = "spec") -> trainer_pb2.RunSpec:
    """Converts plain data, such as the parsed content of a JSON or TOML file, to a run spec.

    `dataset_version`, `init` and the budget of `privacy` may have any form that `deepseek.client.names` reads, e.g.
    `colours:3`.

    Args:
        spec: The data.
        path: Path of the spec, for errors.

    Raises:
        InvalidArgument: UNKNOWN_FIELD, BAD_VALUE or BAD_NAME, with the path of the first invalid field. The violations
            list every invalid field.
    """
    given, problems, read = dict(spec), Problems(), RunSpec()
    for field, collection in _VERSIONS.items():
        if isinstance(given.get(field), str) and given[field]:
            with problems.caught():
                given[field] = version_name(given[field], collection, field=f"{path}.{field}")
    privacy = given.get("privacy")
    if isinstance(privacy, Mapping) and isinstance(privacy.get("budget"), str) and privacy["budget"]:
        with problems.caught():
            budget = budget_name(privacy["budget"], field=f"{path}.privacy.budget")
            given["privacy"] = {**privacy, "budget": budget}
    with problems.caught():
        read = RunSpec.from_json(given, path=path)
    problems.check()
    text = json.dumps(read.to_json())
    try:
        return json_format.Parse(text, trainer_pb2.RunSpec())
    except json_format.ParseError as error:
        raise InvalidArgument("BAD_VALUE", f"the run spec cannot be sent: {error}", field=path) from error


class Runs:
    """Client of a mesh's training runs, available as `Mesh.runs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = trainer_pb2_grpc.TrainerServiceStub(connection.channel("trainer"))

    def submit(
        self, spec: Mapping[str, Any] | trainer_pb2.RunSpec, *, reuse: bool = True, exportable: bool = False
    ) -> tuple[trainer_pb2.Run, bool]:
        """Starts a run, or returns an equal run that already exists.

        Args:
            spec: Run spec, with the field names of `RunSpec`.
            reuse: Whether to reuse the work of equal runs, i.e. runs with the same fingerprint. If an equal run has
                succeeded or is active, it is returned, and no run is started. Otherwise, if equal runs failed or were
                stopped, the new run resumes from the most advanced checkpoint among them.
            exportable: Whether a new run fails before its first step if its model cannot be exported.

        Returns:
            The run, and whether it existed before this call.

        Raises:
            InvalidArgument: Any InvalidArgument error that `TrainerService.SubmitRun` documents, with the path of the
                invalid field.
        """
        message = spec if isinstance(spec, trainer_pb2.RunSpec) else parse_spec(spec)
        request = trainer_pb2.SubmitRunRequest(spec=message, reuse=reuse, exportable=exportable)
        request.request_id = uuid.uuid4().hex
        response = self._stub.SubmitRun(request, timeout=SUBMIT_PRIVATE_S if message.HasField("privacy") else None)
        return response.run, response.reused

    def get(self, name: str) -> trainer_pb2.Run:
        """Returns a run by name."""
        run: trainer_pb2.Run = self._stub.GetRun(trainer_pb2.GetRunRequest(name=run_name(name, field="name"))).run
        return run

    def list(self) -> Iterator[trainer_pb2.Run]:
        """Yields every run, newest first."""
        for page in pages(self._stub.ListRuns, trainer_pb2.ListRunsRequest()):
            yield from page.runs

    def watch(
        self, name: str, *, after_sequence: int = 0, patience_s: float = PATIENCE_S
    ) -> Iterator[trainer_pb2.RunEvent]:
        """Yields the events of a run until the run ends. Resumes if the trainer restarts.

        Args:
            name: Name of the run.
            after_sequence: Sequence number. Only events with a higher number are yielded.
            patience_s: Time in seconds. If the trainer is unavailable, this call retries until it has waited this long
                for the next event.
        """
        run = run_name(name, field="name")

        def rest() -> Iterator[trainer_pb2.WatchRunResponse]:
            request = trainer_pb2.WatchRunRequest(name=run, after_sequence=after_sequence)
            return iter(self._stub.WatchRun(request))

        for response in resumed(rest, patience_s=patience_s):
            after_sequence = response.event.sequence
            yield response.event

    def steer(self, name: str, *, after_sequence: int | None = None, patience_s: float = PATIENCE_S) -> Steering:
        """Opens a stream of directives to a run, as a context manager.

            with mesh.runs.steer("x7") as steering:
                steering.apply(set_learning_rate=0.001)

        Args:
            name: Name of the run.
            after_sequence: Sequence number. `Steering.events` yields only events with a higher number; by default, it
                yields none, and the stream has only the answers.
            patience_s: As for `watch`.
        """
        run = run_name(name, field="name")
        return Steering(self._stub, run, after_sequence=after_sequence, patience_s=patience_s)

    def history(self, name: str) -> builtins.list[trainer_pb2.RunEvent]:
        """Returns the events of a run so far."""
        request = trainer_pb2.WatchRunRequest(name=run_name(name, field="name"), stored_only=True)
        return [response.event for response in self._stub.WatchRun(request)]

    def update(
        self,
        name: str,
        *,
        display_name: str | None = None,
        note: str | None = None,
        set_tags: Mapping[str, str] = MappingProxyType({}),
        remove_tags: Iterable[str] = (),
    ) -> trainer_pb2.Run:
        """Changes the labels of a run.

        Args:
            name: Name of the run.
            display_name: New name for people; None leaves it unchanged.
            note: New note; None leaves it unchanged.
            set_tags: Tags to add or replace.
            remove_tags: Keys of tags to remove.
        """
        request = trainer_pb2.UpdateRunRequest(
            name=run_name(name, field="name"),
            display_name=display_name,
            note=note,
            set_tags=_tags(set_tags),
            remove_tags=remove_tags,
        )
        run: trainer_pb2.Run = self._stub.UpdateRun(request).run
        return run

    def delete(self, name: str) -> None:
        """Deletes a run with its history.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_ACTIVE if the run is active; RUN_REFERENCED if a model version was made from it.
        """
        self._stub.DeleteRun(trainer_pb2.DeleteRunRequest(name=run_name(name, field="name")))

    def log(
        self,
        name: str = "",
        *,
        parameters: Mapping[str, Any] = MappingProxyType({}),
        tags: Mapping[str, str] = MappingProxyType({}),
        note: str = "",
        resume: str = "",
    ) -> RunLog:
        """Logs the figures of your own program as a run, which is listed, plotted and compared like any other.

            with connect() as mesh, mesh.runs.log("my experiment", parameters={"lr": 0.1}) as run:
                for step in range(100):
                    run.log(step, loss=train_step())

        Args:
            name: Name for people.
            parameters: Parameters to record.
            tags: Tags of the run.
            note: Free text.
            resume: `runs/<id>` of an external run to continue, instead of creating one.

        Returns:
            The run, as a context manager that ends the run with the block.

        Raises:
            FailedPrecondition: NOT_EXTERNAL or RUN_ENDED if the run to continue is not external, or has ended.
        """
        if resume:
            request = trainer_pb2.LogRunRequest(name=run_name(resume, field="resume"))
            run = self._stub.LogRun(request).run
            if run.job.state != job_pb2.JOB_STATE_RUNNING:
                raise FailedPrecondition("RUN_ENDED", f"{run.name} has ended; create another run", field="resume")
            return RunLog(self._stub, run)
        values = Struct()
        json_format.ParseDict(plain(dict(parameters), "parameters"), values)
        create = trainer_pb2.CreateExternalRunRequest(
            display_name=name, note=note, tags=_tags(tags), parameters=values, request_id=uuid.uuid4().hex
        )
        return RunLog(self._stub, self._stub.CreateExternalRun(create).run)

    def wait(self, name: str) -> trainer_pb2.Run:
        """Waits until the run has succeeded.

        Raises:
            MeshError: The run FAILED. The exception has the class, reason, message and field of the run's error.
            Cancelled: JOB_CANCELLED if the run was stopped.
        """
        run = self.get(name)
        try:
            jobs.wait(self._connection.channel("trainer"), run.job)
        except Cancelled as error:
            if error.reason != "JOB_CANCELLED" or run.external:
                raise
            raise Cancelled("JOB_CANCELLED", self._how_to_resume(run.name)) from error
        return self.get(name)

    def _how_to_resume(self, name: str) -> str:
        """Returns what to say about a run that was stopped."""
        events = self.history(name)
        if not any(event.HasField("directive") for event in events):
            return f"{name} was stopped; to resume it, repeat the same `deepseek train` or submit its spec again"
        message = f"{name} was steered and then stopped, so no new run resumes from its checkpoint"
        saved = [event.checkpoint.step for event in events if event.HasField("checkpoint")]
        if not saved:
            return f"{message}; submit its spec again to start from the beginning"
        restore = f"--restore {saved[-1]} --restore-from {name.removeprefix('runs/')}"
        return f"{message}; start a new run, and bring the weights back with `deepseek run steer NEW {restore}`"

    def stop(self, name: str) -> trainer_pb2.Run:
        """Asks a run to stop. The run's last checkpoint is kept."""
        request = trainer_pb2.StopRunRequest(name=run_name(name, field="name"))
        run: trainer_pb2.Run = self._stub.StopRun(request).run
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
            run: Name of a run that has SUCCEEDED.
            model: Name of the model, which need not exist.
            int8: Whether to export an int8 file in addition to the float32 file. The inference service serves the int8
                file on hosts where this file is accurate enough and at least 1.3 times as fast as the float32 file.
            int8_max_loss: Maximum accepted loss of the int8 file relative to the float32 file, as a fraction from 0 (no
                loss) to 1. `ExportModelRequest` defines this loss.
            on_change: Called with each update of the export job.

        Returns:
            The new model version.
        """
        request = trainer_pb2.ExportModelRequest(
            run=run_name(run),
            model=f"models/{series_id(model, 'models', field='model')}",
            int8=int8,
            int8_max_loss=int8_max_loss,
            request_id=uuid.uuid4().hex,
        )
        job = jobs.wait(self._connection.channel("trainer"), self._stub.ExportModel(request).job, on_change=on_change)
        return Models(self._connection).version(job.result)


def _tags(tags: Mapping[str, str]) -> list[trainer_pb2.Tag]:
    return [trainer_pb2.Tag(key=key, value=value) for key, value in tags.items()]
