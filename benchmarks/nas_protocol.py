"""The protocol of the benchmark of architecture search: search, tuning with equal minutes, and paired final trainings.

Everything up to `finals` sees training and validation images only. The two baselines get at least as many minutes of
tuning as the search and the tuning of its result took together. The width-scaled rival, in each of its two depths, and
each control get as many minutes of tuning as the searched network. All results are kept in a file, one per training, so
the process may end at any moment.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from itertools import count
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.clock import Clock
from benchmarks.nas_images import divided
from benchmarks.nas_networks import Network, ResNetSpec, build, cost, width_scaled
from benchmarks.nas_training import RECIPES, Recipe, Size, as_json, train, unpacked
from deepseek.nas.conv_space import ConvSpace, ConvSpec
from deepseek.nas.records import Records
from deepseek.nas.search import Problem, Search
from deepseek.nas.search_settings import Settings
from deepseek.nas.trainings import Training

RESNETS = {"resnet8": ResNetSpec(1), "resnet14": ResNetSpec(2)}
CONTROLS = ("random", "most_parameters", "most_macs")
PROXY_BATCH = 32
NUM_DRAWS = 4_000
SHARE_OF_PARAMETERS = 0.64
"""Limit of the search: parameters of a network relative to those of the baseline."""


@dataclass(frozen=True)
class Plan:
    """How much is measured on one data set.

    Attributes:
        size: Data set and numbers of images.
        units: Length of the trainings by which networks are tuned and compared, in units of `size`.
        settings: Settings of the search, without a limit on parameters. Epochs in it are units of `size`.
        tuning_s: Seconds of tuning of the searched network, of the width-scaled rival in each of its depths, and of
            each control.
        baseline_s: Seconds of tuning of each residual network; more if the search takes longer. With 0, one batch of
            recipes is tried, however long the search takes.
        num_recipes: Number of recipes among which a network is tuned, the first ones of `RECIPES`.
        num_seeds: Number of paired final trainings of each network.
        num_control_seeds: The same for each control.
    """

    size: Size
    units: int
    settings: Settings
    tuning_s: float
    baseline_s: float
    num_recipes: int
    num_seeds: int
    num_control_seeds: int


@dataclass(frozen=True)
class Tuned:
    """A network with the recipe that suits it best.

    Attributes:
        network: The network.
        recipe: The recipe.
        accuracy: Its accuracy on validation images, mean over the trainings with that recipe.
        seconds: How long the tuning took.
    """

    network: Network
    recipe: Recipe
    accuracy: float
    seconds: float


class Protocol:
    """Carries out a plan.

    Args:
        plan: The plan.
        space: Space of the search.
        records: Results so far.
        pool: Processes that train, each with one thread.
        num_workers: Number of these processes.
        report: Function that is called with a line of text after each training.
    """

    def __init__(
        self,
        plan: Plan,
        space: ConvSpace,
        records: Records,
        pool: futures.Executor,
        num_workers: int,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._plan = plan
        self._space = space
        self._records = records
        self._pool = pool
        self._num_workers = num_workers
        self._report = report

    def baseline(self, seconds: float) -> Tuned:
        """Tunes the residual networks, each for a number of seconds, and returns the better one."""
        return better([self.tune(network, seconds) for network in RESNETS.values()])

    def searched(self, max_parameters: int, *, kind: str = "search") -> tuple[Tuned, float]:
        """Returns the network that a search finds, tuned, and how many seconds both took.

        The seconds are those of all processes that did this work. What an interruption lost counts, too.

        Args:
            max_parameters: Limit of the search.
            kind: `search`, or `random` for the control without proxies and evolution.
        """
        key = [kind, max_parameters]
        if not self._records.has("searched", key):
            with Clock(self._records, key) as clock:
                found = self._search(max_parameters)
                outcome = found.run_random() if kind == "random" else found.run()
                network = outcome.finalists[0].spec
                self.tune(network, self._plan.tuning_s)
            self._records.put("searched", key, {"network": network.to_json(), "seconds": clock.seconds})
        stored = self._records.get("searched", key)
        return self.tune(ConvSpec.from_json(stored["network"]), self._plan.tuning_s), stored["seconds"]

    def best_by(self, proxy: str, max_parameters: int) -> Tuned:
        """Returns the network of the pool with the highest score under one proxy, tuned: a control without a search."""
        found = self._search(max_parameters)
        network = found.pool[int(np.argmax(found.scores(found.pool)[proxy]))]
        return self.tune(network, self._plan.tuning_s)

    def rival(self, parameters: int) -> Tuned:
        """Returns the width-scaled residual network with at least as many parameters, tuned.

        Both depths are tuned, each for as long as the searched network. The one with the higher accuracy on validation
        images is returned.
        """
        scaled = [width_scaled(one.num_blocks, parameters) for one in RESNETS.values()]
        return better([self.tune(network, self._plan.tuning_s) for network in scaled])

    def tune(self, network: Network, seconds: float) -> Tuned:
        """Tunes the recipe of a network on validation images.

        All recipes are tried once, then the better half of them once more, and so on until the time is over. The recipe
        with the best mean is chosen among those that were tried most often.

        Args:
            network: The network.
            seconds: Time for tuning; at least one batch of recipes is tried. The time of a training counts by the share
                of the workers that it occupies, so it does not depend on interruptions.
        """
        left, scores, spent = list(RECIPES[: self._plan.num_recipes]), dict[Recipe, list[float]](), 0.0
        for seed in count():
            for start in range(0, len(left), self._num_workers):
                if spent < seconds or not scores:
                    batch = left[start : start + self._num_workers]
                    spent += self._tune_batch(network, batch, seed, scores)
            if spent >= seconds:
                break
            left = sorted(left, key=lambda recipe: -fmean(scores[recipe]))[: max(1, len(left) // 2)]
        most = max(len(some) for some in scores.values())
        tried = {recipe: fmean(some) for recipe, some in scores.items() if len(some) == most}
        best = max(tried, key=lambda recipe: tried[recipe])
        return Tuned(network, best, tried[best], spent)

    def _tune_batch(
        self, network: Network, batch: Sequence[Recipe], seed: int, scores: dict[Recipe, list[float]]
    ) -> float:
        """Adds the accuracies of a batch of recipes to the scores, and returns how many seconds the batch took."""
        jobs = [(network, recipe, self._plan.units, seed) for recipe in batch]
        found = dict(self._trained(jobs, "validation"))
        for job in jobs:
            scores.setdefault(job[1], []).append(found[job]["accuracy"])
        return float(sum(one["seconds"] for one in found.values())) / self._num_workers

    def finals(self, chosen: Mapping[str, Tuned]) -> dict[str, npt.NDArray[np.bool_]]:
        """Trains every network with the same seeds, and returns which test images they classify correctly.

        The seeds were not used before. The controls are trained with the first few of them.

        Args:
            chosen: The networks by name.

        Returns:
            For each name, booleans of shape [seeds, images].
        """
        seeds = {
            name: range(1_000, 1_000 + (self._plan.num_control_seeds if name in CONTROLS else self._plan.num_seeds))
            for name in chosen
        }
        jobs = {
            (name, seed): (one.network, one.recipe, self._plan.units, seed)
            for seed in range(1_000, 1_000 + self._plan.num_seeds)
            for name, one in chosen.items()
            if seed in seeds[name]
        }
        found = dict(self._trained(list(dict.fromkeys(jobs.values())), "test"))
        number = self._plan.size.num_evaluated
        return {
            name: np.stack([unpacked(found[jobs[name, seed]]["correct"], number) for seed in seeds[name]])
            for name in chosen
        }

    def _search(self, max_parameters: int) -> Search[ConvSpec]:
        images = divided(self._plan.size.data)["train"]
        batch = images.collate(list(range(PROXY_BATCH)))["image"]
        problem = Problem(
            self._space,
            cost,
            build,
            {"image": batch.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)},
            self._train,
        )
        settings = replace(self._plan.settings, max_parameters=max_parameters)
        return Search(problem, settings, records=self._records)

    def _train(self, trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        """Trains networks for the search, all with the first recipe."""
        by_job = {(one.spec, RECIPES[0], one.epochs, one.seed): one for one in trainings}
        for job, found in self._trained(list(by_job), "validation"):
            yield by_job[job], found["accuracy"]

    def _trained(
        self, jobs: Sequence[tuple[Any, Recipe, int, int]], part: str
    ) -> Iterator[tuple[tuple[Any, Recipe, int, int], dict[str, Any]]]:
        """Trains networks in parallel, and yields each job with its record."""
        under_way = {}
        for job in jobs:
            network, recipe, epochs, seed = job
            arguments = (network.to_json(), as_json(recipe), as_json(self._plan.size), epochs, seed, part)
            if self._records.has("training", arguments):
                yield job, self._records.get("training", arguments)
            else:
                under_way[self._pool.submit(train, *arguments)] = (job, arguments)
        for done in futures.as_completed(under_way):
            job, arguments = under_way[done]
            record = done.result()
            self._records.put("training", arguments, record)
            self._report(
                f"{self._plan.size.data}: {part} accuracy {record['accuracy']:.4f} of {cost(job[0]).parameters:,} "
                f"parameters after {record['seconds']:.0f} s"
            )
            yield job, record


def better(tuned: Iterable[Tuned]) -> Tuned:
    """Returns the network with the highest accuracy on validation images."""
    return max(tuned, key=lambda one: one.accuracy)


def gain(ours_SN: npt.NDArray[np.bool_], theirs_SN: npt.NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Returns by how many points one network is more accurate than another, with a 95 % confidence interval.

    The interval comes from a paired bootstrap over seeds and test images: it covers other seeds of the final trainings
    and other test images. It does not cover another search, another tuning or other training images.

    Args:
        ours_SN: For each seed and image, whether our network is right.
        theirs_SN: The same for the other network, with the same seeds and images.
    """
    differences_SN = ours_SN.astype(np.float64) - theirs_SN
    num_seeds, num_images = differences_SN.shape
    rng = np.random.default_rng(0)
    means = []
    for _ in range(NUM_DRAWS):
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds))
        images = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        means.append(100 * float(seeds @ (differences_SN @ images)) / (num_seeds * num_images))
    low, high = np.quantile(means, [0.025, 0.975])
    return 100 * float(differences_SN.mean()), [float(low), float(high)]
