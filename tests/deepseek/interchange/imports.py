"""Imports a place without a service."""

from collections.abc import Sequence
from pathlib import Path

from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import Access, open_source
from deepseek.interchange.schema import Wishes
from deepseek.interchange.splits import Splitter


def imported(
    place: Path,
    access: Access | None = None,
    splitter: Splitter | None = None,
    *,
    passage: int | None = None,
    **wishes: object,
) -> tuple[Import, Sequence[Sample], Sequence[Rejected]]:
    rejected: list[Rejected] = []
    found = Import(
        open_source(str(place), access, passage=passage),
        Wishes(**wishes),  # type: ignore[arg-type]
        splitter,
        on_rejected=lambda _, one: rejected.append(one),
    )
    return found, list(found), rejected


def reasons(rejected: Sequence[Rejected]) -> dict[str, str]:
    return {one.place: one.reason for one in rejected}
