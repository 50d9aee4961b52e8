"""An optimizer's part of a checkpoint: its state and its constructor arguments.

A trainer that loads a checkpoint keeps the hyperparameters that it was given and that differ from those given to the
checkpoint's run; all others are taken from the checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.optim.interface import InterfaceAdapter

_SHAPED_LIKE_PARAMS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class OptimizerState:
    """Saves and loads what an optimizer needs to continue exactly.

    Args:
        optimizer: A new optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._defaults = _plain(optimizer.defaults)  # now, because loading a state adds to them

    def state_dict(self) -> dict[str, Any]:
        """Returns `optimizer`, `optimizer_type` and `optimizer_defaults`; tensors are not copied."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "optimizer_type": type_name(self._optimizer),
            "optimizer_defaults": self._defaults,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads an untrusted result of `state_dict`.

        Raises:
            InvalidArgument: WRONG_OPTIMIZER; BAD_STATE if a user's own optimizer refuses its state.
        """
        own, other = type_name(self._optimizer), state.get("optimizer_type")
        if own != other or not isinstance(state.get("optimizer"), dict):
            raise _wrong(f"the checkpoint's optimizer is {str(other)[:80]}, this trainer's is {own}")
        before = [dict(group) for group in self._optimizer.param_groups]
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _wrong(f"the checkpoint's optimizer state does not fit these parameters: {error}") from error
        if isinstance(self._optimizer, _SHAPED_LIKE_PARAMS):  # their fused kernels do not check shapes
            for param, values in self._optimizer.state.items():
                for name, value in values.items():
                    shape = torch.Size() if name == "step" else param.shape
                    if isinstance(value, Tensor) and value.shape != shape:
                        raise _wrong(f"the checkpoint's {name} has the shape {list(value.shape)}, not {list(shape)}")
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
                    raise _wrong(f"the checkpoint's {key[:80]} is {str(value)[:80]}, this trainer's is {old.get(key)}")

    def _restore_forms(self, saved: Mapping[str, Any]) -> None:
        """Restores the saved type of state tensors and gives them the memory format of their parameter.

        torch's `load_state_dict` casts to the parameter's type, and the fused kernels iterate over memory: if the state
        has another memory format than its parameter (channels_last), they update each weight with the state of another.
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
    """The constructor arguments of an optimizer, in a form that is equal after a round trip through JSON."""
    simple = (bool, int, float, str, type(None))
    return {key: value if isinstance(value, simple) else repr(value) for key, value in defaults.items()}


def _kind(value: Any) -> type:
    """The type of a hyperparameter; all numbers have the same type, including NumPy's and tensors of one element."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float if is_number or (isinstance(value, Tensor) and value.numel() == 1) else type(value)
