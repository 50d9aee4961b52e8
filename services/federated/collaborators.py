"""What `RoundRunner` needs to execute one run: models in the artifact store, the engine, and the ledger."""

from collections.abc import Collection, Sequence

from common.artifacts import ArtifactStore
from deepseek.federated.arrays import MEDIA_TYPE
from deepseek.federated.flower.engine import Engine, Link, NodeStatus
from deepseek.federated.ports import Debit, Ledger, Preview, Vault
from deepseek.privacy.releases import Release
from services.federated.ports import Budgets
from services.federated.superlink import SuperLink


class ArtifactVault(Vault):
    """Models and states of strategies in the artifact store.

    Garbage collection does not delete a blob that was just stored; later, `references` protects it.

    Args:
        store: The store.
        tenant: Tenant that owns the run.
    """

    def __init__(self, store: ArtifactStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant

    def put(self, data: bytes) -> str:
        """See `Vault.put`."""
        return self._store.put(self._tenant, data, MEDIA_TYPE).sha256

    def get(self, key: str) -> bytes:
        """See `Vault.get`."""
        return self._store.read(self._tenant, key)


class TenantLedger(Ledger):
    """The ledger, limited to the budgets of one tenant.

    Args:
        budgets: Budgets of all tenants.
        tenant: Tenant that owns the run and the budget.
    """

    def __init__(self, budgets: Budgets, tenant: str) -> None:
        self._budgets = budgets
        self._tenant = tenant

    def preview(self, budget: str, release: Release, count: int) -> Preview:
        """See `Ledger.preview`."""
        together = Release(release.noise_multiplier, release.sampling_rate, release.count * count)
        found = self._budgets.preview(self._tenant, budget, together)
        return Preview(found.epsilon_after, found.max_count // release.count)

    def debit(
        self, budget: str, release: Release, *, run: str, round_number: int, sealed_sha256: str, request_id: str
    ) -> Debit:
        """See `Ledger.debit`."""
        return self._budgets.debit(
            self._tenant,
            budget,
            release,
            run=run,
            round_number=round_number,
            sealed_sha256=sealed_sha256,
            request_id=request_id,
        )

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
        """See `Ledger.find_debit`."""
        return self._budgets.find_debit(
            self._tenant,
            budget,
            release,
            run=run,
            round_number=round_number,
            sealed_sha256=sealed_sha256,
            others=others,
        )

    def sealed_sha256(self, budget: str, debit: str) -> str | None:
        """See `Ledger.sealed_sha256`."""
        return self._budgets.sealed_sha256(self._tenant, budget, debit)


class RunEngine(Engine):
    """The engine of the SuperLink, which opens runs under the id of one run. It is started when it is first needed.

    Args:
        superlink: The SuperLink.
        run_id: Id of the run, which Flower shows in its logs.
    """

    def __init__(self, superlink: SuperLink, run_id: str) -> None:
        self._superlink = superlink
        self._run_id = run_id

    def register_node(self, public_key: bytes) -> int:
        """See `Engine.register_node`."""
        return self._superlink.engine().register_node(public_key)

    def unregister_node(self, node_id: int) -> None:
        """See `Engine.unregister_node`."""
        self._superlink.engine().unregister_node(node_id)

    def nodes(self) -> Sequence[NodeStatus]:
        """See `Engine.nodes`."""
        return self._superlink.engine().nodes()

    def open_run(self, run_key: str, max_reply_bytes: int) -> Link:
        """See `Engine.open_run`. The name of a run may be longer than Flower allows, so its id is used instead."""
        return self._superlink.engine().open_run(self._run_id, max_reply_bytes)

    def close(self) -> None:
        """Does nothing: other runs use the engine, too."""
