"""The replies of a cohort to one attempt at a round, gathered over one or more runs of the engine."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepseek.federated.flower.engine import Link, NodeStatus, Task, TaskReply
from deepseek.federated.ports import Clock
from deepseek.federated.private_mean import ClippedSum
from deepseek.federated.rounds import MAX_REFUSALS, RefusalRecord, Round, RoundAudit
from deepseek.federated.run_plan import RunPlan
from deepseek.federated.updates import (
    CheckedUpdate,
    RefusalReason,
    Reply,
    UpdateChecker,
    mean_metrics,
    refusal,
    within_ratio,
)

POLL_S = 1.0
"""Seconds between two checks of whether to continue, and before a task that was lost is sent again."""
LOST_REASONS = frozenset({"CLIENT_APP_FAILED", "NODE_UNSTABLE", "WORKER_DIED", "WORKER_NOT_STARTED"})
"""Reasons that mean that a process of the node ended, so that the task may succeed if it is sent again."""
MAX_LOST = 3
"""Number of times that a task of a node may be lost; the node is refused if it is lost once more."""
EXPIRED = "EXPIRED"
"""Reason with which the engine reports that the deadline has passed."""


def task_config(plan: RunPlan, round_number: int, node: str) -> dict[str, Any]:
    """Returns all that a node needs to execute a task, and to repeat it with the same result."""
    return {**plan.task, "run": plan.run, "round": round_number, "seed": plan.seed, "node": node}


@dataclass(frozen=True)
class Collected:
    """What a round has collected.

    Attributes:
        updates: The updates that count, ordered by node. If there is a sum, without their arrays.
        total: The sum of the clipped updates, if the coordinator adds noise to it; else None.
        audit: The audit record.
    """

    updates: Sequence[CheckedUpdate]
    total: ClippedSum | None
    audit: RoundAudit


class Collection:
    """The replies to one attempt at a round."""

    def __init__(self, plan: RunPlan, current: Round, model: bytes, clock: Clock, check: Callable[[], None]) -> None:
        self._plan = plan
        self._current = current
        self._model = model
        self._clock = clock
        self._check = check
        self._checker = UpdateChecker(
            current.round, current.cohort, plan.shapes, plan.limits, debited=plan.release_of_nodes
        )
        self._due: dict[str, float] = {}
        self._senders: dict[int, str] = {}
        self._num_sent: Counter[str] = Counter()
        self._num_lost: Counter[str] = Counter()
        self._updates: list[CheckedUpdate] = []
        self._total: ClippedSum | None = None
        if plan.secret and plan.privacy is not None:
            self._total = ClippedSum(plan.shapes, plan.privacy.clip_norm)
        self._refusals: list[RefusalRecord] = []
        self._num_refusals = 0
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether the round is open, and a node has not replied.

        A round whose cohort is secret stays open until its deadline, even if no node was asked: the time at which it
        closes is public, and would reveal which nodes were asked. For the same reason, it takes no replies shortly
        before, so that the last one does not delay the close.
        """
        return not self._closed and (self._plan.hides_cohorts or bool(self._checker.waiting))

    def ask(self, link: Link, nodes: Callable[[], Sequence[NodeStatus]]) -> None:
        """Sends tasks and receives replies until the round closes.

        Args:
            link: A run of the engine.
            nodes: Returns the registered nodes; none while the engine does not respond.

        Raises:
            LinkBroken: The round is still open.
        """
        now = self._clock.monotonic()
        close = now + self._plan.deadline_s
        deadline = close - self._plan.closing_s
        self._due = dict.fromkeys(self._checker.waiting, now)
        while self.waiting and (now := self._clock.monotonic()) < deadline:
            self._check()
            due = sorted(node for node, at in self._due.items() if at <= now and node in self._checker.waiting)
            if due:
                self._send(link, due, nodes(), deadline - now)
            reply = link.receive(min(POLL_S, deadline - now))
            if reply is not None:
                self._take(reply)
        while self.waiting and self._plan.closing_s and (now := self._clock.monotonic()) < close:
            self._check()
            self._clock.sleep(min(POLL_S, close - now))
        link.cancel([self._task_id(node) for node in sorted(self._checker.waiting)])
        for late in self._checker.close(self._plan.deadline_s):
            self._refuse(late)
        self._closed = True

    def result(self, num_links: int, collect_s: float) -> Collected:
        """Returns what was collected."""
        updates = sorted(self._updates, key=lambda checked: checked.update.node)
        if ratio := self._plan.limits.max_norm_ratio:
            updates, too_large = within_ratio(updates, ratio)
            for refused in too_large:
                self._refuse(refused)
        audit = RoundAudit(
            counted=tuple(checked.update.node for checked in updates),
            refusals=tuple(self._refusals),
            num_refusals=self._num_refusals,
            train_metrics=mean_metrics(updates),
            collect_s=collect_s,
            num_links=num_links,
            num_resent=self._num_sent.total() - len(+self._num_sent),
        )
        return Collected(updates, self._total, audit)

    def _send(self, link: Link, due: list[str], nodes: Sequence[NodeStatus], ttl_s: float) -> None:
        plan, now = self._plan, self._clock.monotonic()
        node_ids = {status.fingerprint: status.node_id for status in nodes}
        self._senders |= {node_id: node for node, node_id in node_ids.items()}
        for node in due:
            if node not in node_ids:
                self._due[node] = now + POLL_S  # not registered now; it may register again
                continue
            config = task_config(plan, self._current.round, node)
            self._num_sent[node] += 1
            self._due[node] = float("inf")
            link.send(Task(self._task_id(node), node_ids[node], "fit", config, self._model, ttl_s))

    def _task_id(self, node: str) -> str:
        return f"{self._current.round}.{self._current.attempt}.{node}"

    def _take(self, reply: TaskReply) -> None:
        round_number, attempt, node = _parse(reply.task_id)
        current = self._current
        sender = self._senders.get(reply.node_id, str(reply.node_id))
        if node not in self._plan.nodes:
            message = f"the reply belongs to no task of round {current.round}"
            self._refuse(refusal(sender, RefusalReason.WRONG_ROUND, message))
            return
        if sender != node:
            message = f"the reply belongs to a task of {node}"
            self._refuse(refusal(sender, RefusalReason.NOT_IN_COHORT, message))
            return
        if (round_number, attempt) == (current.round, current.attempt):
            if reply.reason == EXPIRED:
                return
            if reply.reason in LOST_REASONS and node in self._checker.waiting and self._num_lost[node] < MAX_LOST:
                self._num_lost[node] += 1
                self._due[node] = self._clock.monotonic() + POLL_S
                return
            if node not in self._checker.waiting and self._num_sent[node] > 1:
                return  # the node was asked more than once
        elif round_number == current.round:
            message = f"the reply is for attempt {attempt}, and attempt {current.attempt} is in progress"
            self._refuse(refusal(node, RefusalReason.LATE, message))
            return
        checked = self._checker.check(
            Reply(node, round_number, reply.arrays, reply.num_examples, reply.metrics, reply.reason, reply.error)
        )
        if isinstance(checked, RefusalRecord):
            self._refuse(checked)
        else:
            self._count(checked)

    def _count(self, checked: CheckedUpdate) -> None:
        if self._total is not None:
            self._total.add(checked.update.arrays)
            checked = replace(checked, update=replace(checked.update, arrays={}))
        self._updates.append(checked)

    def _refuse(self, refused: RefusalRecord) -> None:
        self._num_refusals += 1
        if len(self._refusals) < MAX_REFUSALS:
            self._refusals.append(refused)


def _parse(task_id: str) -> tuple[int, int, str]:
    """Returns the round, the attempt and the node of a task; zeros if the id is not that of a task."""
    round_number, _, rest = task_id.partition(".")
    attempt, _, node = rest.partition(".")
    if not (round_number.isdecimal() and attempt.isdecimal() and len(task_id) < 1000):
        return 0, 0, ""
    return int(round_number), int(attempt), node
