"""Commands print names in full, even in a terminal with 40 columns, and say so if there is nothing to list."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepseek.client import connect
from deepseek.client.names import short_name
from tests.deepseek.cli.commands import succeeded
from tests.deepseek.cli.tree import app, output

pytestmark = pytest.mark.slow

LONG = "a-name-of-sixty-three-characters-as-it-is-allowed-to-be-chosen."
COMMANDS = """
model list
model show {long}
model served
model lineage {long}@{long}
model alias get {long}
model load {long}
dataset list
dataset show {long}
dataset uploads
dataset import {long} wine.csv --target label
run list
run show {run}
run tag {run} kind={long}
run compare {run} {second}
"""
NAME = re.compile(r"(?:models|datasets|runs|uploads)/[\w./-]+")


@pytest.fixture
def narrow(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A terminal with 40 columns, and a mesh in which names are long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSEEK_HOME", str(home))
    Path("wine.csv").write_text("a,label\n" + "1.5,red\n2.5,white\n" * 4, encoding="utf-8")
    succeeded(home, "model", "import", LONG, str(home.parent / "forest.onnx"))
    succeeded(home, "model", "alias", "set", LONG, LONG, "1")
    succeeded(home, "model", "load", LONG)
    succeeded(home, "dataset", "import", LONG, str(tmp_path / "wine.csv"), "--target", "label")
    runs = []
    with connect() as mesh:
        for rate in (0.1, 0.2):
            with mesh.runs.log(f"rate {rate}", parameters={"lr": rate}) as run:
                run.log(1, loss=rate)
            runs.append(run.name)
    wide = output.console.width
    output.console.width = 40
    yield {"long": LONG, "run": runs[0], "second": runs[1]}
    output.console.width = wide


def test_names_are_whole_in_a_narrow_terminal(narrow: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for line in COMMANDS.strip().splitlines():
        arguments = line.format(**narrow).split()
        app([*arguments, "--json"], standalone_mode=False)
        names = set(_names(json.loads(capsys.readouterr().out)))
        app(arguments, standalone_mode=False)
        text = capsys.readouterr().out
        missing = [name for name in names if not any(form in text for form in _forms(name))]
        assert not missing, f"{line}\n{text}"


def test_an_empty_list_says_what_is_missing(
    embedded: tuple[Path, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(embedded[0]))
    app(["run", "list", "--where", "nothing>1"], standalone_mode=False)
    assert capsys.readouterr().out == "no run meets these conditions\n"
    app(["watermark", "keys", "text"], standalone_mode=False)
    assert capsys.readouterr().out == "there are no keys for text; the first mark creates one\n"


def _forms(name: str) -> tuple[str, str, str]:
    """Returns the forms that a name may have: long, short and, for an alias of a known model, the last segment."""
    return name, short_name(name), name.rpartition("/")[2] if "/aliases/" in name else name


def _names(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for value in document.values():
            yield from _names(value)
    elif isinstance(document, list):
        for value in document:
            yield from _names(value)
    elif isinstance(document, str) and NAME.fullmatch(document):
        yield document
