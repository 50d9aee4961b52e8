"""The ledger of a simulated federation."""

from collections.abc import Callable, Collection
from typing import Any

from common.errors import FailedPrecondition
from deepseek.federated.ports import Debit, Ledger, Preview
from deepseek.privacy.releases import Release


def _no_faults(name: str, call: Callable[[], Any]) -> Any:
    return call()


class SimulatedLedger(Ledger):
    """Counts the releases of one budget: each costs 1 epsilon.

    Attributes:
        capacity: Number of releases that fit into the budget.
        debits: The debits by request id, in order.
        made_for: Run, round and release of each debit, by its name.
        faults: Called with the name of an operation and the operation.
    """

    def __init__(self, budget: str, capacity: int = 100) -> None:
        self._budget = budget
        self.capacity = capacity
        self.debits: dict[str, Debit] = {}
        self.made_for: dict[str, tuple[str, int, Release]] = {}
        self.faults: Callable[[str, Callable[[], Any]], Any] = _no_faults

    @property
    def releases(self) -> list[Release]:
        """The releases that were debited, in order."""
        return [release for _, _, release in self.made_for.values()]

    @property
    def sealed(self) -> set[str]:
        """Digests of the results that are debited."""
        return {one.sealed_sha256 for one in self.debits.values()}

    def forget_requests(self) -> None:
        """Does what the ledger does after some days: the debits are kept, and calls with their ids debit again."""
        self.debits = {f"{one.name} expired": one for one in self.debits.values()}

    def preview(self, budget: str, release: Release, count: int) -> Preview:
        assert budget == self._budget
        return Preview(float(len(self.debits) + count), self.capacity - len(self.debits))

    def debit(
        self, budget: str, release: Release, *, run: str, round_number: int, sealed_sha256: str, request_id: str
    ) -> Debit:
        assert budget == self._budget
        return self.faults("debit", lambda: self._debit((run, round_number, release), sealed_sha256, request_id))

    def _debit(self, made_for: tuple[str, int, Release], sealed_sha256: str, request_id: str) -> Debit:
        if request_id not in self.debits:
            spent = len(self.debits) + 1
            if spent > self.capacity:
                raise FailedPrecondition("BUDGET_EXHAUSTED", f"{self._budget} is spent", field="release")
            made = Debit(f"debits/{spent}", spent, self.capacity - spent, sealed_sha256)
            self.debits[request_id], self.made_for[made.name] = made, made_for
        return self.debits[request_id]

    def find_debit(
        self,
        budget: str,
        release: Release,
        *,
        run: str,
        round_number: int,
        sealed_sha256: str,
        others: Collection[str] = (),
    ) -> Debit | None:
        assert budget == self._budget
        wanted = (run, round_number, release)
        for one in self.debits.values():
            if (self.made_for[one.name], one.sealed_sha256) == (wanted, sealed_sha256) and one.name not in others:
                return one
        return None

    def sealed_sha256(self, budget: str, debit: str) -> str | None:
        assert budget == self._budget
        return next((one.sealed_sha256 for one in self.debits.values() if one.name == debit), None)
