"""What a search algorithm or pruner knows about the study for which it is built."""

from dataclasses import dataclass

from common.errors import InvalidArgument
from deepseek.search.space import Space


@dataclass(frozen=True)
class Context:
    """Argument of every factory of an algorithm or pruner.

    An algorithm is built anew for every suggestion, with another seed each time. Its state must therefore follow from
    the study: a recovered study then makes the same suggestions.

    Attributes:
        space: The search space.
        num_objectives: Number of objectives.
        seed: Seed of this suggestion, below 2^31.
        study_seed: Seed of the study, the same for all suggestions.
        num_ended: Number of trials that have ended.
    """

    space: Space
    num_objectives: int
    seed: int
    study_seed: int
    num_ended: int = 0


def check_at_most(bound: int, **numbers: int | None) -> None:
    """Checks parameters with which a sampler or pruner would take too much time or memory for a shared process.

    Args:
        bound: Largest value.
        **numbers: The parameters by name; None is valid.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the parameter as the field.
    """
    for name, value in numbers.items():
        if value is not None and value > bound:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be at most {bound}", field=name)
