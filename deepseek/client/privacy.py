"""Client of the ledger of privacy budgets. `protos/privacy/v1/privacy.proto` documents budgets and debits."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepseek.client.connection import Connection
from deepseek.client.names import budget_name
from deepseek.client.pages import pages
from deepseek.privacy.messages import DEADLINE_S
from protos.privacy.v1 import privacy_pb2, privacy_pb2_grpc


@dataclass(frozen=True)
class Verified:
    """What `Budgets.verify` found in an intact ledger.

    Attributes:
        budget: The budget.
        epsilon_recomputed: Privacy loss of all debits, computed again.
        num_audited_debits: Number of debits of the budget that the registry's audit log records.
    """

    budget: privacy_pb2.Budget
    epsilon_recomputed: float
    num_audited_debits: int


class Budgets:
    """Client of a mesh's privacy budgets, available as `Mesh.budgets`. A budget is named `<id>` or `budgets/<id>`."""

    def __init__(self, connection: Connection) -> None:
        self._stub = privacy_pb2_grpc.PrivacyServiceStub(connection.channel("registry"))

    def create(
        self,
        budget: str,
        *,
        dataset: str,
        unit: privacy_pb2.Unit,
        epsilon: float,
        delta: float,
        request_id: str = "",
    ) -> privacy_pb2.Budget:
        """Creates a budget.

        Args:
            budget: Name of the new budget.
            dataset: Name of the protected data, e.g. `federations/clinics`.
            unit: What the budget protects: `UNIT_CLIENT` or `UNIT_EXAMPLE`.
            epsilon: Upper limit of the privacy loss.
            delta: Probability with which the limit may not hold.
            request_id: Id under which the call may be repeated; a new one by default.

        Raises:
            MeshError: Any error that `PrivacyService.CreateBudget` documents.
        """
        request = privacy_pb2.CreateBudgetRequest(
            budget_id=budget_name(budget, field="budget").removeprefix("budgets/"),
            dataset=dataset,
            unit=unit,
            epsilon=epsilon,
            delta=delta,
            request_id=request_id or uuid.uuid4().hex,
        )
        created: privacy_pb2.Budget = self._stub.CreateBudget(request).budget
        return created

    def get(self, budget: str) -> privacy_pb2.Budget:
        """Returns a budget."""
        found: privacy_pb2.Budget = self._stub.GetBudget(
            privacy_pb2.GetBudgetRequest(name=budget_name(budget, field="budget"))
        ).budget
        return found

    def list(self, *, datasets: Sequence[str] = ()) -> Iterator[privacy_pb2.Budget]:
        """Yields budgets, ordered by id.

        Args:
            datasets: Names of data, e.g. `datasets/d`: only their budgets are yielded. Empty means all budgets.
        """
        for page in pages(self._stub.ListBudgets, privacy_pb2.ListBudgetsRequest(datasets=datasets)):
            yield from page.budgets

    def preview(self, budget: str, release: privacy_pb2.Release) -> privacy_pb2.PreviewDebitResponse:
        """Returns what a debit would cost, and how many such releases still fit. Debits nothing."""
        request = privacy_pb2.PreviewDebitRequest(budget=budget_name(budget, field="budget"), release=release)
        response: privacy_pb2.PreviewDebitResponse = self._stub.PreviewDebit(request, timeout=DEADLINE_S)
        return response

    def debit(
        self,
        budget: str,
        release: privacy_pb2.Release,
        *,
        run: str,
        round: int = 0,
        sealed_sha256: str = "",
        request_id: str = "",
    ) -> privacy_pb2.DebitResponse:
        """Debits a budget. Call this before the result is released, and release it only if the call succeeds.

        Args:
            budget: Name of the budget.
            release: The release, or several equal ones.
            run: Name of the run that releases the result, e.g. `runs/<id>`.
            round: Number of the round of the run, starting at 1; 0 if the debit covers a run as a whole.
            sealed_sha256: SHA-256 of the noisy result; empty if the result does not exist yet.
            request_id: Id under which the call may be repeated. Give one that is stored with the result, so that a
                retry after a crash does not debit twice. By default, each call of this method is a debit of its own.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED. Nothing was debited.
            MeshError: Any other error that `PrivacyService.Debit` documents.
        """
        request = privacy_pb2.DebitRequest(
            budget=budget_name(budget, field="budget"),
            release=release,
            run=run,
            round=round,
            sealed_sha256=sealed_sha256,
            request_id=request_id or uuid.uuid4().hex,
        )
        response: privacy_pb2.DebitResponse = self._stub.Debit(request, timeout=DEADLINE_S)
        return response

    def debits(self, budget: str) -> Iterator[privacy_pb2.Debit]:
        """Yields every debit of a budget, newest first."""
        request = privacy_pb2.ListDebitsRequest(parent=budget_name(budget, field="budget"), page_size=1000)
        for page in pages(self._stub.ListDebits, request):
            yield from page.debits

    def verify(self, budget: str, known: Sequence[tuple[str, str]] = ()) -> Verified:
        """Verifies the hash chain and the privacy loss of a budget.

        Args:
            budget: Name of the budget.
            known: Debits that the ledger must contain: the `name` and the `sha256` of each.

        Raises:
            DataLoss: LEDGER_TAMPERED. The message names the first debit that is wrong.
        """
        request = privacy_pb2.VerifyBudgetRequest(name=budget_name(budget, field="budget"))
        for name, sha256 in known:
            request.known_debits.add(name=name, sha256=sha256)
        response: privacy_pb2.VerifyBudgetResponse = self._stub.VerifyBudget(request, timeout=DEADLINE_S)
        return Verified(response.budget, response.epsilon_recomputed, response.num_audited_debits)
