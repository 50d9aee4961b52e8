"""Finds the runs that use a version, before the version is deleted.

The registry knows which aliases and versions refer to a version, but only the trainer knows its runs.
"""

from common.errors import FailedPrecondition
from deepseek.client.connection import Connection
from deepseek.client.names import short_name
from deepseek.client.pages import pages
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc

_MAX_NAMED = 5


def check_no_run_uses(connection: Connection, name: str) -> None:
    """Checks that no active run trains on a data set version, or starts from a model version.

    Args:
        connection: The mesh. A mesh without a trainer has no runs.
        name: Name of a version, or of a data set or model with all its versions.

    Raises:
        FailedPrecondition: VERSION_IN_USE; the message names the runs and how to stop them.
        MeshError: The trainer does not respond, so its runs are unknown.
    """
    if "trainer" not in connection.services:
        return
    stub = trainer_pb2_grpc.TrainerServiceStub(connection.channel("trainer"))
    users = []
    for page in pages(stub.ListRuns, trainer_pb2.ListRunsRequest(active_only=True)):
        for run in page.runs:
            for version, use in ((run.spec.dataset_version, "trains on"), (run.spec.init, "starts from")):
                if version == name or version.startswith(f"{name}/versions/"):
                    users.append((run.name, f"{run.name} {use} {short_name(version)}"))
    if users:
        more = f" and {len(users) - _MAX_NAMED} more" * (len(users) > _MAX_NAMED)
        what = ", ".join(use for _, use in users[:_MAX_NAMED])
        stop = "; ".join(f"deepseek run stop {run.removeprefix('runs/')}" for run, _ in users[:_MAX_NAMED])
        message = f"{name!r} is in use: {what}{more}. Wait for the end of training, or stop it: {stop}"
        raise FailedPrecondition("VERSION_IN_USE", message, field="name")
