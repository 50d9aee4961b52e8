"""What `deepseek watermark` refuses before it asks a mesh; the commands of docs/watermark.md show what it does."""

from pathlib import Path

import pytest

from tests.deepseek.cli.test_cli import deepseek


def test_text_is_not_marked_afterwards(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("once", encoding="utf-8")
    done = deepseek(tmp_path, "watermark", "mark", str(tmp_path / "story.txt"))
    assert done.returncode == 1
    assert "use `deepseek watermark write`" in done.stderr
    assert "UNSUPPORTED_FILE" in done.stderr


@pytest.mark.parametrize(("name", "options"), [("story.txt", ()), ("photo.png", ("--model", "reference"))])
def test_a_model_is_asked_for_where_there_is_text_and_nowhere_else(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(b"")
    done = deepseek(tmp_path, "watermark", "detect", str(tmp_path / name), *options)
    assert done.returncode == 1
    assert "give --model for text" in done.stderr


def test_a_key_is_revoked_only_by_those_who_say_yes(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "watermark", "revoke", "image", "0")
    assert done.returncode == 1
    assert "never be found again" in done.stderr
