"""What nodes are asked to do and to report."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.federated.ports import Debit, Preview
from deepseek.federated.run_plan import RunPlan, UpdateLimits
from deepseek.federated.run_spec import FederatedRunSpec, PrivacySpec
from deepseek.privacy.releases import Release
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import Component
from services.federated.plans import fit_settings, plan_of, plan_privacy
from services.federated.ports import Budget
from services.federated.run import PrivacyPlan
from tests.deepseek.federated.pictures import CNN

SPEC = FederatedRunSpec(
    model=RunSpec.from_json(CNN),
    num_rounds=3,
    local_epochs=2,
    privacy=PrivacySpec("x", clip_norm=1.0, noise_multiplier=2.0, example_rate=0.1),
)


@pytest.mark.parametrize(("unit", "with_dp_sgd"), [("client", False), ("example", True)])
def test_nodes_of_a_private_run_report_no_figures(unit: str, with_dp_sgd: bool) -> None:
    privacy = PrivacyPlan("budgets/b", unit, Release(2.0, 0.1), 1e-6, 8.0)
    settings = fit_settings(SPEC, privacy)
    assert settings.private
    assert (settings.dp_sgd is not None, settings.figures) == (with_dp_sgd, False)
    assert not fit_settings(SPEC, None).private


def test_nodes_get_the_proximal_term_of_the_strategy() -> None:
    spec = replace(SPEC, privacy=None, strategy=Component("fedprox", {"proximal_mu": 0.3}))
    for one, expected in ((spec, 0.3), (replace(SPEC, privacy=None), 0.0)):
        task = plan_of("r", one, ["aa"], None, shapes={}, initial_model="", recipe={}).task
        assert task["fit"]["proximal_mu"] == expected


def plan(release: Release) -> RunPlan:
    """The plan of a run whose rounds were planned to release this."""
    privacy = PrivacyPlan("budgets/b", "example", release, 1e-6, 8.0)
    return plan_of("r", SPEC.with_defaults(), ["aa"], privacy, shapes={}, initial_model="", recipe={})


def test_what_nodes_release_is_what_was_planned_to_be_debited() -> None:
    planned = Release(2.0, 0.1, 20)  # two epochs of 1 / 0.1 steps
    assert plan(planned).release_of_nodes == planned
    plan(planned).check()
    for other in (Release(2.0, 0.1, 19), Release(2.0, 0.09, 20)):
        with pytest.raises(FailedPrecondition, match="start the run again") as caught:
            plan(other).check()
        assert caught.value.reason == "ACCOUNTING_CHANGED"


def test_norms_are_compared_with_the_median_only_without_privacy_and_without_a_norm_of_the_spec() -> None:
    privacy = PrivacyPlan("budgets/b", "example", Release(2.0, 0.1, 20), 1e-6, 8.0)
    plain = replace(SPEC, privacy=None)
    for spec, planned, expected in (
        (plain, None, UpdateLimits(0, max_norm_ratio=10)),
        (replace(plain, max_update_norm=5.0), None, UpdateLimits(5)),
        (SPEC, privacy, UpdateLimits()),
    ):
        limits = plan_of("r", spec, ["aa"], planned, shapes={}, initial_model="", recipe={}).limits
        assert limits == expected


class Plentiful:
    """A ledger in which everything fits."""

    def find(self, tenant: str, name: str, *, field: str) -> Budget:
        return Budget(name, "federations/f", "example", 8.0, 1e-6, 0.0, 8.0)

    def budgets_of(self, tenant: str, names: Sequence[str]) -> Sequence[Budget]:
        return ()

    def preview(self, tenant: str, budget: str, release: Release, planned: Sequence[Release] = ()) -> Preview:
        return Preview(1.0, 10_000_000)

    def debit(
        self,
        tenant: str,
        budget: str,
        release: Release,
        *,
        run: str,
        round_number: int,
        sealed_sha256: str,
        request_id: str,
    ) -> Debit:
        raise AssertionError("planning debits nothing")

    def find_debit(
        self,
        tenant: str,
        budget: str,
        release: Release,
        *,
        run: str,
        round_number: int,
        sealed_sha256: str,
        others: Collection[str] = (),
    ) -> Debit | None:
        raise AssertionError("planning debits nothing")

    def sealed_sha256(self, tenant: str, budget: str, debit: str) -> str | None:
        raise AssertionError("planning debits nothing")


@pytest.mark.parametrize("noise", [{}, {"noise_multiplier": None, "target_epsilon": 4.0}], ids=["noise", "epsilon"])
@pytest.mark.parametrize(
    ("rate", "num_rounds", "field"),
    [(1e-9, 1, "spec.privacy.example_rate"), (6e-8, 1, "spec.privacy.example_rate"), (1e-4, 1000, "spec.num_rounds")],
)
def test_what_makes_too_many_steps_is_named(noise: dict[str, Any], rate: float, num_rounds: int, field: str) -> None:
    assert SPEC.privacy is not None
    privacy = replace(SPEC.privacy, unit="example", example_rate=rate, **noise)
    with pytest.raises(InvalidArgument) as caught:
        plan_privacy(
            replace(SPEC, privacy=privacy, num_rounds=num_rounds), "federations/f", ["aa"], Plentiful(), "default"
        )
    assert (caught.value.reason, caught.value.field) == ("BAD_COUNT", field)


def test_the_release_that_is_planned_is_that_of_the_settings_of_the_nodes() -> None:
    assert SPEC.privacy is not None
    for privacy in (SPEC.privacy, replace(SPEC.privacy, noise_multiplier=None, target_epsilon=4.0)):
        spec = replace(SPEC, privacy=replace(privacy, unit="example"))
        planned, _ = plan_privacy(spec, "federations/f", ["aa"], Plentiful(), "default")
        assert planned is not None
        settings = fit_settings(spec, planned)
        assert settings.dp_sgd is not None
        assert planned.release == settings.dp_sgd.release(spec.local_epochs) == settings.release
        assert planned.release.count == 20


def test_settings_that_dp_sgd_refuses_are_named_by_their_field_in_the_spec() -> None:
    assert SPEC.privacy is not None
    for spec, field in (
        (replace(SPEC, privacy=replace(SPEC.privacy, unit="example", clip_norm=1e13)), "spec.privacy.clip_norm"),
        (replace(SPEC, privacy=replace(SPEC.privacy, unit="example"), local_epochs=2_000_000), "spec.local_epochs"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            plan_privacy(spec, "federations/f", ["aa"], Plentiful(), "default")
        assert caught.value.field == field
