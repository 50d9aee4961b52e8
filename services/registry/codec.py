"""Converts privacy guarantees of model versions to protobuf messages and back."""

from common.proto import enum_name, enum_word
from protos.privacy.v1 import privacy_pb2 as pb
from services.registry.resources import Guarantee


def from_proto(message: pb.Guarantee) -> Guarantee:
    """Converts a message to a guarantee, which the caller checks."""
    return Guarantee(
        epsilon=message.epsilon,
        delta=message.delta,
        unit=enum_word(pb.Unit, message.unit),
        adjacency=enum_word(pb.Adjacency, message.adjacency),
        sampling=enum_word(pb.Sampling, message.sampling),
        debit=message.debit,
    )


def to_proto(guarantee: Guarantee) -> pb.Guarantee:
    """Converts a guarantee to a message."""
    return pb.Guarantee(
        epsilon=guarantee.epsilon,
        delta=guarantee.delta,
        unit=enum_name(pb.Unit, guarantee.unit),
        adjacency=enum_name(pb.Adjacency, guarantee.adjacency),
        sampling=enum_name(pb.Sampling, guarantee.sampling),
        debit=guarantee.debit,
    )
