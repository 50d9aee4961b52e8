"""`deepseek`: the command line of a mesh.

Commands print tables and progress for people. With `--json`, standard output is one JSON document for programs. A
command that fails prints an error with its code and reason to standard error. docs/cli.md lists the exit statuses.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import click
import typer
from click.shell_completion import CompletionItem
from typer.core import TyperArgument, TyperGroup
from typer.utils import get_params_from_function

from common.errors import MeshError
from deepseek.cli.interrupts import interrupt_message, is_interruption, remember_interrupts
from deepseek.cli.output import print_error
from deepseek.cli.statuses import FAILED, INTERRUPTED

COMMANDS = {
    "demo": "demo:demo",
    "up": "mesh:up",
    "down": "mesh:down",
    "status": "mesh:status",
    "ask": "ask:ask",
    "predict": "predict:predict",
    "train": "train:train",
    "nas": "nas:nas",
    "infer": "infer:infer",
    "components": "components:components",
    "doctor": "doctor:doctor",
    "token": "identity:token",
    "invite": "join:invite",
    "join": "join:join",
    "gc": "upkeep:gc",
    "backup": "upkeep:backup",
    "restore": "upkeep:restore",
    "certs": "identity:app",
    "audit": "audit:app",
    "dataset": "dataset:app",
    "run": "run:app",
    "model": "model:app",
    "tune": "tune:app",
    "federated": "federated:app",
    "privacy": "privacy:app",
    "watermark": "watermark:app",
}
"""Commands and groups of commands, in the order of the help, each with its place in this package: `module:name`."""

_TRACE_VARIABLES = ("DEEPSEEK_TRACE_", "DEEPSEEK_OTLP_")


class _Commands(TyperGroup):
    """Imports the module of a command only when the command is needed, because the modules load slowly."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "suggest_commands": False})  # click already suggests a command after a typo
        self.commands = {name: click.Command(name) for name in COMMANDS}
        if "_DEEPSEEK_COMPLETE" in os.environ:
            from deepseek.cli.completion import register_bash

            register_bash()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"deepseek.cli.{module}"), name)
        parent = typer.Typer(rich_markup_mode="markdown")
        if isinstance(found, typer.Typer):
            parent.add_typer(found, name=cmd_name)
        else:
            parent.command(cmd_name)(found)
        command = typer.main.get_group(parent).commands[cmd_name]
        if isinstance(command, TyperGroup):
            command.suggest_commands = False
        _restore_help(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes names of commands without importing the commands' modules."""
        names = [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _restore_help(command: click.Command) -> None:
    """Restores the help texts of arguments, which Typer 0.20 loses with click 8.5; see findings/."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _restore_help(subcommand)
    elif command.callback:
        declared = get_params_from_function(command.callback)
        for parameter in command.params:
            if isinstance(parameter, TyperArgument) and parameter.name:
                parameter.help = declared[parameter.name].default.help


app = typer.Typer(
    name="deepseek",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit statuses: 0 success, 1 error, 2 invalid arguments, 130 interrupted with Ctrl-C. Every command has "
    "`--json`. See docs/cli.md.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"deepseek {version('deepseek-mesh')}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A self-hosted AI development platform: from raw data to a served model.

    Start with `deepseek demo`.
    """


def main() -> None:
    """Runs the command line."""
    remember_interrupts()
    try:
        with _traced():
            app()
    except MeshError as error:
        print_error(error)
        sys.exit(FAILED)
    except Exception as error:
        if not is_interruption(error):
            raise
        print_error(interrupt_message())
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print_error(interrupt_message())
        raise


@contextmanager
def _traced() -> Iterator[None]:
    """Traces the command if a trace exporter is configured. Otherwise, the services decide which calls to trace."""
    if not any(name.upper().startswith(_TRACE_VARIABLES) for name in os.environ):
        yield
        return
    from common.config import TraceSettings
    from common.telemetry.traces import Tracer

    settings = TraceSettings.load()
    tracer = Tracer("cli", settings.trace_target)
    if not tracer.exports:
        yield
        return
    try:
        with tracer.span(" ".join(["deepseek", *sys.argv[1:2]]), sampled=True):
            yield
    finally:
        tracer.close()
