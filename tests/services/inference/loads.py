"""Chooses the file of a version to serve, repeatedly: `python -m tests.services.inference.loads FOLDER NUM_LOADS`.

A separate program, so that it can run on another kind of processor. The folder holds `manifest.json`, the files and
`truth.npz`, probes with the correct answers. Prints a JSON list: for each load the variant, mode and reason, or the
error, and how much the answers of the chosen file differ from the truth.
"""

import json
import sys
from pathlib import Path
from typing import Any

from common.errors import MeshError
from deepseek.models.manifest import ModelManifest
from deepseek.models.probes import Probes
from services.inference.engine import Engine
from services.inference.verification import choose


def load(folder: Path) -> dict[str, Any]:
    """Chooses once."""
    manifest = ModelManifest.from_bytes((folder / "manifest.json").read_bytes())
    probes = Probes.from_bytes((folder / manifest.probes).read_bytes()) if manifest.probes else None
    truth = Probes.from_bytes((folder / "truth.npz").read_bytes())
    try:
        choice = choose(manifest, probes, lambda file: folder / file.name, Engine)
    except MeshError as error:
        return {"error": error.reason, "message": error.message}
    classes = [output.name for output in manifest.outputs if output.labels]
    differing = truth.disagreement(lambda request: [array for _, array in choice.engine.run(request)], classes)
    # Quantized alone, and multiplied exactly.
    plain = Engine(folder / "model.int8.onnx", "plain")
    expected = truth.disagreement(lambda request: [array for _, array in plain.run(request)], classes)
    return {
        "variant": choice.file.variant,
        "mode": choice.mode,
        "reason": choice.reason,
        "differing": differing,
        "expected": expected,
    }


if __name__ == "__main__":
    print(json.dumps([load(Path(sys.argv[1])) for _ in range(int(sys.argv[2]))]))
