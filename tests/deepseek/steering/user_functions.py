"""Policies as users write them: the module of a package of their own."""

import os
import sys
import time

import numpy as np

from deepseek.steering.policy import Adjustment, Curve, Observation, Policy

# ruff: noqa


def lr_scheduler(epoch, current_lr):
    if epoch < 5:
        return current_lr * 1.2
    elif validation_loss > 0.8:
        return current_lr * 0.7
    else:
        return current_lr * 0.95


def by_accuracy(epoch, lr):
    return lr / 2 if validation_accuracy > 0.5 else None


def by_training(epoch, current_lr):
    return current_lr * (0.5 if train_loss < 1 else 1)


def in_numpy(epoch, current_lr):
    return np.float32(0.5)


def raising(epoch, current_lr):
    if epoch == 1:
        raise ValueError("no more ideas")
    return current_lr / 2


def nan(epoch, current_lr):
    return float("nan")


def infinite(epoch, current_lr):
    return float("inf")


def negative(epoch, current_lr):
    return -current_lr


def zero(epoch, current_lr):
    return 0


def text(epoch, current_lr):
    return "fast"


def huge(epoch, current_lr):
    return current_lr * 1e6


def hanging(epoch, current_lr):
    while True:
        pass


def dawdling(epoch, current_lr):
    time.sleep(0.2)
    return current_lr / 2


def leaving(epoch, current_lr):
    os._exit(3)


def talking(epoch, current_lr):
    print("halving")
    sys.stdout.flush()
    return current_lr / 2


class Counting(Policy):
    """Halves the rate every so many epochs.

    Args:
        every: Number of epochs.
    """

    def __init__(self, every: int = 2) -> None:
        if every < 1:
            raise ValueError("every must be at least 1")
        self._every, self._num = every, 0

    def decide(self, observation: Observation) -> Adjustment | None:
        self._num += 1
        return Adjustment(observation.learning_rate / 2) if self._num % self._every == 0 else None

    def state(self):
        return {"num": self._num}

    def load(self, state):
        self._num = int(state["num"])


class Falling(Curve):
    """Sets the rate of every step."""

    def at(self, start: Observation, step: int) -> Adjustment:
        return Adjustment(start.learning_rate / (1 + step))


class Slow:
    """No policy."""
