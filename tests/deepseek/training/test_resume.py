"""Training k steps, saving, loading in a fresh process and training on gives what training in one go gives."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from common.errors import InvalidArgument
from deepseek.training import MixedPrecisionTrainer
from deepseek.training import checkpoint as checkpoints
from deepseek.training.precision import LossScaler
from tests.deepseek.training.ranks import check_ranks
from tests.deepseek.training.tasks import Classifier, NoisyMomentum, Points

NUM_SAMPLES = 41  # not a multiple of the batch size: the last batch is short
EPOCHS = 3
STOP_AT = 8  # of 5 steps an epoch: in the middle of the second


def adamw() -> MixedPrecisionTrainer:
    """All there is: dropout, running statistics, a schedule, clipping."""
    return MixedPrecisionTrainer(
        Classifier(dropout=0.3, batch_norm=True),
        torch.optim.AdamW,
        "bf16",
        lr=0.05,
        schedule="one_cycle",
        clip_norm=1.0,
        metrics=["accuracy"],
        seed=7,
    )


def own() -> MixedPrecisionTrainer:
    """An optimizer of one's own, whose noise and state have to come back too."""
    return MixedPrecisionTrainer(Classifier(dropout=0.3), NoisyMomentum, "bf16", lr=0.05, schedule="cosine")


def fp16() -> MixedPrecisionTrainer:
    """A loss scale that moves all the time."""
    scaler = LossScaler(init_scale=2.0**20, growth_interval=2)
    return MixedPrecisionTrainer(Classifier(), "sgd", "fp16", lr=0.05, loss_scaler=scaler)


def schedule_free() -> MixedPrecisionTrainer:
    """Gradients at another point than the weights that are saved."""
    return MixedPrecisionTrainer(Classifier(dropout=0.3), "schedule_free_adamw", "bf16", lr=0.05)


def plateau() -> MixedPrecisionTrainer:
    """A policy that watches the loss over the epoch, of which a part was before the stop."""
    params = {"patience": 1, "cooldown": 0, "threshold": 0.9, "smoothing": 0.5, "anneal": 0.0, "factor": 0.7}
    model = Classifier(dropout=0.3)
    return MixedPrecisionTrainer(model, "sgd", "fp32", lr=0.05, policy="plateau", policy_params=params)


def by_training_loss() -> MixedPrecisionTrainer:
    """A rate that is the last bit of the loss."""
    model = Classifier(dropout=0.3)
    return MixedPrecisionTrainer(model, "adamw", "fp32", lr=0.05, policy=as_the_loss)


def as_the_loss(epoch: int, current_lr: float) -> float:
    """A tenth of the loss over the previous epoch."""
    return current_lr if epoch == 0 else 0.1 * train_loss  # type: ignore[name-defined,no-any-return] # noqa: F821


def cycle() -> MixedPrecisionTrainer:
    """A curve of rate and momentum."""
    return MixedPrecisionTrainer(Classifier(), "adamw", "fp32", lr=0.05, policy="one_cycle")


MAKERS: dict[str, Callable[[], MixedPrecisionTrainer]] = {
    "adamw": adamw,
    "own": own,
    "fp16": fp16,
    "schedule_free": schedule_free,
    "plateau": plateau,
    "by_training_loss": by_training_loss,
    "cycle": cycle,
}


def stop_after(trainer: MixedPrecisionTrainer, step: int) -> Callable[[], bool]:
    return lambda: trainer.step + 1 >= step


def fit(trainer: MixedPrecisionTrainer, stop: Callable[[], bool] | None = None) -> None:
    trainer.fit(Points(NUM_SAMPLES, ignored=7, scale=3.0), epochs=EPOCHS, batch_size=10, stop=stop)


def trainers() -> Iterator[tuple[str, MixedPrecisionTrainer]]:
    import warnings

    for name, make in MAKERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that fp16 is slow on a CPU
            yield name, make()


def train_in_one_go_and_a_part(folder: Path) -> None:
    for name, trainer in trainers():
        fit(trainer)
        trainer.save(folder / f"{name}-whole")
    for name, trainer in trainers():
        fit(trainer, stop_after(trainer, STOP_AT))
        assert trainer.step == STOP_AT
        trainer.save(folder / f"{name}-part")


def train_the_rest(folder: Path) -> None:
    for name, trainer in trainers():
        trainer.load(folder / f"{name}-part")
        fit(trainer)
        trainer.save(folder / f"{name}-resumed")


@pytest.fixture(scope="module", params=[1, 2], ids=["1-rank", "2-ranks"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    for function in (train_in_one_go_and_a_part, train_the_rest):
        check_ranks(request.param, function, folder)
    return folder


@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_run_is_bit_for_bit_the_run_in_one_go(folder: Path, name: str) -> None:
    whole, resumed = (folder / f"{name}-{kind}" for kind in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()  # weights, optimizer state, loss scale, counters
    state = checkpoints.read(whole)
    assert state["step"] == 5 * EPOCHS
    assert state["sampler"] == {"seed": state["sampler"]["seed"], "epoch": EPOCHS, "position": 0}


def test_the_runs_have_what_they_are_to_bring_back(folder: Path) -> None:
    part = {name: checkpoints.read(folder / f"{name}-part") for name in MAKERS}
    assert part["adamw"]["sampler"] == {"seed": 7, "epoch": 1, "position": 30}
    assert part["adamw"]["model"]["layers.1.running_mean"].any()
    assert part["own"]["optimizer"]["state"][0]["num_updates"] == STOP_AT
    assert part["own"]["optimizer"]["state"][0]["velocity"].any()
    assert part["fp16"]["num_skipped_steps"] > 0
    assert part["fp16"]["scaler"]["scale"] != 2.0**20


@pytest.mark.parametrize("name", ["adamw", "own"])
def test_a_run_goes_on_with_another_number_of_ranks_and_batch_size(folder: Path, name: str) -> None:
    trainer = MAKERS[name]()
    trainer.load(folder / f"{name}-part")
    result = trainer.fit(Points(NUM_SAMPLES, ignored=7, scale=3.0), epochs=EPOCHS, batch_size=30)
    # 11 samples of the second epoch were left; the third has 41.
    assert result.step == STOP_AT + 1 + 2
    assert trainer.evaluate(Points(NUM_SAMPLES))["loss"] < 1.0


def test_a_run_of_another_seed_or_data_set_is_refused(folder: Path) -> None:
    other_seed = MixedPrecisionTrainer(Classifier(dropout=0.3, batch_norm=True), seed=8)
    with pytest.raises(InvalidArgument, match="has the seed 7, but this trainer has the seed 8"):
        other_seed.load(folder / "adamw-part")
    trainer = adamw()
    trainer.load(folder / "adamw-part")
    with pytest.raises(InvalidArgument, match="the run began with a data set of 41 samples, but this one has 40"):
        trainer.fit(Points(40), epochs=EPOCHS)


def test_a_run_of_another_optimizer_or_model_is_refused(folder: Path) -> None:
    other_optimizer = MixedPrecisionTrainer(Classifier(dropout=0.3, batch_norm=True), "sgd", seed=7)
    with pytest.raises(
        InvalidArgument, match=r"optimizer is torch\.optim\.adamw\.AdamW, but this trainer's is torch\.optim\.sgd"
    ) as c:
        other_optimizer.load(folder / "adamw-part")
    assert c.value.reason == "WRONG_OPTIMIZER"
    with pytest.raises(InvalidArgument) as c:
        MixedPrecisionTrainer(Classifier(), seed=7).load(folder / "adamw-part")
    assert c.value.reason == "WRONG_MODEL"


def test_what_this_trainer_was_told_holds_against_the_checkpoint(folder: Path) -> None:
    trainer = MixedPrecisionTrainer(
        Classifier(dropout=0.3, batch_norm=True),
        torch.optim.AdamW,
        lr=0.01,
        optimizer_params={"weight_decay": 0.5},
        seed=7,
    )
    trainer.load(folder / "adamw-part")
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.5
    fit(trainer)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.state.0.exp_avg", torch.zeros(3)),
        ("optimizer.state.0.exp_avg_sq", torch.zeros(())),
        ("optimizer.state.0.step", torch.zeros(2)),
        ("optimizer.param_groups", []),
        ("optimizer.param_groups.0.betas", "x"),
        ("optimizer.param_groups.0.surprise", 1),
        ("optimizer.param_groups.0.params", [0]),
        ("optimizer.state", 5),
        ("optimizer", None),
        ("scaler.scale", -1.0),
        ("step", -1),
        ("step", "1"),
        ("sampler", None),
        ("sampler.position", -1),
        ("sampler.epoch", 0.5),
        ("num_samples", []),
        ("model", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::deepseek.training.precision.SlowPrecisionWarning")
def test_a_checkpoint_with_a_wrong_value_is_refused(folder: Path, tmp_path: Path, path: str, value: object) -> None:
    name = "fp16" if path.startswith("scaler") else "adamw"
    state = checkpoints.read(folder / f"{name}-part")
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    node = state
    for key in parents:
        node = node[key]
    node[last] = value
    checkpoints.write(tmp_path / "changed", checkpoints.dumps(state))
    trainer = MAKERS[name]()
    with pytest.raises(InvalidArgument):
        trainer.load(tmp_path / "changed")
