"""Private runs: chooses the noise before a run exists, debits the budget before it reports, states the guarantee.

A run is debited once, for all of its steps. A trainer that has been restarted finds the debit by the name of the run,
the budget and the release.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from common.errors import FailedPrecondition
from common.remote import relabelled
from deepseek.privacy.budgeted import has_budget
from deepseek.privacy.releases import Release, delta_warning
from deepseek.trainjob.runspec import RunSpec
from services.trainer.ports import Debit, Guarantee, Ledger
from services.trainer.run import Run

_PRIVACY = "spec.privacy"
_BUDGET = f"{_PRIVACY}.budget"


class PrivateRuns:
    """Debits the budgets of private runs. Thread-safe.

    Args:
        ledger: Ledger of privacy budgets.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def choose_noise(self, tenant: str, spec: RunSpec) -> float | None:
        """Checks that a run debits the budget of its data, if there is one, and decides how much noise it needs.

        Args:
            tenant: Tenant that owns run and budget.
            spec: Complete spec.

        Returns:
            The noise multiplier; None without `privacy`.

        Raises:
            NotFound: BUDGET_NOT_FOUND.
            FailedPrecondition: BUDGET_MISMATCH; DATASET_HAS_BUDGET without `privacy`, or if a budget protects clients.
            InvalidArgument: BAD_EPSILON if no noise is enough; BAD_COUNT if the run has too many steps.
            MeshError: The ledger did not respond.
        """
        dataset = spec.dataset_version.partition("/versions/")[0]
        if spec.privacy is None:
            self._check_undebited(tenant, dataset, is_private=False)
            return None
        budget = self._ledger.find(tenant, spec.privacy.budget, field=_BUDGET)
        if budget.dataset != dataset or not budget.protects_examples:
            unit = "examples" if budget.protects_examples else "clients"
            message = (
                f"{budget.name} protects {unit} of {budget.dataset}, but the run needs a budget for examples of "
                f"{dataset}"
            )
            raise FailedPrecondition("BUDGET_MISMATCH", message, field=_BUDGET)
        self._check_undebited(tenant, dataset, is_private=True)
        noise = spec.privacy.noise_multiplier
        return _noise_for(spec, budget.delta) if noise is None else noise

    def check_budget(self, tenant: str, spec: RunSpec, noise: float | None, active: Sequence[Run] = ()) -> None:
        """Checks that the budget of a private run suffices, also for runs that have not debited it yet. Debits nothing.

        Args:
            tenant: Tenant that owns run and budget.
            spec: Complete spec; nothing is checked without `privacy`.
            noise: Noise multiplier that `choose_noise` has returned.
            active: Runs that share the budget and have not ended.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED.
            InvalidArgument: BAD_COUNT if the run has too many steps.
            MeshError: The ledger did not respond, or has been tampered with.
        """
        if spec.privacy is None:
            return
        with relabelled("spec.epochs"):
            release = replace(spec.privacy, noise_multiplier=noise).release(spec.epochs)
        planned = self._planned(tenant, spec.privacy.budget, active)
        with relabelled(_BUDGET):
            fitting = self._ledger.num_fitting(tenant, spec.privacy.budget, release, planned)
        if fitting < release.count:
            # With a target, fewer steps get less noise each, and cost as much together.
            has_target = spec.privacy.target_epsilon is not None
            advice = "choose a smaller epsilon" if has_target else "train for fewer epochs, or add more noise"
            others = f"besides the {len(planned)} of its runs that have not debited it yet, " if planned else ""
            message = (
                f"the run makes {release.count} private steps, but {others}{spec.privacy.budget} suffices for only "
                f"{fitting}; {advice}"
            )
            raise FailedPrecondition("BUDGET_EXHAUSTED", message, field=_BUDGET)

    def _planned(self, tenant: str, budget: str, active: Sequence[Run]) -> list[Release]:
        """Returns what runs that have not ended will still debit.

        A run may debit the budget after this method has looked, and then counts twice. In that case, a run may be
        refused that would fit.
        """
        releases = [(run.name, run.release) for run in active]
        return [
            release
            for name, release in releases
            if release is not None and not self._ledger.find_debit(tenant, budget, release, run=name)
        ]

    def warnings(self, tenant: str, spec: RunSpec) -> list[str]:
        """Returns what a user should know about the guarantee of a private run whose spec has been checked.

        The number of examples in the warning is the expected one. The real one may be private.
        """
        if spec.privacy is None:
            return []
        delta = self._ledger.find(tenant, spec.privacy.budget, field=_BUDGET).delta
        num_examples = math.ceil(spec.batch_size / spec.privacy.example_rate)
        message = delta_warning(delta, num_examples, "examples of the training split (expected)")
        return [message] if message else []

    def debit(self, run: Run) -> Debit:
        """Debits the budget of a private run, unless this has been done.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED; nothing was debited.
            MeshError: The ledger did not respond, or has been tampered with.
        """
        assert run.spec.privacy is not None, "only private runs are debited"
        assert run.release is not None, "only private runs are debited"
        budget, release = run.spec.privacy.budget, run.release
        # The request id is known for a few days only, and a run may be resumed later.
        if found := self._ledger.find_debit(run.tenant, budget, release, run=run.name):
            return found
        return self._ledger.debit(run.tenant, budget, release, run=run.name, request_id=f"run-{run.run_id}")

    def guarantee(self, run: Run) -> Guarantee | None:
        """Returns the guarantee of a run's model; None without `privacy`.

        Raises:
            MeshError: The ledger did not respond, or has been tampered with.
        """
        if run.spec.privacy is None:
            return None
        debit = self.debit(run)
        budget = self._ledger.find(run.tenant, run.spec.privacy.budget, field=_BUDGET)
        return Guarantee(debit.epsilon_spent, budget.delta, run.spec.privacy.example_rate < 1, debit.name)

    def _check_undebited(self, tenant: str, dataset: str, *, is_private: bool) -> None:
        """Checks that the data have no budget which the run would not debit.

        A private run protects examples; it has no bound on what it reveals about a client that contributes several.
        """
        budgets = self._ledger.budgets_of(tenant, dataset)
        for budget in sorted(budgets, key=lambda one: one.protects_examples):
            if not budget.protects_examples:
                remedy = "it protects clients, which a training run cannot; train on another data set"
                raise has_budget(dataset, budget.name, remedy, field=_PRIVACY)
            if not is_private:
                remedy = "add `privacy` with this budget, or train on another data set; budgets cannot be removed"
                raise has_budget(dataset, budget.name, remedy, field=_PRIVACY)


def _noise_for(spec: RunSpec, delta: float) -> float:
    """Returns the smallest noise multiplier with which a run spends at most the epsilon that its spec aims at."""
    privacy = spec.privacy
    assert privacy is not None, "the run is private"
    assert privacy.target_epsilon is not None, "the spec has been checked"
    # Imported here, because it loads SciPy.
    from deepseek.privacy.accounting import noise_multiplier_for

    with relabelled(f"{_PRIVACY}.target_epsilon", field_of_reason={"BAD_COUNT": "spec.epochs"}):
        return noise_multiplier_for(privacy.target_epsilon, delta, privacy.example_rate, privacy.num_steps(spec.epochs))
