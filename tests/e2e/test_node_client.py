"""A client in another language, from protos/ alone, takes samples to a served model, with and without TLS."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deepseek.client import Mesh
from deepseek.data.encoders import ImageEncoder, WordsEncoder
from deepseek.data.sample import Sample
from deepseek.embedded import Access
from deepseek.models.datatypes import DTYPES
from deepseek.services import SERVICES
from tests.harness.identity import new_authority
from tests.harness.mesh import embedded_mesh
from tests.harness.servers import missing
from tests.services.trainer.tasks import PICTURE_FIELDS, picture_spec, pictures

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("node")


@pytest.fixture(scope="module")
def node() -> str:
    """The program, with its packages beside the client."""
    found = shutil.which("node")
    if found is None or not (CLIENT / "node_modules" / ".installed.json").exists():
        missing("no node, or no packages for it; install node and npm, then run deploy/setup/node.sh")
    return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, Path]]:
    """A mesh that lets in who has a certificate and a token; with its mesh file."""
    home = tmp_path_factory.mktemp("node") / "home"
    authority = new_authority(home.with_name("identity"), SERVICES)
    # Loading a model requires an admin.
    token_file = authority.write_token(home.with_name("token"), subject="nora")
    with embedded_mesh(home, Access(authority.folder, token_file)) as running, running.connect() as client:
        yield client, home / "mesh.json"


@pytest.mark.timeout(1800)
def test_a_client_in_another_language_ingests_trains_and_infers(
    node: str, mesh: tuple[Mesh, Path], tmp_path: Path
) -> None:
    client, mesh_file = mesh
    samples = pictures(18, 6)
    task = tmp_path / "task.json"
    request = encoded(samples)
    task.write_text(json.dumps(described(samples, request)), encoding="utf-8")

    done = subprocess.run(
        [node, CLIENT / "client.mjs", ROOT, mesh_file, task], capture_output=True, text=True, timeout=1500, check=False
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["repeated"], "the same request id made another upload"
    assert result["refused"] == "INVALID_ARGUMENT", "an offset that is wrong was taken"
    assert result["uploaded"] == len(samples)
    assert result["dataset_version"] == "datasets/from-node/versions/1"
    assert result["events"]["checkpoint"] >= 1
    assert result["events"]["state"] >= 2
    assert result["metrics"]["accuracy"] > 0.5
    assert result["model_version"] == "models/from-node/versions/1"
    assert [sample.key for sample in client.datasets.read(result["dataset_version"], "test")] == [
        sample.key for sample in samples if sample.split == "test"
    ]
    output = result["output"]
    scores = np.frombuffer(base64.b64decode(output["raw"]), DTYPES[output["datatype"]]).reshape(output["shape"])
    np.testing.assert_array_equal(scores, client.inference.infer("from-node", request)[output["name"]])


@pytest.mark.timeout(600)
def test_the_example_of_the_page_runs_on_a_local_mesh(node: str, tmp_path: Path) -> None:
    [command] = re.findall(r"^node (.*)$", (ROOT / "docs" / "clients.md").read_text(encoding="utf-8"), re.MULTILINE)
    home = tmp_path / "home"
    arguments = command.replace("~/.deepseek", str(home)).split()
    with embedded_mesh(home):
        done = subprocess.run([node, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["uploaded"] == 40
    assert result["metrics"]["accuracy"] >= 0.9
    scores = np.frombuffer(base64.b64decode(result["output"]["raw"]), np.float32).reshape(result["output"]["shape"])
    assert scores.argmax(1).tolist() == [0, 1], "the labels above and below"


def encoded(samples: Sequence[Sample]) -> dict[str, npt.NDArray[Any]]:
    """The first sample with its first question as a batch of one, as the model takes it."""
    words = WordsEncoder(length=6)
    words.fit(text for sample in samples if sample.split == "train" for text in sample.values["asked"])
    image = ImageEncoder(size=16).encode(samples[0].values["picture"])
    return {"image": image[None], "question": words.encode(samples[0].values["asked"][0])[None, None]}


def described(samples: Sequence[Sample], request: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """The whole task as JSON that any language reads."""
    fields = [
        {
            "name": field.name,
            "type": f"FIELD_TYPE_{field.type.upper()}",
            "repeated": field.repeated,
            "labels": field.labels,
        }
        for field in PICTURE_FIELDS
    ]
    return {
        "dataset": "datasets/from-node",
        "model": "models/from-node",
        "schema": {"fields": fields},
        "samples": [
            {
                "key": sample.key,
                "split": sample.split,
                "fields": [{"field": name, "values": values(value)} for name, value in sample.values.items()],
            }
            for sample in samples
        ],
        "spec": picture_spec("", num_workers=1),
        "request": [
            {
                "name": name,
                "datatype": array.dtype.name.upper(),
                "shape": array.shape,
                "raw": base64.b64encode(array.tobytes()).decode(),
            }
            for name, array in request.items()
        ],
    }


def values(value: bytes | list[str]) -> list[dict[str, str]]:
    """The values of a field; bytes are base64 in JSON."""
    if isinstance(value, bytes):
        return [{"data": base64.b64encode(value).decode()}]
    return [{"text": text} for text in value]
