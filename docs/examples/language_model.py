"""Trains a small language model on the Python reference that is part of Python, and serves it as `reference`.

Run it against a mesh: `deepseek up`, then `python docs/examples/language_model.py`. It takes a minute or two.
"""

import argparse
from pydoc_data.topics import topics

from deepseek.client import connect
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

LENGTH = 64
CHARACTERS = {"name": "characters", "params": {"length": LENGTH, "vocabulary": 96}}


def main() -> None:
    """Uploads the data set, trains the model, exports it and loads it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--characters", type=int, default=400_000, help="number of characters to learn from")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))[: arguments.characters]
    passages = [text[start : start + LENGTH] for start in range(0, len(text) - LENGTH, LENGTH)]
    samples = [
        Sample(f"{i:06d}", "train" if i % 16 else "test", {"passage": passage}) for i, passage in enumerate(passages)
    ]
    spec = {
        "model": {"name": "character_lm", "params": {"vocabulary": 96, "width": 96, "depth": 2, "num_heads": 4}},
        "loss": {"name": "next_token_cross_entropy"},
        "optimizer": {"name": "adamw", "params": {"lr": 0.004}},
        "metrics": [{"name": "next_token_accuracy"}, {"name": "perplexity"}],
        "inputs": [{"field": "passage", "input": "text", "encoder": CHARACTERS}],
        "target": {"field": "passage", "encoder": CHARACTERS},
        "epochs": arguments.epochs,
        "batch_size": 32,
    }
    with connect() as mesh:
        version = mesh.datasets.upload("reference", [Field("passage", "text")], samples)
        run, _ = mesh.runs.submit({**spec, "dataset_version": version.name})
        metrics = {metric.name: metric.value for metric in mesh.runs.wait(run.name).metrics}
        model = mesh.runs.export(run.name, "reference")
        mesh.inference.load("reference")
    print(f"{model.name} is served; perplexity {metrics.get('perplexity', metrics.get('test/perplexity', 0)):.1f}")


if __name__ == "__main__":
    main()
