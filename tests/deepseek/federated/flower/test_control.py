"""The contract with Flower's internal API: the pinned version, and each name and field that `control` uses."""

import inspect
import io
import zipfile
from importlib.metadata import entry_points, version

import pytest
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto import control_pb2, fab_pb2, fleet_pb2, message_pb2, node_pb2, run_pb2, runtime_pb2
from flwr.serverapp import Grid
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient

from common.errors import FailedPrecondition, Unavailable
from common.ports import free_ports
from deepseek.federated.flower import control, relay_app
from deepseek.federated.flower.fab import FAB_ID, app_files


def test_the_installed_flower_is_the_pinned_one() -> None:
    assert version("flwr") == control.FLOWER_VERSION == "1.42.0"
    control.check_version()


def test_another_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FLOWER_VERSION", "1.43.0")
    with pytest.raises(FailedPrecondition, match=r"flwr 1.42.0 is installed; the coordinator needs 1.43.0") as caught:
        control.Control("127.0.0.1:1", None)
    assert caught.value.reason == "FLOWER_VERSION"


@pytest.mark.parametrize("name", ["StartRun", "StopRun", "ListRuns", "RegisterNode", "UnregisterNode", "ListNodes"])
def test_the_control_client_has_the_method(name: str) -> None:
    assert list(inspect.signature(getattr(ControlHttpClient, name)).parameters) == ["self", "request"]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (control_pb2.StartRunRequest, {"fab", "override_config", "federation"}),
        (control_pb2.StartRunResponse, {"run_id"}),
        (control_pb2.StopRunRequest, {"run_id"}),
        (control_pb2.ListRunsRequest, {"limit"}),
        (control_pb2.ListRunsResponse, {"run_dict"}),
        (control_pb2.RegisterNodeRequest, {"public_key", "name"}),
        (control_pb2.RegisterNodeResponse, {"node_id"}),
        (control_pb2.UnregisterNodeRequest, {"node_id"}),
        (control_pb2.ListNodesResponse, {"nodes_info"}),
        (fab_pb2.Fab, {"content"}),
        (message_pb2.PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (message_pb2.ConfirmMessageReceivedRequest, {"node", "run_id", "message_object_id"}),
        (runtime_pb2.PullAppMessagesRequest, {"message_ids"}),
        (runtime_pb2.PullAppMessagesResponse, {"messages_list", "message_object_trees"}),
        (fleet_pb2.DeactivateNodeRequest, {"node_id"}),
        (node_pb2.NodeInfo, {"node_id", "public_key", "status", "last_activated_at"}),
        (run_pb2.Run, {"run_id", "fab_id", "status", "override_config", "pending_at"}),
        (run_pb2.RunStatus, {"status", "details"}),
    ],
    ids=lambda value: getattr(getattr(value, "DESCRIPTOR", None), "name", ""),
)
def test_the_message_has_the_fields(message: object, fields: set[str]) -> None:
    assert fields <= {field.name for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]


def test_the_constants_have_the_values_that_are_used() -> None:
    names = ("MESSAGE_UNAVAILABLE", "REPLY_MESSAGE_UNAVAILABLE", "NODE_UNAVAILABLE")
    assert {getattr(ErrorCode, name) for name in names} == relay_app._LOST
    for name in ("RUN_ALREADY_FINISHED", "RUN_ID_NOT_FOUND", "PUBLIC_KEY_ALREADY_IN_USE", "NODE_NOT_FOUND"):
        assert hasattr(ApiErrorCode, name)


def test_the_public_api_is_as_expected() -> None:
    assert {"get_nodes", "push_messages"} <= set(dir(Grid))
    assert hasattr(FleetHttpClient, "DeactivateNode")
    assert [one.value for one in entry_points(group="console_scripts", name="flwr-clientapp")] == [
        "flwr.supernode.cli:flwr_clientapp"
    ]
    assert {"has_error", "error", "metadata", "content"} <= set(dir(Message))
    assert Error(ErrorCode.NODE_UNAVAILABLE, "away").code == 5


def test_the_internal_api_through_which_replies_are_pulled_is_as_expected() -> None:
    assert "_runtime_client" in dir(HttpGrid)
    assert HttpGrid(token="token").node.node_id == SUPERLINK_NODE_ID
    for name in ("PullMessages", "PullObject", "ConfirmMessageReceived"):
        assert list(inspect.signature(getattr(RuntimeHttpClient, name)).parameters) == ["self", "request"]
    assert {"object_ids", "pull_object_fn", "max_tries_per_object"} <= inspect.signature(pull_objects).parameters.keys()


def test_flower_carries_the_bytes_of_an_array_unchanged() -> None:
    record = ArrayRecord({"a": Array(dtype="uint8", shape=(3,), stype="safetensors", data=b"\x80\x00x")})
    assert record["a"].data == b"\x80\x00x"


def test_the_app_bundle_is_always_the_same_and_contains_two_imports() -> None:
    fab = control.build_fab(app_files())
    assert fab == control.build_fab(app_files())
    with zipfile.ZipFile(io.BytesIO(fab)) as bundle:
        assert b"import app" in bundle.read("deepseek_federated_app/client.py")
        assert FAB_ID.partition("/")[0].encode() in bundle.read("pyproject.toml")
    assert len(fab) < 4096


def test_a_superlink_that_is_not_there_is_reported() -> None:
    (port,) = free_ports(1)
    client = control.Control(f"127.0.0.1:{port}", None)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} cannot be reached") as caught:
        client.nodes()
    assert caught.value.reason == "SUPERLINK_UNAVAILABLE"
    client.close()
