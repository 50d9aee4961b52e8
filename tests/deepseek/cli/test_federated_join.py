"""What `deepseek federated join` checks and passes on, without a mesh, and the files for nodes without access to it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import InvalidArgument, MeshError
from deepseek.cli import federated_join
from deepseek.cli.node_instructions import NodeInstructions
from deepseek.federated.flower import supernode
from deepseek.federated.flower.node_keys import create_key
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import NodeConfig, printed_command
from deepseek.federated.node_policy import NodePolicy
from protos.federated.v1 import federated_pb2 as pb
from tests.deepseek.cli.commands import deepseek


def test_data_that_does_not_exist_is_refused_before_the_node_runs(tmp_path: Path) -> None:
    create_key(tmp_path / "key")
    arguments = ["clinics/north", "--data", str(tmp_path / "missing"), "--key", str(tmp_path / "key"), "--run"]
    done = deepseek(tmp_path / "home", "federated", "join", *arguments)
    assert done.returncode == 1
    assert "BAD_SOURCE" in done.stderr
    assert "field: --data" in done.stderr


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of `run_node`, which does nothing."""
    calls: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def connected() -> Iterator[Any]:
        found = pb.GetJoinInstructionsResponse(
            superlink_address="127.0.0.1:9092", command=["flower-supernode", "--node-config=data=1"]
        )
        federated = SimpleNamespace(nodes=lambda federation: [], join_instructions=lambda node, **places: found)
        yield SimpleNamespace(federated=federated)

    monkeypatch.setattr(federated_join, "connect", connected)
    monkeypatch.setattr(supernode, "run_node", lambda config, **options: calls.append({"config": config, **options}))
    return calls


@pytest.mark.parametrize("port", [0, 9100])
def test_the_node_runs_on_the_port_that_is_given(runs: list[dict[str, Any]], tmp_path: Path, port: int) -> None:
    create_key(tmp_path / "key")
    federated_join.join(
        "clinics/north", data=str(tmp_path), key=tmp_path / "key", folder=tmp_path / "node", port=port, run=True
    )
    (call,) = runs
    assert call["port"] == port
    assert call["config"].data == str(tmp_path)


def test_the_policy_of_a_node_is_passed_on(
    runs: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_key(tmp_path / "key")
    for run in (True, False):
        federated_join.join(
            "clinics/north",
            data=str(tmp_path),
            key=tmp_path / "key",
            folder=tmp_path / "node",
            min_noise=1.5,
            max_steps=20,
            ignore_budget=run,
            run=run,
        )
    (call,) = runs
    assert call["config"].policy == NodePolicy(min_noise=1.5, max_steps=20, ignore_budget=True)
    printed = "'--node-config=data=1 min-noise=1.5 max-sampling-rate=1.0 max-steps=20 ignore-budget=false'"
    assert printed in capsys.readouterr().out


def test_a_policy_that_demands_no_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="demand it with a minimum of noise") as caught:
        federated_join.join("clinics/north", data="x", key=tmp_path / "key", max_steps=20)
    assert caught.value.field == "--min-noise"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instructions for the node whose key is `key`, on a machine that has not joined a mesh."""
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "no-mesh"))
    given = NodeInstructions(
        "federations/clinics/nodes/north",
        create_key(tmp_path / "key").fingerprint,
        "mesh.example.org:7015",
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    )
    path = tmp_path / "north.json"
    given.write(path)
    assert NodeInstructions.read(path, field="--instructions") == given
    return path


def test_a_machine_joins_with_a_file_and_without_a_mesh(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[NodeConfig] = []
    monkeypatch.setattr(supernode, "run_node", lambda config, **options: calls.append(config))
    monkeypatch.chdir(tmp_path)
    federated_join.join(data=str(tmp_path), key=tmp_path / "key", instructions=written, run=True)
    (config,) = calls
    root = tmp_path / "north" / "superlink.pem"
    assert config.superlink == SuperLinkAddress("mesh.example.org:7015", root)
    assert root.read_text(encoding="ascii").startswith("-----BEGIN CERTIFICATE-----")
    assert (config.private_key, config.data) == (tmp_path / "key", str(tmp_path))


def test_the_command_for_a_file_is_that_of_the_coordinator(written: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(tmp_path), "--key", str(tmp_path / "key"), "--folder", str(tmp_path / "north"), "--json"]
    done = deepseek(tmp_path / "no-mesh", "federated", "join", "--instructions", str(written), *arguments)
    assert done.returncode == 0, done.stderr
    config = NodeConfig(
        SuperLinkAddress("mesh.example.org:7015", tmp_path / "north" / "superlink.pem"),
        tmp_path / "key",
        tmp_path / "north" / "work",
        str(tmp_path),
    )
    command, settings = printed_command(config, 0)
    shown = json.loads(done.stdout)
    assert (shown["command"], shown["environment"]) == (command, settings)
    assert "--port=9094" in command


def test_the_key_and_the_name_of_another_node_are_refused(written: Path, tmp_path: Path) -> None:
    create_key(tmp_path / "other")
    for node, key, reason, field in (
        ("", "other", "NODE_KEY_MISMATCH", "--key"),
        ("clinics/south", "key", "BAD_VALUE", "--instructions"),
    ):
        with pytest.raises(MeshError) as caught:
            federated_join.join(node, data=str(tmp_path), key=tmp_path / key, instructions=written)
        assert (caught.value.reason, caught.value.field) == (reason, field)
    with pytest.raises(InvalidArgument, match="name the node, FEDERATION/ID, or pass the file"):
        federated_join.join(data=str(tmp_path), key=tmp_path / "key")


@pytest.mark.parametrize(
    "changes",
    [
        {"superlink_address": "mesh.example.org:7015 --insecure"},
        {"superlink_address": "mesh.example.org"},
        {"root_certificate": "none"},
        {"root_certificate": "-----BEGIN CERTIFICATE-----\n\u00e9"},
        {"node": "federations/clinics/nodes/../../etc"},
        {"fingerprint": ""},
        None,
    ],
)
def test_a_file_that_is_none_is_refused(written: Path, changes: dict[str, str] | None) -> None:
    text = "[" * 100_000 if changes is None else json.dumps({**json.loads(written.read_text()), **changes})
    written.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidArgument) as caught:
        NodeInstructions.read(written, field="--instructions")
    assert caught.value.reason == ("BAD_NAME" if changes and "node" in changes else "BAD_INSTRUCTIONS")
    assert caught.value.field == "--instructions"


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"none\.json cannot be read"):
        NodeInstructions.read(tmp_path / "none.json", field="--instructions")
