"""Builds the model of a recipe, and trains it for one round on a node's data.

The result depends only on the recipe, the arrays, the data, the settings, the seed of the run, the round and the node:
a round that is repeated after a crash gives equal bits. With DP-SGD it does not, because its randomness is secret.
"""

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from common.errors import FailedPrecondition
from deepseek.data.datasets import EncodedDataset
from deepseek.federated import model_state
from deepseek.federated.arrays import Arrays, all_finite
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.recipe import Recipe
from deepseek.federated.reported_release import figures_of
from deepseek.training.events import Event, StepEvent
from deepseek.training.running_statistics import freeze_modules
from deepseek.training.schedules import Schedule
from deepseek.trainjob import pipeline
from deepseek.trainjob.pipeline import FittedMappings
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.train import make_trainer

BEFORE = "_before"
"""Suffix of the figures of the received model on the node's data."""


@dataclass(frozen=True)
class Outcome:
    """What a node reports about a round.

    Attributes:
        update: New minus old arrays.
        num_examples: Number of examples that the node trained on. If this is private, a public constant instead.
        metrics: Figures by name; all are finite. If they are private, only those that do not depend on the data.
        train_s: Duration, in seconds.
    """

    update: Arrays
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    train_s: float = 0.0


def restore_mappings(recipe: Recipe) -> FittedMappings:
    """Builds the fitted encoders of a recipe.

    Raises:
        InvalidArgument: An encoder or augmentation rejects its parameters or its state.
    """
    spec = recipe.spec
    places = [(mapping, f"spec.inputs[{i}]") for i, mapping in enumerate(spec.inputs)] + [(spec.target, "spec.target")]
    built = [pipeline.build_mapping(mapping, where) for mapping, where in places]
    for mapping, state in zip(built, recipe.encoders, strict=True):
        mapping.encoder.load_state(dict(state))
    return FittedMappings(tuple(built[:-1]), tuple(mapping.encoder.name for mapping in spec.inputs), built[-1])


def build_model(recipe: Recipe, mappings: FittedMappings) -> nn.Module:
    """Builds the model of a recipe. Its arrays are still the initial ones of the spec's seed.

    Raises:
        FailedPrecondition: WRONG_VERSION if this installation builds another model.
        InvalidArgument: The model rejects its parameters.
    """
    model = pipeline.build_model(recipe.spec, mappings)
    pipeline.freeze(model, recipe.spec)
    if (found := model_state.shapes(model)) != recipe.shapes:
        changed = sorted(name for name in {*found, *recipe.shapes} if found.get(name) != recipe.shapes.get(name))
        message = (
            f"this installation builds the model {recipe.spec.model.name} with another {changed[0]}; install the "
            "versions of the coordinator"
        )
        raise FailedPrecondition("WRONG_VERSION", message, field="recipe.shapes")
    model_state.load_fixed(model, recipe.fixed, recipe.rest_sha256)
    freeze_modules(model, recipe.frozen)
    return model


def seed_of(run_seed: int, round_number: int, node: str) -> int:
    """Returns the seed of a node's training in a round, from 0 to 2^63 - 1."""
    digest = hashlib.blake2b(f"{run_seed}/{round_number}/{node}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def settled(spec: RunSpec) -> RunSpec:
    """Returns a spec whose precision does not depend on the machine: `auto` becomes `fp32`."""
    return replace(spec, precision="fp32") if spec.precision == "auto" else spec


def fit(
    model: nn.Module,
    recipe: Recipe,
    dataset: EncodedDataset,
    start: Arrays,
    settings: FitSettings,
    *,
    seed: int,
    round_number: int,
    node: str,
) -> Outcome:
    """Trains for one round.

    Args:
        model: Model from `build_model`; its state is overwritten.
        recipe: Recipe of the run.
        dataset: The node's examples, with augmentations.
        start: The global model.
        settings: How to train.
        seed: Seed of the run.
        round_number: Number of the round, from 1.
        node: Fingerprint of the node.

    Raises:
        FailedPrecondition: NOT_FINITE if the weights diverge; NOT_PRIVATE_MODEL, as in preparation.
        InvalidArgument: The data or the spec does not suit the model.
    """
    began = time.monotonic()
    torch.set_num_threads(settings.num_threads)
    model_state.load_arrays(model, start)
    spec = replace(settled(recipe.spec), seed=seed_of(seed, round_number, node))
    trainer = make_trainer(
        spec,
        model,
        change_schedule=lambda schedule: _over_rounds(schedule, round_number, settings.num_rounds),
        proximal_mu=settings.proximal_mu,
        dp_sgd=settings.dp_sgd,
    )
    before = {} if settings.private else trainer.evaluate(_plain(dataset), batch_size=spec.batch_size)
    steps: list[StepEvent] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepEvent):
            steps.append(event)

    result = trainer.fit(dataset, epochs=settings.local_epochs, batch_size=spec.batch_size, on_event=on_event)
    after = model_state.arrays(model)
    update = {name: after[name] - np.asarray(start[name], np.float32) for name in after}
    if not all_finite(update):
        message = "the weights are NaN or infinite after training; lower the learning rate, or set clip_norm"
        raise FailedPrecondition("NOT_FINITE", message)
    seconds = time.monotonic() - began
    if settings.dp_sgd is not None:
        # Exact figures and the number of examples would reveal the data in spite of the noise in the update.
        assert trainer.release is not None, "a round has at least one step"
        return Outcome(update, settings.dp_sgd.nominal_examples, figures_of(trainer.release), seconds)
    if settings.private:
        return Outcome(update, 1, {}, seconds)
    figures = {f"{name}{BEFORE}": value for name, value in before.items()}
    figures |= {**(steps[-1].metrics if steps else {}), "num_skipped_steps": result.num_skipped_steps}
    return Outcome(update, len(dataset), _finite(figures), seconds)


def evaluate(model: nn.Module, recipe: Recipe, dataset: EncodedDataset, values: Arrays) -> dict[str, float]:
    """Returns the loss and the metrics of arrays on a data set. All are finite."""
    model_state.load_arrays(model, values)
    spec = settled(recipe.spec)
    figures = make_trainer(spec, model).evaluate(_plain(dataset), batch_size=spec.batch_size)
    return _finite(figures)


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def _plain(dataset: EncodedDataset) -> EncodedDataset:
    return dataset.part(range(len(dataset)), augment=False)


def _over_rounds(schedule: Schedule, round_number: int, num_rounds: int) -> Schedule:
    """Returns one round's part of a schedule over all rounds, which have equal numbers of steps."""
    if not num_rounds:
        return schedule
    done = min(max(0, round_number - 1), num_rounds - 1)
    return lambda update, num_updates: schedule(done * num_updates + update, num_rounds * num_updates)
