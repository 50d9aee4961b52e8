"""Data sets, models and their immutable, consecutively numbered versions.

One transaction stores a version together with its number, metrics, lineage and request id. Write transactions are
serialized (`common.database`), so version numbers are unique and have no gaps. The sizes of texts and lists are
limited, so that a page of default size fits in the 4 MiB that gRPC clients accept by default, and a page of maximum
size fits in the 64 MiB that the mesh accepts. Aliases and lineage walks are handled elsewhere.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from common import names
from common.artifacts import Artifact
from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import AlreadyExists, InvalidArgument
from common.sources import check_sources
from services.registry import lineage
from services.registry.guarantees import check_guarantee, guarantees_of, record_guarantee
from services.registry.resolve import find_series, find_version
from services.registry.resources import (
    Guarantee,
    Kind,
    Metric,
    Series,
    Version,
    VersionReference,
    parse_series,
    parse_version_reference,
    series_name,
    version_name,
)
from services.registry.tables import MetricRow, SeriesRow, VersionRow

MAX_DESCRIPTION_BYTES = 16 << 10
MAX_METRICS = 128
MAX_METRIC_NAME_BYTES = 128


@dataclass(frozen=True)
class NewVersion:
    """The parts of a new version that the caller provides. `Version` documents the fields."""

    manifest: Artifact
    num_samples: int | None = None
    sources: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    privacy: Guarantee | None = None

    def check(self) -> None:
        """Rejects values that are invalid regardless of what the registry contains.

        Raises:
            InvalidArgument: BAD_VALUE, TOO_LARGE, or a reason of `check_guarantee`.
        """
        if self.privacy is not None:
            check_guarantee(self.privacy)
        _check_length(self.metrics, MAX_METRICS, field="metrics")
        check_sources(self.sources)
        if self.num_samples is not None and self.num_samples < 1:
            message = f"num_samples is {self.num_samples}; it must be at least 1"
            raise InvalidArgument("BAD_VALUE", message, field="num_samples")
        seen: set[str] = set()
        for index, metric in enumerate(self.metrics):
            _check_text(metric.name, MAX_METRIC_NAME_BYTES, field=f"metrics[{index}].name")
            if not metric.name or metric.name in seen:
                what = f"the metric {metric.name!r} appears twice" if metric.name else "the metric has no name"
                raise InvalidArgument("BAD_VALUE", what, field=f"metrics[{index}].name")
            if not math.isfinite(metric.value):
                raise InvalidArgument(
                    "BAD_VALUE",
                    f"the metric {metric.name!r} is {metric.value}; it must be a finite number",
                    field=f"metrics[{index}].value",
                )
            seen.add(metric.name)


class Catalog:
    """Data sets, models and versions of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str, kind: Kind, series_id: str, description: str, call: Repeatable) -> Series:
        """Creates a data set or model.

        Args:
            tenant: Tenant that will own the data set or model.
            kind: Data set or model.
            series_id: Id of the data set or model.
            description: Description for human readers; may be empty.
            call: Identity of the call, used to recognize repeats.

        Raises:
            InvalidArgument: BAD_NAME, BAD_VALUE or TOO_LARGE.
            AlreadyExists: DATASET_EXISTS, MODEL_EXISTS or REQUEST_ID_REUSED.
        """
        field = f"{kind.name.lower()}_id"
        names.check_id(series_id, field=field)
        _check_text(description, MAX_DESCRIPTION_BYTES, field="description")
        with self._database.transaction() as session:

            def effect() -> str:
                row = session.get(SeriesRow, (tenant, kind.value, series_id))
                if row is not None and row.delete_us is None:
                    raise AlreadyExists(
                        f"{kind.name}_EXISTS", f"{series_name(kind, series_id)!r} already exists", field=field
                    )
                return _insert_series(session, tenant, kind, series_id, description).series_id

            made = once(session, tenant, call, effect)
            return _series(find_series(session, tenant, kind, made, field=field))

    def get(self, tenant: str, kind: Kind, name: str) -> Series:
        """Returns a data set or model.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
        """
        series_id = parse_series(name, kind, field="name")
        with self._database.snapshot() as session:
            return _series(find_series(session, tenant, kind, series_id, field="name"))

    def list_series(self, tenant: str, kind: Kind, page: PageRequest) -> tuple[list[Series], str]:
        """Returns a page of data sets or models, ordered by id, and the token of the next page."""
        query = select(SeriesRow).where(
            SeriesRow.tenant == tenant, SeriesRow.kind == kind.value, SeriesRow.delete_us.is_(None)
        )
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (SeriesRow.series_id,), page, scope=kind.value)
            return [_series(row) for row in rows], token

    def create_version(
        self, tenant: str, kind: Kind, parent: str, new: NewVersion, call: Repeatable
    ) -> tuple[Version, bool]:
        """Adds the next version of a data set or model. Creates the data set or model if it does not exist.

        Args:
            tenant: Tenant that owns the data set or model.
            kind: Data set or model.
            parent: Name of the data set or model.
            new: Content of the new version. If the data set or model already has a version with the same manifest, that
                version is returned unchanged.
            call: Identity of the call, used to recognize repeats.

        Returns:
            The version, and whether this call created it. For a repeat: whether the first call with this request id
            created it.

        Raises:
            InvalidArgument: BAD_NAME, BAD_VALUE, TOO_LARGE, or a reason of `guarantees`.
            NotFound: A source that belongs to this registry does not exist, or the version that the first call with
                this request id created was deleted.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        series_id = parse_series(parent, kind, field="parent")
        new.check()
        with self._database.transaction() as session:

            def effect() -> str:
                return json.dumps(_add_version(session, tenant, kind, series_id, new))

            made = once(session, tenant, call, effect)
            number, created = json.loads(made)
            # A repeated call may name a version that has been deleted in the meantime.
            row = find_version(session, tenant, VersionReference(kind, series_id, number=number), field="parent")
            return _versions(session, [row])[0], created

    def get_version(self, tenant: str, kind: Kind, name: str, *, field: str = "name") -> Version:
        """Returns a version by name. The name contains a version number, an alias or `latest`.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: The data set, model, version or alias does not exist; see `resolve.find_version`.
        """
        reference = parse_version_reference(name, kind, field=field)
        with self._database.snapshot() as session:
            return _versions(session, [find_version(session, tenant, reference, field=field)])[0]

    def list_versions(self, tenant: str, kind: Kind, parent: str, page: PageRequest) -> tuple[list[Version], str]:
        """Returns a page of versions, newest first, and the token of the next page.

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
                session, query, (VersionRow.number,), page, scope=f"{parent}/versions", descending=True
            )
            return _versions(session, rows), token


def _check_text(text: str, max_bytes: int, *, field: str) -> None:
    if "\0" in text:
        raise InvalidArgument("BAD_VALUE", "the text contains a NUL character; remove it", field=field)
    if (num_bytes := len(text.encode())) > max_bytes:
        message = f"the text has {num_bytes} bytes in UTF-8; at most {max_bytes} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field=field)


def _check_length(items: Sequence[object], max_items: int, *, field: str) -> None:
    if len(items) > max_items:
        message = f"the version has {len(items)} {field}; at most {max_items} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field=field)


def _insert_series(session: Session, tenant: str, kind: Kind, series_id: str, description: str) -> SeriesRow:
    """Adds a series. If there was one of this name, its row, which has been deleted, is used again."""
    if deleted := session.get(SeriesRow, (tenant, kind.value, series_id)):
        deleted.description, deleted.create_us, deleted.delete_us = description, now_us(), None
        return deleted
    series = SeriesRow(
        tenant=tenant, kind=kind.value, series_id=series_id, description=description, num_versions=0, create_us=now_us()
    )
    session.add(series)
    session.flush()
    return series


def _add_version(session: Session, tenant: str, kind: Kind, series_id: str, new: NewVersion) -> tuple[int, bool]:
    """Adds the version unless one with this manifest exists. Returns its number, and whether it was added."""
    series = session.get(SeriesRow, (tenant, kind.value, series_id))
    if series is None or series.delete_us is not None:
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
    # Sources are checked before the version is stored, so a version cannot be its own source.
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
    if new.privacy is not None:
        record_guarantee(session, tenant, kind, series_id, number, new.privacy, new.sources)
    return number, True


def _series(row: SeriesRow) -> Series:
    return Series(Kind(row.kind), row.series_id, row.description, row.create_us)


def _versions(session: Session, rows: Sequence[VersionRow]) -> list[Version]:
    """Converts rows of one series to versions, and adds the metrics, the sources and the guarantee of each."""
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
    guarantees = guarantees_of(session, tenant, kind, series_id, [row.number for row in rows])
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
            privacy=guarantees.get(row.number),
        )
        for row in rows
    ]
