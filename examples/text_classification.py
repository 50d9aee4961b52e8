"""Trains a classifier of newsgroup posts, fine-tunes it, and asks it about a text.

Get the data as docs/tasks/text-classification.md says, start a mesh with `deepseek up`, and run the cells one by one in
an editor, or the whole file with `python examples/text_classification.py` in the folder that contains `newsgroups/`.
"""

# %% Import the tables as a version of the data set `newsgroups`. The column `topic` becomes a label.
from deepseek.client import connect
from deepseek.client.predictor import Predictor
from deepseek.client.specs import derive_spec
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from deepseek.interchange.schema import Wishes

mesh = connect()
found = Import(open_source("newsgroups"), Wishes(target="topic"))
version = found.upload(mesh.datasets, "newsgroups")
print(version.name, found.report.to_json())

# %% Train, and register the best epoch as a version of the model `newsgroups`.
spec = derive_spec(mesh, "text-classification", "newsgroups")
run, _ = mesh.runs.submit(spec)
run = mesh.runs.wait(run.name)
print({metric.name: round(metric.value, 4) for metric in run.metrics})
first = mesh.runs.export(run.name, "newsgroups")

# %% Fine-tune this version at a tenth of the learning rate. The embeddings of the words stay as they are.
slow = {"name": "adamw", "params": {"lr": spec["optimizer"]["params"]["lr"] / 10}}
run, _ = mesh.runs.submit({**spec, "init": first.name, "freeze": ["tokens."], "optimizer": slow, "epochs": 2})
run = mesh.runs.wait(run.name)
print({metric.name: round(metric.value, 4) for metric in run.metrics})

# %% Serve the newest version, and ask it. An answer has a probability for each topic.
print(mesh.runs.export(run.name, "newsgroups").name)
mesh.inference.load("newsgroups")
(answer,) = Predictor(mesh, "newsgroups").predict([{"text": "when will the next rocket launch to the moon"}])
for topic, probability in sorted(answer.probabilities.items(), key=lambda one: -one[1])[:3]:
    print(f"{topic}: {probability:.1%}")
mesh.close()
