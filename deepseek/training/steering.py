"""Steers a training: applies what a policy decides to the learning rate and the momentum.

Rank 0 asks the policy and tells the other ranks, so all ranks use the same values. The state is part of a checkpoint: a
resumed run continues with the values, and with the memory of the policy, that an uninterrupted run would have. Whatever
a policy does, the training continues: its mistakes become warnings, and the values stay as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from common.errors import FailedPrecondition, InvalidArgument, MeshError
from deepseek.optim.momentum import momentum_of, set_momentum
from deepseek.steering.making import error_text, why_lost
from deepseek.steering.policy import Adjustment, Curve, Observation, Policy, checked
from deepseek.training.events import AdjustmentEvent, Event, Values, WarningEvent
from deepseek.training.parallel import Ranks
from deepseek.training.rates import NamedPolicy, OpenPolicy
from deepseek.training.selection import LOSS
from deepseek.training.step import TrainingStep

MAX_BOUNDS = 3
"""Number of times that a policy may make the weights diverge before it is not used any more."""
_MAX_RECENT = 256


class Steering:
    """The learning rate, the momentum and the policy of one training. Not thread-safe; every rank has one.

    Args:
        step: Training step, whose values are changed.
        ranks: The processes that train together.
        open_policy: Function that makes a policy, given its name and parameters; called on every rank.
        policy: Name and parameters of the first policy; None for no policy. The name may also be that of a policy that
            only `open_policy` knows.
        is_private: Whether figures of the training data are secret, so that the policy must not see them.
    """

    def __init__(
        self,
        step: TrainingStep,
        ranks: Ranks,
        open_policy: OpenPolicy,
        policy: NamedPolicy | None = None,
        *,
        is_private: bool = False,
    ) -> None:
        self._step = step
        self._ranks = ranks
        self._open_policy = open_policy
        self._given = policy
        self._component = policy
        self._policy = open_policy(*policy) if policy else None
        self._start: Observation | None = None  # what the policy saw when it began
        self._last_epoch = -1  # for which the policy has decided
        self._epoch, self._num_epochs = 0, 1  # the current ones
        self._validation: dict[str, float] = {}
        self._has_failed = False  # whether the policy's previous decision was an error
        self._momentum: float | None = None  # if it has been set
        self._limit: float | None = None  # highest rate that the policy may set, once one was too high
        self._num_bounds = 0
        self._is_private = is_private
        self._sums: Tensor | None = None  # of this rank's steps in the current epoch
        self._recent: list[Tensor] = []  # those that are not added yet: later, it takes a tenth of the time
        self._kept_sums: list[list[float]] | None = None  # of all ranks, for checkpoints
        self._news: list[Event] = []

    @property
    def has_policy(self) -> bool:
        """Whether a policy is in use. The same on all ranks."""
        return self._policy is not None

    @property
    def values(self) -> Values:
        """The values that the next step will use."""
        return Values(self._step.next_rate, momentum_of(self._step.optimizer))

    def news(self) -> list[Event]:
        """Returns the events since the last call; none on ranks other than 0."""
        news, self._news = self._news, []
        return news

    def check_policy(self) -> None:
        """Waits until the policy can decide, if there is one. Every rank must call this method.

        Raises:
            MeshError: It cannot, e.g. because of its parameters.
            Aborted: RANK_FAILED on ranks other than 0.
        """
        if self._policy:
            self._ranks.on_first(self._policy.check)

    def open_policy(self, name: str, params: Mapping[str, Any]) -> Policy:
        """Makes a policy for `set_policy`; on ranks other than 0, it may stand for one that only rank 0 has.

        Raises:
            MeshError: The name or the parameters are invalid.
        """
        return self._open_policy(name, params)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate, in place of schedule and policy."""
        self._replace_policy(None)
        self._set(Adjustment(rate))

    def set_momentum(self, momentum: float) -> None:
        """Sets the momentum, in place of the policy. The learning rate stays on its schedule, or at its last value.

        Raises:
            FailedPrecondition: NO_MOMENTUM.
        """
        if momentum_of(self._step.optimizer) is None:
            message = "the optimizer of the run has no momentum; use one with momentum, e.g. sgd or adamw"
            raise FailedPrecondition("NO_MOMENTUM", message, field="directive.set_momentum")
        self._replace_policy(None)
        self._set(Adjustment(momentum=momentum))

    def set_policy(self, component: NamedPolicy, policy: Policy) -> None:
        """Uses another policy from the next step on. It decides for the first time before the next epoch.

        Args:
            component: Name and parameters of the policy.
            policy: The policy, as `open_policy` has made it.
        """
        self._replace_policy(component, policy)
        # The observation must not depend on when the directive arrived, so that it is the same after a crash.
        values, step = self.values, self._step
        self._start = Observation(
            self._epoch, self._num_epochs, step.step, step.num_steps, values.learning_rate, values.momentum
        )
        self._last_epoch = self._epoch
        self.before_step()

    def add(self, sums: Tensor) -> None:
        """Adds the sums of this rank's samples in a step, from which the loss of the epoch is computed."""
        if not self._is_private:
            self._recent.append(sums)
            if len(self._recent) >= _MAX_RECENT:
                self._fold()

    def keep_sums(self) -> None:
        """Collects the sums of all ranks for the next checkpoint. Every rank must call this method."""
        self._fold()
        kept = None if self._is_private or self._sums is None else self._ranks.gather(self._sums)
        self._kept_sums = None if kept is None else kept.tolist()

    def continue_at(self, epoch: int, num_epochs: int) -> None:
        """Notes the number of completed epochs, and that of the whole run, before the first step.

        Every rank must call this method. A policy that can no longer be used is dropped.
        """
        self._epoch, self._num_epochs = epoch, num_epochs
        if self._policy and (problem := self._ranks.share(why_lost(self._policy))):
            self._warn(f"the policy {self._name!r} can no longer be used, so the values stay: {problem}")
            self._replace_policy(None)

    def begin_epoch(self, epoch: int, num_epochs: int, validation: Mapping[str, float]) -> None:
        """Asks the policy for new values, unless it has decided for this epoch before.

        Args:
            epoch: Number of completed epochs.
            num_epochs: Number of epochs of the whole run.
            validation: Figures of the evaluation after the previous epoch; empty if there was none in this process.
        """
        self._epoch, self._num_epochs = epoch, num_epochs
        self._validation = dict(validation) or self._validation
        self._fold()
        sums, self._sums = self._sums, None
        if self._policy is None or epoch <= self._last_epoch:
            return
        self._last_epoch = epoch
        step, values = self._step, self.values
        loss = None if sums is None else step.results(self._ranks.sum_(sums).tolist()).get(LOSS)
        seen = Observation(
            epoch, num_epochs, step.step, step.num_steps, values.learning_rate, values.momentum, loss, self._validation
        )
        if self._start is None or (step.update.rate is None and seen.learning_rate > self._start.learning_rate):
            self._start = seen  # the bounds of a policy relate to the highest rate that the schedule has reached
        if isinstance(self._policy, Curve):
            return
        self._adjust(self._ranks.share(self._decide(self._policy, seen, self._start) if self._ranks.rank == 0 else {}))

    def before_step(self) -> None:
        """Sets the values of the next step, if the policy has a curve."""
        if isinstance(self._policy, Curve) and self._start:
            values = self._policy.at(self._start, self._step.step)
            self._set(values)

    def bound(self, problem: str) -> None:
        """Halves the highest rate that the policy may set, because the current one is too high.

        After `MAX_BOUNDS` times, the policy ends, and the rate is no higher than that at which it began.

        Args:
            problem: What happened, for the warning.
        """
        old, name = self.values, self._name
        rate = self._limit = 0.5 * min(old.learning_rate, self._limit or math.inf)
        self._num_bounds += 1
        message = f"The policy {name!r} may now set a learning rate of at most {rate:g}"
        if self._num_bounds >= MAX_BOUNDS:
            rate = min(rate, self._start.learning_rate if self._start else rate)
            message = f"The policy {name!r} is not used any more; the learning rate is {rate:g}"
            self._replace_policy(None)
        self._set(Adjustment(rate))
        self._warn(f"{problem}. {message}")
        if self._ranks.rank == 0:
            self._news.append(AdjustmentEvent(self._step.step + 1, name, old, self.values))

    def close(self) -> None:
        """Frees the policy's resources. Idempotent."""
        if self._policy:
            self._policy.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that rank 0 stores in a checkpoint."""
        policy = self._policy
        return {
            "rate": self._step.update.rate,
            "momentum": self._momentum,
            "given": list(self._given) if self._given else None,
            "component": list(self._component) if self._component else None,
            "policy": policy.state() if policy and not policy.is_lost else None,
            "start": asdict(self._start) if self._start else None,
            "last_epoch": self._last_epoch,
            "sums": self._kept_sums,
            "validation": self._validation,
            "is_lost": bool(policy and policy.is_lost),
            "limit": self._limit,
            "num_bounds": self._num_bounds,
        }

    def load_state_dict(self, state: object) -> None:
        """Restores a state, unless it belongs to a trainer with another first policy or is from an earlier release.

        Raises:
            InvalidArgument: BAD_STATE if the state is damaged.
        """
        if not isinstance(state, Mapping) or state.get("given") != (list(self._given) if self._given else None):
            return
        try:
            component, start = state["component"], state["start"]
            if component != (list(self._component) if self._component else None):
                named = (str(component[0]), dict(component[1])) if component else None
                self._replace_policy(named, self._opened_again(named) if named else None)
            self._start = Observation(**start) if start else None
            self._last_epoch, self._validation = int(state["last_epoch"]), dict(state["validation"])
            self._sums = self._own_sums(state["sums"])
            limit, self._num_bounds = state.get("limit"), int(state.get("num_bounds", 0))
            self._limit = None if limit is None else float(limit)
            rate, momentum = state["rate"], state["momentum"]
            self._step.update.rate = None if rate is None else float(rate)
            if momentum is not None and momentum_of(self._step.optimizer) is not None:
                self._set(Adjustment(momentum=float(momentum)))
            if state["is_lost"]:
                self._replace_policy(None)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            message = "the checkpoint's record of the policy is damaged"
            raise InvalidArgument("BAD_STATE", message, field="steering") from error
        if self._policy and state["policy"]:
            try:
                self._policy.load(state["policy"])
            except Exception as error:  # noqa: BLE001 - the policy's code may raise anything
                self._warn(f"the policy {self._name!r} cannot load its state and begins again: {error_text(error)}")

    def _opened_again(self, named: NamedPolicy) -> Policy | None:
        """Makes the policy of a checkpoint; a run is not lost because its package is gone."""
        try:
            return self._open_policy(*named)
        except MeshError as error:
            self._warn(f"the policy {named[0]!r} can no longer be used, so the values stay: {error.message}")
            return None

    def _fold(self) -> None:
        """Adds the sums of recent steps, in their order, so that the result does not depend on when this is done."""
        for sums in self._recent:
            if self._sums is None or self._sums.shape != sums.shape:  # those of a checkpoint may be of other metrics
                self._sums = torch.zeros_like(sums)
            self._sums += sums
        self._recent.clear()

    def _own_sums(self, kept: list[list[float]] | None) -> Tensor | None:
        """Returns this rank's sums of an interrupted epoch; if the number of ranks has changed, rank 0 gets all."""
        if kept is None or self._is_private:
            return None
        sums = torch.tensor(kept, dtype=torch.float64, device=self._ranks.device)
        if len(sums) == self._ranks.world_size:
            return sums[self._ranks.rank].clone()
        return sums.sum(0) if self._ranks.rank == 0 else torch.zeros_like(sums[0])

    @property
    def _name(self) -> str:
        return self._component[0] if self._component else ""

    def _replace_policy(self, component: NamedPolicy | None, policy: Policy | None = None) -> None:
        if policy is not self._policy or policy is None:
            self.close()
        self._component, self._start, self._last_epoch, self._has_failed = component, None, -1, False
        self._policy, self._limit, self._num_bounds = policy, None, 0

    def _decide(self, policy: Policy, seen: Observation, start: Observation) -> dict[str, Any]:
        """Returns what rank 0 tells the other ranks: the new values, or a warning."""
        try:
            values = checked(policy.decide(seen), policy, start.learning_rate)
            if values and values.momentum is not None and seen.momentum is None:
                raise InvalidArgument("BAD_VALUE", "it sets a momentum, but the optimizer has none", field="momentum")
            return asdict(values) if values else {}
        except Exception as error:  # noqa: BLE001 - the policy's code may raise anything
            return {"warning": error_text(error), "is_lost": policy.is_lost}

    def _adjust(self, decision: Mapping[str, Any]) -> None:
        """Applies what rank 0 has decided, on every rank."""
        if "warning" in decision:
            if not self._has_failed:  # otherwise, each epoch would repeat the warning
                message = f"the policy {self._name!r} failed before step {self._step.step + 1}: {decision['warning']}. "
                self._warn(f"{message}The learning rate and the momentum stay as they are")
            self._has_failed = True
            if decision["is_lost"]:
                self._replace_policy(None)
            return
        self._has_failed = False
        old = self.values
        self._set(Adjustment(**decision))
        if self.values != old and self._ranks.rank == 0:
            self._news.append(AdjustmentEvent(self._step.step + 1, self._name, old, self.values))

    def _set(self, values: Adjustment) -> None:
        if values.learning_rate is not None:
            self._step.update.rate = min(values.learning_rate, self._limit or math.inf)
        if values.momentum is not None:
            self._momentum = values.momentum
            set_momentum(self._step.optimizer, values.momentum)

    def _warn(self, message: str) -> None:
        if self._ranks.rank == 0:
            self._news.append(WarningEvent(message))
