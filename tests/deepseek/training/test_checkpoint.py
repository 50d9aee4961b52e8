import json
import math
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import DataLoss, InvalidArgument
from deepseek.training import checkpoint as checkpoints


def same(left: Any, right: Any) -> bool:
    """Equal bit by bit and type by type; NaN equals NaN."""
    match left, right:
        case Tensor(), Tensor():
            return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
        case dict(), dict():
            return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
        case (list(), list()) | (tuple(), tuple()):
            return len(left) == len(right) and all(map(same, left, right))
        case float(), float():
            return left == right or (math.isnan(left) and math.isnan(right))
    return type(left) is type(right) and bool(left == right)


def test_a_nested_state_comes_back_as_it_was() -> None:
    state = {
        "state": {0: {"exp_avg": torch.randn(2, 3), "step": torch.tensor(3.0)}, 1: {}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "params": [0, 1]}],
        "types": [torch.ones(2, dtype=dtype) for dtype in (torch.bool, torch.int8, torch.bfloat16, torch.float64)],
        "odd": [math.inf, -math.inf, math.nan, True, 1, "text", {"$tensor": "x"}, {}, [], (), torch.empty(0, 2)],
        "a/b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
    }
    assert same(checkpoints.loads(checkpoints.dumps(state)), state)


def test_tied_weights_are_stored_once_and_views_whole() -> None:
    weight = torch.randn(1000, 1000)
    state = {"a": weight, "b": weight, "row": weight[3], "flat": weight.view(-1), "turned": weight.T}
    data = checkpoints.dumps(state)
    assert same(checkpoints.loads(data), state)
    assert len(checkpoints.dumps({"a": weight, "b": weight})) < 1.1 * weight.nbytes


def test_equal_states_are_equal_bytes() -> None:
    def make() -> bytes:
        return checkpoints.dumps({"b": torch.ones(3), "a": {1: torch.zeros(2)}})

    assert make() == make()


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {(1, 2): 3}, nn.Linear(1, 1)])
def test_what_cannot_be_stored_is_named_with_its_path(value: object) -> None:
    with pytest.raises(InvalidArgument, match="optimizer/state/0/thing is a") as caught:
        checkpoints.dumps({"optimizer": {"state": {0: {"thing": value}}}})
    assert caught.value.reason == "BAD_STATE"


def with_metadata(metadata: dict[str, str]) -> bytes:
    return safetensors.torch.save({"x": torch.zeros(1)}, metadata)


def with_state(text: str) -> bytes:
    return with_metadata({"deepseek.checkpoint.v1": text})


HOSTILE = {
    "empty": b"",
    "pickle": pickle.dumps({"model": 1}),
    "text": b"not a checkpoint at all, only text" * 10,
    "cut_off": checkpoints.dumps({"x": torch.ones(100)})[:-10],
    "header_beyond_the_end": struct.pack("<Q", 1 << 60) + b"{}",
    "offsets_beyond_the_end": struct.pack("<Q", 64)
    + json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).ljust(64).encode(),
    "another_format": with_metadata({"format": "pt"}),
    "no_metadata": safetensors.torch.save({"x": torch.zeros(1)}),
    "not_json": with_state("{"),
    "not_a_state": with_state("[1]"),
    "missing_tensor": with_state('{"a": {"$tensor": "y"}}'),
    "tensor_without_a_name": with_state('{"a": {"$tensor": ["x"]}}'),
    "bad_float": with_state('{"a": {"$float": "1e400"}}'),
    "bad_dict": with_state('{"a": {"$dict": [[[], 1]]}}'),
    "bad_pair": with_state('{"a": {"$dict": [1, 2]}}'),
    "bad_tuple": with_state('{"a": {"$tuple": 5}}'),
    "deep": with_state('{"a":' * 100_000 + "1" + "}" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_checkpoint_gets_a_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(DataLoss, match=r"model.safetensors (is damaged or not a checkpoint|holds no state)") as caught:
        checkpoints.read(path)
    assert caught.value.reason == "BAD_CHECKPOINT"
    assert len(caught.value.message) < 600


def test_a_file_that_is_not_there_is_just_that(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoints.read(tmp_path / "none")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoints.write(path, b"old")
    with pytest.raises(TypeError):
        checkpoints.write(path, 5)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    checkpoints.write(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.safetensors", b"new")]


def test_a_write_that_runs_out_of_space_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoints.write(path, b"old")
    program = f"""
import pathlib, resource, signal
from deepseek.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
checkpoint.write(pathlib.Path({str(path)!r}), bytes(1 << 20))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.safetensors", b"old")]


def test_weights_of_another_model_are_refused_and_change_nothing() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    state = {"model": {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}}
    with pytest.raises(
        InvalidArgument, match=r"bias is missing; extra is not the model's; weight is \[4, 2\]"
    ) as caught:
        checkpoints.load_model(model, state)
    assert caught.value.reason == "WRONG_MODEL"
    assert torch.equal(model.weight, before)
    for nothing in ({}, {"model": {"weight": 3, "bias": 4}}):
        with pytest.raises(InvalidArgument, match="holds no model"):
            checkpoints.load_model(model, nothing)
