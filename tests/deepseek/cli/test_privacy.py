"""`deepseek privacy`, and the privacy of models in `deepseek model`."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from common.database import Database
from deepseek.cli.guarantees import full_guarantee_text, guarantee_json, guarantee_text
from deepseek.client import MeshFile, ServiceAddress, connect
from deepseek.models.manifest import MEDIA_TYPE
from protos.artifact.v1 import artifact_pb2
from protos.privacy.v1 import privacy_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.deepseek.cli.commands import deepseek, succeeded, suggested
from tests.harness.in_process import service_in_process


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A mesh that consists of a registry."""
    with service_in_process("registry", tmp_path) as server:
        MeshFile({"registry": ServiceAddress(server.address)}).write(tmp_path / "mesh.json")
        yield tmp_path


def create(home: Path) -> str:
    limits = ("--unit", "client", "--epsilon", "3", "--delta", "1e-6")
    return succeeded(home, "privacy", "create", "clinics", "federations/clinics", *limits)


def debit(home: Path, run: str, round: int, noise_multiplier: float = 2) -> privacy_pb2.DebitResponse:
    release = privacy_pb2.Release(noise_multiplier=noise_multiplier, sampling_rate=0.1, count=1)
    with connect(home / "mesh.json") as mesh:
        return mesh.budgets.debit("clinics", release, run=run, round=round)


def test_a_budget_is_created_listed_shown_and_verified(home: Path) -> None:
    assert "there are no budgets" in succeeded(home, "privacy", "list")
    assert create(home) == "clinics: epsilon 3 at delta 1e-06 per client, for federations/clinics\n"
    assert "nothing has been released yet" in succeeded(home, "privacy", "show", "clinics")
    for round in (1, 2):
        debit(home, "runs/first", round)
    last = debit(home, "runs/second", 1, 4).budget

    heading, row = succeeded(home, "privacy", "list").splitlines()
    assert heading.split() == ["budget", "data", "unit", "epsilon", "spent", "left", "delta", "debits"]
    spent, left = f"{last.epsilon_spent:.4g}", f"{last.epsilon_left:.4g}"
    assert row.split() == ["clinics", "federations/clinics", "client", "3", spent, left, "1e-06", "3"]

    shown = succeeded(home, "privacy", "show", "clinics")
    assert f"epsilon {spent} ({last.epsilon_spent / 3:.0%}), {left} left" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["runs/second", "1", "1", "4", "0.1", spent] in rows
    assert [row[:5] for row in rows if row[:1] == ["runs/first"]] == [["runs/first", "2", "2", "2", "0.1"]]
    assert "adding or removing one client changes the probability of any result" in shown

    assert "clinics: 3 debits are unchanged" in succeeded(home, "privacy", "verify", "clinics")
    found = json.loads(succeeded(home, "privacy", "show", "clinics", "--json"))
    assert [(run["run"], run["rounds"]) for run in found["runs"]] == [("runs/first", 2), ("runs/second", 1)]
    assert [one["debit"] for one in found["debits"]] == [f"budgets/clinics/debits/{number}" for number in (1, 2, 3)]
    assert found["epsilon_spent"] == last.epsilon_spent
    assert suggested(home, "privacy", "show", "") == ["clinics"]
    assert suggested(home, "privacy", "verify", "budgets/c") == ["budgets/clinics"]


def test_a_preview_shows_what_fits_and_debits_nothing(home: Path) -> None:
    create(home)
    options = ("preview", "clinics", "--noise", "2", "--rate", "0.1")
    found = json.loads(succeeded(home, "privacy", *options, "--json"))
    assert 0 == found["epsilon_spent"] < found["epsilon_after"] < 3
    most = found["max_count"]
    assert f"{most} such releases fit" in succeeded(home, "privacy", *options)
    for count, fits in ((most, True), (most + 1, False)):
        answer = json.loads(succeeded(home, "privacy", *options, "--count", str(count), "--json"))
        assert (answer["fits"], answer["epsilon_after"] <= 3) == (fits, fits)
    assert succeeded(home, "privacy", "verify", "clinics").startswith("clinics: 0 debits")
    refused = deepseek(home, "privacy", "preview", "clinics", "--noise", "0")
    assert (refused.returncode, "BAD_NOISE" in refused.stderr) == (1, True)


def test_a_changed_ledger_is_reported(home: Path) -> None:
    create(home)
    for round in (1, 2):
        debit(home, "runs/r", round)
    (path,) = home.rglob("registry.db")
    with closing(Database(f"sqlite:///{path}")) as database, database.transaction() as session:
        session.execute(text("UPDATE debits SET noise_multiplier = 200 WHERE number = 2"))
    done = deepseek(home, "privacy", "verify", "clinics")
    assert done.returncode == 1
    assert "'budgets/clinics/debits/2' was changed" in done.stderr
    assert "DATA_LOSS: LEDGER_TAMPERED" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--epsilon", "0", "BAD_EPSILON"),
        ("--epsilon", "-1", "BAD_EPSILON"),
        ("--delta", "0", "BAD_DELTA"),
        ("--delta", "1", "BAD_DELTA"),
    ],
)
def test_wrong_limits_are_refused(home: Path, option: str, value: str, reason: str) -> None:
    limits = {"--unit": "example", "--epsilon": "1", "--delta": "1e-5"} | {option: value}
    flags = [f"{name}={value}" for name, value in limits.items()]
    done = deepseek(home, "privacy", "create", "b", "datasets/d", *flags)
    assert done.returncode == 1
    assert f"INVALID_ARGUMENT: {reason}" in done.stderr
    assert succeeded(home, "privacy", "list", "--json") == "[]\n"


def test_models_are_listed_with_their_privacy(home: Path) -> None:
    create(home)
    spent = debit(home, "runs/r", 1)
    guarantee = privacy_pb2.Guarantee(
        epsilon=spent.debit.epsilon_spent,
        delta=1e-6,
        unit=privacy_pb2.UNIT_CLIENT,
        adjacency=privacy_pb2.ADJACENCY_ADD_REMOVE,
        sampling=privacy_pb2.SAMPLING_POISSON,
        debit=spent.debit.name,
    )
    manifest = artifact_pb2.Artifact(sha256=32 * "ab", size_bytes=1, media_type=MEDIA_TYPE)
    request = registry_pb2.CreateModelVersionRequest(
        parent="models/m", manifest=manifest, privacy=guarantee, sources=["runs/r"]
    )
    with connect(home / "mesh.json") as mesh:
        registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry")).CreateModelVersion(request)
    text = f"epsilon {guarantee.epsilon:.4g}, delta 1e-06 per client"
    assert text in succeeded(home, "model", "list")
    (listed,) = json.loads(succeeded(home, "model", "list", "--json"))
    found = listed["privacy"]
    assert found["debit"] == "budgets/clinics/debits/1"
    lineage = succeeded(home, "model", "lineage", "runs/r")
    assert (
        f"m:1 guarantees {text} of the training data (add or remove; secret Poisson samples; up to {found['debit']})"
        in lineage
    )
    as_json = json.loads(succeeded(home, "model", "lineage", "runs/r", "--json"))
    assert as_json["guarantees"] == {"models/m/versions/1": found}


def test_a_guarantee_is_shown_with_all_that_it_depends_on() -> None:
    version = registry_pb2.ModelVersion(
        privacy=privacy_pb2.Guarantee(
            epsilon=2.51234,
            delta=1e-6,
            unit=privacy_pb2.UNIT_CLIENT,
            adjacency=privacy_pb2.ADJACENCY_ADD_REMOVE,
            sampling=privacy_pb2.SAMPLING_POISSON,
            debit="budgets/clinics/debits/7",
        )
    )
    found = guarantee_json(version)
    assert found == {
        "epsilon": 2.51234,
        "delta": 1e-6,
        "unit": "client",
        "adjacency": "add_remove",
        "sampling": "poisson",
        "debit": "budgets/clinics/debits/7",
    }
    assert guarantee_text(found) == "epsilon 2.512, delta 1e-06 per client"
    conditions = "add or remove; secret Poisson samples"
    start = f"epsilon 2.512, delta 1e-06 per client of the training data ({conditions}; "
    assert full_guarantee_text(found) == f"{start}up to budgets/clinics/debits/7)"
    assert full_guarantee_text({**found, "debit": ""}) == f"{start}stated, not debited)"
    nothing = guarantee_json(registry_pb2.ModelVersion())
    assert (nothing, guarantee_text(nothing), full_guarantee_text(nothing)) == (None, "", "")
