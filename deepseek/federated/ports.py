"""What `RoundRunner` needs besides nodes and rounds: storage of models, privacy budgets, a publisher and a clock."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from deepseek.federated.rounds import Round
from deepseek.privacy.releases import Release


class Vault(ABC):
    """Durable storage of bytes, addressed by content. Thread-safe.

    No method of any service returns bytes of the vault that are not the model of a RELEASED round.
    """

    @abstractmethod
    def put(self, data: bytes) -> str:
        """Stores bytes durably and returns their key, the SHA-256 in hexadecimal. Idempotent."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Returns stored bytes.

        Raises:
            NotFound: There are no such bytes.
            DataLoss: The stored bytes are damaged.
        """


@dataclass(frozen=True)
class Preview:
    """The effect that a debit would have on a budget.

    Attributes:
        epsilon_after: Epsilon spent after the debit.
        max_count: Number of the given releases that still fit.
    """

    epsilon_after: float
    max_count: int


@dataclass(frozen=True)
class Debit:
    """An entry in the ledger.

    Attributes:
        name: Name of the entry.
        epsilon_spent: Epsilon of the budget after the entry.
        epsilon_left: Epsilon that is left of the budget after the entry.
        sealed_sha256: SHA-256 of the result that may be released; empty if the entry was made before there was one.
    """

    name: str
    epsilon_spent: float
    epsilon_left: float
    sealed_sha256: str


class Ledger(ABC):
    """Privacy budgets, each shared by several runs. Thread-safe."""

    @abstractmethod
    def preview(self, budget: str, release: Release, count: int) -> Preview:
        """Returns the effect that `count` debits of `release` would have. Debits nothing.

        Raises:
            NotFound: BUDGET_NOT_FOUND.
            Unavailable, DeadlineExceeded: The ledger does not respond.
        """

    @abstractmethod
    def debit(
        self, budget: str, release: Release, *, run: str, round_number: int, sealed_sha256: str, request_id: str
    ) -> Debit:
        """Debits a budget for one round, durably. The same `request_id` returns the same entry for some days.

        Args:
            budget: Name of the budget.
            release: The release.
            run: Name of the run.
            round_number: Number of the round.
            sealed_sha256: SHA-256 of the result; empty if the nodes add the noise, because there is no result yet.
            request_id: Identity of the debit.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED; nothing was debited.
            Unavailable, DeadlineExceeded: The ledger does not respond. It may have debited.
        """

    @abstractmethod
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
        """Returns the entry of an earlier call of `debit`, regardless of its age; None if there is no such entry.

        Args:
            budget: Name of the budget.
            release: As given to `debit`, like the next three.
            run: Name of the run.
            round_number: Number of the round.
            sealed_sha256: SHA-256 of the result.
            others: Names of the entries that other attempts at the round made.

        Raises:
            Unavailable, DeadlineExceeded: The ledger does not respond.
        """

    @abstractmethod
    def sealed_sha256(self, budget: str, debit: str) -> str | None:
        """Returns the SHA-256 of the result that a debit allows to release; None if there is no such debit.

        Raises:
            Unavailable, DeadlineExceeded: The ledger does not respond.
        """


@dataclass(frozen=True)
class Publication:
    """A published model.

    Attributes:
        model_version: Name of the model version.
        metrics: Figures of the model on the coordinator's own data.
    """

    model_version: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Publisher(ABC):
    """Makes the model of a round available, e.g. evaluates it and registers a model version."""

    @abstractmethod
    def publish(self, debited: Round, model: bytes, check: Callable[[], None]) -> Publication:
        """Publishes a model. Called after the debit and before RELEASED is stored.

        It is called again for the same round after a crash, and then returns the same publication. A model that cannot
        be published is not an error: a result that is debited must be released.

        Args:
            debited: The round, with its debit.
            model: The new model, as safetensors bytes.
            check: Called often. It raises an error to end the work.

        Raises:
            MeshError: One of `common.errors.UNANSWERED` or Aborted; the call is repeated, now or later.
        """


class Clock(ABC):
    """Time."""

    @abstractmethod
    def time(self) -> float:
        """Returns the seconds since 1970."""

    @abstractmethod
    def monotonic(self) -> float:
        """Returns the seconds of a monotonic clock."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock(Clock):
    """The clock of the host."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
