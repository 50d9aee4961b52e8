"""Selects which file of a model version to serve: the fastest correct one.

The same rule selects the preferred file where a model is exported and the served file where it is loaded, so both give
the same reasons. Other candidates must beat the first one by a margin: a small gain is within the noise of a
measurement, and not worth answers that are rounded more coarsely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import FailedPrecondition
from deepseek.models.manifest import Measurement

MIN_SPEEDUP = 1.3
"""How many times as fast as the first candidate another one must be."""
DEFAULT_ACCEPTED_LOSS = 0.005
"""Default of the accepted loss compared with the float32 file."""


@dataclass(frozen=True)
class Candidate:
    """A file as it was measured on one processor.

    Attributes:
        variant: Form of the model, e.g. `int8`.
        latency_ms: Median time of a request of one sample.
        agreement: How well it agrees, e.g. `it loses 0.1%`.
        problem: Why it must not be served; empty if it may be.
    """

    variant: str
    latency_ms: float
    agreement: str = ""
    problem: str = ""


def select(candidates: Sequence[Candidate]) -> tuple[int, str]:
    """Selects the candidate to serve.

    Args:
        candidates: The most exact one first.

    Returns:
        Its position, and a sentence that says why.

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
        return first, "; ".join(refused) or "it is the only file"
    speedup = candidates[first].latency_ms / candidates[best].latency_ms
    names = f"{speedup:.2f} times as fast as {candidates[first].variant}"
    if speedup < MIN_SPEEDUP:
        reason = f"{candidates[best].variant} is only {names}; {MIN_SPEEDUP} times are required"
        return first, "; ".join([*refused, reason])
    return best, "; ".join([f"{candidates[best].variant} is {names}", candidates[best].agreement]).removesuffix("; ")


def exported(measurements: Sequence[Measurement], accepted_loss: float) -> list[Candidate]:
    """Turns the measurements of an export into candidates.

    Args:
        measurements: With their losses; the float32 file's comes first.
        accepted_loss: As in the manifest.
    """
    return [_exported(one, accepted_loss) for one in measurements]


def _exported(measured: Measurement, accepted_loss: float) -> Candidate:
    loss = measured.loss or 0.0
    figure = f"its {measured.metric} of {measured.value:.4f}"
    compared = f"{figure} is {abs(loss):.4f} {'worse' if loss > 0 else 'better'}" if loss else f"{figure} is the same"
    problem = "" if loss <= accepted_loss else f"{compared}; {accepted_loss:g} is accepted"
    return Candidate(measured.variant, measured.latency_ms, agreement=compared, problem=problem)
