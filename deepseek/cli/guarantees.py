"""Privacy guarantees of model versions, as commands show them."""

from typing import Any

from protos.privacy.v1 import privacy_pb2

_SAMPLING = {"none": "everyone in every release", "poisson": "secret Poisson samples"}


def unit_word(unit: "privacy_pb2.Unit") -> str:
    """Returns what a budget protects: `client` or `example`."""
    return privacy_pb2.Unit.Name(unit).removeprefix("UNIT_").lower()


def guarantee_json(message: Any) -> dict[str, Any] | None:
    """Returns the guarantee of a message that has the field `privacy` as a JSON object; None if it has none."""
    if not message.HasField("privacy"):
        return None
    found = message.privacy
    return {
        "epsilon": found.epsilon,
        "delta": found.delta,
        "unit": unit_word(found.unit),
        "adjacency": privacy_pb2.Adjacency.Name(found.adjacency).removeprefix("ADJACENCY_").lower(),
        "sampling": privacy_pb2.Sampling.Name(found.sampling).removeprefix("SAMPLING_").lower(),
        "debit": found.debit,
    }


def guarantee_text(found: dict[str, Any] | None) -> str:
    """Returns a guarantee in one short line for a table; empty if there is none."""
    return f"epsilon {found['epsilon']:.4g}, delta {found['delta']:g} per {found['unit']}" if found else ""


def full_guarantee_text(found: dict[str, Any] | None) -> str:
    """Returns a guarantee and its conditions as text; empty if there is none."""
    if not found:
        return ""
    adjacency = found["adjacency"].replace("_", " or ")
    sampling = _SAMPLING.get(found["sampling"], found["sampling"])
    debit = f"up to {found['debit']}" if found["debit"] else "stated, not debited"
    return f"{guarantee_text(found)} of the training data ({adjacency}; {sampling}; {debit})"
