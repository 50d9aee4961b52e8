"""Samples of the schema in `client` that ingest refuses, with the reason and the field."""

from protos.ingest.v1 import ingest_pb2
from tests.harness.images import image_file
from tests.services.ingest.client import field, picture


def with_field(i: int, name: str, *values: bytes | str | int | float) -> ingest_pb2.Sample:
    """A picture with one field changed."""
    sample = picture(i)
    for one in sample.fields:
        if one.field == name:
            one.CopyFrom(field(name, *values))
    return sample


def without_field(i: int, name: str) -> ingest_pb2.Sample:
    sample = picture(i)
    kept = [one for one in sample.fields if one.field != name]
    del sample.fields[:]
    sample.fields.extend(kept)
    return sample


def with_more(i: int, more: ingest_pb2.FieldValue) -> ingest_pb2.Sample:
    sample = picture(i)
    sample.fields.append(more)
    return sample


def with_digest(i: int, sha256: str) -> ingest_pb2.Sample:
    sample = picture(i)
    sample.sha256 = sha256
    return sample


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


BAD_SAMPLES = {
    "damaged image": (
        with_field(3, "image", flipped(image_file(3, (8, 8)), len(image_file(3, (8, 8))) // 2)),
        "DAMAGED_IMAGE",
        "image",
    ),
    "cut image": (with_field(3, "image", image_file(3, (8, 8))[:-30]), "DAMAGED_IMAGE", "image"),
    "no image": (with_field(3, "image", b"GIF89a"), "DAMAGED_IMAGE", "image"),
    "unknown label": (with_field(3, "answer", "circle", "heptagon"), "UNKNOWN_LABEL", "answer"),
    "unknown field": (with_more(3, field("colour", "red")), "UNKNOWN_FIELD", "colour"),
    "missing field": (without_field(3, "width"), "MISSING_FIELD", "width"),
    "no value": (with_field(3, "width"), "MISSING_FIELD", "width"),
    "two values": (with_field(3, "width", 1, 2), "WRONG_TYPE", "width"),
    "field twice": (with_more(3, field("width", 9)), "DUPLICATE_FIELD", "width"),
    "text for a picture": (with_field(3, "image", "a circle"), "WRONG_TYPE", "image"),
    "text for an integer": (with_field(3, "width", "8"), "WRONG_TYPE", "width"),
    "number for an integer": (with_field(3, "width", 8.0), "WRONG_TYPE", "width"),
    "not a number": (with_field(3, "area", float("nan")), "WRONG_TYPE", "area"),
    "unequal lengths": (with_field(3, "answer", "circle"), "LENGTH_MISMATCH", "answer"),
    "empty key": (picture(3, key=""), "BAD_KEY", "key"),
    "long key": (picture(3, key="k" * 256), "BAD_KEY", "key"),
    "bad split": (picture(3, split="../train"), "BAD_SPLIT", "split"),
    "wrong digest": (with_digest(3, "0" * 64), "DIGEST_MISMATCH", "sha256"),
}
