"""Trains a small language model on a text file, and generates text with it.

Get the text as docs/tasks/language-model.md says, start a mesh with `deepseek up`, and run the cells one by one in an
editor, or the whole file with `python examples/language_model.py` in the folder that contains `reference.txt`.
"""

# %% Import passages of 128 characters as a version of the data set `reference`.
from deepseek.client import connect
from deepseek.client.continuation import Continuer, Sampling
from deepseek.client.specs import derive_spec
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from deepseek.interchange.splits import Splitter

mesh = connect()
found = Import(open_source("reference.txt", passage=128), splitter=Splitter(test_share=0.1))
version = found.upload(mesh.datasets, "reference")
print(version.name, found.report.to_json())

# %% Train. The spec is a dictionary, which you can change before you submit it.
spec = derive_spec(mesh, "language-model", "reference")
print(spec["model"])
run, _ = mesh.runs.submit(spec)
for event in mesh.runs.watch(run.name):
    if event.HasField("evaluation"):
        print({metric.name: round(metric.value, 4) for metric in event.evaluation.metrics})

# %% Export the best epoch as a version of the model `reference`, and serve it.
mesh.runs.wait(run.name)
model = mesh.runs.export(run.name, "reference")
mesh.inference.load("reference")

# %% Write at several temperatures.
prompt = "The import statement"
for temperature in (0, 0.5, 1):
    writer = Continuer(mesh, "reference", Sampling(num_tokens=200, temperature=temperature, seed=1))
    (answer,) = writer.predict([{"text": prompt}])
    print(f"--- temperature {temperature}\n{prompt}{answer.text}")
mesh.close()
