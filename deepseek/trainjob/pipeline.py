"""Builds the parts of a run from its spec: fitted encoders, encoded splits, and the model.

Workers and exports share this code, so both see the same data. This module also checks parameters that a server cannot
check, because their components need torch. Errors name the field of the spec.
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.components import AUGMENTATIONS, MODELS
from deepseek.data import encoders
from deepseek.data.datasets import TARGET, EncodedDataset, InputMapping, fit_encoders
from deepseek.training import checkpoint, modules
from deepseek.trainjob.held_out import divide
from deepseek.trainjob.jobfile import JobFile
from deepseek.trainjob.onnx_operators import doubtful
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import FieldMapping, learns_from_private_data
from deepseek.trainjob.tracing import check_single, trace


@dataclass(frozen=True)
class FittedMappings:
    """The fitted encoders of a run.

    Attributes:
        inputs: Mappings of the inputs, in the order of the spec.
        encoder_names: Registered name of each input's encoder, for rebuilding the encoder.
        target: Mapping of the target.
    """

    inputs: tuple[InputMapping, ...]
    encoder_names: tuple[str, ...]
    target: InputMapping


def fit_mappings(job: JobFile) -> FittedMappings:
    """Builds the spec's encoders and augmentations, and fits the encoders on the training split.

    Fitting is deterministic, so all workers, restarts and exports get the same encoders. If the run starts from a model
    version, an input whose name, encoder and parameters are those of the version takes the version's learned state
    instead, because the weights depend on it.

    Raises:
        InvalidArgument: An encoder or augmentation does not have a parameter that the spec names, or an encoder does
            not suit its field.
        FailedPrecondition: NOT_PRIVATE_ENCODER if a private run would fit an encoder.
    """
    spec = job.spec
    inputs = tuple(build_mapping(mapping, f"spec.inputs[{i}]") for i, mapping in enumerate(spec.inputs))
    target = build_mapping(spec.target, "spec.target")
    places = [(mapping, f"spec.inputs[{i}]") for i, mapping in enumerate(inputs)] + [(target, "spec.target")]
    for mapping, where in places:
        state = _initial_state(job, mapping, inputs)
        try:
            if state is None and spec.privacy and mapping.encoder.learns:
                raise learns_from_private_data(type(mapping.encoder).__name__, f"{where}.encoder")
            if state is None:
                fit_encoders(job.store, job.tenant, job.manifest, spec.train_split, [mapping])
            else:
                mapping.encoder.bind(job.manifest.field(mapping.field))
                mapping.encoder.load_state(dict(state))
        except InvalidArgument as error:
            raise InvalidArgument(error.reason, error.message, field=f"{where}.encoder") from error
    return FittedMappings(inputs, tuple(mapping.encoder.name for mapping in spec.inputs), target)


def open_split(job: JobFile, split: str, mappings: FittedMappings, *, augment: bool = False) -> EncodedDataset:
    """Reads and encodes one split."""
    return EncodedDataset(job.store, job.tenant, job.manifest, split, mappings.inputs, mappings.target, augment=augment)


def open_splits(job: JobFile, mappings: FittedMappings) -> tuple[EncodedDataset, EncodedDataset | None]:
    """Reads and encodes the samples that a run trains on and, if there are any, those that it is evaluated on."""
    training = open_split(job, job.spec.train_split, mappings, augment=True)
    if job.spec.eval_share:
        return divide(job.spec, training)
    return training, open_evaluation(job, mappings)


def open_evaluation(job: JobFile, mappings: FittedMappings) -> EncodedDataset | None:
    """Reads and encodes the samples that a run is evaluated on; None if there are none."""
    spec = job.spec
    if spec.eval_share:
        return divide(spec, open_split(job, spec.train_split, mappings))[1]
    return open_split(job, spec.eval_split, mappings) if job.manifest.splits.get(spec.eval_split) else None


def model_params(spec: RunSpec, mappings: FittedMappings) -> dict[str, Any]:
    """Returns the parameters of a spec's model, completed from the data.

    A spec may leave out a required parameter of its model if the data determines the value. For `num_classes`, this is
    the number of the target's labels, or 1 if the target is a number. For `columns`, it is the number of labels of each
    input, or 0 for an input without labels. For any other parameter, it is the parameter of the inputs' encoders that
    has the same name, e.g. `vocabulary`, if they agree on its value.

    Raises:
        InvalidArgument: BAD_VALUE if the model takes columns of a table and an input is not a column.
    """
    params = dict(spec.model.params)
    signature = inspect.signature(MODELS.get(spec.model.name, field="spec.model.name")).parameters
    for name in [key for key, one in signature.items() if one.default is one.empty and key not in params]:
        if name == "columns":
            params[name] = _columns(spec, mappings.inputs)
        elif name == "num_classes":
            labels, dtype = getattr(mappings.target.encoder, "labels", ()), mappings.target.encoder.dtype
            if labels or dtype.kind == "f":
                params[name] = len(labels) or 1
        else:
            found = [mapping.encoder.params[name] for mapping in mappings.inputs if name in mapping.encoder.params]
            if found and all(value == found[0] for value in found):
                params[name] = found[0]
    return params


def build_model(spec: RunSpec, mappings: FittedMappings | None = None) -> nn.Module:
    """Builds the model of a spec. Its initial weights are determined by the spec's seed.

    Args:
        spec: Spec of the run.
        mappings: Fitted encoders, which complete the parameters of the model; if None, the spec must contain all
            required parameters.

    Raises:
        InvalidArgument: The spec names a parameter or input that the model does not have, or lacks one that the model
            requires and the data does not determine.
    """
    torch.manual_seed(spec.seed)
    params = spec.model.params if mappings is None else model_params(spec, mappings)
    model: nn.Module = MODELS.build(spec.model.name, params, field="spec.model")
    takes = inspect.signature(model.forward).parameters
    names = [mapping.input for mapping in spec.inputs]
    for i, name in enumerate(names):
        if name not in takes and not _is_open_ended(model):
            message = f"the model {spec.model.name} has no input {name!r}; it has {', '.join(takes)}"
            raise InvalidArgument("BAD_VALUE", message, field=f"spec.inputs[{i}].input")
    for name, parameter in takes.items():
        needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if needed and name not in names:
            message = f"the model {spec.model.name} requires the input {name!r}; map a field to it"
            raise InvalidArgument("MISSING_FIELD", message, field="spec.inputs")
    return model


def load_initial_weights(job: JobFile, model: nn.Module) -> None:
    """Loads the weights of the model version from which the run starts.

    Raises:
        FailedPrecondition: INIT_MISMATCH if the weights do not fit the model; the message names the first parameters
            that differ. The same if a model that takes inputs of any names, whose weights depend on their order, has
            other inputs than the version.
    """
    assert job.init is not None
    assert job.init.weights is not None, "the trainer has checked this"
    names, trained = [mapping.input for mapping in job.spec.inputs], [tensor.name for tensor in job.init.inputs]
    if names != trained and _is_open_ended(model):
        message = (
            f"the model {job.spec.model.name} cannot start from {job.spec.init}: its inputs are {', '.join(names)}, "
            f"but the version was trained with {', '.join(trained)}; use the same inputs in the same order"
        )
        raise FailedPrecondition("INIT_MISMATCH", message, field="spec.init")
    file = job.directory / f"initial-weights-{os.getpid()}"
    job.store.fetch(job.tenant, job.init.weights.sha256, file)
    state = checkpoint.read(file)
    file.unlink()
    try:
        checkpoint.load_model(model, state)
    except InvalidArgument as error:
        message = (
            f"the model {job.spec.model.name} cannot start from {job.spec.init}: {error.message}. Use the model and "
            "the parameters of that version, or leave out init"
        )
        raise FailedPrecondition("INIT_MISMATCH", message, field="spec.init") from error


def freeze(model: nn.Module, spec: RunSpec) -> None:
    """Excludes the parameters that the spec names from training.

    Modules without any trained parameter are put into evaluation mode, in which they stay.

    Raises:
        InvalidArgument: BAD_VALUE if no parameter begins with one of the prefixes.
    """
    names = [name for name, _ in model.named_parameters()]
    for i, prefix in enumerate(spec.freeze):
        if not any(name.startswith(prefix) for name in names):
            known = ", ".join(sorted({name.partition(".")[0] for name in names}))
            message = f"no parameter of the model {spec.model.name} begins with {prefix[:80]!r}; its parts are {known}"
            raise InvalidArgument("BAD_VALUE", message, field=f"spec.freeze[{i}]")
    for name, parameter in model.named_parameters():
        if name.startswith(spec.freeze):
            parameter.requires_grad_(False)
    for module in model.modules() if spec.freeze else ():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def check_forward(model: nn.Module, dataset: EncodedDataset, mappings: FittedMappings, spec: RunSpec) -> None:
    """Passes two samples through the model, so that mismatches between the model and the data are reported early.

    Raises:
        InvalidArgument: BAD_VALUE if the model fails, or has fewer classes than the target has labels.
    """
    batch = sample_batch(dataset, 2)
    inputs = {name: tensor for name, tensor in batch.items() if name != TARGET}
    try:
        with modules.evaluating(model), torch.no_grad():
            output = model(**inputs)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        shapes = ", ".join(f"{name} {_shape(tensor)}" for name, tensor in inputs.items())
        message = f"the model {spec.model.name} fails on inputs {shapes}: {error}"
        raise InvalidArgument("BAD_VALUE", message, field="spec.model") from error
    except InvalidArgument as error:
        message = f"the model {spec.model.name} does not accept the inputs: {error.message}"
        raise InvalidArgument(error.reason, message, field="spec.inputs") from error
    labels = getattr(mappings.target.encoder, "labels", ())
    if labels and isinstance(output, Tensor) and output.shape[-1] < len(labels):
        message = f"the target has {len(labels)} labels, but the model has only {output.shape[-1]} classes"
        raise InvalidArgument("BAD_VALUE", message, field="spec.model.params")


def unseen_labels(job: JobFile, mappings: FittedMappings, dataset: EncodedDataset, evaluation: EncodedDataset) -> str:
    """Returns a warning that names the target's labels that only the evaluation data has; empty if there are none."""
    spec, labels = job.spec, getattr(mappings.target.encoder, "labels", ())
    if not labels:
        return ""
    unseen = np.setdiff1d(evaluation.distinct(TARGET), dataset.distinct(TARGET))
    names = [repr(labels[number]) for number in unseen if number >= 0]  # lists are padded with a negative number
    if not names:
        return ""
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    where = f"in the split {spec.eval_split!r} but not in {spec.train_split!r}"
    if spec.eval_share:
        where = f"in the held-out part of the split {spec.train_split!r} but not in the rest"
    return f"some labels of {spec.target.field!r} are {where}, so the model cannot learn them: {shown}"


def check_exportable(job: JobFile, dataset: EncodedDataset, mappings: FittedMappings) -> None:
    """Checks that the run's model can be exported, by trying it with an untrained copy of the model.

    The model is only traced, and its graph is run on a batch of another size, unless the graph contains operations that
    might not be convertible to ONNX. In this case it is also converted, which takes several seconds.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED at `spec.model`; the message names the model and the reason.
    """
    repeated = [one.input for one in job.spec.inputs if job.manifest.field(one.field).repeated]
    try:
        model, example = build_model(job.spec, mappings).eval(), example_batch(dataset, repeated)
        program, outputs = trace(model, example, repeated)
        if doubtful(program):
            # Imported here, because most runs need neither ONNX nor ONNX Runtime.
            from deepseek.trainjob.onnx_files import convert

            with TemporaryDirectory(dir=job.directory) as folder:
                convert(model, program, outputs, example, Path(folder) / "model.onnx")
        else:
            check_single(model, program, example)
    except Exception as error:  # a model's code may raise anything
        reason = error.message if isinstance(error, FailedPrecondition) else f"{type(error).__name__}: {error}"
        message = f"the model {job.spec.model.name} can be trained but not exported: {reason}"
        raise FailedPrecondition("EXPORT_UNSUPPORTED", message, field="spec.model") from error


def example_batch(dataset: EncodedDataset, repeated: Sequence[str]) -> dict[str, Tensor]:
    """Returns a batch of three samples with at least two values per repeated input.

    A graph traced with a batch of one would accept only such batches; with lists of one value, only such lists.
    """
    batch = sample_batch(dataset, 3)
    return {
        name: torch.cat([tensor, tensor], 1) if name in repeated and tensor.shape[1] < 2 else tensor
        for name, tensor in batch.items()
        if name != TARGET
    }


def sample_batch(dataset: EncodedDataset, num_samples: int) -> Mapping[str, Tensor]:
    """Returns the first samples of a data set as a batch. If the data set is too small, its samples are repeated."""
    return dataset.collate([dataset[i % len(dataset)] for i in range(num_samples)])


def build_mapping(mapping: FieldMapping, where: str) -> InputMapping:
    """Builds the encoder, which is not fitted yet, and the augmentations of a mapping of the spec."""
    encoder = encoders.restore(mapping.encoder.name, mapping.encoder.params, field=f"{where}.encoder")
    augmentations = tuple(
        AUGMENTATIONS.build(part.name, part.params, field=f"{where}.augmentations[{i}]")
        for i, part in enumerate(mapping.augmentations)
    )
    return InputMapping(mapping.field, mapping.input, encoder, augmentations)


def _initial_state(job: JobFile, mapping: InputMapping, inputs: Sequence[InputMapping]) -> Mapping[str, Any] | None:
    """Returns the state that an encoder takes from the initial model version; None if the encoder must be fitted.

    A target that is encoded like an input, as in a language model, takes the same state as that input.
    """
    if job.init is None or not mapping.encoder.learns:
        return None
    alike = [
        one.input
        for one in inputs
        if (one.field, type(one.encoder), one.encoder.params)
        == (mapping.field, type(mapping.encoder), mapping.encoder.params)
    ]
    names = [mapping.input] if mapping in inputs else alike
    for tensor in job.init.inputs:
        spec = tensor.encoder
        if spec is not None and tensor.name in names:
            trained = encoders.restore(spec.name, spec.params, spec.state)
            if type(trained) is type(mapping.encoder) and trained.params == mapping.encoder.params:
                return spec.state
    return None


def _is_open_ended(model: nn.Module) -> bool:
    """Returns whether a model takes inputs of any names."""
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(model.forward).parameters.values())


def _columns(spec: RunSpec, inputs: Sequence[InputMapping]) -> dict[str, int]:
    for i, mapping in enumerate(inputs):
        if mapping.encoder.shape or mapping.encoder.dtype.kind not in "if":
            message = (
                f"the model {spec.model.name} takes columns of numbers, integers and labels, but {mapping.field!r} is "
                f"encoded as {mapping.encoder.dtype}[{', '.join(map(str, mapping.encoder.shape))}]; leave it out"
            )
            raise InvalidArgument("BAD_VALUE", message, field=f"spec.inputs[{i}]")
    return {mapping.input: len(getattr(mapping.encoder, "labels", ())) for mapping in inputs}


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}[{', '.join(map(str, tensor.shape))}]"
