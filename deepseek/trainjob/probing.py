"""Builds requests from a split of the data, for measuring latency and for the probes of a model version.

A request is one sample, as a client sends it: it has one value of each repeated field, unless the model requires a
fixed number of values. A probe is a request with its expected outputs, which the float32 file computes without graph
optimizations. `deepseek.models.probes` stores and compares probes.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from common.errors import FailedPrecondition
from deepseek.data.datasets import TARGET, EncodedDataset
from deepseek.models.probes import MAX_BYTES, Array, Probes
from deepseek.trainjob import onnx_files

MAX_PROBES = 256
MAX_PROBE_BYTES = 4 << 20
_MAX_ONLY_PROBE_BYTES = MAX_BYTES - (1 << 16)
"""Maximum size in bytes of a version's only probe, including its outputs.

The rest of `MAX_BYTES` is for headers of the archive.
"""
MAX_PROBE_S = 2.0
"""Time budget for running the float32 file on all probes, on the exporting host."""
_MIN_PROBES = 8

Request = dict[str, Array]


def make_requests(dataset: EncodedDataset, dynamic: Collection[str]) -> list[Request]:
    """Builds requests from samples that are spread evenly over a split.

    Args:
        dataset: The split.
        dynamic: Names of the inputs that accept a list of any length.

    Returns:
        One to `MAX_PROBES` requests, all with the same shapes.
    """
    num_requests = min(MAX_PROBES, len(dataset))
    requests = [_request(dataset, i * len(dataset) // num_requests, dynamic) for i in range(num_requests)]
    # Drops empty requests, which come from samples with an empty list.
    shapes = [tuple(array.shape for array in request.values()) for request in requests]
    return [request for request, shape in zip(requests, shapes, strict=True) if shape == max(shapes)]


def make_probes(file: Path, requests: Sequence[Request], *, latency_ms: float) -> Probes | None:
    """Builds probes from as many requests as the limits on number, size and time allow.

    Args:
        file: The float32 file.
        requests: Requests from `make_requests`.
        latency_ms: Time that the file takes for one request.

    Returns:
        At least one probe, or None if even a single request and its outputs are too large for a server to read.
    """
    session = onnx_files.open_session(file, optimized=False)
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
    # All probes must have equal shapes. If output shapes depend on input values, only those like the first are kept.
    shapes = [tuple(array.shape for array in answer) for _, answer in answered]
    answered = [one for one, shape in zip(answered, shapes, strict=True) if shape == shapes[0]]
    return Probes(
        {name: np.stack([request[name] for request, _ in answered]) for name in requests[0]},
        {name: np.stack([answer[i] for _, answer in answered]) for i, name in enumerate(names)},
    )


def check_lengths(dataset: EncodedDataset, fixed: dict[str, int]) -> None:
    """Checks that every sample has the number of values that the graph requires.

    Args:
        dataset: Split to check.
        fixed: Required number of values for each repeated input that has a fixed length, by name.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if a sample has a different number of values; the message names that
            sample.
    """
    for index in range(len(dataset) if fixed else 0):
        for name, length in fixed.items():
            if (found := len(dataset[index][name])) != length:
                message = (
                    f"the exported graph takes exactly {length} values of {name!r}, but the sample "
                    f"{dataset.keys[index]!r} has {found}; change the model to accept lists of any length, or give "
                    f"every sample {length} values"
                )
                raise FailedPrecondition("EXPORT_UNSUPPORTED", message)


def _request(dataset: EncodedDataset, index: int, dynamic: Collection[str]) -> Request:
    batch = dataset.collate([dataset[index]])
    del batch[TARGET]
    lengths = [tensor.shape[1] for name, tensor in batch.items() if name in dynamic]
    # The chosen index varies between samples, because e.g. the first question may be the same for all images.
    chosen = index % max(1, min(lengths, default=1))
    return {
        name: (tensor[:, chosen : chosen + 1] if name in dynamic else tensor).numpy() for name, tensor in batch.items()
    }
