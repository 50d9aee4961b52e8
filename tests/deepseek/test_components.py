import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from deepseek.components import (
    AUGMENTATIONS,
    ENCODERS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    POLICIES,
    SCHEDULES,
    Components,
)

BUILT_IN = {
    MODELS: [
        "audio_classifier",
        "character_lm",
        "cnn",
        "image_question",
        "resnet18",
        "resnet50",
        "searched_cnn",
        "searched_transformer",
        "tabular",
        "text_classifier",
        "transformer_lm",
    ],
    LOSSES: ["binary_cross_entropy", "cross_entropy", "huber", "mae", "mse", "next_token_cross_entropy"],
    OPTIMIZERS: ["adagrad", "adam", "adamw", "lbfgs", "nadam", "radam", "rmsprop", "schedule_free_adamw", "sgd"],
    SCHEDULES: ["constant", "cosine", "exponential", "linear", "one_cycle", "step"],
    POLICIES: ["cosine", "legacy_threshold", "one_cycle", "plateau"],
    METRICS: [
        "accuracy",
        "auc",
        "f1",
        "mae",
        "next_token_accuracy",
        "perplexity",
        "precision",
        "r2",
        "recall",
        "rmse",
        "top_k_accuracy",
    ],
    ENCODERS: ["audio", "characters", "image", "integer", "label", "number", "words"],
    AUGMENTATIONS: [
        "color_jitter",
        "noise",
        "random_crop",
        "random_erasing",
        "random_flip",
        "random_rotation",
        "time_shift",
    ],
}


def part(size: int, rate: float = 0.5, name: str | None = None, sides: tuple[int, ...] = (), flip: bool = False) -> Any:
    if size < 0:
        raise InvalidArgument("BAD_VALUE", "size is negative", field="size")
    if rate > 1:
        raise ValueError("rate is above 1")
    return (size, rate, name, sides, flip)


@pytest.fixture
def parts() -> Components:
    parts = Components("part", "deepseek.nothing")
    parts.register("box", part)
    return parts


def failure(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        call()
    return caught.value.reason, caught.value.field


@pytest.mark.parametrize("registry", BUILT_IN, ids=lambda registry: registry.group)
def test_the_built_in_parts_are_known_and_can_be_imported(registry: Components) -> None:
    assert set(BUILT_IN[registry]) <= set(registry.names())
    assert all(callable(registry.get(name)) for name in BUILT_IN[registry])


def test_names_are_known_without_torch() -> None:
    program = """
import sys
from deepseek.components import MODELS, OPTIMIZERS
MODELS.check("resnet50", field="model"), OPTIMIZERS.names()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_refused_with_the_known_ones(parts: Components) -> None:
    with pytest.raises(InvalidArgument, match="known: box") as caught:
        parts.build("bag", {}, field="spec.model")
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_COMPONENT", "spec.model.name")


def test_a_name_cannot_be_taken_twice(parts: Components) -> None:
    with pytest.raises(AlreadyExists, match="already a part 'box'"):
        parts.register("box", part)
    with pytest.raises(AlreadyExists):
        MODELS.register("resnet50", part)


def test_doubles_become_integers_and_lists_tuples(parts: Components) -> None:
    built = parts.build("box", {"size": 3.0, "rate": 1, "name": "a", "sides": [1.0, 2.0], "flip": True})
    assert built == (3, 1.0, "a", (1, 2), True)
    assert [type(value) for value in (built[0], built[1], built[3][0])] == [int, float, int]


def test_numpy_numbers_become_python_numbers(parts: Components) -> None:
    numpys = {"size": np.int64(3), "rate": np.float32(1), "sides": np.array([1, 2]), "flip": np.bool_(True)}
    built = parts.build("box", {**numpys, "name": np.str_("a")})
    assert built == (3, 1.0, "a", (1, 2), True)
    assert [type(value) for value in (built[0], built[1], built[3][0], built[4])] == [int, float, int, bool]


@pytest.mark.parametrize(
    ("params", "reason", "field"),
    [
        ({}, "MISSING_FIELD", "spec.model.params.size"),
        ({"size": 1, "colour": 2}, "UNKNOWN_FIELD", "spec.model.params.colour"),
        ({"size": 1.5}, "BAD_VALUE", "spec.model.params.size"),
        ({"size": True}, "BAD_VALUE", "spec.model.params.size"),
        ({"size": "1"}, "BAD_VALUE", "spec.model.params.size"),
        ({"size": 1, "rate": None}, "BAD_VALUE", "spec.model.params.rate"),
        ({"size": 1, "name": 5}, "BAD_VALUE", "spec.model.params.name"),
        ({"size": 1, "sides": [1, 0.5]}, "BAD_VALUE", "spec.model.params.sides"),
        ({"size": 1, "flip": 1}, "BAD_VALUE", "spec.model.params.flip"),
        ({"size": -1}, "BAD_VALUE", "spec.model.params.size"),
        ({"size": 1, "rate": 2}, "BAD_VALUE", "spec.model.params"),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_path(
    parts: Components, params: dict[str, Any], reason: str, field: str
) -> None:
    found_reason, found_field = failure(lambda: parts.build("box", params, field="spec.model"))
    assert (found_reason, found_field.partition("[")[0]) == (reason, field)


def test_users_cannot_set_arguments_of_the_caller(parts: Components) -> None:
    assert parts.build("box", {}, size=4)[0] == 4
    assert failure(lambda: parts.build("box", {"size": 1}, size=4)) == ("UNKNOWN_FIELD", "params.size")


def test_given_arguments_may_be_called_params_or_name(parts: Components) -> None:
    parts.register("list", lambda params, name: [params, name])
    assert parts.build("list", {}, params=1, name=2) == [1, 2]


def install(folder: Path, package: str, entry_points: str) -> None:
    """Writes a package's metadata to the place where an installer would."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(entry_points, encoding="utf-8")


def test_another_package_adds_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "one", "[deepseek.test_parts]\nfraction = fractions:Fraction\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Components("part", "deepseek.test_parts").build("fraction", {"numerator": 3}) == 3


def test_a_package_that_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    parts = Components("part", "deepseek.test_parts")
    assert failure(lambda: parts.build("fraction", {})) == ("UNKNOWN_COMPONENT", "name")
    install(tmp_path, "one", "[deepseek.test_parts]\nfraction = fractions:Fraction\n")
    assert parts.build("fraction", {"numerator": 3}) == 3


def test_a_component_that_cannot_be_imported_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "one", "[deepseek.test_parts]\nbroken = no_such_module:part\n")
    monkeypatch.syspath_prepend(tmp_path)
    parts = Components("part", "deepseek.test_parts")
    assert parts.names() == ["broken"]
    with pytest.raises(FailedPrecondition, match="no_such_module") as caught:
        parts.build("broken", {})
    assert caught.value.reason == "COMPONENT_NOT_IMPORTABLE"
    assert caught.value.message.endswith("run: deepseek down && deepseek up")


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "one", "[deepseek.test_parts]\nsame = a:b\n")
    install(tmp_path, "two", "[deepseek.test_parts]\nsame = c:d\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FailedPrecondition, match=r"both claim the part 'same'"):
        Components("part", "deepseek.test_parts").names()
