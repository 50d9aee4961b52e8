"""Creates privacy budgets, and returns budgets and their debits. `ledger` debits and verifies budgets."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from common import names
from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import AlreadyExists, InvalidArgument, NotFound
from common.sources import MAX_SOURCE_BYTES, check_resource
from deepseek.privacy.releases import check_delta, check_epsilon
from services.registry.ledger_chain import Budget, Debit
from services.registry.resources import budget_name, parse_budget
from services.registry.tables import BudgetRow, DebitRow

UNITS = ("client", "example")
MAX_DATASETS = 10


class Budgets:
    """Privacy budgets of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, tenant: str, budget_id: str, dataset: str, unit: str, epsilon: float, delta: float, call: Repeatable
    ) -> Budget:
        """Creates a budget.

        Args:
            tenant: Tenant that will own the budget.
            budget_id: Id of the budget.
            dataset: Name of the protected data.
            unit: One of UNITS.
            epsilon: Upper limit of the privacy loss.
            delta: Probability with which the limit may not hold.
            call: Identity of the call, used to recognize repeats.

        Raises:
            InvalidArgument: BAD_NAME, BAD_UNIT, BAD_EPSILON, BAD_DELTA or TOO_LARGE.
            AlreadyExists: BUDGET_EXISTS, DATASET_HAS_BUDGET or REQUEST_ID_REUSED.
        """
        names.check_id(budget_id, field="budget_id")
        check_reference(dataset, field="dataset")
        if unit not in UNITS:
            message = f"the unit is unset or unknown; use {' or '.join(UNITS)}"
            raise InvalidArgument("BAD_UNIT", message, field="unit")
        check_epsilon(epsilon)
        check_delta(delta)
        budget = Budget(tenant, budget_id, dataset, unit, epsilon, delta, now_us())
        with self._database.transaction() as session:

            def effect() -> str:
                if session.get(BudgetRow, (tenant, budget_id)) is not None:
                    message = f"{budget.name!r} already exists; its limits cannot be changed"
                    raise AlreadyExists("BUDGET_EXISTS", message, field="budget_id")
                query = select(BudgetRow.budget_id).where(
                    BudgetRow.tenant == tenant, BudgetRow.dataset == dataset, BudgetRow.unit == unit
                )
                if other := session.scalar(query):
                    message = (
                        f"{budget_name(other)!r} already limits {dataset!r} for the unit {unit}; debit that budget"
                    )
                    raise AlreadyExists("DATASET_HAS_BUDGET", message, field="dataset")
                session.add(
                    BudgetRow(
                        tenant=tenant,
                        budget_id=budget_id,
                        dataset=dataset,
                        unit=unit,
                        epsilon=epsilon,
                        delta=delta,
                        num_debits=0,
                        epsilon_spent=0.0,
                        head_sha256=budget.sha256,
                        create_us=budget.create_us,
                    )
                )
                session.flush()
                return budget_id

            return to_budget(find_budget(session, tenant, once(session, tenant, call, effect), field="budget_id"))

    def get(self, tenant: str, name: str) -> Budget:
        """Returns a budget.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: BUDGET_NOT_FOUND.
        """
        budget_id = parse_budget(name, field="name")
        with self._database.snapshot() as session:
            return to_budget(find_budget(session, tenant, budget_id, field="name"))

    def list_budgets(self, tenant: str, page: PageRequest, *, datasets: Sequence[str] = ()) -> tuple[list[Budget], str]:
        """Returns a page of budgets, ordered by id, and the token of the next page.

        Args:
            tenant: Tenant that owns the budgets.
            page: Page to return.
            datasets: If not empty, only budgets that protect one of these data sets are returned.

        Raises:
            InvalidArgument: BAD_NAME, TOO_LARGE, BAD_PAGE_TOKEN or BAD_VALUE.
        """
        query = select(BudgetRow).where(BudgetRow.tenant == tenant)
        if len(datasets) > MAX_DATASETS:
            message = f"the request names {len(datasets)} data sets; at most {MAX_DATASETS} are accepted"
            raise InvalidArgument("TOO_LARGE", message, field="datasets")
        for index, dataset in enumerate(datasets):
            check_reference(dataset, field=f"datasets[{index}]")
        if datasets:
            query = query.where(BudgetRow.dataset.in_(datasets))
        scope = " ".join(["budgets", *sorted(datasets)])
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (BudgetRow.budget_id,), page, scope=scope)
            return list(map(to_budget, rows)), token

    def list_debits(self, tenant: str, parent: str, page: PageRequest) -> tuple[list[Debit], str]:
        """Returns a page of the debits of a budget, newest first, and the token of the next page.

        Raises:
            InvalidArgument: BAD_NAME, BAD_PAGE_TOKEN or BAD_VALUE.
            NotFound: BUDGET_NOT_FOUND.
        """
        budget_id = parse_budget(parent, field="parent")
        query = select(DebitRow).where(DebitRow.tenant == tenant, DebitRow.budget_id == budget_id)
        with self._database.snapshot() as session:
            find_budget(session, tenant, budget_id, field="parent")
            rows, token = fetch_page(
                session, query, (DebitRow.number,), page, scope=f"{parent}/debits", descending=True
            )
            return list(map(to_debit, rows)), token


def check_reference(name: str, *, field: str) -> None:
    """Checks the name of a resource that may be unknown to this registry.

    Raises:
        InvalidArgument: BAD_NAME or TOO_LARGE.
    """
    if (num_bytes := len(name.encode())) > MAX_SOURCE_BYTES:
        message = f"the name has {num_bytes} bytes in UTF-8; at most {MAX_SOURCE_BYTES} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field=field)
    check_resource(name, field=field)


def find_budget(session: Session, tenant: str, budget_id: str, *, field: str) -> BudgetRow:
    """Returns the row of a budget.

    Raises:
        NotFound: BUDGET_NOT_FOUND.
    """
    row = session.get(BudgetRow, (tenant, budget_id))
    if row is None:
        message = f"the budget {budget_name(budget_id)!r} does not exist; an administrator can create it"
        raise NotFound("BUDGET_NOT_FOUND", message, field=field)
    return row


def to_budget(row: BudgetRow) -> Budget:
    """Converts a row to a value."""
    return Budget(
        tenant=row.tenant,
        budget_id=row.budget_id,
        dataset=row.dataset,
        unit=row.unit,
        epsilon=row.epsilon,
        delta=row.delta,
        create_us=row.create_us,
        num_debits=row.num_debits,
        epsilon_spent=row.epsilon_spent,
        head_sha256=row.head_sha256,
    )


def to_debit(row: DebitRow) -> Debit:
    """Converts a row to a value."""
    return Debit(
        tenant=row.tenant,
        budget_id=row.budget_id,
        number=row.number,
        noise_multiplier=row.noise_multiplier,
        sampling_rate=row.sampling_rate,
        count=row.count,
        epsilon_spent=row.epsilon_spent,
        run=row.run,
        round=row.round,
        sealed_sha256=row.sealed_sha256,
        create_us=row.create_us,
        previous_sha256=row.previous_sha256,
        sha256=row.sha256,
    )


def to_row(debit: Debit) -> DebitRow:
    """Converts a value to a row."""
    return DebitRow(**vars(debit))
