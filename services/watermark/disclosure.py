"""Limits what detection discloses. Otherwise, attackers could edit content until its mark is no longer detected.

The number of detections per caller is limited. Each detection in a stream counts, whereas the general call limits count
a whole stream as one call. A response shows roughly which part of the content carries a mark, but not to the exact
pixel or token. See also `search.P_STEPS`.
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
"""Number of equal parts into which each side of an image is divided. The edges of disclosed regions lie between
parts."""

SPAN_STEP = 16
"""Granularity of disclosed spans, in tokens. Spans start and end at multiples of SPAN_STEP, or end with the text."""


class DetectionQuota:
    """Limits detections per caller. Thread-safe.

    Args:
        max_per_minute: Number of detections that a caller may request per minute on average. A single burst may have up
            to this number of detections.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, max_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_per_minute = max_per_minute
        # The number of concurrent streams is limited elsewhere, together with all other calls.
        self._limits = CallerLimits(
            rate=max_per_minute / 60, burst=max_per_minute, max_streams=0, max_streams_per_tenant=0, clock=clock
        )

    def count(self, caller: Caller) -> None:
        """Counts a detection against the quota of its caller.

        Raises:
            ResourceExhausted: TOO_MANY_DETECTIONS, with the delay after which another detection is allowed.
        """
        try:
            self._limits.count(caller)
        except ResourceExhausted as error:
            message = (
                f"{caller.subject} may request {self._max_per_minute} detections per minute; try again in "
                f"{error.retry_delay_s:.3f} s"
            )
            raise ResourceExhausted("TOO_MANY_DETECTIONS", message, retry_delay_s=error.retry_delay_s) from error


def coarse_region(region: Region, height: int, width: int) -> Region:
    """Returns the smallest region that contains `region` and whose edges lie on a 16 × 16 grid over the image.

    Args:
        region: Exact region.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
    """
    return Region(
        _down(region.left, width), _down(region.top, height), _up(region.right, width), _up(region.bottom, height)
    )


def coarse_spans(spans: Sequence[Span], num_tokens: int) -> tuple[Span, ...]:
    """Returns the smallest spans that contain `spans`, and that start and end at multiples of 16 tokens.

    A returned span may also end where the text ends.

    Args:
        spans: Exact spans.
        num_tokens: Number of tokens in the text.
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
    """Rounds a position down to a multiple of 1/16 of the side's length, in whole pixels."""
    return position * NUM_PARTS // side * side // NUM_PARTS


def _up(position: int, side: int) -> int:
    return side - _down(side - position, side)
