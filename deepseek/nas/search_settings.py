"""Settings of an architecture search, checked when they are made."""

from dataclasses import dataclass

from common.errors import InvalidArgument
from deepseek.nas.halving import Rung, check_rungs

OBJECTIVES = {"accuracy": True, "parameters": False, "macs": False, "latency": False}
"""Objectives of NSGA-II, and whether more is better. `latency` is relative to that of the first network measured."""
PROXIES = ("synflow", "naswot", "parameters", "macs")


@dataclass(frozen=True)
class Settings:
    """Settings of a search.

    Attributes:
        pool: Number of random networks that the proxies rank.
        population: Number of networks of a generation of NSGA-II.
        generations: Number of generations.
        offspring: Number of children per place of a generation, of which the proxies choose one.
        epochs: Epochs of a training in NSGA-II.
        rungs: Rungs of successive halving.
        objectives: Objectives of NSGA-II, from `OBJECTIVES`.
        proxies: Proxies of the filter, from `PROXIES`; their ranks are added.
        max_parameters: Largest number of parameters of a network; 0 for no limit.
        max_macs: Largest number of operations of a network; 0 for no limit.
        seed: Seed of all random choices.
    """

    pool: int = 256
    population: int = 16
    generations: int = 4
    offspring: int = 4
    epochs: int = 2
    rungs: tuple[Rung, ...] = (Rung(12, 5), Rung(4, 10, 2))
    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    proxies: tuple[str, ...] = PROXIES
    max_parameters: int = 0
    max_macs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pool", "population", "generations", "offspring", "epochs"):
            if getattr(self, name) < 1:
                message = f"{name} is {getattr(self, name)}; it must be at least 1"
                raise InvalidArgument("BAD_VALUE", message, field=name)
        for name in ("max_parameters", "max_macs"):
            if getattr(self, name) < 0:
                message = f"{name} is {getattr(self, name)}; it must be at least 0"
                raise InvalidArgument("BAD_VALUE", message, field=name)
        check_rungs(self.rungs)
        for name, known in (("objectives", tuple(OBJECTIVES)), ("proxies", PROXIES)):
            given = getattr(self, name)
            if not given or not set(given) <= set(known) or len(set(given)) < len(given):
                message = f"{name} is {given}; use some of: {', '.join(known)}"
                raise InvalidArgument("BAD_VALUE", message, field=name)
        if "accuracy" not in self.objectives:
            raise InvalidArgument("BAD_VALUE", "objectives must include accuracy", field="objectives")
