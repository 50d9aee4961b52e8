"""The worker as a process, and what it reports of a round."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FailedPrecondition, InvalidArgument, MeshError, Unavailable
from common.processes import python
from deepseek.federated import worker_link
from deepseek.federated.arrays import from_bytes, to_bytes
from deepseek.federated.reported_release import excess
from deepseek.federated.worker import Worker
from deepseek.privacy.clipping import l2_norm
from deepseek.privacy.releases import Release
from tests.deepseek.federated.pictures import write_folder
from tests.deepseek.federated.runs import Prepared, prepared, request
from tests.deepseek.federated.started import Started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("node") / "pictures", range(120))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Starts the worker of the folder `worker`."""
    with Started(python("deepseek.federated.worker", str(tmp_path / "worker"))) as started:
        yield started


def test_a_fit_whose_worker_was_killed_gives_equal_bits_when_it_is_repeated(
    run: Prepared, data: Path, tmp_path: Path, started: Started
) -> None:
    header = request(run.recipe, data, fit={"local_epochs": 20, "proximal_mu": 0.01})
    undisturbed, update = Worker(tmp_path / "own")(header, run.initial)
    folder = tmp_path / "worker"
    errors: list[MeshError] = []

    def call() -> None:
        try:
            worker_link.call(folder, header, run.initial, start=started)
        except MeshError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not list(folder.glob("data/*/import.json")):
        time.sleep(0.01)
    started.kill()
    thread.join()
    assert [(type(error), error.reason) for error in errors] == [(Unavailable, "WORKER_DIED")]
    reply, repeated = worker_link.call(folder, header, run.initial, start=started)
    assert repeated == update
    assert reply["metrics"] == undisturbed["metrics"]
    again, _ = worker_link.call(folder, header, run.initial, start=started)
    assert again["load_s"] < reply["load_s"], "the model and the data stay in memory"
    assert len(started.processes) == 2


def test_a_reply_has_the_update_and_figures_from_before_and_after(run: Prepared, data: Path, tmp_path: Path) -> None:
    worker, model = Worker(tmp_path), from_bytes(run.initial)
    losses = []
    for number in range(1, 6):
        header = request(run.recipe, data, round=number, fit={"local_epochs": 4})
        reply, update = worker(header, to_bytes(model))
        assert reply["num_examples"] == 120
        changes = from_bytes(update, run.recipe.shapes)
        model = {name: model[name] + changes[name] for name in model}
        losses.append(reply["metrics"]["loss_before"])
    assert losses[-1] < losses[0]


def test_rounds_and_nodes_draw_different_numbers_and_a_large_mu_stays_close(
    run: Prepared, data: Path, tmp_path: Path
) -> None:
    worker = Worker(tmp_path)

    def update(**header: Any) -> bytes:
        return worker(request(run.recipe, data, **header), run.initial)[1]

    assert update() == update()
    assert len({update(), update(round=2), update(node="m"), update(seed=4)}) == 4
    far, near = (l2_norm(from_bytes(update(fit={"proximal_mu": mu}))) for mu in (0.0, 100.0))
    assert near < far


def test_a_schedule_over_all_rounds_decays_over_all_rounds(data: Path, tmp_path: Path) -> None:
    run = prepared(tmp_path / "run", schedule={"name": "linear"}, optimizer={"name": "sgd", "params": {"lr": 0.1}})
    worker = Worker(tmp_path)

    def length(round_number: int, num_rounds: int) -> float:
        header = request(run.recipe, data, round=round_number, fit={"num_rounds": num_rounds})
        return l2_norm(from_bytes(worker(header, run.initial)[1]))

    assert length(1, 10) > length(10, 10)
    assert length(10, 0) == pytest.approx(length(1, 0), rel=0.5)


def test_the_model_of_a_new_run_replaces_that_of_the_last(run: Prepared, data: Path, tmp_path: Path) -> None:
    other = prepared(tmp_path / "other", model={"name": "cnn", "params": {"width": 8, "norm": "group"}})
    worker = Worker(tmp_path)
    for each in (run, other, run):
        _, update = worker(request(each.recipe, data), each.initial)
        assert from_bytes(update, each.recipe.shapes)


def test_a_new_run_reads_data_that_has_changed(run: Prepared, tmp_path: Path) -> None:
    source, worker = write_folder(tmp_path / "pictures", range(20)), Worker(tmp_path)

    def num_examples(name: str) -> int:
        return int(worker(request(run.recipe, source, run=name), run.initial)[0]["num_examples"])

    assert num_examples("first") == 20
    write_folder(source, range(20, 24))
    assert [num_examples("first"), num_examples("second")] == [20, 24]


@pytest.mark.parametrize("dp_sgd", [None, {"noise_multiplier": 1, "max_grad_norm": 1, "expected_batch_size": 4}])
def test_a_check_reads_the_data_but_reveals_nothing_of_it(
    run: Prepared, data: Path, tmp_path: Path, dp_sgd: dict[str, Any] | None
) -> None:
    fit = {"local_epochs": 1, "dp_sgd": {**dp_sgd, "sampling_rate": 0.1} if dp_sgd else None}
    header = request(run.recipe, data, kind="evaluate", check=True, fit=fit)
    reply, arrays = Worker(tmp_path)(header, run.initial)
    assert (reply["num_examples"], reply["metrics"], arrays) == (1, {}, b"")
    with pytest.raises(InvalidArgument) as caught:
        Worker(tmp_path)({**header, "data": str(tmp_path / "none")}, run.initial)
    assert caught.value.field == "data"


def test_bad_requests_name_the_field(run: Prepared, data: Path, tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    wrong = to_bytes({"x": np.zeros(3, np.float32)})
    for header, arrays, reason, field in (
        ({"kind": "train"}, run.initial, "BAD_VALUE", "kind"),
        ({"kind": "evaluate"}, run.initial, "BAD_VALUE", "check"),
        ({"data": ""}, run.initial, "MISSING_FIELD", "data"),
        ({"data": "/nowhere"}, run.initial, "BAD_SOURCE", "data"),
        ({"recipe": None}, run.initial, "BAD_VALUE", "recipe"),
        ({"fit": {"local_epochs": 0}}, run.initial, "BAD_VALUE", "fit.local_epochs"),
        ({"version": "0"}, run.initial, "WRONG_VERSION", "version"),
        ({}, wrong, "BAD_UPDATE", "arrays"),
    ):
        with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
            worker({**request(run.recipe, data), **header}, arrays)
        assert (caught.value.reason, caught.value.field) == (reason, field)


def test_weights_that_diverge_are_an_error(data: Path, tmp_path: Path) -> None:
    run = prepared(tmp_path / "run", optimizer={"name": "sgd", "params": {"lr": 1e30}})
    with pytest.raises(FailedPrecondition) as caught:
        Worker(tmp_path)(request(run.recipe, data, fit={"local_epochs": 8}), run.initial)
    assert caught.value.reason == "NOT_FINITE"


DP_SGD = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 16, "sampling_rate": 0.2}


def test_a_private_reply_reveals_no_exact_figures_and_is_drawn_only_once(
    run: Prepared, data: Path, tmp_path: Path
) -> None:
    header = request(run.recipe, data, fit={"local_epochs": 2, "dp_sgd": DP_SGD})
    reply, update = Worker(tmp_path)(header, run.initial)
    assert reply["num_examples"] == 16 / 0.2, "public, unlike the 120 real examples"
    assert reply["metrics"] == {"dp_steps": 10.0, "dp_noise_multiplier": 1.0, "dp_sampling_rate": 0.2}
    assert not excess(reply["metrics"], Release(1.0, 0.2, 10))
    assert "has made 10 steps of DP-SGD, and 9 are debited" in excess(reply["metrics"], Release(1.0, 0.2, 9))
    restarted = Worker(tmp_path)
    assert restarted({**header, "supernode_pid": 7}, run.initial) == (reply, update)
    changed = to_bytes({name: value + 1 for name, value in from_bytes(run.initial).items()})
    for other, arrays in (({**header, "round": 2}, run.initial), (header, changed)):
        assert restarted(other, arrays)[1] != update


def test_a_node_without_figures_reports_nothing_but_its_update(run: Prepared, data: Path, tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    open_reply, open_update = worker(request(run.recipe, data), run.initial)
    reply, update = worker(request(run.recipe, data, fit={"figures": False}), run.initial)
    assert open_reply["metrics"]
    assert (reply["num_examples"], reply["metrics"]) == (1, {})
    assert update == open_update


def test_only_the_last_private_replies_are_kept(run: Prepared, data: Path, tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    for number in range(1, 11):
        worker(request(run.recipe, data, round=number, fit={"dp_sgd": {**DP_SGD, "sampling_rate": 1.0}}), run.initial)
    assert len(list((tmp_path / "replies").iterdir())) == 8


def test_a_task_that_the_policy_of_the_node_does_not_allow_is_not_done(
    run: Prepared, data: Path, tmp_path: Path
) -> None:
    worker = Worker(tmp_path)
    policy = {"min_noise": 1.0, "max_steps": 5}
    private = request(run.recipe, data, policy=policy, fit={"dp_sgd": DP_SGD})
    for header, field in (
        (request(run.recipe, data, policy=policy), "fit.dp_sgd"),
        (request(run.recipe, data, policy=policy, kind="evaluate", check=True), "fit.dp_sgd"),
        ({**private, "policy": {"min_noise": 1.5}}, "fit.dp_sgd.noise_multiplier"),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            worker(header, run.initial)
        assert (caught.value.reason, caught.value.field) == ("NODE_POLICY", field)
    done = worker(private, run.initial)
    # A repeated request costs nothing, and another one would exceed the steps that the owner allows.
    assert Worker(tmp_path)(private, run.initial) == done
    with pytest.raises(FailedPrecondition, match="has made 5 steps") as refused:
        Worker(tmp_path)({**private, "round": 2}, run.initial)
    assert refused.value.reason == "NODE_POLICY"
