"""Trains a classifier of digits from class folders, and lists its mistakes.

Get the data as docs/tasks/image-classification.md says, start a mesh with `deepseek up`, and run the cells one by one
in an editor, or the whole file with `python examples/image_classification.py` in the folder that contains `digits/`.
"""

# %% Import the class folders as a version of the data set `digits`.
from pathlib import Path

from deepseek.client import connect
from deepseek.client.predictor import Predictor
from deepseek.client.specs import derive_spec
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source

mesh = connect()
found = Import(open_source("digits"))
version = found.upload(mesh.datasets, "digits")
print(version.name, found.report.to_json())

# %% Train. The spec is a dictionary, which you can change before you submit it.
spec = derive_spec(mesh, "image-classification", "digits")
spec["epochs"] = 10
run, _ = mesh.runs.submit(spec)
for event in mesh.runs.watch(run.name):
    if event.HasField("evaluation"):
        print({metric.name: round(metric.value, 4) for metric in event.evaluation.metrics})

# %% Export the best epoch as a version of the model `digits`, and serve it.
mesh.runs.wait(run.name)
print(mesh.runs.export(run.name, "digits").name)
mesh.inference.load("digits")

# %% Predict the test images.
paths = sorted(Path("digits", "test").glob("*/*.png"))
answers = list(Predictor(mesh, "digits").predict({"image": path.read_bytes()} for path in paths))
mistakes = [
    (answer.probability, path, answer.label)
    for path, answer in zip(paths, answers, strict=True)
    if answer.label != path.parent.name
]
print(f"{1 - len(mistakes) / len(paths):.1%} of {len(paths)} images are right")

# %% The most confident mistakes come first.
for probability, path, label in sorted(mistakes, reverse=True)[:10]:
    print(f"{path} predicted as {label} ({probability:.1%})")
mesh.close()
