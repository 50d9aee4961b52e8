"""What holds for every space of architectures."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InvalidArgument
from deepseek.nas.conv_space import ConvSpace, ConvSpec, StageChoices
from deepseek.nas.cost import measured_cost
from deepseek.nas.transformer_space import TransformerSpace, TransformerSpec
from tests.deepseek.nas.networks import CONV, SPACES, TRANSFORMERS, build, conv_spec

each_space = pytest.mark.parametrize(
    "space", SPACES, ids=["conv", "transformers", "conv default", "transformers default"]
)


def relatives(space: Any, number: int) -> list[Any]:
    """Sampled, mutated and crossed networks."""
    rng = np.random.default_rng(0)
    found = [space.sample(rng) for _ in range(number)]
    found += [space.mutate(one, rng) for one in found[:number]]
    return found + [space.crossover(found[i], found[-1 - i], rng) for i in range(number)]


@each_space
def test_a_spec_survives_json_and_genes(space: Any) -> None:
    for spec in relatives(space, 20):
        assert type(spec).from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert space.spec(space.genes(spec)) == spec
        as_struct = json.loads(json.dumps(spec.to_json()), parse_int=float)
        assert type(spec).from_json(as_struct) == spec


@pytest.mark.parametrize("space", [CONV, TRANSFORMERS], ids=["conv", "transformers"])
def test_every_network_has_the_parameters_and_operations_that_its_spec_counts(space: Any) -> None:
    for spec in relatives(space, 25):
        model = build(spec)
        if isinstance(spec, ConvSpec):
            sample, cost = {"image": torch.zeros(1, 9, 7, 1, dtype=torch.uint8)}, spec.cost(3, 1, 9, 7)
        else:
            sample, cost = {"text": torch.zeros(1, 5, dtype=torch.int64)}, spec.cost(11, 5)
        assert measured_cost(model, sample) == cost, spec


def test_networks_of_the_default_spaces_have_the_counted_costs() -> None:
    for spec in relatives(ConvSpace(), 4):
        assert measured_cost(build(spec), {"image": torch.zeros(1, 28, 28, 1, dtype=torch.uint8)}) == spec.cost(
            3, 1, 28, 28
        )


@each_space
def test_a_mutation_differs_and_stays_in_the_space(space: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        spec = space.sample(rng)
        mutated = space.mutate(spec, rng, rate=0.0)
        assert mutated != spec
        before, after = space.genes(spec), space.genes(mutated)
        assert all(after[name] in values for name, values in space.choices().items())
        if isinstance(spec, ConvSpec):
            assert sum(before[name] != after[name] for name in before) == 1


@each_space
def test_a_crossing_has_every_gene_from_a_parent(space: Any) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        one, other = space.sample(rng), space.sample(rng)
        first, second = space.genes(one), space.genes(other)
        choices = space.choices()
        for name, value in space.genes(space.crossover(one, other, rng)).items():
            assert value in (first[name], second[name], choices[name][0])


@each_space
def test_the_same_seed_gives_the_same_networks(space: Any) -> None:
    assert relatives(space, 5) == relatives(space, 5)


def test_sampling_reaches_every_choice() -> None:
    rng = np.random.default_rng(3)
    genes = [CONV.genes(CONV.sample(rng)) for _ in range(200)]
    for name, values in CONV.choices().items():
        assert {one[name] for one in genes} == set(values)
    assert CONV.size == 2 * 2 * (2 * 2 * 2 * 2 * 4 * 2 * 2 * 4) ** 2


def test_a_space_with_one_network_cannot_mutate() -> None:
    space = TransformerSpace(widths=(8,), depths=(1,), heads=(2,), mlp_ratios=(1,))
    rng = np.random.default_rng(0)
    assert space.mutate(space.sample(rng), rng) == space.sample(rng)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ConvSpace(stems=()), "stem"),
        (lambda: ConvSpace(stems=(4, 4)), "stem"),
        (lambda: ConvSpace(heads=(-1,)), "head"),
        (lambda: ConvSpace(stages=(StageChoices(kernels=(3, 4)),)), "stages[0].kernel"),
        (lambda: ConvSpace(stages=(StageChoices(), StageChoices(poolings=("median",)))), "stages[1].pooling"),
        (lambda: TransformerSpace(widths=(10,), heads=(1, 2)), "layers[0].heads"),
        (lambda: TransformerSpace(depths=()), "depth"),
        (lambda: TransformerSpace(depths=(0, 1)), "depth"),
        (lambda: TransformerSpace(depths=(1_000_000,)), "depth"),
    ],
)
def test_a_space_with_choices_that_no_network_may_have_is_refused(make: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (conv_spec({}), "stages"),
        (conv_spec({}, {}, stem=5), "stem"),
        (conv_spec({}, {"kernel": 7}), "stages[1].kernel"),
    ],
)
def test_a_network_outside_of_the_space_has_no_genes(spec: ConvSpec, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        CONV.genes(spec)
    assert (caught.value.reason, caught.value.field) == ("NOT_IN_SPACE", field)


def test_a_deeper_transformer_is_outside_of_the_space() -> None:
    deep = TransformerSpec.from_json({"width": 8, "layers": [{"heads": 1, "mlp_ratio": 1}] * 4})
    with pytest.raises(InvalidArgument) as caught:
        TRANSFORMERS.genes(deep)
    assert caught.value.field == "depth"
