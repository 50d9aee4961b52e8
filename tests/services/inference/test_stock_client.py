"""A stock client of the protocol, in a process of its own, gets the answers of an offline session."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from tests.services.inference.conftest import InferenceServer
from tests.services.inference.models import Publisher, question_model

CLIENT = Path(__file__).with_name("stock_client.py")


def test_a_stock_client_gets_the_answers_of_an_offline_session_to_the_bit(
    served: InferenceServer, publisher: Publisher, tmp_path: Path
) -> None:
    model = question_model()
    publisher.publish("q", model)
    random = np.random.default_rng(3)
    inputs = {
        "image": random.integers(0, 256, (4, 8, 8, 3), np.uint8),
        "question": random.integers(0, 32, (4, 6, 4), np.int64),
        "note": np.array(["what shape?", "größe", ""]),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, str(CLIENT), served.address, str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "outputs.npz", allow_pickle=False)
    offline = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = offline.run(["logits"], {**inputs, "note": inputs["note"].astype(np.object_)})[0]
    assert answers["logits"].dtype == expected.dtype
    assert answers["logits"].tobytes() == expected.tobytes()
    assert answers["logits_alone"].tobytes() == expected.tobytes()
    assert answers["echo"].tolist() == inputs["note"].tolist()
