"""Checks before the first round whether nodes can take part: their version, data and fields, without training.

With privacy, a run whose nodes all fail would spend its budget on noise, and nobody could see that, because refusals
are secret. Whether a node is ready does not depend on cohorts, so it can be reported.
"""

from collections.abc import Callable, Sequence

from deepseek.federated.collection import EXPIRED, LOST_REASONS, POLL_S, task_config
from deepseek.federated.flower.engine import Link, NodeStatus, Task
from deepseek.federated.ports import Clock
from deepseek.federated.rounds import RefusalRecord
from deepseek.federated.run_plan import RunPlan
from deepseek.federated.updates import RefusalReason, Reply, refusal, reported

_FURTHER = ("BAD_SOURCE", "BAD_SCHEMA", "MISSING_FIELD")


class Readiness:
    """The replies of all nodes that are online.

    A node that is offline, or does not reply within `deadline_s`, may still take part later.

    Args:
        model: The initial model, as safetensors bytes.
        check: Called at least every `POLL_S` while waiting. It raises an error to end the work.
    """

    def __init__(self, plan: RunPlan, model: bytes, clock: Clock, check: Callable[[], None]) -> None:
        self._plan = plan
        self._model = model
        self._clock = clock
        self._check = check
        self._open: set[str] = set(plan.nodes)
        self._failures: dict[str, tuple[str, str]] = {}

    @property
    def waiting(self) -> bool:
        """Whether a node has not replied."""
        return bool(self._open)

    @property
    def failures(self) -> dict[str, tuple[str, str]]:
        """Reason and message of each node that cannot take part, by fingerprint."""
        return dict(sorted(self._failures.items()))

    def ask(self, link: Link, nodes: Callable[[], Sequence[NodeStatus]]) -> None:
        """Sends tasks and receives replies.

        Raises:
            LinkBroken: Nodes that have not replied are asked again.
        """
        deadline = self._clock.monotonic() + self._plan.deadline_s
        online = {status.node_id: status.fingerprint for status in nodes() if status.online}
        asked = {node: node_id for node_id, node in sorted(online.items()) if node in self._open}
        self._open = set(asked)
        for node, node_id in asked.items():
            config = {**task_config(self._plan, 1, node), "check": True}
            link.send(Task(f"check.{node}", node_id, "evaluate", config, self._model, self._plan.deadline_s))
        while self._open and (left := deadline - self._clock.monotonic()) > 0:
            self._check()
            reply = link.receive(min(POLL_S, left))
            if reply is None:
                continue
            node = online.get(reply.node_id, "")
            if node not in self._open or reply.task_id != f"check.{node}":
                continue
            self._open.discard(node)
            if reply.reason not in {"", EXPIRED, *LOST_REASONS}:
                self._fail(reported(Reply(node, 0, reason=reply.reason, error=reply.error), further=_FURTHER))
            elif not reply.reason and reply.num_examples == 0:
                message = "the node has no examples; check its data source"
                self._fail(refusal(node, RefusalReason.NO_EXAMPLES, message))
        link.cancel([f"check.{node}" for node in sorted(self._open)])
        self._open.clear()

    def _fail(self, refused: RefusalRecord) -> None:
        self._failures[refused.node] = (refused.reason, refused.message)
