"""Plans a run before it starts: its rounds, and how it is protected."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from common.errors import FailedPrecondition
from common.remote import relabelled
from deepseek.federated.arrays import Shapes
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.run_plan import MAX_NORM_RATIO, RunPlan, RunPrivacy, Sampling, UpdateLimits
from deepseek.federated.run_spec import FederatedRunSpec, PrivacySpec, below
from deepseek.federated.strategy import Strategy, strategy_from_spec
from deepseek.privacy.budgeted import has_budget
from deepseek.privacy.releases import Release, check_count, delta_warning
from deepseek.training.dp_settings import DpSgd, steps_per_epoch
from deepseek.trainjob.spec_parts import DpSgdSpec
from services.federated.ports import Budgets, Unit
from services.federated.run import PrivacyPlan
from services.federated.runs import Event, warning

_PRIVACY = "spec.privacy"
_ROUNDS = {"BAD_COUNT": "spec.num_rounds"}
"""Field to name if the steps of one round would be accepted, and those of all rounds are too many."""


def plan_of(
    run: str,
    spec: FederatedRunSpec,
    nodes: Sequence[str],
    privacy: PrivacyPlan | None,
    *,
    shapes: Shapes,
    initial_model: str,
    recipe: Mapping[str, Any],
    max_round_bytes: float = math.inf,
) -> RunPlan:
    """Returns the plan of a run's rounds.

    Args:
        run: Name of the run.
        spec: Spec with all defaults filled in.
        nodes: Fingerprints of the federation's nodes, in ascending order.
        privacy: How the run is protected; None if it is not.
        shapes: Names and shapes of the model's arrays.
        initial_model: Key in the vault of the model before round 1.
        recipe: What nodes need to build the model and encode their data.
        max_round_bytes: Size in bytes that the updates of a round may have together.
    """
    fit = fit_settings(spec, privacy)
    return RunPlan(
        run=run,
        num_rounds=spec.num_rounds,
        nodes=tuple(nodes),
        shapes=shapes,
        initial_model=initial_model,
        strategy=_strategy(spec),
        task={"recipe": recipe, "fit": fit.to_json()},
        seed=spec.model.seed,
        sampling=_sampling(spec),
        privacy=_run_privacy(spec, privacy),
        limits=_limits(spec),
        deadline_s=spec.deadline_s,
        quorum=spec.quorum,
        max_retries=spec.max_retries,
        max_round_bytes=max_round_bytes,
        check_nodes=True,
    )


def check_plan(spec: FederatedRunSpec, nodes: Sequence[str], privacy: PrivacyPlan | None) -> None:
    """Checks, before a run exists, that its rounds can be executed.

    Raises:
        FailedPrecondition: NO_NODES, TOO_FEW_NODES or ACCOUNTING_CHANGED.
        InvalidArgument: Another error of `RunPlan.check`.
    """
    if not nodes:
        message = "the federation has no nodes; register nodes before starting a run"
        raise FailedPrecondition("NO_NODES", message, field="parent")
    with below("spec"):
        plan_of("", spec, nodes, privacy, shapes={}, initial_model="", recipe={}).check()


def fit_settings(spec: FederatedRunSpec, privacy: PrivacyPlan | None) -> FitSettings:
    """Returns how nodes train in a round."""
    dp_sgd = None
    if spec.privacy is not None and privacy is not None and privacy.unit == "example":
        dp_sgd = _dp_sgd(spec, spec.privacy, privacy.release.noise_multiplier)
    return FitSettings(
        local_epochs=spec.local_epochs,
        proximal_mu=_strategy(spec).fit_options().get("proximal_mu", 0.0),
        num_rounds=spec.num_rounds,
        dp_sgd=dp_sgd,
        # The coordinator clips all updates of a private run alike, and publishes no figures of the nodes.
        figures=privacy is None,
    )


def plan_privacy(
    spec: FederatedRunSpec,
    federation: str,
    nodes: Sequence[str],
    budgets: Budgets,
    tenant: str,
    planned: Sequence[Release] = (),
) -> tuple[PrivacyPlan | None, list[Event]]:
    """Decides how much noise a run needs, and checks that its budget suffices for all rounds. Debits nothing.

    Args:
        spec: Spec with all defaults filled in.
        federation: Name of the federation.
        nodes: Fingerprints of the federation's nodes, in ascending order.
        budgets: The ledger.
        tenant: Tenant that owns the run and the budget.
        planned: What other runs will still debit.

    Returns:
        The plan, None without privacy, and warnings.

    Raises:
        NotFound: BUDGET_NOT_FOUND.
        FailedPrecondition: DATASET_HAS_BUDGET, BUDGET_MISMATCH or BUDGET_EXHAUSTED.
        InvalidArgument: BAD_EPSILON if no noise is enough; BAD_COUNT if nodes would make too many steps.
        MeshError: The ledger did not respond, or has been tampered with.
    """
    _check_undebited(spec, federation, budgets, tenant)
    if spec.privacy is None:
        return None, []
    privacy, unit = spec.privacy, cast(Unit, spec.privacy.unit)
    budget = budgets.find(tenant, privacy.budget, field=f"{_PRIVACY}.budget")
    create = f"`deepseek privacy list` lists budgets, and `deepseek privacy create NAME {federation}` creates one"
    for name, wanted, found, field, advice in (
        ("unit", unit, budget.unit, "unit", create),
        ("data", federation, budget.dataset, "budget", create),
        ("delta", privacy.delta or budget.delta, budget.delta, "delta", "leave it out"),
    ):
        if wanted != found:
            message = f"{budget.name} has the {name} {found}, but the run needs {wanted}; {advice}"
            raise FailedPrecondition("BUDGET_MISMATCH", message, field=f"{_PRIVACY}.{field}")
    noise = privacy.noise_multiplier
    release = _release(spec, privacy, 1.0 if noise is None else noise)
    if noise is None:
        assert privacy.target_epsilon is not None, "the spec has been checked"
        # Imported here, because it loads SciPy.
        from deepseek.privacy.accounting import noise_multiplier_for

        with relabelled(f"{_PRIVACY}.target_epsilon", field_of_reason=_ROUNDS):
            num_releases = release.count * spec.num_rounds
            noise = noise_multiplier_for(privacy.target_epsilon, budget.delta, release.sampling_rate, num_releases)
        release = replace(release, noise_multiplier=noise)
    with relabelled(f"{_PRIVACY}.budget", field_of_reason=_ROUNDS):
        together = replace(release, count=release.count * spec.num_rounds)
        preview = budgets.preview(tenant, budget.name, together, planned)
    if preview.max_count < together.count:
        others = f" besides the {len(planned)} of its runs that have not ended" if planned else ""
        # With a target, fewer rounds get less noise each, and cost as much together.
        advice = "run fewer rounds, or add more noise" if privacy.target_epsilon is None else "choose a smaller epsilon"
        message = (
            f"{budget.name} has {budget.epsilon_left:.4g} of epsilon {budget.epsilon:g} left, which{others} suffices "
            f"for {preview.max_count // release.count} of {spec.num_rounds} rounds; {advice}"
        )
        raise FailedPrecondition("BUDGET_EXHAUSTED", message, field=f"{_PRIVACY}.budget")
    warnings = []
    num_units = len(nodes) if unit == "client" else math.ceil(spec.model.batch_size / privacy.example_rate)
    units = "nodes" if unit == "client" else "examples of a node (expected)"
    if num_units and (message := delta_warning(budget.delta, num_units, units)):
        warnings.append(warning("DELTA_TOO_LARGE", message))
    return PrivacyPlan(budget.name, unit, release, budget.delta, budget.epsilon_left), warnings


def _check_undebited(spec: FederatedRunSpec, federation: str, budgets: Budgets, tenant: str) -> None:
    """Checks that no data has a budget which the run would not debit.

    Encoders are fitted to the training split of the reference data, without noise. A run that protects examples has no
    bound on what it reveals about a node, so a budget that limits this excludes it. A run that protects nodes also
    protects each of their examples.
    """
    reference = spec.model.dataset_version.partition("/versions/")[0]
    unit = spec.privacy.unit if spec.privacy is not None else ""
    for budget in budgets.budgets_of(tenant, [reference, federation]):
        if budget.dataset == reference:
            remedy = "the reference data of a federated run is not protected, so choose another data set"
            raise has_budget(reference, budget.name, remedy, field="spec.model.dataset_version")
        if not unit:
            remedy = "add `privacy` with a budget of the federation to the spec; budgets cannot be removed"
            raise has_budget(federation, budget.name, remedy, field=_PRIVACY)
        if (unit, budget.unit) == ("example", "client"):
            remedy = "protect nodes (UNIT_CLIENT), because protected examples can still reveal a node"
            raise has_budget(federation, budget.name, remedy, field=f"{_PRIVACY}.unit")


def _release(spec: FederatedRunSpec, privacy: PrivacySpec, noise: float) -> Release:
    """Returns what is debited for one round.

    With the unit `example`, it is the release of the settings with which nodes sample. The sampling of nodes themselves
    is not accounted for: every node is treated as if it made all of its steps.
    """
    if privacy.unit == "client":
        return Release(noise, spec.sampling.rate or 1.0)
    with below("spec"):
        settings = FitSettings(local_epochs=spec.local_epochs, dp_sgd=_dp_sgd(spec, privacy, noise))
    with relabelled(f"{_PRIVACY}.example_rate"):
        check_count(steps_per_epoch(privacy.example_rate), "count")
    with relabelled("spec.local_epochs"):
        release = settings.release
    assert release is not None, "the settings have DP-SGD"
    return release


def _dp_sgd(spec: FederatedRunSpec, privacy: PrivacySpec, noise_multiplier: float) -> DpSgd:
    own = DpSgdSpec(noise_multiplier, clip_norm=privacy.clip_norm, example_rate=privacy.example_rate)
    with below("privacy"):
        return own.settings(spec.model.batch_size)


def _strategy(spec: FederatedRunSpec) -> Strategy:
    return strategy_from_spec(spec.strategy.name, spec.strategy.params)


def _limits(spec: FederatedRunSpec) -> UpdateLimits:
    """Returns which updates are refused.

    With privacy, the norms of updates would determine which other updates count, so there is no relative bound.
    """
    relative = spec.privacy is None and not spec.max_update_norm
    return UpdateLimits(spec.max_update_norm, max_norm_ratio=MAX_NORM_RATIO if relative else 0.0)


def _sampling(spec: FederatedRunSpec) -> Sampling:
    if spec.sampling.rate is not None:
        return Sampling("poisson", rate=spec.sampling.rate)
    if spec.sampling.num_nodes is not None:
        return Sampling("uniform", num_nodes=spec.sampling.num_nodes)
    return Sampling("all")


def _run_privacy(spec: FederatedRunSpec, privacy: PrivacyPlan | None) -> RunPrivacy | None:
    if spec.privacy is None or privacy is None:
        return None
    return RunPrivacy(cast(Unit, privacy.unit), privacy.budget, privacy.release, spec.privacy.clip_norm)
