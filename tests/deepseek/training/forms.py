"""Unusual but valid PyTorch models: each takes `Points` and is trained by its logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.deepseek.training.tasks import NUM_CLASSES, NUM_FEATURES

FORMS: dict[str, Callable[[], nn.Module]] = {}


def form(kind: type[nn.Module]) -> type[nn.Module]:
    """Registers a model with deterministic weights."""

    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return kind()

    FORMS[kind.__name__] = make
    return kind


def logits_loss(outputs: Any, target: Tensor) -> Tensor:
    """Cross-entropy of the logits, wherever they are in the outputs; other outputs are not used."""
    if isinstance(outputs, tuple):
        outputs = outputs[0]
    elif not isinstance(outputs, Tensor):
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    return F.cross_entropy(outputs, target)


class Linear(nn.Module):
    """The simplest model; the others extend it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, x: Tensor) -> Any:
        """x: [B, 8] -> [B, 3]."""
        return self.linear(x)


@form
class ExtraState(Linear):
    """Extra state that is not a tensor, in several kinds of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.none = WithoutState()

    def get_extra_state(self) -> Any:
        """All types of JSON, and a tensor."""
        return {"calls": self.calls, "mean": torch.tensor(0.5), "shape": (1, None), "names": ["é", {2: float("inf")}]}

    def set_extra_state(self, state: Any) -> None:
        assert state["shape"] == (1, None)
        assert state["names"] == ["é", {2: float("inf")}]
        assert state["mean"].item() == 0.5
        self.calls = state["calls"]

    def forward(self, x: Tensor) -> Any:
        self.calls += self.training
        return self.linear(x)


class WithoutState(nn.Module):
    def get_extra_state(self) -> None:
        """Nothing."""

    def set_extra_state(self, state: None) -> None:
        assert state is None


@form
class TensorState(Linear):
    """Extra state that is a tensor whose shape changes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def get_extra_state(self) -> Tensor:
        """The inputs seen so far."""
        return torch.tensor(self.seen, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.seen = state.tolist()

    def forward(self, x: Tensor) -> Any:
        self.seen += [7] * self.training
        return self.linear(x)


@form
class UnusedHead(Linear):
    """A head that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(NUM_FEATURES, 2)


@form
class TupleOutput(Linear):
    """A second output that the loss does not use, and one without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(NUM_FEATURES, 2)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x), self.head(x), self.linear.weight.norm()


@form
class DictOutput(TupleOutput):
    def forward(self, x: Tensor) -> Any:
        return {"logits": self.linear(x), "parts": [self.head(x), None], "name": "text"}


class Named(NamedTuple):
    logits: Tensor
    other: Tensor


@form
class NamedTupleOutput(TupleOutput):
    def forward(self, x: Tensor) -> Any:
        return Named(self.linear(x), self.head(x))


@dataclass(frozen=True)
class Fields:
    logits: Tensor
    other: list[Tensor]


@form
class DataclassOutput(TupleOutput):
    def forward(self, x: Tensor) -> Any:
        return Fields(self.linear(x), [self.head(x)])


class Opaque:
    """A container that torch does not know."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@form
class ObjectOutput(UnusedHead):
    def forward(self, x: Tensor) -> Any:
        return Opaque(self.linear(x).float())


@form
class Experts(nn.Module):
    """Each sample uses one of four layers, so a batch uses some of them, and ranks use different ones."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(NUM_FEATURES, NUM_CLASSES) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        chosen = (x[:, 3] > 0).long() + 2 * (x[:, 4] > 1).long()
        logits = x.new_zeros(len(x), NUM_CLASSES)
        for i, expert in enumerate(self.experts):
            if (chosen == i).any():
                logits = logits.index_put((chosen == i,), expert(x[chosen == i]).to(logits.dtype))
        return logits


@form
class Shared(nn.Module):
    """A layer that is used twice under two names, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, NUM_FEATURES)
        self.again = self.first
        self.linear = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        self.tied = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        self.tied.weight = self.linear.weight

    def forward(self, x: Tensor) -> Any:
        x = self.again(self.first(x).tanh())
        return self.linear(x) + self.tied(x)


@form
class Frozen(Linear):
    """Frozen parameters and a frozen batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, NUM_FEATURES).requires_grad_(False)
        self.norm = nn.BatchNorm1d(NUM_FEATURES).eval()

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.norm(self.first(x)))


@form
class Parametrized(Linear):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.linear)
        self.turn = nn.utils.parametrizations.orthogonal(nn.Linear(NUM_FEATURES, NUM_FEATURES))
        self.bound = nn.utils.parametrizations.spectral_norm(nn.Linear(NUM_FEATURES, NUM_FEATURES))
        self.old = nn.utils.spectral_norm(nn.Linear(NUM_FEATURES, NUM_FEATURES))

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.old(self.bound(self.turn(x))))


@form
class Buffers(Linear):
    """Buffers of all kinds, and names of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(NUM_FEATURES, dtype=torch.bool))
        self.register_buffer("rate", torch.tensor(0.5, dtype=torch.bfloat16))
        self.register_buffer("turn", torch.tensor([1 + 2j], dtype=torch.complex64).conj())
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_buffer("none", None)
        self.register_buffer("short", torch.arange(3, dtype=torch.int16))
        self.register_buffer("eight", torch.ones(3).to(torch.float8_e4m3fn))
        self.register_buffer("wide", torch.tensor([1 + 2j], dtype=torch.complex128))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("expanded", torch.ones(1).expand(3), persistent=False)
        self.parts = nn.ModuleDict({name: nn.Linear(NUM_FEATURES, 1) for name in ("a/b", "é", "$tensor", "it's", " ")})

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.count += 1
            self.seen |= True
        return self.linear(x) + sum(part(x) for part in self.parts.values())


@form
class ComplexAndDouble(Linear):
    """Parameters of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(NUM_FEATURES, dtype=torch.complex64))
        self.scale = nn.Parameter(torch.ones(NUM_FEATURES, dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        return self.linear(((x * self.turn).abs() * self.scale).float())


@form
class ChannelsLast(nn.Module):
    """Weights in another memory format (channels_last)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 2)
        self.linear = nn.Linear(4, NUM_CLASSES)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.convolution(x.view(-1, 2, 2, 2)).flatten(1).relu())


@form
class Recomputed(Linear):
    """A reentrant activation checkpoint: autograd's graph does not show what its backward pass computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, NUM_FEATURES)

    def forward(self, x: Tensor) -> Any:
        return self.linear(checkpoint(self.first, x.clone().requires_grad_(), use_reentrant=True))


@form
class Caching(Linear):
    """Keeps a tensor of its first pass for all others."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        if self.table is None:
            self.table = torch.linspace(0.5, 1.5, NUM_FEATURES)
        return self.linear(x * self.table)


@form
class UnusedTable(Linear):
    """A table with sparse gradients, which no sample uses."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2, sparse=True)
