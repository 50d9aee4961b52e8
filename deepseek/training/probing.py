"""Builds requests from a split of the data, to measure latency and to become the probes of a version.

A request is one sample, as a client sends it: it has one value of a repeated field, unless the model takes a fixed
number. The answers are the float32 file's, without graph optimisations. `deepseek.models.probes` stores and compares
probes.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from common.errors import FailedPrecondition
from deepseek.data.datasets import TARGET, EncodedDataset
from deepseek.models.probes import MAX_BYTES, Array, Probes
from deepseek.training import onnx_files

MAX_PROBES = 256
MAX_PROBE_BYTES = 4 << 20
_MAX_ONLY_PROBE_BYTES = MAX_BYTES - (1 << 16)
"""What a probe and its answers may have if it is the only one; the rest is for the archive's headers."""
MAX_PROBE_S = 2.0
"""Time budget for the float32 file to answer all probes on the exporting host."""
_MIN_PROBES = 8

Request = dict[str, Array]


def make_requests(dataset: EncodedDataset, dynamic: Collection[str]) -> list[Request]:
    """Builds requests from samples that are spread evenly over a split.

    Args:
        dataset: The split.
        dynamic: Inputs that take a list of any length.

    Returns:
        At most `MAX_PROBES` requests of equal shapes, at least one.
    """
    num_requests = min(MAX_PROBES, len(dataset))
    requests = [_request(dataset, i * len(dataset) // num_requests, dynamic) for i in range(num_requests)]
    # A sample with an empty list contains no question.
    shapes = [tuple(array.shape for array in request.values()) for request in requests]
    return [request for request, shape in zip(requests, shapes, strict=True) if shape == max(shapes)]


def make_probes(file: Path, requests: Sequence[Request], *, latency_ms: float) -> Probes | None:
    """Builds probes from as many requests as the limits on number, size and time allow.

    Args:
        file: The float32 file.
        requests: Result of `make_requests`.
        latency_ms: Time of one request with that file.

    Returns:
        The probes, at least one; None if a single request with its answers is too large for a server to read.
    """
    session = onnx_files.open_session(file, optimised=False)
    names = [node.name for node in session.get_outputs()]
    size = sum(array.nbytes for array in (*requests[0].values(), *session.run(None, requests[0])))
    if size > _MAX_ONLY_PROBE_BYTES:
        return None
    in_size, in_time = max(1, MAX_PROBE_BYTES // size), max(_MIN_PROBES, int(MAX_PROBE_S * 1000 / latency_ms))
    affordable = min(len(requests), in_size, in_time)
    # A power of two, so that a slightly different latency gives the same probes.
    num_probes = affordable if affordable == len(requests) else 1 << max(0, affordable.bit_length() - 1)
    chosen = [requests[i * len(requests) // num_probes] for i in range(num_probes)]
    answered = [(request, session.run(None, request)) for request in chosen]
    # Probes have one shape. Where the answers' shapes depend on the values, those like the first are kept.
    shapes = [tuple(array.shape for array in answer) for _, answer in answered]
    answered = [one for one, shape in zip(answered, shapes, strict=True) if shape == shapes[0]]
    return Probes(
        {name: np.stack([request[name] for request, _ in answered]) for name in requests[0]},
        {name: np.stack([answer[i] for _, answer in answered]) for i, name in enumerate(names)},
    )


def check_lengths(dataset: EncodedDataset, fixed: dict[str, int]) -> None:
    """Checks that every sample has the number of values that the graph takes.

    Args:
        dataset: Split that is about to be run through the graph.
        fixed: The number of values of each repeated input whose length is fixed.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED, naming the sample.
    """
    for index in range(len(dataset) if fixed else 0):
        for name, length in fixed.items():
            if (found := len(dataset[index][name])) != length:
                message = (
                    f"the exported graph takes exactly {length} values of {name!r}, but the sample "
                    f"{dataset.keys[index]!r} has {found}; write the model for lists of any length, or give every "
                    f"sample {length} values"
                )
                raise FailedPrecondition("EXPORT_UNSUPPORTED", message)


def _request(dataset: EncodedDataset, index: int, dynamic: Collection[str]) -> Request:
    batch = dataset.collate([dataset[index]])
    del batch[TARGET]
    lengths = [tensor.shape[1] for name, tensor in batch.items() if name in dynamic]
    # Not always the first value: the first question may be the same for all images.
    chosen = index % max(1, min(lengths, default=1))
    return {
        name: (tensor[:, chosen : chosen + 1] if name in dynamic else tensor).numpy() for name, tensor in batch.items()
    }
