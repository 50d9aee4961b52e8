"""Progress of long work on the command line, with and without a terminal."""

import io

import pytest
from rich.console import Console

from deepseek import progress


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


NOTE = "loss 1.730  accuracy 0.4321  epoch 2  1234 samples/s"


def test_eighty_columns_hold_bar_count_and_metric() -> None:
    out = Terminal()
    with progress.bar(Console(file=out, force_terminal=True, width=80)) as bar:
        bar.update(bar.add_task("training", total=12345, note=""), completed=1234, note=NOTE)
    for part in ("training", "━", "1234/12345", "loss 1.730", "accuracy 0.4321"):
        assert part in out.getvalue()


def test_a_file_is_not_a_terminal_even_if_colours_are_forced() -> None:
    assert not progress.is_watched(Console(file=io.StringIO(), force_terminal=True))
    assert progress.is_watched(Console(file=Terminal(), force_terminal=True))


def test_lines_are_printed_occasionally_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Lines() as lines:
        task = lines.add_task("training", total=None, note="starting the workers")
        for step in (1, 2, 3):
            lines.update(task, total=40, completed=step, note=NOTE)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
        lines.update(task, completed=30)
    assert capsys.readouterr().err == f"training 30 of 40  {NOTE}\n"
    with progress.Lines() as lines:
        lines.update(lines.add_task("exporting", total=1, note=""), completed=0.25, note="measuring")
    assert capsys.readouterr().err == "exporting 25%  measuring\n"


def test_work_that_never_started_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Lines() as lines:
        lines.add_task("training", total=None, note="starting the workers")
    assert capsys.readouterr().err == ""
