"""Raw values to a model's input tensors, by the encoders that its manifest carries. No torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from deepseek.data import encoders
from deepseek.models.manifest import ModelManifest


def encode_inputs(manifest: ModelManifest, values: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Encodes one sample as a batch of one.

    Args:
        manifest: The model version; each of its inputs names an encoder and what it learned in training.
        values: A raw value for each input: the bytes of an image file, a text, a number.

    Returns:
        An array for each input, with leading dimensions of length 1 up to the rank of the model's input.

    Raises:
        InvalidArgument: MISSING_FIELD if an input has no value, NO_ENCODER if none is known for it; DAMAGED_IMAGE
            and the like from its encoder.
    """
    arrays = {}
    for spec in manifest.inputs:
        if spec.name not in values:
            message = f"the model needs a value for its input {spec.name!r}"
            raise InvalidArgument("MISSING_FIELD", message, field=spec.name)
        if spec.encoder is None:
            raise InvalidArgument("NO_ENCODER", f"the model takes {spec.name!r} as a tensor only", field=spec.name)
        encoder = encoders.restore(spec.encoder.name, spec.encoder.params, spec.encoder.state, field=spec.name)
        array = np.asarray(encoder.encode(values[spec.name]))
        arrays[spec.name] = array.reshape((1,) * (len(spec.shape) - array.ndim) + array.shape)
    return arrays
