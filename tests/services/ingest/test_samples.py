"""What may be stored, and where shards are cut."""

import io

import numpy as np
import pytest
import soundfile

from common.errors import InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.shards import sample_sha256
from services.ingest.samples import SHARD_BYTES, SHARD_SAMPLES, ReceivedSample, accept, fills_shard, num_bytes

FIELDS = (Field("text", "text"), Field("scores", "number", repeated=True))


def received(**changes: object) -> ReceivedSample:
    sample = {"key": "a", "split": "train", "fields": [("text", ["x"]), ("scores", [1.0, 2.0])], "sha256": ""}
    return ReceivedSample(**(sample | changes))  # type: ignore[arg-type]


def test_a_single_value_stands_for_itself_and_repeated_ones_stay_a_list() -> None:
    assert accept(received(), FIELDS) == Sample("a", "train", {"text": "x", "scores": [1.0, 2.0]})


def test_a_repeated_field_may_have_no_values() -> None:
    assert accept(received(fields=[("text", ["x"]), ("scores", [])]), FIELDS).values["scores"] == []


def test_the_senders_digest_is_taken_if_it_is_right() -> None:
    digest = sample_sha256(accept(received(), FIELDS), FIELDS)
    assert accept(received(sha256=digest), FIELDS) == accept(received(), FIELDS)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"key": ""}, "BAD_KEY", "samples[].key"),
        ({"key": "two\nlines"}, "BAD_KEY", r"samples[two\nlines].key"),
        ({"key": "gnp\u202ea"}, "BAD_KEY", r"samples[gnp\u202ea].key"),
        ({"split": "Train"}, "BAD_SPLIT", "samples[a].split"),
        ({"fields": [("scores", [])]}, "MISSING_FIELD", "samples[a].text"),
        ({"fields": [("text", []), ("scores", [])]}, "MISSING_FIELD", "samples[a].text"),
        ({"fields": [("text", ["x", "y"]), ("scores", [])]}, "WRONG_TYPE", "samples[a].text"),
        ({"fields": [("text", [None]), ("scores", [])]}, "WRONG_TYPE", "samples[a].text"),
        ({"fields": [("text", ["x"]), ("scores", [float("inf")])]}, "WRONG_TYPE", "samples[a].scores"),
        ({"fields": [("text", ["x"]), ("scores", []), ("size", [1])]}, "UNKNOWN_FIELD", "samples[a].size"),
        ({"fields": [("text", ["x"]), ("scores", []), ("text", ["y"])]}, "DUPLICATE_FIELD", "samples[a].text"),
        ({"sha256": "0" * 64}, "DIGEST_MISMATCH", "samples[a].sha256"),
    ],
)
def test_a_bad_sample_is_refused_by_the_name_of_what_is_wrong(
    changes: dict[str, object], reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        accept(received(**changes), FIELDS)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_sound_that_is_not_finite_is_refused_by_field_and_frame() -> None:
    values = np.zeros(100, np.float32)
    values[7] = np.nan
    sink = io.BytesIO()
    soundfile.write(sink, values, 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(InvalidArgument, match=r"samples\[a\]\.sound has the value nan in frame 7;") as caught:
        accept(received(fields=[("sound", [sink.getvalue()])]), (Field("sound", "audio"),))
    assert (caught.value.reason, caught.value.field) == ("DAMAGED_AUDIO", "samples[a].sound")


def test_the_size_of_a_sample_is_that_of_its_values() -> None:
    assert num_bytes(Sample("key", "train", {"data": b"12345", "texts": ["ab", "c"], "n": 1, "x": [0.5, 1.5]})) == 32


def test_a_shard_is_full_by_number_or_by_size() -> None:
    assert not fills_shard(SHARD_SAMPLES - 1, SHARD_BYTES - 1)
    assert fills_shard(SHARD_SAMPLES, 0)
    assert fills_shard(1, SHARD_BYTES)
