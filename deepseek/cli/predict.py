"""`deepseek predict`: predictions of a served model, for one sample or for every row of a file."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from common.errors import FailedPrecondition, InvalidArgument, MeshError
from deepseek.cli.completion import SERVED
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import (
    AsJson,
    as_json_value,
    bold,
    console,
    error_console,
    make_folder,
    print_json,
    progress_bar,
)
from deepseek.cli.rows import Row, columns, read_rows, write_rows
from deepseek.client import connect
from deepseek.client.names import served_version, short_name

if TYPE_CHECKING:
    from deepseek.client import Mesh
    from deepseek.client.predictor import Prediction, Predictor

_MAX_LABELS_SHOWN = 5
_MAX_ERRORS_SHOWN = 5


def predict(
    model: Annotated[
        str, typer.Argument(help="A served model, e.g. digits, digits:3 or digits@champion.", autocompletion=SERVED)
    ],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD=VALUE]...", help="Value of each field; images and recordings are given by their paths."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Predict every row of this .csv, .tsv or .jsonl file.", exists=True, dir_okay=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the rows with their predictions to this .csv, .tsv or .jsonl file.", dir_okay=False),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Number of characters that a language model writes. [default: 200]", min=1, max=4096),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Randomness of the text; 0 always writes the likeliest character. [default: 0.8]", min=0, max=100
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, to write the same text again.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Predict with a served model. Without values and file, show which fields the model needs.

    A language model continues the text of its field.

    Paths in a file refer to the folder of the file. A row with a bad value gets an error, and the command then ends
    with status 1; all other rows are predicted.
    """
    served_version(model, field="MODEL")
    given = dict(_pair(text) for text in values or ())
    if file and given:
        raise InvalidArgument("BAD_VALUE", "pass either FIELD=VALUE or --file, not both", field="--file")
    if out and not file:
        raise InvalidArgument("BAD_VALUE", "--out needs --file", field="--out")
    if file and out and out.exists() and out.samefile(file):
        raise InvalidArgument("BAD_VALUE", f"{out} is the file of --file; choose another path", field="--out")
    if out:
        make_folder(out.parent, "--out")
    # Imported here, because every command would wait for NumPy and Pillow if they were imported at the top.
    from deepseek.client.predictor import Predictor

    sampling = {"--tokens": tokens, "--temperature": temperature, "--seed": seed}
    with connect() as mesh:
        predictor = _writing(mesh, Predictor(mesh, model), sampling)
        if file:
            _predict_file(predictor, file, out, as_json=as_json)
        elif given:
            _predict_one(predictor, given, as_json=as_json)
        else:
            _show_fields(predictor, as_json=as_json)


def _writing(mesh: "Mesh", predictor: "Predictor", options: dict[str, Any]) -> "Predictor":
    """Returns a predictor that continues texts if the version is a language model; otherwise, the same predictor."""
    from deepseek.client.continuation import Continuer, Sampling
    from deepseek.client.writing import is_language_model

    given = {name: value for name, value in options.items() if value is not None}
    if is_language_model(predictor.manifest):
        names = {"--tokens": "num_tokens", "--temperature": "temperature", "--seed": "seed"}
        sampling = Sampling(**{names[option]: value for option, value in given.items()})
        return Continuer(mesh, predictor.version, sampling)
    if given:
        option = next(iter(given))
        message = f"{short_name(predictor.version)} is not a language model, so it cannot write text; omit {option}"
        raise InvalidArgument("BAD_VALUE", message, field=option)
    return predictor


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InvalidArgument("BAD_INPUT", f"{text[:80]!r} does not have the form FIELD=VALUE", field="FIELD=VALUE")
    return name, value


def _show_fields(predictor: "Predictor", *, as_json: bool) -> None:
    fields = [
        {"field": name, "encoder": spec.encoder.name if spec.encoder else None, "shape": list(spec.shape)}
        for name, spec in zip(predictor.inputs.fields, predictor.manifest.inputs, strict=True)
    ]
    if as_json:
        print_json({"version": predictor.version, "fields": fields})
        return
    for one in fields:
        kind = one["encoder"] or f"array of shape {one['shape']}"
        console.print(f"{one['field']}=…  {kind}", highlight=False)


def _predict_one(predictor: "Predictor", given: dict[str, str], *, as_json: bool) -> None:
    known = {*predictor.inputs.fields, *(spec.name for spec in predictor.manifest.inputs)}
    if unknown := [name for name in given if name not in known]:
        message = f"the model has no field {unknown[0]!r}; its fields are {', '.join(predictor.inputs.fields)}"
        raise InvalidArgument("UNKNOWN_FIELD", message, field=unknown[0])
    with _watched(predictor):
        (found,) = predictor.predict([predictor.inputs.from_text(given, Path())])
    if found.error:
        raise found.error
    if as_json:
        print_json({"version": predictor.version, **_shown(found).document})
        return
    for line in _shown(found).lines:
        console.print(line, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _watched(predictor: "Predictor") -> Iterator[None]:
    """Shows how many characters a language model has written."""
    from deepseek.client.continuation import Continuer

    if not isinstance(predictor, Continuer):
        yield
        return
    with progress_bar() as bar:
        task = bar.add_task("writing", total=predictor.sampling.num_tokens, note="characters")
        predictor.on_character = lambda: bar.update(task, advance=1)
        yield


def _predict_file(predictor: "Predictor", file: Path, out: Path | None, *, as_json: bool) -> None:
    documents: list[dict[str, Any]] = []
    errors: list[str] = []
    num_rows = 0
    with contextlib.ExitStack() as resources:
        if out:
            resources.enter_context(when_interrupted(f"stopped; {out} was not written"))
        write = resources.enter_context(write_rows(out, [*columns(file), *_added(predictor)])) if out else None
        bar = resources.enter_context(progress_bar()) if out or as_json else None
        task = bar.add_task("predicting", total=None, note="rows") if bar else None
        for num_rows, (row, found) in enumerate(_results(predictor, file), 1):
            if found.error:
                errors.append(f"row {num_rows}, {found.error.field or 'all fields'}: {found.error.message}")
            shown = _shown(found)
            if write:
                write({**row, **shown.columns})
            elif as_json:
                documents.append(shown.document)
            else:
                console.print(f"{num_rows} ", shown.line, highlight=False, soft_wrap=True)
            if bar and task is not None:
                bar.update(task, completed=num_rows)
    if as_json:
        body = {"out": str(out)} if out else {"predictions": documents}
        print_json({"version": predictor.version, "num_rows": num_rows, "num_errors": len(errors), **body})
    elif out:
        console.print(f"{out}: {num_rows} rows predicted by {short_name(predictor.version)}", highlight=False)
    if errors:
        for text in errors[:_MAX_ERRORS_SHOWN]:
            error_console.print(text, highlight=False, soft_wrap=True)
        message = f"{len(errors)} of {num_rows} rows were not predicted; correct them and try again"
        raise FailedPrecondition("BAD_ROWS", message, field="--file")


def _results(predictor: "Predictor", file: Path) -> Iterator[tuple[dict[str, Any], "Prediction"]]:
    """Yields each row of a file with its prediction. Rows are read and predicted in batches."""
    from deepseek.client.predictor import BATCH_SIZE, Prediction

    batch: list[Row] = []

    def predicted() -> Iterator[tuple[dict[str, Any], Prediction]]:
        values: list[dict[str, Any] | MeshError] = [
            row.error or _values(predictor, row.values, file.parent) for row in batch
        ]
        answers = predictor.predict(one for one in values if not isinstance(one, MeshError))
        for row, value in zip(batch, values, strict=True):
            yield row.values, Prediction(error=value) if isinstance(value, MeshError) else next(answers)

    for row in read_rows(file):
        batch.append(row)
        if len(batch) == BATCH_SIZE:
            yield from predicted()
            batch.clear()
    yield from predicted()


def _values(predictor: "Predictor", row: dict[str, Any], folder: Path) -> dict[str, Any] | MeshError:
    try:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        gathered = predictor.inputs.gathered(texts)
        # Values that are not text keep their types, unless they were joined into an input.
        texts = {name: text for name, text in gathered.items() if isinstance(row.get(name, text), str)}
        return {**row, **predictor.inputs.from_text(texts, folder)}
    except MeshError as error:
        return error


@dataclass(frozen=True)
class _Shown:
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


def _shown(found: "Prediction") -> _Shown:
    if error := found.error:
        line = f"{error.field}: {error.message}".removeprefix(": ")
        document = {"error": {"reason": error.reason, "message": error.message, "field": error.field}}
        return _Shown(document, {"error": line}, line, [line])
    if found.text:
        own = {"prediction": found.text}
        return _Shown(own, own, found.text, [found.text])
    if found.label:
        columns = {"prediction": found.label, "probability": found.probability}
        best = bold(found.label).append(f"  ({found.probability:.1%})", style="not bold")
        others = sorted(found.probabilities.items(), key=lambda one: -one[1])[1:_MAX_LABELS_SHOWN]
        return _Shown(
            {**columns, "probabilities": dict(found.probabilities)},
            {**columns, "probability": round(found.probability, 6)},
            best,
            [best, *(f"{label}  ({probability:.1%})" for label, probability in others)],
        )
    outputs = {name: _plain(array) for name, array in found.outputs.items()}
    return _Shown(
        {"outputs": outputs},
        {name: json.dumps(value) for name, value in outputs.items()},
        ", ".join(f"{name} {value}" for name, value in outputs.items()),
        [f"{name}: {value}" for name, value in outputs.items()],
    )


def _added(predictor: "Predictor") -> tuple[str, ...]:
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
