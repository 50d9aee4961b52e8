"""Checks received samples: several at a time if they contain images or audio, whose decoders release the GIL."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from common.cores import num_cores
from common.errors import InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from services.ingest.samples import Received, accept

_SLICE = 16
"""Number of samples that a thread checks in one go. Handing over a single small image would take longer than decoding
it."""

Outcome = tuple[Received, Sample | InvalidArgument | None]
"""A received sample, and the checked sample or the error; None if the sender has already rejected the sample."""


class Checks:
    """Checks samples for all uploads, with one thread per core. Thread-safe; close it at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(num_cores(), thread_name_prefix="check")

    def run(self, samples: Iterable[Received], fields: Sequence[Field]) -> Iterator[Outcome]:
        """Yields the outcome for each sample, in the order of the samples.

        Args:
            samples: The samples of one message. All are in memory until the last one has been checked.
            fields: Schema of the samples.

        Raises:
            FailedPrecondition: PACKAGE_MISSING if the package that decodes audio is not installed.
        """
        received = list(samples)
        slices = [received[start : start + _SLICE] for start in range(0, len(received), _SLICE)]
        if len(slices) < 2 or not any(one.type in ("image", "audio") for one in fields):
            for part in slices:
                yield from _checked(part, fields)
            return
        pending = [self._pool.submit(_checked, part, fields) for part in slices]
        try:
            for future in pending:
                yield from future.result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)


def _checked(samples: Sequence[Received], fields: Sequence[Field]) -> list[Outcome]:
    return [(one, _outcome(one, fields)) for one in samples]


def _outcome(received: Received, fields: Sequence[Field]) -> Sample | InvalidArgument | None:
    if isinstance(received, Rejected):
        return None
    try:
        return accept(received, fields)
    except InvalidArgument as error:
        return error
