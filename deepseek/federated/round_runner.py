"""Executes the rounds of a run one after the other, and continues from the stored state after a crash.

The stored state of the newest round determines the next step, and each step stores the state that follows. A crash
therefore repeats at most one step: the same cohort is asked again, a collected round debits the result that is sealed
already, and a debited result is released. Nothing is released before it is debited (`debiting`), and noise is never
drawn again for a debited result.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

from common.errors import Cancelled, DataLoss, FailedPrecondition, MeshError, NotFound
from deepseek.federated import arrays as arrays_of
from deepseek.federated.cohorts import draw_cohort, released_record
from deepseek.federated.collection import Collected
from deepseek.federated.collector import Collector
from deepseek.federated.debiting import Debits
from deepseek.federated.flower.engine import Engine
from deepseek.federated.patience import patiently
from deepseek.federated.ports import Clock, Ledger, Publisher, Vault
from deepseek.federated.rounds import Round, RoundAudit, RoundRecord, RoundState, RoundStore
from deepseek.federated.run_plan import RunPlan
from deepseek.privacy.sampling import RandomBytes

_Result = TypeVar("_Result")


def _never() -> None:
    """Does not interrupt the work."""


def _to_nobody(reason: str, message: str) -> None:
    """Drops a warning."""


class RoundRunner:
    """Executes one run. Not thread-safe; at most one runner per run makes progress at a time.

    Args:
        plan: The run.
        store: Where rounds are stored.
        engine: Carries tasks to nodes.
        vault: Where models and the states of strategies are stored.
        ledger: Privacy budgets; may be None without privacy.
        publisher: Makes models available.
        clock: Clock of the host.
        check: Called often. It raises an error to end the work. After Cancelled, the current attempt is FAILED, unless
            its result is debited or may be; then Cancelled is ignored until it is released, or the ledger has refused
            the debit. After any other error, the run can be continued.
        warn: Called with a reason and a message for people, for problems that do not end the run.
        members: Returns the fingerprints of the nodes that are still in the federation, of which a round asks some. A
            secret cohort is drawn from all nodes of the plan, because the guarantee is stated for them.
        source: Source of randomness for secret cohorts and noise; the operating system's by default.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        store: RoundStore,
        engine: Engine,
        vault: Vault,
        ledger: Ledger | None,
        publisher: Publisher,
        clock: Clock,
        check: Callable[[], None] = _never,
        warn: Callable[[str, str], None] = _to_nobody,
        members: Callable[[], Collection[str]] | None = None,
        source: RandomBytes | None = None,
    ) -> None:
        plan.check()
        self._plan = plan
        self._store = store
        self._vault = vault
        self._debits: Debits | None = None
        if plan.privacy is not None:
            assert ledger is not None, "a private run needs a ledger"
            self._debits = Debits(plan.privacy, ledger, store, self._patiently)
        self._publisher = publisher
        self._clock = clock
        self._check_given = check
        self._warn = warn
        self._members = members or (lambda: plan.nodes)
        self._source = source
        self._may_be_debited = False
        self._resumed: Round | None = None
        self._collector = Collector(plan, engine, clock, self._check)

    def run(self) -> Round:
        """Executes all remaining rounds; returns the last one, which is RELEASED.

        Raises:
            FailedPrecondition: QUORUM_NOT_REACHED, NODES_NOT_READY, ROUND_TOO_LARGE, or BUDGET_EXHAUSTED.
            DataLoss: RESULT_LOST; RESULT_MISMATCH if the ledger has debited another result than the stored one.
            Aborted: ROUND_CONFLICT. Another process executes the run.
            Unavailable: A collaborator did not respond for a long time. The run can be continued.
            Cancelled: From `check`.
        """
        current = self._resumed = self._patiently(lambda: self._store.newest(self._plan.run))
        try:
            while current is None or (current.state, current.round) != (RoundState.RELEASED, self._plan.num_rounds):
                current = self._step(current)
            return current
        finally:
            self._collector.close()

    def _step(self, current: Round | None) -> Round:
        self._may_be_debited = current is not None and self._is_owed(current)
        if current is None or current.state.final:
            return self._plan_next(current)
        try:
            debits = None if current.debit else self._debits
            if debits is not None and (current.sealed_model or self._plan.debits_first):
                return self._debit(current, debits)
            return self._release(current) if current.sealed_model else self._collect(current)
        except Cancelled:
            self._fail(current, "the run was stopped")
            raise

    def _is_owed(self, current: Round) -> bool:
        """Returns whether a result may have been debited, so that it must be released if it was.

        Before there is a result, an attempt may fail although it is debited: another attempt debits again.
        """
        if self._debits is None or current.state.final or not current.sealed_model:
            return False
        # The process that collected the round may have ended just after it had asked for the debit.
        return bool(current.debit) or current is self._resumed

    def _plan_next(self, previous: Round | None) -> Round:
        plan = self._plan
        if previous is None or previous.state is RoundState.RELEASED:
            number, attempt = (previous.round + 1 if previous else 1), 1
        else:
            number, attempt = previous.round, previous.attempt + 1
            if previous.attempt > plan.max_retries:
                raise _failed_for_good(previous)
        self._check()
        plan.check_memory()  # not earlier: a round that is debited is released, whatever its size
        new = Round(plan.run, number, attempt, RoundState.PLANNED, self._clock.time())
        if self._debits is not None:
            self._debits.check_budget(plan.num_rounds - number + 1)
        if plan.check_nodes and previous is None:
            self._check_nodes()
        new = self._drawn(new)
        self._patiently(lambda: self._store.add(new))
        return new

    def _drawn(self, new: Round) -> Round:
        """Returns a new attempt with its cohort; FAILED if too few nodes are online for one that costs epsilon."""
        plan, quorum = self._plan, max(1, self._plan.quorum)
        # A choice that depended on a secret cohort would void the amplification by sampling. Without any node that is
        # online, the budget would be spent on noise.
        if plan.secret and not self._collector.wait_for_nodes(quorum, plan.nodes):
            return _not_begun(new, _offline(quorum, plan.deadline_s))
        members = plan.nodes if plan.hides_cohorts else self._patiently(self._members)
        new = replace(new, cohort=draw_cohort(plan, new.round, new.attempt, self._source, members))
        if plan.debits_first:
            if len(new.cohort) < plan.quorum:
                return _not_begun(new, f"{len(new.cohort)} nodes are left to ask, and the quorum is {plan.quorum}")
            needed = max(plan.quorum, min(1, len(new.cohort)))
            if not self._collector.wait_for_nodes(needed, new.cohort):
                return _not_begun(new, _offline(needed, plan.deadline_s))
        return new

    def _collect(self, current: Round) -> Round:
        plan = self._plan
        self._check_debit(current)
        model = self._patiently(lambda: self._vault.get(self._model_before(current)))
        collected = self._collector.collect(current, model)
        audit, num_counted = collected.audit, len(collected.updates)
        record = replace(
            released_record(plan, len(current.cohort), audit),
            epsilon_spent=current.record.epsilon_spent,
            epsilon_left=current.record.epsilon_left,
        )
        if not plan.secret and num_counted < plan.quorum:
            failure = f"{num_counted} updates counted, and the quorum is {plan.quorum}"
            return self._fail(replace(current, record=record, audit=audit), failure)
        sealed_model, sealed_state = self._aggregate(current, model, collected)
        changed = replace(
            current,
            state=RoundState.COLLECTED,
            sealed_model=self._patiently(lambda: self._vault.put(sealed_model)),
            sealed_state=self._patiently(lambda: self._vault.put(sealed_state)) if sealed_state else "",
            record=record,
            audit=audit,
        )
        return self._advance(current, changed)

    def _aggregate(self, current: Round, model: bytes, collected: Collected) -> tuple[bytes, bytes]:
        """Returns the next model and the next state of the strategy."""
        plan = self._plan
        arrays = arrays_of.from_bytes(model, plan.shapes, field="model")
        before = self._store.released(plan.run, current.round - 1)
        state_key = before.sealed_state if before else ""
        state = self._patiently(lambda: self._vault.get(state_key)) if state_key else b""
        if plan.privacy is not None and collected.total is not None:
            noise = plan.privacy.release.noise_multiplier
            mean = collected.total.noisy_mean(noise, plan.expected_cohort, self._source)
        else:
            updates = [one.update for one in collected.updates]
            if plan.privacy is not None:
                # The numbers of examples that nodes state are private.
                updates = [replace(update, num_examples=1) for update in updates]
            mean = plan.strategy.combine(updates, plan.shapes)
        new, new_state = plan.strategy.apply(arrays, mean, state)
        return arrays_of.to_bytes(new), new_state

    def _debit(self, current: Round, debits: Debits) -> Round:
        self._check()
        if current.sealed_model:
            if self._sealed(current) is None:
                return self._fail(current, "the sealed result was lost")
            self._may_be_debited = True  # unknown until the ledger answers
        try:
            debit = debits.debit(current, resumed=current is self._resumed)
        except FailedPrecondition as error:
            self._may_be_debited = False
            self._fail(current, error.message)
            raise
        record = replace(current.record, epsilon_spent=debit.epsilon_spent, epsilon_left=debit.epsilon_left)
        return self._advance(current, replace(current, state=RoundState.DEBITED, debit=debit.name, record=record))

    def _release(self, current: Round) -> Round:
        if current.state is RoundState.COLLECTED:
            self._check()
        self._check_debit(current)
        model = self._sealed(current)
        if model is None:
            # Another attempt debits again, because somebody may have seen the lost result.
            return self._fail(current, "the sealed result was lost")
        publication = self._patiently(lambda: self._publisher.publish(current, model, self._check))
        # With client-level privacy, the duration is secret: it depends on which nodes were asked.
        round_s = None if self._plan.secret else max(0.0, self._clock.time() - current.plan_time_s)
        record: RoundRecord = replace(current.record, metrics=publication.metrics, round_s=round_s)
        released = replace(current, state=RoundState.RELEASED, model_version=publication.model_version, record=record)
        return self._advance(current, released)

    def _check_debit(self, current: Round) -> None:
        """Checks the debit of a round that another process has debited: the two databases may not match any more."""
        if self._debits is not None and current is self._resumed and current.debit:
            self._debits.check(current)

    def _check_nodes(self) -> None:
        """Checks that enough nodes can take part. A node that does not reply counts as able to take part."""
        plan = self._plan
        failures = self._collector.check_nodes(self._patiently(lambda: self._vault.get(plan.initial_model)))
        # With privacy, the text of an error might reveal data.
        texts = {
            node: f"{node}: {reason}" + (f": {message}" if message and plan.privacy is None else "")
            for node, (reason, message) in failures.items()
        }
        if len(plan.nodes) - len(failures) < max(1, plan.quorum):
            some = "; ".join(list(texts.values())[:3])
            raise FailedPrecondition(
                "NODES_NOT_READY",
                f"{len(failures)} of {len(plan.nodes)} nodes cannot take part; fix or remove them: {some}",
                field="quorum",
            )
        for text in texts.values():
            self._warn("NODE_NOT_READY", f"a node cannot take part until its problem is fixed. {text}")

    def _model_before(self, current: Round) -> str:
        """Returns the key of the model that a round starts from."""
        if current.round == 1:
            return self._plan.initial_model
        before = self._store.released(current.run, current.round - 1)
        assert before is not None, "a round is planned only after the one before it was released"
        return before.sealed_model

    def _sealed(self, current: Round) -> bytes | None:
        """Returns the sealed model; None if it was lost."""
        try:
            return self._patiently(lambda: self._vault.get(current.sealed_model))
        except (NotFound, DataLoss):
            return None

    def _fail(self, current: Round, failure: str) -> Round:
        failed = replace(current, state=RoundState.FAILED, audit=replace(current.audit, failure=failure))
        return self._advance(current, failed)

    def _advance(self, current: Round, changed: Round) -> Round:
        self._patiently(lambda: self._store.advance(changed, expected=current.state))
        return changed

    def _patiently(self, call: Callable[[], _Result]) -> _Result:
        """Repeats an idempotent call until it is answered."""
        return patiently(call, self._clock, self._check)

    def _check(self) -> None:
        try:
            self._check_given()
        except Cancelled:
            if not self._may_be_debited:
                raise


def _not_begun(new: Round, failure: str) -> Round:
    """Returns an attempt that sends no tasks."""
    return replace(new, state=RoundState.FAILED, audit=RoundAudit(failure=failure))


def _offline(needed: int, seconds: float) -> str:
    return f"{f'fewer than {needed} nodes were' if needed > 1 else 'no node was'} online for {seconds:g} s"


def _failed_for_good(last: Round) -> MeshError:
    """Returns the error of a run that may not repeat a round once more."""
    failed = f"round {last.round} failed {last.attempt} times; the last time, {last.audit.failure}"
    if last.sealed_model:
        return DataLoss("RESULT_LOST", f"{failed}. Check the artifact store, and start the run again")
    remedy = "Check that the nodes are online, extend the deadline, or lower the quorum"
    return FailedPrecondition("QUORUM_NOT_REACHED", f"{failed}. {remedy}", field="quorum")
