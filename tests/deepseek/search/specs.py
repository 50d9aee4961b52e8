"""Search spaces and specs that the tests of this folder share."""

from typing import Any

from deepseek.search.space import Choices, Condition, FloatRange, IntegerRange, LinearConstraint, ParameterSpec, Space
from deepseek.search.study_spec import Objective, OutcomeConstraint, StudySpec
from deepseek.trainjob.spec_parts import Component

NUMBERS = Space(
    (
        ParameterSpec("rate", FloatRange(1e-5, 1e-1, log=True)),
        ParameterSpec("share", FloatRange(0.0, 1.0)),
        ParameterSpec("width", IntegerRange(8, 512, log=True)),
        ParameterSpec("depth", IntegerRange(1, 9, step=2)),
    )
)
MIXED = Space((*NUMBERS.parameters, ParameterSpec("optimizer", Choices(("adam", "sgd", 3, 0.5)))))
CONDITIONAL = Space(
    (
        ParameterSpec("optimizer", Choices(("adam", "sgd"))),
        ParameterSpec("momentum", FloatRange(0.0, 0.9), (Condition("optimizer", ("sgd",)),)),
        ParameterSpec("depth", IntegerRange(1, 4)),
        ParameterSpec("dropout", FloatRange(0.0, 0.5), (Condition("depth", at_least=3),)),
        ParameterSpec("nesterov", Choices((True, False)), (Condition("momentum", at_least=0.4),)),
    )
)
EXCLUSIVE = Space(
    (
        ParameterSpec("optimizer", Choices(("adam", "sgd"))),
        ParameterSpec("momentum", FloatRange(0.0, 0.9), (Condition("optimizer", ("sgd",)),)),
        ParameterSpec("beta", FloatRange(0.8, 1.0), (Condition("optimizer", ("adam",)),)),
    )
)
STEPPED = Space(
    (
        ParameterSpec("share", FloatRange(0.0, 1.0, step=0.25)),
        ParameterSpec("depth", IntegerRange(1, 3)),
        ParameterSpec("norm", Choices(("batch", "group"))),
    )
)
CONSTRAINED = Space(NUMBERS.parameters, (LinearConstraint((("width", 1.0), ("depth", 20.0)), 200.0),))


def spec(
    space: Space = NUMBERS,
    algorithm: str = "random",
    *,
    params: dict[str, Any] | None = None,
    pruner: str = "none",
    pruner_params: dict[str, Any] | None = None,
    num_objectives: int = 1,
    constraints: tuple[OutcomeConstraint, ...] = (),
    seed: int = 7,
    max_trials: int = 0,
) -> StudySpec:
    """A valid spec with all defaults filled in, whose objectives are named loss, loss_1, ..."""
    names = ["loss", *(f"loss_{number}" for number in range(1, num_objectives))]
    made = StudySpec(
        space,
        tuple(map(Objective, names)),
        constraints,
        Component(algorithm, params or {}),
        Component(pruner, pruner_params or {}),
        seed,
        max_trials,
    )
    made.check()
    return made.with_defaults(1)
