"""A round of a federated run: its states, its records, and where it is stored.

    PLANNED -> COLLECTED -> DEBITED -> RELEASED     (without privacy, DEBITED is skipped)
    PLANNED -> DEBITED -> COLLECTED -> RELEASED     (if the nodes add the noise, and not the coordinator)
    PLANNED | COLLECTED | DEBITED -> FAILED         (another attempt follows)

`RoundRecord` contains what users may see of a round. `RoundAudit` contains what only an operator may see, such as the
cohort: amplification by sampling holds only while cohorts are secret.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common.errors import Aborted
from deepseek.data import canonical_json


class RoundState(enum.Enum):
    """The state of an attempt to execute a round. It is stored, so a round continues after a crash.

    PLANNED: The cohort is drawn and is being asked; not yet, if the nodes add the noise.
    COLLECTED: The updates are combined and, if the coordinator adds it, noise is added. The result is sealed.
    DEBITED: The privacy budget is debited for the sealed result. If the nodes add the noise, it is debited for the
        attempt, whose cohort is being asked.
    RELEASED: The result is the model of the run.
    FAILED: The attempt has ended without a result.
    """

    PLANNED = "PLANNED"
    COLLECTED = "COLLECTED"
    DEBITED = "DEBITED"
    RELEASED = "RELEASED"
    FAILED = "FAILED"

    @property
    def final(self) -> bool:
        """Whether the attempt never changes again."""
        return self in (RoundState.RELEASED, RoundState.FAILED)


NEXT_STATES: Mapping[RoundState, tuple[RoundState, ...]] = {
    RoundState.PLANNED: (RoundState.COLLECTED, RoundState.DEBITED, RoundState.FAILED),
    RoundState.COLLECTED: (RoundState.DEBITED, RoundState.RELEASED, RoundState.FAILED),
    RoundState.DEBITED: (RoundState.COLLECTED, RoundState.RELEASED, RoundState.FAILED),
    RoundState.RELEASED: (),
    RoundState.FAILED: (),
}
"""The states that may follow each state."""


@dataclass(frozen=True)
class RefusalRecord:
    """An update that was not counted.

    Attributes:
        node: Fingerprint of the node's key.
        reason: One of `updates.RefusalReason`, e.g. `NOT_FINITE`.
        message: What is wrong with the update, for people.
    """

    node: str
    reason: str
    message: str


@dataclass(frozen=True)
class RoundRecord:
    """The part of a round that every user who may see the run may see.

    With privacy, everything that depends on the cohort or on unprotected data is unset.

    Attributes:
        num_asked: Size of the cohort.
        num_counted: Number of updates in the result.
        refusals: Updates that were not counted.
        train_metrics: Means of the counted nodes' metrics, weighted by their number of examples.
        round_s: Seconds from the plan to the release; None until then.
        metrics: Figures of the released model on the coordinator's own data.
        epsilon_spent: Epsilon of the budget after this round, including other runs; None without privacy.
        epsilon_left: Epsilon that is left of the budget.
    """

    num_asked: int | None = None
    num_counted: int | None = None
    refusals: tuple[RefusalRecord, ...] = ()
    train_metrics: Mapping[str, float] = field(default_factory=dict)
    round_s: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    epsilon_spent: float | None = None
    epsilon_left: float | None = None

    def to_bytes(self) -> bytes:
        """Returns the record as canonical JSON."""
        return canonical_json.dumps(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RoundRecord":
        """Returns the record that `to_bytes` wrote."""
        members = _members(data, "round_record")
        return cls(**{**members, "refusals": _refusals(members["refusals"])})


@dataclass(frozen=True)
class RoundAudit:
    """The part of a round that only the operator of the coordinator may see. It must not leave the coordinator.

    Attributes:
        counted: Fingerprints of the nodes whose updates are in the result.
        refusals: Updates that were not counted; at most `MAX_REFUSALS`.
        num_refusals: Number of refusals, including those left out above.
        train_metrics: As in RoundRecord.
        collect_s: Seconds from the first task to the close.
        num_links: Number of runs of the engine that were needed; 1 if none ended early.
        num_resent: Number of tasks that were sent again.
        failure: Why the attempt failed; empty if it did not.
    """

    counted: tuple[str, ...] = ()
    refusals: tuple[RefusalRecord, ...] = ()
    num_refusals: int = 0
    train_metrics: Mapping[str, float] = field(default_factory=dict)
    collect_s: float = 0.0
    num_links: int = 0
    num_resent: int = 0
    failure: str = ""

    def to_bytes(self) -> bytes:
        """Returns the audit as canonical JSON."""
        return canonical_json.dumps(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RoundAudit":
        """Returns the audit that `to_bytes` wrote."""
        members = _members(data, "round_audit")
        refusals = _refusals(members["refusals"])
        return cls(**{**members, "refusals": refusals, "counted": tuple(members["counted"])})


MAX_REFUSALS = 200
"""Maximum number of refusals in a record. A hostile node can cause any number."""


@dataclass(frozen=True)
class Round:
    """One stored attempt to execute a round.

    Attributes:
        run: Name of the run.
        round: Number of the round in the run, starting at 1.
        attempt: Number of the attempt, starting at 1.
        plan_time_s: When the attempt was planned, in seconds since 1970.
        cohort: Fingerprints of the nodes that are asked, sorted. Secret with privacy.
        sealed_model: Key of the model in the vault; empty until COLLECTED.
        sealed_state: Key of the strategy's state in the vault; empty until COLLECTED.
        debit: Name of the debit; empty until DEBITED. It stays if the attempt fails later.
        model_version: Name of the released model version; empty until RELEASED.
        record: What users may see, as far as it is known.
        audit: What only the operator may see, as far as it is known.
    """

    run: str
    round: int
    attempt: int
    state: RoundState
    plan_time_s: float
    cohort: tuple[str, ...] = ()
    sealed_model: str = ""
    sealed_state: str = ""
    debit: str = ""
    model_version: str = ""
    record: RoundRecord = RoundRecord()
    audit: RoundAudit = RoundAudit()


class RoundStore(ABC):
    """Stores the rounds of runs.

    **Durability.** What a method has written when it returns is not lost if the process or the host crashes. A write is
    atomic.

    **Concurrency.** Any number of processes may share a store. Two coordinators that execute the same run by mistake
    cannot both write: one of them gets Aborted.

    **Idempotency.** Repeating a write that succeeded has no effect and raises no error.
    """

    @abstractmethod
    def newest(self, run: str) -> Round | None:
        """Returns the last attempt at the last round; None if the run has no round."""

    @abstractmethod
    def released(self, run: str, round_number: int) -> Round | None:
        """Returns the attempt whose result was released; None if there is none."""

    @abstractmethod
    def attempts(self, run: str, round_number: int) -> Sequence[Round]:
        """Returns all attempts at a round, in order."""

    @abstractmethod
    def add(self, new: Round) -> None:
        """Stores a new attempt, which is PLANNED or FAILED.

        Raises:
            Aborted: ROUND_CONFLICT. There is another attempt with this number, or the newest attempt is not final, or
                the number is neither the next attempt of a failed round nor the first attempt of the next round.
        """

    @abstractmethod
    def advance(self, changed: Round, *, expected: RoundState) -> None:
        """Replaces an attempt with one in a later state (`NEXT_STATES`).

        Implementations announce the change to watchers in the same transaction, without `cohort` and `audit`.

        Args:
            changed: The attempt to store.
            expected: The state that the stored attempt must have.

        Raises:
            NotFound: ROUND_NOT_FOUND.
            Aborted: ROUND_CONFLICT. The stored attempt has another state than `expected`, because another coordinator
                executes the run.
        """


def check_added(new: Round, newest: Round | None) -> None:
    """Checks that an attempt may follow the newest one of its run; for implementations of RoundStore.add.

    Raises:
        Aborted: ROUND_CONFLICT.
    """
    assert new.state in (RoundState.PLANNED, RoundState.FAILED), "a new attempt has no result yet"
    if newest is None or newest.state is RoundState.RELEASED:
        follows = (newest.round + 1 if newest else 1, 1)
    elif newest.state is RoundState.FAILED:
        follows = (newest.round, newest.attempt + 1)
    else:
        raise _conflict(new, f"attempt {newest.attempt} at round {newest.round} is {newest.state.value}")
    if (new.round, new.attempt) != follows:
        raise _conflict(new, f"attempt {follows[1]} at round {follows[0]} is next")


def check_advanced(stored: Round, changed: Round, expected: RoundState) -> None:
    """Checks that an attempt may be replaced; for implementations of RoundStore.advance.

    Raises:
        Aborted: ROUND_CONFLICT.
    """
    assert changed.state in NEXT_STATES[expected], f"{expected} is not followed by {changed.state}"
    if stored.state is not expected:
        raise _conflict(changed, f"it is {stored.state.value}, not {expected.value}")


def _conflict(given: Round, problem: str) -> Aborted:
    return Aborted(
        "ROUND_CONFLICT",
        f"attempt {given.attempt} at round {given.round} of {given.run} cannot be stored: {problem}; another process "
        "executes the run",
    )


def _members(data: bytes, document: str) -> dict[str, Any]:
    return canonical_json.parse(data, reason="BAD_ROUND", document=document).json_object()


def _refusals(members: Any) -> tuple[RefusalRecord, ...]:
    return tuple(RefusalRecord(**member) for member in members)
