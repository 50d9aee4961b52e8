"""Two machines join a federation by the commands that people use, and its rounds are shown."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.processes import python, spawn, terminate
from deepseek.client import connect
from tests.deepseek.cli.commands import deepseek, succeeded
from tests.harness.mesh import embedded_mesh
from tests.services.federated.examples import run_spec
from tests.services.trainer.tasks import PICTURE_FIELDS, pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a mesh with the federation `clinics`, of which two nodes are running."""
    folder = tmp_path_factory.mktemp("federation")
    home = folder / "home"
    with ExitStack() as owned:
        owned.enter_context(embedded_mesh(home))
        with connect(home / "mesh.json") as mesh:
            data = mesh.datasets.upload("pictures", PICTURE_FIELDS, pictures()).name
        (folder / "rounds.json").write_text(json.dumps(run_spec(data, local_epochs=2)), encoding="utf-8")
        succeeded(home, "federated", "create", "clinics")
        for place in ("north", "south"):
            key = folder / f"{place}.key"
            succeeded(home, "federated", "keygen", str(key))
            shown = succeeded(home, "federated", "register", "clinics", place, f"{key}.pub")
            assert f"deepseek federated join clinics/{place}" in shown
            arguments = ["federated", "join", f"clinics/{place}", "--data", "mesh:pictures:1", "--key", str(key)]
            arguments += ["--folder", str(folder / place), "--run"]
            environment = {"DEEPSEEK_HOME": str(home), "PATH": "/usr/bin:/bin"}
            node = spawn(python("deepseek.cli", *arguments), env=environment, log=folder / f"{place}.log")
            owned.callback(terminate, node, grace_s=10)
        yield home


def test_a_run_is_started_shown_and_watched(clinics: Path) -> None:
    started = deepseek(clinics, "federated", "start", "clinics", str(clinics.parent / "rounds.json"), "--json")
    logs = "".join((clinics.parent / f"{place}.log").read_text() for place in ("north", "south"))
    assert started.returncode == 0, started.stderr + logs
    run = json.loads(started.stdout)
    assert (run["state"], run["num_released"]) == ("SUCCEEDED", 2)
    lines = [line for line in started.stderr.splitlines() if line.startswith("round ")]
    assert len(lines) == 2
    assert "accuracy" in lines[-1]
    name = run["run"].removeprefix("federations/").replace("runs/", "")
    watched = json.loads(succeeded(clinics, "federated", "watch", name, "--json"))
    assert [one["model_version"] for one in watched["rounds"]] == [
        "models/common/versions/1",
        "models/common/versions/2",
    ]
    assert watched["rounds"][-1]["num_counted"] == 2
    assert "common:2" in succeeded(clinics, "federated", "watch", name)
    output = clinics.parent / "model.safetensors"
    saved = json.loads(
        succeeded(clinics, "federated", "model", name, "--round", "1", "--output", str(output), "--json")
    )
    assert saved["model_version"] == "models/common/versions/1"
    assert output.stat().st_size == saved["size_bytes"]
    nodes = json.loads(succeeded(clinics, "federated", "nodes", "clinics", "--json"))
    assert [node["online"] for node in nodes] == [True, True]


def test_the_printed_command_is_that_of_a_stock_supernode(clinics: Path) -> None:
    key, folder = clinics.parent / "north.key", clinics.parent / "elsewhere"
    arguments = ("clinics/north", "--data", "mesh:pictures:1", "--key", str(key), "--folder", str(folder))
    printed = succeeded(clinics, "federated", "join", *arguments)
    document = json.loads(succeeded(clinics, "federated", "join", *arguments, "--json"))
    assert document["command"][0] == "flower-supernode"
    assert printed.startswith("FLWR_")
    assert f"--superlink={document['superlink']}" in printed
    assert "BEGIN CERTIFICATE" in Path(document["root_certificate"]).read_text(encoding="ascii")


def test_with_the_file_of_register_a_machine_without_a_mesh_prints_the_same_command(clinics: Path) -> None:
    key, folder, file = clinics.parent / "north.key", clinics.parent / "elsewhere", clinics.parent / "north.json"
    shown = succeeded(clinics, "federated", "register", "clinics", "north", f"{key}.pub", "--output", str(file))
    assert "deepseek federated join --instructions north.json" in shown
    arguments = ("--data", str(clinics.parent), "--key", str(key), "--folder", str(folder))
    with_mesh = succeeded(clinics, "federated", "join", "clinics/north", *arguments)
    without = succeeded(clinics.parent / "none", "federated", "join", "--instructions", str(file), *arguments)
    assert without == with_mesh
    other = ("clinics", "north", f"{clinics.parent / 'south.key'}.pub", "--output", str(file))
    assert "NODE_EXISTS" in deepseek(clinics, "federated", "register", *other).stderr


def test_a_private_key_is_never_registered(clinics: Path) -> None:
    done = deepseek(clinics, "federated", "register", "clinics", "east", str(clinics.parent / "north.key"))
    assert done.returncode == 1
    assert "BAD_NODE_KEY" in done.stderr
    assert len(json.loads(succeeded(clinics, "federated", "nodes", "clinics", "--json"))) == 2


def test_a_key_that_does_not_exist_is_named(clinics: Path) -> None:
    done = deepseek(clinics, "federated", "join", "clinics/north", "--data", "x", "--key", "none.key")
    assert done.returncode == 1
    assert "deepseek federated keygen none.key" in done.stderr


def test_a_key_of_another_node_and_missing_data_are_found_before_a_node_starts(clinics: Path) -> None:
    place = clinics.parent / "mistaken"
    for arguments, reason, field in (
        (("--data", "mesh:pictures:1", "--key", str(clinics.parent / "south.key")), "NODE_KEY_MISMATCH", "--key"),
        (("--data", "nowhere", "--key", str(clinics.parent / "north.key")), "BAD_SOURCE", "--data"),
    ):
        done = deepseek(clinics, "federated", "join", "clinics/north", *arguments, "--folder", str(place), "--run")
        assert done.returncode == 1
        assert reason in done.stderr
        assert f"field: {field}" in done.stderr
    assert not (place / "work").exists()


def test_options_override_the_spec_and_mistakes_are_named(clinics: Path) -> None:
    spec = clinics.parent / "wrong.json"
    given = json.loads((clinics.parent / "rounds.json").read_text(encoding="utf-8"))
    privacy = {"unit": "client", "clip_norm": 1, "noise_multiplier": 0, "budget": "none"}
    for changes, options, field in (
        ({}, ("--quorum", "3"), "spec.quorum"),
        ({}, ("--strategy", "best"), "spec.strategy.name"),
        ({}, ("--rate", "2"), "spec.sampling.rate"),
        ({}, ("--nodes", "2", "--rate", "0.5"), "spec.sampling (--nodes, --rate)"),
        ({}, ("--max-update-norm", "-1"), "spec.max_update_norm (--max-update-norm)"),
        ({"privacy": privacy}, (), "spec.privacy.noise_multiplier"),
        ({"privacy": privacy}, ("--epsilon", "3"), "spec.privacy.budget"),
        ({"privacy": privacy}, ("--unit", "example", "--noise", "1"), "spec.privacy.example_rate (--example-rate)"),
        ({"privacy": privacy}, ("--noise", "1", "--delta", "1"), "spec.privacy.delta (--delta)"),
        ({"model": 3}, ("--dataset", "pictures"), "spec.model"),
        ({"privacy": 3}, ("--noise", "1"), "spec.privacy"),
    ):
        spec.write_text(json.dumps({**given, **changes}), encoding="utf-8")
        done = deepseek(clinics, "federated", "start", "clinics", str(spec), *options)
        assert done.returncode == 1
        assert f"field: {field}" in done.stderr, done.stderr
