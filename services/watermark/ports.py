"""What the watermark service needs from other services, in domain terms."""

from typing import Protocol


class Registry(Protocol):
    """The registry's watermarks and model versions. Thread-safe."""

    def create_watermark(self, tenant: str, modality: str, model_version: str, key_epoch: int, request_id: str) -> int:
        """Has the registry draw the id that a mark will carry. Idempotent.

        Raises:
            NotFound: MODEL_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable, DeadlineExceeded: The registry did not respond; an id may or may not have been drawn.
        """

    def set_watermark_content(self, tenant: str, watermark_id: int, sha256: str, size_bytes: int) -> None:
        """Records the content that carries a mark. Idempotent.

        Args:
            tenant: Tenant that owns the mark.
            watermark_id: Id that the mark carries.
            sha256: Digest of the marked content.
            size_bytes: Size of the marked content.

        Raises:
            FailedPrecondition: CONTENT_SET if different content has already been recorded for the mark.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def check_model_version(self, tenant: str, model_version: str) -> None:
        """Checks that a model version exists.

        Raises:
            NotFound: MODEL_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME, also if the name is that of an alias.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """
