"""The fastest correct file is selected, with a readable reason."""

import pytest

from common.errors import FailedPrecondition
from deepseek.models.manifest import Measurement
from deepseek.models.selection import MIN_SPEEDUP, Candidate, exported, select


@pytest.mark.parametrize(
    ("int8_ms", "int8_problem", "fp32_problem", "selected"),
    [
        (1.0, "", "", 1),
        (1.3 / MIN_SPEEDUP, "", "", 1),
        (1.31 / MIN_SPEEDUP, "", "", 0),
        (2.0, "", "", 0),
        (1.0, "it loses 13%", "", 0),
        (9.0, "", "it is broken", 1),
    ],
)
def test_the_fastest_correct_file_is_selected_if_the_gain_is_worth_it(
    int8_ms: float, int8_problem: str, fp32_problem: str, selected: int
) -> None:
    candidates = [Candidate("fp32", 1.3, problem=fp32_problem), Candidate("int8", int8_ms, problem=int8_problem)]
    index, reason = select(candidates)
    assert index == selected
    assert all(problem in reason for problem in (int8_problem, fp32_problem))


def test_a_single_file_is_selected_with_that_reason() -> None:
    assert select([Candidate("fp32", 1.0)]) == (0, "the version has no other file")


def test_the_fastest_of_several_forms_wins() -> None:
    candidates = [Candidate("fp32", 3.0), Candidate("int8", 2.0), Candidate("int4", 1.0, agreement="it agrees")]
    assert select(candidates) == (2, "int4 is 3.00 times as fast as fp32; it agrees")


def test_without_a_correct_file_every_problem_is_reported() -> None:
    candidates = [Candidate("fp32", 1.0, problem="it is broken"), Candidate("int8", 1.0, problem="it loses 13%")]
    with pytest.raises(FailedPrecondition, match=r"fp32 is not served: it is broken\. int8 .* it loses 13%") as caught:
        select(candidates)
    assert caught.value.reason == "NO_FILE_AGREES"


@pytest.mark.parametrize(
    ("loss", "problem"),
    [(0.0, ""), (-0.01, ""), (0.005, ""), (0.006, "its accuracy of 0.9900 is 0.0060 worse; at most 0.005 is accepted")],
)
def test_a_file_that_loses_too_much_where_it_is_exported_is_not_preferred(loss: float, problem: str) -> None:
    measured = [Measurement("fp32", 2.0, "accuracy", 0.99, 0.0), Measurement("int8", 1.0, "accuracy", 0.99, loss)]
    candidates = exported(measured, 0.005)
    assert [candidate.problem for candidate in candidates] == ["", problem]
    assert select(candidates)[0] == (not problem)
