"""gRPC client for the ledger of privacy budgets, which the registry hosts."""

from collections.abc import Sequence

import grpc

from common.auth.identity import on_behalf_of
from common.remote import relabelled
from deepseek.privacy.messages import DEADLINE_S, release_to_proto
from deepseek.privacy.releases import Release
from protos.privacy.v1 import privacy_pb2, privacy_pb2_grpc
from services.trainer.ports import Budget, Debit

_PAGE_SIZE = 1000


class LedgerClient:
    """Implements `ports.Ledger`.

    Args:
        channel: Channel to the registry from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = privacy_pb2_grpc.PrivacyServiceStub(channel)

    def find(self, tenant: str, name: str, *, field: str) -> Budget:
        """See `Ledger.find`."""
        with relabelled(field):
            request = privacy_pb2.GetBudgetRequest(name=name)
            return _budget(self._stub.GetBudget(request, metadata=on_behalf_of(tenant)).budget)

    def budgets_of(self, tenant: str, dataset: str) -> Sequence[Budget]:
        """See `Ledger.budgets_of`."""
        request = privacy_pb2.ListBudgetsRequest(datasets=[dataset])
        return [_budget(one) for one in self._stub.ListBudgets(request, metadata=on_behalf_of(tenant)).budgets]

    def num_fitting(self, tenant: str, budget: str, release: Release, planned: Sequence[Release] = ()) -> int:
        """See `Ledger.num_fitting`."""
        request = privacy_pb2.PreviewDebitRequest(
            budget=budget, release=release_to_proto(release), planned=[release_to_proto(one) for one in planned]
        )
        response = self._stub.PreviewDebit(request, timeout=DEADLINE_S, metadata=on_behalf_of(tenant))
        return int(response.max_count)

    def debit(self, tenant: str, budget: str, release: Release, *, run: str, request_id: str) -> Debit:
        """See `Ledger.debit`."""
        request = privacy_pb2.DebitRequest(
            budget=budget, release=release_to_proto(release), run=run, request_id=request_id
        )
        debit = self._stub.Debit(request, timeout=DEADLINE_S, metadata=on_behalf_of(tenant)).debit
        return Debit(debit.name, debit.epsilon_spent)

    def find_debit(self, tenant: str, budget: str, release: Release, *, run: str) -> Debit | None:
        """See `Ledger.find_debit`."""
        wanted = (run, 0, release_to_proto(release))
        token = ""
        while True:
            request = privacy_pb2.ListDebitsRequest(parent=budget, page_size=_PAGE_SIZE, page_token=token)
            page = self._stub.ListDebits(request, metadata=on_behalf_of(tenant))
            for debit in page.debits:
                if (debit.run, debit.round, debit.release) == wanted:
                    return Debit(debit.name, debit.epsilon_spent)
            token = page.next_page_token
            if not token:
                return None


def _budget(budget: privacy_pb2.Budget) -> Budget:
    return Budget(budget.name, budget.dataset, budget.unit == privacy_pb2.UNIT_EXAMPLE, budget.delta)
