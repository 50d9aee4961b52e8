"""Trains classifiers of wines from CSV files with two numbers of hidden layers, and compares them.

Get the data as docs/tasks/tabular.md says, start a mesh with `deepseek up`, and run the cells one by one in an editor,
or the whole file with `python examples/tabular.py` in the folder that contains `wine/`.
"""

# %% Import the tables as a version of the data set `wine`. The column `cultivar` becomes a label.
import csv
from collections import Counter
from pathlib import Path

from deepseek.client import connect
from deepseek.client.predictor import Predictor
from deepseek.client.specs import derive_spec
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from deepseek.interchange.schema import Wishes

mesh = connect()
found = Import(open_source("wine"), Wishes(target="cultivar"))
version = found.upload(mesh.datasets, "wine")
print(version.name, found.report.to_json())

# %% Train a linear model and one with two hidden layers.
spec = derive_spec(mesh, "tabular", "wine")
runs = {}
for depth in (0, 2):
    run, _ = mesh.runs.submit({**spec, "model": {"name": "tabular", "params": {"depth": depth}}})
    runs[depth] = mesh.runs.wait(run.name)
    print(depth, {metric.name: round(metric.value, 4) for metric in runs[depth].metrics})

# %% Export the model that is better on the split `validation`, and serve it.
best = min(runs.values(), key=lambda run: next(metric.value for metric in run.metrics if metric.name == "loss"))
print(mesh.runs.export(best.name, "wine").name)
mesh.inference.load("wine")

# %% Predict the split `test`. Values are numbers here, as the model's encoders expect.
with Path("wine", "test.csv").open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
samples = [{name: float(value) for name, value in row.items() if name != "cultivar"} for row in rows]
answers = [answer.label for answer in Predictor(mesh, "wine").predict(samples)]
for (true, predicted), number in sorted(Counter(zip((r["cultivar"] for r in rows), answers, strict=True)).items()):
    print(f"{true} predicted as {predicted}: {number}")
mesh.close()
