"""Selects which file of a model version to serve: the fastest file that passes its checks.

The same rule selects the preferred file when a model is exported, and the served file when a model is loaded. A less
precise file is selected only if it is faster than the most precise one by a margin, because a small gain may be
measurement noise and does not justify coarser rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import FailedPrecondition
from deepseek.models.manifest import Measurement

MIN_SPEEDUP = 1.3
"""Minimum speedup, relative to the most precise usable candidate, for which another candidate is selected."""
DEFAULT_ACCEPTED_LOSS = 0.005
"""Default accepted loss: how much worse the metric of a file may be than that of the float32 file."""


@dataclass(frozen=True)
class Candidate:
    """A file of a model version, with its measurements on one processor.

    Attributes:
        variant: Variant of the model, e.g. `int8`.
        latency_ms: Median time of a request with one sample, in milliseconds.
        agreement: How closely the outputs match the expected ones, as text for messages, e.g. `it loses 0.1%`.
        problem: Reason why the file must not be served; empty if it may be served.
    """

    variant: str
    latency_ms: float
    agreement: str = ""
    problem: str = ""


def select(candidates: Sequence[Candidate]) -> tuple[int, str]:
    """Selects the candidate to serve.

    Args:
        candidates: Candidates, the most precise one first.

    Returns:
        The index of the selected candidate, and the reason for the selection, as text for messages.

    Raises:
        FailedPrecondition: NO_FILE_AGREES if every candidate has a problem; the message lists the problems.

    >>> select([Candidate("fp32", 1.9), Candidate("int8", 1.0, agreement="it loses 0.1%")])
    (1, 'int8 is 1.90 times as fast as fp32; it loses 0.1%')
    >>> select([Candidate("fp32", 1.1), Candidate("int8", 1.0)])
    (0, 'int8 is only 1.10 times as fast as fp32; 1.3 times are required')
    >>> select([Candidate("fp32", 1.9), Candidate("int8", 1.0, problem="it loses 13%")])
    (0, 'int8 is not served: it loses 13%')
    """
    good = [index for index, candidate in enumerate(candidates) if not candidate.problem]
    refused = [f"{one.variant} is not served: {one.problem}" for one in candidates if one.problem]
    if not good:
        message = f"no file of this version can be served on this host. {'. '.join(refused)}"
        raise FailedPrecondition("NO_FILE_AGREES", message)
    first, *others = good
    best = min(others, key=lambda index: candidates[index].latency_ms, default=first)
    if best == first:
        return first, "; ".join(refused) or "the version has no other file"
    speedup = candidates[first].latency_ms / candidates[best].latency_ms
    names = f"{speedup:.2f} times as fast as {candidates[first].variant}"
    if speedup < MIN_SPEEDUP:
        reason = f"{candidates[best].variant} is only {names}; {MIN_SPEEDUP} times are required"
        return first, "; ".join([*refused, reason])
    return best, "; ".join([f"{candidates[best].variant} is {names}", candidates[best].agreement]).removesuffix("; ")


def exported(measurements: Sequence[Measurement], accepted_loss: float) -> list[Candidate]:
    """Converts the measurements of an export to candidates.

    Args:
        measurements: Measurements of the exported files; the float32 file comes first.
        accepted_loss: Maximum loss at which a file may be served, as in the manifest.
    """
    return [_exported(one, accepted_loss) for one in measurements]


def _exported(measured: Measurement, accepted_loss: float) -> Candidate:
    loss = measured.loss or 0.0
    figure = f"its {measured.metric} of {measured.value:.4f}"
    compared = f"{figure} is {abs(loss):.4f} {'worse' if loss > 0 else 'better'}" if loss else f"{figure} is the same"
    problem = "" if loss <= accepted_loss else f"{compared}; at most {accepted_loss:g} is accepted"
    return Candidate(measured.variant, measured.latency_ms, agreement=compared, problem=problem)
