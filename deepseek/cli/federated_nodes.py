"""`deepseek federated`: lists, registers and removes nodes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import AlreadyExists, InvalidArgument
from common.text_files import NotUtf8, read_text
from deepseek.cli.completion import FEDERATION, NODE
from deepseek.cli.node_instructions import NodeInstructions
from deepseek.cli.output import AsJson, bold, console, make_folder, print_json, print_table, writing
from deepseek.client import Mesh, connect
from protos.federated.v1 import federated_pb2 as pb

FederationName = Annotated[
    str, typer.Argument(metavar="FEDERATION", help="Name of the federation.", autocompletion=FEDERATION)
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node, FEDERATION/ID.", autocompletion=NODE)]


def nodes(federation: FederationName, as_json: AsJson = False) -> None:
    """List the nodes of a federation, and whether they are connected."""
    with connect() as mesh:
        found = list(mesh.federated.nodes(federation))
    if as_json:
        print_json([_node(one) for one in found])
        return
    rows = [(last_id(one.name), "online" if one.online else "offline", one.fingerprint) for one in found]
    none = "there are no nodes; register one with `deepseek federated register`"
    print_table(["node", "state", "key"], rows, none=none)


def register(
    federation: FederationName,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Id of the new node, e.g. the name of a hospital.")],
    public_key: Annotated[
        Path, typer.Argument(metavar="KEY.pub", help="Public key of the node, see `deepseek federated keygen`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="File for what the node needs to join. With it, the node needs no access to the mesh."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Allow the holder of a private key to join a federation.

    With --output, a node that has this key already gets a new file.
    """
    key = _read_key(public_key)
    if output is not None:
        make_folder(output.absolute().parent, "--output")
    with connect() as mesh:
        try:
            made = mesh.federated.register(federation, node, key)
        except AlreadyExists:
            known = [one for one in mesh.federated.nodes(federation) if last_id(one.name) == node]
            if output is None or not known or known[0].public_key != " ".join(key.split()[:2]):
                raise
            made = known[0]
        if output is not None:
            _write_instructions(mesh, made, output)
    if as_json:
        print_json(_node(made) | ({"instructions": str(output)} if output else {}))
        return
    console.print(f"registered {made.name} with the key {made.fingerprint}", highlight=False)
    joins_with = f"--instructions {output.name}" if output else short_member(made.name)
    console.print(
        f"copy {output} to the machine of the node, and run there:" if output else "on the machine of the node:",
        bold(f"deepseek federated join {joins_with} --data FOLDER --key KEY --run"),
    )


def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="File for the private key; the public one is KEY.pub.")],
    as_json: AsJson = False,
) -> None:
    """Create the key of a node, on the machine of the node. The private key never leaves that machine."""
    from deepseek.federated.flower.node_keys import create_key

    made = create_key(key)
    if as_json:
        print_json({"private_key": str(key), "public_key": f"{key}.pub", "fingerprint": made.fingerprint})
        return
    console.print(f"{key}.pub: {made.fingerprint}", highlight=False)
    console.print("an administrator of the mesh registers it with", bold("deepseek federated register"))


def remove(node: NodeName, as_json: AsJson = False) -> None:
    """Remove a node from its federation, and disconnect it."""
    with connect() as mesh:
        mesh.federated.remove(node)
    if as_json:
        print_json({"removed": node})
    else:
        console.print(f"removed {node}")


def _write_instructions(mesh: Mesh, node: pb.Node, output: Path) -> None:
    found = mesh.federated.join_instructions(node.name)
    written = NodeInstructions(node.name, node.fingerprint, found.superlink_address, found.root_certificate)
    with writing(output, "--output"):
        written.write(output)


def _read_key(path: Path) -> str:
    """Reads a public key from a file."""
    try:
        text = read_text(path)
    except NotUtf8 as error:
        raise InvalidArgument("BAD_NODE_KEY", f"{path} {error}", field="KEY.pub") from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}; create a key with `deepseek federated keygen`"
        raise InvalidArgument("BAD_NODE_KEY", message, field="KEY.pub") from error
    if "PRIVATE KEY" in text:
        message = f"{path} is a private key, which must stay on the machine of the node; register the `.pub` file"
        raise InvalidArgument("BAD_NODE_KEY", message, field="KEY.pub")
    return text.strip()


def last_id(name: str) -> str:
    """Returns the last id of a resource name."""
    return name.rpartition("/")[2]


def short_member(name: str) -> str:
    """Returns `FEDERATION/ID` for the resource name of a node or a run."""
    _, federation, _, member = name.split("/")
    return f"{federation}/{member}"


def _node(one: pb.Node) -> dict[str, Any]:
    return {
        "node": one.name,
        "public_key": one.public_key,
        "fingerprint": one.fingerprint,
        "flower_node_id": one.flower_node_id,
        "online": one.online,
    }
