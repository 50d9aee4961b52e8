"""Valid requests of the coordinator."""

import itertools
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.upkeep.dump import Reference
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from deepseek.federated.arrays import MEDIA_TYPE as ARRAYS_MEDIA_TYPE
from deepseek.models.manifest import MEDIA_TYPE as MODEL_MEDIA_TYPE
from tests.harness.examples import Example, Examples, Existing
from tests.services.trainer.tasks import picture_spec

_NUMBERS = itertools.count(1)


def public_key() -> str:
    """The public key of a new private key, in OpenSSH form."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def new_federation(existing: Existing) -> str:
    """Creates a federation without nodes."""
    return existing.mesh.federated.create(f"federation-{next(_NUMBERS)}").name


def new_node(existing: Existing) -> str:
    """Registers a node, whose private key nobody has."""
    return existing.mesh.federated.register(existing["federation"], f"node-{next(_NUMBERS)}", public_key()).name


def stopped_run(existing: Existing) -> str:
    """Starts a run and stops it."""
    assert existing["federated_node"]
    name = existing.mesh.federated.start(existing["federation"], run_spec(existing["dataset_version"])).name
    existing.mesh.federated.stop(name)
    return name


def model_spec(dataset_version: str, /, **changes: Any) -> dict[str, Any]:
    """What rounds train: a model without batch statistics, which rounds cannot average."""
    spec = picture_spec(dataset_version, num_workers=1, epochs=1)
    params = {**spec["model"]["params"], "norm": "group"}
    return {**spec, "model": {**spec["model"], "params": params}, **changes}


def run_spec(dataset_version: str, /, **changes: Any) -> dict[str, Any]:
    """A federated run of the pictures."""
    model = model_spec(dataset_version)
    return {"model": model, "num_rounds": 2, "target_model": "models/common", "deadline_s": 180, **changes}


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""
    federation, node, run = existing["federation"], existing["federated_node"], existing["federated_run"]
    return {
        "CreateFederation": lambda number: [
            {"federation_id": f"made-{next(_NUMBERS)}", "description": "clinics"} for _ in range(number)
        ],
        "GetFederation": {"name": federation},
        "ListFederations": {"page_size": 1},
        "DeleteFederation": lambda number: [{"name": new_federation(existing)} for _ in range(number)],
        "RegisterNode": lambda number: [
            {"parent": federation, "node_id": f"made-{next(_NUMBERS)}", "public_key": public_key()}
            for _ in range(number)
        ],
        "ListNodes": {"parent": federation, "page_size": 1},
        "RemoveNode": lambda number: [{"name": new_node(existing)} for _ in range(number)],
        "GetJoinInstructions": {"name": node, "data": "shards"},
        "StartRun": {"parent": federation, "spec": run_spec(existing["dataset_version"])},
        "GetRun": {"name": run},
        "ListRuns": {"parent": federation, "page_size": 1},
        "WatchRun": {"name": run, "after_sequence": 1},
        "StopRun": {"name": run},
        "GetModel": {"name": run},
    }


EXAMPLES = Examples(
    requests=requests,
    makers={
        "federation": new_federation,
        "federated_node": new_node,
        "federated_run": stopped_run,
        "federated_job": lambda existing: existing.mesh.federated.run(existing["federated_run"]).job.name,
    },
    refused={"GetModel": "ROUND_NOT_RELEASED"},
    names_nothing={"CreateFederation": "makes something of the caller's own"},
    lists=frozenset({"ListFederations"}),
    words=("fedavg", "trimmed_mean"),
    references=frozenset(
        {
            Reference("default", "dddd", DATASET_MEDIA_TYPE),
            Reference("default", "1111", MODEL_MEDIA_TYPE),
            Reference("default", "2222", "application/json"),
            Reference("default", "3333", ARRAYS_MEDIA_TYPE),
            Reference("default", "4444", ARRAYS_MEDIA_TYPE),
            Reference("default", "5555", ARRAYS_MEDIA_TYPE),
            Reference("default", "6666", ARRAYS_MEDIA_TYPE),
            Reference("default", "e" + 63 * "0", MODEL_MEDIA_TYPE),
            Reference("other", "dddd", DATASET_MEDIA_TYPE),
        }
    ),
)
