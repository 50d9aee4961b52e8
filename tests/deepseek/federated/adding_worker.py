"""A worker that adds numbers: a real process on the real protocol, without torch.

It adds 1.0 to each array and counts its requests. In the header, `fail` makes it raise an error of the mesh, `crash`
ends the process, `echo` names a file for the header, `started` a file that it creates, `until` one that it waits for,
and `reply_bytes` is the size of the arrays of its reply.
"""

import json
import sys
import time
from pathlib import Path

import safetensors.numpy

from common.errors import InvalidArgument
from deepseek.federated.worker_frames import Header
from deepseek.federated.worker_link import serve


class Adder:
    """Answers requests."""

    def __init__(self) -> None:
        self._num_requests = 0

    def __call__(self, header: Header, arrays: bytes) -> tuple[Header, bytes]:
        """Answers one request."""
        self._num_requests += 1
        if header.get("fail"):
            raise InvalidArgument("NO_EXAMPLES", "the node has no examples", field="data")
        if header.get("crash"):
            sys.exit("crashed on request")
        if echo := header.get("echo"):
            Path(echo).write_text(json.dumps(header), encoding="utf-8")
        if started := header.get("started"):
            Path(started).touch()
        if until := header.get("until"):
            while not Path(until).exists():
                time.sleep(0.05)
        result = {name: array + 1 for name, array in safetensors.numpy.load(arrays).items()}
        metrics = {"requests": float(self._num_requests), "loss": float(header.get("loss", 0.5))}
        reply = {"num_examples": 8, "metrics": metrics, "train_s": 0.25, "load_s": 0.125}
        return {**reply, "request": header}, b"x" * header["reply_bytes"] if "reply_bytes" in header else (
            safetensors.numpy.save(result)
        )


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Adder(), idle_s=float(sys.argv[2]) if len(sys.argv) > 2 else 60)
