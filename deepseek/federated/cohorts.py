"""Draws the nodes that a round asks, and selects what may be released about a round."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace

from deepseek.federated.rounds import RefusalRecord, RoundAudit, RoundRecord
from deepseek.federated.run_plan import RunPlan
from deepseek.federated.updates import RefusalReason
from deepseek.privacy.sampling import RandomBytes, poisson_sample


def draw_cohort(
    plan: RunPlan,
    round_number: int,
    attempt: int,
    source: RandomBytes | None = None,
    members: Collection[str] | None = None,
) -> tuple[str, ...]:
    """Returns the fingerprints of the nodes that a round asks, sorted.

    A secret cohort is drawn from `source`. All others are derived from the seed of the run, so that a run can be
    repeated.

    Args:
        source: Source of randomness; the operating system's by default.
        members: The nodes that may be asked; all nodes of the plan by default, and in any case if cohorts are secret.
    """
    nodes = sorted(plan.nodes)
    if members is not None and not plan.hides_cohorts:
        nodes = sorted(set(nodes).intersection(members))
    sampling = plan.sampling
    if sampling.kind == "poisson" and plan.secret:
        return tuple(sorted(poisson_sample(nodes, sampling.rate, source)))
    place = _places(f"{plan.run}\n{plan.seed}\n{round_number}\n{attempt}")
    if sampling.kind == "poisson":
        return tuple(node for node in nodes if place(node) < sampling.rate)
    if sampling.kind == "uniform":
        return tuple(sorted(sorted(nodes, key=place)[: sampling.num_nodes]))
    return tuple(nodes)


def released_record(plan: RunPlan, num_asked: int, audit: RoundAudit) -> RoundRecord:
    """Returns what may be released about a round whose replies were checked.

    With client-level privacy, only the released model is protected. The number of counted updates, refusals and
    training figures depend on the nodes' data, and with Poisson sampling on the cohort. All of these stay secret,
    and so does the duration, which depends on which nodes were asked. With example-level privacy, nodes protect the
    update but neither their training figures nor their errors, so these stay secret. Everybody can see that a node has
    sent no update, and how long the round took: the result depends on the one, and the times of events on the other.
    """
    if plan.secret:
        return RoundRecord(num_asked=None if plan.sampling.kind == "poisson" else num_asked)
    record = RoundRecord(
        num_asked=num_asked,
        num_counted=len(audit.counted),
        refusals=audit.refusals,
        train_metrics=audit.train_metrics,
    )
    if plan.privacy is not None:
        return replace(record, refusals=tuple(map(_without_cause, audit.refusals)), train_metrics={})
    return record


def _without_cause(refused: RefusalRecord) -> RefusalRecord:
    """Returns a refusal without what a node might say about its data."""
    own = refused.reason in (RefusalReason.CLIENT_ERROR.value, RefusalReason.NO_EXAMPLES.value)
    return replace(refused, reason=RefusalReason.NO_UPDATE.value if own else refused.reason, message="")


def _places(key: str) -> Callable[[str], float]:
    """Returns a function that gives each node a pseudo-random number in [0, 1) that depends on the key."""

    def place(node: str) -> float:
        digest = hashlib.sha256(f"{key}\n{node}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / (1 << 48)

    return place
