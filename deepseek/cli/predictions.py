"""How `deepseek predict` shows a prediction: as a document, as the columns of a row, and as lines for people."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from deepseek.cli.output import as_json_value, bold

if TYPE_CHECKING:
    from deepseek.client.predictor import Prediction, Predictor

_MAX_LABELS_SHOWN = 5
_MAX_NUMBERS_SHOWN = 10
"""Arrays with more elements are summarized for people."""


@dataclass(frozen=True)
class Shown:
    """A prediction in each form in which the command shows it.

    Attributes:
        document: For --json.
        columns: The columns that it adds to its row in the file of --out.
        line: For one row of several.
        lines: For the only sample.
    """

    document: dict[str, Any]
    columns: dict[str, Any]
    line: Text | str
    lines: Sequence[Text | str]


def shown(found: "Prediction") -> Shown:
    """Returns a prediction in each form."""
    if error := found.error:
        line = f"{error.field}: {error.message}".removeprefix(": ")
        document = {"error": {"reason": error.reason, "message": error.message, "field": error.field}}
        return Shown(document, {"error": line}, line, [line])
    if found.text:
        own = {"prediction": found.text}
        text = found.text if found.text.strip() else f"{found.text!r} (only spaces)"
        return Shown(own, own, text, [text])
    if found.label:
        columns = {"prediction": found.label, "probability": found.probability}
        best = bold(found.label).append(f"  ({found.probability:.1%})", style="not bold")
        others = sorted(found.probabilities.items(), key=lambda one: -one[1])[1:_MAX_LABELS_SHOWN]
        return Shown(
            {**columns, "probabilities": dict(found.probabilities)},
            {**columns, "probability": round(found.probability, 6)},
            best,
            [best, *(f"{label}  ({probability:.1%})" for label, probability in others)],
        )
    outputs = {name: _plain(array) for name, array in found.outputs.items()}
    return Shown(
        {"outputs": outputs},
        {name: json.dumps(value) for name, value in outputs.items()},
        ", ".join(f"{name} {_brief(array)}" for name, array in found.outputs.items()),
        [line for name, array in found.outputs.items() for line in _lines(name, array)],
    )


def added(predictor: "Predictor") -> tuple[str, ...]:
    """Returns the names of the columns that predictions add to their rows."""
    from deepseek.client.writing import is_language_model

    outputs = predictor.manifest.outputs
    if is_language_model(predictor.manifest):
        return "prediction", "error"
    if any(one.labels for one in outputs):
        return "prediction", "probability", "error"
    return *(one.name for one in outputs), "error"


def _plain(array: Any) -> Any:
    """Returns an array as a JSON value. A vector of length 1 becomes a number."""
    return as_json_value(array.item() if array.size == 1 else array)


def _brief(array: Any) -> str:
    """Returns the numbers of a short array, or describes a long one."""
    if not _is_long(array):
        return str(_plain(array))
    if array.ndim > 1:
        return f"array of shape {list(array.shape)}"
    index, value = _largest(array)[0]
    return f"{array.size} numbers, the largest is number {index} ({value:.4g})"


def _lines(name: str, array: Any) -> Iterator[str]:
    """Yields the lines that show an output without labels. Of a long vector, they show the largest numbers."""
    if not _is_long(array):
        yield f"{name}: {_plain(array)}"
        return
    if array.ndim > 1:
        yield f"{name}: array of shape {list(array.shape)}; --json prints all numbers"
        return
    yield f"{name}: {array.size} numbers; the largest, counted from 0:"
    yield from (f"  number {index}  ({value:.4g})" for index, value in _largest(array))
    yield "--json prints all numbers. If they are scores of classes, `deepseek model import --labels FILE` names them"


def _is_long(array: Any) -> bool:
    return array.size > _MAX_NUMBERS_SHOWN and array.dtype.kind in "biuf"


def _largest(array: Any) -> list[tuple[int, float]]:
    """Returns the indices and values of the largest numbers of a vector."""
    values = array.astype(float)
    return [(int(index), float(values[index])) for index in (-values).argsort(kind="stable")[:_MAX_LABELS_SHOWN]]
