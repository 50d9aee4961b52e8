"""How little a detector tells those who would use it as an oracle, to change content until it is not taken for marked.

They may ask so often only, whether a question comes as a call or in a stream, which the limits of calls count once; and
they learn in which part of the content a mark is, not where to the pixel or token it ends. See also `search.P_STEPS`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from common.auth import Caller
from common.auth.limits import CallerLimits
from common.errors import ResourceExhausted
from deepseek.watermark.image.detector import Region
from deepseek.watermark.text.detection import Span

NUM_PARTS = 16
"""Parts of an image's side at which regions are told."""

SPAN_STEP = 16
"""Tokens at whose multiples spans are told."""


class Questions:
    """Counts detections a caller. Thread-safe.

    Args:
        max_per_minute: Detections of one caller a minute in the long run, and at once.
        clock: Tells seconds.
    """

    def __init__(self, max_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_per_minute = max_per_minute
        # Streams are counted where all calls are.
        self._limits = CallerLimits(
            rate=max_per_minute / 60, burst=max_per_minute, max_streams=0, max_streams_per_tenant=0, clock=clock
        )

    def count(self, caller: Caller) -> None:
        """Counts a detection.

        Raises:
            ResourceExhausted: TOO_MANY_DETECTIONS, with the delay after which there is room for one more.
        """
        try:
            self._limits.count(caller)
        except ResourceExhausted as error:
            message = (
                f"{caller.subject} may ask for {self._max_per_minute} detections a minute; try again in "
                f"{error.retry_delay_s:.3f} s"
            )
            raise ResourceExhausted("TOO_MANY_DETECTIONS", message, retry_delay_s=error.retry_delay_s) from error


def rounded_region(region: Region, height: int, width: int) -> Region:
    """The least region around another whose sides are at sixteenths of the image's.

    Args:
        region: Exactly.
        height: Of the image, pixels.
        width: Of the image, pixels.
    """
    return Region(
        _down(region.left, width), _down(region.top, height), _up(region.right, width), _up(region.bottom, height)
    )


def rounded_spans(spans: Sequence[Span], num_tokens: int) -> tuple[Span, ...]:
    """The least spans around others that start and end at multiples of 16 tokens, or with the text.

    Args:
        spans: Exactly.
        num_tokens: Of the text.
    """
    return tuple(
        replace(
            span,
            start=span.start // SPAN_STEP * SPAN_STEP,
            end=min(num_tokens, -(-span.end // SPAN_STEP) * SPAN_STEP),
        )
        for span in spans
    )


def _down(position: int, side: int) -> int:
    """The sixteenth of a side at or before a position, rounded to the pixel before it."""
    return position * NUM_PARTS // side * side // NUM_PARTS


def _up(position: int, side: int) -> int:
    return side - _down(side - position, side)
