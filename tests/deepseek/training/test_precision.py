import itertools
import random
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InvalidArgument
from deepseek.data import ResumableSampler
from deepseek.training import MixedPrecisionTrainer
from deepseek.training import checkpoint as checkpoints
from deepseek.training.precision import LossScaler, SlowPrecisionWarning, resolve, warn_of_fp16_on_cpu
from tests.deepseek.training.tasks import Classifier, Points

NUM_STEPS = 30


def test_auto_on_a_cpu_is_bf16() -> None:
    assert resolve("auto", torch.device("cpu")) == "bf16"
    assert resolve("fp16", torch.device("cpu")) == "fp16"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be auto, fp32, bf16, fp16") as caught:
        resolve("int8", torch.device("cpu"))
    assert caught.value.field == "precision"


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
@pytest.mark.filterwarnings("ignore::deepseek.training.precision.SlowPrecisionWarning")
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
    trainer.fit(dataset, epochs=NUM_STEPS, batch_size=8, checkpoint=lambda data: ours.append(checkpoints.loads(data)))

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


def test_fp16_on_a_cpu_warns_at_once_with_a_measured_factor_and_names_auto() -> None:
    started = time.perf_counter()
    with pytest.warns(SlowPrecisionWarning, match=r"takes \d+\.\d times as long .* precision='auto' would take bf16"):
        trainer = MixedPrecisionTrainer(Classifier(), precision="fp16")
    assert time.perf_counter() - started < 2  # it measures for less than one, on an idle machine
    assert trainer.precision == "fp16"


def test_measuring_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.warns(SlowPrecisionWarning):
        warn_of_fp16_on_cpu()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("state", [{}, {"scale": 0.0, "growth_tracker": 0}, {"scale": 2.0, "growth_tracker": -1}])
def test_a_scalers_state_that_is_none_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        LossScaler().load_state_dict(state)
