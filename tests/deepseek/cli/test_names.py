"""A name in a wrong form is refused before a command does anything, even before it looks for a mesh."""

import json
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from tests.deepseek.cli.tree import app
from tests.harness.images import PNG

COMMANDS = """
dataset read BAD
dataset show BAD
dataset show colours --against BAD
dataset export BAD out
dataset delete BAD
dataset delete BAD --all
dataset import BAD table.csv
dataset upload BAD --images . --questions table.csv
dataset drop-upload BAD
model show BAD
model lineage BAD
model download BAD --output out
model load BAD
model unload BAD
model delete BAD
model import BAD model.onnx
model alias set BAD champion 1
model alias set digits BAD 1
model alias set digits champion BAD
model alias get BAD
model alias delete BAD
train spec.json --dataset BAD
train spec.json --model BAD
train --task tabular --dataset BAD
predict BAD
infer BAD
ask photo.png what? --model BAD
run show BAD
run watch BAD
run stop BAD
run tag BAD a=b
run plot BAD --out curves.png
run compare BAD x7
run delete BAD
watermark mark photo.png --model-version BAD
watermark detect text.txt --model BAD
watermark write BAD --prompt once
"""


CASES = [
    (line, bad)
    for line in COMMANDS.strip().splitlines()
    for bad in ("My-Colours!", "a/b/c")
    if (line, bad) != ("model lineage BAD", "a/b/c")  # lineage accepts resources of every kind
]


@pytest.mark.parametrize(("line", "bad"), CASES)
def test_a_wrong_name_is_refused_before_anything_is_done(
    line: str, bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    Path("photo.png").write_bytes(PNG)
    Path("text.txt").write_text("once", encoding="utf-8")
    Path("table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    Path("model.onnx").write_bytes(b"")
    Path("spec.json").write_text(json.dumps({"epochs": 1}), encoding="utf-8")
    with pytest.raises(InvalidArgument) as caught:
        app(line.replace("BAD", bad).split(), standalone_mode=False)
    assert caught.value.reason == "BAD_NAME"
    assert caught.value.field
    assert "write" in caught.value.message
    assert "`" in caught.value.message
