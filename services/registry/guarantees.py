"""Privacy guarantees of model versions: what a version reveals about the data that it was trained on."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import InvalidArgument, NotFound
from deepseek.privacy.releases import check_delta, check_epsilon
from services.registry.budgets import UNITS, find_budget
from services.registry.resources import Guarantee, Kind, debit_name, parse_debit
from services.registry.tables import DebitRow, GuaranteeRow

ADJACENCIES = ("add_remove",)
SAMPLINGS = ("none", "poisson")

_NUMBERS_PER_QUERY = 500


def check_guarantee(guarantee: Guarantee) -> None:
    """Rejects a guarantee that is invalid regardless of what the registry contains.

    Raises:
        InvalidArgument: BAD_EPSILON, BAD_DELTA, BAD_UNIT, BAD_ADJACENCY, BAD_SAMPLING or BAD_NAME.
    """
    check_epsilon(guarantee.epsilon, "privacy.epsilon")
    check_delta(guarantee.delta, "privacy.delta")
    for what, known in (("unit", UNITS), ("adjacency", ADJACENCIES), ("sampling", SAMPLINGS)):
        if getattr(guarantee, what) not in known:
            message = f"the {what} is unset or unknown; use {' or '.join(known)}"
            raise InvalidArgument(f"BAD_{what.upper()}", message, field=f"privacy.{what}")
    if guarantee.debit:
        parse_debit(guarantee.debit, field="privacy.debit")


def record_guarantee(
    session: Session,
    tenant: str,
    kind: Kind,
    series_id: str,
    number: int,
    guarantee: Guarantee,
    sources: Sequence[str],
) -> None:
    """Stores the guarantee of a version that this transaction creates, whose sources are `sources`.

    Raises:
        NotFound: BUDGET_NOT_FOUND or DEBIT_NOT_FOUND.
        InvalidArgument: WRONG_GUARANTEE if the guarantee promises more than its debit, or if the run that made the
            debit is not among the sources.
    """
    if guarantee.debit:
        _compare(session, tenant, guarantee, sources)
    session.add(GuaranteeRow(tenant=tenant, kind=kind.value, series_id=series_id, number=number, **vars(guarantee)))


def guarantees_of(
    session: Session, tenant: str, kind: Kind, series_id: str, numbers: Sequence[int]
) -> dict[int, Guarantee]:
    """Returns the guarantees of versions of one series, by the number of the version."""
    found = {}
    for start in range(0, len(numbers), _NUMBERS_PER_QUERY):
        query = select(GuaranteeRow).where(
            GuaranteeRow.tenant == tenant,
            GuaranteeRow.kind == kind.value,
            GuaranteeRow.series_id == series_id,
            GuaranteeRow.number.in_(numbers[start : start + _NUMBERS_PER_QUERY]),
        )
        for row in session.scalars(query):
            found[row.number] = Guarantee(row.epsilon, row.delta, row.unit, row.adjacency, row.sampling, row.debit)
    return found


def _compare(session: Session, tenant: str, guarantee: Guarantee, sources: Sequence[str]) -> None:
    budget_id, number = parse_debit(guarantee.debit, field="privacy.debit")
    budget = find_budget(session, tenant, budget_id, field="privacy.debit")
    debit = session.get(DebitRow, (tenant, budget_id, number))
    if debit is None:
        message = f"the debit {debit_name(budget_id, number)!r} does not exist"
        raise NotFound("DEBIT_NOT_FOUND", message, field="privacy.debit")
    if guarantee.unit != budget.unit:
        message = f"the unit is {guarantee.unit}; the budget of {guarantee.debit!r} protects the unit {budget.unit}"
        raise InvalidArgument("WRONG_GUARANTEE", message, field="privacy.unit")
    if guarantee.delta != budget.delta:
        message = f"delta is {guarantee.delta}; the budget of {guarantee.debit!r} has delta {budget.delta}"
        raise InvalidArgument("WRONG_GUARANTEE", message, field="privacy.delta")
    if guarantee.epsilon < debit.epsilon_spent:
        message = f"epsilon is {guarantee.epsilon}; {debit.epsilon_spent} was spent after {guarantee.debit!r}"
        raise InvalidArgument("WRONG_GUARANTEE", message, field="privacy.epsilon")
    if debit.run and debit.run not in sources:
        message = f"{guarantee.debit!r} was made by {debit.run}, which is not among the sources of the version"
        raise InvalidArgument("WRONG_GUARANTEE", message, field="privacy.debit")
    sampling = "poisson" if debit.sampling_rate < 1 else "none"
    if guarantee.sampling != sampling:
        message = (
            f"the sampling is {guarantee.sampling}; the releases of {guarantee.debit!r} have the sampling rate "
            f"{debit.sampling_rate:g}, so it must be {sampling}"
        )
        raise InvalidArgument("WRONG_GUARANTEE", message, field="privacy.sampling")
