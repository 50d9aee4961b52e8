"""Converts raw values to a model's input tensors, using the encoders in the model's manifest. Does not import torch."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument, MeshError, Violation
from deepseek.arrays import as_array
from deepseek.data import encoders
from deepseek.models.datatypes import DTYPES
from deepseek.models.manifest import ModelManifest, TensorSpec

_FILES = ("image", "audio")
_TEXTS = ("words", "characters", "label")
"""Encoders of text. For an encoder of another package, the form of the value decides."""


class SampleEncoder:
    """Encodes samples for one model version.

    Args:
        manifest: Manifest of the version.

    Attributes:
        fields: Names of the fields that a sample must have, in the order of the model's inputs: the field of the data
            set on which an input was trained, or else the name of the input.
    """

    def __init__(self, manifest: ModelManifest) -> None:
        self._specs = manifest.inputs
        self.fields = tuple(spec.field or spec.name for spec in manifest.inputs)
        self._encoders = {
            spec.name: encoders.restore(spec.encoder.name, spec.encoder.params, spec.encoder.state, field=spec.name)
            for spec in manifest.inputs
            if spec.encoder
        }

    def encode(self, values: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """Encodes one sample.

        Args:
            values: Value of each field, by the name of the field or of the input. Other values are ignored.

        Returns:
            An array for each input, without the batch axis. Leading dimensions of length 1 are added to match the rank
            of the model's input.

        Raises:
            InvalidArgument: MISSING_FIELD if values are missing; BAD_INPUT if a value for an input without an encoder
                is not an array of its type; or the error of an encoder, e.g. DAMAGED_IMAGE. The error names the field.
        """
        pairs = list(zip(self._specs, self.fields, strict=True))
        if missing := [name for spec, name in pairs if name not in values and spec.name not in values]:
            message = f"the model needs a value for {', '.join(map(repr, missing))}"
            others = [Violation(name, "the value is missing") for name in missing[1:]]
            raise InvalidArgument("MISSING_FIELD", message, field=missing[0], violations=others)
        arrays = {}
        for spec, name in pairs:
            value = values[name] if name in values else values[spec.name]
            try:
                array = self._encode(spec, value)
            except MeshError as error:
                raise type(error)(error.reason, error.message, field=name) from error
            arrays[spec.name] = array.reshape((1,) * (len(spec.shape) - 1 - array.ndim) + array.shape)
        return arrays

    def from_text(self, values: Mapping[str, str], folder: Path) -> dict[str, Any]:
        """Converts values that were written as text, e.g. in a CSV file, to the values that `encode` takes.

        Args:
            values: Text of each field. Images and recordings are given by the paths of their files. An input without an
                encoder is a JSON array, numbers separated by commas or spaces, or the path of a .npy file.
            folder: Folder to which relative paths refer.

        Raises:
            InvalidArgument: NOT_FOUND, WRONG_TYPE or BAD_INPUT. The error names the field.
        """
        specs = {name: spec for spec, name in zip(self._specs, self.fields, strict=True)}
        specs |= {spec.name: spec for spec in self._specs if spec.name not in specs}
        return {name: _from_text(specs[name], text, folder, name) for name, text in values.items() if name in specs}

    @property
    def joins_columns(self) -> bool:
        """Whether the model's only input is one array of numbers per sample, which may come from several columns."""
        return len(self._specs) == 1 and not self._specs[0].encoder and len(self._specs[0].shape) == 2

    def check_columns(self, names: Collection[str]) -> None:
        """Checks that `gathered` can join columns of these names.

        Raises:
            InvalidArgument: UNKNOWN_FIELD if there are more columns than numbers in the input's last axis;
                MISSING_FIELD if there are fewer.
        """
        spec = self._specs[0]
        if not self._joins(names) or spec.shape[1] in (-1, len(names)):
            return
        found = f"{len(names)} columns: {', '.join(name or repr(name) for name in names)[:500]}"
        message = f"the model takes {spec.shape[1]} numbers, but there are {found}"
        if len(names) > spec.shape[1]:
            message += "; leave out those that it does not take"
            raise InvalidArgument("UNKNOWN_FIELD", message, field=spec.name)
        raise InvalidArgument("MISSING_FIELD", f"{message}; add the missing ones", field=spec.name)

    def gathered(self, values: Mapping[str, str]) -> Mapping[str, str]:
        """Joins the columns of a table into the only input of a model that takes all of them as one array.

        Args:
            values: Text of each column. They are returned unchanged if the model has encoders or if a column is named
                after its input.

        Raises:
            InvalidArgument: An error of `check_columns`, or WRONG_TYPE if a cell is not a number; it names the column.
        """
        self.check_columns(values)
        if not self._joins(values):
            return values
        spec = self._specs[0]
        if spec.datatype == "BYTES":
            return {spec.name: json.dumps([*values.values()])}
        return {spec.name: f"[{','.join(_number(text, name) for name, text in values.items())}]"}

    def _joins(self, names: Collection[str]) -> bool:
        return self.joins_columns and bool(names) and self._specs[0].name not in names

    def _encode(self, spec: TensorSpec, value: Any) -> npt.NDArray[Any]:
        if spec.name in self._encoders:
            return np.asarray(self._encoders[spec.name].encode(value))
        array = as_array(value, reason="BAD_INPUT", field=spec.name)
        dtype = DTYPES[spec.datatype]
        try:
            if array.dtype.kind in "biu" and dtype.kind in "iu":
                _check_range(array, dtype, spec)
                array = array.astype(dtype)
            else:
                array = array.astype(dtype, casting="unsafe" if array.dtype.kind in "OUS" else "same_kind")
        except (TypeError, ValueError, OverflowError) as error:
            message = f"an array of {array.dtype} is not {spec.datatype}, which the model's input {spec.name!r} takes"
            raise InvalidArgument("BAD_INPUT", message, field=spec.name) from error
        return array[0] if array.ndim == len(spec.shape) and array.shape[:1] == (1,) else array


def encode_inputs(manifest: ModelManifest, values: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Encodes one sample as a batch of one, as `SampleEncoder.encode` does.

    Returns:
        An array for each input, with the batch axis.
    """
    return {name: array[np.newaxis] for name, array in SampleEncoder(manifest).encode(values).items()}


def _check_range(array: npt.NDArray[Any], dtype: np.dtype[Any], spec: TensorSpec) -> None:
    """Checks that integers fit into a type, because NumPy would wrap them."""
    bounds = np.iinfo(dtype)
    if array.size and not bounds.min <= int(array.min()) <= int(array.max()) <= bounds.max:
        message = f"the integers must be from {bounds.min} to {bounds.max}: {spec.name!r} has type {spec.datatype}"
        raise InvalidArgument("BAD_INPUT", message, field=spec.name)


def _from_text(spec: TensorSpec, text: str, folder: Path, field: str) -> Any:
    name = spec.encoder.name if spec.encoder else ""
    if name in _FILES:
        return _content(folder / text, field)
    if name in _TEXTS:
        return text
    if name in ("integer", "number"):
        try:
            return int(text) if name == "integer" else float(text)
        except ValueError as error:
            raise _wrong_type(text, "an integer" if name == "integer" else "a number", field) from error
    if name:
        return _content(folder / text, field) if _is_file(folder / text) else _json(text, text)
    if text.endswith(".npy"):
        try:
            return np.load(folder / text, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InvalidArgument("BAD_INPUT", f"{text} cannot be read as a .npy file: {error}", field=field) from error
    if spec.datatype == "BYTES":
        return np.array(_json(text, text) if text.startswith("[") else text, object)
    readings = (_json(one, None) for one in (text, f"[{text}]", f"[{','.join(text.split())}]"))
    found = next((reading for reading in readings if reading is not None), None)
    try:
        array = np.asarray(found)
    except ValueError:  # lists of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        message = f"{text[:80]!r} is neither a number, nor a list of numbers, nor a .npy file"
        raise InvalidArgument("WRONG_TYPE", message, field=field)
    return array


def _number(text: str, field: str) -> str:
    """Returns the number of a cell as JSON, which does not allow all forms of numbers, e.g. `.5`."""
    if text in ("true", "false"):
        return text
    try:
        return json.dumps(int(text))
    except ValueError:
        pass
    try:
        return json.dumps(float(text))
    except ValueError as error:
        raise _wrong_type(text, "a number", field) from error


def _wrong_type(text: str, expected: str, field: str) -> InvalidArgument:
    if not text.strip():
        return InvalidArgument("MISSING_FIELD", f"the value is missing; write {expected}", field=field)
    return InvalidArgument("WRONG_TYPE", f"{text[:80]!r} is not {expected}", field=field)


def _json(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL
        return False


def _content(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArgument("NOT_FOUND", f"{path} cannot be read: {reason}", field=field) from error
