"""All commands of the command line, with their parameters."""

import warnings
from collections.abc import Iterator

import click

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Typer imports names that click has deprecated
    import typer

    from deepseek.cli import completion, output
    from deepseek.cli.app import app

__all__ = ["app", "commands", "completion", "output"]


def commands() -> dict[str, click.Command]:
    """Every command that does something, by its name, e.g. `model alias get`."""
    return dict(_leaves(typer.main.get_command(app), ""))


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for one in command.list_commands(context):
        subcommand = command.get_command(context, one)
        assert subcommand
        yield from _leaves(subcommand, f"{name} {one}".strip())
