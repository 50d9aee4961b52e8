"""Streams of tokens, as clients see them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from common.errors import Unavailable
from deepseek.client import Mesh, MeshFile, ServiceAddress
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1 import watermark_pb2_grpc

Serve = Callable[[int], Mesh]


class EndingServicer(watermark_pb2_grpc.WatermarkServiceServicer):
    """Ends streams, as no real service does that is asked politely, after so many answers."""

    def __init__(self, num_answers: int) -> None:
        self._num_answers = num_answers

    def MarkTokens(
        self, requests: Iterator[pb.MarkTokensRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.MarkTokensResponse]:
        for number, _ in zip(range(self._num_answers), requests, strict=False):
            yield pb.MarkTokensResponse(watermark="" if number else "watermarks/000000000001", token=number)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Connects to a service that ends after some answers."""
    started: list[tuple[grpc.Server, Mesh]] = []

    def start(num_answers: int) -> Mesh:
        server = grpc.server(ThreadPoolExecutor(1))
        watermark_pb2_grpc.add_WatermarkServiceServicer_to_server(EndingServicer(num_answers), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        started.append((server, Mesh(MeshFile({"watermark": ServiceAddress(f"127.0.0.1:{port}")}))))
        return started[-1][1]

    yield start
    for server, mesh in started:
        mesh.close()
        server.stop(None).wait()


def test_a_stream_that_ends_early_is_an_error_and_not_the_end_of_the_text(serve: Serve) -> None:
    logits = np.zeros(3)

    def written() -> Iterator[int]:
        with serve(3).watermarks.drawing() as stream:
            assert stream.watermark == "watermarks/000000000001"
            while True:
                yield stream.draw(logits)

    tokens = written()
    assert [next(tokens), next(tokens)] == [1, 2]
    with pytest.raises(Unavailable, match="open another") as caught:
        next(tokens)
    assert caught.value.reason == "STREAM_ENDED"


def test_a_stream_that_ends_before_it_begins_is_an_error(serve: Serve) -> None:
    with pytest.raises(Unavailable) as caught, serve(0).watermarks.drawing():
        pass
    assert caught.value.reason == "STREAM_ENDED"
