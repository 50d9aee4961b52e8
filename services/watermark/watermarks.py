"""What the service needs from the registry, in words of the domain; `registry.py` is the real one, over gRPC."""

from typing import Protocol


class Watermarks(Protocol):
    """The registry's watermarks. Thread-safe."""

    def create(self, tenant: str, modality: str, model_version: str, key_epoch: int, request_id: str) -> int:
        """Has the id of a mark drawn; repeating a call gives the same.

        Raises:
            NotFound: MODEL_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable, DeadlineExceeded: It did not answer; an id may have been drawn or not.
        """

    def set_content(self, tenant: str, message: int, sha256: str, size_bytes: int) -> None:
        """Tells what a mark was put into; repeating a call does nothing more.

        Args:
            tenant: Whose.
            message: The id.
            sha256: Of the marked content.
            size_bytes: Of the marked content.

        Raises:
            FailedPrecondition: CONTENT_SET if the mark is in other content.
            Unavailable, DeadlineExceeded: It did not answer.
        """

    def check_version(self, tenant: str, model_version: str) -> None:
        """Makes sure that there is a model version.

        Raises:
            NotFound: MODEL_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME, also for one that is named by an alias.
            Unavailable, DeadlineExceeded: It did not answer.
        """


def watermark_name(message: int) -> str:
    """Resource name of the watermark that an id stands for."""
    return f"watermarks/{message:012x}"


def id_of(name: str) -> int:
    """The id in the name of a watermark."""
    return int(name.removeprefix("watermarks/"), 16)
