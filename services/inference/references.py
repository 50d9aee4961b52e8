"""Artifacts that inference refers to: the manifests and files of the loaded models."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.upkeep.dump import Reference
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE
from services.inference.tables import LoadedModelRow


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that a row in the database refers to."""
    for row in session.scalars(select(LoadedModelRow)):
        yield Reference(row.tenant, row.manifest_sha256, MEDIA_TYPE)
        yield Reference(row.tenant, row.file_sha256, ONNX_MEDIA_TYPE)
