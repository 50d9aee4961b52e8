"""From a complete spec to the objects that train: fitted encoders, encoded splits, a model that fits them.

Shared by the worker and the export, so that both see the same data. A component's parameters are checked here, where
torch is; every failure names the field of the spec.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.components import AUGMENTATIONS, MODELS
from deepseek.data import encoders
from deepseek.data.datasets import TARGET, EncodedDataset, InputMapping, fit_encoders
from deepseek.training import modules
from deepseek.training.jobfile import JobFile
from deepseek.training.runspec import FieldMapping, RunSpec
from deepseek.training.tracing import trace


@dataclass(frozen=True)
class Mappings:
    """The fitted encoders of a run.

    Attributes:
        inputs: In the order of the spec.
        encoder_names: Of the inputs, by which they can be built anew.
        target: The target.
    """

    inputs: tuple[InputMapping, ...]
    encoder_names: tuple[str, ...]
    target: InputMapping


def fit_mappings(job: JobFile) -> Mappings:
    """Builds the spec's encoders and augmentations, and fits the encoders on the training split.

    Fitting is deterministic, so every worker, every restart and the export get the same encoders.

    Raises:
        InvalidArgument: A parameter that an encoder or augmentation does not take, or an encoder that does not fit
            its field.
    """
    spec = job.spec
    inputs = tuple(_build(mapping, f"spec.inputs[{i}]") for i, mapping in enumerate(spec.inputs))
    target = _build(spec.target, "spec.target")
    places = [(mapping, f"spec.inputs[{i}]") for i, mapping in enumerate(inputs)] + [(target, "spec.target")]
    for mapping, where in places:
        try:
            fit_encoders(job.store, job.tenant, job.manifest, spec.train_split, [mapping])
        except InvalidArgument as error:
            raise InvalidArgument(error.reason, error.message, field=f"{where}.encoder") from error
    return Mappings(inputs, tuple(mapping.encoder.name for mapping in spec.inputs), target)


def open_split(job: JobFile, split: str, mappings: Mappings, *, augment: bool = False) -> EncodedDataset:
    """Reads and encodes one split."""
    return EncodedDataset(job.store, job.tenant, job.manifest, split, mappings.inputs, mappings.target, augment=augment)


def build_model(spec: RunSpec) -> nn.Module:
    """Builds the spec's model with the weights its seed gives.

    Raises:
        InvalidArgument: A parameter it does not take, or an input that its forward does not have or lacks.
    """
    torch.manual_seed(spec.seed)
    model: nn.Module = MODELS.build(spec.model.name, spec.model.params, field="spec.model")
    takes = inspect.signature(model.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    names = [mapping.input for mapping in spec.inputs]
    for i, name in enumerate(names):
        if name not in takes and not open_ended:
            message = f"the model {spec.model.name} has no input {name!r}; it takes {', '.join(takes)}"
            raise InvalidArgument("BAD_VALUE", message, field=f"spec.inputs[{i}].input")
    for name, parameter in takes.items():
        needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if needed and name not in names:
            message = f"the model {spec.model.name} needs an input {name!r}, which no field is mapped to"
            raise InvalidArgument("MISSING_FIELD", message, field="spec.inputs")
    return model


def try_out(model: nn.Module, dataset: EncodedDataset, mappings: Mappings, spec: RunSpec) -> None:
    """Passes two samples through the model, so that what does not fit is told before training begins.

    Raises:
        InvalidArgument: BAD_VALUE for the model, or for a model with fewer classes than the target has labels.
    """
    batch = sample_batch(dataset, 2)
    inputs = {name: tensor for name, tensor in batch.items() if name != TARGET}
    try:
        with modules.evaluating(model), torch.no_grad():
            output = model(**inputs)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        shapes = ", ".join(f"{name} {_shape(tensor)}" for name, tensor in inputs.items())
        message = f"the model {spec.model.name} cannot take {shapes}: {error}"
        raise InvalidArgument("BAD_VALUE", message, field="spec.model") from error
    labels = getattr(mappings.target.encoder, "labels", ())
    if labels and isinstance(output, Tensor) and output.shape[-1] < len(labels):
        message = f"the target has {len(labels)} labels, but the model tells {output.shape[-1]} classes apart"
        raise InvalidArgument("BAD_VALUE", message, field="spec.model.params")


def export_problem(job: JobFile, dataset: EncodedDataset) -> str:
    """Traces the run's untrained model in the same way as the export.

    Returns:
        Why the model cannot be exported; empty if no reason was found.
    """
    repeated = [one.input for one in job.spec.inputs if job.manifest.field(one.field).repeated]
    try:
        trace(build_model(job.spec).eval(), example_batch(dataset, repeated), repeated)
    except FailedPrecondition as error:
        return error.message
    except Exception as error:  # noqa: BLE001  # a model's code may raise anything, and the run does not depend on this
        return f"{type(error).__name__}: {error}"
    return ""


def example_batch(dataset: EncodedDataset, repeated: Sequence[str]) -> dict[str, Tensor]:
    """Three samples, with at least two values per repeated input: a graph exported from fewer is not dynamic."""
    batch = sample_batch(dataset, 3)
    return {
        name: torch.cat([tensor, tensor], 1) if name in repeated and tensor.shape[1] < 2 else tensor
        for name, tensor in batch.items()
        if name != TARGET
    }


def sample_batch(dataset: EncodedDataset, num_samples: int) -> Mapping[str, Tensor]:
    """The first samples of a data set as a batch; repeated from the start if there are fewer."""
    return dataset.collate([dataset[i % len(dataset)] for i in range(num_samples)])


def _build(mapping: FieldMapping, where: str) -> InputMapping:
    encoder = encoders.restore(mapping.encoder.name, mapping.encoder.params, field=f"{where}.encoder")
    augmentations = tuple(
        AUGMENTATIONS.build(part.name, part.params, field=f"{where}.augmentations[{i}]")
        for i, part in enumerate(mapping.augmentations)
    )
    return InputMapping(mapping.field, mapping.input, encoder, augmentations)


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}[{', '.join(map(str, tensor.shape))}]"
