"""The responses of request streams in which one request fails."""

from pathlib import Path

from common.errors import ResourceExhausted
from protos.watermark.v1 import watermark_pb2 as pb
from services.watermark.servicer import _answered


def test_a_failure_in_a_stream_names_no_path_of_the_server(tmp_path: Path) -> None:
    def fail() -> pb.DetectTextResponse:
        raise ResourceExhausted("DISK_FULL", f"no space left for {tmp_path}; free some", field="path")

    failure = _answered(pb.DetectTextsResponse, fail).failure
    assert (failure.reason, failure.message, failure.field) == (
        "DISK_FULL",
        "no space left for <path>; free some",
        "path",
    )
