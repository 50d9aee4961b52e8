"""What all commands have in common: --json, -h, help for every parameter, and exit statuses."""

from pathlib import Path

import click
import pytest

from tests.deepseek.cli.commands import deepseek
from tests.deepseek.cli.tree import commands

COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json(name: str) -> None:
    (option,) = [one for one in COMMANDS[name].params if "--json" in one.opts]
    assert isinstance(option, click.Option)
    assert "one JSON document" in str(option.help)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_parameter_is_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    own = (click.Option, click.Argument)
    unexplained = [one.name for one in command.params if isinstance(one, own) and not one.help]
    assert not unexplained


def test_the_version_is_shown(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, "deepseek 0.1.0\n")


@pytest.mark.parametrize("command", [(), ("model",), ("model", "alias", "get"), ("up",)])
def test_h_is_help(command: tuple[str, ...], tmp_path: Path) -> None:
    short, long = deepseek(tmp_path, *command, "-h"), deepseek(tmp_path, *command, "--help")
    assert (short.returncode, short.stdout) == (0, long.stdout)


def test_help_names_the_exit_statuses(tmp_path: Path) -> None:
    text = " ".join(deepseek(tmp_path, "--help").stdout.split())
    assert "0 success, 1 error, 2 invalid arguments, 130 interrupted" in text
