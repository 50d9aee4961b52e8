"""Watermarks, identified by the ids that marks carry.

A mark carries an id, so the id is drawn before the content is marked. The digest and the size of the content are
recorded once, after the content has been marked: by the watermark service for an image, by the client for a text. They
stay empty if marking is never finished. Marks are not part of the lineage: a model may create millions of them, and a
lineage walk would return little else. Instead, marks can be listed by model version. Keys and marking are handled
elsewhere, in the watermark service.
"""

import re
import secrets
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.watermark.keys import MODALITIES
from services.registry.resolve import find_version
from services.registry.resources import (
    WATERMARK_ID_BITS,
    Kind,
    VersionReference,
    parse_version,
    parse_watermark,
    version_name,
    watermark_id,
    watermark_name,
)
from services.registry.tables import WatermarkRow

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Watermark:
    """A watermark.

    Attributes:
        name: `watermarks/<id>`.
        modality: One of MODALITIES.
        model_version: Model version that generated the content, `models/<id>/versions/<n>`; empty if no version in this
            registry did.
        key_epoch: Epoch of the key that the content is marked with.
        content_sha256: Digest of the marked content; empty until the content is recorded.
        content_size_bytes: Size of the marked content; 0 until the content is recorded.
        create_us: Creation time, UTC microseconds.
    """

    name: str
    modality: str
    model_version: str
    key_epoch: int
    content_sha256: str
    content_size_bytes: int
    create_us: int


class Watermarks:
    """Watermarks of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str, modality: str, model_version: str, key_epoch: int, call: Repeatable) -> Watermark:
        """Draws the id of a new mark.

        Args:
            tenant: Tenant that owns the mark.
            modality: One of MODALITIES.
            model_version: Model version that generates the content; empty if no version in this registry does.
            key_epoch: Epoch of the key that the content is marked with.
            call: Identity of the call, used to recognize repeats.

        Raises:
            InvalidArgument: BAD_VALUE or BAD_NAME.
            NotFound: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        if modality not in MODALITIES:
            message = f"the modality is unset or unknown; use {' or '.join(MODALITIES)}"
            raise InvalidArgument("BAD_VALUE", message, field="modality")
        if key_epoch < 0:
            raise InvalidArgument("BAD_VALUE", f"key_epoch is {key_epoch}; epochs start at 0", field="key_epoch")
        model_version = _version(model_version)
        with self._database.transaction() as session:

            def effect() -> str:
                if model_version:
                    _, series_id, number = parse_version(model_version, field="model_version")
                    reference = VersionReference(Kind.MODEL, series_id, number=number)
                    find_version(session, tenant, reference, field="model_version")
                row = WatermarkRow(
                    tenant=tenant,
                    watermark_id=_new_id(session, tenant),
                    number=_last_number(session, tenant) + 1,
                    modality=modality,
                    model_version=model_version,
                    key_epoch=key_epoch,
                    content_sha256="",
                    content_size_bytes=0,
                    create_us=now_us(),
                )
                session.add(row)
                session.flush()
                return row.watermark_id

            made = once(session, tenant, call, effect)
            return _watermark(session.get_one(WatermarkRow, (tenant, made)))

    def set_content(self, tenant: str, name: str, sha256: str, size_bytes: int) -> Watermark:
        """Records the digest and the size of the content that carries a mark. Idempotent.

        Args:
            tenant: Tenant that owns the mark.
            name: Name of the watermark.
            sha256: Digest of the marked content.
            size_bytes: Size of the marked content.

        Raises:
            InvalidArgument: BAD_NAME, BAD_DIGEST or BAD_VALUE.
            NotFound: WATERMARK_NOT_FOUND.
            FailedPrecondition: CONTENT_SET if different content has already been recorded for the mark.
        """
        found_id = parse_watermark(name, field="name")
        _check_digest(sha256)
        if size_bytes < 1:
            message = f"content_size_bytes is {size_bytes}; it must be at least 1"
            raise InvalidArgument("BAD_VALUE", message, field="content_size_bytes")
        with self._database.transaction() as session:
            row = _find(session, tenant, found_id)
            if row.content_sha256 and (row.content_sha256, row.content_size_bytes) != (sha256, size_bytes):
                message = f"{name!r} already marks other content, whose digest is {row.content_sha256}; draw another id"
                raise FailedPrecondition("CONTENT_SET", message, field="content_sha256")
            row.content_sha256, row.content_size_bytes = sha256, size_bytes
            return _watermark(row)

    def get(self, tenant: str, name: str) -> Watermark:
        """Returns a watermark.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: WATERMARK_NOT_FOUND.
        """
        found_id = parse_watermark(name, field="name")
        with self._database.snapshot() as session:
            return _watermark(_find(session, tenant, found_id))

    def list_watermarks(
        self, tenant: str, page: PageRequest, *, content_sha256: str = "", model_version: str = ""
    ) -> tuple[list[Watermark], str]:
        """Returns a page of watermarks, newest first, and the token of the next page.

        Args:
            tenant: Tenant that owns the watermarks.
            page: Page to return.
            content_sha256: If set, only marks in the content with this digest are returned.
            model_version: If set, only marks in content generated by this model version are returned.

        Raises:
            InvalidArgument: BAD_DIGEST, BAD_NAME, BAD_PAGE_TOKEN or BAD_VALUE.
        """
        query = select(WatermarkRow).where(WatermarkRow.tenant == tenant)
        if content_sha256:
            _check_digest(content_sha256)
            query = query.where(WatermarkRow.content_sha256 == content_sha256)
        if model_version:
            model_version = _version(model_version)
            query = query.where(WatermarkRow.model_version == model_version)
        scope = f"watermarks {content_sha256} {model_version}"
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (WatermarkRow.number,), page, scope=scope, descending=True)
            return [_watermark(row) for row in rows], token


def _version(name: str) -> str:
    """Checks and returns the name of a model version. The name may be empty, but must not be that of an alias."""
    if not name:
        return ""
    kind, series_id, number = parse_version(name, field="model_version")
    if kind is not Kind.MODEL:
        raise InvalidArgument("BAD_NAME", f"{name!r} is not the name of a model version", field="model_version")
    return version_name(kind, series_id, number)


def _check_digest(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        message = "the digest is not a SHA-256 digest; it must have 64 lower-case hexadecimal digits"
        raise InvalidArgument("BAD_DIGEST", message, field="content_sha256")


def _new_id(session: Session, tenant: str) -> str:
    """Draws an unpredictable id that the tenant does not use yet."""
    while True:
        drawn = watermark_id(secrets.randbits(WATERMARK_ID_BITS))
        if session.get(WatermarkRow, (tenant, drawn)) is None:
            return drawn


def _last_number(session: Session, tenant: str) -> int:
    return session.scalar(select(func.max(WatermarkRow.number)).where(WatermarkRow.tenant == tenant)) or 0


def _find(session: Session, tenant: str, found_id: str) -> WatermarkRow:
    row = session.get(WatermarkRow, (tenant, found_id))
    if row is None:
        name = watermark_name(found_id)
        raise NotFound("WATERMARK_NOT_FOUND", f"the watermark {name!r} does not exist", field="name")
    return row


def _watermark(row: WatermarkRow) -> Watermark:
    return Watermark(
        name=watermark_name(row.watermark_id),
        modality=row.modality,
        model_version=row.model_version,
        key_epoch=row.key_epoch,
        content_sha256=row.content_sha256,
        content_size_bytes=row.content_size_bytes,
        create_us=row.create_us,
    )
