"""Completion of names in a shell, over the protocol that the shells use."""

import re
import socket
from contextlib import nullcontext
from pathlib import Path

import click
import pytest

from deepseek.client import MeshFile, ServiceAddress, connect
from tests.deepseek.cli.commands import completed, suggested
from tests.deepseek.cli.tree import commands, completion

SLOW = {"numpy", "torch", "pyarrow", "PIL", "pandas", "pydantic", "onnxruntime", "cryptography"}
NAMES = {
    "dataset",
    "model",
    "first",
    "second",
    "version",
    "model_version",
    "run",
    "runs",
    "alias",
    "against",
    "kind",
    "budget",
}


@pytest.mark.slow
def test_names_are_completed(home: Path) -> None:
    with connect(home / "mesh.json") as mesh, mesh.runs.log("a run") as run:
        run.log(1, loss=1.0)
    assert "forest" in suggested(home, "model", "show", "")
    assert suggested(home, "predict", "for") == ["forest"]
    assert suggested(home, "model", "alias", "set", "forest", "c") == ["champion"]
    assert suggested(home, "train", "--model", "=", "for") == ["forest"]
    assert run.name.removeprefix("runs/") in suggested(home, "run", "show", "")
    assert run.name in suggested(home, "run", "compare", run.name[:-1])


@pytest.mark.slow
def test_versions_and_aliases_are_completed_as_bash_splits_them(home: Path) -> None:
    assert suggested(home, "model", "show", "forest", ":") == ["latest", "1"]
    assert suggested(home, "model", "show", "forest", ":", "l") == ["latest"]
    assert suggested(home, "model", "show", "forest", "@", "ch") == ["champion"]
    assert suggested(home, "model", "alias", "delete", "forest", "@") == ["champion"]


@pytest.mark.slow
def test_completion_imports_nothing_slow(home: Path) -> None:
    done = completed(home, "model", "show", "for", PYTHONPROFILEIMPORTTIME="1")
    imported = set(re.findall(r"\| +(\w+)", done.stderr))
    assert "forest" in done.stdout
    assert "deepseek" in imported
    assert not imported & SLOW


def test_components_and_commands_are_completed_without_a_mesh(tmp_path: Path) -> None:
    assert suggested(tmp_path, "mo") == ["model"]
    assert suggested(tmp_path, "components", "opt") == ["optimizer"]
    assert "cnn" in suggested(tmp_path, "components", "model", "")


def test_without_a_mesh_nothing_is_suggested(tmp_path: Path) -> None:
    assert completed(tmp_path, "model", "show", "").stdout.strip() == ""


def test_a_mesh_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = ServiceAddress(f"127.0.0.1:{silent.getsockname()[1]}")
        MeshFile({"registry": address}).write(tmp_path / "mesh.json")
        context = click.Context(click.Command("show"))
        assert completion.MODEL(context, "") == []
    assert completion.MODEL(context, "") == []  # nothing listens any more


def test_every_parameter_that_takes_a_name_is_completed() -> None:
    uncompleted = [
        (name, parameter.name)
        for name, command in commands().items()
        for parameter in command.params
        if parameter.name in NAMES and isinstance(parameter.type, click.types.StringParamType)
        if parameter._custom_shell_complete is None
    ]
    assert not uncompleted


def test_of_many_names_those_that_match_are_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.client.connect", lambda: nullcontext(None))
    names = [*(f"a{number}" for number in range(1000)), "zebra"]
    assert completion._from_mesh(lambda mesh, ctx, incomplete: names)(click.Context(click.Command("show")), "z") == [
        "zebra"
    ]
