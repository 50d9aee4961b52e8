"""Which operators are known to convert to ONNX, and the errors for those that do not."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import FailedPrecondition
from deepseek.trainjob.onnx_files import convert
from deepseek.trainjob.onnx_operators import CONVERTIBLE, doubtful, kind
from deepseek.trainjob.tracing import trace


class Everything(nn.Module):
    """Uses each operator that is known to convert."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = nn.Sequential(nn.Conv1d(2, 2, 3), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1))
        self.image = nn.Sequential(
            *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2), nn.Dropout2d()),
            *(nn.AvgPool2d(2), nn.GroupNorm(2, 4), nn.SiLU(True), nn.Hardswish(True), nn.LeakyReLU(0.1, True)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.row = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4), nn.PReLU(), nn.Dropout(), nn.Linear(4, 4))
        self.table = nn.Embedding(8, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.signal(x.unsqueeze(1).repeat(1, 2, 3)),
            self.image(x.unflatten(1, (1, 2, 2)).expand(-1, 2, -1, -1).repeat(1, 1, 6, 6)),
            self.row(x) + self.table((x > 0).long()).mean(1),
            *self.activations(x),
            *self.arithmetic(x),
            *self.reductions(x),
            *self.shapes(x),
            *self.choices(x),
            *self.mixtures(x, x.long()),
            *self.integers(x.long()),
            *self.integers(x.int()),
            *self.positions(x.to(torch.uint8)),
            *self.masks(x > 0, x < 1),
        ]

    def activations(self, x: Tensor) -> list[Tensor]:
        smooth = (F.gelu, F.silu, F.sigmoid, F.tanh, F.elu, F.softplus, F.mish, F.selu, F.hardswish, F.hardsigmoid)
        broken = (F.relu, F.relu6, F.leaky_relu, F.hardtanh)
        head = x.view(-1, 1, 2, 2)
        return [
            *(function(x) for function in (*smooth, *broken)),
            F.glu(x, -1) + x.softmax(1)[:, :2] + x.log_softmax(1)[:, :2] + x.logsumexp(1, keepdim=True),
            F.scaled_dot_product_attention(head, head, head),
            F.scaled_dot_product_attention(head, head, head, is_causal=True),
        ]

    def arithmetic(self, x: Tensor) -> list[Tensor]:
        return [
            (x + 1).mul_(2).add_(1).sub_(1).div_(2),
            x.abs().exp().log().sqrt() + (x.abs() + 1).rsqrt() + x.sin() + x.cos() + x.erf() + x.reciprocal(),
            -x * x - x / (x.abs() + 1) + (3 - x) + x.square() + x**2 + 2**x,
            x.clamp(-1, 1) + torch.minimum(x, -x) + torch.maximum(x, -x),
            x + torch.zeros_like(x) + torch.ones_like(x) + torch.full_like(x, 2) + x.new_zeros(x.shape),
            x
            + torch.zeros(4)
            + torch.ones(4)
            + torch.arange(4.0)
            + torch.arange(0.0, 8.0, 2.0)
            + torch.tensor([1.0, 2.0, 3.0, 4.0])
            + x.detach().clone().to(x.dtype),
        ]

    def reductions(self, x: Tensor) -> list[Tensor]:
        return [
            x.sum(1) + x.mean(1) + x.amax(1) + x.amin(1) + x.var(1) + x.std(1),
            x + x.sum() + x.mean() + x.max() + x.min() + x.cumsum(1) + torch.linalg.vector_norm(x, dim=1, keepdim=True),
        ]

    def shapes(self, x: Tensor) -> list[Tensor]:
        pair = x.unflatten(1, (2, 2)).transpose(1, 2).contiguous().permute(0, 2, 1).reshape(x.shape[0], 4)
        column = torch.ones(2, 3).t().unbind(1)[0]
        return [
            torch.cat([pair, torch.stack([x, x], 1).flatten(1), *x.chunk(2, 1), *x.split(2, 1)], -1),
            x[:, 1:3] + x[:, 0].unsqueeze(1) + x[:, None, :2].squeeze(1) + F.pad(x, (1, 1))[:, 2:4],
            x.unsqueeze(1) @ x.unsqueeze(2) + torch.bmm(x[:, None], x[:, :, None]) + column,
            (x[:, None] * x[:, :, None]).tril() + torch.ones(4, 4).triu(1),
        ]

    def choices(self, x: Tensor) -> list[Tensor]:
        either = (x > 0) & (x < 1) | ~(x >= x.mean()) ^ (x <= 0.5)
        both = torch.logical_and(x <= x.mean(), torch.logical_not(x != 1))
        return [
            torch.where(either, x, 0.0) + torch.where(both, x, -x) + torch.where(x > 1, 1.0, x),
            x.masked_fill(x == 0, 1.0) + x.gather(1, x.argmax(1, keepdim=True)),
        ]

    def mixtures(self, x: Tensor, n: Tensor) -> list[Tensor]:
        return [
            x.max(1)[0] + x.min(1)[0] + x.argmax(1) + x.argmin(1),
            (x + n) * (x > 0)
            - n / (x.abs() + 1)
            + torch.maximum(x, x - n)
            + torch.maximum(n, x)
            + torch.where(x > 0, x, n),
        ]

    def integers(self, n: Tensor) -> list[Tensor]:
        several = (n == 1) | (n != 2) & (n > 0) ^ (n < 3) & (n <= 2)
        largest, smallest = n.max(1), n.min(1)
        return [
            (n + 1) * 2 - (-n).abs() + (3 - n) + torch.tensor([1, 2, 3, 4]),
            n + torch.arange(4) + torch.arange(0, 8, 2) + n.max() + n.min() + n.sum() + torch.zeros_like(n),
            n.amax(1) + n.amin(1) + n.argmax(1) + n.sum(1) + largest[0] + smallest[1] + (n > 0).sum(1),
            n.cumsum(1) + n.gather(1, n.argmax(1, keepdim=True)) + n.masked_fill(several, 0) + n.clone(),
            torch.where(several, n, 1) + torch.where(several, 2, n) + torch.where(n >= n[:, :1], n, -n),
            torch.stack([n, n], 1).tril() + (n[:, None] * n[:, :, None]).triu()[:, :2],
            (n <= n[:, 1:2]).long() + F.one_hot(n.argmax(1), 4),
            *self.positions(n),
        ]

    def masks(self, one: Tensor, other: Tensor) -> list[Tensor]:
        both = torch.logical_and(one, torch.logical_not(other)) | one & other ^ ~one
        square = both[:, None] & both[:, :, None]
        return [both, square.tril(), square.triu(), *self.positions(one)]

    def positions(self, x: Tensor) -> list[Tensor]:
        """Uses the operators that only move values, of any type."""
        wide = x.unflatten(1, (2, 2)).transpose(1, 2).contiguous().permute(0, 2, 1).reshape(x.shape[0], 4)
        tall = x.view(-1, 2, 2).flatten(1).unsqueeze(1).expand(-1, 2, -1).repeat(1, 2, 1)[:, 0]
        return [torch.cat([wide, tall[:, 1:3]], 1).float(), x[:, :1].squeeze(1).float()]


def test_the_operators_that_are_known_to_convert_do(tmp_path: Path) -> None:
    model, example = Everything().eval(), {"x": torch.rand(3, 4) * 4 - 1}
    program, outputs = trace(model, example, [])
    found: dict[str, set[str]] = defaultdict(set)
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not isinstance(node.meta["val"], torch.SymInt):
            found[kind(node)].add(str(node.target).removeprefix("aten."))
    assert found == CONVERTIBLE
    assert doubtful(program) == []
    convert(model, program, outputs, example, tmp_path / "model.onnx")


class Calling(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "eigenvalues": (
        lambda x: torch.linalg.eigvals(x.unsqueeze(1) * x.unsqueeze(2)).abs(),
        r"ONNX lacks the operator aten\.linalg_eigvals; test_onnx_operators\.py:\d+, in forward: "
        r"return self\.function\(x\)\. Compute its result with other operators",
    ),
    "replaced": (lambda x: x.relu() + x.lgamma(), r"ONNX lacks the operator aten\.lgamma; test_onnx_operators\.py:\d+"),
    "replaced beside another": (
        lambda x: torch.fft.fft(x).abs() + torch.special.gammaincc(x, x),
        r"ONNX lacks the operator aten\.special_gammaincc; test_onnx_operators\.py:\d+",
    ),
    "bfloat16": (lambda x: (x.bfloat16() * 2).float(), r"ONNX Runtime cannot run it: .*Mul\(14\)"),
    "bool where": (lambda x: torch.where(x > 0.5, x > 0.7, x < 0.3), r"ONNX Runtime cannot run it: .*Where\(\d+\)"),
    "bool masked_fill": (lambda x: (x > 0).masked_fill(x < 0.3, False), r"ONNX Runtime cannot run it: .*Where\(\d+\)"),
    "two clamps": (lambda x: x.clamp(0, 1) + x.clamp(0, 2), r"its graph is not valid: .*_min_1"),
    "uint8 neg": (lambda x: -x.to(torch.uint8), r"its graph is not valid: .*Neg.*uint8"),
    "uint8 power": (lambda x: x.to(torch.uint8) ** 2, r"its graph is not valid: .*Pow.*uint8"),
    "uint8 tril": (
        lambda x: x[:, None].expand(-1, 4, -1).to(torch.uint8).tril(),
        r"ONNX Runtime cannot run it: .*Trilu\(14\)",
    ),
    "int64 relu": (lambda x: x.long().relu(), r"ONNX Runtime cannot run it: .*Relu\(14\)"),
    "int64 linear": (lambda x: F.linear(x.long(), torch.ones(2, 4).long()), r"ONNX Runtime cannot run it: .*Gemm"),
    "mixed stack": (lambda x: torch.stack([x, x.long()]), r"its graph is not valid: .*Concat"),
    "float64": (lambda x: x.double().erf(), r"ONNX Runtime cannot run it: .*Erf\(13\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_onnx_cannot_express_is_doubtful_and_the_operator_is_named(kind: str, tmp_path: Path) -> None:
    function, problem = REFUSED[kind]
    model, example = Calling(function).eval(), {"x": torch.rand(3, 4)}
    program, outputs = trace(model, example, [])
    assert doubtful(program)
    with pytest.raises(FailedPrecondition, match=problem) as caught:
        convert(model, program, outputs, example, tmp_path / "model.onnx")
    assert caught.value.reason == "EXPORT_UNSUPPORTED"
    assert "\x1b" not in caught.value.message


def test_a_rare_operator_that_onnx_expresses_is_doubtful_but_exported(tmp_path: Path) -> None:
    model, example = Calling(lambda x: torch.fft.fft(x).abs()).eval(), {"x": torch.rand(3, 4)}
    program, outputs = trace(model, example, [])
    assert "aten.fft_fft.default" in [str(node.target) for node in doubtful(program)]
    convert(model, program, outputs, example, tmp_path / "model.onnx")
