"""Messages about the numeric format in which a run trains."""

from collections.abc import Mapping

from protos.trainer.v1 import trainer_pb2

_REASONS = {
    trainer_pb2.PRECISION_REASON_REQUESTED: "as requested",
    trainer_pb2.PRECISION_REASON_FASTEST: "measured as the fastest",
    trainer_pb2.PRECISION_REASON_DEVICE: "the fast format of this device",
    trainer_pb2.PRECISION_REASON_KEPT: "kept from the run's first attempt",
}


def event_text(event: trainer_pb2.PrecisionEvent) -> str:
    """Returns a line of text with a run's numeric format and the reason why this format was chosen."""
    reason = _REASONS.get(event.reason, "")
    return f"{precision_name(event.precision)}, {reason}{ratios_text(event_ratios(event))} ({event.instruction_set})"


def event_ratios(event: trainer_pb2.PrecisionEvent) -> dict[str, float]:
    """Returns the duration of a training step in each format, relative to the fastest format; empty if not measured."""
    return {precision_name(part.precision): part.ratio for part in event.ratios}


def precision_name(precision: trainer_pb2.Precision) -> str:
    """Returns the short name of a format, e.g. `fp32` for PRECISION_FP32."""
    return trainer_pb2.Precision.Name(precision).removeprefix("PRECISION_").lower()


def ratios_text(ratios: Mapping[str, float]) -> str:
    """Returns text such as `; step time relative to fp32: 9.8x in bf16`; an empty string if nothing was measured.

    Args:
        ratios: Duration of a training step in each format, divided by that in the fastest format, here fp32.
    """
    if not ratios:
        return ""
    best = min(ratios, key=lambda name: ratios[name])
    slower = [f"{ratio:.1f}x in {name}" for name, ratio in ratios.items() if name != best]
    return f"; step time relative to {best}: {', '.join(slower)}"
