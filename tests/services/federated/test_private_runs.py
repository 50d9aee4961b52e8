"""Runs with a privacy budget: what is refused before anything starts, and what the released models say."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from common.database import Repeatable
from common.errors import Aborted, DeadlineExceeded, MeshError, NotFound
from common.jobs import JobState
from deepseek.federated.ports import Debit
from deepseek.federated.rounds import Round, RoundState
from protos.privacy.v1 import privacy_pb2
from protos.registry.v1 import registry_pb2
from services.federated.codec import run_to_proto
from services.federated.plans import plan_privacy
from services.federated.round_store import SqlRoundStore
from services.federated.run import FederatedRun
from tests.services.federated.examples import model_spec
from tests.services.federated.run_in_process import Coordinator
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A federation whose data have a budget per unit."""
    made = Coordinator(tmp_path_factory.mktemp("private"))
    create(made, "clients", privacy_pb2.UNIT_CLIENT)
    create(made, "examples", privacy_pb2.UNIT_EXAMPLE)
    create(made, "others", privacy_pb2.UNIT_CLIENT, dataset="federations/banks")
    yield made
    made.close()


def create(
    coordinator: Coordinator,
    budget_id: str,
    unit: privacy_pb2.Unit,
    dataset: str = "federations/clinics",
    delta: float = 1e-6,
) -> None:
    """Creates a budget of epsilon 8."""
    request = privacy_pb2.CreateBudgetRequest(budget_id=budget_id, dataset=dataset, unit=unit, epsilon=8, delta=delta)
    coordinator.ledger.CreateBudget(request)


def client(**changes: Any) -> dict[str, Any]:
    """Protection of nodes."""
    return {"unit": "UNIT_CLIENT", "clip_norm": 1.0, "noise_multiplier": 2.0, "budget": "budgets/clients", **changes}


def refusal(coordinator: Coordinator, **changes: Any) -> tuple[str, str]:
    """Reason and field with which a run is refused."""
    with pytest.raises(MeshError) as caught:
        coordinator.start(**changes)
    return caught.value.reason, caught.value.field


@pytest.mark.parametrize(
    ("privacy", "changes", "reason", "field"),
    [
        ({"budget": "budgets/none"}, {}, "BUDGET_NOT_FOUND", "spec.privacy.budget"),
        ({"budget": "budgets/examples"}, {}, "BUDGET_MISMATCH", "spec.privacy.unit"),
        ({"budget": "budgets/others"}, {}, "BUDGET_MISMATCH", "spec.privacy.budget"),
        ({"delta": 1e-5}, {}, "BUDGET_MISMATCH", "spec.privacy.delta"),
        ({"noise_multiplier": 0.1}, {}, "BUDGET_EXHAUSTED", "spec.privacy.budget"),
        ({}, {"num_rounds": 1000}, "BUDGET_EXHAUSTED", "spec.privacy.budget"),
        ({}, {"sampling": {"num_nodes": 2}}, "SAMPLING_NOT_PRIVATE", "spec.sampling.num_nodes"),
        ({}, {"strategy": {"name": "median"}}, "STRATEGY_NOT_PRIVATE", "spec.strategy.name"),
        ({}, {"sampling": {"rate": 0.5}, "quorum": 4}, "QUORUM_TOO_LARGE", "spec.quorum"),
    ],
)
def test_a_run_that_its_budget_does_not_allow_never_starts(
    coordinator: Coordinator, privacy: dict[str, Any], changes: dict[str, Any], reason: str, field: str
) -> None:
    before = coordinator.jobs.count()
    assert refusal(coordinator, privacy=client(**privacy), **changes) == (reason, field)
    assert coordinator.jobs.count() == before


def test_reference_data_that_has_a_budget_is_refused(coordinator: Coordinator) -> None:
    create(coordinator, "cards", privacy_pb2.UNIT_EXAMPLE, "datasets/cards")
    cards = add_dataset(coordinator.channel, coordinator.store_folder, "cards", PICTURE_FIELDS, pictures())
    refused = refusal(coordinator, privacy=client(), model=model_spec(cards))
    assert refused == ("DATASET_HAS_BUDGET", "spec.model.dataset_version")


def test_an_epsilon_above_that_of_the_budget_should_be_smaller(coordinator: Coordinator) -> None:
    privacy = {**client(), "target_epsilon": 9.0}
    del privacy["noise_multiplier"]
    with pytest.raises(MeshError, match=r"of epsilon 8 left.*; choose a smaller epsilon \[") as caught:
        coordinator.start(privacy=privacy, num_rounds=2)
    assert (caught.value.reason, caught.value.field) == ("BUDGET_EXHAUSTED", "spec.privacy.budget")


def test_a_budget_that_is_too_small_says_how_many_rounds_would_fit(coordinator: Coordinator) -> None:
    with pytest.raises(MeshError) as caught:
        coordinator.start(privacy=client(noise_multiplier=3.0), num_rounds=500)
    fits = int(caught.value.message.split("suffices for ")[1].split()[0])
    assert 1 < fits < 500
    name = coordinator.start(privacy=client(noise_multiplier=3.0), num_rounds=fits).name
    coordinator.service.stop("default", name)


def find_debit(
    coordinator: Coordinator, run: FederatedRun, number: int, sealed_sha256: str, others: Sequence[str] = ()
) -> Debit | None:
    """Returns the debit of a round of a run."""
    assert run.privacy is not None
    return coordinator.budgets.find_debit(
        "default",
        run.privacy.budget,
        run.privacy.release,
        run=run.name,
        round_number=number,
        sealed_sha256=sealed_sha256,
        others=others,
    )


def test_the_models_of_a_private_run_state_what_was_spent(coordinator: Coordinator) -> None:
    privacy = client(target_epsilon=3.0, clip_norm=0.05)
    del privacy["noise_multiplier"]
    run = coordinator.start(privacy=privacy, sampling={"rate": 0.5}, num_rounds=2, deadline_s=2)
    coordinator.execute()
    run = coordinator.service.get("default", run.name)
    assert run.job.state is JobState.SUCCEEDED, run.job.error
    shown = run_to_proto(run, coordinator.service.last_round(run))
    budget = coordinator.ledger.GetBudget(privacy_pb2.GetBudgetRequest(name="budgets/clients")).budget
    assert budget.num_debits == 2
    assert shown.privacy.guarantee.epsilon == pytest.approx(budget.epsilon_spent)
    assert 2.9 < budget.epsilon_spent <= 3.0
    assert shown.privacy.epsilon_left == pytest.approx(8 - budget.epsilon_spent)
    version = coordinator.registry.GetModelVersion(
        registry_pb2.GetModelVersionRequest(name=shown.last_round.model_version)
    ).model_version
    assert version.privacy == shown.privacy.guarantee
    assert version.privacy.sampling == privacy_pb2.SAMPLING_POISSON
    for row, debit in zip(coordinator.rounds(), ("budgets/clients/debits/1", "budgets/clients/debits/2"), strict=True):
        assert coordinator.budgets.sealed_sha256("default", "budgets/clients", debit) == row.sealed_model
        found = find_debit(coordinator, run, row.round, row.sealed_model)
        assert found is not None
        assert (found.name, found.sealed_sha256) == (debit, row.sealed_model)
        assert found.epsilon_spent + found.epsilon_left == pytest.approx(8)
        assert find_debit(coordinator, run, row.round, row.sealed_model, others=[debit]) is None
        assert find_debit(coordinator, run, row.round + 1, row.sealed_model) is None
        assert find_debit(coordinator, run, row.round, "") is None
    assert coordinator.budgets.sealed_sha256("default", "budgets/clients", "budgets/clients/debits/3") is None
    for event in coordinator.events("round"):
        assert event["num_asked"] is event["num_counted"] is None
        assert event["refusals"] == []
        assert not [name for name in event["metrics"] if name.startswith("train_")]


def other_federation(coordinator: Coordinator, name: str) -> dict[str, Any]:
    """Another federation of one node, with a budget that suffices for 3 to 5 rounds of the protection returned."""
    coordinator.federations.create("default", name, "", Repeatable("CreateFederation"))
    coordinator.add_nodes(name, [f"{name}-node"])
    create(coordinator, name, privacy_pb2.UNIT_CLIENT, f"federations/{name}")
    return client(budget=f"budgets/{name}", noise_multiplier=1.5)


def test_runs_that_together_exceed_a_budget_are_not_both_started(coordinator: Coordinator) -> None:
    privacy = other_federation(coordinator, "shared")
    with pytest.raises(MeshError) as caught:
        coordinator.start("shared", privacy=privacy, num_rounds=100)
    fits = int(caught.value.message.split("suffices for ")[1].split()[0])
    first = coordinator.start("shared", privacy=privacy, num_rounds=fits - 1, request_id="first")
    with pytest.raises(MeshError, match="besides the 1 of its runs") as refused:
        coordinator.start("shared", privacy=privacy, num_rounds=2)
    assert (refused.value.reason, refused.value.field) == ("BUDGET_EXHAUSTED", "spec.privacy.budget")
    # The answer to the first call was lost, and its caller repeats it.
    again = coordinator.start("shared", privacy=privacy, num_rounds=fits - 1, request_id="first")
    assert again.name == first.name
    second = coordinator.start("shared", privacy=privacy, num_rounds=1)
    for run in (first, second):
        coordinator.service.stop("default", run.name)
    stopped = coordinator.start("shared", privacy=privacy, num_rounds=fits)
    coordinator.service.stop("default", stopped.name)


def test_a_round_that_is_debited_and_not_released_is_counted_once(coordinator: Coordinator) -> None:
    privacy = other_federation(coordinator, "debited")
    with pytest.raises(MeshError) as caught:
        coordinator.start("debited", privacy=privacy, num_rounds=100)
    fits = int(caught.value.message.split("suffices for ")[1].split()[0])
    first = coordinator.start("debited", privacy=privacy, num_rounds=fits - 1)
    assert first.privacy is not None
    rounds = SqlRoundStore(coordinator.database, "default")
    planned = Round(first.name, 1, 1, RoundState.PLANNED, 1.0, cohort=("debited-node",))
    collected = replace(planned, state=RoundState.COLLECTED, sealed_model="ab" * 32)
    rounds.add(planned)
    rounds.advance(collected, expected=RoundState.PLANNED)
    debit = coordinator.budgets.debit(
        "default",
        "budgets/debited",
        first.privacy.release,
        run=first.name,
        round_number=1,
        sealed_sha256=collected.sealed_model,
        request_id="debited",
    )
    with pytest.raises(MeshError, match="suffices for 0 of 1 rounds"):  # the debit is not stored here yet
        coordinator.start("debited", privacy=privacy, num_rounds=1)
    debited = replace(collected, state=RoundState.DEBITED, debit=debit.name)
    rounds.advance(debited, expected=RoundState.COLLECTED)
    with pytest.raises(MeshError, match="suffices for 1 of 2 rounds"):
        coordinator.start("debited", privacy=privacy, num_rounds=2)
    second = coordinator.start("debited", privacy=privacy, num_rounds=1)
    for run in (first, second):
        coordinator.service.stop("default", run.name)


def test_what_changes_while_a_run_is_checked_is_noticed(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy, preview = other_federation(coordinator, "raced"), coordinator.budgets.preview
    meanwhile: list[Any] = [
        lambda: coordinator.start("raced", privacy=privacy, num_rounds=1).name,
        lambda: coordinator.federations.delete("default", "federations/raced"),
    ]
    made: list[Any] = []

    def previewed(*arguments: Any) -> Any:
        found = preview(*arguments)
        if act := meanwhile.pop(0) if meanwhile else None:
            waiting, meanwhile[:] = meanwhile[:], []
            made.append(act())
            meanwhile[:] = waiting
        return found

    monkeypatch.setattr(coordinator.budgets, "preview", previewed)
    before = coordinator.jobs.count()
    with pytest.raises(Aborted) as caught:
        coordinator.start("raced", privacy=privacy, num_rounds=1)
    assert caught.value.reason == "BUDGET_CHANGED"
    coordinator.service.stop("default", made[0])
    with pytest.raises(NotFound) as gone:
        coordinator.start("raced", privacy=privacy, num_rounds=1)
    assert (gone.value.reason, gone.value.field) == ("FEDERATION_NOT_FOUND", "parent")
    assert sum(coordinator.jobs.count().values()) == sum(before.values()) + len(made[:1])


def test_a_run_that_is_stopped_while_nobody_executes_it_releases_what_it_debited(coordinator: Coordinator) -> None:
    run = coordinator.start(privacy=client(noise_multiplier=20.0))
    lease, debit = coordinator.claim("first"), coordinator.budgets.debit

    def dies(*args: Any, **kwargs: Any) -> Debit:
        made = debit(*args, **kwargs)
        lease.lost.set()
        raise DeadlineExceeded("NO_ANSWER", f"{made.name} is not answered")

    coordinator.budgets.debit = dies  # type: ignore[method-assign]
    coordinator.execute(lease)
    coordinator.budgets.debit = debit  # type: ignore[method-assign]
    coordinator.service.stop("default", run.name)
    lease.release()
    coordinator.execute(coordinator.claim("second"))
    run = coordinator.service.get("default", run.name)
    assert run.job.state is JobState.CANCELLED
    assert run.num_released == 1


def test_a_delta_that_is_no_protection_is_warned_of(coordinator: Coordinator) -> None:
    create(coordinator, "loose", privacy_pb2.UNIT_CLIENT, "federations/loose", delta=0.5)
    run = coordinator.start(privacy=client())
    coordinator.service.stop("default", run.name)
    assert run.spec.privacy is not None
    spec = replace(run.spec, privacy=replace(run.spec.privacy, budget="budgets/loose"))
    _, warnings = plan_privacy(spec, "federations/loose", ["aa", "bb"], coordinator.budgets, "default")
    assert [(kind, payload["reason"]) for kind, payload in warnings] == [("warning", "DELTA_TOO_LARGE")]


def test_a_run_that_protects_examples_is_refused_if_there_is_a_budget_for_clients(coordinator: Coordinator) -> None:
    privacy = client(unit="UNIT_EXAMPLE", budget="budgets/examples", example_rate=0.3)
    with pytest.raises(MeshError, match=r"has the privacy budget budgets/clients, .*; protect nodes") as caught:
        coordinator.start(privacy=privacy)
    assert (caught.value.reason, caught.value.field) == ("DATASET_HAS_BUDGET", "spec.privacy.unit")


def test_examples_are_protected_by_the_nodes_and_every_step_is_debited(coordinator: Coordinator) -> None:
    coordinator.federations.create("default", "wards", "", Repeatable("CreateFederation"))
    coordinator.add_nodes("wards", ["wards-node"])
    create(coordinator, "wards", privacy_pb2.UNIT_EXAMPLE, "federations/wards")
    privacy = client(unit="UNIT_EXAMPLE", budget="budgets/wards", example_rate=0.3)
    model = model_spec(coordinator.pictures, batch_size=16)
    run = coordinator.start("wards", privacy=privacy, model=model, local_epochs=2, num_rounds=1)
    coordinator.service.stop("default", run.name)
    assert run.privacy is not None
    # 1 / 0.3, rounded up, is 4 steps per epoch.
    assert (run.privacy.release.sampling_rate, run.privacy.release.count) == (0.3, 8)


def test_a_run_does_not_start_from_a_model_that_used_the_nodes_data_without_a_debit(coordinator: Coordinator) -> None:
    privacy = client(noise_multiplier=50.0, clip_norm=0.01)
    run = coordinator.start(privacy=privacy, num_rounds=1, deadline_s=2)
    coordinator.execute()
    last = coordinator.service.last_round(coordinator.service.get("default", run.name))
    assert last is not None
    name = last["model_version"]
    private = coordinator.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name)).model_version

    def version(model: str, *sources: str) -> str:
        request = registry_pb2.CreateModelVersionRequest(parent=model, manifest=private.manifest, sources=sources)
        return str(coordinator.registry.CreateModelVersion(request).model_version.name)

    opened = version("models/open", coordinator.pictures, "federations/clinics/runs/open")
    tuned = version("models/tuned", opened)
    for init in (opened, tuned):
        with pytest.raises(MeshError, match=f"{init}.* was trained on federations/clinics without a debit") as caught:
            coordinator.start(privacy=privacy, model=model_spec(coordinator.pictures, init=init))
        assert (caught.value.reason, caught.value.field) == ("INIT_NOT_PRIVATE", "spec.model.init")
    elsewhere = version("models/elsewhere", coordinator.pictures, "federations/others/runs/r")
    for init in (name, elsewhere):
        model = model_spec(coordinator.pictures, init=init)
        started = coordinator.start(privacy=privacy, model=model)
        coordinator.service.stop("default", started.name)


def test_a_run_without_privacy_of_a_federation_that_has_a_budget_is_refused(coordinator: Coordinator) -> None:
    with pytest.raises(MeshError, match="federations/clinics has the privacy budget budgets/clients") as caught:
        coordinator.start()
    assert (caught.value.reason, caught.value.field) == ("DATASET_HAS_BUDGET", "spec.privacy")
    coordinator.federations.create("default", "open", "", Repeatable("CreateFederation"))
    coordinator.add_nodes("open", ["open-node"])
    first = coordinator.start("open", request_id="before")
    coordinator.service.stop("default", first.name)
    create(coordinator, "open", privacy_pb2.UNIT_EXAMPLE, "federations/open")
    assert refusal(coordinator, federation="open") == ("DATASET_HAS_BUDGET", "spec.privacy")
    assert coordinator.start("open", request_id="before").name == first.name
