"""What all spaces of architectures have in common: genes, which random search and genetic search vary.

A space describes a network with a fixed number of genes, and each gene has a few choices. So sampling, mutation and
crossover are the same for all spaces, and every combination of choices is a valid network.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from common.errors import InvalidArgument

Gene = int | str | bool
Genes = dict[str, Gene]
SpecT = TypeVar("SpecT")


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Number of trained parameters.
        macs: Number of multiply-accumulate operations of convolutions and matrix products for one sample.
    """

    parameters: int
    macs: int


class Space(ABC, Generic[SpecT]):
    """A space of architectures. Immutable, so thread-safe."""

    @abstractmethod
    def choices(self) -> Mapping[str, tuple[Gene, ...]]:
        """Returns the choices of every gene, by the name of the gene; always in the same order."""

    @abstractmethod
    def spec(self, genes: Mapping[str, Any]) -> SpecT:
        """Returns the network that genes describe."""

    @abstractmethod
    def genes(self, spec: SpecT) -> Genes:
        """Returns genes that describe a network of the space. A gene without an effect has its first choice.

        Raises:
            InvalidArgument: NOT_IN_SPACE if the space does not contain the network.
        """

    @property
    def size(self) -> int:
        """Number of combinations of genes. Combinations that differ only in genes without an effect count apart."""
        return math.prod(len(values) for values in self.choices().values())

    def sample(self, rng: np.random.Generator) -> SpecT:
        """Returns a random network: every gene has a random choice."""
        return self.spec({name: _pick(values, rng) for name, values in self.choices().items()})

    def mutate(self, spec: SpecT, rng: np.random.Generator, *, rate: float = 0.1) -> SpecT:
        """Returns a network that differs in at least one gene, unless the space has only one network.

        Args:
            spec: Network of the space.
            rng: Source of random numbers.
            rate: Probability that a gene gets another choice, besides the one gene that always does.
        """
        genes, choices = self.genes(spec), self.choices()
        open_genes = [name for name, values in choices.items() if len(values) > 1]
        found = spec
        for _ in range(1000 if open_genes else 0):  # a changed gene may have no effect
            changed = {name for name in open_genes if rng.random() < rate} | {str(rng.choice(open_genes))}
            others = {name: tuple(value for value in choices[name] if value != genes[name]) for name in sorted(changed)}
            found = self.spec({**genes, **{name: _pick(values, rng) for name, values in others.items()}})
            if found != spec:
                break
        return found

    def crossover(self, one: SpecT, other: SpecT, rng: np.random.Generator) -> SpecT:
        """Returns a network that has each gene from one of two networks, with equal probability."""
        first, second = self.genes(one), self.genes(other)
        return self.spec({name: (first if rng.random() < 0.5 else second)[name] for name in self.choices()})

    def _checked(self, genes: Genes) -> Genes:
        """Returns the genes of a spec after checking that the space has them."""
        for name, values in self.choices().items():
            if genes[name] not in values:
                message = f"{name} is {genes[name]!r}; the space has only: {', '.join(map(str, values))}"
                raise InvalidArgument("NOT_IN_SPACE", message, field=name)
        return genes


def _pick(values: tuple[Gene, ...], rng: np.random.Generator) -> Gene:
    return values[int(rng.integers(len(values)))]


def check_choices(choices: Mapping[str, tuple[Any, ...]]) -> None:
    """Checks that every gene has a choice, and none twice.

    Raises:
        InvalidArgument: BAD_VALUE at the gene.
    """
    for name, values in choices.items():
        if not values or len(set(values)) < len(values):
            message = f"{name} has the choices {values}; give at least one, and none twice"
            raise InvalidArgument("BAD_VALUE", message, field=name)
