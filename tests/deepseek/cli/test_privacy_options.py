"""Options that change the privacy of a spec."""

from typing import Any

import pytest

from common.errors import Cancelled, FailedPrecondition, InvalidArgument, MeshError, NotFound, Violation
from deepseek.cli.privacy_options import PRIVACY_OPTIONS, change_privacy, chosen_privacy, naming_options

NONE: dict[str, Any] = {"clip_norm": None, "noise": None, "epsilon": None, "example_rate": None, "budget": ""}
DELTA: dict[str, Any] = {**NONE, "delta": 1e-6}


def test_only_given_options_change_a_spec() -> None:
    assert chosen_privacy(**NONE) == {}
    assert chosen_privacy(**{**NONE, "epsilon": 0.0, "budget": "wine"}) == {
        "target_epsilon": 0.0,
        "budget": "budgets/wine",
    }
    assert chosen_privacy(**DELTA) == {"delta": 1e-6}
    spec = {"epochs": 1}
    change_privacy(spec, {})
    assert spec == {"epochs": 1}


@pytest.mark.parametrize("stated", [{"noise_multiplier": 1.1}, {"target_epsilon": 8}])
@pytest.mark.parametrize("chosen", [{"noise_multiplier": 2.0}, {"target_epsilon": 3.0}])
def test_the_noise_that_an_option_chooses_replaces_the_one_in_the_spec(
    stated: dict[str, Any], chosen: dict[str, Any]
) -> None:
    spec = {"privacy": {**stated, "clip_norm": 1}}
    change_privacy(spec, chosen)
    assert spec == {"privacy": {**chosen, "clip_norm": 1}}


def test_two_ways_to_choose_the_noise_are_left_to_the_check_of_the_spec() -> None:
    spec: dict[str, Any] = {"privacy": None}
    change_privacy(spec, {"noise_multiplier": 2.0, "target_epsilon": 3.0})
    assert spec == {"privacy": {"noise_multiplier": 2.0, "target_epsilon": 3.0}}


@pytest.mark.parametrize("found", [3, 0, "strong", []])
def test_a_privacy_that_is_no_object_is_refused(found: object) -> None:
    with pytest.raises(InvalidArgument, match="expected an object") as caught:
        change_privacy({"privacy": found}, {"noise_multiplier": 1.0})
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "spec.privacy")


def test_a_budget_in_the_wrong_form_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        chosen_privacy(**{**NONE, "budget": "models/m"})
    assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "--budget")


@pytest.mark.parametrize("kind", [InvalidArgument, FailedPrecondition, NotFound])
def test_errors_name_the_options_that_set_the_fields(kind: type[MeshError]) -> None:
    others = [Violation("spec.privacy.budget", "no budget"), Violation("spec.seed", "no seed")]
    with pytest.raises(kind) as caught, naming_options(PRIVACY_OPTIONS):
        raise kind("BAD", "no rate", field="spec.privacy.example_rate", violations=others)
    assert (caught.value.reason, caught.value.message) == ("BAD", "no rate")
    assert caught.value.violations == (
        Violation("spec.privacy.example_rate (--example-rate)", "no rate"),
        Violation("spec.privacy.budget (--budget)", "no budget"),
        Violation("spec.seed", "no seed"),
    )


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(Cancelled) as caught, naming_options(PRIVACY_OPTIONS):
        raise Cancelled("STOPPED", "it was stopped", field="spec.privacy.budget")
    assert caught.value.field == "spec.privacy.budget"
