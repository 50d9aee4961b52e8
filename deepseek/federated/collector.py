"""Requests updates from a cohort, through an engine that may fail, and collects the updates that count.

If the engine's run ends early, the collector opens another one and asks the nodes that have not replied. Updates that
have arrived are kept. Workers are deterministic, so it does not matter which of a node's replies arrives first.
"""

from collections.abc import Callable, Container, Sequence

from common.errors import UNANSWERED, Unavailable
from deepseek.federated.arrays import max_bytes
from deepseek.federated.collection import POLL_S, Collected, Collection
from deepseek.federated.flower.engine import Engine, Link, LinkBroken, NodeStatus
from deepseek.federated.patience import MAX_OUTAGE_S, patiently
from deepseek.federated.ports import Clock
from deepseek.federated.readiness import Readiness
from deepseek.federated.rounds import Round
from deepseek.federated.run_plan import RunPlan

MAX_LINKS = 50
"""Number of runs of the engine per round after which the collector gives up."""


class Collector:
    """Collects the updates of one run, round after round, through as few runs of the engine as possible.

    Not thread-safe.

    Args:
        check: Called at least every `POLL_S` while waiting. It raises an error, e.g. Cancelled, to end the work.
    """

    def __init__(self, plan: RunPlan, engine: Engine, clock: Clock, check: Callable[[], None]) -> None:
        self._plan = plan
        self._engine = engine
        self._clock = clock
        self._check = check
        self._link: Link | None = None

    def collect(self, current: Round, model: bytes) -> Collected:
        """Asks the cohort of a round, and returns what it has collected.

        Returns once every node has replied, or `deadline_s` after the last run of the engine was opened; only then if
        the cohort is secret.

        Raises:
            Unavailable: ENGINE_UNAVAILABLE. The engine was down for `MAX_OUTAGE_S`, or its runs ended early `MAX_LINKS`
                times.
        """
        start = self._clock.monotonic()
        collection = Collection(self._plan, current, model, self._clock, self._check)
        num_links = self._ask(collection)
        return collection.result(num_links, self._clock.monotonic() - start)

    def check_nodes(self, model: bytes) -> dict[str, tuple[str, str]]:
        """Asks all nodes that are online whether they can take part, without training.

        Returns:
            Reason and message of each node that cannot, by fingerprint.

        Raises:
            Unavailable: As in `collect`.
        """
        readiness = Readiness(self._plan, model, self._clock, self._check)
        self._ask(readiness)
        return readiness.failures

    def wait_for_nodes(self, num: int, among: Container[str]) -> bool:
        """Waits up to `deadline_s` until a number of the given nodes are online; returns whether they are.

        Time during which the engine does not respond does not count.

        Raises:
            Unavailable: The engine did not respond for `MAX_OUTAGE_S`.
        """
        waited_s = 0.0
        while num > 0:
            self._check()
            nodes = patiently(self._engine.nodes, self._clock, self._check)
            if sum(status.online and status.fingerprint in among for status in nodes) >= num:
                break
            if waited_s >= self._plan.deadline_s:
                return False
            waited_s += POLL_S
            self._clock.sleep(POLL_S)
        return True

    def close(self) -> None:
        """Ends the current run of the engine, if there is one."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _ask(self, asking: Collection | Readiness) -> int:
        """Asks until no reply is awaited; returns the number of runs of the engine that were needed."""
        num_links = 0
        while asking.waiting:
            link = self._open()
            num_links += 1
            try:
                asking.ask(link, self._nodes)
            except LinkBroken as error:
                self.close()
                if num_links >= MAX_LINKS:
                    message = f"the run of the engine ended early {num_links} times in a row: {error.message}"
                    raise Unavailable("ENGINE_UNAVAILABLE", message) from error
                self._clock.sleep(POLL_S / 2)
        return num_links

    def _open(self) -> Link:
        """Returns the current run of the engine, after opening one if there is none."""
        if self._link is None:
            self._check()
            try:
                limit = max_bytes(self._plan.shapes)
                self._link = patiently(lambda: self._engine.open_run(self._plan.run, limit), self._clock, self._check)
            except Unavailable as error:
                message = f"the engine has not started for {MAX_OUTAGE_S:g} s: {error.message}"
                raise Unavailable("ENGINE_UNAVAILABLE", message) from error
        return self._link

    def _nodes(self) -> Sequence[NodeStatus]:
        """Returns the registered nodes; none while the engine does not respond."""
        try:
            return self._engine.nodes()
        except LinkBroken:
            raise
        except UNANSWERED:
            return ()
