"""`deepseek federated join`: joins a machine as a node."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from common.errors import FailedPrecondition, InvalidArgument
from common.files import replace_file
from deepseek.cli.completion import NODE
from deepseek.cli.federated_nodes import last_id, short_member
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.node_instructions import NodeInstructions
from deepseek.cli.output import AsJson, error_console, make_folder, print_json
from deepseek.client import Mesh, connect
from deepseek.client.names import node_name
from deepseek.federated.node_policy import NodePolicy
from protos.federated.v1 import federated_pb2 as pb

_MESH = "mesh:"
"""Prefix of data that is a data set version, as in `deepseek.federated.node_data`."""


def join(
    node: Annotated[
        str,
        typer.Argument(
            metavar="[NODE]", help="Name of the node, FEDERATION/ID; not with --instructions.", autocompletion=NODE
        ),
    ] = "",
    *,
    data: Annotated[
        str,
        typer.Option(help="Data of the node: a folder, a Parquet file, or mesh:NAME:VERSION for a data set version."),
    ],
    key: Annotated[Path, typer.Option(help="Private key of the node, see `deepseek federated keygen`.")] = Path(
        "node.key"
    ),
    instructions: Annotated[
        Path | None,
        typer.Option(
            help="File from `deepseek federated register --output`; this machine then needs no access to the mesh."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the files of the node; default: the node's id.")
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port for the node on loopback; default: 9094, or a free one with --run."),
    ] = 0,
    min_noise: Annotated[
        float,
        typer.Option(min=0, help="Accept only tasks with DP-SGD and at least this noise multiplier; 0: any task."),
    ] = 0.0,
    max_sampling_rate: Annotated[
        float, typer.Option(max=1, help="Accept only this sampling rate of DP-SGD or less; with --min-noise.")
    ] = 1.0,
    max_steps: Annotated[
        int,
        typer.Option(min=0, help="Steps of DP-SGD that the node makes in all its runs; 0: any; with --min-noise."),
    ] = 0,
    ignore_budget: Annotated[
        bool,
        typer.Option(
            "--ignore-budget",
            help="Train on a data set version even if its data set has a privacy budget, which is not debited.",
        ),
    ] = False,
    run: Annotated[
        bool, typer.Option("--run", help="Run the node here until Ctrl-C, instead of printing the command.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the command with which this machine joins a federation as a node, or run it with --run.

    The root certificate of the SuperLink is stored in the folder. The command is that of a stock `flower-supernode`.
    """
    from deepseek.federated.flower.supernode import with_policy

    policy = _policy(min_noise, max_sampling_rate, max_steps, ignore_budget)
    given = NodeInstructions.read(instructions, field="--instructions") if instructions else None
    node = _joining(node, given)
    place = (folder or Path(last_id(node))).absolute()
    if not key.is_file():
        message = (
            f"{key} does not exist; create it with `deepseek federated keygen {key}`, and have {key}.pub registered"
        )
        raise FailedPrecondition("NODE_KEY_MISSING", message, field="--key")
    source = _data(data)
    make_folder(place, "--folder")
    certificate = place / "superlink.pem"
    if given:
        _check_same_key(node, given.fingerprint, key)
        found = _from_instructions(given, key.absolute(), certificate, place / "work", source, port)
    else:
        with connect() as mesh:
            _check_key(mesh, node, key)
            found = mesh.federated.join_instructions(
                node,
                data=source,
                private_key_file=str(key.absolute()),
                root_certificate_file=str(certificate),
                work_folder=str(place / "work"),
                port=port,
            )
    if found.root_certificate:
        replace_file(certificate, found.root_certificate.encode("ascii"), mode=0o644)
    if run:
        _run_node(found, key.absolute(), certificate, place / "work", source, port, policy)
        return
    command = with_policy(found.command, policy)
    if as_json:
        print_json(
            {
                "superlink": found.superlink_address,
                "root_certificate": str(certificate) if found.root_certificate else None,
                "command": command,
                "environment": dict(one.split("=", 1) for one in found.environment),
            }
        )
        return
    settings = [f"{name}={shlex.quote(value)}" for name, _, value in (one.partition("=") for one in found.environment)]
    print(" ".join([*settings, shlex.join(command)]))


def _run_node(
    found: pb.GetJoinInstructionsResponse,
    key: Path,
    certificate: Path,
    work_folder: Path,
    data: str,
    port: int,
    policy: NodePolicy,
) -> None:
    """Runs a node until Ctrl-C, and starts it again if it ends."""
    from deepseek.federated.flower.superlink import SuperLinkAddress
    from deepseek.federated.flower.supernode import NodeConfig, run_node

    trusted = certificate if found.root_certificate else None
    config = NodeConfig(
        superlink=SuperLinkAddress(found.superlink_address, trusted),
        private_key=key if trusted else None,
        work_folder=work_folder,
        data=data,
        policy=policy,
    )
    error_console.print(f"the node connects to {found.superlink_address}; stop it with Ctrl-C", highlight=False)
    with when_interrupted("the node is disconnected; the federation continues without it"):
        run_node(config, report=lambda line: error_console.print(line, highlight=False, soft_wrap=True), port=port)


def _joining(node: str, given: NodeInstructions | None) -> str:
    """Returns the name of the node that joins.

    Raises:
        InvalidArgument: MISSING_FIELD or BAD_VALUE.
    """
    if given is None:
        if not node:
            message = "name the node, FEDERATION/ID, or pass the file that `register --output` has written"
            raise InvalidArgument("MISSING_FIELD", message, field="NODE")
        return node
    if node and node_name(node, field="NODE") != given.node:
        message = f"the file is for the node {short_member(given.node)}, not for {node}"
        raise InvalidArgument("BAD_VALUE", message, field="--instructions")
    return short_member(given.node)


def _from_instructions(
    given: NodeInstructions, key: Path, certificate: Path, work_folder: Path, data: str, port: int
) -> pb.GetJoinInstructionsResponse:
    """Returns what the coordinator would return about a node."""
    from deepseek.federated.flower.superlink import SuperLinkAddress
    from deepseek.federated.flower.supernode import NodeConfig, printed_command

    trusted = certificate if given.root_certificate else None
    config = NodeConfig(SuperLinkAddress(given.superlink_address, trusted), key, work_folder, data)
    command, settings = printed_command(config, port)
    return pb.GetJoinInstructionsResponse(
        superlink_address=given.superlink_address,
        root_certificate=given.root_certificate,
        command=command,
        environment=[f"{name}={value}" for name, value in settings.items()],
    )


def _policy(min_noise: float, max_sampling_rate: float, max_steps: int, ignore_budget: bool) -> NodePolicy:
    try:
        return NodePolicy(min_noise, max_sampling_rate, max_steps, ignore_budget)
    except InvalidArgument as error:
        option = f"--{error.field.replace('_', '-')}"
        raise InvalidArgument(error.reason, error.message, field=option) from error


def _check_key(mesh: Mesh, node: str, key: Path) -> None:
    """Checks that a private key is the one whose public key was registered for a node, see `_check_same_key`."""
    name = node_name(node, field="NODE")
    for known in mesh.federated.nodes(name.split("/")[1]):
        if known.name == name:
            _check_same_key(short_member(name), known.fingerprint, key)


def _check_same_key(node: str, fingerprint: str, key: Path) -> None:
    """Checks that a private key is the one with which a node was registered.

    Otherwise, the SuperLink would refuse the node after it has started, without saying which key it expects.

    Raises:
        FailedPrecondition: NODE_KEY_MISMATCH, or BAD_NODE_KEY if the file contains no such key.
    """
    from deepseek.federated.flower.node_keys import read_private_key

    own = read_private_key(key)[1].fingerprint
    if fingerprint != own:
        message = (
            f"{key} has the fingerprint {own[:16]}, but {node} is registered with the key {fingerprint[:16]}; pass the "
            f"private key of this node, or have {key}.pub registered as a new node"
        )
        raise FailedPrecondition("NODE_KEY_MISMATCH", message, field="--key")


def _data(text: str) -> str:
    """Returns a node's data as its worker reads it: an absolute path, or the name of a data set version.

    Raises:
        InvalidArgument: BAD_SOURCE if there is no such file or folder.
    """
    if text.startswith(_MESH):
        return text
    if not (path := Path(text)).exists():
        message = f"there is no file or folder {text}; a data set version is written as {_MESH}NAME:VERSION"
        raise InvalidArgument("BAD_SOURCE", message, field="--data")
    return str(path.absolute())
