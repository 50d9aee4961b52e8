"""An evaluator that fails as its job says: a real process on the real protocol, without torch.

In `job`, `crash` names a request that ends the process, `hang` one that is never answered, `refuse` one that fails with
an error of the mesh, and `times` a number of times after which such a request succeeds.
"""

import os
import sys
import time
from pathlib import Path

from common.artifacts import Artifact
from common.errors import InvalidArgument
from deepseek.federated.worker_frames import Header
from deepseek.federated.worker_link import serve
from deepseek.models.manifest import MEDIA_TYPE


def answer(header: Header, arrays: bytes) -> tuple[Header, bytes]:
    """Answers one request."""
    job, kind = header["job"], header["kind"]
    with Path(sys.argv[1], kind).open("a+", encoding="utf-8") as requests:
        requests.write(".")
        is_failing = requests.tell() <= job.get("times", 1000)
    if is_failing and job.get("refuse") == kind:
        raise InvalidArgument("BAD_MODEL", "this model is no good", field="model")
    if is_failing and job.get("crash") == kind:
        os._exit(137)
    while is_failing and job.get("hang") == kind:
        time.sleep(1)
    if kind == "evaluate":
        return {"metrics": {"loss": 0.5}}, b""
    return {"manifest": Artifact("e" * 64, 3, MEDIA_TYPE, "default").to_json(), "metrics": {"test/loss": 0.5}}, b""


if __name__ == "__main__":
    serve(Path(sys.argv[1]), answer)
