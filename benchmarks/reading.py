"""Draws passages of the repository's prose for a reading test: `python -m benchmarks.reading [--seed SEED]`.

A reader who does not know the code marks each passage that needs a second reading. The default seed is the date of the
commit, so all readers of a commit read the same 60 passages.
"""

import argparse
import ast
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import ROOT

SOURCES = ("benchmarks", "common", "deepseek", "deploy", "kernels", "services")
NUM_PASSAGES = {"docstring": 20, "proto comment": 15, "error message": 15, "paragraph": 10}

_MIN_WORDS = 4
_MIN_PARAGRAPH_WORDS = 12


@dataclass(frozen=True)
class Passage:
    """A passage of prose.

    Attributes:
        kind: A key of `NUM_PASSAGES`.
        place: File and line, relative to the repository.
        text: Text of the passage. If a line of code belongs to the passage, this line is included.
    """

    kind: str
    place: str
    text: str


def passages() -> Iterator[Passage]:
    """Yields every passage of the repository, in a fixed order."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                yield from _of_python(path)
    for path in sorted((ROOT / "protos").rglob("*.proto")):
        yield from _of_proto(path)
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield from _of_markdown(path)


def draw(seed: str) -> list[Passage]:
    """Returns the passages of a reading test.

    Args:
        seed: Seed of the draw. For one commit, the same seed gives the same passages.
    """
    known = list(passages())
    chance = random.Random(seed)
    return [
        passage
        for kind, number in NUM_PASSAGES.items()
        for passage in chance.sample([one for one in known if one.kind == kind], number)
    ]


def _of_python(path: Path) -> Iterator[Passage]:
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring.split()) >= _MIN_WORDS:
                line = getattr(node, "lineno", 1)
                head = "" if isinstance(node, ast.Module) else source.splitlines()[line - 1].strip() + "\n"
                yield Passage("docstring", _place(path, line), f"{head}{docstring}")
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            text = ast.get_source_segment(source, node.exc) or ""
            message = " ".join(str(one.value) for one in ast.walk(node.exc) if isinstance(one, ast.Constant))
            if len(message.split()) > _MIN_WORDS:
                yield Passage("error message", _place(path, node.lineno), text)


def _of_proto(path: Path) -> Iterator[Passage]:
    comment: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text.startswith("//"):
            comment.append(text)
            continue
        if len(" ".join(comment).split()) > _MIN_WORDS:
            yield Passage("proto comment", _place(path, number), "\n".join([*comment, text]))
        comment = []


def _of_markdown(path: Path) -> Iterator[Passage]:
    number = 1
    prose = re.sub(r"```.*?```|<!-- figures.*?<!-- /figures -->", _blank, path.read_text(encoding="utf-8"), flags=re.S)
    for block in re.split(r"(\n\s*\n)", prose):
        text = block.strip()
        if text and text[0] not in "#|<!" and len(text.split()) >= _MIN_PARAGRAPH_WORDS:
            yield Passage("paragraph", _place(path, number), text)
        number += block.count("\n")


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def main() -> None:
    """Prints the numbered passages of a reading test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", help="Seed of the draw; default: the date of the commit.")
    seed = parser.parse_args().seed
    if seed is None:
        command = ["git", "log", "-1", "--format=%cI"]
        seed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    print(f"seed {seed}")
    for number, passage in enumerate(draw(seed), 1):
        print(f"\n--- {number}. {passage.kind}, {passage.place}\n{passage.text}")


if __name__ == "__main__":
    main()
