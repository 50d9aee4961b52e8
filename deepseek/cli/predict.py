"""`deepseek predict`: predictions of a served model, for one sample, a table or a folder."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InvalidArgument
from deepseek.cli.completion import SERVED
from deepseek.cli.output import AsJson, console, error_console, make_folder, print_json, progress_bar
from deepseek.cli.predict_file import predict_file
from deepseek.cli.predictions import shown
from deepseek.cli.samples import Samples, columns_by_name, empty_texts, from_text
from deepseek.client import connect
from deepseek.client.names import served_version, short_name

if TYPE_CHECKING:
    from deepseek.client import Mesh
    from deepseek.client.predictor import Predictor


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
        typer.Option(
            metavar="FILE|DIR",
            help="Predict every row of this .csv, .tsv or .jsonl file, or every image or recording in this folder.",
            exists=True,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Do not pass this column of the file to the model, e.g. an id. Can be repeated."
        ),
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

    Columns may have the names of the fields, or those of the table from which the fields were imported. Paths in a file
    refer to the folder of the file. A row with a bad value gets an error, and the command then ends
    with status 1; all other rows are predicted.
    """
    served_version(model, field="MODEL")
    given = _pairs(values or [])
    if file and given:
        raise InvalidArgument("BAD_VALUE", "pass either FIELD=VALUE or --file, not both", field="--file")
    for option, value in (("--out", out), ("--skip", skip)):
        if value and not file:
            raise InvalidArgument("BAD_VALUE", f"{option} needs --file", field=option)
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
            predict_file(predictor, Samples(predictor, file, skip or ()), out, as_json=as_json)
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


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, separator, _) in zip(texts, pairs, strict=True):
        if not separator or not name:
            message = f"{text[:80]!r} does not have the form FIELD=VALUE; pass several samples with --file"
            raise InvalidArgument("BAD_INPUT", message, field="FIELD=VALUE")
    name, count = Counter(name for name, _, _ in pairs).most_common(1)[0] if pairs else ("", 1)
    if count > 1:
        message = f"{name!r} has {count} values; pass one, or several samples with --file"
        raise InvalidArgument("BAD_VALUE", message, field=name)
    return {name: value for name, _, value in pairs}


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
    names = columns_by_name(predictor, list(given))
    given = {names.get(name, name): value for name, value in given.items()}
    if unknown := [name for name in given if name not in known]:
        message = f"the model has no field {unknown[0]!r}; its fields are {', '.join(predictor.inputs.fields)}"
        raise InvalidArgument("UNKNOWN_FIELD", message, field=unknown[0])
    values = from_text(predictor, given, Path())
    for name in empty_texts(predictor, values):
        error_console.print(f"note: {name} is empty; a prediction without text says little", highlight=False)
    with _watched(predictor):
        (found,) = predictor.predict([values])
    if found.error:
        raise found.error
    if as_json:
        print_json({"version": predictor.version, **shown(found).document})
        return
    for line in shown(found).lines:
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
