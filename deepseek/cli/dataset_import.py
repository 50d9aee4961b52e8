"""`deepseek dataset import`: makes a version of a data set from files in a common format."""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from common.environment import home
from common.errors import FailedPrecondition
from deepseek.cli.completion import DATASET
from deepseek.cli.output import (
    AsJson,
    console,
    error_console,
    make_folder,
    print_json,
    print_table,
    progress_bar,
    writing,
)
from deepseek.cli.uploading import committing, unchanged, version_names
from deepseek.client import connect, names

if TYPE_CHECKING:
    from deepseek.data.manifest import Field
    from deepseek.data.rejected import Rejected
    from deepseek.interchange.importing import Import, Report

NewDataset = Annotated[
    str, typer.Argument(help="Name of the data set, which need not exist, e.g. colours.", autocompletion=DATASET)
]
Place = Annotated[
    str,
    typer.Argument(
        help="File, folder or S3 prefix.",
        metavar="SOURCE",
    ),
]
Passage = Annotated[
    int | None, typer.Option(help="Cut a text file into samples of this many characters, instead of lines.")
]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder outside which no file is read. [default: the folder of SOURCE]", file_okay=False),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow links inside the root.")]
AccessKeyFile = Annotated[Path | None, typer.Option(help="File with the access key of the S3 server.")]
SecretKeyFile = Annotated[Path | None, typer.Option(help="File with the secret key of the S3 server.")]


def import_data(
    dataset: NewDataset,
    source: Place,
    schema: Annotated[
        str, typer.Option(help="Types that override the inferred ones: COLUMN:TYPE,… or a JSON file; `skip` is a type.")
    ] = "",
    target: Annotated[str, typer.Option(help="Column to predict; text or integers become labels.")] = "",
    key: Annotated[str, typer.Option(help="Column that holds a unique key of each sample.")] = "",
    split: Annotated[str, typer.Option(help="Split of the samples to which no other rule assigns one.")] = "train",
    split_column: Annotated[str, typer.Option(help="Column that holds the split.")] = "",
    test_share: Annotated[float, typer.Option(help="Share of samples that becomes the split test, e.g. 0.2.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed for --test-share.")] = 0,
    passage: Passage = None,
    fill: Annotated[
        list[str] | None,
        typer.Option(help="Value for missing cells: COLUMN=VALUE, or =mean or =median for numbers; repeatable."),
    ] = None,
    root: Root = None,
    follow_links: FollowLinks = False,
    rejected: Annotated[
        Path | None, typer.Option(help="New JSONL file for invalid samples. [default: in the home directory]")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first invalid sample.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the samples, but do not upload them.")] = False,
    access_key_file: AccessKeyFile = None,
    secret_key_file: SecretKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Import files as a new version of a data set.

    SOURCE is a folder (class folders, folders per split, or files), a CSV, TSV, JSONL, Parquet or text file, a
    WebDataset archive, a folder of such files, or an S3 prefix (s3+https://host/bucket/prefix).

    The schema is inferred and shown. Invalid samples are kept aside, with the reason, and do not stop the import.
    """
    from deepseek.interchange.importing import Import
    from deepseek.interchange.opening import Access, open_source
    from deepseek.interchange.schema import Wishes, read_fills, read_schema
    from deepseek.interchange.splits import Splitter

    series = names.series_id(dataset, "datasets", field="dataset")
    fields, overrides = read_schema(schema)
    wishes = Wishes(fields, overrides, target, read_fills(fill or []), key)
    splitter = Splitter(split, split_column, test_share, seed)
    opened = open_source(source, Access(root, follow_links, access_key_file, secret_key_file), passage=passage)
    with contextlib.ExitStack() as owned:
        mesh = None if dry_run else owned.enter_context(connect())
        aside = owned.enter_context(_RejectedFile(rejected, series, is_dry_run=dry_run))
        bar = owned.enter_context(progress_bar())
        reading = bar.add_task("reading", total=None, note="")
        found = Import(
            opened,
            wishes,
            splitter,
            is_strict=strict,
            on_read=lambda number: bar.update(reading, completed=number) if number % 64 == 0 else None,
            on_rejected=aside.write,
        )
        bar.remove_task(reading)
        _show_schema(found)
        task = bar.add_task("importing", total=found.plan.num_rows, note="")

        def on_sample(number: int) -> None:
            if number % 64 == 0 or number == found.plan.num_rows:
                bar.update(task, completed=number)

        if mesh is None:
            for number, _ in enumerate(found, 1):
                on_sample(number + found.report.rejected.total())
            name, sha256 = "", ""
            earlier: set[str] = set()
        else:
            earlier = version_names(mesh, series)
            on_change = owned.enter_context(committing(series, bar, task))
            version = found.upload(mesh.datasets, series, on_sample=on_sample, on_change=on_change)
            name, sha256 = version.name, version.manifest.sha256
        count = found.report.statistics.num_samples + found.report.rejected.total()
        bar.update(task, total=count, completed=count)
    if as_json:
        document = _document(name, sha256, found, aside.path)
        print_json({**document, "created": bool(name) and name not in earlier})
    else:
        _show_report(name, earlier, found, aside.path)


class _RejectedFile:
    """The file that lists invalid samples, one JSON object per line. Without any, there is no file.

    The file gets its name when the import ends well; until then, the file of an earlier import stays. The default file
    of a dry run is another one than that of an import.

    Args:
        path: The file, which must not exist yet; None means a file in the home directory, which is replaced.
        dataset: Name of the data set.
        is_dry_run: Whether nothing is uploaded.

    Raises:
        FailedPrecondition: OUTPUT_EXISTS; OUTPUT_NOT_WRITABLE.
    """

    def __init__(self, path: Path | None, dataset: str, *, is_dry_run: bool) -> None:
        folder = home() / "rejected" / "dry-run" if is_dry_run else home() / "rejected"
        self._path = path or folder / f"{dataset}.jsonl"
        if path and (path.exists() or path.is_symlink()):
            message = f"{path} already exists; delete it, or choose another file with --rejected"
            raise FailedPrecondition("OUTPUT_EXISTS", message, field="rejected")
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._file: TextIO | None = None

    @property
    def path(self) -> Path | None:
        """Path of the file; None if there are no invalid samples."""
        return self._path if self._file else None

    def __enter__(self) -> "_RejectedFile":
        make_folder(self._path.parent, "--rejected")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close()
        with writing(self._path, "--rejected"):
            if kind:
                self._temporary.unlink(missing_ok=True)
            elif self._file:
                self._temporary.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)

    def write(self, number: int, rejected: "Rejected") -> None:
        """Writes a sample. `number` is 0 at the start of an import, which may start again after an interruption."""
        with writing(self._path, "--rejected"):
            if self._file is None or number == 0:
                self._close()
                self._file = self._temporary.open("w", encoding="utf-8", errors="backslashreplace")
            self._file.write(json.dumps(rejected.to_json(), ensure_ascii=False) + "\n")

    def _close(self) -> None:
        if self._file:
            self._file.close()


def _show_schema(found: "Import") -> None:
    print_table(["field", "type", "labels"], schema_rows(found.fields))
    _show_notes(found.plan.notices)


def schema_rows(fields: "tuple[Field, ...]") -> Iterator[tuple[str, str, str]]:
    """Yields a row of a table for each field: its name, its type and its labels."""
    for one in fields:
        shown = ", ".join(one.labels[:8]) + (", …" if len(one.labels) > 8 else "")
        yield one.name, one.type + ("[]" if one.repeated else ""), f"{len(one.labels)}: {shown}" if shown else ""


def _show_report(name: str, earlier: Collection[str], found: "Import", aside: Path | None) -> None:
    report = found.report
    made = (
        f"{names.short_name(name)} ({name}){unchanged(name, earlier)}" if name else "nothing was uploaded (--dry-run)"
    )
    console.print(f"\n{made}", highlight=False)
    print_table(["found", "number", "details"], _report_rows(report, aside))
    _show_notes(found.notes())
    if warning := _warning(name, found, aside):
        error_console.print(f"warning: {warning}", style="bold yellow", soft_wrap=True)


def _warning(name: str, found: "Import", aside: Path | None) -> str:
    """Returns the warning about many invalid samples, with the next step; empty if there are few."""
    step = f"list them with `deepseek dataset quarantine {names.short_name(name)}`" if name else f"{aside} lists them"
    return f"{warning}; {step}" if (warning := found.warning()) else ""


def _report_rows(report: "Report", aside: Path | None) -> Iterator[tuple[str, int, str]]:
    statistics = report.statistics
    yield "samples", statistics.num_samples, counts(statistics.splits)
    yield "fields", len(statistics.fields), ", ".join(statistics.fields)
    yield "missing values", report.missing.total(), counts(report.missing)
    yield "duplicates", report.num_duplicates, ""
    yield "kept aside", report.rejected.total(), counts(report.rejected) + (f" (see {aside})" if aside else "")


def counts(found: Mapping[str, int]) -> str:
    """Returns counts in descending order, e.g. `train 120, test 30`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _show_notes(notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _document(name: str, sha256: str, found: "Import", aside: Path | None) -> dict[str, Any]:
    from deepseek.interchange.schema import fields_to_json

    return {
        "version": name,
        "sha256": sha256,
        "schema": fields_to_json(found.fields),
        **found.report.to_json(),
        "rejected_file": str(aside) if aside else "",
        "notes": [*found.plan.notices, *found.notes()],
        "warning": _warning(name, found, aside),
    }
