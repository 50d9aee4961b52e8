"""Which faults strike when: drawn from a seed, so that what is tried is fixed before anyone sees a result.

Trials come in blocks of `BLOCK_SIZE`, in which every fault strikes once. The order, the moment, its length and, where
it is open, the service are drawn. A trial depends on its seed and number alone, so an interrupted run can be resumed.
"""

import random
from dataclasses import dataclass

from deepseek.services import SERVICES

EMBEDDED, STACK = "embedded", "stack"
_DRAWN = ""


@dataclass(frozen=True)
class Trial:
    """One fault during one workload.

    Attributes:
        number: Counts from 0.
        backend: Kind of database and store: `embedded` (SQLite and a directory) or `stack` (PostgreSQL and S3).
        fault: The fault; a method of `tests.faults.strikes.Strikes`.
        service: The service that it strikes; it is killed and restarted once more before the checks.
        job: Job that runs beside the usual clients: a training `run`, an `export`, or none if empty.
        after_s: Seconds from the beginning to the fault; if it needs workers, a third of it, counted from their start.
        lasts_s: Seconds until the repair.
    """

    number: int
    backend: str
    fault: str
    service: str
    job: str
    after_s: float
    lasts_s: float

    @property
    def id(self) -> str:
        """A part of all names that its clients make."""
        return f"t{self.number}"

    @property
    def needs_workers(self) -> bool:
        """Whether it strikes while workers train."""
        return self.fault in ("kill_worker", "pause") and self.service in _OWN_JOB


_BLOCK = (
    *((EMBEDDED, "kill", service) for service in SERVICES),
    (EMBEDDED, "kill_worker", "trainer"),
    (EMBEDDED, "terminate", _DRAWN),
    (EMBEDDED, "cut", _DRAWN),
    (EMBEDDED, "stall", _DRAWN),
    (EMBEDDED, "slow", _DRAWN),
    (EMBEDDED, "store_away", _DRAWN),
    (EMBEDDED, "database_away", _DRAWN),
    (EMBEDDED, "disk_full", _DRAWN),
    (EMBEDDED, "pause", "trainer"),
    (EMBEDDED, "pause", "ingest"),
    *((STACK, "kill", service) for service in ("registry", "ingest", "trainer")),
    (STACK, "store_away", _DRAWN),
    (STACK, "database_away", _DRAWN),
    (STACK, "pause", "trainer"),
)
BLOCK_SIZE = len(_BLOCK)
_OWN_JOB = {"trainer": "run"}
"""Jobs that are always under way when a fault strikes these services, because workers do them."""

_LASTS_S = {
    "kill": (0, 1),
    "kill_worker": (0, 0),
    "terminate": (0, 1),
    "cut": (1, 2),
    "stall": (1, 2),
    "slow": (1, 3),
    "store_away": (1, 4),
    "database_away": (1, 4),
    "disk_full": (1, 4),
    "pause": (5, 6),
}
_LONG_S = {"store_away": 15.0, "database_away": 30.0, "disk_full": 15.0}


def draw(seed: int, number: int, *, long: bool = False) -> Trial:
    """Draws a trial.

    Args:
        seed: Seed of all trials.
        number: Number of this trial.
        long: Let outages last up to half a minute.
    """
    block, place = divmod(number, len(_BLOCK))
    # By backend, since a mesh is started for each.
    order = sorted(random.Random(f"{seed}/{block}").sample(_BLOCK, len(_BLOCK)), key=lambda one: one[0] == STACK)
    backend, fault, service = order[place]
    chance = random.Random(f"{seed}/{block}/{place}")
    shortest_s, longest_s = _LASTS_S[fault]
    service = service or chance.choice(list(SERVICES))
    job = _OWN_JOB.get(service) or chance.choices(("run", "export", ""), (4, 2, 4))[0]
    return Trial(
        number,
        backend,
        fault,
        service,
        job,
        chance.uniform(0, 6 if job else 2),
        chance.uniform(shortest_s, _LONG_S.get(fault, longest_s) if long else longest_s),
    )
