"""Budgets and debits as values, their digests, and the check of the hash chain that they form.

The chain starts from the digest of the budget, so a changed limit breaks it, too. Each debit contains the digest of
the debit before it, and the budget repeats the number and the digest of the last one. Digests use no key, so a ledger
that was rewritten as a whole is detected only by comparison with data outside the database (`ledger_audit`, and the
debits that callers have received).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from common.artifacts.artifact import check_sha256
from common.errors import DataLoss, InvalidArgument
from deepseek.data import canonical_json
from deepseek.privacy.releases import Release
from services.registry.resources import budget_name, debit_name, parse_debit

MAX_KNOWN_DEBITS = 10_000


@dataclass(frozen=True)
class Budget:
    """A limit on the privacy loss of one data set.

    Attributes:
        tenant: Tenant that owns the budget.
        budget_id: Last part of the budget's name.
        dataset: Name of the protected data.
        unit: `client` or `example`.
        epsilon: Upper limit of the privacy loss.
        delta: Probability with which the limit may not hold.
        create_us: Creation time, UTC microseconds.
        num_debits: Number of debits.
        epsilon_spent: Privacy loss of all debits.
        head_sha256: Digest of the last debit; that of the budget itself if there is none.
    """

    tenant: str
    budget_id: str
    dataset: str
    unit: str
    epsilon: float
    delta: float
    create_us: int
    num_debits: int = 0
    epsilon_spent: float = 0.0
    head_sha256: str = ""

    @property
    def name(self) -> str:
        """`budgets/<id>`."""
        return budget_name(self.budget_id)

    @property
    def sha256(self) -> str:
        """Digest of everything about the budget that never changes."""
        return _sha256(
            {
                "budget": self.budget_id,
                "create_us": self.create_us,
                "dataset": self.dataset,
                "delta": self.delta,
                "epsilon": self.epsilon,
                "tenant": self.tenant,
                "unit": self.unit,
            }
        )


@dataclass(frozen=True)
class Debit:
    """One entry of the ledger.

    Attributes:
        tenant: Tenant that owns the budget.
        budget_id: Last part of the budget's name.
        number: 1 for the first debit of the budget.
        noise_multiplier: Standard deviation of the noise divided by the clipping norm.
        sampling_rate: Probability with which each unit is drawn.
        count: Number of equal releases.
        epsilon_spent: Privacy loss of this debit and all debits before it.
        run: Name of the run that releases the result.
        round: Number of the round; 0 if the debit covers a run as a whole.
        sealed_sha256: Digest of the noisy result; empty if it did not exist yet.
        create_us: Creation time, UTC microseconds.
        previous_sha256: Digest of the debit before this one, or of the budget.
        sha256: Digest of the debit, as it is stored.
    """

    tenant: str
    budget_id: str
    number: int
    noise_multiplier: float
    sampling_rate: float
    count: int
    epsilon_spent: float
    run: str
    round: int
    sealed_sha256: str
    create_us: int
    previous_sha256: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """`budgets/<id>/debits/<n>`."""
        return debit_name(self.budget_id, self.number)

    @property
    def release(self) -> Release:
        """What was released."""
        return Release(self.noise_multiplier, self.sampling_rate, self.count)

    def digest(self) -> str:
        """Computes the digest of the debit from its content."""
        return _sha256(
            {
                "budget": self.budget_id,
                "count": self.count,
                "create_us": self.create_us,
                "epsilon_spent": self.epsilon_spent,
                "noise_multiplier": self.noise_multiplier,
                "number": self.number,
                "previous_sha256": self.previous_sha256,
                "round": self.round,
                "run": self.run,
                "sampling_rate": self.sampling_rate,
                "sealed_sha256": self.sealed_sha256,
                "tenant": self.tenant,
            }
        )


def check_chain(budget: Budget, debits: Sequence[Debit]) -> None:
    """Checks that the debits are exactly those that the ledger has written.

    Args:
        budget: The budget.
        debits: All of its debits, in order.

    Raises:
        DataLoss: LEDGER_TAMPERED.
    """
    previous, spent = budget.sha256, 0.0
    for number, debit in enumerate(debits, 1):
        name = debit_name(budget.budget_id, number)
        if debit.number != number:
            tampered(f"{name!r} is missing; the next debit is number {debit.number}")
        if debit.digest() != debit.sha256:
            tampered(f"{name!r} was changed: it does not match its digest")
        if debit.previous_sha256 != previous:
            before = debit_name(budget.budget_id, number - 1) if number > 1 else budget.name
            tampered(f"{name!r} does not follow {before!r}: one of them was changed, replaced or moved")
        previous, spent = debit.sha256, debit.epsilon_spent
    if budget.num_debits > len(debits):
        name = debit_name(budget.budget_id, len(debits) + 1)
        tampered(f"{name!r} is missing; the ledger had {budget.num_debits} debits and has {len(debits)}")
    if budget.num_debits < len(debits):
        tampered(f"{debit_name(budget.budget_id, budget.num_debits + 1)!r} was added by someone else")
    if budget.head_sha256 != previous:
        last = debits[-1].name if debits else budget.name
        tampered(f"{last!r} was changed: it does not match the head of the ledger")
    if budget.epsilon_spent != spent:
        tampered(f"{budget.name!r} states a privacy loss of {budget.epsilon_spent}; its debits cost {spent}")


def check_known(budget: Budget, debits: Sequence[Debit], known: Sequence[tuple[int, str]]) -> None:
    """Checks that a ledger contains debits that are recorded outside of it.

    Args:
        budget: The budget.
        debits: All of its debits, in order.
        known: Number and digest of each known debit; the digest may be empty if it is not known.

    Raises:
        DataLoss: LEDGER_TAMPERED.
    """
    for number, sha256 in sorted(known):
        if number > len(debits):
            missing = debit_name(budget.budget_id, len(debits) + 1)
            tampered(f"{missing!r} is missing; debits up to number {number} were acknowledged")
        if sha256 and debits[number - 1].sha256 != sha256:
            tampered(f"{debits[number - 1].name!r} is not the debit that was acknowledged; it was replaced")


def known_numbers(budget_id: str, known: Sequence[tuple[str, str]]) -> list[tuple[int, str]]:
    """Converts the debits that a caller has received to the form of `check_known`.

    Args:
        budget_id: The budget.
        known: Name and digest of each debit.

    Raises:
        InvalidArgument: TOO_LARGE, BAD_NAME or BAD_DIGEST.
    """
    if len(known) > MAX_KNOWN_DEBITS:
        message = f"the request has {len(known)} known debits; at most {MAX_KNOWN_DEBITS} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field="known_debits")
    found = []
    for index, (name, sha256) in enumerate(known):
        field = f"known_debits[{index}]"
        owner, number = parse_debit(name, field=f"{field}.name")
        if owner != budget_id:
            message = f"{name!r} is not a debit of {budget_name(budget_id)!r}"
            raise InvalidArgument("BAD_NAME", message, field=f"{field}.name")
        found.append((number, check_sha256(sha256, field=f"{field}.sha256")))
    return found


def tampered(problem: str) -> NoReturn:
    """Raises the error for a ledger that is not as it was written.

    Args:
        problem: What is wrong, with the name of the first debit that is wrong.

    Raises:
        DataLoss: LEDGER_TAMPERED.
    """
    remedy = (
        "the registry's database was changed by another program, or restored from an old backup. Restore a backup with "
        "all debits; until then, the budget cannot be debited"
    )
    raise DataLoss("LEDGER_TAMPERED", f"{problem}; {remedy}")


def _sha256(content: dict[str, object]) -> str:
    try:
        return hashlib.sha256(canonical_json.dumps(content)).hexdigest()
    except (TypeError, ValueError):  # the stored value is not even of the right type
        return ""
