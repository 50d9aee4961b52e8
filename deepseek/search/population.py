"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): who copies whom, and with which new values.

The members of a population train at the same time. Every few epochs, each member is compared with the others at the
same epoch. A member of the worst share continues with the weights of a random member of the best share (exploit,
truncation selection), and with perturbed values of that member's parameters (explore). Unlike in the paper, members are
not compared at their newest epochs, so a member that started late does not always lose. Every random choice follows
from the seed of the study, the number of the trial and the epoch.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import InvalidArgument
from deepseek.search.space import FloatRange, IntegerRange
from deepseek.trainjob.spec_parts import Component

ALGORITHM = "pbt"
MAX_POPULATION = 64
STEERED = {
    ("optimizer", "params", "lr"): "learning_rate",
    ("optimizer", "params", "momentum"): "momentum",
    ("optimizer", "params", "betas", 0): "momentum",
}
"""The fields of a run spec that can be changed while the run trains, and what changes."""


@dataclass(frozen=True)
class PopulationSettings:
    """Parameters of the algorithm `pbt`.

    Attributes:
        population: Number of members.
        interval: Number of epochs between the decisions about a member.
        quantile: Share of the members that counts as the worst, and as the best.
        factors: Factors by which values are perturbed, each with the same probability.
    """

    population: int = 8
    interval: int = 1
    quantile: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)

    @classmethod
    def of(cls, algorithm: Component) -> "PopulationSettings | None":
        """Returns the settings of a study whose algorithm is `pbt`; None for other algorithms."""
        if algorithm.name != ALGORITHM:
            return None
        given = dict(algorithm.params)
        for name in ("population", "interval"):
            if name in given:
                given[name] = int(given[name])
        if "factors" in given:
            given["factors"] = tuple(given["factors"])
        return cls(**given)

    def check(self) -> None:
        """Checks the settings.

        Raises:
            InvalidArgument: BAD_VALUE, with the name of the parameter as the field.
        """
        bounds = {
            "population": (2 <= self.population <= MAX_POPULATION, f"from 2 to {MAX_POPULATION}"),
            "interval": (self.interval >= 1, "at least 1"),
            "quantile": (0 < self.quantile <= 0.5, "above 0 and at most 0.5"),
            "factors": (
                bool(self.factors) and all(math.isfinite(one) and one > 0 for one in self.factors),
                "a list of finite numbers above 0",
            ),
        }
        for name, (is_valid, what) in bounds.items():
            if not is_valid:
                message = f"{name} is {getattr(self, name)}; it must be {what}"
                raise InvalidArgument("BAD_VALUE", message, field=name)

    def is_due(self, epoch: int, num_epochs: int) -> bool:
        """Returns whether a decision about a member is due after an epoch. After the last one, none is."""
        return epoch % self.interval == 0 and epoch < num_epochs

    def choose_source(self, seed: int, number: int, epoch: int, scores: Mapping[int, float]) -> int | None:
        """Returns the member whose weights a member copies; None if it continues with its own.

        Args:
            seed: Seed of the study.
            number: Number of the member's trial.
            epoch: Epoch at which the members are compared.
            scores: Scores of all members, greater is better, by number of the trial. NaN is the worst.

        >>> settings = PopulationSettings(quantile=0.25)
        >>> scores = {1: 0.9, 2: 0.5, 3: 0.6, 4: 0.7}
        >>> settings.choose_source(0, 2, 1, scores), settings.choose_source(0, 3, 1, scores)
        (1, None)
        """
        ranked = sorted(scores, key=lambda one: (-math.inf if math.isnan(scores[one]) else scores[one], -one))
        count = max(1, int(self.quantile * len(ranked)))
        if 2 * count > len(ranked) or number not in ranked[:count]:
            return None
        best = [one for one in ranked[-count:] if not math.isnan(scores[one])]
        return _random(seed, number, epoch).choice(best) if best else None

    def perturbed(
        self,
        seed: int,
        number: int,
        epoch: int,
        values: Mapping[str, float],
        domains: Mapping[str, FloatRange | IntegerRange],
    ) -> dict[str, float]:
        """Returns perturbed values of parameters, within their ranges.

        Args:
            seed: Seed of the study.
            number: Number of the member's trial.
            epoch: Epoch at which the members were compared.
            values: Values of the member whose weights are copied, by name of the parameter.
            domains: Ranges of the parameters.
        """
        source = _random(seed, number, epoch)
        source.random()  # the first number has chosen the member
        return {
            name: min(max(values[name] * source.choice(self.factors), domain.low), domain.greatest)
            for name, domain in sorted(domains.items())
        }


def _random(seed: int, number: int, epoch: int) -> random.Random:
    return random.Random(f"{seed}/{number}/{epoch}")
