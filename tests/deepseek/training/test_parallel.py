"""Two ranks against one process, over gloo."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from common.errors import Aborted
from deepseek.data import ResumableSampler
from deepseek.training import MixedPrecisionTrainer, step_times
from deepseek.training import checkpoint as checkpoints
from deepseek.training.step_times import StepTimes
from tests.deepseek.training.ranks import check_ranks
from tests.deepseek.training.tasks import Classifier, NoisyMomentum, Points, weights

NUM_SAMPLES = 21  # in batches of 5: shares of 3 and 2, and at the end one of 1 and one of 0
METRICS = ["accuracy"]


def uneven() -> MixedPrecisionTrainer:
    """Every third target does not count, so the ranks have unequal numbers of targets in most steps."""
    trainer = MixedPrecisionTrainer(
        Classifier(), "sgd", "fp32", lr=0.5, optimizer_params={"momentum": 0.9}, metrics=METRICS, clip_norm=0.5
    )
    trainer.fit(Points(NUM_SAMPLES, ignored=3), epochs=3, batch_size=5)
    return trainer


def broken() -> MixedPrecisionTrainer:
    """A sample that is NaN reaches one rank only."""
    order = ResumableSampler(NUM_SAMPLES, NUM_SAMPLES).order(0)
    trainer = MixedPrecisionTrainer(Classifier(), "adam", "fp32")
    trainer.fit(Points(NUM_SAMPLES, broken=[order[6]]), batch_size=5)
    return trainer


def own() -> MixedPrecisionTrainer:
    trainer = MixedPrecisionTrainer(Classifier(dropout=0.2), NoisyMomentum, "bf16", lr=0.1, metrics=METRICS)
    trainer.fit(Points(400), epochs=3, batch_size=20)
    return trainer


def batch_norm() -> MixedPrecisionTrainer:
    trainer = MixedPrecisionTrainer(Classifier(batch_norm=True), metrics=METRICS)
    trainer.fit(Points(NUM_SAMPLES), epochs=2, batch_size=5)
    return trainer


MAKERS = (uneven, broken, own, batch_norm)


def record(folder: Path) -> None:
    """Trains in all ways, and writes down what each rank has in the end."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    found: dict[str, Any] = {}
    for make in MAKERS:
        trainer = make()
        figures = trainer.evaluate(Points(NUM_SAMPLES, ignored=3), batch_size=4)
        found[make.__name__] = {"state": trainer.state_dict(), "figures": figures}
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    checkpoints.write(folder / f"{world_size}-{rank}", checkpoints.dumps(found))


def fail_on_rank_0(folder: Path) -> None:
    trainer = MixedPrecisionTrainer(Classifier())
    error = FileNotFoundError if dist.get_rank() == 0 else Aborted
    with pytest.raises(error):
        trainer.save(folder / "no such folder" / "model")
    with pytest.raises(error):
        trainer.fit(Points(20), checkpoint=lambda data: (folder / "no such folder" / "model").write_bytes(data))


def stop_on_rank_1(folder: Path) -> None:
    trainer = MixedPrecisionTrainer(Classifier())
    result = trainer.fit(Points(100), batch_size=10, stop=lambda: dist.get_rank() == 1 and trainer.step == 3)
    assert (result.stopped, result.step) == (True, 4)
    assert bool(result.history) is False or dist.get_rank() == 0


def measure_differently(_: Path) -> None:
    """Rank 0 has a processor with fast bf16, rank 1 one without."""
    bf16_s = 0.001 if dist.get_rank() == 0 else 0.030
    measured = {"fp32": 0.002, "bf16": bf16_s, "fp16": 0.050}
    with pytest.MonkeyPatch.context() as host:
        host.setattr(step_times, "of_this_host", lambda: StepTimes(measured, measured))
        trainer = MixedPrecisionTrainer(Classifier(), precision="auto", device="cpu")
    assert trainer.precision == "fp32"
    assert trainer.precision_ratios == pytest.approx({"fp32": 1.0, "bf16": 15.0, "fp16": 25.0})


def everything(folder: Path) -> None:
    measure_differently(folder)
    record(folder)
    fail_on_rank_0(folder)
    stop_on_rank_1(folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    check_ranks(2, everything, folder)
    return [checkpoints.read(folder / f"2-{rank}") for rank in range(2)]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_ranks_end_with_the_same_weights_optimizer_state_and_figures(ranks: list[dict[str, Any]], make: Any) -> None:
    first, second = (rank[make.__name__] for rank in ranks)
    for part in ("optimizer", "scaler", "sampler", "step", "num_skipped_steps"):
        assert checkpoints.dumps({"": first["state"][part]}) == checkpoints.dumps({"": second["state"][part]})
    for name, weight in first["state"]["model"].items():
        assert torch.equal(weight, second["state"]["model"][name])
    assert first["figures"] == second["figures"]


def test_unequal_shares_train_as_one_process_does(ranks: list[dict[str, Any]]) -> None:
    trainer = uneven()
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(ranks[0]["uneven"]["state"]["model"][name], weight, rtol=1e-5, atol=1e-6)


def test_evaluation_counts_each_sample_once(ranks: list[dict[str, Any]]) -> None:
    trainer = MixedPrecisionTrainer(Classifier(), precision="fp32", metrics=METRICS)
    trainer.model.load_state_dict(ranks[0]["uneven"]["state"]["model"])
    alone = trainer.evaluate(Points(NUM_SAMPLES, ignored=3), batch_size=NUM_SAMPLES)
    together = ranks[0]["uneven"]["figures"]
    assert together["accuracy"] == alone["accuracy"]
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-6)


def test_a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        state = rank["broken"]["state"]
        assert state["num_skipped_steps"] == 1
        assert all(weight.isfinite().all() for weight in state["model"].values())
        assert [values["step"].item() for values in state["optimizer"]["state"].values()] == [4.0] * 4


def test_an_optimizer_of_ones_own_learns_in_bf16_with_the_same_noise_everywhere(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["own"]["figures"]["accuracy"] > 0.8
        assert rank["own"]["state"]["optimizer"]["state"][0]["num_updates"] == 60


def test_without_other_ranks_nothing_is_exchanged() -> None:
    trainer = uneven()
    assert weights(trainer.model).isfinite().all()
    assert not dist.is_initialized()
