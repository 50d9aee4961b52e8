"""A model's state, divided into the arrays that the rounds train and the rest, which stays as the recipe states it.

The arrays are the parameters that require a gradient. The rest is the other persistent state: frozen parameters and
buffers. Running statistics of a node's data would reveal that data, so running statistics are computed once, from the
reference data (`deepseek.training.running_statistics`).
"""

import base64
import binascii
import hashlib

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.federated.arrays import Arrays


def check_state(model: nn.Module) -> None:
    """Checks that rounds can average a model.

    Raises:
        InvalidArgument: BAD_MODEL_STATE at `spec.model` if a parameter is not float32, or if the persistent state has
            integers, values that are not finite, or objects other than tensors.
    """
    for name, value in model.state_dict().items():
        problem = ""
        if not isinstance(value, Tensor):
            problem = f"{name} is a {type(value).__name__}, which cannot be averaged"
        elif not value.is_floating_point():
            problem = f"{name} holds integers, which cannot be averaged"
            if name.rpartition(".")[2] == "num_batches_tracked":
                problem += '. Batch normalization keeps them; use group normalization, e.g. the parameter norm="group"'
        elif not value.isfinite().all():
            problem = f"{name} has values that are NaN or infinite"
        if problem:
            raise InvalidArgument("BAD_MODEL_STATE", f"the model's state: {problem}", field="spec.model")
    for name, parameter in trainable(model).items():
        if parameter.dtype != torch.float32:
            message = f"the model's state: {name} is {parameter.dtype}; the trained parameters must be float32"
            raise InvalidArgument("BAD_MODEL_STATE", message, field="spec.model")
    if not trainable(model):
        raise InvalidArgument(
            "BAD_VALUE", "every parameter is frozen, so nothing would be trained", field="spec.freeze"
        )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that the rounds train, sorted by name. A parameter with two names appears once."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(sorted(found.items()))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays."""
    return {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}


def arrays(model: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """Returns copies of the arrays of a model."""
    return {name: parameter.detach().cpu().numpy().copy() for name, parameter in trainable(model).items()}


@torch.no_grad()
def load_arrays(model: nn.Module, values: Arrays) -> None:
    """Copies arrays, whose names and shapes are those of the model, into the model."""
    for name, parameter in trainable(model).items():
        # from_numpy refuses arrays that cannot be written to, such as those that were read from bytes.
        parameter.copy_(torch.from_numpy(np.array(values[name], np.float32)))


def rest(model: nn.Module) -> dict[str, Tensor]:
    """Returns the persistent state outside of the arrays, sorted by name. Tensors are not copied."""
    own = {id(parameter) for parameter in trainable(model).values()}
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in sorted(state.items()) if id(value) not in own}


def rest_sha256(model: nn.Module) -> str:
    """Returns the digest of the persistent state outside of the arrays."""
    digest = hashlib.sha256()
    for name, value in rest(model).items():
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fixed(model: nn.Module, seeded: nn.Module) -> str:
    """Returns the state outside of the arrays that differs from a newly built model's, as a recipe stores it.

    Args:
        model: The model of the run.
        seeded: The model that the spec's seed determines.
    """
    built = seeded.state_dict()
    changed = {name: value.contiguous() for name, value in rest(model).items() if not torch.equal(value, built[name])}
    return base64.b64encode(safetensors.torch.save(changed)).decode() if changed else ""


@torch.no_grad()
def load_fixed(model: nn.Module, text: str, sha256: str) -> None:
    """Loads the state that a recipe states, and checks that the rest of the model is that of the coordinator.

    Raises:
        InvalidArgument: BAD_VALUE if the state does not fit the model.
        FailedPrecondition: WRONG_VERSION if this installation builds the model with other initial weights.
    """
    try:
        values = safetensors.torch.load(base64.b64decode(text, validate=True)) if text else {}
        own = rest(model)
        for name, value in values.items():
            own[name].copy_(value)
    except (safetensors.SafetensorError, binascii.Error, KeyError, RuntimeError) as error:
        message = f"the recipe's fixed state does not fit the model: {str(error)[:200]}"
        raise InvalidArgument("BAD_VALUE", message, field="recipe.fixed") from error
    if rest_sha256(model) != sha256:
        message = (
            "this installation builds the model with other frozen weights than the coordinator; install the same "
            "versions of deepseek-mesh and torch"
        )
        raise FailedPrecondition("WRONG_VERSION", message, field="recipe.rest_sha256")
