"""Measures what a network costs: parameters, multiply-accumulate operations, and latency in ONNX Runtime.

The specs of this package know their parameters and operations without a network (`ConvSpec.cost`). These functions
measure any torch module, so they also serve to compare a searched network with one that was designed by hand.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deepseek.nas.space import Cost
from deepseek.training import modules
from deepseek.trainjob import onnx_files


def measured_cost(model: nn.Module, sample: Mapping[str, Tensor]) -> Cost:
    """Counts the parameters of a network, and the operations of its forward pass.

    Args:
        model: The network.
        sample: Its inputs by name, with a batch of one sample.

    Returns:
        The cost. As in torch's counter, only convolutions and matrix products count as operations.
    """
    counter = FlopCounterMode(display=False)
    # Fused attention is one operation, which the counter does not know on CPUs.
    with modules.evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**sample)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2)


def latencies_ms(models: Sequence[nn.Module], example: Mapping[str, Tensor], *, num_rounds: int = 100) -> list[float]:
    """Measures how long ONNX Runtime takes for one sample on one thread.

    The networks take turns, so that other load on the machine affects all of them equally. Compare only latencies of
    one call.

    Args:
        models: The networks, which have the same inputs. Their mode does not change.
        example: Inputs by name, with a batch of at least two samples; the first one is timed.
        num_rounds: Number of timed runs per network.

    Returns:
        The median latency of each network in milliseconds.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED or EXPORT_DIFFERS if a network cannot be exported.
    """
    request = {name: tensor[:1].numpy() for name, tensor in example.items()}
    with tempfile.TemporaryDirectory(prefix="deepseek-latency-") as folder, _quiet_exporter():
        sessions = []
        for number, model in enumerate(models):
            path = Path(folder) / f"{number}.onnx"
            with modules.evaluating(model):
                onnx_files.export_onnx(model, example, [], path)
            sessions.append(onnx_files.open_session(path))
        return onnx_files.median_latencies_ms(sessions, [request], num_rounds=num_rounds)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hides the exporter's warning that torchvision is not installed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
