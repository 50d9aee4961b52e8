"""Architecture search: a proxy filter, then NSGA-II, then successive halving.

Random networks within the limits are ranked by zero-cost proxies; the best ones are the first population of NSGA-II.
The most accurate networks after a short training go through successive halving. A search is a function of its seed and
of the results of its trainings. Results are kept in a file, so a search that was interrupted repeats its steps without
repeating trainings, and ends with the same finalists.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition
from deepseek.nas import proxies
from deepseek.nas.cost import latencies_ms
from deepseek.nas.evolution import Evolution, Proposal
from deepseek.nas.halving import Rung, successive_halving
from deepseek.nas.records import Records
from deepseek.nas.search_settings import OBJECTIVES, Settings
from deepseek.nas.space import Cost, Space, SpecT
from deepseek.nas.trainings import Training, Trainings

_DRAWS_PER_NETWORK = 200
_ASKS_PER_PROPOSAL = 10
_LATENCY_ROUNDS = 50


@dataclass(frozen=True)
class Problem(Generic[SpecT]):
    """What a search is about.

    Attributes:
        space: Space of the networks. Its specs have a method `to_json`.
        cost: Function that returns the cost of a network.
        build: Function that builds a network, with weights from torch's global generator.
        batch: Inputs by name, at least two samples: floating-point, or integers if `proxies` has neither `synflow` nor
            `naswot`. For `naswot` and latency.
        train: Function that trains networks and yields each training with its accuracy on validation data, in any
            order; NaN if it failed. A failed training is repeated only if the search is started again.
        key: Text that identifies the data and the settings of the trainings, so that results of other data in the same
            file are not used.
    """

    space: Space[SpecT]
    cost: Callable[[SpecT], Cost]
    build: Callable[[SpecT], nn.Module]
    batch: Mapping[str, Tensor]
    train: Callable[[Sequence[Training[SpecT]]], Iterable[tuple[Training[SpecT], float]]]
    key: str = ""


@dataclass(frozen=True)
class Finalist(Generic[SpecT]):
    """A network of the last rung.

    Attributes:
        spec: The network.
        cost: What it costs.
        accuracy: Its accuracy on validation data in the last rung, mean over the repeats.
    """

    spec: SpecT
    cost: Cost
    accuracy: float


@dataclass(frozen=True)
class Evaluated(Generic[SpecT]):
    """A network whose short training succeeded.

    Attributes:
        spec: The network.
        cost: What it costs.
        accuracy: Its accuracy on validation data after the short training.
        latency: Its latency relative to that of the first network of the pool; None if it was not measured.
    """

    spec: SpecT
    cost: Cost
    accuracy: float
    latency: float | None = None


@dataclass(frozen=True)
class Outcome(Generic[SpecT]):
    """Result of a search.

    Attributes:
        finalists: Networks of the last rung, the most accurate first.
        front: Networks that no other network of NSGA-II dominates, with the values of the objectives.
        num_trainings: Number of trainings, those before an interruption included.
        evaluated: All networks whose short training succeeded, in the order of their proposal.
    """

    finalists: tuple[Finalist[SpecT], ...]
    front: tuple[tuple[SpecT, tuple[float, ...]], ...] = field(default=())
    num_trainings: int = 0
    evaluated: tuple[Evaluated[SpecT], ...] = field(default=())


@dataclass(frozen=True)
class Progress:
    """Progress of a search.

    Attributes:
        stage: `filter`, `evolution` or `halving`.
        done: Number of networks or trainings of the stage that are done.
        total: Their number.
    """

    stage: str
    done: int
    total: int


class Search(Generic[SpecT]):
    """A search for an architecture. Not thread-safe.

    Args:
        problem: What the search is about.
        settings: Settings.
        records: Results of earlier trainings, to which new ones are added; None to start without.
        on_progress: Function that is called after each network of the filter and each training.
    """

    def __init__(
        self,
        problem: Problem[SpecT],
        settings: Settings,
        *,
        records: Records | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._problem = problem
        self._settings = settings
        self._records = records or Records(None)
        self._on_progress = on_progress
        self._trainings = Trainings(problem.train, problem.key, self._records)

    def run(self) -> Outcome[SpecT]:
        """Searches for a network.

        1. The pool of random networks is ranked by the proxies. The best ones are the first population.
        2. NSGA-II evolves the population over the objectives, after a short training of each network. Of several
           children per place, the one with the best proxies is trained.
        3. The most accurate networks go through successive halving. Its last rung holds the finalists.

        Raises:
            FailedPrecondition: NOTHING_FITS if the space has hardly any network within the limits; NOTHING_TRAINED if
                every training of NSGA-II failed.
        """
        settings = self._settings
        first = self._best_by_proxies(self.pool, settings.population)
        evolution = Evolution(
            self._problem.space,
            maximized=[OBJECTIVES[name] for name in settings.objectives],
            population=max(2, settings.population),
            seed=settings.seed,
            first=first,
        )
        evaluated: dict[SpecT, Evaluated[SpecT]] = {}
        for generation in range(settings.generations):
            chosen = self._proposals(evolution, generation, evaluated)
            specs = [proposal.spec for proposal in chosen]
            done = generation * settings.population
            found = self._train(specs, Rung(1, settings.epochs), ("evolution", done, self._num_evolved))
            for proposal, one in zip(chosen, self._evaluated(specs, found), strict=True):
                evaluated[one.spec] = one
                evolution.tell(proposal, self._objectives(one))
        return self._halve(evaluated.values(), tuple(evolution.front()))

    def run_random(self) -> Outcome[SpecT]:
        """Searches without proxies and evolution: as many random networks are trained, then the same halving follows.

        This is the control that a search has to beat. Arguments, results and errors are as for `run`.
        """
        rng = np.random.default_rng(self._settings.seed)
        specs = self._draw(rng, self._num_evolved)
        found = self._train(specs, Rung(1, self._settings.epochs), ("evolution", 0, len(specs)))
        return self._halve(
            [Evaluated(spec, self._problem.cost(spec), one) for spec, one in zip(specs, found, strict=True)], ()
        )

    @cached_property
    def pool(self) -> list[SpecT]:
        """The random networks within the limits, of which the proxies choose the first population."""
        return self._draw(np.random.default_rng(self._settings.seed), self._settings.pool)

    def scores(self, specs: Sequence[SpecT]) -> dict[str, list[float]]:
        """Returns the scores of networks under every proxy of the settings."""
        rows = []
        for spec in specs:
            rows.append(self._records.get_or("proxies", self._proxies_key(spec), partial(self._scores, spec)))
            self._on_progress(Progress("filter", len(rows), len(specs)))
        return {name: [row[name] for row in rows] for name in self._settings.proxies}

    @property
    def _num_evolved(self) -> int:
        return self._settings.population * self._settings.generations

    def _fits(self, spec: SpecT) -> bool:
        cost, settings = self._problem.cost(spec), self._settings
        return cost.parameters <= (settings.max_parameters or cost.parameters) and cost.macs <= (
            settings.max_macs or cost.macs
        )

    def _draw(self, rng: np.random.Generator, number: int) -> list[SpecT]:
        """Returns up to a number of distinct random networks within the limits."""
        found: dict[SpecT, None] = {}
        for _ in range(_DRAWS_PER_NETWORK * number):
            spec = self._problem.space.sample(rng)
            if self._fits(spec):
                found[spec] = None
            if len(found) == number:
                break
        if len(found) < 2:
            message = (
                f"of {_DRAWS_PER_NETWORK * number:,} random networks, {len(found)} are within the limits; raise "
                "max_parameters or max_macs, or add smaller choices to the space"
            )
            raise FailedPrecondition("NOTHING_FITS", message)
        return list(found)

    def _proxies_key(self, spec: SpecT) -> Any:
        return {**self._key(spec), "proxies": self._settings.proxies, "seed": self._settings.seed}

    def _key(self, spec: Any) -> dict[str, Any]:
        return {"problem": self._problem.key, "spec": spec.to_json()}

    def _build(self, spec: SpecT) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._settings.seed)
            return self._problem.build(spec)

    def _scores(self, spec: SpecT) -> dict[str, float]:
        cost = self._problem.cost(spec)
        found: dict[str, float] = {"parameters": cost.parameters, "macs": cost.macs}
        if {"synflow", "naswot"} & set(self._settings.proxies):
            model = self._build(spec)
            found["synflow"] = proxies.synflow(model, self._problem.batch)
            found["naswot"] = proxies.naswot(model, self._problem.batch)
        return found

    def _best_by_proxies(self, specs: Sequence[SpecT], number: int) -> list[SpecT]:
        order = np.argsort(-proxies.rank_sum(self.scores(specs)), kind="stable")
        return [specs[i] for i in order[:number]]

    def _proposals(
        self, evolution: Evolution[SpecT], generation: int, known: Collection[SpecT]
    ) -> list[Proposal[SpecT]]:
        """Returns the proposals of a generation that are to be trained: new, within the limits, best by proxies."""
        settings = self._settings
        proposals: dict[SpecT, Proposal[SpecT]] = {}
        wanted = settings.population * (settings.offspring if generation else 1)
        for _ in range(_ASKS_PER_PROPOSAL * wanted):
            if len(proposals) == wanted:
                break
            proposal = evolution.ask()
            if proposal.spec in known or proposal.spec in proposals or not self._fits(proposal.spec):
                evolution.refuse(proposal)
            else:
                proposals[proposal.spec] = proposal
        chosen = self._best_by_proxies(list(proposals), settings.population) if proposals else []
        for spec, proposal in proposals.items():
            if spec not in chosen:
                evolution.refuse(proposal)
        return [proposals[spec] for spec in chosen]

    def _evaluated(self, specs: Sequence[SpecT], accuracies: Sequence[float]) -> list[Evaluated[SpecT]]:
        measured = "latency" in self._settings.objectives
        latencies = self._latencies(specs) if measured else [None] * len(specs)
        return [
            Evaluated(spec, self._problem.cost(spec), accuracy, latency)
            for spec, accuracy, latency in zip(specs, accuracies, latencies, strict=True)
        ]

    def _objectives(self, one: Evaluated[SpecT]) -> list[float]:
        values = {
            "accuracy": one.accuracy,
            "parameters": one.cost.parameters,
            "macs": one.cost.macs,
            "latency": one.latency,
        }
        return [float(value) for name in self._settings.objectives if (value := values[name]) is not None]

    def _latencies(self, specs: Sequence[SpecT]) -> list[float]:
        """Returns the latencies of networks, relative to that of the first network of the pool."""
        reference = self.pool[0]

        def key(spec: SpecT) -> Any:
            return {**self._key(spec), "reference": self._key(reference)["spec"]}

        missing = [spec for spec in specs if not self._records.has("latency", key(spec))]
        if missing:
            models = [self._build(spec) for spec in (reference, *missing)]
            first, *others = latencies_ms(models, self._problem.batch, num_rounds=_LATENCY_ROUNDS)
            for spec, latency in zip(missing, others, strict=True):
                self._records.put("latency", key(spec), latency / first)
        return [self._records.get("latency", key(spec)) for spec in specs]

    def _train(self, specs: Sequence[SpecT], rung: Rung, progress: tuple[str, int, int]) -> list[float]:
        stage, before, total = progress
        return self._trainings.accuracies(
            specs, rung, lambda done: self._on_progress(Progress(stage, before + done, total))
        )

    def _halve(
        self, evaluated: Iterable[Evaluated[SpecT]], front: tuple[tuple[SpecT, tuple[float, ...]], ...]
    ) -> Outcome[SpecT]:
        trained = tuple(one for one in evaluated if np.isfinite(one.accuracy))
        candidates = [one.spec for one in sorted(trained, key=lambda one: -one.accuracy)]
        if not candidates:
            message = "every training failed, so there is nothing to choose from; try one network by hand"
            raise FailedPrecondition("NOTHING_TRAINED", message)
        rungs = self._settings.rungs
        total, done = sum(min(rung.entrants, len(candidates)) * rung.repeats for rung in rungs), 0

        def score(specs: Sequence[SpecT], rung: Rung) -> list[float]:
            nonlocal done
            found = self._train(specs, rung, ("halving", done, total))
            done += len(specs) * rung.repeats
            return found

        ranked = successive_halving(candidates, rungs, score)
        finalists = tuple(
            Finalist(spec, self._problem.cost(spec), accuracy) for spec, accuracy in ranked if np.isfinite(accuracy)
        )
        if not finalists:
            message = "the trainings of all finalists failed; repeat the search, which then trains only them again"
            raise FailedPrecondition("NOTHING_TRAINED", message)
        return Outcome(finalists, front, len(self._trainings.asked), trained)
