"""The .proto files and what is generated from them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).with_name("buf")
BASELINE = ROOT / "protos" / "baseline.binpb"


def test_generated_code_matches_its_proto() -> None:
    done = subprocess.run(
        [ROOT / "deploy/setup/protos.sh", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_contracts_import_only_each_other_and_well_known_types() -> None:
    for path in (ROOT / "protos").rglob("*.proto"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("import "):
                assert line.split('"')[1].startswith(("protos/", "google/protobuf/")), f"{path}: {line}"


def compared(protos: Path) -> "subprocess.CompletedProcess[str]":
    """What `make check` says of contracts."""
    return subprocess.run(
        [BUF, "breaking", "--against", BASELINE], cwd=protos, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("line", "replacement", "complaint"),
    [
        ("  int64 size_bytes = 3;\n", "", 'Previously present field "3" with name "size_bytes"'),
        ("  int64 size_bytes = 3;\n", "  int64 size_bytes = 5;\n", 'Previously present field "3"'),
        ("  int64 size_bytes = 3;\n", "  string size_bytes = 3;\n", "changed type"),
        ("  string media_type = 4;\n", "  string media_type = 4;\n  int64 rows = 5;\n", ""),
    ],
    ids=["removed", "renumbered", "retyped", "added"],
)
def test_contracts_keep_what_the_last_release_promised(
    line: str, replacement: str, complaint: str, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*.py*"))
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    assert compared(tmp_path).stdout == ""
    contract = tmp_path / "protos" / "artifact" / "v1" / "artifact.proto"
    text = contract.read_text(encoding="utf-8")
    assert line in text
    contract.write_text(text.replace(line, replacement), encoding="utf-8")
    done = compared(tmp_path)
    assert (done.returncode == 0) == (not complaint), done.stderr
    assert complaint in done.stdout
