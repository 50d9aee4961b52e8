"""Which faults strike when: drawn from a seed, so that what is tried is fixed before anyone sees a result.

Trials come in blocks of 21 in which every fault strikes once; the order, the moment, its length and, where it is open,
the service are drawn. A trial depends on its seed and number alone, so a run that was interrupted can go on.
"""

import random
from dataclasses import dataclass

SERVICES = ("registry", "ingest", "trainer", "watermark", "inference")
EMBEDDED, STACK = "embedded", "stack"
_DRAWN = ""


@dataclass(frozen=True)
class Trial:
    """One fault during one workload.

    Attributes:
        number: Counts from 0.
        backend: What state and store lie on: `embedded` (SQLite and a directory) or `stack` (PostgreSQL and S3).
        fault: What happens; a method of `tests.faults.strikes.Strikes`.
        service: To whom; it is also killed and started anew before what was acknowledged is looked for.
        job: What is under way besides what all clients do: a training `run`, an `export`, or nothing if empty.
        after_s: Seconds from the beginning to the fault; if it needs workers, three times those from their start.
        lasts_s: Seconds until it is repaired.
    """

    number: int
    backend: str
    fault: str
    service: str
    job: str
    after_s: float
    lasts_s: float

    @property
    def needs_workers(self) -> bool:
        """Whether it strikes while workers train."""
        return self.fault in ("kill_worker", "pause") and self.service == "trainer"


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
        seed: Of all trials.
        number: Of this one.
        long: Let what is away stay away for up to half a minute.
    """
    block, place = divmod(number, len(_BLOCK))
    # By backend, since a mesh is started for each.
    order = sorted(random.Random(f"{seed}/{block}").sample(_BLOCK, len(_BLOCK)), key=lambda one: one[0] == STACK)
    backend, fault, service = order[place]
    chance = random.Random(f"{seed}/{block}/{place}")
    shortest_s, longest_s = _LASTS_S[fault]
    service = service or chance.choice(SERVICES)
    # What befalls the trainer is tried on what it does.
    job = "run" if service == "trainer" else chance.choices(("run", "export", ""), (4, 2, 4))[0]
    return Trial(
        number,
        backend,
        fault,
        service,
        job,
        chance.uniform(0, 6 if job else 2),
        chance.uniform(shortest_s, _LONG_S.get(fault, longest_s) if long else longest_s),
    )
