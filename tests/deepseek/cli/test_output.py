"""Tables show names whole."""

import os
import subprocess
import sys

import pytest

from common.errors import PermissionDenied
from deepseek.cli.output import print_error

PROGRAM = """
from deepseek.cli.output import print_table

print_table(["name", "problem"], [("models/easy-vqa/versions/1234567890", "bad spec.metrics[i] [/a] " + "x" * 60)])
"""


def test_cells_are_shown_as_they_are_and_names_whole() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "spec.metrics[i] [/a]" in done.stdout
    assert "models/easy-vqa/versions/1234567890 " in done.stdout


def test_a_narrow_terminal_cuts_no_name() -> None:
    program = PROGRAM.replace("bad spec", "bad datasets/other/versions/3, models/other/versions/3 spec")
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "COLUMNS": "30"}, capture_output=True, text=True, check=True
    )
    assert "models/easy-vqa/versions/1234567890 " in done.stdout
    assert "datasets/other/versions/3, " in done.stdout
    assert "models/other/versions/3 " in done.stdout


def test_a_missing_role_is_reported_without_the_name_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    method = "/deepseek.federated.v1.FederatedService/StartRun"
    print_error(PermissionDenied("ROLE_MISSING", f"ana has the role reader; {method} requires writer"))
    assert "error: ana has the role reader; this command requires writer\n" in capsys.readouterr().err


HOSTILE = """
from rich.text import Text

from deepseek.cli.output import bold, console, print_json, print_table, progress_bar

evil = "\\x1b[2J\\x9b31m [bold]:smile:[/x]"
print_table([f"name {evil}", "label"], [(evil, "plain")], none=evil)
print_table(["name"], [], none=evil)
console.print(evil)
console.print("label", bold(evil))
print_json({evil: evil})
with progress_bar() as bar:
    bar.update(bar.add_task("importing", total=2, note=""), completed=1, note=evil)
"""


def test_text_from_outside_neither_controls_the_terminal_nor_is_it_markup() -> None:
    done = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, check=True)
    for text in (done.stdout, done.stderr):
        assert not set(text) & {"\x1b", "\x9b"}
    shown = r"\x1b[2J\x9b31m [bold]:smile:[/x]"
    assert done.stdout.count(shown) == 5
    assert done.stderr == f"importing 1 of 2  {shown}\n"
