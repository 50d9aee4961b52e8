"""Debits and verifies privacy budgets. `budgets` creates and lists them.

A debit is committed before the call that makes it returns, and only if the privacy loss of all debits, including the
new one, stays within the budget. That loss can take seconds to compute, so it is computed without the database's write
lock; the transaction then checks that the ledger has not changed meanwhile. Each process handles the debits of one
budget one at a time, so that they do not repeat each other's work; and so its previews, which debits do not wait for.
The hash chain is in `ledger_chain`, the accounting in `deepseek.privacy`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from weakref import WeakValueDictionary

from sqlalchemy import select

from common import deadline
from common.artifacts.artifact import check_sha256
from common.database import Database, Repeatable, now_us, once
from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from deepseek.privacy.releases import Release
from services.registry.budgets import check_reference, find_budget, to_budget, to_debit, to_row
from services.registry.ledger_audit import AuditedDebits
from services.registry.ledger_chain import Budget, Debit, check_chain, check_known, known_numbers, tampered
from services.registry.resources import budget_name, debit_name, parse_budget
from services.registry.tables import DebitRow

MAX_PLANNED = 1000
MAX_PLANNED_KINDS = 32
"""Number of different sampled releases of a preview; each needs a composition. All that are not sampled are one."""

_TURN_S = 60.0
_MAX_TRIES = 4
_TOLERANCE = 1e-3
"""Relative difference of two computations of one privacy loss, e.g. by two versions of the accounting."""


@dataclass(frozen=True)
class NewDebit:
    """The parts of a debit that the caller provides. `Debit` documents the fields."""

    release: Release
    run: str
    round: int = 0
    sealed_sha256: str = ""

    def check(self) -> None:
        """Rejects values that are invalid regardless of what the ledger contains.

        Raises:
            InvalidArgument: BAD_NAME, BAD_NOISE, BAD_VALUE, BAD_DIGEST or TOO_LARGE.
        """
        _check_noise(self.release)
        check_reference(self.run, field="run")
        if self.round < 0:
            raise InvalidArgument("BAD_VALUE", f"round is {self.round}; rounds start at 1", field="round")
        if self.sealed_sha256:
            check_sha256(self.sealed_sha256, field="sealed_sha256")


@dataclass(frozen=True)
class Preview:
    """What a debit would cost.

    Attributes:
        epsilon_spent: Privacy loss of all debits so far.
        epsilon_after: Privacy loss after the debit.
        fits: Whether the debit would succeed.
        max_count: Number of releases of this kind that still fit.
    """

    epsilon_spent: float
    epsilon_after: float
    fits: bool
    max_count: int


@dataclass(frozen=True)
class Verified:
    """An intact ledger.

    Attributes:
        budget: The budget.
        epsilon_recomputed: Privacy loss of all debits, computed again.
        num_audited: Number of debits that the audit log records.
    """

    budget: Budget
    epsilon_recomputed: float
    num_audited: int


@dataclass(frozen=True)
class _Accounted:
    """The privacy loss after a debit, for one state of the ledger; with the refusal if the budget is exceeded."""

    head_sha256: str
    epsilon: float
    refusal: FailedPrecondition | None


class _NotAccounted(Exception):
    """The ledger has debits that the computed privacy loss does not include."""


class Ledger:
    """Debits of the budgets of all tenants. Thread-safe, also if several processes use the database.

    Args:
        database: Migrated database; borrowed, not closed.
        audited: Debits in the audit log of this process.
    """

    def __init__(self, database: Database, audited: AuditedDebits) -> None:
        self._database = database
        self._audited = audited
        self._last: dict[tuple[str, str], tuple[int, str]] = {}
        self._turns: WeakValueDictionary[tuple[str, str, str], threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def preview(self, tenant: str, name: str, release: Release, planned: Sequence[Release] = ()) -> Preview:
        """Computes what a debit would cost, and how many such releases still fit.

        Args:
            tenant: Tenant that owns the budget.
            name: Name of the budget.
            release: The release.
            planned: Releases that will be debited before it.

        Raises:
            InvalidArgument: BAD_NAME, BAD_NOISE, BAD_RATE, BAD_COUNT or TOO_LARGE.
            NotFound: BUDGET_NOT_FOUND.
            DataLoss: LEDGER_TAMPERED.
            Unavailable: BUDGET_BUSY or ACCOUNTING_BUSY.
        """
        budget_id = parse_budget(name, field="budget")
        _check_noise(release)
        if len(planned) > MAX_PLANNED:
            message = f"the request has {len(planned)} planned releases; at most {MAX_PLANNED} are accepted"
            raise InvalidArgument("TOO_LARGE", message, field="planned")
        kinds = {(one.noise_multiplier, one.sampling_rate) for one in planned if one.sampling_rate < 1}
        if len(kinds) > MAX_PLANNED_KINDS:
            message = f"the planned releases are of {len(kinds)} kinds; at most {MAX_PLANNED_KINDS} are accepted"
            raise InvalidArgument("TOO_LARGE", message, field="planned")
        for index, one in enumerate(planned):
            _check_noise(one, f"planned[{index}]")
        with self._turn(tenant, budget_id, "preview"):
            budget, debits = self._read(tenant, budget_id, field="budget")
            spent = (*_releases(debits), *planned)
            after = _epsilon((*spent, release), budget.delta)
            return Preview(budget.epsilon_spent, after, after <= budget.epsilon, _max_count(budget, spent, release))

    def debit(self, tenant: str, name: str, new: NewDebit, call: Repeatable) -> tuple[Debit, Budget]:
        """Debits a budget.

        Args:
            tenant: Tenant that owns the budget.
            name: Name of the budget.
            new: The release, and what it belongs to.
            call: Identity of the call, used to recognize repeats.

        Returns:
            The debit, and the budget with it.

        Raises:
            InvalidArgument: BAD_NAME, or a reason of `NewDebit.check`.
            NotFound: BUDGET_NOT_FOUND.
            FailedPrecondition: BUDGET_EXHAUSTED.
            DataLoss: LEDGER_TAMPERED.
            AlreadyExists: REQUEST_ID_REUSED.
            Unavailable: BUDGET_BUSY or ACCOUNTING_BUSY.
        """
        budget_id = parse_budget(name, field="budget")
        new.check()
        accounted: _Accounted | None = None
        with self._turn(tenant, budget_id, "debit"):
            for tries_left in reversed(range(_MAX_TRIES)):
                try:
                    # The first attempt only checks whether the call is a repeat, which needs no accounting.
                    debit, budget = self._commit(tenant, budget_id, new, accounted, call, waits=not tries_left)
                    break
                except _NotAccounted:
                    accounted = self._account(tenant, budget_id, new.release)
            self._remember((tenant, budget_id), debit.number, debit.sha256)
            return debit, budget

    def verify(self, tenant: str, name: str, known: Sequence[tuple[str, str]] = ()) -> Verified:
        """Recomputes the chain and the privacy loss of a budget, and compares them with data from outside the ledger.

        Args:
            tenant: Tenant that owns the budget.
            name: Name of the budget.
            known: Names and digests of debits that the ledger must contain.

        Raises:
            InvalidArgument: BAD_NAME, BAD_DIGEST or TOO_LARGE.
            NotFound: BUDGET_NOT_FOUND.
            DataLoss: LEDGER_TAMPERED.
        """
        budget_id = parse_budget(name, field="name")
        numbers = known_numbers(budget_id, known)
        audited = self._audited.debits(tenant, budget_id)  # read first: the ledger may receive further debits
        budget, debits = self._read(tenant, budget_id, field="name")
        check_known(budget, debits, [*audited.items(), *numbers])
        recomputed = _epsilon(_releases(debits), budget.delta)
        if recomputed > budget.epsilon_spent * (1 + _TOLERANCE) + _TOLERANCE:
            tampered(f"{budget.name!r} states a privacy loss of {budget.epsilon_spent}; its debits cost {recomputed}")
        return Verified(budget, recomputed, len(audited))

    def _account(self, tenant: str, budget_id: str, release: Release) -> _Accounted:
        budget, debits = self._read(tenant, budget_id, field="budget")
        spent = _releases(debits)
        after = _epsilon((*spent, release), budget.delta)
        refusal = None
        if not after <= budget.epsilon:
            fits = _max_count(budget, spent, release)
            message = (
                f"the debit would raise the privacy loss of {budget.name!r} from {budget.epsilon_spent:.6g} to "
                f"{after:.6g}, above its limit of {budget.epsilon:g} at delta {budget.delta:g} "
                f"({budget.epsilon - budget.epsilon_spent:.6g} left); "
                f"{fits or 'no'} more such release{'s' * (fits != 1)} would fit"
            )
            refusal = FailedPrecondition("BUDGET_EXHAUSTED", message, field="release")
        return _Accounted(budget.head_sha256, after, refusal)

    def _commit(
        self,
        tenant: str,
        budget_id: str,
        new: NewDebit,
        accounted: _Accounted | None,
        call: Repeatable,
        *,
        waits: bool,
    ) -> tuple[Debit, Budget]:
        """Adds the debit if `accounted` belongs to the current state of the ledger.

        Otherwise, raises _NotAccounted or, if `waits` is set, computes the privacy loss again while all other writes
        wait. The caller finally sets `waits`, because debits of other processes could otherwise precede this one again
        and again.
        """
        with self._database.transaction() as session:
            row = find_budget(session, tenant, budget_id, field="budget")

            def effect() -> str:
                found = accounted
                if found is None or found.head_sha256 != row.head_sha256:
                    if not waits:
                        raise _NotAccounted
                    found = self._account(tenant, budget_id, new.release)
                if found.refusal:
                    raise found.refusal
                debit = Debit(
                    tenant,
                    budget_id,
                    row.num_debits + 1,
                    new.release.noise_multiplier,
                    new.release.sampling_rate,
                    new.release.count,
                    found.epsilon,
                    new.run,
                    new.round,
                    new.sealed_sha256,
                    now_us(),
                    row.head_sha256,
                )
                sha256 = debit.digest()
                session.add(to_row(replace(debit, sha256=sha256)))
                row.num_debits, row.epsilon_spent, row.head_sha256 = debit.number, found.epsilon, sha256
                session.flush()
                return str(debit.number)

            number = int(once(session, tenant, call, effect))
            made = session.get(DebitRow, (tenant, budget_id, number))
            if made is None or to_debit(made).digest() != made.sha256:
                tampered(f"{debit_name(budget_id, number)!r} was changed or is missing")
            return to_debit(made), to_budget(row)

    def _read(self, tenant: str, budget_id: str, *, field: str) -> tuple[Budget, list[Debit]]:
        """Returns a budget and all of its debits, in order, after the check that none was changed or is missing."""
        key = (tenant, budget_id)
        # Read before the ledger, which may receive further debits meanwhile. A new process has no record of earlier
        # debits, so the audit log is read.
        with self._guard:
            last = self._last.get(key)
        known = [last] if last else list(self._audited.debits(tenant, budget_id).items())
        # Plain tuples, because a ledger may have thousands of debits, and each call reads all of them.
        columns = (getattr(DebitRow, one.name) for one in fields(Debit))
        query = select(*columns).where(DebitRow.tenant == tenant, DebitRow.budget_id == budget_id)
        with self._database.snapshot() as session:
            budget = to_budget(find_budget(session, tenant, budget_id, field=field))
            debits = [Debit(*row) for row in session.execute(query.order_by(DebitRow.number))]
        check_chain(budget, debits)
        check_known(budget, debits, known)
        self._remember(key, len(debits), debits[-1].sha256 if debits else "")
        return budget, debits

    def _remember(self, key: tuple[str, str], number: int, sha256: str) -> None:
        """Keeps the last debit of a budget in memory, so that its removal is detected."""
        with self._guard:
            if number >= self._last.get(key, (0, ""))[0]:
                self._last[key] = number, sha256

    @contextmanager
    def _turn(self, tenant: str, budget_id: str, work: str) -> Iterator[None]:
        """Waits for other work of this kind on the budget in this process."""
        with self._guard:
            lock = self._turns.setdefault((tenant, budget_id, work), threading.Lock())
        if not lock.acquire(timeout=deadline.within(_TURN_S) or 0):
            raise _busy(budget_id)
        try:
            yield
        finally:
            lock.release()


def _check_noise(release: Release, field: str = "release") -> None:
    if release.noise_multiplier == 0:
        message = (
            "the noise multiplier is 0; the privacy loss of a result without noise is infinite, so it cannot be debited"
        )
        raise InvalidArgument("BAD_NOISE", message, field=f"{field}.noise_multiplier")


def _releases(debits: Sequence[Debit]) -> tuple[Release, ...]:
    return tuple(debit.release for debit in debits)


def _epsilon(releases: Sequence[Release], delta: float) -> float:
    from deepseek.privacy.accounting import epsilon  # imports SciPy, which the registry does not need otherwise

    return epsilon(releases, delta)


def _max_count(budget: Budget, spent: Sequence[Release], release: Release) -> int:
    from deepseek.privacy.accounting import max_releases

    return max_releases(budget.epsilon, budget.delta, spent, replace(release, count=1))


def _busy(budget_id: str) -> Unavailable:
    message = f"the cost of other debits of {budget_name(budget_id)!r} is being computed; try again"
    return Unavailable("BUDGET_BUSY", message, retry_delay_s=1)
