"""Watermarks: what the ids stand for that marks carry.

An id is drawn before the mark is made, since it goes into it, and what was marked is told afterwards, once. An id whose
content was never told belongs to text, or to a mark that was given up. Marks are no versions and stand in no lineage: a
model makes millions of them, and a walk over its lineage would find nothing else. They are listed by model version
instead. Not here: keys, and how anything is marked.
"""

import re
import secrets
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.database import Database, now_us, once
from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.watermark.keys import MODALITIES
from services.registry.pages import PageRequest, fetch_page
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
    """A mark.

    Attributes:
        name: `watermarks/<id>`.
        modality: One of MODALITIES.
        model_version: `models/<id>/versions/<n>` that made the content; empty if none did.
        key_epoch: Of the key.
        content_sha256: Of the marked content; empty as long as it was not told.
        content_size_bytes: Of the marked content; 0 without one.
        create_us: UTC microseconds.
    """

    name: str
    modality: str
    model_version: str
    key_epoch: int
    content_sha256: str
    content_size_bytes: int
    create_us: int


class Watermarks:
    """Watermarks of all tenants. Safe to share between threads.

    Args:
        database: Migrated; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, tenant: str, modality: str, model_version: str, key_epoch: int, *, request_id: str, body: bytes
    ) -> Watermark:
        """Draws the id of a mark that is about to be made.

        Args:
            tenant: Owner.
            modality: One of MODALITIES.
            model_version: What makes the content; empty if no version of this registry does.
            key_epoch: Of the key.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.

        Raises:
            InvalidArgument: BAD_VALUE or BAD_NAME.
            NotFound: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        if modality not in MODALITIES:
            raise InvalidArgument("BAD_VALUE", f"a modality is one of {', '.join(MODALITIES)}", field="modality")
        if key_epoch < 0:
            raise InvalidArgument("BAD_VALUE", f"key_epoch is {key_epoch}; epochs count from 0", field="key_epoch")
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

            made = once(
                session, tenant=tenant, method="CreateWatermark", request_id=request_id, body=body, effect=effect
            )
            return _watermark(session.get_one(WatermarkRow, (tenant, made)))

    def set_content(self, tenant: str, name: str, sha256: str, size_bytes: int) -> Watermark:
        """Tells what a mark was put into.

        Args:
            tenant: Owner.
            name: Of the watermark.
            sha256: Of the marked content.
            size_bytes: Of the marked content.

        Raises:
            InvalidArgument: BAD_NAME, BAD_DIGEST or BAD_VALUE.
            NotFound: WATERMARK_NOT_FOUND.
            FailedPrecondition: CONTENT_SET if the mark is in other content.
        """
        found_id = parse_watermark(name, field="name")
        _check_digest(sha256)
        if size_bytes < 1:
            raise InvalidArgument("BAD_VALUE", "content has at least one byte", field="content_size_bytes")
        with self._database.transaction() as session:
            row = _find(session, tenant, found_id)
            if row.content_sha256 and (row.content_sha256, row.content_size_bytes) != (sha256, size_bytes):
                message = f"{name!r} is in the content {row.content_sha256} already; register another mark"
                raise FailedPrecondition("CONTENT_SET", message, field="content_sha256")
            row.content_sha256, row.content_size_bytes = sha256, size_bytes
            return _watermark(row)

    def get(self, tenant: str, name: str) -> Watermark:
        """A watermark by name.

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
        """A page of watermarks, newest first, and the next page's token.

        Args:
            tenant: Owner.
            page: Which page.
            content_sha256: Only those in this content; empty for all.
            model_version: Only those in what this version made; empty for all.

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
            rows, token = fetch_page(session, query, WatermarkRow.number, page, scope=scope, descending=True)
            return [_watermark(row) for row in rows], token


def _version(name: str) -> str:
    """The name of a model version by its number, checked; empty stays empty."""
    if not name:
        return ""
    kind, series_id, number = parse_version(name, field="model_version")
    if kind is not Kind.MODEL:
        raise InvalidArgument("BAD_NAME", f"{name!r} is no version of a model", field="model_version")
    return version_name(kind, series_id, number)


def _check_digest(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        message = "a SHA-256 digest has 64 lower-case hexadecimal digits"
        raise InvalidArgument("BAD_DIGEST", message, field="content_sha256")


def _new_id(session: Session, tenant: str) -> str:
    """An id that the tenant does not have yet; nobody can guess it."""
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
