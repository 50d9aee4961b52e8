"""`deepseek predict --file`: predictions for every row of a table or every media file of a folder."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import FailedPrecondition, MeshError
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import console, error_console, print_json, progress_bar
from deepseek.cli.predictions import added, shown
from deepseek.cli.rows import Row, write_rows
from deepseek.cli.samples import Samples, empty_texts
from deepseek.client.names import short_name

if TYPE_CHECKING:
    from deepseek.client.predictor import Prediction, Predictor

_MAX_ERRORS_SHOWN = 5


def predict_file(predictor: "Predictor", samples: Samples, out: Path | None, *, as_json: bool) -> None:
    """Predicts every sample, and prints the predictions or writes them to a file.

    Args:
        predictor: The model.
        samples: The samples.
        out: File to which the rows are written with their predictions, without columns of long arrays.
        as_json: Whether to print a JSON document.

    Raises:
        FailedPrecondition: BAD_ROWS if a sample was not predicted.
    """
    documents: list[dict[str, Any]] = []
    errors: list[str] = []
    empty: Counter[str] = Counter()
    num_rows = 0
    new = added(predictor)
    # Otherwise, a row would keep the prediction or the error that an earlier run has written beside it.
    kept = [name for name in samples.columns if name not in samples.long and name not in new]
    with contextlib.ExitStack() as resources:
        if out:
            resources.enter_context(when_interrupted(f"stopped; {out} was not written"))
        write = resources.enter_context(write_rows(out, [*kept, *new])) if out else None
        bar = resources.enter_context(progress_bar()) if out or as_json else None
        task = bar.add_task("predicting", total=None, note="rows") if bar else None
        for num_rows, (row, values, found) in enumerate(_results(predictor, samples), 1):
            if found.error:
                errors.append(f"row {num_rows}, {found.error.field or 'all fields'}: {found.error.message}")
            else:
                empty.update(empty_texts(predictor, values))
            forms = shown(found)
            if write:
                write({name: row.values[name] for name in kept if name in row.values} | forms.columns)
            elif as_json:
                documents.append(forms.document)
            else:
                console.print(f"{num_rows} ", forms.line, highlight=False, soft_wrap=True)
            if bar and task is not None:
                bar.update(task, completed=num_rows)
    if as_json:
        body = {"out": str(out)} if out else {"predictions": documents}
        print_json({"version": predictor.version, "num_rows": num_rows, "num_errors": len(errors), **body})
    elif out:
        console.print(f"{out}: {_summary(predictor, num_rows, len(errors))}", highlight=False)
    if out and samples.long:
        _note(f"{out} leaves out the long arrays of {', '.join(sorted(samples.long))}")
    if out and (replaced := [name for name in samples.columns if name in new]):
        _note(f"{out} has predictions in place of the columns {', '.join(replaced)}; rename those to keep them")
    for name, count in empty.items():
        rows = "1 row" if count == 1 else f"{count} rows"
        _note(f"{name} is empty in {rows}; a prediction without text says little")
    if errors:
        for text in errors[:_MAX_ERRORS_SHOWN]:
            error_console.print(text, highlight=False, soft_wrap=True)
        message = f"{len(errors)} of {num_rows} rows were not predicted; correct them and try again"
        raise FailedPrecondition("BAD_ROWS", message, field="--file")


def _summary(predictor: "Predictor", num_rows: int, num_errors: int) -> str:
    by = f"predicted by {short_name(predictor.version)}"
    if not num_errors:
        return f"{num_rows} rows {by}"
    return f"{num_rows - num_errors} of {num_rows} rows {by}, {num_errors} failed; see the column error"


def _note(text: str) -> None:
    error_console.print(f"note: {text}", highlight=False, soft_wrap=True)


def _results(predictor: "Predictor", samples: Samples) -> Iterator[tuple[Row, dict[str, Any], "Prediction"]]:
    """Yields each row with its values and its prediction. Rows are read and predicted in batches."""
    from deepseek.client.predictor import Prediction

    batch: list[Row] = []

    def predicted() -> Iterator[tuple[Row, dict[str, Any], Prediction]]:
        values = [samples.values(row) for row in batch]
        answers = predictor.predict(one for one in values if not isinstance(one, MeshError))
        for row, value in zip(batch, values, strict=True):
            if isinstance(value, MeshError):
                yield row, {}, Prediction(error=value)
            else:
                yield row, value, next(answers)

    for row in samples:
        batch.append(row)
        if len(batch) == predictor.portion:
            yield from predicted()
            batch.clear()
    yield from predicted()
