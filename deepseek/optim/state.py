"""Saves and loads an optimizer's part of a checkpoint: the optimizer's state and constructor arguments.

A checkpoint may be loaded into an optimizer whose constructor arguments differ from those of the optimizer that saved
it. Arguments that differ keep the values of the current optimizer. All other hyperparameters are taken from the
checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.optim.interface import InterfaceAdapter

_SHAPED_LIKE_PARAMS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class OptimizerState:
    """Saves and loads the state that an optimizer needs to continue exactly where it stopped.

    Args:
        optimizer: Newly created optimizer, into which no state has been loaded yet.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._defaults = _plain(optimizer.defaults)  # read now, because loading a state adds to the defaults

    def state_dict(self) -> dict[str, Any]:
        """Returns a dict with `optimizer`, `optimizer_type` and `optimizer_defaults`. Tensors are not copied."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "optimizer_type": type_name(self._optimizer),
            "optimizer_defaults": self._defaults,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads a state that `state_dict` returned. The state may come from an untrusted source.

        Raises:
            InvalidArgument: WRONG_OPTIMIZER if the state does not fit this optimizer; BAD_STATE if a custom optimizer
                rejects the state.
        """
        own, other = type_name(self._optimizer), state.get("optimizer_type")
        if own != other or not isinstance(state.get("optimizer"), dict):
            raise _wrong(f"the checkpoint's optimizer is {str(other)[:80]}, but this trainer's is {own}")
        before = [dict(group) for group in self._optimizer.param_groups]
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _wrong(f"the checkpoint's optimizer state does not fit this model's parameters: {error}") from error
        if isinstance(self._optimizer, _SHAPED_LIKE_PARAMS):  # their fused kernels do not check shapes
            for param, values in self._optimizer.state.items():
                for name, value in values.items():
                    shape = torch.Size() if name == "step" else param.shape
                    if isinstance(value, Tensor) and value.shape != shape:
                        found = f"the checkpoint's optimizer state {name} has shape {list(value.shape)}"
                        raise _wrong(f"{found}; this model requires {list(shape)}")
        if not isinstance(self._optimizer, InterfaceAdapter):
            self._restore_forms(state["optimizer"])
        saved = state.get("optimizer_defaults")
        changed = [
            key for key in self._defaults if not isinstance(saved, dict) or saved.get(key) != self._defaults[key]
        ]
        for group, old in zip(self._optimizer.param_groups, before, strict=True):
            group.update({key: old[key] for key in changed if key in old})
            for key, value in group.items():
                if key not in old or _kind(value) is not _kind(old[key]):
                    found = f"the checkpoint's {key[:80]} is {str(value)[:80]}"
                    raise _wrong(f"{found}, but this trainer's is {old.get(key)}")

    def _restore_forms(self, saved: Mapping[str, Any]) -> None:
        """Restores the saved dtype of each state tensor, and gives the tensor the memory format of its parameter.

        torch's `load_state_dict` casts state tensors to the dtype of their parameter. The fused kernels iterate over
        memory: if the memory format of a state tensor, e.g. channels_last, differed from its parameter's, the kernels
        would update weights with the state of other weights.
        """
        casts = type(self._optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict
        params = [param for group in self._optimizer.param_groups for param in group["params"]]
        keys = [key for group in saved["param_groups"] for key in group["params"]]
        for key, param in zip(keys, params, strict=True):
            values = self._optimizer.state.get(param, {})
            for name, value in values.items():
                if isinstance(value, Tensor):
                    if casts and value.dtype != saved["state"][key][name].dtype:
                        value = saved["state"][key][name].to(value.device)
                    if value.shape == param.shape and value.stride() != param.stride():
                        value = torch.empty_like(param, dtype=value.dtype).copy_(value)
                    values[name] = value


def type_name(optimizer: torch.optim.Optimizer) -> str:
    """Returns the full name of an optimizer's class; for an `InterfaceAdapter`, the name of the user's class."""
    kind = type(getattr(optimizer, "inner", optimizer))
    return f"{kind.__module__}.{kind.__qualname__}"


def _wrong(message: str) -> InvalidArgument:
    return InvalidArgument("WRONG_OPTIMIZER", message, field="optimizer")


def _plain(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the constructor arguments of an optimizer in a form that survives a round trip through JSON."""
    simple = (bool, int, float, str, type(None))
    return {key: value if isinstance(value, simple) else repr(value) for key, value in defaults.items()}


def _kind(value: Any) -> type:
    """Returns a hyperparameter's type: float for every number, including NumPy's, and for every one-element tensor."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float if is_number or (isinstance(value, Tensor) and value.numel() == 1) else type(value)
