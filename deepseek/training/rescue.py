"""Saves a training from a policy that has set a learning rate at which the weights diverge.

If so many steps in a row were skipped that the training would fail, and a policy is in use, the weights and the
optimizer's state of the last good checkpoint are restored, and the highest rate that the policy may set is halved. A
checkpoint is good if the loss of the step after it is not much higher than before. Rank 0 keeps it in a file of its
own, because the run's store may hold only checkpoints that were made while the weights diverged.
"""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.training.parallel import Ranks
from deepseek.training.restoring import restore
from deepseek.training.selection import LOSS
from deepseek.training.steering import Steering
from deepseek.training.step import MAX_SKIPPED_IN_A_ROW, TrainingStep

_MOST = 10.0
"""Loss at which weights have diverged, relative to the highest loss of good weights."""


class Rescue:
    """The last good checkpoint of one call of `fit`. Not thread-safe; every rank has one.

    Args:
        step: Training step.
        steering: Values and policy of the training.
        ranks: The processes that train together.
        dump: Function that returns the bytes of a checkpoint; called on rank 0.
        is_private: Whether the training is private. Its steps are never skipped, so it keeps no checkpoint.
    """

    def __init__(
        self, step: TrainingStep, steering: Steering, ranks: Ranks, dump: Callable[[], bytes], *, is_private: bool
    ) -> None:
        self._step = step
        self._steering = steering
        self._ranks = ranks
        self._dump = dump
        self._folder: TemporaryDirectory[str] | None = None  # on rank 0, once it has been needed
        self._has_new = False  # whether there is a checkpoint of which is not known yet whether it is good
        self._highest_loss: float | None = None  # of good weights
        self._can_keep = ranks.rank == 0 and not is_private

    def before_step(self) -> None:
        """Keeps the state if a policy has come into use. Takes no time otherwise."""
        if self._folder is None and self._can_keep and self._steering.has_policy:
            try:
                self.keep(self._dump())
            except InvalidArgument:  # this state cannot be stored, so there is nothing to return to
                self._can_keep = False

    def keep(self, data: bytes) -> None:
        """Keeps a checkpoint of the current state if a policy is in use; called on rank 0."""
        if self._can_keep and self._steering.has_policy:
            with suppress(OSError):  # an older checkpoint is better than none
                self._folder = self._folder or TemporaryDirectory(prefix="rescue-")
                self._path("new").write_bytes(data)
                self._has_new = True

    def after_step(self, sums: Tensor) -> bool:
        """Returns to good weights if the training cannot continue without. Every rank must call this method.

        Args:
            sums: This rank's sums of the step.

        Returns:
            Whether it did. The state should be saved then.

        Raises:
            FailedPrecondition: NOT_FINITE if the training cannot continue.
        """
        if self._has_new:
            self._judge(self._step.results(sums.tolist()).get(LOSS, math.nan))
        if self._step.num_skipped_in_a_row < MAX_SKIPPED_IN_A_ROW:
            return False
        last = self._step.step
        message = f"the gradients of {MAX_SKIPPED_IN_A_ROW} steps in a row, up to step {last}, are not finite"
        try:
            if not self._steering.has_policy:
                raise FailedPrecondition("NO_POLICY", "no policy is in use")
            restored = restore(self._step, self._ranks, self._find)
        except FailedPrecondition as error:
            message = f"{message}; look for NaN in the data or the loss, lower the learning rate, or set clip_norm"
            raise FailedPrecondition("NOT_FINITE", message) from error
        self._steering.bound(f"{message}, so the weights are those of step {restored} again")
        return True

    def close(self) -> None:
        """Deletes the files. Idempotent."""
        if self._folder:
            self._folder.cleanup()

    def _judge(self, loss: float) -> None:
        """Decides whether the newest checkpoint is good, given the loss of its weights on the next batch."""
        self._has_new = False
        highest = loss if self._highest_loss is None else self._highest_loss
        if math.isfinite(loss) and loss - highest <= (_MOST - 1) * abs(highest):
            self._highest_loss = max(loss, highest)
            self._path("new").replace(self._path("good"))

    def _find(self) -> Path:
        """Returns a file with the last good checkpoint.

        Raises:
            FailedPrecondition: CHECKPOINT_FAILED.
        """
        try:
            os.link(self._path("good"), self._path("restored"))
            return self._path("restored")
        except OSError as error:
            raise FailedPrecondition("CHECKPOINT_FAILED", "there is no good checkpoint") from error

    def _path(self, name: str) -> Path:
        if self._folder is None:
            raise FileNotFoundError(name)
        return Path(self._folder.name) / name
