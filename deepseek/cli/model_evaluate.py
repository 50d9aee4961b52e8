"""`deepseek model evaluate` and `deepseek model compare`: how good versions are on a data set, and where they fail."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepseek.cli.completion import DATASET_VERSION, MODEL_VERSION
from deepseek.cli.output import (
    AsJson,
    bold,
    console,
    error_console,
    make_folder,
    print_json,
    print_table,
    progress_bar,
    writing,
)
from deepseek.client import connect
from deepseek.client.names import short_name, version_name

if TYPE_CHECKING:
    from deepseek.evaluation.results import Comparison, Evaluation, Judged

_VERSION = "A version, e.g. easy-vqa, easy-vqa:3 or easy-vqa@champion."
Dataset = Annotated[
    str,
    typer.Option(
        metavar="NAME[:VERSION]",
        help="The data set; by default the version of it on which the model was trained.",
        autocompletion=DATASET_VERSION,
    ),
]
Split = Annotated[
    str, typer.Option(help="Split of the data set; by default `test`, or else the split that the training evaluated.")
]
Target = Annotated[str, typer.Option(help="Field that the model predicts; needed only if it is ambiguous.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many samples, spread evenly over the split.")]
Worst = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Number of the worst samples to show. [default: 10, and 20 in the contact sheet and with --json]",
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder for the pictures and files; created if it is missing.")
]
_MAX_CLASSES = 50
_MAX_CONFUSIONS = 5
_MAX_SHOWN = 10
_MAX_TEXT = 60


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL[:N]", help=_VERSION, autocompletion=MODEL_VERSION)],
    dataset: Dataset = "",
    split: Split = "",
    target: Target = "",
    limit: Limit = None,
    worst: Worst = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a version on a data set: figures per class, the most frequent confusions, and the worst mistakes.

    With --out, the folder gets a picture of all predictions, a contact sheet of the worst ones if the samples have
    images, all predictions as CSV, and all figures as JSON.
    """
    _check(out, dataset, model)
    from deepseek.client import evaluating  # imports NumPy

    with connect() as mesh, _counting() as count:
        found = evaluating.evaluate(
            mesh,
            model,
            dataset=dataset,
            split=split,
            target=target,
            limit=limit,
            num_worst=worst or evaluating.NUM_WORST,
            on_sample=count,
        )
    files = _save(found, out)
    if as_json:
        print_json({**found.to_json(), "files": files})
        return
    _print_head(found)
    print_table(["figure", "value"], [(name, _number(value)) for name, value in found.metrics.items()])
    _print_classes(found)
    _print_worst(found, worst or _MAX_SHOWN)
    _print_end(found, files)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_VERSION, autocompletion=MODEL_VERSION)],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B", help="Another version, of the same or another model.", autocompletion=MODEL_VERSION
        ),
    ],
    dataset: Dataset = "",
    split: Split = "",
    target: Target = "",
    limit: Limit = None,
    worst: Worst = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions on the same samples: figures, whether they differ by more than chance, and on which samples.

    Labels are compared with McNemar's exact test, and the difference of the main figure has a 95 % bootstrap interval.
    By default, the data set and the split are those of A.
    """
    _check(out, dataset, first, second)
    from deepseek.client import evaluating  # imports NumPy

    with connect() as mesh, _counting() as count:
        found = evaluating.compare(
            mesh,
            first,
            second,
            dataset=dataset,
            split=split,
            target=target,
            limit=limit,
            num_worst=worst or evaluating.NUM_WORST,
            on_sample=count,
        )
    files = _save(found, out)
    if as_json:
        print_json({**found.to_json(), "files": files})
        return
    _print_head(found.first, "A")
    _print_head(found.second, "B")
    rows = [(name, value, found.second.metrics[name]) for name, value in found.first.metrics.items()]
    print_table(["figure", "A", "B", "B - A"], [(name, _number(a), _number(b), f"{b - a:+.4f}") for name, a, b in rows])
    console.print()
    _print_verdict(found)
    _print_disagreements(found, worst or _MAX_SHOWN)
    _print_end(found.first, files)


def _check(out: Path | None, dataset: str, *models: str) -> None:
    """Checks the arguments before any work starts."""
    for model in models:
        version_name(model, "models", field="MODEL")
    if dataset:
        version_name(dataset, "datasets", field="--dataset")
    if out:
        from deepseek.cli.run_plot import check_matplotlib

        check_matplotlib()
        make_folder(out, "--out")


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task("predicting", total=None, note="samples")
        yield lambda count, total: bar.update(task, completed=count, total=total)


def _save(found: "Evaluation | Comparison", out: Path | None) -> list[str]:
    if not out:
        return []
    from deepseek.evaluation.files import save

    with writing(out, "--out"):
        return [str(path) for path in save(found, out)]


def _print_head(found: "Evaluation", name: str = "") -> None:
    where = f"{short_name(found.dataset_version)}, split {found.split}"
    runner = "the inference service" if found.runner == "inference" else "this machine, because it is not served"
    count = f"{found.num_samples} samples" + (
        f", {found.num_rows} predictions" if found.num_rows != found.num_samples else ""
    )
    version = bold(short_name(found.version))
    text = f"on {where}: {count}; {found.file} by {runner}"
    console.print(*([f"{name}:"] if name else []), version, text, highlight=False, soft_wrap=True)


def _print_classes(found: "Evaluation") -> None:
    if not found.classes:
        return
    shown = found.classes[:_MAX_CLASSES]
    console.print()
    print_table(
        [found.target, "precision", "recall", "F1", "samples"],
        [(one.label, *map(_number, (one.precision, one.recall, one.f1)), one.support) for one in shown],
    )
    if rest := len(found.classes) - len(shown):
        console.print(f"and {rest} more; --out writes all of them", highlight=False)
    if confusions := _confusions(found):
        console.print()
        print_table(["true", "predicted as", "samples"], confusions)


def _confusions(found: "Evaluation") -> list[tuple[str, str, int]]:
    """Returns the most frequent confusions."""
    counts = found.confusion
    if counts is None:
        return []
    pairs = [(i, j) for i, j in zip(*counts.nonzero(), strict=True) if i != j]
    pairs.sort(key=lambda pair: -counts[pair])
    return [(found.labels[i], found.labels[j], int(counts[i, j])) for i, j in pairs[:_MAX_CONFUSIONS]]


def _print_worst(found: "Evaluation", num_shown: int) -> None:
    columns = {
        "classification": ["predicted", "probability", "true", "probability of true label"],
        "regression": ["predicted", "true", "error"],
        "language-model": ["loss per token"],
    }[found.task]
    shown = found.worst[:num_shown]
    if found.task == "classification":
        mistakes = found.num_rows - sum(found.outcomes.right)
        title = f"{len(shown)} of {mistakes} mistakes, the most confident first" if shown else "no mistakes"
    elif found.task == "regression":
        title = f"{len(shown)} of {found.num_rows} predictions, the largest error first"
    else:
        title = f"{len(shown)} of {found.num_rows} texts, the highest loss first"
    console.print(f"\n{title}", style="bold", highlight=False)
    if not shown:
        return
    _print_rows(columns, [(one, _judged(one, found.task)) for one in shown], found)


def _print_rows(
    columns: Sequence[str], rows: Sequence[tuple["Judged", tuple[str, ...]]], evaluation: "Evaluation"
) -> None:
    """Prints one row per sample, with the values of its fields if it has any that fit into a table."""
    hidden = "" if evaluation.task == "language-model" else evaluation.target
    values = [_values(one, hidden) for one, _ in rows]
    last = ["values"] if any(values) else []
    cells = [(one.key, *own, *([text] if last else [])) for (one, own), text in zip(rows, values, strict=True)]
    print_table(["sample", *columns, *last], cells)


def _judged(one: "Judged", task: str) -> tuple[str, ...]:
    if task == "classification":
        return str(one.predicted), f"{one.probability:.1%}", str(one.target), f"{one.target_probability:.1%}"
    if task == "regression":
        return _number(one.predicted), _number(one.target), _number(one.loss)
    return (_number(one.loss),)


def _print_verdict(found: "Comparison") -> None:
    if found.counts:
        names = {"both": "both", "only_first": "only A", "only_second": "only B", "neither": "neither"}
        print_table(["right", "samples"], [(names[name], count) for name, count in found.counts.items()])
        console.print()
    low, high = found.interval
    console.print(
        f"{found.metric}, B - A: {found.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}", highlight=False
    )
    if found.p_value is not None:
        console.print(f"McNemar's exact test: p = {found.p_value:.3g}", highlight=False)
    better = found.better
    text = f"{short_name(better.version)} is better" if better else "no clear difference: it may be chance"
    console.print(bold(text), "(at the 5 % level)", highlight=False)


def _print_disagreements(found: "Comparison", num_shown: int) -> None:
    shown = found.disagreements[:num_shown]
    if not shown:
        return
    title = "losses that differ most" if found.first.task == "language-model" else "different predictions"
    count = f": {found.num_disagreements}" if found.num_disagreements else ""
    console.print(f"\n{title}{count}", style="bold", highlight=False)
    cells: Sequence[tuple[str | float, ...]]
    if found.first.task == "language-model":
        columns, cells = ["A", "B"], [(one.first.loss, one.second.loss) for one in shown]
    else:
        columns = ["true", "A", "B"]
        cells = [(one.first.target, one.first.predicted, one.second.predicted) for one in shown]
    rows = [(one.first, tuple(map(_number, own))) for one, own in zip(shown, cells, strict=True)]
    _print_rows(columns, rows, found.first)


def _print_end(found: "Evaluation", files: Sequence[str]) -> None:
    if found.num_skipped:
        console.print(f"\nskipped rows: {found.num_skipped}; no figure includes them", highlight=False)
        print_table(
            ["skipped", "reason", "message"], [(one.key, one.reason, one.message) for one in found.skipped[:_MAX_SHOWN]]
        )
        if found.num_skipped > _MAX_SHOWN:
            console.print(f"and {found.num_skipped - _MAX_SHOWN} more; --json lists up to 1,000", highlight=False)
    for file in files:
        error_console.print(f"wrote {file}", highlight=False, soft_wrap=True)


def _values(one: "Judged", hidden: str) -> str:
    """Returns the values of a sample's fields on one short line, without media, lists and one hidden field."""
    texts = {name: value for name, value in one.values.items() if isinstance(value, str | int | float)}
    values = {name: value for name, value in texts.items() if name != hidden}
    text = " ".join(" ".join(f"{name}={_number(value)}" for name, value in values.items()).split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4f}"
    return str(value)
