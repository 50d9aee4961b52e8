import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InvalidArgument
from deepseek.data import ResumableSampler
from deepseek.training import Event, MixedPrecisionTrainer, PrecisionEvent, step_times
from deepseek.training import checkpoint as checkpoints
from deepseek.training.parallel import Ranks
from deepseek.training.precision import LossScaler, SlowPrecisionWarning, choose, precision_of_checkpoint
from deepseek.training.step_times import StepTimes
from tests.deepseek.training.tasks import Classifier, Points

NUM_STEPS = 30


CPU = torch.device("cpu")
ALONE = Ranks(CPU)


def times(**ratios: float) -> StepTimes:
    """Step times of both operations, in milliseconds per format."""
    both = {name: ratio / 1000 for name, ratio in ratios.items()}
    return StepTimes(both, both)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the times that are measured on this host."""

    def be(**ratios: float) -> None:
        monkeypatch.setattr(step_times, "of_this_host", lambda: times(**ratios))

    return be


@pytest.mark.parametrize(
    ("ratios", "precision"),
    [
        ({"fp32": 1.0, "bf16": 16.0, "fp16": 10.0}, "fp32"),  # AVX2 only
        ({"fp32": 2.6, "bf16": 1.0, "fp16": 24.0}, "bf16"),  # AVX-512 BF16
        ({"fp32": 3.0, "bf16": 1.2, "fp16": 1.0}, "fp16"),  # AMX FP16
        ({"fp32": 1.0, "bf16": 0.97, "fp16": 0.96}, "fp32"),  # about equal: the most exact format
    ],
)
def test_auto_on_a_cpu_is_the_fastest_as_measured(
    host: Callable[..., None], ratios: dict[str, float], precision: str
) -> None:
    host(**ratios)
    choice = choose("auto", CPU, ALONE)
    assert (choice.precision, choice.reason, choice.warning) == (precision, "fastest", "")
    assert min(choice.ratios.values()) == 1.0


@pytest.mark.parametrize(
    ("ratios", "slow", "best"),
    [
        ({"fp32": 1.0, "bf16": 16.0, "fp16": 10.0}, {"bf16": "16.0", "fp16": "10.0"}, "fp32"),
        ({"fp32": 2.6, "bf16": 1.0, "fp16": 24.0}, {"fp32": "2.6", "fp16": "24.0"}, "bf16"),
        ({"fp32": 1.4, "bf16": 1.0, "fp16": 1.2}, {}, "bf16"),
    ],
)
def test_a_named_precision_is_kept_and_warned_of_if_it_is_much_slower_than_the_best(
    host: Callable[..., None], ratios: dict[str, float], slow: dict[str, str], best: str
) -> None:
    host(**ratios)
    warned = {}
    for name in ratios:
        choice = choose(name, CPU, ALONE)
        assert (choice.precision, choice.reason) == (name, "requested")
        if choice.warning:
            assert f"precision='auto' would use {best}" in choice.warning
            assert f" in {best}, as measured" in choice.warning
            warned[name] = choice.warning.partition(" times as long")[0].rpartition(" ")[2]
    assert warned == slow


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be one of auto, fp32, bf16, fp16") as caught:
        choose("int8", CPU, ALONE)
    assert caught.value.field == "precision"


def test_a_run_keeps_its_precision_on_a_host_where_another_is_faster(host: Callable[..., None], tmp_path: Path) -> None:
    host(fp32=2.6, bf16=1.0, fp16=24.0)
    first = MixedPrecisionTrainer(Classifier(), precision="auto", device="cpu")
    first.fit(Points(8), batch_size=4)
    assert first.precision == "bf16"
    first.save(tmp_path / "checkpoint")
    host(fp32=1.0, bf16=16.0, fp16=10.0)
    second = MixedPrecisionTrainer(Classifier(), precision="auto", device="cpu")
    assert second.precision == "fp32"
    with pytest.warns(SlowPrecisionWarning, match=r"16\.0 times as long as in fp32.* began in bf16 and keeps this"):
        second.load(tmp_path / "checkpoint")
    assert second.precision == "bf16"
    result = second.fit(Points(8), epochs=2, batch_size=4)
    assert isinstance(event := result.history[0], PrecisionEvent)
    assert (event.precision, event.reason) == ("bf16", "kept")
    assert event.ratios == {"fp32": 1.0, "bf16": 16.0, "fp16": 10.0}
    on_one_host = MixedPrecisionTrainer(Classifier(), precision="bf16", device="cpu")
    on_one_host.fit(Points(8), epochs=2, batch_size=4)
    for name, weight in on_one_host.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


def test_a_precision_that_is_named_holds_for_a_checkpoint_of_another(tmp_path: Path) -> None:
    first = MixedPrecisionTrainer(Classifier(), precision="bf16", device="cpu")
    first.save(tmp_path / "checkpoint")
    second = MixedPrecisionTrainer(Classifier(), precision="fp32", device="cpu")
    second.load(tmp_path / "checkpoint")
    assert second.precision == "fp32"


@pytest.mark.parametrize(
    ("state", "precision"),
    [
        ({"precision": "fp32", "scaler": None}, "fp32"),
        ({"scaler": None}, "bf16"),  # saved before runs recorded it: auto was bf16 on every CPU
        ({"scaler": {"scale": 1.0, "growth_tracker": 0}}, "fp16"),
    ],
)
def test_the_precision_of_a_checkpoint(state: dict[str, object], precision: str) -> None:
    assert precision_of_checkpoint(state) == precision


def test_a_checkpoint_with_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be one of fp32, bf16, fp16"):
        precision_of_checkpoint({"precision": "int4"})


@pytest.mark.parametrize(("growth", "backoff", "scale"), [(2.0, 0.5, 2.0**16), (1.7, 0.3, 1234.5), (2.0, 0.5, 1e38)])
def test_the_scale_moves_bit_for_bit_as_torchs(growth: float, backoff: float, scale: float) -> None:
    draw = random.Random(0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", scale, growth, backoff, growth_interval=3)
    ours = LossScaler(scale, growth, backoff, growth_interval=3)
    theirs.scale(torch.zeros(()))  # makes its state
    for _ in range(200):
        found_inf = draw.random() < 0.2
        parameter.grad = torch.full((1,), torch.inf if found_inf else 0.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(found_inf)
        assert ours.scale == theirs.get_scale()
        assert ours.state_dict()["growth_tracker"] == theirs._get_growth_tracker()


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_fp16_is_step_by_step_a_loop_with_torchs_grad_scaler(clip_norm: float) -> None:
    """With overflow, backoff and growth: 8 samples are one batch, so that each step is one epoch."""
    dataset = Points(8, scale=300.0)
    model = Classifier()
    ours: list[dict[str, object]] = []
    trainer = MixedPrecisionTrainer(
        model,
        torch.optim.AdamW,
        "fp16",
        loss=F.cross_entropy,
        loss_scaler=LossScaler(growth_interval=4),
        clip_norm=clip_norm,
    )

    def keep(event: Event) -> None:
        if event.kind == "step":  # one at the end of each epoch, which has one step
            ours.append(checkpoints.loads(checkpoints.dumps(trainer.state_dict())))

    trainer.fit(dataset, epochs=NUM_STEPS, batch_size=8, on_event=keep)

    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", growth_interval=4)
    num_skipped, scales = 0, []
    for epoch in range(NUM_STEPS):
        order = torch.from_numpy(ResumableSampler(8, 8).order(epoch))
        with torch.autocast("cpu", torch.float16):
            outputs = model(dataset.x[order])
        loss = F.cross_entropy(outputs.float(), dataset.target[order])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        num_skipped += scaler.get_scale() < before
        scales.append(scaler.get_scale())
        state = ours[epoch]
        assert state["num_skipped_steps"] == num_skipped
        assert state["scaler"] == {"scale": scaler.get_scale(), "growth_tracker": scaler._get_growth_tracker()}
        for name, weight in model.state_dict().items():
            assert torch.equal(state["model"][name], weight), (epoch, name)  # type: ignore[index]
    assert 2 < num_skipped < NUM_STEPS / 2
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))


@pytest.mark.parametrize("state", [{}, {"scale": 0.0, "growth_tracker": 0}, {"scale": 2.0, "growth_tracker": -1}])
def test_a_scalers_state_that_is_none_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        LossScaler().load_state_dict(state)
