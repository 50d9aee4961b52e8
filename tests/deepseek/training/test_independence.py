"""The training library is independent of the programs that the trainer service starts."""

from pathlib import Path

import deepseek.training


def test_the_library_imports_nothing_of_the_jobs() -> None:
    (folder,) = map(Path, deepseek.training.__path__)
    wrong = [path.name for path in folder.glob("*.py") if "deepseek.trainjob" in path.read_text().partition('"""\n')[2]]
    assert not wrong
