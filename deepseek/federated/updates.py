"""Checks the updates that nodes send: each one counts, or is refused with a reason.

Nodes are not trusted. Nothing that a node sends raises an exception here.
"""

import enum
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from common.errors import InvalidArgument, plain_text
from deepseek.federated import arrays as arrays_of
from deepseek.federated.aggregation import WeightedUpdate
from deepseek.federated.arrays import Shapes
from deepseek.federated.reported_release import excess
from deepseek.federated.rounds import RefusalRecord
from deepseek.federated.run_plan import UpdateLimits
from deepseek.privacy.clipping import l2_norm
from deepseek.privacy.releases import Release

_MAX_MESSAGE = 1000
_MIN_FOR_MEDIAN = 3
_MAX_METRICS = 64
_MAX_METRIC = 1e100
"""Largest absolute value of a figure. Sums of larger ones may overflow."""
_METRIC_NAME = re.compile(r"[A-Za-z0-9_.@/-]{1,64}")


class RefusalReason(enum.Enum):
    """Why an update does not count.

    NOT_IN_COHORT: The node was not asked.
    WRONG_ROUND: The reply belongs to no task of the round, or states another round.
    DUPLICATE: The node has replied to the same task before.
    LATE: The update had not arrived when its round closed.
    OVERSIZED: The update has more bytes than the model can have.
    BAD_UPDATE: The bytes are malformed, or have other names, shapes or dtypes than the model.
    NOT_FINITE: A value is NaN or infinite.
    NORM_TOO_LARGE: The L2 norm exceeds the limit of the run, or is far above the median of the round.
    BAD_WEIGHT: The number of examples is not a whole number, is negative, or exceeds the limit of the run.
    NO_EXAMPLES: The node trained on no examples.
    CLIENT_ERROR: The node reported an error.
    NO_UPDATE: CLIENT_ERROR or NO_EXAMPLES, where the difference could reveal an example; not used in the audit.
    WRONG_VERSION: The client app has another version than the coordinator.
    NOT_AS_DEBITED: The node has made more steps of DP-SGD than the round debits, or with less noise or a higher
        sampling rate, or it does not report these figures.
    BAD_SOURCE: Before the first round: the node cannot read its data.
    BAD_SCHEMA: Before the first round: the node's data has other fields than the run needs.
    MISSING_FIELD: Before the first round: the node has no data source, or its data lacks a field or a value.
    NODE_POLICY: The policy of the node does not allow the task.
    DATASET_HAS_BUDGET: The node's data is a data set version with a privacy budget that the run does not debit.
    """

    NOT_IN_COHORT = "NOT_IN_COHORT"
    WRONG_ROUND = "WRONG_ROUND"
    DUPLICATE = "DUPLICATE"
    LATE = "LATE"
    OVERSIZED = "OVERSIZED"
    BAD_UPDATE = "BAD_UPDATE"
    NOT_FINITE = "NOT_FINITE"
    NORM_TOO_LARGE = "NORM_TOO_LARGE"
    BAD_WEIGHT = "BAD_WEIGHT"
    NO_EXAMPLES = "NO_EXAMPLES"
    CLIENT_ERROR = "CLIENT_ERROR"
    NO_UPDATE = "NO_UPDATE"
    WRONG_VERSION = "WRONG_VERSION"
    NOT_AS_DEBITED = "NOT_AS_DEBITED"
    BAD_SOURCE = "BAD_SOURCE"
    BAD_SCHEMA = "BAD_SCHEMA"
    MISSING_FIELD = "MISSING_FIELD"
    NODE_POLICY = "NODE_POLICY"
    DATASET_HAS_BUDGET = "DATASET_HAS_BUDGET"


_REPORTED = frozenset(
    {
        "OVERSIZED",
        "NO_EXAMPLES",
        "WRONG_VERSION",
        "NOT_FINITE",
        "NODE_POLICY",
        "DATASET_HAS_BUDGET",
    }
)
"""Reasons that keep their meaning if a node reports them."""


@dataclass(frozen=True)
class Reply:
    """The reply of a node, which the engine has authenticated.

    Attributes:
        node: Fingerprint of the node's key.
        round: Round whose task the reply answers.
        arrays: The update, as safetensors bytes.
        reason: Machine-readable reason if the node failed; else empty.
        error: Message for people if the node failed; else empty.
    """

    node: str
    round: int
    arrays: bytes = b""
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class CheckedUpdate:
    """An update that counts.

    Attributes:
        metrics: The finite figures that the node reported, with valid names.
    """

    update: WeightedUpdate
    metrics: Mapping[str, float]


class UpdateChecker:
    """Checks the replies to one round. Not thread-safe.

    A node has one reply per round: the first one is checked, and all others are duplicates, regardless of their
    content.

    Args:
        round_number: Number of the round.
        cohort: Fingerprints of the nodes that are asked.
        shapes: Names and shapes of the model's arrays.
        limits: Limits of the run.
        debited: What is debited for the DP-SGD of each node; None if nodes add no noise.
    """

    def __init__(
        self,
        round_number: int,
        cohort: tuple[str, ...],
        shapes: Shapes,
        limits: UpdateLimits,
        *,
        debited: Release | None = None,
    ) -> None:
        self._round = round_number
        self._waiting = set(cohort)
        self._cohort = frozenset(cohort)
        self._shapes = shapes
        self._limits = limits
        self._debited = debited
        self._max_bytes = arrays_of.max_bytes(shapes)

    @property
    def waiting(self) -> frozenset[str]:
        """Fingerprints of the nodes that have not replied."""
        return frozenset(self._waiting)

    def check(self, reply: Reply) -> CheckedUpdate | RefusalRecord:
        """Returns the update if it counts, else why it does not."""
        if reply.round != self._round:
            late = reply.round < self._round
            return refusal(
                reply.node,
                RefusalReason.LATE if late else RefusalReason.WRONG_ROUND,
                f"the reply is for round {reply.round}, and round {self._round} is in progress",
            )
        if reply.node not in self._cohort:
            return refusal(reply.node, RefusalReason.NOT_IN_COHORT, f"the node was not asked in round {self._round}")
        if reply.node not in self._waiting:
            return refusal(reply.node, RefusalReason.DUPLICATE, f"the node has already replied in round {self._round}")
        self._waiting.discard(reply.node)
        return self._judge(reply)

    def close(self, deadline_s: float) -> list[RefusalRecord]:
        """Returns a refusal for every node that has not replied until the deadline, in order."""
        missing = sorted(self._waiting)
        self._waiting.clear()
        message = f"the node did not reply within {deadline_s:g} s"
        return [refusal(node, RefusalReason.LATE, message) for node in missing]

    def _judge(self, reply: Reply) -> CheckedUpdate | RefusalRecord:
        node, limits = reply.node, self._limits
        if reply.error or reply.reason:
            return reported(reply)
        if len(reply.arrays) > self._max_bytes:
            message = f"the update has {len(reply.arrays)} bytes; the model has at most {self._max_bytes}"
            return refusal(node, RefusalReason.OVERSIZED, message)
        if (examples := _refused_examples(reply.num_examples, limits.max_examples)) is not None:
            return refusal(node, *examples)
        try:
            arrays = arrays_of.from_bytes(reply.arrays, self._shapes, field="update")
        except InvalidArgument as error:
            return refusal(node, RefusalReason.BAD_UPDATE, error.message)
        if not arrays_of.all_finite(arrays):
            message = "the update has values that are NaN or infinite; lower the learning rate of the run"
            return refusal(node, RefusalReason.NOT_FINITE, message)
        if limits.max_update_norm:
            norm = l2_norm(arrays)
            if norm > limits.max_update_norm:
                message = f"the update has the L2 norm {norm:.6g}; at most {limits.max_update_norm:g} is accepted"
                return refusal(node, RefusalReason.NORM_TOO_LARGE, message)
        metrics = _valid_metrics(reply.metrics)
        if self._debited is not None and (problem := excess(metrics, self._debited)):
            return refusal(node, RefusalReason.NOT_AS_DEBITED, problem)
        return CheckedUpdate(WeightedUpdate(node, arrays, reply.num_examples), metrics)


def reported(reply: Reply, *, further: Collection[str] = ()) -> RefusalRecord:
    """Returns the refusal for an error that the node or its client app reports.

    Its reason is always one of RefusalReason: the node chooses the text of its own, which may be anything.

    Args:
        reply: The reply.
        further: Reasons that also keep their meaning.
    """
    if reply.reason in _REPORTED or reply.reason in further:
        return refusal(reply.node, RefusalReason(reply.reason), reply.error)
    return refusal(reply.node, RefusalReason.CLIENT_ERROR, f"{reply.reason[:80]}: {reply.error}".strip(": "))


def refusal(node: str, reason: RefusalReason, message: str) -> RefusalRecord:
    """Returns a refusal whose message is safe to show."""
    return RefusalRecord(node, reason.value, plain_text(message)[:_MAX_MESSAGE])


def within_ratio(
    updates: Sequence[CheckedUpdate], max_norm_ratio: float
) -> tuple[list[CheckedUpdate], list[RefusalRecord]]:
    """Returns the updates of a round whose L2 norm is not far above the others, and refusals for all others.

    The bound is a multiple of the median norm. As long as fewer than half of the nodes send wrong updates, the median
    lies within the norms of the others. Fewer than three updates have no such majority, and a median of 0 is no scale;
    then all updates are returned.
    """
    if len(updates) < _MIN_FOR_MEDIAN:
        return list(updates), []
    norms = [l2_norm(checked.update.arrays) for checked in updates]
    typical = median_low(norms)
    kept, refused = [], []
    for checked, norm in zip(updates, norms, strict=True):
        if typical == 0 or norm <= max_norm_ratio * typical:
            kept.append(checked)
            continue
        message = (
            f"the update has the L2 norm {norm:.6g}, more than {max_norm_ratio:g} times the median {typical:.6g} of "
            "its round; to accept it, set max_update_norm of the run"
        )
        refused.append(refusal(checked.update.node, RefusalReason.NORM_TOO_LARGE, message))
    return kept, refused


def mean_metrics(updates: list[CheckedUpdate]) -> dict[str, float]:
    """Returns the means of the nodes' figures, weighted by their number of examples.

    The mean of a figure is over the nodes that report it. The result does not depend on the order.
    """
    values: dict[str, list[tuple[float, int]]] = {}
    for checked in updates:
        for name, value in checked.metrics.items():
            values.setdefault(name, []).append((value, checked.update.num_examples))
    means: dict[str, float] = {}
    for name, pairs in sorted(values.items()):
        total = sum(weight for _, weight in pairs)
        means[name] = math.fsum(value * (weight / total) for value, weight in pairs)
    return means


def _refused_examples(given: Any, limit: int) -> tuple[RefusalReason, str] | None:
    if isinstance(given, bool) or not isinstance(given, int):
        return RefusalReason.BAD_WEIGHT, f"the number of examples is {str(given)[:80]}; it must be a whole number"
    if given == 0:
        return RefusalReason.NO_EXAMPLES, "the node has no examples; check its data source"
    if not 1 <= given <= limit:
        # Python refuses to print integers of thousands of digits.
        shown = given if abs(given) < 1 << 64 else "out of range"
        return RefusalReason.BAD_WEIGHT, f"the number of examples is {shown}; it must be from 1 to {limit}"
    return None


def _valid_metrics(given: Mapping[str, Any]) -> dict[str, float]:
    valid: dict[str, float] = {}
    for name, value in sorted(given.items())[:_MAX_METRICS]:
        if _METRIC_NAME.fullmatch(name) and isinstance(value, int | float) and abs(value) <= _MAX_METRIC:
            valid[name] = float(value)
    return valid
