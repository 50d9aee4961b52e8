"""gRPC client for the ledger of privacy budgets, which the registry hosts."""

from collections.abc import Collection, Iterator, Sequence

import grpc

from common.auth.identity import on_behalf_of
from common.proto import enum_word
from common.remote import relabelled
from deepseek.federated.ports import Debit, Preview
from deepseek.privacy.messages import DEADLINE_S, release_to_proto
from deepseek.privacy.releases import Release
from protos.privacy.v1 import privacy_pb2, privacy_pb2_grpc
from services.federated.ports import Budget

_PAGE_SIZE = 1000


class LedgerClient:
    """Implements `ports.Budgets`.

    Args:
        channel: Channel to the registry from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = privacy_pb2_grpc.PrivacyServiceStub(channel)

    def find(self, tenant: str, name: str, *, field: str) -> Budget:
        """See `Budgets.find`."""
        with relabelled(field):
            request = privacy_pb2.GetBudgetRequest(name=name)
            return _budget(self._stub.GetBudget(request, metadata=on_behalf_of(tenant)).budget)

    def budgets_of(self, tenant: str, names: Sequence[str]) -> Sequence[Budget]:
        """See `Budgets.budgets_of`."""
        request = privacy_pb2.ListBudgetsRequest(datasets=names)
        return [_budget(one) for one in self._stub.ListBudgets(request, metadata=on_behalf_of(tenant)).budgets]

    def preview(self, tenant: str, budget: str, release: Release, planned: Sequence[Release] = ()) -> Preview:
        """See `Budgets.preview`."""
        request = privacy_pb2.PreviewDebitRequest(
            budget=budget, release=release_to_proto(release), planned=[release_to_proto(one) for one in planned]
        )
        response = self._stub.PreviewDebit(request, timeout=DEADLINE_S, metadata=on_behalf_of(tenant))
        return Preview(response.epsilon_after, response.max_count)

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
        """See `Budgets.debit`."""
        request = privacy_pb2.DebitRequest(
            budget=budget,
            release=release_to_proto(release),
            run=run,
            round=round_number,
            sealed_sha256=sealed_sha256,
            request_id=request_id,
        )
        response = self._stub.Debit(request, timeout=DEADLINE_S, metadata=on_behalf_of(tenant))
        return _debit(response.debit, response.budget.epsilon)

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
        """See `Budgets.find_debit`."""
        wanted = (run, round_number, release_to_proto(release), sealed_sha256)
        for one in self._debits(tenant, budget):
            if (one.run, one.round, one.release, one.sealed_sha256) == wanted and one.name not in others:
                request = privacy_pb2.GetBudgetRequest(name=budget)
                found = self._stub.GetBudget(request, metadata=on_behalf_of(tenant)).budget
                return _debit(one, found.epsilon)
        return None

    def sealed_sha256(self, tenant: str, budget: str, debit: str) -> str | None:
        """See `Budgets.sealed_sha256`."""
        found = (str(one.sealed_sha256) for one in self._debits(tenant, budget) if one.name == debit)
        return next(found, None)

    def _debits(self, tenant: str, budget: str) -> Iterator[privacy_pb2.Debit]:
        """Yields the debits of a budget, newest first."""
        request = privacy_pb2.ListDebitsRequest(parent=budget, page_size=_PAGE_SIZE)
        while True:
            page = self._stub.ListDebits(request, metadata=on_behalf_of(tenant))
            yield from page.debits
            request.page_token = page.next_page_token
            if not request.page_token:
                return


def _budget(budget: privacy_pb2.Budget) -> Budget:
    return Budget(
        budget.name,
        budget.dataset,
        enum_word(privacy_pb2.Unit, budget.unit),
        budget.epsilon,
        budget.delta,
        budget.epsilon_spent,
        budget.epsilon_left,
    )


def _debit(debit: privacy_pb2.Debit, limit: float) -> Debit:
    # The budget may include later debits of other runs; the debit says what was spent when it was made.
    left = max(0.0, limit - debit.epsilon_spent)
    return Debit(debit.name, debit.epsilon_spent, left, debit.sealed_sha256)
