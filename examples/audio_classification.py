"""Trains a classifier of recordings from class folders, and counts how often it confuses languages.

Get the data as docs/tasks/audio-classification.md says, start a mesh with `deepseek up`, and run the cells one by one
in an editor, or the whole file with `python examples/audio_classification.py` in the folder that contains `voices/`.
"""

# %% Import the class folders as a version of the data set `voices`.
from collections import Counter
from pathlib import Path

from deepseek.client import connect
from deepseek.client.predictor import Predictor
from deepseek.client.specs import derive_spec
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source

mesh = connect()
found = Import(open_source("voices"))
version = found.upload(mesh.datasets, "voices")
print(version.name, found.report.to_json())

# %% Train. The spec is a dictionary, which you can change before you submit it.
spec = derive_spec(mesh, "audio-classification", "voices")
print(spec["inputs"])
run, _ = mesh.runs.submit(spec)
for event in mesh.runs.watch(run.name):
    if event.HasField("evaluation"):
        print({metric.name: round(metric.value, 4) for metric in event.evaluation.metrics})

# %% Export the best epoch as a version of the model `voices`, and serve it.
mesh.runs.wait(run.name)
model = mesh.runs.export(run.name, "voices")
mesh.inference.load("voices")

# %% Predict the test recordings.
paths = sorted(path for path in Path("voices", "test").rglob("*") if path.is_file())
answers = list(Predictor(mesh, "voices").predict({"audio": path.read_bytes()} for path in paths))
pairs = Counter((path.parent.name, answer.label) for path, answer in zip(paths, answers, strict=True))
num_right = sum(count for (language, label), count in pairs.items() if language == label)
print(f"{num_right / len(paths):.1%} of {len(paths)} recordings are right")

# %% Which languages are confused?
for (language, label), count in pairs.most_common():
    if language != label:
        print(f"{language} predicted as {label}: {count}")
mesh.close()
