"""The contract of the service."""

import re
from itertools import pairwise
from pathlib import Path

from deepseek.watermark.text.detection import MAX_TOKEN, MAX_TOKENS
from protos.watermark.v1 import watermark_pb2
from services.watermark.disclosure import NUM_PARTS, SPAN_STEP
from services.watermark.keys import MAX_REVOKED
from services.watermark.texts import MAX_SEQUENCES

CONTRACT = Path(watermark_pb2.__file__).with_name("watermark.proto").read_text(encoding="utf-8")


def test_every_call_field_and_value_says_what_it_is() -> None:
    lines = [line.strip() for line in CONTRACT.splitlines()]
    declared = re.compile(r"rpc \w+\(|(repeated )?[\w.]+ \w+ = \d+;|[A-Z_]+ = \d+;|oneof ")
    bare = [line for before, line in pairwise(lines) if declared.match(line) and not before.startswith("//")]
    assert bare == []


def test_numbers_are_those_of_the_code() -> None:
    text = CONTRACT.replace("\n  // ", " ")
    assert MAX_TOKEN == 2**20 - 1
    for says in (
        "0 to 2^20 - 1",
        f"more than {MAX_TOKENS:,}",
        f"more than {MAX_SEQUENCES} in one stream",
        f"the {MAX_REVOKED} newest revoked keys are tried",
        f"multiples of {SPAN_STEP}",
    ):
        assert says in text, says
    assert NUM_PARTS == 16
    assert "sixteenths" in text
