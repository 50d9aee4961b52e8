"""Paths of this machine in texts for callers."""

import sys
import tempfile
from pathlib import Path

import pytest

from common.paths import without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no space left for {path}; free some", "no space left for <path>; free some"),
        ("{path}: Permission denied", "<path>: Permission denied"),
        ("cannot open '{path}/a b.onnx'", "cannot open '<path>'"),
        ('File "{path}", line 3, in f', 'File "<path>", line 3, in f'),
        ("failed:{path}/m.onnx:3 (see {path}).", "failed:<path>:3 (see <path>)."),
        ("file://{path} sqlite:///{path}/x.db mode={path}", "file:<path> sqlite:<path> mode=<path>"),
        ("one\n{path}\nthree", "one\n<path>\nthree"),
        ("[Errno 28] No space left on device: '{path}'", "[Errno 28] No space left on device: '<path>'"),
    ],
)
def test_paths_of_this_machine_are_left_out(text: str, shown: str, tmp_path: Path) -> None:
    for path in (tmp_path, Path(tempfile.gettempdir()), Path(sys.executable), Path("/proc/self/environ")):
        assert without_paths(text.format(path=path)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "models/vqa/versions/1 of tenants/lab",
        "/deepseek.job.v1.JobService/GetJob takes the role reader",
        "see https://example.com/a and s3+https://host/bucket",
        "s3://home/blob and http://tmp/api",
        "text/plain; a / b // c '/' \"//\" /",
        "spec.inputs[0].encoder",
        "../secret and ~/token",
        "\0/\0 \ud800/",
        "",
    ],
    ids=ascii,
)
def test_what_is_no_path_stays(text: str) -> None:
    assert without_paths(text) == text
