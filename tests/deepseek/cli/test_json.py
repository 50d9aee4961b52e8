"""With --json, every command prints one JSON document, alone on standard output."""

import json
from pathlib import Path

import pytest

from deepseek.client import connect
from tests.deepseek.cli.tree import app, commands
from tests.harness.images import PNG
from tests.services.federated.examples import public_key, run_spec
from tests.services.trainer.tasks import PICTURE_FIELDS, pictures
from tests.services.tuner.specs import SPEC

pytestmark = pytest.mark.slow

ELSEWHERE = {
    "demo": "tests/e2e/conftest.py",
    "up": "tests/e2e/test_stays.py",
    "down": "tests/e2e/test_stays.py",
    "ask": "tests/e2e/test_access.py; needs a model that answers questions about images",
    "train": "test_run.py",
    "nas": "test_nas.py",
    "model evaluate": "tests/deepseek/client/test_evaluating.py",
    "model compare": "tests/deepseek/client/test_evaluating.py",
    "run watch": "test_run.py",
    "tune run": "test_tune_run.py",
    "run steer": "test_run_steer.py",
    "run stop": "test_run.py",
    "doctor": "test_cli.py",
    "audit verify": "test_cli.py",
    "certs init": "test_cli.py",
    "certs renew": "test_cli.py",
    "certs rotate": "test_cli.py",
    "token": "test_cli.py",
    "invite": "test_join.py",
    "join": "test_join.py",
    "federated demo": "tests/e2e/test_federated_demo.py",
    "federated watch": "test_federated.py",
    "federated model": "test_federated.py",
    "restore": "tests/e2e/upkeep; needs a mesh that has not been used",
    "watermark write": "docs/watermark.md; needs a language model",
}
"""Commands whose output other tests read."""

SESSION = """
status
components
components model
components model cnn
dataset import wine wine.csv --target label
dataset upload shapes --images images --questions questions.tsv
dataset list
dataset read wine --limit 2
dataset show wine:latest --against wine
dataset export wine exported
dataset import ragged ragged.csv
dataset quarantine ragged
dataset repair ragged repaired/ragged.csv
dataset uploads
dataset drop-upload {upload}
model import other forest.onnx
model list
model show forest@champion
model served
model lineage forest
model download forest --output files
model alias set other best 1
model alias get other
model alias delete other@best
model load other:1
predict forest
predict forest x=[1,0,0,0]
predict forest --file rows.jsonl
infer forest
infer forest --input x=x.npy
model unload other
model delete other:1
run list --all
run show {run}
run tag {run} kind=test
run plot {run} --out curves.png
run compare {run} {second}
run delete {second}
privacy create patients datasets/wine --unit example --epsilon 3 --delta 1e-5
privacy list
privacy show patients
privacy preview patients --noise 20 --rate 0.1 --count 10
privacy verify patients
federated create clinics --description hospitals
federated keygen north.key
federated register clinics north north.key.pub --output north.json
federated nodes clinics
federated join clinics/north --data wine.csv --key north.key --folder north
federated join --instructions north.json --data wine.csv --key north.key --folder north
federated start clinics rounds.json --detach
federated list
federated list clinics
federated show {federated_run}
federated stop {federated_run}
federated remove clinics/north
federated delete old
tune create digits study.json
tune list
tune show digits
tune trials digits
tune best digits
tune watch digits --stored
tune plot drawn drawn.png
tune stop digits
tune delete digits
watermark keys image
watermark mark photo.png
watermark detect photo.marked.png
watermark rotate image
watermark revoke image 1 --yes
dataset delete wine:1
gc --dry-run
backup saved
"""


def test_json_is_one_document_alone_on_standard_output(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSEEK_HOME", str(home))
    names = _make_inputs(home)
    capsys.readouterr()
    for line in SESSION.strip().splitlines():
        app([*line.format(**names).split(), "--json"], standalone_mode=False)
        out = capsys.readouterr().out
        assert out.count("\n") == 1, f"{line}: {out}"
        assert isinstance(json.loads(out), dict | list), line


def test_the_output_of_every_command_is_tested() -> None:
    every = set(commands())
    here = {name for name in every for line in SESSION.strip().splitlines() if f"{line} ".startswith(f"{name} ")}
    assert here | set(ELSEWHERE) == every
    assert not here & set(ELSEWHERE)


def _make_inputs(home: Path) -> dict[str, str]:
    import numpy as np

    Path("forest.onnx").write_bytes((home.parent / "forest.onnx").read_bytes())
    Path("wine.csv").write_text("a,label\n" + "1.5,red\n2.5,white\n" * 4, encoding="utf-8")
    Path("ragged.csv").write_text("a,b\n1,2\n3\n", encoding="utf-8")
    Path("repaired").mkdir()
    Path("repaired/ragged.csv").write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    Path("images").mkdir()
    Path("images/a.png").write_bytes(PNG)
    Path("questions.tsv").write_text("a.png\tis it?\tyes\n", encoding="utf-8")
    Path("photo.png").write_bytes(PNG)
    Path("rows.jsonl").write_text('{"x": [1, 0, 0, 0]}\n', encoding="utf-8")
    Path("study.json").write_text(json.dumps(SPEC), encoding="utf-8")
    np.save("x.npy", np.array([[1, 0, 0, 0]], np.float32))
    runs = []
    with connect() as mesh:
        for rate in (0.1, 0.2):
            with mesh.runs.log(f"rate {rate}", parameters={"lr": rate}) as run:
                run.log(1, loss=rate)
            runs.append(run.name)
        from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc

        schema = ingest_pb2.Schema(fields=[ingest_pb2.FieldSchema(name="a", type="FIELD_TYPE_NUMBER")])
        stub = ingest_pb2_grpc.IngestServiceStub(mesh.channel("ingest"))
        request = ingest_pb2.CreateUploadRequest(dataset="datasets/open", schema=schema, request_id="open")
        upload = stub.CreateUpload(request).upload.name
        spec = run_spec(mesh.datasets.upload("pictures", PICTURE_FIELDS, pictures()).name)
        Path("rounds.json").write_text(json.dumps(spec), encoding="utf-8")
        mesh.federated.create("old")
        mesh.federated.register("old", "north", public_key())
        federated_run = mesh.federated.stop(mesh.federated.start("old", spec).name).name
        mesh.studies.create("drawn", SPEC)
        mesh.studies.complete(mesh.studies.suggest("drawn", "worker")[0].name, loss=0.5)
    return {"run": runs[0], "second": runs[1], "upload": upload, "federated_run": federated_run}
