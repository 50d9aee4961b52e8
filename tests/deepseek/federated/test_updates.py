"""Which updates count, which are refused, and why. Nothing that a node sends raises an error."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.federated.aggregation import WeightedUpdate
from deepseek.federated.arrays import to_bytes
from deepseek.federated.reported_release import figures_of
from deepseek.federated.rounds import RefusalRecord
from deepseek.federated.run_plan import UpdateLimits
from deepseek.federated.updates import (
    CheckedUpdate,
    RefusalReason,
    Reply,
    UpdateChecker,
    mean_metrics,
    within_ratio,
)
from deepseek.privacy.releases import Release

SHAPES = {"w": (2, 2)}
UPDATE = {"w": np.float32([[3, 0], [0, 4]])}
REPLY = Reply("a", 3, to_bytes(UPDATE), 10, {"loss": 0.5})
LIMITS = UpdateLimits(max_update_norm=5.0, max_examples=1000)


def _checker(limits: UpdateLimits = LIMITS) -> UpdateChecker:
    return UpdateChecker(3, ("a", "b", "c"), SHAPES, limits)


def _filled(value: float) -> bytes:
    return to_bytes({"w": np.full((2, 2), value, np.float32)})


def test_a_good_update_counts() -> None:
    checker = _checker()
    checked = checker.check(REPLY)
    assert isinstance(checked, CheckedUpdate)
    assert (checked.update.node, checked.update.num_examples, checked.metrics) == ("a", 10, {"loss": 0.5})
    np.testing.assert_array_equal(checked.update.arrays["w"], UPDATE["w"])
    assert checker.waiting == {"b", "c"}


REFUSED: list[tuple[dict[str, Any], RefusalReason, str]] = [
    ({"node": "z"}, RefusalReason.NOT_IN_COHORT, "the node was not asked in round 3"),
    ({"round": 2}, RefusalReason.LATE, "the reply is for round 2, and round 3 is in progress"),
    ({"round": 4}, RefusalReason.WRONG_ROUND, "the reply is for round 4, and round 3 is in progress"),
    ({"arrays": b"\0" * 10_000}, RefusalReason.OVERSIZED, "the update has 10000 bytes; the model has at most 4644"),
    ({"arrays": b""}, RefusalReason.BAD_UPDATE, "update has 0 bytes; from 8 to 4644 are accepted"),
    (
        {"arrays": to_bytes({"w": np.zeros((4,), np.float32)})},
        RefusalReason.BAD_UPDATE,
        "update has 'w' with the shape (4,); the model has (2, 2)",
    ),
    (
        {"arrays": to_bytes({"v": np.zeros((2, 2), np.float32)})},
        RefusalReason.BAD_UPDATE,
        "update has other arrays than the model: missing w; unknown v",
    ),
    (
        {"arrays": _filled(np.nan)},
        RefusalReason.NOT_FINITE,
        "the update has values that are NaN or infinite; lower the learning rate of the run",
    ),
    (
        {"arrays": _filled(-np.inf)},
        RefusalReason.NOT_FINITE,
        "the update has values that are NaN or infinite; lower the learning rate of the run",
    ),
    (
        {"arrays": _filled(3.0)},
        RefusalReason.NORM_TOO_LARGE,
        "the update has the L2 norm 6; at most 5 is accepted",
    ),
    (
        {"arrays": _filled(3e38)},
        RefusalReason.NORM_TOO_LARGE,
        "the update has the L2 norm 6e+38; at most 5 is accepted",
    ),
    ({"num_examples": 0}, RefusalReason.NO_EXAMPLES, "the node has no examples; check its data source"),
    ({"num_examples": -1}, RefusalReason.BAD_WEIGHT, "the number of examples is -1; it must be from 1 to 1000"),
    ({"num_examples": 1001}, RefusalReason.BAD_WEIGHT, "the number of examples is 1001; it must be from 1 to 1000"),
    (
        {"num_examples": 10**5000},
        RefusalReason.BAD_WEIGHT,
        "the number of examples is out of range; it must be from 1 to 1000",
    ),
    (
        {"num_examples": float("nan")},
        RefusalReason.BAD_WEIGHT,
        "the number of examples is nan; it must be a whole number",
    ),
    ({"num_examples": True}, RefusalReason.BAD_WEIGHT, "the number of examples is True; it must be a whole number"),
    ({"error": "disk full"}, RefusalReason.CLIENT_ERROR, "disk full"),
    ({"reason": "BAD_DATA", "error": "no labels"}, RefusalReason.CLIENT_ERROR, "BAD_DATA: no labels"),
    ({"reason": "BAD_DATA"}, RefusalReason.CLIENT_ERROR, "BAD_DATA"),
    ({"reason": "LATE", "error": "a lie"}, RefusalReason.CLIENT_ERROR, "LATE: a lie"),
    (
        {"reason": "NODE_POLICY", "error": "fit.dp_sgd: the node accepts only DP-SGD"},
        RefusalReason.NODE_POLICY,
        "fit.dp_sgd: the node accepts only DP-SGD",
    ),
    (
        {"reason": "DATASET_HAS_BUDGET", "error": "datasets/d has the privacy budget budgets/b"},
        RefusalReason.DATASET_HAS_BUDGET,
        "datasets/d has the privacy budget budgets/b",
    ),
    ({"reason": "WRONG_VERSION", "error": "1.0; 1.1 is needed"}, RefusalReason.WRONG_VERSION, "1.0; 1.1 is needed"),
    ({"error": "\x1b[31mred\x1b[0m" + "x" * 5000}, RefusalReason.CLIENT_ERROR, "red" + "x" * 997),
]


@pytest.mark.parametrize(("change", "reason", "message"), REFUSED, ids=lambda value: getattr(value, "value", None))
def test_bad_replies_are_refused_with_a_reason(change: dict[str, Any], reason: RefusalReason, message: str) -> None:
    reply = replace(REPLY, **change)
    assert _checker().check(reply) == RefusalRecord(reply.node, reason.value, message)


def test_every_reason_is_tested() -> None:
    before_the_first_round = {RefusalReason.BAD_SOURCE, RefusalReason.BAD_SCHEMA, RefusalReason.MISSING_FIELD}
    others = {RefusalReason.DUPLICATE, RefusalReason.NOT_AS_DEBITED, RefusalReason.NO_UPDATE, *before_the_first_round}
    assert {reason for _, reason, _ in REFUSED} == set(RefusalReason) - others


def test_an_update_of_a_node_that_released_more_than_is_debited_is_refused() -> None:
    debited = Release(1.0, 0.1, 10)
    for release, message in (
        (Release(1.0, 0.1, 11), "the node has made 11 steps of DP-SGD, and 10 are debited"),
        (Release(0.5, 0.1, 10), "the noise multiplier was 0.5, and 1.0 is debited"),
        (Release(1.0, 0.2, 10), "the sampling rate was 0.2, and 0.1 is debited"),
        (debited, ""),
    ):
        checker = UpdateChecker(3, ("a",), SHAPES, LIMITS, debited=debited)
        checked = checker.check(replace(REPLY, metrics=figures_of(release)))
        if message:
            assert checked == RefusalRecord("a", "NOT_AS_DEBITED", message)
        else:
            assert isinstance(checked, CheckedUpdate)
    missing = UpdateChecker(3, ("a",), SHAPES, LIMITS, debited=debited).check(REPLY)
    assert isinstance(missing, RefusalRecord)
    assert missing.message.startswith("the node does not report dp_steps")


def test_only_the_first_reply_of_a_node_counts() -> None:
    checker = _checker()
    assert isinstance(checker.check(REPLY), CheckedUpdate)
    second = checker.check(replace(REPLY, arrays=_filled(0.0)))
    assert second == RefusalRecord("a", "DUPLICATE", "the node has already replied in round 3")
    assert isinstance(checker.check(replace(REPLY, node="b", arrays=b"bad")), RefusalRecord)
    again = checker.check(replace(REPLY, node="b"))
    assert isinstance(again, RefusalRecord)
    assert again.reason == "DUPLICATE"


def test_replies_for_another_round_do_not_use_up_the_reply_of_a_node() -> None:
    checker = _checker()
    assert isinstance(checker.check(replace(REPLY, round=2)), RefusalRecord)
    assert isinstance(checker.check(REPLY), CheckedUpdate)


def test_closing_refuses_the_nodes_that_have_not_replied() -> None:
    checker = _checker()
    checker.check(replace(REPLY, node="b"))
    assert checker.close(60) == [
        RefusalRecord("a", "LATE", "the node did not reply within 60 s"),
        RefusalRecord("c", "LATE", "the node did not reply within 60 s"),
    ]
    assert not checker.waiting


def test_without_a_limit_any_finite_norm_counts() -> None:
    assert isinstance(_checker(UpdateLimits()).check(replace(REPLY, arrays=_filled(3e38))), CheckedUpdate)


def test_invalid_figures_are_dropped() -> None:
    metrics: dict[str, Any] = {
        "loss": 1,
        "f1@0.5": 0.25,
        "nan": float("nan"),
        "inf": float("inf"),
        "huge": 1e308,
        "a b": 1.0,
        "": 1.0,
        "x" * 65: 1.0,
        "text": "1",
        "integer": 10**400,
    }
    checked = _checker().check(replace(REPLY, metrics=metrics))
    assert isinstance(checked, CheckedUpdate)
    assert checked.metrics == {"f1@0.5": 0.25, "loss": 1.0}
    many = _checker().check(replace(REPLY, metrics={f"m{i}": 1.0 for i in range(1000)}))
    assert isinstance(many, CheckedUpdate)
    assert len(many.metrics) == 64


def _checked(node: str, num_examples: int, **metrics: float) -> CheckedUpdate:
    return CheckedUpdate(WeightedUpdate(node, UPDATE, num_examples), metrics)


def test_mean_figures_are_weighted_by_the_nodes_that_report_them() -> None:
    checked = [_checked("a", 1, loss=1.0), _checked("b", 3, loss=2.0, f1=0.5), _checked("c", 96)]
    assert mean_metrics(checked) == {"f1": 0.5, "loss": 1.75}
    assert mean_metrics([]) == {}


@given(st.permutations([_checked(str(i), i + 1, loss=10.0 ** (i - 5)) for i in range(10)]))
def test_mean_figures_do_not_depend_on_the_order(checked: list[CheckedUpdate]) -> None:
    assert mean_metrics(checked) == mean_metrics(sorted(checked, key=lambda one: one.update.node))


@given(
    st.builds(
        Reply,
        node=st.sampled_from(["a", "b", "z"]),
        round=st.integers(1, 5),
        arrays=st.one_of(st.binary(max_size=200), st.just(REPLY.arrays)),
        num_examples=st.one_of(st.integers(), st.floats(), st.text(), st.none()),  # type: ignore[arg-type]
        metrics=st.dictionaries(st.text(), st.one_of(st.floats(), st.integers(), st.text(), st.none())),  # type: ignore[arg-type]
        reason=st.text(),
        error=st.text(),
    )
)
def test_no_reply_raises_an_error(reply: Reply) -> None:
    checked = _checker().check(reply)
    if isinstance(checked, RefusalRecord):
        assert checked.reason in RefusalReason.__members__
        assert len(checked.message) <= 1000
    else:
        arrays: npt.NDArray[np.float32] = checked.update.arrays["w"]
        assert np.isfinite(arrays).all()
        assert 1 <= checked.update.num_examples <= 1000


def _of_norms(*norms: float) -> list[CheckedUpdate]:
    arrays = [{"w": np.float32([[norm, 0], [0, 0]])} for norm in norms]
    return [CheckedUpdate(WeightedUpdate(str(node), one), {}) for node, one in enumerate(arrays)]


@pytest.mark.parametrize(
    ("norms", "refused"),
    [
        ((1, 2, 3, 20), []),
        ((1, 2, 3, 21), ["3"]),
        ((1e36, 2, 3, 1e36, 4), ["0", "3"]),
        ((1, 1e-9, 1e-9, 1, 1), []),  # fewer than half of the nodes cannot exclude the others
        ((1, 1e36), []),
        ((0, 0, 5), []),
        ((), []),
    ],
)
def test_norms_are_compared_with_the_median_of_at_least_three(norms: tuple[float, ...], refused: list[str]) -> None:
    updates = _of_norms(*norms)
    kept, records = within_ratio(updates, 10)
    assert [(record.node, record.reason) for record in records] == [(node, "NORM_TOO_LARGE") for node in refused]
    assert kept == [one for one in updates if one.update.node not in refused]


def test_a_refusal_by_the_median_says_how_to_accept_the_update() -> None:
    _, (record,) = within_ratio(_of_norms(1, 2, 50), 10)
    assert record.message == (
        "the update has the L2 norm 50, more than 10 times the median 2 of its round; to accept it, set "
        "max_update_norm of the run"
    )
