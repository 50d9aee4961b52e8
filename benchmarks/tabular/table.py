"""Reads the learning curves of the tabular benchmark.

>>> table = read_table()
>>> len(table.curves), table.num_epochs
(288, 16)
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.tabular.network import Configuration

CURVES = Path(__file__).with_name("curves.json")


@dataclass(frozen=True)
class Curve:
    """How one network learned, with one value per epoch.

    Attributes:
        accuracies: Share of the validation images whose class was recognized.
        losses: Mean cross-entropy on the validation images; NaN if it was not finite.
        seconds: Processor time of the training and validation.
    """

    accuracies: tuple[float, ...]
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Table:
    """The curves of all configurations.

    Attributes:
        space: Values of each hyperparameter, in ascending order.
        curves: Curve of each combination of these values.
        num_epochs: Number of epochs for which each network was trained.
    """

    space: Mapping[str, tuple[float, ...]]
    curves: Mapping[Configuration, Curve]
    num_epochs: int

    def curve(self, parameters: Mapping[str, Any]) -> Curve:
        """Returns the curve of a configuration.

        Raises:
            KeyError: No network was trained with these values.
        """
        return self.curves[Configuration(**parameters)]


def configurations(space: Mapping[str, tuple[float, ...]]) -> Iterator[Configuration]:
    """Yields all combinations of the values of the hyperparameters; the last hyperparameter changes fastest."""
    for values in product(*space.values()):
        yield Configuration(**dict(zip(space, values, strict=True)))  # type: ignore[arg-type]


def read_table(path: Path = CURVES) -> Table:
    """Returns the curves that `benchmarks.tabular.train` has written."""
    data = json.loads(path.read_text(encoding="utf-8"))
    space = {name: tuple(values) for name, values in data["space"].items()}
    curves = {
        configuration: Curve(
            tuple(right / data["num_validation"] for right in curve["num_right"]),
            tuple(math.nan if loss is None else loss for loss in curve["loss"]),
            curve["seconds"],
        )
        for configuration, curve in zip(configurations(space), data["curves"], strict=True)
    }
    return Table(space, curves, data["num_epochs"])


def write_table(
    path: Path, about: Mapping[str, Any], space: Mapping[str, tuple[float, ...]], curves: list[Any]
) -> None:
    """Writes the curves of all configurations, in the order of `configurations`, one per line.

    Args:
        path: File to write.
        about: What is the same for all curves: `num_epochs`, `num_validation`, and how they were made.
        space: Values of each hyperparameter.
        curves: Results of `learning_curve`.
    """
    assert len(curves) == sum(1 for _ in configurations(space))
    head = json.dumps({**about, "space": space}, indent=2).removesuffix("\n}")
    lines = ",\n".join(f"    {json.dumps(curve, separators=(',', ':'))}" for curve in curves)
    path.write_text(f'{head},\n  "curves": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def key_of(configuration: Configuration) -> str:
    """Returns a text that identifies a configuration, e.g. for progress files."""
    return json.dumps(asdict(configuration))
