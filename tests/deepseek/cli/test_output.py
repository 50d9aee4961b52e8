"""Tables show names whole."""

import os
import subprocess
import sys

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
