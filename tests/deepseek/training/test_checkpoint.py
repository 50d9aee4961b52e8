import json
import math
import pickle
import struct
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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


TENSORS: dict[str, Callable[[], Tensor]] = {
    "complex128": lambda: torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128),
    "complex128 number": lambda: torch.tensor(1j, dtype=torch.complex128),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "negative": lambda: torch.tensor([1 + 2j]).conj().imag,
    "float8": lambda: torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
    "float8 exponents": lambda: torch.tensor([0.5, 2.0]).to(torch.float8_e8m0fnu),
    "float4": lambda: torch.tensor([7, 200], dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "one of two": lambda: torch.ones(2, dtype=torch.complex128)[::2],
    "bool number": lambda: torch.tensor(True),
    "uint16": lambda: torch.tensor(3, dtype=torch.uint16),
    "expanded": lambda: torch.ones(1).expand(3),
    "coo": lambda: torch.eye(3).to_sparse(),
    "coo, not coalesced": lambda: torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (4,), check_invariants=True),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "csc": lambda: torch.eye(3).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_tensor_of_any_kind_comes_back_as_it_was(kind: str) -> None:
    tensor = TENSORS[kind]()
    found = checkpoints.loads(checkpoints.dumps({"x": tensor, "again": [tensor]}))
    for value in (found["x"], found["again"][0]):
        assert (value.dtype, value.layout, value.shape) == (tensor.dtype, tensor.layout, tensor.shape)
        if tensor.layout is torch.strided:
            expected, stored = (
                item.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
                for item in (tensor, value)
            )
            assert stored.view(torch.uint8).tolist() == expected.view(torch.uint8).tolist()
        else:
            assert torch.equal(value.to_dense(), tensor.to_dense())
    if tensor.layout is torch.sparse_coo:
        assert found["x"].is_coalesced() == tensor.is_coalesced()


def test_a_tensor_and_its_conjugate_share_memory_and_are_two() -> None:
    tensor = torch.tensor([1 + 2j])
    found = checkpoints.loads(checkpoints.dumps({"a": tensor, "b": tensor.conj()}))
    assert (found["a"].tolist(), found["b"].tolist()) == ([1 + 2j], [1 - 2j])


def test_numbers_of_numpy_come_back_as_numbers() -> None:
    found = checkpoints.loads(checkpoints.dumps({"lr": np.float64(0.1), "odd": np.float64("nan")}))
    assert (type(found["lr"]), found["lr"]) == (float, 0.1)
    assert math.isnan(found["odd"])


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "is a object"),
        ({1, 2}, "is a set.*convert it to a list with sorted"),
        (b"bytes", "is a bytes.*convert it with torch.frombuffer"),
        ({(1, 2): 3}, "has a key that is a tuple; keys must be text or whole numbers"),
        (nn.Linear(1, 1), "is a torch.nn.modules.linear.Linear"),
        (np.zeros(3), "is a numpy.ndarray.*convert it with torch.as_tensor"),
        (np.int64(3), "is a numpy.int64.*convert it with torch.as_tensor"),
        (Pair(1, 2), r"is a tests\..*Pair"),
        (defaultdict(int), "is a collections.defaultdict.*convert it with dict"),
        (deque([1]), "is a collections.deque.*convert it with list"),
        (torch.empty(2, device="meta"), "is a meta tensor"),
        (nn.parameter.UninitializedParameter(), "is a parameter without a shape"),
    ],
)
def test_what_cannot_come_back_as_it_was_is_named_with_its_path(value: object, problem: str) -> None:
    state = {"optimizer": {"state": {0: {"thing": value}}}}
    for store in (checkpoints.dumps, checkpoints.check):
        with pytest.raises(InvalidArgument, match=f"optimizer/state/0/thing {problem}") as caught:
            store(state)
        assert caught.value.reason == "BAD_STATE"


def test_a_state_that_contains_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(InvalidArgument, match="contains itself"):
        checkpoints.dumps(state)


def test_more_text_than_a_file_can_be_read_with_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="header too large; store long lists and texts as tensors"):
        checkpoints.dumps({"model": {"_extra_state": "x" * 100_000_000}})


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
    "bits_of_a_list": with_state('{"a": {"$bits": [[], "torch.complex128", [1]]}}'),
    "bits_of_a_pickle": with_state('{"a": {"$bits": [{"$tensor": "x"}, "pickle", [1]]}}'),
    "bits_too_few": with_state('{"a": {"$bits": [{"$tensor": "x"}, "torch.complex128", [1]]}}'),
    "sparse_of_text": with_state('{"a": {"$sparse": ["sparse_coo", [1], "x", "y"]}}'),
    "sparse_without_parts": with_state('{"a": {"$sparse": ["torch.sparse_csr", [1]]}}'),
    "sparse_unknown": with_state('{"a": {"$sparse": [["x"], [1], {"$tensor": "x"}, {"$tensor": "x"}]}}'),
    "sparse_beyond": with_state('{"a": {"$sparse": ["coalesced", [1], {"$tensor": "x"}, {"$tensor": "x"}]}}'),
    "deep": with_state('{"a":' * 100_000 + "1" + "}" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_checkpoint_gets_a_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(DataLoss, match=r"is (damaged or )?not a DeepSeek checkpoint") as caught:
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
        InvalidArgument, match=r"bias is missing; extra is not part of the model; weight has shape \[4, 2\]"
    ) as caught:
        checkpoints.load_model(model, state)
    assert caught.value.reason == "WRONG_MODEL"
    assert torch.equal(model.weight, before)
    for nothing in ({}, {"model": {1: torch.zeros(2)}}):
        with pytest.raises(InvalidArgument, match="contains no model"):
            checkpoints.load_model(model, nothing)
    with pytest.raises(InvalidArgument, match="weight is not a tensor"):
        checkpoints.load_model(model, {"model": {"weight": 3, "bias": 4}})


class Versioned(nn.Module):
    """Converts state from before version 2."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}scale"] = state[f"{prefix}scale"].exp()
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_module_reads_its_own_version_of_its_state() -> None:
    model = nn.Sequential(Versioned(), nn.BatchNorm1d(2))
    state = checkpoints.loads(checkpoints.dumps(checkpoints.model_state(model)))
    checkpoints.load_model(model, state)
    assert model[0].scale.item() == 1.0
    del state["model_versions"]  # as in a checkpoint from before versions were stored
    checkpoints.load_model(model, state)
    assert model[0].scale.item() == pytest.approx(math.e)


class Picky(nn.Module):
    def get_extra_state(self) -> list[int]:
        """A list."""
        return [1]

    def set_extra_state(self, state: dict[str, int]) -> None:
        state["calls"]


class OneWay(nn.Module):
    def get_extra_state(self) -> int:
        """A number."""
        return 1


def test_extra_state_that_a_module_does_not_take_is_an_error_of_the_model() -> None:
    with pytest.raises(InvalidArgument, match="cannot load the checkpoint's state: TypeError") as caught:
        checkpoints.load_model(Picky(), checkpoints.model_state(Picky()))
    assert caught.value.reason == "WRONG_MODEL"


def test_a_model_whose_state_could_not_be_loaded_is_refused_when_it_is_saved() -> None:
    expanded = nn.Module()
    expanded.register_buffer("ones", torch.ones(1).expand(3))
    for model, problem in (
        (expanded, "ones is an expanded tensor"),
        (nn.Sequential(OneWay()), r"0 \(OneWay\) defines get_extra_st"),
    ):
        with pytest.raises(InvalidArgument, match=problem) as caught:
            checkpoints.model_state(model)
        assert caught.value.reason == "BAD_STATE"


def test_a_lazy_module_takes_its_shapes_from_the_checkpoint() -> None:
    model = nn.LazyLinear(2)
    checkpoints.load_model(model, checkpoints.model_state(nn.Linear(3, 2)))
    assert model.weight.shape == (2, 3)
