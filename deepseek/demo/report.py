"""The demo's report: a JSON file with all results, a learning curve and a contact sheet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek.contact_sheet import COLUMNS, Tile, contact_sheet
from deepseek.demo.serving import AnsweredQuestion
from protos.trainer.v1 import trainer_pb2

ROWS = 4


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the results in the report as JSON."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_learning_curve(path: Path, events: Sequence[trainer_pb2.RunEvent]) -> None:
    """Draws two curves: the training loss at each step, and the accuracy on the test split at each evaluation."""
    from matplotlib.figure import Figure

    steps = [event.step for event in events if event.HasField("step")]
    evaluations = [event.evaluation for event in events if event.HasField("evaluation")]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    losses = figure.subplots()
    losses.plot(
        [s.step for s in steps], [_metric(s.metrics, "loss") for s in steps], color="tab:blue", label="training loss"
    )
    losses.set(xlabel="step", ylabel="training loss", yscale="log", title="easy-vqa: learning curve")
    shares = losses.twinx()
    shares.plot(
        [e.step for e in evaluations],
        [_metric(e.metrics, "accuracy") for e in evaluations],
        color="tab:orange",
        marker="o",
        label="test accuracy",
    )
    shares.set(ylabel="test accuracy", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path)


def write_contact_sheet(path: Path, asked: Sequence[AnsweredQuestion]) -> None:
    """Draws a sheet of images, each with a question, the model's answer, and a tick or a cross.

    Up to one row of wrong answers comes first. The rest of the sheet samples all questions at regular intervals.
    """
    wrong = [one for one in asked if one.predicted != one.answer][:COLUMNS]
    count = COLUMNS * ROWS - len(wrong)
    chosen = wrong + [asked[i * len(asked) // count] for i in range(count)]
    contact_sheet([_tile(one) for one in chosen]).save(path, optimize=True)


def _tile(one: AnsweredQuestion) -> Tile:
    right = one.predicted == one.answer
    return Tile(one.image, one.question, one.predicted if right else f"{one.predicted} (it is {one.answer})", right)


def _metric(metrics: Sequence[trainer_pb2.MetricValue], name: str) -> float:
    return next((metric.value for metric in metrics if metric.name == name), float("nan"))
