"""A federation in one thread: nodes, a transport that breaks, a ledger and a vault, and a clock that tests move.

Nodes are deterministic, as workers are. Crashes can be raised before and after every operation; after a crash, only the
contents of the durable parts (store, vault, ledger, publisher) remain.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from common.errors import NotFound, Unavailable
from deepseek.federated.arrays import shapes_of, to_bytes
from deepseek.federated.flower.engine import Engine, Link, LinkBroken, NodeStatus, Task, TaskReply
from deepseek.federated.ports import Clock, Publication, Publisher, Vault
from deepseek.federated.round_runner import RoundRunner
from deepseek.federated.rounds import Round, RoundState, RoundStore
from deepseek.federated.run_plan import RunPlan, RunPrivacy, Sampling
from deepseek.federated.strategy import strategy_from_spec
from deepseek.privacy.releases import Release
from tests.deepseek.federated.memory_rounds import MemoryRoundStore
from tests.deepseek.federated.simulated_ledger import SimulatedLedger
from tests.deepseek.federated.simulated_nodes import MODEL, Behaviour, honest

RUN = "federations/f/runs/r"
BUDGET = "budgets/b"
POISSON = Sampling("poisson", rate=0.5)
PRIVACY = RunPrivacy("client", BUDGET, Release(1.0, 0.5), clip_norm=1.0)
"""Privacy of a run with the sampling above."""


class Crash(BaseException):
    """The process dies."""


class Faults:
    """Counts the points at which a process can crash, and crashes at the given ones."""

    def __init__(self, *crash_at: int) -> None:
        self._crash_at = set(crash_at)
        self.names: list[str] = []

    def point(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 in self._crash_at:
            raise Crash(name)

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        self.point(f"before {name}")
        result = call()
        self.point(f"after {name}")
        return result


class SimulatedClock(Clock):
    """Time passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class SimulatedEngine(Engine):
    """Delivers tasks and replies after a delay.

    Attributes:
        behaviours: What each node does; honest unless given.
        delays: Seconds from a task to its reply, by node; 1 unless given.
        offline: Nodes that are not connected. A task for one waits until it is back.
        break_after: Numbers of received replies, counted over all links, after which the link breaks.
        break_at: Time at which the link breaks, once.
        down_until: Time before which the engine does not respond.
        done: The tasks that nodes have worked on: (round, attempt, node).
    """

    fingerprints: Sequence[str]
    clock: SimulatedClock
    faults: Faults = field(default_factory=Faults)
    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    delays: Mapping[str, float] = field(default_factory=dict)
    offline: set[str] = field(default_factory=set)
    break_after: set[int] = field(default_factory=set)
    break_at: float = float("inf")
    down_until: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    configs: list[Mapping[str, Any]] = field(default_factory=list)
    num_links: int = 0
    max_reply_bytes: int = 0
    num_received: int = 0
    cancelled: list[str] = field(default_factory=list)

    def register_node(self, public_key: bytes) -> int:
        raise NotImplementedError

    def unregister_node(self, node_id: int) -> None:
        raise NotImplementedError

    def nodes(self) -> Sequence[NodeStatus]:
        self._check_up()
        return [NodeStatus(1000 + i, f, f not in self.offline) for i, f in enumerate(self.fingerprints)]

    def open_run(self, run_key: str, max_reply_bytes: int) -> Link:
        self._check_up()
        self.num_links += 1
        self.max_reply_bytes = max_reply_bytes
        return SimulatedLink(self)

    def _check_up(self) -> None:
        if self.clock.now < self.down_until:
            raise Unavailable("SUPERLINK_UNAVAILABLE", "the SuperLink is starting")

    def close(self) -> None:
        """Has no processes to end."""


class SimulatedLink(Link):
    """Replies in the order of the delays."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._replies: deque[tuple[float, TaskReply]] = deque()
        self._waiting: dict[str, Task] = {}
        self._broken = False

    @property
    def flower_run_id(self) -> int:
        return self._engine.num_links

    def send(self, task: Task) -> None:
        self._engine.faults("send", lambda: self._send(task))

    def _send(self, task: Task) -> None:
        self._check()
        self._waiting[task.task_id] = task
        self._deliver()

    def _deliver(self) -> None:
        for task in [one for one in self._waiting.values() if one.config["node"] not in self._engine.offline]:
            del self._waiting[task.task_id]
            self._work(task)

    def _work(self, task: Task) -> None:
        engine, fingerprint = self._engine, task.config["node"]
        engine.done[task.task_id] += 1
        engine.configs.append(task.config)
        at = engine.clock.now + engine.delays.get(fingerprint, 1.0)
        replies = engine.behaviours.get(fingerprint, honest)(task)
        self._replies = deque(sorted([*self._replies, *((at, reply) for reply in replies)], key=lambda pair: pair[0]))

    def receive(self, timeout_s: float | None = None) -> TaskReply | None:
        return self._engine.faults("receive", lambda: self._receive(timeout_s or 0.0))

    def _receive(self, timeout_s: float) -> TaskReply | None:
        self._check()
        self._deliver()
        engine = self._engine
        if engine.clock.now >= engine.break_at:
            engine.break_at = float("inf")
            self._broken = True
            self._check()
        if not self._replies or self._replies[0][0] > engine.clock.now + timeout_s:
            engine.clock.sleep(timeout_s)
            return None
        at, reply = self._replies.popleft()
        engine.clock.now = max(engine.clock.now, at)
        engine.num_received += 1
        if engine.num_received in engine.break_after:
            self._broken = True
            self._check()
        return reply

    def cancel(self, task_ids: Sequence[str]) -> None:
        self._engine.cancelled.extend(task_ids)
        for task_id in task_ids:
            self._waiting.pop(task_id, None)

    def close(self) -> None:
        self._broken = True

    def _check(self) -> None:
        if self._broken:
            raise LinkBroken("LINK_BROKEN", "the ServerApp has ended")


class SimulatedVault(Vault):
    """Keeps bytes by digest."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.faults = Faults()

    def put(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        self.faults("put", lambda: self.blobs.__setitem__(key, data))
        return key

    def get(self, key: str) -> bytes:
        if key not in self.blobs:
            raise NotFound("ARTIFACT_NOT_FOUND", f"there is no artifact {key}")
        return self.blobs[key]


class SimulatedPublisher(Publisher):
    """Records the models that it has published."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str]] = []
        self.faults = Faults()

    def publish(self, debited: Round, model: bytes, check: Callable[[], None]) -> Publication:
        shown = (debited.round, hashlib.sha256(model).hexdigest())
        self.faults("publish", lambda: self.shown.append(shown))
        return Publication(f"models/m/versions/{debited.round}", {"accuracy": 0.5})


class FaultyStore(RoundStore):
    """A store during whose writes the process may crash."""

    def __init__(self, store: MemoryRoundStore) -> None:
        self.store = store
        self.faults = Faults()

    def newest(self, run: str) -> Round | None:
        return self.store.newest(run)

    def released(self, run: str, round_number: int) -> Round | None:
        return self.store.released(run, round_number)

    def attempts(self, run: str, round_number: int) -> Sequence[Round]:
        return self.store.attempts(run, round_number)

    def add(self, new: Round) -> None:
        self.faults("add", lambda: self.store.add(new))

    def advance(self, changed: Round, *, expected: RoundState) -> None:
        self.faults(f"advance to {changed.state.value}", lambda: self.store.advance(changed, expected=expected))


class Federation:
    """The durable parts of a mesh with one federated run, and the processes that execute it."""

    def __init__(self, num_nodes: int = 4, *, capacity: int = 100, seed: int = 0, **plan: Any) -> None:
        self.clock = SimulatedClock()
        self.nodes = tuple(f"SHA256:{chr(97 + i)}" for i in range(num_nodes))
        self.engine = SimulatedEngine(self.nodes, self.clock)
        self.store = FaultyStore(MemoryRoundStore())
        self.vault = SimulatedVault()
        self.ledger = SimulatedLedger(BUDGET, capacity)
        self.publisher = SimulatedPublisher()
        self.random = Random(seed)
        defaults: dict[str, Any] = {"num_rounds": 3, "deadline_s": 60.0, "strategy": strategy_from_spec("fedavg")}
        self.plan = RunPlan(
            run=RUN,
            nodes=self.nodes,
            shapes=shapes_of(MODEL),
            initial_model=self.vault.put(to_bytes(MODEL)),
            **{**defaults, **plan},
        )
        self.check: Callable[[], None] = lambda: None
        self.warnings: list[tuple[str, str]] = []
        self.members: set[str] = set(self.nodes)

    def run(self, faults: Faults | None = None) -> Round:
        """Executes the run as one process would, until it ends or dies."""
        faults = faults or Faults()
        for part in (self.engine, self.store, self.vault, self.ledger, self.publisher):
            part.faults = faults
        runner = RoundRunner(
            self.plan,
            store=self.store,
            engine=self.engine,
            vault=self.vault,
            ledger=self.ledger,
            publisher=self.publisher,
            clock=self.clock,
            check=lambda: self.check(),
            warn=lambda reason, message: self.warnings.append((reason, message)),
            members=lambda: self.members,
            source=self.random,
        )
        return runner.run()

    def run_through(self, *crashes: int) -> Round:
        """Executes the run in processes that each die at one point, and in a last one that does not."""
        for crash in crashes:
            try:
                return self.run(Faults(crash))
            except Crash:
                continue
        return self.run()

    @property
    def history(self) -> list[Round]:
        return self.store.store.history(RUN)

    @property
    def released(self) -> list[Round]:
        return [one for one in self.history if one.state is RoundState.RELEASED]

    @property
    def model(self) -> bytes:
        """The last released model."""
        return self.vault.blobs[self.released[-1].sealed_model]
