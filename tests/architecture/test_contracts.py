"""The .proto files and what is generated from them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
