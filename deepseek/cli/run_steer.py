"""`deepseek run steer`: changes the learning rate, momentum or policy of a run while it trains."""

import json
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from common.errors import InvalidArgument, MeshError
from deepseek.cli.completion import POLICY, RUN
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, error_console, print_json, print_table
from deepseek.client import connect
from deepseek.client.names import run_name
from protos.trainer.v1 import trainer_pb2


def steer(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name or id of a run; see `deepseek run list`.", autocompletion=RUN)
    ],
    learning_rate: Annotated[
        float | None, typer.Option(help="New learning rate; ends the schedule and the policy.")
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="New momentum, or first beta of Adam; ends the policy.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Policy to use from now on; see `deepseek components policy`.", autocompletion=POLICY),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="With --policy: parameter; the value is JSON or text."),
    ] = None,
    restore: Annotated[
        int | None, typer.Option(metavar="STEP", help="Restore the weights of the checkpoint of this step.")
    ] = None,
    restore_from: Annotated[
        str,
        typer.Option(metavar="RUN", help="With --restore: run whose checkpoint it is, if another.", autocompletion=RUN),
    ] = "",
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Save a checkpoint.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the run, with a checkpoint.")] = False,
    at_step: Annotated[
        int, typer.Option(min=0, metavar="STEP", help="Apply in this step, counted from 1; 0 for the next step.")
    ] = 0,
    expire_after: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Do not apply later than this; 0 for no limit.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Change a run while it trains, and show in which step it took effect.

    Several changes are applied in the order of the list below. The command waits until each is applied; the run never
    waits. If one is refused, the others still take effect, and are shown before the error.
    """
    name = run_name(run)
    params = dict(read_param(text) for text in param or ())
    if params and policy is None:
        raise InvalidArgument("MISSING_FIELD", "--param needs --policy; pass it, or omit --param", field="--policy")
    if restore_from and restore is None:
        message = "--restore-from needs --restore; pass it, or omit --restore-from"
        raise InvalidArgument("MISSING_FIELD", message, field="--restore")
    given: dict[str, Any] = {
        "restore": restore,
        "set_learning_rate": learning_rate,
        "set_momentum": momentum,
        "set_policy": policy,
        "checkpoint": checkpoint or None,
        "stop": stop or None,
    }
    chosen = {action: value for action, value in given.items() if value is not None}
    if not chosen:
        raise InvalidArgument(
            "MISSING_FIELD", "say what to change, e.g. --learning-rate 0.001", field="--learning-rate"
        )
    acks, refused = [], list[MeshError]()
    leaving = "stopped waiting; changes that were sent are still applied"
    with connect() as mesh, mesh.runs.steer(name) as steering, when_interrupted(leaving):
        ids = []
        for action, value in chosen.items():
            directive: dict[str, Any] = {action: value, "at_step": at_step, "expire_after_s": expire_after}
            if action == "set_policy":
                directive["params"] = params
            if action == "restore":
                directive["restore_run"] = restore_from
            ids.append(steering.send(**directive))
        with error_console.status("waiting for the step"):
            for one in ids:
                try:
                    acks.append(steering.wait(one))
                except MeshError as error:
                    refused.append(error)
    if acks and as_json:
        print_json([_document(ack) for ack in acks])
    elif acks:
        rows = [(ack.action, ack.applied_step, _values(ack.old), _values(ack.new)) for ack in acks]
        print_table(["directive", "applied in step", "before", "after"], rows)
    if refused:
        raise refused[0]


def read_param(text: str) -> tuple[str, Any]:
    """Splits a parameter, written as `name=value`; the value is JSON, or else text.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise InvalidArgument("BAD_VALUE", f"{text!r} is not a parameter; write name=value", field="--param")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _values(values: trainer_pb2.SteeredValues) -> str:
    momentum = f", momentum {values.momentum:g}" if values.HasField("momentum") else ""
    return f"learning rate {values.learning_rate:g}{momentum}"


def _document(ack: trainer_pb2.DirectiveAck) -> dict[str, Any]:
    document = json_format.MessageToDict(
        ack, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {**document, "applied_step": ack.applied_step}
