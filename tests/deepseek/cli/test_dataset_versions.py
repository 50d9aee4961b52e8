"""Versions of data sets in the command line: shown in 80 columns, imported again, listed and deleted."""

import json
from pathlib import Path

import pytest

from tests.deepseek.cli.commands import deepseek, succeeded
from tests.deepseek.cli.tree import app, output

pytestmark = pytest.mark.slow


def test_the_fields_of_a_table_fit_into_80_columns(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "alcohol,nonflavanoid_phenols,od280_od315_of_diluted_wines,cultivar\n"
    rows = "".join(f"{11.03 + i / 7:.2f},{0.13 + i / 100:.2f},{1.27 + i / 9:.3f},class_{i % 3}\n" for i in range(20))
    (tmp_path / "table.csv").write_text(header + rows, encoding="utf-8")
    succeeded(home, "dataset", "import", "narrow", str(tmp_path / "table.csv"), "--target", "cultivar")
    monkeypatch.setenv("DEEPSEEK_HOME", str(home))
    monkeypatch.setattr(output.console, "width", 80)
    app(["dataset", "show", "narrow"], standalone_mode=False)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1] == ["field", "type", "values", "min", "max", "mean", "sd", "labels"]
    assert shown[2] == ["alcohol", "number", "20", "11.03", "13.74", "12.39", "0.8449"]
    assert shown[5] == ["cultivar", "label", "20", "3"]
    (tmp_path / "text.csv").write_text("text\nsome\nwords here\n", encoding="utf-8")
    succeeded(home, "dataset", "import", "lines", str(tmp_path / "text.csv"))
    app(["dataset", "show", "lines"], standalone_mode=False)
    out = capsys.readouterr().out
    assert ["field", "type", "values", "measure", "min", "max", "mean", "sd"] in [
        line.split() for line in out.splitlines()
    ]
    assert ["text", "text", "2", "characters", "4", "10", "7", "4.243"] in [line.split() for line in out.splitlines()]


def test_equal_files_make_no_version_and_a_data_set_without_versions_is_not_listed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "again.csv").write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    arguments = ("dataset", "import", "again", str(tmp_path / "again.csv"))
    assert "again:1 (datasets/again/versions/1)\n" in succeeded(home, *arguments)
    repeated = succeeded(home, *arguments)
    assert "again:1 (datasets/again/versions/1); unchanged, no new version\n" in repeated
    assert json.loads(succeeded(home, *arguments, "--json"))["created"] is False
    assert "again:1" in succeeded(home, "dataset", "list")
    succeeded(home, "dataset", "delete", "again:1")
    assert "again" not in deepseek(home, "dataset", "list").stdout
