import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from deepseek.data import ResumableSampler
from deepseek.training import CheckpointEvent, EvaluationEvent, Event, MixedPrecisionTrainer, StepEvent
from deepseek.training import checkpoint as checkpoints
from deepseek.training.events import WarningEvent
from deepseek.training.step import MAX_SKIPPED_IN_A_ROW
from tests.deepseek.training.tasks import Classifier, Points, weights


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_it_learns(precision: str) -> None:
    trainer = MixedPrecisionTrainer(Classifier(), precision=precision, lr=0.02, metrics=["accuracy"])
    result = trainer.fit(Points(600), epochs=6, evaluation=Points(600))
    assert result.metrics["accuracy"] > 0.9
    assert result.step == trainer.step == 6 * 19
    assert all(param.dtype == torch.float32 for param in trainer.model.parameters())


def test_in_float32_it_is_a_loop_written_by_hand() -> None:
    dataset = Points(24)
    trainer = MixedPrecisionTrainer(Classifier(), torch.optim.SGD, "fp32", loss=F.cross_entropy, lr=0.1)
    trainer.fit(dataset, epochs=5, batch_size=24)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(5):
        order = torch.from_numpy(ResumableSampler(24, 24).order(epoch))
        optimizer.zero_grad()
        F.cross_entropy(model(dataset.x[order]), dataset.target[order]).backward()
        optimizer.step()
    assert torch.equal(weights(trainer.model), weights(model))


def test_events_tell_what_happens_in_order_and_are_json() -> None:
    events: list[Event] = []
    trainer = MixedPrecisionTrainer(Classifier(), lr=0.01, schedule="one_cycle", metrics=["accuracy"])
    result = trainer.fit(
        Points(50, ignored=5),
        epochs=2,
        batch_size=16,
        evaluation=Points(20),
        on_event=events.append,
        checkpoint=lambda data: {"size": len(data)},
    )
    assert list(result.history) == events
    assert [event.kind for event in events] == ["precision", "step", "evaluation", "step", "checkpoint", "evaluation"]
    step, checkpoint, evaluation = events[3:]
    assert isinstance(step, StepEvent)
    assert (step.step, step.num_steps, step.epoch, step.num_skipped_steps) == (8, 8, 2, 0)
    assert set(step.metrics) == {"loss", "accuracy"}
    assert step.samples_per_second > 0
    assert step.eta_s == 0
    assert 0 < step.learning_rate < 0.01
    assert isinstance(checkpoint, CheckpointEvent)
    assert checkpoint.artifact["size"] > 1000
    assert isinstance(evaluation, EvaluationEvent)
    assert evaluation.metrics == result.metrics
    assert [json.loads(json.dumps(event.to_json()))["kind"] for event in events] == [event.kind for event in events]


def test_reported_figures_are_means_over_the_targets_that_count() -> None:
    """With a rate of 0 the model stays as it is, so training reports what evaluation finds."""
    dataset = Points(50, ignored=5)
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", lr=0.0, metrics=["accuracy"])
    result = trainer.fit(dataset, batch_size=16)
    _, event = result.history
    assert isinstance(event, StepEvent)
    for batch_size in (50, 7, 1):
        figures = trainer.evaluate(dataset, batch_size=batch_size)
        assert event.metrics["accuracy"] == figures["accuracy"]
        assert event.metrics["loss"] == pytest.approx(figures["loss"], rel=1e-6)
    counting = dataset.target >= 0
    with torch.no_grad():
        right = trainer.model(dataset.x).argmax(1) == dataset.target
    assert figures["accuracy"] == int((right & counting).sum()) / int(counting.sum())


def test_the_schedule_moves_only_with_the_optimizer() -> None:
    """The second of 4 batches has a sample that is NaN; its step is skipped, and the rates go on where they were."""
    order = _order(16)
    updates: list[int] = []
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", schedule=lambda update, num: updates.append(update) or 1.0)  # type: ignore[func-returns-value]
    before = weights(trainer.model).clone()
    result = trainer.fit(Points(16, broken=[order[5]]), batch_size=4)
    assert (result.num_skipped_steps, updates) == (1, [0, 1, 2])
    assert weights(trainer.model).isfinite().all()
    assert not torch.equal(weights(trainer.model), before)
    _, event = result.history
    assert isinstance(event, StepEvent)
    assert math.isfinite(event.metrics["loss"])


def _order(num_samples: int) -> list[int]:
    order: list[int] = ResumableSampler(num_samples, num_samples).order(0).tolist()
    return order


def test_a_run_without_finite_gradients_ends_with_a_clear_error() -> None:
    trainer = MixedPrecisionTrainer(Classifier())
    with pytest.raises(FailedPrecondition, match=r"up to step 40, are not finite; look for NaN in the data") as caught:
        trainer.fit(Points(100, broken=range(100)), batch_size=1)
    assert caught.value.reason == "NOT_FINITE"
    assert trainer.num_skipped_steps == MAX_SKIPPED_IN_A_ROW


def test_clipping_bounds_the_update() -> None:
    before = weights(Classifier())
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", lr=1.0, clip_norm=0.01)
    trainer.fit(Points(8, scale=100.0), batch_size=8)
    assert (weights(trainer.model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_it_stops_saves_and_goes_on() -> None:
    data: list[bytes] = []
    trainer = MixedPrecisionTrainer(Classifier())
    result = trainer.fit(Points(64), epochs=3, batch_size=8, checkpoint=data.append, stop=lambda: trainer.step == 10)
    assert result.stopped
    assert result.step == 11
    assert checkpoints.loads(data[-1])["sampler"] == {"seed": 0, "epoch": 1, "position": 24}
    result = trainer.fit(Points(64), epochs=3, batch_size=8)
    assert not result.stopped
    assert result.step == 24


def test_a_run_stopped_after_its_last_step_still_evaluates_when_it_goes_on(tmp_path: Path) -> None:
    data: list[bytes] = []
    MixedPrecisionTrainer(Classifier()).fit(Points(20), batch_size=10, checkpoint=data.append, evaluation=Points(5))
    (tmp_path / "model").write_bytes(data[-1])
    trainer = MixedPrecisionTrainer(Classifier())
    trainer.load(tmp_path / "model")
    result = trainer.fit(Points(20), batch_size=10, evaluation=Points(5))
    assert result.step == 2
    assert [event.kind for event in result.history] == ["precision", "evaluation"]
    assert math.isfinite(result.metrics["loss"])


def test_checkpoints_come_at_intervals_and_at_the_end() -> None:
    steps: list[int] = []
    trainer = MixedPrecisionTrainer(Classifier())
    trainer.fit(
        Points(100), epochs=2, batch_size=10, checkpoint=lambda _: steps.append(trainer.step), checkpoint_interval_s=0.0
    )
    assert steps[0] == 1
    assert steps[-1] == 20
    steps.clear()
    trainer = MixedPrecisionTrainer(Classifier())
    trainer.fit(
        Points(100), epochs=2, batch_size=10, checkpoint=lambda _: steps.append(trainer.step), checkpoint_interval_s=1e6
    )
    assert steps == [20]


def test_a_checkpoint_that_fails_ends_training() -> None:
    def store(data: bytes) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        MixedPrecisionTrainer(Classifier()).fit(Points(20), batch_size=10, checkpoint=store)


def test_a_checkpoint_without_room_is_given_up_unless_it_is_the_last() -> None:
    trainer = MixedPrecisionTrainer(Classifier())
    events: list[Event] = []

    def store(data: bytes) -> None:
        if trainer.step < 20:
            raise ResourceExhausted("STORE_FULL", "it is full")

    trainer.fit(
        Points(100), epochs=2, batch_size=10, checkpoint=store, checkpoint_interval_s=0.0, on_event=events.append
    )
    (warning,) = [event for event in events if isinstance(event, WarningEvent)]
    assert warning.message.startswith("step 1 was not saved: it is full.")
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [20]
    trainer = MixedPrecisionTrainer(Classifier())
    with pytest.raises(ResourceExhausted, match="it is full"):
        trainer.fit(Points(20), batch_size=10, checkpoint=store)


def test_epochs_count_those_done_already(caplog: pytest.LogCaptureFixture) -> None:
    trainer = MixedPrecisionTrainer(Classifier())
    trainer.fit(Points(20), epochs=2, batch_size=10)
    assert trainer.fit(Points(20), epochs=3, batch_size=10).step == 6
    assert trainer.fit(Points(20), epochs=3, batch_size=10).step == 6
    assert "all 3 epochs are done; increase epochs to continue" in caplog.text


def test_one_left_over_sample_does_not_break_batch_normalization() -> None:
    trainer = MixedPrecisionTrainer(Classifier(batch_norm=True))
    assert trainer.fit(Points(9), batch_size=4).step == 3


def test_samples_that_fill_up_a_batch_do_not_count() -> None:
    """The last of 5 samples is a batch of its own, filled up with the first."""
    trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", lr=0.5)
    order, dataset, model = _order(5), Points(5), Classifier()
    trainer.fit(dataset, batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for indices in (order[:4], order[4:]):
        optimizer.zero_grad()
        F.cross_entropy(model(dataset.x[indices]), dataset.target[indices]).backward()
        optimizer.step()
    torch.testing.assert_close(weights(trainer.model), weights(model))


def test_fit_gives_the_callers_random_numbers_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    MixedPrecisionTrainer(Classifier(dropout=0.5)).fit(Points(20))
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_leaves_the_model_in_its_mode_and_unchanged() -> None:
    trainer = MixedPrecisionTrainer(Classifier(dropout=0.5, batch_norm=True))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for mode in (True, False):
        trainer.model.train(mode)
        assert trainer.evaluate(Points(20)) == trainer.evaluate(Points(20))
        assert trainer.model.training is mode
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_outputs_may_be_nested() -> None:
    class Nested(Classifier):
        def forward(self, x: torch.Tensor) -> Any:
            return {"logits": super().forward(x), "parts": [x.long()]}

    def loss(outputs: Any, target: torch.Tensor) -> torch.Tensor:
        assert len(outputs["parts"][0]) == len(target)
        assert outputs["logits"].dtype == torch.float32
        return F.cross_entropy(outputs["logits"], target)

    trainer = MixedPrecisionTrainer(Nested(), loss=loss)
    assert trainer.fit(Points(9), batch_size=4, evaluation=Points(3)).metrics["loss"] > 0


def test_sparse_gradients_are_trained_and_clipped() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 3, sparse=True)

        def forward(self, token: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.embedding(token)
            return out

    samples = [{"token": torch.tensor(i % 2), "target": i % 2} for i in range(8)]
    trainer = MixedPrecisionTrainer(Bag(), torch.optim.SGD, lr=1.0, clip_norm=0.1)
    before = weights(trainer.model).clone()
    trainer.fit(samples, batch_size=8)
    assert (weights(trainer.model) - before).norm().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"precision": "fp8"}, "precision"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"seed": -1}, "seed"),
        ({"loss": "no_such"}, "loss.name"),
        ({"metrics": ["accuracy", "accuracy"]}, "metrics"),
        ({"optimizer": "no_such"}, "optimizer.name"),
        ({"schedule": "cosine", "schedule_params": {"warmup": 3.0}}, "schedule.params.warmup"),
        ({"schedule_params": {"warmup": 0.1}}, "schedule_params"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MixedPrecisionTrainer(Classifier(), **arguments)
    assert caught.value.field == field


def test_weights_in_half_precision_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"layers\.0\.weight is in half precision"):
        MixedPrecisionTrainer(Classifier().half())


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"batch_size": 0}])
def test_a_wrong_argument_of_fit_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MixedPrecisionTrainer(Classifier()).fit(Points(4), **arguments)  # type: ignore[arg-type]
    assert caught.value.field == next(iter(arguments))


def test_without_a_terminal_it_prints_plain_lines_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    MixedPrecisionTrainer(Classifier()).fit(Points(4))
    out, err = capfd.readouterr()
    assert out == ""
    assert "loss" in err
    assert "\x1b" not in err


def test_numbers_of_numpy_train_and_resume_as_pythons_own(tmp_path: Path) -> None:
    def made(number: Any, whole: Any) -> MixedPrecisionTrainer:
        params = {"weight_decay": number(0.5), "betas": (number(0.5), number(0.75))}
        return MixedPrecisionTrainer(
            Classifier(), precision="fp32", lr=number(0.25), optimizer_params=params, clip_norm=number(1), seed=whole(3)
        )

    numpys, pythons = made(np.float32, np.int64), made(float, int)
    numpys.fit(Points(32), epochs=np.int64(1), batch_size=np.int32(16))  # type: ignore[arg-type]
    pythons.fit(Points(32), epochs=1, batch_size=16)
    assert torch.equal(weights(numpys.model), weights(pythons.model))
    numpys.save(tmp_path / "numpy.safetensors")
    pythons.load(tmp_path / "numpy.safetensors")
    assert pythons.fit(Points(32), epochs=2, batch_size=16).step == 4


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"seed": 1.5}, "seed"), ({"seed": "1"}, "seed"), ({"clip_norm": "1"}, "clip_norm"), ({"lr": "1"}, "lr")],
)
def test_what_is_no_number_is_refused_before_training(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MixedPrecisionTrainer(Classifier(), precision="fp32", **changes)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)


@pytest.mark.parametrize("changes", [{"epochs": 1.5}, {"epochs": True}, {"batch_size": 2.0}, {"batch_size": "2"}])
def test_epochs_and_batch_size_are_whole_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MixedPrecisionTrainer(Classifier(), precision="fp32").fit(Points(8), **changes)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", next(iter(changes)))
