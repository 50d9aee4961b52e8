"""Requests out of a split of the data: what latency is measured with, and what becomes the probes of a version.

A request is one sample, as a client asks it: of a repeated field it has one value, unless the model takes a fixed
number of them. The answers are the float32 file's, without graph optimisations. Not here: how probes are stored and
compared (`deepseek.models.probes`).
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from common.errors import FailedPrecondition
from deepseek.data.datasets import TARGET, EncodedDataset
from deepseek.models.probes import Array, Probes
from deepseek.training import onnx_files

MAX_PROBES = 256
MAX_PROBE_BYTES = 4 << 20
MAX_PROBE_S = 2.0
"""What all probes together may take to be answered by the float32 file where the model is exported."""
_MIN_PROBES = 8

Request = dict[str, Array]


def make_requests(dataset: EncodedDataset, dynamic: Collection[str]) -> list[Request]:
    """Makes requests of samples that are spread evenly over a split.

    Args:
        dataset: The split.
        dynamic: Inputs that take a list of any length.

    Returns:
        At most `MAX_PROBES` requests of equal shapes, at least one.
    """
    num_requests = min(MAX_PROBES, len(dataset))
    requests = [_request(dataset, i * len(dataset) // num_requests, dynamic) for i in range(num_requests)]
    # A sample whose list is empty asks nothing.
    shapes = [tuple(array.shape for array in request.values()) for request in requests]
    return [request for request, shape in zip(requests, shapes, strict=True) if shape == max(shapes)]


def make_probes(file: Path, requests: Sequence[Request], *, latency_ms: float) -> Probes | None:
    """Makes probes of the requests that are not too many, too large or too slow.

    Args:
        file: The float32 file.
        requests: From `make_requests`.
        latency_ms: What a request takes with that file.

    Returns:
        The probes; None if the answers differ in shape, or a single one is too large.
    """
    session = onnx_files.open_session(file, optimised=False)
    names = [node.name for node in session.get_outputs()]
    size = sum(array.nbytes for array in (*requests[0].values(), *session.run(None, requests[0])))
    affordable = min(len(requests), MAX_PROBE_BYTES // size, max(_MIN_PROBES, int(MAX_PROBE_S * 1000 / latency_ms)))
    # A power of two, so that a latency that varies a little makes no other probes.
    num_probes = affordable if affordable == len(requests) else 1 << max(0, affordable.bit_length() - 1)
    if affordable == 0:
        return None
    chosen = [requests[i * len(requests) // num_probes] for i in range(num_probes)]
    answers = [session.run(None, request) for request in chosen]
    if len({tuple(array.shape for array in answer) for answer in answers}) > 1:
        return None
    return Probes(
        {name: np.stack([request[name] for request in chosen]) for name in requests[0]},
        {name: np.stack([answer[i] for answer in answers]) for i, name in enumerate(names)},
    )


def check_lengths(dataset: EncodedDataset, fixed: dict[str, int]) -> None:
    """Checks that every sample has as many values as the graph takes.

    Args:
        dataset: Split that is about to be run through the graph.
        fixed: For each repeated input that takes no list of any length, how many values it takes.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED, naming the sample.
    """
    for index in range(len(dataset) if fixed else 0):
        for name, length in fixed.items():
            if (found := len(dataset[index][name])) != length:
                message = (
                    f"the exported graph takes exactly {length} values of {name!r}, and the sample "
                    f"{dataset.keys[index]!r} has {found}; write the model for lists of any length, or give every "
                    f"sample {length} values"
                )
                raise FailedPrecondition("EXPORT_UNSUPPORTED", message)


def _request(dataset: EncodedDataset, index: int, dynamic: Collection[str]) -> Request:
    batch = dataset.collate([dataset[index]])
    del batch[TARGET]
    lengths = [tensor.shape[1] for name, tensor in batch.items() if name in dynamic]
    # Not always the first value: what is asked first about an image may be the same about all.
    chosen = index % max(1, min(lengths, default=1))
    return {
        name: (tensor[:, chosen : chosen + 1] if name in dynamic else tensor).numpy() for name, tensor in batch.items()
    }
