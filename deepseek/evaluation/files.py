"""Writes evaluations and comparisons to a folder: pictures, tables and JSON."""

import csv
import json
import math
from pathlib import Path

from deepseek.evaluation.pictures import comparison_figure, evaluation_figure
from deepseek.evaluation.results import Comparison, Evaluation
from deepseek.evaluation.sheets import disagreement_sheet, worst_sheet

_FIGURES = {"classification": "confusion-matrix.png", "regression": "predictions.png", "language-model": "losses.png"}


def save(found: Evaluation | Comparison, folder: Path) -> list[Path]:
    """Writes a result, and returns the files: the figures as JSON, a picture, a contact sheet of the mistakes or the
    disagreements if there are any and they have images, and, for an evaluation, `predictions.csv` with the prediction
    of the highest loss first.

    Args:
        found: The result.
        folder: An existing folder. Files of the same names are replaced, and an earlier contact sheet is removed.
    """
    if isinstance(found, Comparison):
        name, figure_name, sheet_name = "comparison.json", "comparison.png", "disagreements.png"
        figure, sheet = comparison_figure(found), disagreement_sheet(found)
    else:
        name, figure_name, sheet_name = "evaluation.json", _FIGURES[found.task], "worst.png"
        figure, sheet = evaluation_figure(found), worst_sheet(found.worst)
    files = [folder / name, folder / figure_name]
    files[0].write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    figure.savefig(files[1])
    (folder / sheet_name).unlink(missing_ok=True)  # without mistakes, that of an earlier result would be wrong
    if sheet:
        files.append(folder / sheet_name)
        sheet.save(files[-1], optimize=True)
    if isinstance(found, Evaluation):
        files.append(folder / "predictions.csv")
        _write_predictions(found, files[-1])
    return files


def _write_predictions(found: Evaluation, path: Path) -> None:
    one = found.outcomes
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "target", "predicted", "probability", "loss"])
        for i in (-one.losses).argsort(kind="stable"):
            probability = "" if math.isnan(one.probabilities[i]) else f"{one.probabilities[i]:.6f}"
            table.writerow([one.keys[i], one.targets[i], one.predicted[i], probability, f"{one.losses[i]:.6g}"])
