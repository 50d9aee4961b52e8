"""`deepseek gc`, `backup` and `restore`: maintenance of a running mesh."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from common.errors import InvalidArgument
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, console, error_console, print_json, print_table, progress_bar, size_text
from deepseek.client import connect

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def gc(
    grace: Annotated[
        str,
        typer.Option(
            help="Keep blobs that are younger than this, e.g. 90s, 30m, 24h or 7d, because they may be in use."
        ),
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the garbage without deleting it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete blobs that are no longer needed by any data set, model, run or upload.

    Examples are blobs left behind by dropped uploads, failed exports and interrupted runs. Every service must be
    available; otherwise, nothing is deleted. Services continue to work. The registry's audit log records each deletion.
    """
    from deepseek.upkeep.garbage import BlobTotals, collect

    grace_s = _seconds(grace)
    with connect() as mesh, _progress("dry run" if dry_run else "collecting") as on_blob:
        collection = collect(mesh, grace_s=grace_s, dry_run=dry_run, on_blob=on_blob)
    if as_json:
        tenants = [
            {
                "tenant": one.tenant,
                "reachable": vars(one.reachable),
                "young": vars(one.young),
                "removed": vars(one.removed),
            }
            for one in collection.tenants
        ]
        listed = {"lost": _lists(collection.lost), "unreadable": _lists(collection.unreadable)}
        print_json({"dry_run": dry_run, "tenants": tenants, **listed})
        return

    def shown(amount: BlobTotals) -> str:
        return f"{amount.num_blobs} ({size_text(amount.num_bytes)})"

    rows = [(one.tenant, shown(one.reachable), shown(one.young), shown(one.removed)) for one in collection.tenants]
    print_table(["tenant", "reachable", f"kept for {grace}", "would be deleted" if dry_run else "deleted"], rows)
    _warn_of("lost", collection.lost)
    _warn_of("unreadable manifest, so all blobs of its tenant are kept", collection.unreadable)


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, or the folder of an earlier backup.", file_okay=False)],
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Leave out lost or damaged blobs instead of failing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Back up the state of every service and all blobs that the state refers to, and verify them.

    In the folder of an earlier backup, only new blobs are copied. The earlier backup remains valid until the new one is
    complete. Services continue to work.
    """
    from deepseek.upkeep.backup import back_up

    left = (
        f"stopped; the new backup is incomplete; an earlier one in {folder} remains valid; "
        "run the same command to continue"
    )
    with connect() as mesh, when_interrupted(left), _progress("backing up") as on_blob:
        contents = back_up(mesh, folder, incomplete=incomplete, on_blob=on_blob)
    if as_json:
        figures = {"num_blobs": contents.num_blobs, "num_bytes": contents.num_bytes}
        print_json({"services": sorted(contents.states), **figures, "lost": _lists(contents.lost)})
        return
    console.print(
        f"{folder}: {', '.join(contents.states)}; {contents.num_blobs} blobs, {size_text(contents.num_bytes)}"
    )
    _warn_of("lost", contents.lost)


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup.", exists=True, file_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a running mesh that has not been used yet.

    Everything is verified before anything is changed. Jobs that were running at the time of the backup are resumed.
    """
    from deepseek.upkeep.restore import restore as restore_backup

    with connect() as mesh, _progress("restoring") as on_blob:
        contents, num_rows = restore_backup(mesh, folder, on_blob=on_blob)
    if as_json:
        print_json({"num_rows": num_rows, "num_blobs": contents.num_blobs, "lost": _lists(contents.lost)})
        return
    print_table(["service", "rows"], num_rows.items())
    console.print(f"{contents.num_blobs} blobs, {size_text(contents.num_bytes)}")
    _warn_of("lost", contents.lost)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task(what, total=None, note="blobs")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if not match:
        message = f"{text!r} is not a duration; use e.g. 90s, 30m, 24h or 7d"
        raise InvalidArgument("BAD_VALUE", message, field="--grace")
    return int(match[1]) * _SECONDS[match[2]]


def _lists(lost: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {tenant: sorted(digests) for tenant, digests in lost.items()}


def _warn_of(what: str, found: Mapping[str, Iterable[str]]) -> None:
    for tenant, digests in _lists(found).items():
        for sha256 in digests:
            error_console.print(f"{what}: tenant {tenant}, {sha256}", style="yellow", soft_wrap=True)
