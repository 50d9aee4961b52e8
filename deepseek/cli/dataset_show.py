"""`deepseek dataset show` and `deepseek dataset export`: what a version contains, and its samples as files."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InvalidArgument
from deepseek.cli.completion import DATASET_VERSION
from deepseek.cli.dataset_import import counts
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, console, make_folder, print_json, print_table, progress_bar, size_text, writing
from deepseek.client import connect, names

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh
    from deepseek.data.description import Description
    from deepseek.data.statistics import FieldStatistics
    from protos.registry.v1 import registry_pb2

Version = Annotated[
    str,
    typer.Argument(
        help="A version, e.g. colours, colours:3 or colours@champion.",
        metavar="NAME[:VERSION]",
        autocompletion=DATASET_VERSION,
    ),
]
_MAX_LABEL_ROWS = 40


def show(
    dataset: Version,
    against: Annotated[
        str,
        typer.Option(help="Earlier version with which the distributions are compared.", autocompletion=DATASET_VERSION),
    ] = "",
    sheet: Annotated[Path | None, typer.Option(help="PNG file for a contact sheet of images.", dir_okay=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a version contains: schema, splits, label balance, ranges, duplicates, lineage and drift.

    All samples are read once.
    """
    name = names.version_name(dataset, "datasets", field="dataset")
    earlier = names.version_name(against, "datasets", field="against") if against else ""
    if sheet:
        make_folder(sheet.absolute().parent, "--sheet")
    with connect() as mesh:
        version = mesh.datasets.version(name)
        other = mesh.datasets.version(earlier) if earlier else None
        found = _described(mesh, version)
        drift = found.drift(_described(mesh, other)) if other else []
        reasons = Counter(one.reason for one in mesh.datasets.quarantined(version.name, values=False))
        edges = [(edge.source, edge.target) for edge in mesh.models.lineage(version.name)]
    if sheet:
        if not found.tiles:
            message = f"{names.short_name(version.name)} has no field of type image, so it has no contact sheet"
            raise InvalidArgument("NO_IMAGES", message, field="sheet")
        from deepseek.contact_sheet import contact_sheet

        with writing(sheet, "--sheet"):
            contact_sheet(found.tiles).save(sheet, "PNG", optimize=True)
    if as_json:
        print_json(
            {
                "version": version.name,
                "sha256": version.manifest.sha256,
                "create_time": version.create_time.ToJsonString(),
                **found.to_json(),
                "quarantine": dict(reasons),
                "against": other.name if other else "",
                "drift": [one.to_json() for one in drift],
                "lineage": [{"source": source, "target": target} for source, target in edges],
                "sheet": str(sheet or ""),
            }
        )
        return
    _print(version, found, reasons)
    if other:
        console.print(f"\nchange since {names.short_name(other.name)}", style="bold", highlight=False)
        print_table(
            ["field", "PSI", "KS distance", "KS p-value", ""],
            [one.row() for one in drift],
            none="no field is comparable",
        )
    if edges:
        console.print()
        print_table(["made from", "made"], edges)
    if sheet:
        console.print(f"\nwrote {sheet}", highlight=False)


def export(
    dataset: Version,
    folder: Annotated[Path, typer.Argument(help="Folder for the files; it must be empty or not exist.")],
    form: Annotated[str, typer.Option("--format", help="parquet, webdataset or folders.")] = "parquet",
    as_json: AsJson = False,
) -> None:
    """Export the samples of a version as files, which `deepseek dataset import` reads again."""
    from deepseek.interchange.exporting import FORMATS
    from deepseek.interchange.exporting import export as write

    if form not in FORMATS:
        message = f"there is no format {form!r}; use one of: {', '.join(FORMATS)}"
        raise InvalidArgument("BAD_VALUE", message, field="format")
    name = names.version_name(dataset, "datasets", field="dataset")
    with connect() as mesh, progress_bar() as bar:
        from deepseek.client.samples import read_samples

        version = mesh.datasets.version(name)
        content = mesh.datasets.manifest(version)
        task = bar.add_task("exporting", total=content.num_samples(), note="")
        left = f"stopped; the files in {folder} are incomplete: delete the folder before you export again"
        with writing(folder, "DIR"), when_interrupted(left):
            samples = read_samples(mesh, version, content)
            num_samples = write(
                samples, content.fields, folder, form, on_sample=lambda number: bar.update(task, completed=number)
            )
    if as_json:
        print_json({"version": version.name, "num_samples": num_samples, "folder": str(folder), "format": form})
    else:
        console.print(f"{folder}: {num_samples} samples of {names.short_name(version.name)}", highlight=False)


def _described(mesh: "Mesh", version: "registry_pb2.DatasetVersion") -> "Description":
    """Reads all samples of a version."""
    from deepseek.client.samples import read_samples
    from deepseek.data.description import Description

    content = mesh.datasets.manifest(version)
    found = Description(content.fields, content.num_samples())
    with progress_bar() as bar:
        task = bar.add_task(f"reading {names.short_name(version.name)}", total=content.num_samples(), note="")
        for number, sample in enumerate(read_samples(mesh, version, content), 1):
            found.add(sample)
            bar.update(task, completed=number)
    found.close()
    return found


def _print(version: "registry_pb2.DatasetVersion", found: "Description", reasons: Mapping[str, int]) -> None:
    statistics = found.statistics
    created = f"{version.create_time.ToDatetime():%Y-%m-%d %H:%M}"
    console.print(f"{names.short_name(version.name)} ({version.name}), created {created} UTC", highlight=False)
    _print_fields(found)
    console.print()
    print_table(
        ["found", "number", "details"],
        [
            ("samples", statistics.num_samples, counts(statistics.splits)),
            ("duplicates", found.num_duplicates, "samples whose values equal those of another sample"),
            ("quarantine", sum(reasons.values()), counts(reasons)),
        ],
    )
    for name, one in statistics.fields.items():
        if one.labels:
            console.print()
            splits = sorted(one.labels)
            print_table([name, *splits, "share"], _balance(one.label_counts, one.labels, splits))
    for note in statistics.unbalanced_splits():
        console.print(f"note: {note}", highlight=False)


def _print_fields(found: "Description") -> None:
    """Prints a row for each field, without the columns that no field uses, so that a table of numbers stays narrow."""
    columns = ["field", "type", "values", "empty", "measure", "min", "max", "mean", "sd", "labels"]
    rows = []
    for field, one in zip(found.fields, found.statistics.fields.values(), strict=True):
        kind = field.type + ("[]" if field.repeated else "")
        labels = len(field.labels) or ""  # the balance of the labels names them
        rows.append((field.name, kind, one.num_values, one.num_empty, *_measured(field.type, one), labels))
    used = [i for i in range(len(columns)) if any(row[i] not in ("", 0) for row in rows)]
    print_table([columns[i] for i in used], [[row[i] for i in used] for row in rows])


def _measured(kind: str, one: "FieldStatistics") -> tuple[str, str, str, str, str]:
    """Returns what of a field's values is measured, if not the values, and its minimum, maximum, mean and deviation."""
    if not one.reservoir:
        return "", "", "", "", ""
    values = one.minimum, one.maximum, one.mean, one.deviation
    if kind in ("image", "audio", "bytes"):
        least, most, mean, deviation = map(size_text, values)
        return "size", least, most, mean, deviation
    what = "characters" if kind == "text" else ""
    least, most, mean, deviation = (
        f"{value:{form}}" for value, form in zip(values, ("g", "g", ".4g", ".4g"), strict=True)
    )
    return what, least, most, mean, deviation


def _balance(
    totals: Mapping[str, int], by_split: Mapping[str, Mapping[str, int]], splits: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    whole = sum(totals.values())
    ordered = sorted(totals, key=lambda label: (-totals[label], label))
    for label in ordered[:_MAX_LABEL_ROWS]:
        yield label, *(by_split[split].get(label, 0) for split in splits), f"{totals[label] / whole:.1%}"
    if rest := ordered[_MAX_LABEL_ROWS:]:
        others = (sum(by_split[split].get(label, 0) for label in rest) for split in splits)
        yield f"{len(rest)} others", *others, f"{sum(totals[label] for label in rest) / whole:.1%}"
