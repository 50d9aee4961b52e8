"""Valid requests of the trainer."""

import base64
from contextlib import suppress

from google.protobuf import json_format

from common.errors import Cancelled
from common.upkeep.dump import Reference
from deepseek.client.runs import parse_spec
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.harness.examples import Example, Examples, Existing
from tests.services.inference.models import scale_model
from tests.services.trainer.tasks import picture_spec

CHECKPOINT_MEDIA_TYPE = "application/vnd.deepseek.checkpoint.v1+safetensors"


_MODEL = scale_model(2)


def stopped_run(existing: Existing) -> str:
    """Submits a run and stops it."""
    runs = existing.mesh.runs
    name = runs.submit(picture_spec(existing["dataset_version"], epochs=1, num_workers=1))[0].name
    runs.stop(name)
    with suppress(Cancelled):
        runs.wait(name)
    return name


def external_run(existing: Existing) -> str:
    """Creates an external run."""
    return existing.mesh.runs.log("outside").name


def ended_run(existing: Existing) -> str:
    """Creates an external run that ends at once."""
    with existing.mesh.runs.log("ended") as run:
        return run.name


def first_job(existing: Existing) -> str:
    """The newest run's or export's job."""
    assert existing["run"]
    stub = job_pb2_grpc.JobServiceStub(existing.mesh.channel("trainer"))
    return str(stub.ListJobs(job_pb2.ListJobsRequest()).jobs[0].name)


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""
    spec = parse_spec(picture_spec("pictures", epochs=1, num_workers=1))
    spec.dataset_version = existing["dataset_version"]
    run = existing["run"]
    return {
        "SubmitRun": {"spec": json_format.MessageToDict(spec, preserving_proto_field_name=True), "reuse": True},
        "GetRun": {"name": run},
        "WatchRun": {"name": run, "after_sequence": 1},
        "StopRun": {"name": run},
        "SteerRun": lambda number: [
            {"name": run, "after_sequence": "1", "directive": {"id": "d0", "set_learning_rate": 0.5}},
            *({"directive": {"id": f"d{i}", "no_op": {}}} for i in range(1, number)),
        ],
        "ListRuns": {"page_size": 1},
        "ImportModel": lambda num_requests: [
            {"model": "models/o", "license": "MIT", "file": "m.onnx", "data": base64.b64encode(_MODEL).decode()},
            *[{"offset": len(_MODEL)}] * (num_requests - 1),
        ],
        "UpdateRun": {"name": run, "display_name": "a run", "set_tags": [{"key": "owner", "value": "ana"}]},
        "DeleteRun": lambda number: [{"name": ended_run(existing)} for _ in range(number)],
        "CreateExternalRun": {"display_name": "a run", "parameters": {"rate": 0.5}},
        "LogRun": lambda number: [
            {"name": external_run(existing), "steps": [{"step": "1", "metrics": [{"name": "loss", "value": 0.5}]}]}
            for _ in range(number)
        ],
        "ExportModel": {"run": run, "model": "models/o", "int8": True, "int8_max_loss": 0.1},
    }


EXAMPLES = Examples(
    requests=requests,
    makers={"run": stopped_run, "trainer_job": first_job},
    refused={"ExportModel": "RUN_NOT_SUCCEEDED"},
    names_nothing=dict.fromkeys(("CreateExternalRun", "ImportModel"), "makes something of the caller's own"),
    lists=frozenset({"ListRuns"}),
    words=("adamw",),
    references=frozenset(
        {
            Reference("default", "eeee", DATASET_MEDIA_TYPE),
            Reference("other", "ffff", DATASET_MEDIA_TYPE),
            Reference("default", "c" + 63 * "0", CHECKPOINT_MEDIA_TYPE),
        }
    ),
)
