"""What every result says about where it comes from, and where it is kept."""

import json
import os
import subprocess
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


def write_result(area: str, result: Mapping[str, Any]) -> Path:
    """Writes docs/results/<area>.json."""
    path = ROOT / "docs" / "results" / f"{area}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path
