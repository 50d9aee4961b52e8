from collections.abc import Mapping

import pytest

from common.errors import FailedPrecondition
from deepseek.components import REGISTRIES, Components
from deepseek.descriptions import Description, Parameter, describe


def part(  # type: ignore[no-untyped-def]
    tensors: list[int], size: int, rate: "float | None" = 0.5, *, sides: Mapping[str, int] | None = None, kind=object
):
    """A part
    of something.

    It is
    an example.

    It has two paragraphs.

    Args:
        tensors: Given by the caller.
        size: Size in pixels,
            at least 1.
        rate: A rate: 0 to 1.

    Raises:
        ValueError: size: never described.

    >>> 1 + 1
    2
    """


@pytest.fixture
def parts() -> Components:
    parts = Components("part", "deepseek.nothing", given=("tensors",))
    parts.register("box", part)
    return parts


def test_a_description_has_what_the_signature_and_the_docstring_say(parts: Components) -> None:
    assert describe(parts, "box") == Description(
        "part",
        "box",
        "A part of something.",
        "It is an example.\n\nIt has two paragraphs.",
        (
            Parameter("size", "int", required=True, description="Size in pixels, at least 1."),
            Parameter("rate", "float | None", required=False, default=0.5, description="A rate: 0 to 1."),
            Parameter("sides", "Mapping[str, int] | None", required=False),
            Parameter("kind", "", required=False, default="<class 'object'>"),
        ),
    )


def test_a_part_without_signature_and_docstring_is_described_by_its_name(parts: Components) -> None:
    parts.register("nothing", type("Nothing", (), {"__doc__": None, "__signature__": "broken"}))
    assert describe(parts, "nothing") == Description("part", "nothing")


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_every_built_in_part_and_parameter_is_documented(registry: Components) -> None:
    for name in registry.names():
        try:
            found = describe(registry, name)
        except FailedPrecondition:  # of another package in this environment
            continue
        assert found.summary, name
        for parameter in found.parameters:
            assert parameter.description, f"{name}: {parameter.name}"
            assert parameter.type, f"{name}: {parameter.name}"
