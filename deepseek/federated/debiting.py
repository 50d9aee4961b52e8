"""Debits the privacy budget of a run for its rounds, and checks that what is released was debited.

With the unit `client`, the coordinator adds the noise, so a round is debited for its sealed result, before that is
released. With the unit `example`, the updates that nodes send are releases already, to the coordinator itself, so an
attempt is debited before it sends a task.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from deepseek.federated.ports import Debit, Ledger
from deepseek.federated.rounds import Round, RoundStore
from deepseek.federated.run_plan import RunPrivacy

_Result = TypeVar("_Result")


class Patiently(Protocol):
    """Repeats an idempotent call until it is answered."""

    def __call__(self, call: Callable[[], _Result], /) -> _Result:
        """Returns the answer."""


class Debits:
    """The debits of one run. Not thread-safe.

    Args:
        privacy: How the run is protected.
        ledger: Privacy budgets.
        store: Rounds of the run.
        patiently: Makes the calls to the ledger.
    """

    def __init__(self, privacy: RunPrivacy, ledger: Ledger, store: RoundStore, patiently: Patiently) -> None:
        self._privacy = privacy
        self._ledger = ledger
        self._store = store
        self._patiently = patiently

    def check_budget(self, count: int) -> None:
        """Checks that the budget suffices for a number of rounds: other runs may debit it, too.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED.
        """
        privacy = self._privacy
        with _about_the_budget():
            preview = self._patiently(lambda: self._ledger.preview(privacy.budget, privacy.release, count))
        if preview.max_count < count:
            raise FailedPrecondition(
                "BUDGET_EXHAUSTED",
                f"{privacy.budget} suffices for {preview.max_count} more rounds with this noise, but {count} are "
                "needed; add noise, or plan fewer rounds",
                field="privacy.budget",
            )

    def debit(self, current: Round, *, resumed: bool) -> Debit:
        """Debits the budget for an attempt; once, however often it is called.

        Args:
            current: The attempt.
            resumed: Whether another process may have debited it. That debit is looked up first: the ledger knows
                request ids for a few days only, and the run may have rested for longer.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED; nothing was debited.
            DataLoss: RESULT_MISMATCH.
        """
        if resumed and (found := self._find(current)):
            return found
        privacy = self._privacy
        key = f"{current.run}\n{current.round}\n{current.attempt}\n{current.sealed_model}"
        with _about_the_budget():
            made: Debit = self._patiently(
                lambda: self._ledger.debit(
                    privacy.budget,
                    privacy.release,
                    run=current.run,
                    round_number=current.round,
                    sealed_sha256=current.sealed_model,
                    request_id=hashlib.sha256(key.encode()).hexdigest()[:32],
                )
            )
        _check_same(current, made.name, made.sealed_sha256, {current.sealed_model})
        return made

    def _find(self, current: Round) -> Debit | None:
        privacy = self._privacy
        attempts = self._store.attempts(current.run, current.round)
        others = {one.debit for one in attempts if one.attempt != current.attempt and one.debit}
        with _about_the_budget():
            return self._patiently(
                lambda: self._ledger.find_debit(
                    privacy.budget,
                    privacy.release,
                    run=current.run,
                    round_number=current.round,
                    sealed_sha256=current.sealed_model,
                    others=others,
                )
            )

    def check(self, debited: Round) -> None:
        """Checks that the ledger still has the debit of a round, and that it was made for the stored result.

        Raises:
            DataLoss: RESULT_MISMATCH.
        """
        sealed = self._patiently(lambda: self._ledger.sealed_sha256(self._privacy.budget, debited.debit))
        # A debit that came first names no result.
        first = {""} if self._privacy.debits_first else set()
        _check_same(debited, debited.debit, sealed, {debited.sealed_model} | first)


def _check_same(current: Round, debit: str, found: str | None, allowed: set[str]) -> None:
    """Checks that a debit was made for a round, which is released only then.

    Args:
        current: The round.
        debit: Name of the debit.
        found: Digest of the result that is debited; None if there is no such debit.
        allowed: The digests that it may have.

    Raises:
        DataLoss: RESULT_MISMATCH.
    """
    if found in allowed:
        return
    what = "is not in the ledger" if found is None else f"was made for the result {found[:16] or '-'}"
    message = (
        f"{debit} {what}, but the stored result of round {current.round} is {current.sealed_model[:16] or '-'}, so it "
        "is not released: the database of the coordinator or the ledger was changed, or is from an older backup. Check "
        "the ledger with `deepseek privacy verify`, restore both from the same backup, or start a new run"
    )
    raise DataLoss("RESULT_MISMATCH", message, field="privacy.budget")


@contextmanager
def _about_the_budget() -> Iterator[None]:
    """Converts refusals of the ledger to errors about the field of the spec that names the budget."""
    try:
        yield
    except (FailedPrecondition, InvalidArgument, NotFound) as error:
        raise type(error)(error.reason, error.message, field="privacy.budget") from error
