"""What every result says about where it comes from, and where it is kept."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Commit, whether the tree differs from it, and the processor that measured."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    )
    return {"commit": commit.strip(), "changed": bool(changed.strip()), "cpu": f"{os.cpu_count()} x {model}"}


def progress_file(area: str, provenance: Mapping[str, Any], run: str) -> Path:
    """Where a run that may be interrupted keeps what it has, a line a case; another commit or run is another file."""
    path = ROOT / f".{area}" / f"{provenance['commit'][:12]}{'-changed' * provenance['changed']}-{run}.jsonl"
    path.parent.mkdir(exist_ok=True)
    return path


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The cases that are done."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def certify(area: str, result: Mapping[str, Any], *, full: bool) -> None:
    """Writes docs/results/<area>.json, if the run was full and the tree clean."""
    if not full or result["changed"]:
        return
    path = ROOT / "docs" / "results" / f"{area}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"certified in {path}", file=sys.stderr)
