"""Predictions for samples: encodes the fields of many rows, runs the served model in batches, and decodes its outputs.

The manifest of the served version says how a field becomes a tensor, and which labels an output has. A row that cannot
be encoded, or that the model rejects, gets a separate error; the other rows are not affected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, ResourceExhausted
from deepseek.client.local_model import LocalModel
from deepseek.client.served import served_number
from deepseek.models.inputs import SampleEncoder

if TYPE_CHECKING:
    import numpy.typing as npt

    from deepseek.client.local_model import Arrays
    from deepseek.client.mesh import Mesh

BATCH_SIZE = 64
_PLACE = re.compile(r"inputs\[(\d+)\]")
_MAX_BATCH_BYTES = 32 << 20
_MAX_TOTAL_ERROR = 1e-3


@dataclass(frozen=True)
class Prediction:
    """The result for one row.

    Attributes:
        label: The likeliest label; empty if no output has labels.
        probability: Probability of that label.
        probabilities: Probability of each label, by label.
        outputs: The model's outputs for the row, by name.
        text: Continuation of the row's text by a language model; see `deepseek.client.continuation`.
        error: Why there is no result; None if there is one.
    """

    label: str = ""
    probability: float = 0.0
    probabilities: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    text: str = ""
    error: MeshError | None = None


class Predictor:
    """Predicts with a served version. Not thread-safe.

    Args:
        mesh: Mesh that serves the model.
        model: Name of the model, e.g. `digits`, or of a version that must be the served one, e.g. `digits:3`.
        unserved: Whether this process runs the version itself, with ONNX Runtime, if the mesh does not serve it. If
            true, `model` must be the full name of a version. The version that the mesh serves does not change.

    Attributes:
        version: Name of the version.
        manifest: Manifest of that version.
        inputs: Encoder of the model's inputs.
        runner: `inference` if the mesh serves the version, `local` if this process runs it.

    Raises:
        NotFound: MODEL_NOT_LOADED if the model, or the named version of it, is not served.
        FailedPrecondition: ONNX_RUNTIME_MISSING if this process must run the version and has no ONNX Runtime.
    """

    def __init__(self, mesh: Mesh, model: str, *, unserved: bool = False) -> None:
        try:
            name, number = served_number(mesh, model, field="model")
        except NotFound:
            if not unserved:
                raise
            self.version, self.runner = model, "local"
        else:
            self.version, self.runner = f"models/{name}/versions/{number}", "inference"
        self.manifest = mesh.models.manifest(mesh.models.version(self.version))
        self.inputs = SampleEncoder(self.manifest)
        self._fixed = self.manifest.fixed_batch_size
        self._run: Callable[[Arrays], Arrays]
        if self.runner == "local":
            self._run = LocalModel(mesh, self.version, self.manifest).infer
        else:
            self._run = partial(mesh.inference.infer, name, version=number)

    @property
    def portion(self) -> int:
        """Number of rows for callers that pass them to `predict` in portions: BATCH_SIZE or, to fill the batches of a
        model with a fixed batch size, the next multiple of that size."""
        return -(-BATCH_SIZE // self._fixed) * self._fixed if self._fixed else BATCH_SIZE

    def predict(self, rows: Iterable[Mapping[str, Any]], *, batch_size: int = BATCH_SIZE) -> Iterator[Prediction]:
        """Yields one prediction per row, in order. Rows are read when they are needed.

        Args:
            rows: Value of each field, by its name in the data set or that of the model's input: the bytes of an image
                or a recording, text, a number, or an array for an input without an encoder. Other fields are ignored.
            batch_size: Maximum number of rows per request; large rows are sent in smaller batches. A model with a
                fixed batch size gets requests of that size, of which the last one is filled with copies of its last
                row.

        Raises:
            MeshError: The service failed, the model is no longer served, or NO_BATCH_AXIS: an output has no row for
                each sample.
        """
        if self._fixed:
            batch_size = self._fixed
        elif self.manifest.origin and self.manifest.origin.batch_sizes == (1,):
            batch_size = 1
        remaining = iter(rows)
        while batch := list(islice(remaining, batch_size)):
            yield from self._predict(batch)

    def _predict(self, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        encoded = [self._encode(row) for row in rows]
        good = [one for one in encoded if not isinstance(one, MeshError)]
        answers = iter(self._answers(good))
        return [Prediction(error=one) if isinstance(one, MeshError) else next(answers) for one in encoded]

    def _encode(self, row: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]] | MeshError:
        try:
            return self.inputs.encode(row)
        except MeshError as error:
            return error

    def _answers(self, samples: Sequence[dict[str, npt.NDArray[Any]]]) -> list[Prediction]:
        shapes = {tuple(array.shape for array in sample.values()) for sample in samples}
        if len(shapes) > 1:
            return self._one_by_one(samples)
        if not samples:
            return []
        size = max(1, _MAX_BATCH_BYTES // max(1, max(map(_num_bytes, samples))))
        if size < len(samples) and not self._fixed:
            starts = range(0, len(samples), size)
            return [answer for start in starts for answer in self._answers(samples[start : start + size])]
        sent = [*samples, *[samples[-1]] * (self._fixed - len(samples))]
        arrays = {name: np.stack([sample[name] for sample in sent]) for name in sent[0]}
        try:
            outputs = self._run(arrays)
        except (InvalidArgument, ResourceExhausted) as error:
            return [Prediction(error=self._named(error))] if len(samples) == 1 else self._one_by_one(samples)
        rows = _by_row(outputs, len(sent))[: len(samples)]
        return [self._decode(row) for row in rows]

    def _one_by_one(self, samples: Sequence[dict[str, npt.NDArray[Any]]]) -> list[Prediction]:
        """Predicts each sample in a separate request, because a request with all of them fails."""
        return [answer for sample in samples for answer in self._answers([sample])]

    def _named(self, error: MeshError) -> MeshError:
        """Returns an error of the service with the name of a field in place of the place in the request."""
        if not (place := _PLACE.match(error.field)):
            return error
        return type(error)(error.reason, error.message, field=self.inputs.fields[int(place[1])])

    def _decode(self, outputs: dict[str, npt.NDArray[Any]]) -> Prediction:
        spec = next((one for one in self.manifest.outputs if one.labels), None)
        if spec is None:
            return Prediction(outputs=outputs)
        if not np.isfinite(np.asarray(outputs[spec.name], np.float64)).all():
            message = f"the scores in {spec.name!r} are not finite; the row, or the model itself, is damaged"
            return Prediction(outputs=outputs, error=FailedPrecondition("NOT_FINITE", message))
        shares = label_probabilities(outputs[spec.name], len(spec.labels)).tolist()
        probabilities = dict(zip(spec.labels, shares, strict=True))
        best = max(probabilities, key=lambda label: probabilities[label])
        return Prediction(best, probabilities[best], probabilities, outputs)


def _num_bytes(sample: Mapping[str, npt.NDArray[Any]]) -> int:
    arrays = sample.values()
    return sum(sum(map(len, one.flat)) if one.dtype == object else one.nbytes for one in arrays)


def _by_row(outputs: Mapping[str, Any], num_rows: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Splits the outputs of a request into those of its rows. An element of an array of strings may be a scalar."""
    arrays = {name: np.asarray(output) for name, output in outputs.items()}
    for name, array in arrays.items():
        if array.shape[:1] != (num_rows,):
            message = (
                f"the first axis of the output {name!r}, of shape {list(array.shape)}, is not the batch of {num_rows}, "
                "so it cannot be split into rows; run the model on whole arrays: deepseek infer MODEL --input NAME=FILE"
            )
            raise FailedPrecondition("NO_BATCH_AXIS", message, field=name)
    return [{name: np.asarray(array[i], array.dtype) for name, array in arrays.items()} for i in range(num_rows)]


def label_probabilities(scores: npt.NDArray[Any], num_labels: int) -> npt.NDArray[np.float64]:
    """Returns the probability of each label, float64 [num_labels]. Scores that are no probabilities are logits."""
    values = np.asarray(scores, np.float64).reshape(-1)[:num_labels]
    if not (values.min() >= 0 and abs(values.sum() - 1) <= _MAX_TOTAL_ERROR):
        values = np.exp(values - values.max())
        values /= values.sum()
    return values
