"""Probes are made of any model: large requests, answers of several shapes."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from deepseek.models.probes import Probes
from deepseek.trainjob.probing import make_probes
from tests.services.inference.models import build, tensor

MIB = 1 << 20


def doubling(folder: Path) -> Path:
    """y = x + x."""
    ends = [tensor(name, TensorProto.FLOAT, ["n", "size"]) for name in ("x", "y")]
    path = folder / "model.onnx"
    path.write_bytes(build([helper.make_node("Add", ["x", "x"], ["y"])], ends[:1], ends[1:]))
    return path


def requests(num_bytes: int, count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((1, num_bytes // 4), number, np.float32)} for number in range(count)]


def test_probes_are_spread_over_the_requests(tmp_path: Path) -> None:
    probes = make_probes(doubling(tmp_path), requests(40, 100), latency_ms=0.1)
    assert probes is not None
    assert list(probes.inputs["x"][:, 0, 0]) == list(range(100))
    assert list(probes.outputs["y"][:, 0, 0]) == list(range(0, 200, 2))


def test_a_large_request_is_a_probe_by_itself(tmp_path: Path) -> None:
    probes = make_probes(doubling(tmp_path), requests(6 * MIB, 3), latency_ms=0.1)
    assert probes is not None
    assert len(probes) == 1
    assert len(Probes.from_bytes(probes.to_bytes())) == 1


def test_a_request_that_no_server_would_read_is_none(tmp_path: Path) -> None:
    assert make_probes(doubling(tmp_path), requests(8 * MIB, 3), latency_ms=0.1) is None


def test_answers_of_one_shape_are_kept(tmp_path: Path) -> None:
    ends = [tensor("x", TensorProto.FLOAT, ["n", 4]), tensor("y", TensorProto.INT64, [2, "found"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(build([helper.make_node("NonZero", ["x"], ["y"])], ends[:1], ends[1:]))
    rows = [[1, 0, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 9]]
    asked = [{"x": np.array([row], np.float32)} for row in rows]
    probes = make_probes(path, asked, latency_ms=0.1)
    assert probes is not None
    assert probes.inputs["x"][:, 0].tolist() == [rows[0], rows[1], rows[3]]
    assert probes.outputs["y"][:, 1, 0].tolist() == [0, 1, 3]
