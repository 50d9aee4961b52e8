from pathlib import Path

import pytest

from common.artifacts.directory import DirectoryStore
from common.artifacts.measured import MeasuredStore
from common.errors import NotFound


def test_operations_are_told_with_how_they_ended(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def observe(operation: str, outcome: str, seconds: float) -> None:
        assert seconds > 0
        seen.append((operation, outcome))

    store = MeasuredStore(DirectoryStore(tmp_path), observe)
    artifact = store.put("t", b"x", "text/plain")
    assert store.read("t", artifact.sha256) == b"x"
    with pytest.raises(NotFound):
        store.read("t", "0" * 64)
    assert list(store.list("t")) == [artifact.sha256]
    store.delete("t", artifact.sha256)
    assert seen == [
        ("holds", "OK"),
        ("publish", "OK"),
        ("open", "OK"),
        ("open", "NOT_FOUND"),
        ("list", "OK"),
        ("delete", "OK"),
    ]
