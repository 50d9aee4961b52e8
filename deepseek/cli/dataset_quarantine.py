"""`deepseek dataset quarantine` and `deepseek dataset repair`: the invalid samples of a version, and their repair."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepseek.cli.dataset_import import AccessKeyFile, FollowLinks, Passage, Root, SecretKeyFile, counts
from deepseek.cli.dataset_show import Version
from deepseek.cli.output import AsJson, console, print_json, print_table, progress_bar, writing
from deepseek.cli.uploading import committing
from deepseek.client import connect, names
from deepseek.terminal import visible

if TYPE_CHECKING:
    from deepseek.data.rejected import Rejected

_MAX_SHOWN = 5
"""Maximum number of rows that a note lists."""


def quarantine(
    dataset: Version,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the values of the samples, to repair them.", file_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the invalid samples of a version, which were kept aside.

    With --out, also write their values: one line per sample in samples.jsonl, and files beside it. Repair the values
    there, then call `deepseek dataset repair`.
    """
    name = names.version_name(dataset, "datasets", field="dataset")
    with connect() as mesh:
        version = mesh.datasets.version(name)
        if out:
            from deepseek.interchange.quarantine import write_quarantine

            fields = mesh.datasets.manifest(version).fields
            with writing(out, "--out"):
                write_quarantine(mesh.datasets.quarantined(version.name), fields, out)
        found = list(mesh.datasets.quarantined(version.name, values=False))
    if as_json:
        print_json(
            {
                "version": version.name,
                "num_quarantined": len(found),
                "reasons": dict(Counter(one.reason for one in found)),
                "samples": [{"position": one.position, **one.to_json()} for one in found],
                "out": str(out or ""),
            }
        )
        return
    if found:
        rows = [(one.key, one.place, one.reason, one.message) for one in found]
        print_table(["key", "place", "reason", "message"], rows)
    console.print(f"{names.short_name(version.name)}: {len(found)} in quarantine", highlight=False)
    if out:
        console.print(f"wrote {out}; repair the values, then: deepseek dataset repair {dataset} {out}", highlight=False)


def repair(
    dataset: Version,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder from `deepseek dataset quarantine --out`, or the repaired files that were imported.",
            metavar="SOURCE",
        ),
    ],
    key: Annotated[str, typer.Option(help="Column that holds a unique key of each sample.")] = "",
    fill: Annotated[list[str] | None, typer.Option(help="Value for missing cells: COLUMN=VALUE; repeatable.")] = None,
    passage: Passage = None,
    root: Root = None,
    follow_links: FollowLinks = False,
    access_key_file: AccessKeyFile = None,
    secret_key_file: SecretKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a new version: the samples of the old one, and those of its quarantine that are now valid.

    A row of SOURCE belongs to the quarantined sample with its key or place. Samples that are still invalid stay in
    quarantine. All samples of the version are read and sent again.
    """
    from deepseek.interchange.opening import Access, open_source
    from deepseek.interchange.quarantine import repair as repair_from
    from deepseek.interchange.schema import Wishes, read_fills

    name = names.version_name(dataset, "datasets", field="dataset")
    wishes = Wishes(fills=read_fills(fill or []), key=key)
    opened = open_source(source, Access(root, follow_links, access_key_file, secret_key_file), passage=passage)
    reasons, key_taken, repeated = Counter[str](), list["Rejected"](), list["Rejected"]()
    with connect() as mesh, progress_bar() as bar:
        old = mesh.datasets.version(name)
        task = bar.add_task("repairing", total=old.num_samples, note="")
        with committing(old.name.split("/")[1], bar, task) as on_change:
            new = repair_from(
                mesh,
                old,
                opened,
                wishes,
                on_key_taken=key_taken.extend,
                on_repeated=repeated.extend,
                on_quarantine=lambda rejected: reasons.update(one.reason for one in rejected),
                on_sample=lambda number: bar.update(task, completed=number),
                on_change=on_change,
            )
    num_repaired = new.num_samples - old.num_samples
    if as_json:
        print_json(
            {
                "version": new.name,
                "source": old.name,
                "num_samples": new.num_samples,
                "num_repaired": num_repaired,
                "num_quarantined": reasons.total(),
                "reasons": dict(reasons),
                "key_taken": [one.to_json() for one in key_taken],
                "repeated": [one.to_json() for one in repeated],
            }
        )
        return
    remaining = f"{reasons.total()} still in quarantine" + (f" ({counts(reasons)})" if reasons else "")
    console.print(f"{names.short_name(new.name)} ({new.name})", highlight=False)
    console.print(f"{new.num_samples} samples, {num_repaired} repaired, {remaining}", highlight=False)
    _note(key_taken, "valid rows left in quarantine because another sample has their key", "change their keys")
    _note(repeated, "rows ignored because an earlier row repairs the same sample", "keep one row per sample")


def _note(rows: "Sequence[Rejected]", problem: str, step: str) -> None:
    if rows:
        shown = ", ".join(f"{visible(one.place)}: {visible(one.key)}" for one in rows[:_MAX_SHOWN])
        more = f" and {len(rows) - _MAX_SHOWN} more" if len(rows) > _MAX_SHOWN else ""
        note = f"note: {problem}: {len(rows)} ({shown}{more}); {step}"
        console.print(note, highlight=False, markup=False, soft_wrap=True)
