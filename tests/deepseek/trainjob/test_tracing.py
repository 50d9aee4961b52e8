"""Which models can be traced and written as ONNX, and the errors for the others."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition
from deepseek.training.modules import named_tensors
from deepseek.trainjob.onnx_files import export_onnx, open_session
from deepseek.trainjob.tracing import check_single, trace


class Pair(NamedTuple):
    logits: Tensor
    other: Tensor


@dataclass
class Fields:
    logits: Tensor
    parts: list[Tensor]


class Returning(nn.Module):
    """Returns a function of the logits and the inputs."""

    def __init__(self, outputs: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        return self.outputs(self.linear(x), x)


OUTPUTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], list[str]]] = {
    "tensor": (lambda y, x: y, ["output"]),
    "tuple": (lambda y, x: (y, x.sum(1)), ["output_0", "output_1"]),
    "dict": (lambda y, x: {"logits": y, "a class": y.argmax(1), 3: x > 0}, ["logits", "a_class", "output_3"]),
    "named tuple": (lambda y, x: Pair(y, x), ["logits", "other"]),
    "dataclass": (lambda y, x: Fields(y, [x, y]), ["logits", "parts_0", "parts_1"]),
    "nested": (lambda y, x: {"a": [y, (y * 2, None)], "b": "text"}, ["a_0", "a_1_0"]),
    "twice": (lambda y, x: (y, y), ["output_0", "output_1"]),
    "number": (lambda y, x: (y, x.new_zeros(())), ["output_0", "output_1"]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_are_exported_by_name_and_come_back_in_their_form(kind: str, tmp_path: Path) -> None:
    function, names = OUTPUTS[kind]
    model = Returning(function).eval()
    outputs = export_onnx(model, {"x": torch.randn(3, 4)}, [], tmp_path / "model.onnx")
    assert outputs.names == names
    session = open_session(tmp_path / "model.onnx")
    assert ([one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]) == (["x"], names)
    x = torch.randn(7, 4)
    found = outputs.restore(session.run(None, {"x": x.numpy()}))
    with torch.no_grad():
        expected = model(x)
    assert type(found) is type(expected)
    assert not isinstance(found, dict) or found.keys() == expected.keys()
    for (name, tensor), (other, value) in zip(named_tensors(found), named_tensors(expected), strict=True):
        assert name == other
        torch.testing.assert_close(tensor, value)


class Columns(nn.Module):
    """Accepts inputs of any names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, **columns: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.stack([columns["mass"], columns["price"]], 1))
        return logits


def test_a_model_may_take_its_inputs_by_any_names(tmp_path: Path) -> None:
    model = Columns().eval()
    export_onnx(model, {"mass": torch.randn(3), "price": torch.randn(3)}, [], tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["mass", "price"]
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert "linear.weight" in [one.name for one in graph.initializer]  # the model's own names
    (found,) = session.run(None, {"mass": np.ones(5, np.float32), "price": np.zeros(5, np.float32)})
    assert found.shape == (5, 2)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if x.sum() > 0:
            return y
        return -y


class Opaque:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


UNSUPPORTED: dict[str, tuple[nn.Module, str]] = {
    "branch": (
        Branching(),
        r"depends on the values of a tensor.*; test_tracing\.py:\d+, in forward: if x",
    ),
    "number": (Returning(lambda y, x: y * int(x.sum())), r"depends on the values of a tensor"),
    "batch size": (Returning(lambda y, x: y if len(x) > 5 else -y), "works only for some batch sizes"),
    "numpy": (Returning(lambda y, x: y + torch.from_numpy(x.numpy()).sum()), r"numpy.*; test_tracing\.py:\d+"),
    "object": (Returning(lambda y, x: Opaque(y)), "it returns a value of type Opaque; only tensors in lists"),
    "complex": (Returning(lambda y, x: {"z": torch.fft.fft(y)}), "its result 'z' has the type complex64"),
    "nothing": (Returning(lambda y, x: None), "it returns a value of type NoneType"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_model_that_cannot_be_traced_is_refused_in_a_sentence(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, problem = UNSUPPORTED[kind]
    with pytest.raises(FailedPrecondition, match=problem) as caught:
        trace(model.eval(), {"x": torch.randn(3, 4)}, [])
    assert caught.value.reason == "EXPORT_UNSUPPORTED"
    assert len(caught.value.message) < 400
    assert str(Path(__file__).parent) not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_a_model_that_does_not_take_the_example_is_refused_and_not_a_crash() -> None:
    paired = Returning(lambda y, x: y.reshape(2, -1, 2).mean(0))
    with pytest.raises(FailedPrecondition, match="fails on a batch of 3 samples") as caught:
        trace(paired.eval(), {"x": torch.randn(3, 4)}, [])
    assert caught.value.reason == "EXPORT_UNSUPPORTED"


def test_a_graph_is_compared_with_its_model_for_a_single_sample() -> None:
    example = {"x": torch.randn(3, 4)}
    model = Returning(lambda y, x: y).eval()
    check_single(model, trace(model, example, [])[0], example)
    model = Returning(lambda y, x: y if x.shape[0] > 1 else y[0]).eval()
    with pytest.raises(FailedPrecondition, match=r"for 1 sample, output 0 has shape \[2\], but \[1, 2\] in the graph"):
        check_single(model, trace(model, example, [])[0], example)
    model = Returning(lambda y, x: y if x.shape[0] > 1 else y + 0.5).eval()
    with pytest.raises(FailedPrecondition, match=r"for 1 sample, output 0 differs from the graph's by up to 0\.5; its"):
        check_single(model, trace(model, example, [])[0], example)
    for undefined in (float("nan"), float("inf")):
        model = Returning(lambda y, x, undefined=undefined: y.sum(1) > 0 if undefined is None else y * undefined).eval()
        check_single(model, trace(model, example, [])[0], example)
    model = Returning(lambda y, x: [y > 0, y.argmax(1)]).eval()
    check_single(model, trace(model, example, [])[0], example)
