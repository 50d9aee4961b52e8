"""Data sets, models and their immutable, consecutively numbered versions.

A version comes into being in one transaction with its number, metrics, lineage and request id. A transaction is the
only writer (`common.database`): numbers have no gaps, and two callers never get the same one. Texts and lists are
bounded so that a page of the default size fits the 4 MiB that gRPC clients take by default, and the largest one our
64 MiB. Not here: aliases, and walks over the lineage.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from common import names
from common.artifacts import Artifact
from common.database import Database, now_us, once
from common.errors import AlreadyExists, InvalidArgument
from services.registry import lineage
from services.registry.pages import PageRequest, fetch_page
from services.registry.resolve import find_series, find_version
from services.registry.resources import (
    Kind,
    Metric,
    Series,
    Version,
    parse_series,
    parse_version_reference,
    series_name,
    version_name,
)
from services.registry.tables import MetricRow, SeriesRow, VersionRow

MAX_DESCRIPTION_BYTES = 16 << 10
MAX_METRICS = 128
MAX_METRIC_NAME_BYTES = 128
MAX_SOURCES = 128
MAX_SOURCE_BYTES = 256


@dataclass(frozen=True)
class NewVersion:
    """What a caller gives of a version that is to be made; see `Version` for the meaning of the fields."""

    manifest: Artifact
    num_samples: int | None = None
    sources: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    def check(self) -> None:
        """Refuse what is wrong whatever the registry holds.

        Raises:
            InvalidArgument: BAD_VALUE or TOO_LARGE.
        """
        _check_length(self.metrics, MAX_METRICS, field="metrics")
        _check_length(self.sources, MAX_SOURCES, field="sources")
        for index, source in enumerate(self.sources):
            _check_text(source, MAX_SOURCE_BYTES, field=f"sources[{index}]")
        if self.num_samples is not None and self.num_samples < 1:
            raise InvalidArgument("BAD_VALUE", "num_samples must be at least 1", field="num_samples")
        seen: set[str] = set()
        for index, metric in enumerate(self.metrics):
            _check_text(metric.name, MAX_METRIC_NAME_BYTES, field=f"metrics[{index}].name")
            if not metric.name or metric.name in seen:
                what = f"{metric.name!r} is given twice" if metric.name else "a metric needs a name"
                raise InvalidArgument("BAD_VALUE", what, field=f"metrics[{index}].name")
            if not math.isfinite(metric.value):
                raise InvalidArgument(
                    "BAD_VALUE",
                    f"{metric.name!r} is {metric.value}, not a finite number",
                    field=f"metrics[{index}].value",
                )
            seen.add(metric.name)


class Catalog:
    """Data sets, models and versions of all tenants. Safe to share between threads.

    Args:
        database: Migrated; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, tenant: str, kind: Kind, series_id: str, description: str, *, method: str, request_id: str, body: bytes
    ) -> Series:
        """Make a data set or model.

        Args:
            tenant: Owner.
            kind: Which of the two.
            series_id: Its id.
            description: For people; may be empty.
            method: Name of the call, for the request id.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.

        Raises:
            InvalidArgument: BAD_NAME, BAD_VALUE or TOO_LARGE.
            AlreadyExists: DATASET_EXISTS, MODEL_EXISTS or REQUEST_ID_REUSED.
        """
        field = f"{kind.name.lower()}_id"
        names.check_id(series_id, field=field)
        _check_text(description, MAX_DESCRIPTION_BYTES, field="description")
        with self._database.transaction() as session:

            def effect() -> str:
                if session.get(SeriesRow, (tenant, kind.value, series_id)) is not None:
                    raise AlreadyExists(
                        f"{kind.name}_EXISTS", f"{series_name(kind, series_id)!r} exists already", field=field
                    )
                return _insert_series(session, tenant, kind, series_id, description).series_id

            made = once(session, tenant=tenant, method=method, request_id=request_id, body=body, effect=effect)
            return _series(find_series(session, tenant, kind, made, field=field))

    def get(self, tenant: str, kind: Kind, name: str) -> Series:
        """A data set or model by name.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
        """
        series_id = parse_series(name, kind, field="name")
        with self._database.snapshot() as session:
            return _series(find_series(session, tenant, kind, series_id, field="name"))

    def list_series(self, tenant: str, kind: Kind, page: PageRequest) -> tuple[list[Series], str]:
        """A page of data sets or models by id, and the next page's token."""
        query = select(SeriesRow).where(SeriesRow.tenant == tenant, SeriesRow.kind == kind.value)
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, SeriesRow.series_id, page, scope=kind.value)
            return [_series(row) for row in rows], token

    def create_version(
        self, tenant: str, kind: Kind, parent: str, new: NewVersion, *, method: str, request_id: str, body: bytes
    ) -> tuple[Version, bool]:
        """Add the next version, making the series if it is missing.

        Args:
            tenant: Owner.
            kind: Of the series.
            parent: Name of the data set or model.
            new: The version's content. If the series has its manifest already, that version stays as it is.
            method: Name of the call, for the request id.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.

        Returns:
            The version, and whether this call (or the first one with this request id) made it.

        Raises:
            InvalidArgument: BAD_NAME, BAD_VALUE or TOO_LARGE.
            NotFound: A source that this registry should have and has not.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        series_id = parse_series(parent, kind, field="parent")
        new.check()
        with self._database.transaction() as session:

            def effect() -> str:
                return json.dumps(_add_version(session, tenant, kind, series_id, new))

            made = once(session, tenant=tenant, method=method, request_id=request_id, body=body, effect=effect)
            number, created = json.loads(made)
            row = session.get_one(VersionRow, (tenant, kind.value, series_id, number))
            return _versions(session, [row])[0], created

    def get_version(self, tenant: str, kind: Kind, name: str, *, field: str = "name") -> Version:
        """A version by number, as the latest or by alias.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: Whatever of the name does not exist; see `resolve.find_version`.
        """
        reference = parse_version_reference(name, kind, field=field)
        with self._database.snapshot() as session:
            return _versions(session, [find_version(session, tenant, reference, field=field)])[0]

    def list_versions(self, tenant: str, kind: Kind, parent: str, page: PageRequest) -> tuple[list[Version], str]:
        """A page of versions, newest first, and the next page's token.

        Raises:
            InvalidArgument: BAD_NAME, BAD_PAGE_TOKEN or BAD_VALUE.
            NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
        """
        series_id = parse_series(parent, kind, field="parent")
        query = select(VersionRow).where(
            VersionRow.tenant == tenant, VersionRow.kind == kind.value, VersionRow.series_id == series_id
        )
        with self._database.snapshot() as session:
            find_series(session, tenant, kind, series_id, field="parent")
            rows, token = fetch_page(
                session, query, VersionRow.number, page, scope=f"{parent}/versions", descending=True
            )
            return _versions(session, rows), token


def _check_text(text: str, max_bytes: int, *, field: str) -> None:
    if "\0" in text:
        raise InvalidArgument("BAD_VALUE", "text holds no NUL characters", field=field)
    if (num_bytes := len(text.encode())) > max_bytes:
        raise InvalidArgument("TOO_LARGE", f"{num_bytes} bytes in UTF-8; at most {max_bytes} are taken", field=field)


def _check_length(items: Sequence[object], max_items: int, *, field: str) -> None:
    if len(items) > max_items:
        raise InvalidArgument("TOO_LARGE", f"{len(items)} {field}; at most {max_items} are taken", field=field)


def _insert_series(session: Session, tenant: str, kind: Kind, series_id: str, description: str) -> SeriesRow:
    series = SeriesRow(
        tenant=tenant, kind=kind.value, series_id=series_id, description=description, num_versions=0, create_us=now_us()
    )
    session.add(series)
    session.flush()
    return series


def _add_version(session: Session, tenant: str, kind: Kind, series_id: str, new: NewVersion) -> tuple[int, bool]:
    """Number of the version with this manifest, and whether it was made."""
    series = session.get(SeriesRow, (tenant, kind.value, series_id))
    if series is None:
        series = _insert_series(session, tenant, kind, series_id, "")
    existing = session.scalar(
        select(VersionRow.number).where(
            VersionRow.tenant == tenant,
            VersionRow.kind == kind.value,
            VersionRow.series_id == series_id,
            VersionRow.sha256 == new.manifest.sha256,
        )
    )
    if existing is not None:
        return existing, False
    number = series.num_versions + 1
    # Sources are looked up while the version is not there yet: it cannot name itself.
    lineage.record(session, tenant, version_name(kind, series_id, number), new.sources)
    series.num_versions = number
    session.add(
        VersionRow(
            tenant=tenant,
            kind=kind.value,
            series_id=series_id,
            number=number,
            sha256=new.manifest.sha256,
            size_bytes=new.manifest.size_bytes,
            media_type=new.manifest.media_type,
            num_samples=new.num_samples,
            create_us=now_us(),
        )
    )
    session.flush()
    session.add_all(
        MetricRow(
            tenant=tenant,
            kind=kind.value,
            series_id=series_id,
            number=number,
            position=position,
            name=metric.name,
            value=metric.value,
        )
        for position, metric in enumerate(new.metrics)
    )
    return number, True


def _series(row: SeriesRow) -> Series:
    return Series(Kind(row.kind), row.series_id, row.description, row.create_us)


def _versions(session: Session, rows: Sequence[VersionRow]) -> list[Version]:
    """The values of rows of one series, with their metrics and sources."""
    if not rows:
        return []
    tenant, kind, series_id = rows[0].tenant, Kind(rows[0].kind), rows[0].series_id
    metrics: dict[int, list[Metric]] = {}
    for metric in session.scalars(
        select(MetricRow)
        .where(
            MetricRow.tenant == tenant,
            MetricRow.kind == kind.value,
            MetricRow.series_id == series_id,
            MetricRow.number.in_([row.number for row in rows]),
        )
        .order_by(MetricRow.number, MetricRow.position)
    ):
        metrics.setdefault(metric.number, []).append(Metric(metric.name, metric.value))
    sources = lineage.sources_of(session, tenant, [version_name(kind, series_id, row.number) for row in rows])
    return [
        Version(
            kind=kind,
            series_id=series_id,
            number=row.number,
            manifest=Artifact(sha256=row.sha256, size_bytes=row.size_bytes, media_type=row.media_type, tenant=tenant),
            num_samples=row.num_samples,
            sources=sources.get(version_name(kind, series_id, row.number), ()),
            metrics=tuple(metrics.get(row.number, ())),
            create_us=row.create_us,
        )
        for row in rows
    ]
