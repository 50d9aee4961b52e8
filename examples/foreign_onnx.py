"""Serves an ONNX model that was made elsewhere, and asks it for the types of files.

Get the model as docs/tasks/foreign-onnx.md says, start a mesh with `deepseek up`, and run the cells one by one in an
editor, or the whole file with `python examples/foreign_onnx.py` in the folder that contains `magika.onnx`.
"""

# %% Register the model, with the names of its classes. The mesh checks the graph and runs two requests first.
from pathlib import Path

from deepseek.client import connect
from deepseek.client.predictor import Predictor

mesh = connect()
labels = Path("labels.txt").read_text(encoding="utf-8").splitlines()
version = mesh.models.import_onnx("filetypes", "magika.onnx", labels=labels, license="Apache-2.0")
print(version.name)

# %% Serve it.
mesh.inference.load("filetypes")
predictor = Predictor(mesh, "filetypes")
print(predictor.manifest.inputs)


# %% Magika takes the first and the last 1024 bytes of a file, without white space at the ends; 256 is padding.
def features(data: bytes) -> list[int]:
    """Returns Magika's input for a file."""
    first, last = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
    return [*first, *[256] * (2048 - len(first) - len(last)), *last]


# %% Ask.
paths = sorted(path for path in Path().iterdir() if path.is_file() and path.stat().st_size)
answers = predictor.predict({"bytes": features(path.read_bytes())} for path in paths)
for path, answer in zip(paths, answers, strict=True):
    print(f"{path}: {answer.label} ({answer.probability:.1%})")
mesh.close()
