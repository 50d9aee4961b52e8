"""The command line of a node, and what is refused before a process starts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from common import processes
from common.errors import InvalidArgument
from deepseek.federated.flower import supernode
from deepseek.federated.flower.fab import POLICY_KEYS
from deepseek.federated.flower.superlink import SuperLinkAddress, is_loopback
from deepseek.federated.flower.supernode import (
    Node,
    NodeConfig,
    command,
    node_environment,
    printed_command,
    run_node,
    with_policy,
)
from deepseek.federated.node_policy import NodePolicy
from tests.deepseek.federated.flower.conftest import TIMEOUT_S


def config(tmp_path: Path, **fields: object) -> NodeConfig:
    values = {
        "superlink": SuperLinkAddress("mesh.example:7443", tmp_path / "ca.pem"),
        "private_key": tmp_path / "node key",
        "work_folder": tmp_path / "work folder",
        "data": "datasets/digits/versions/3",
    }
    return NodeConfig(**{**values, **fields})  # type: ignore[arg-type]


def option(argv: list[str], name: str) -> str:
    (value,) = [argument.partition("=")[2] for argument in argv if argument.startswith(f"--{name}=")]
    return value


def test_flower_reads_the_configuration_that_the_command_names(tmp_path: Path) -> None:
    argv = command(config(tmp_path, data="s3://a=b c"), 12345)
    assert argv[0] == "flower-supernode"
    assert "--insecure" not in argv
    assert option(argv, "root-certificates") == str(tmp_path / "ca.pem")
    assert option(argv, "auth-supernode-private-key") == str(tmp_path / "node key")
    assert parse_config_args([option(argv, "node-config")]) == {
        "work-folder": str(tmp_path / "work folder"),
        "data": "s3://a=b c",
        "worker": "deepseek.federated.worker",
    }


def test_flower_reads_the_policy_of_the_node(tmp_path: Path) -> None:
    policy = NodePolicy(min_noise=0.00001, max_sampling_rate=0.25, max_steps=100, ignore_budget=True)
    own = command(config(tmp_path, policy=policy), 1)
    assert own == with_policy(command(config(tmp_path), 1), policy)
    values = parse_config_args([option(own, "node-config")])
    assert {key: values[key] for key in POLICY_KEYS} == {
        "min-noise": 0.00001,
        "max-sampling-rate": 0.25,
        "max-steps": 100,
        "ignore-budget": True,
    }
    assert with_policy(own, NodePolicy()) == own


def test_the_command_for_people_has_the_settings_of_flower(tmp_path: Path) -> None:
    node = config(tmp_path)
    argv, settings = printed_command(node, 12345)
    assert argv == command(node, 12345)
    assert settings["FLWR_TELEMETRY_ENABLED"] == "0"
    assert all(name.startswith("FLWR_") for name in settings)
    assert "--port=9094" in printed_command(node, 0)[0]


def test_the_environment_keeps_no_setting_of_flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_APP_TOKEN", "secret")
    environment = node_environment(config(tmp_path))
    assert "FLWR_APP_TOKEN" not in environment
    assert environment["FLWR_HOME"] == str(tmp_path / "work folder" / "flwr")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node whose program prints the content of a file and fails."""
    program = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text(), flush=True); sys.exit(1)"
    output = tmp_path / "output"
    output.write_text("SuperNode ID: 7\n[Exit Code: 305]")
    monkeypatch.setattr(supernode, "command", lambda config, port: [sys.executable, "-c", program, str(output)])
    insecure = SuperLinkAddress("localhost:9092")
    node = Node(config(tmp_path, superlink=insecure, private_key=None, preload=False))
    yield node
    node.stop()


def test_only_the_last_exit_says_that_a_node_was_refused(node: Node, tmp_path: Path) -> None:
    assert node.wait(TIMEOUT_S) == 1
    assert node.refused
    (tmp_path / "output").write_text("the disk is full")
    node.restart()
    assert node.wait(TIMEOUT_S) == 1
    assert not node.refused


def test_the_id_of_a_node_is_the_last_one_that_its_log_names(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.wait(TIMEOUT_S)
    assert node.node_id == 7
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 10)
    for number in (8, 9):  # a new log is begun in between
        (tmp_path / "output").write_text(f"SuperNode ID: {number}")
        node.restart()
        node.wait(TIMEOUT_S)
        assert node.node_id == number
    assert "ID: 8" in node.log_file.with_name("supernode.log.1").read_text()


def test_a_node_uses_the_port_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []

    def noted(config: NodeConfig, port: int) -> list[str]:
        ports.append(port)
        return [sys.executable, "-c", ""]

    monkeypatch.setattr(supernode, "command", noted)
    given = config(tmp_path, superlink=SuperLinkAddress("localhost:9092"), private_key=None, preload=False)
    run_node(given, report=print, port=9094)
    run_node(given, report=print)
    assert ports[0] == 9094
    assert ports[1] not in (0, 9094)


@pytest.mark.parametrize("data", ['a"b', "a\nb", "a\\b"])
def test_a_value_that_flower_would_misread_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(InvalidArgument, match="must not contain") as caught:
        command(config(tmp_path, data=data), 12345)
    assert (caught.value.reason, caught.value.field) == ("BAD_NODE_CONFIG", "data")


def test_a_node_needs_a_key_with_tls_and_none_without(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="needs a private key") as caught:
        command(config(tmp_path, private_key=None), 12345)
    assert caught.value.reason == "NODE_KEY_REQUIRED"
    plain = command(config(tmp_path, superlink=SuperLinkAddress("localhost:9092"), private_key=None), 12345)
    assert "--insecure" in plain


@pytest.mark.parametrize("address", ["10.1.2.3:9092", "mesh.example:9092", "[2001:db8::1]:9092"])
def test_plain_http_is_refused_off_loopback(address: str) -> None:
    with pytest.raises(InvalidArgument, match="models would be sent unencrypted") as caught:
        SuperLinkAddress(address)
    assert (caught.value.reason, caught.value.field) == ("TLS_REQUIRED", "root_certificates")


@pytest.mark.parametrize("address", ["127.0.0.1:9092", "localhost:9092", "[::1]:9092"])
def test_plain_http_is_allowed_on_loopback(address: str) -> None:
    assert SuperLinkAddress(address).root_certificates is None
    assert is_loopback(address.rpartition(":")[0])


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:http", "https://host"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="host:port"):
        SuperLinkAddress(address)
