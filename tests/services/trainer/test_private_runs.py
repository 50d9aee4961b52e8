"""Private runs against a real ledger: refused without a budget, debited once, and exported with their guarantee."""

from typing import Any

import pytest

from common.errors import MeshError
from deepseek.privacy.accounting import epsilon, noise_multiplier_for
from deepseek.privacy.releases import Release
from protos.job.v1 import job_pb2
from protos.privacy.v1 import privacy_pb2, privacy_pb2_grpc
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.deepseek.federated.pictures import CNN, FIELDS, samples
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.exports import export
from tests.services.trainer.tasks import add_dataset

DELTA, NOISE, RATE, EPOCHS = 1e-5, 2.0, 0.25, 2
NUM_STEPS = EPOCHS * 4
EPSILON = 6.0


@pytest.fixture(scope="module")
def version(mesh: TrainerMesh) -> str:
    """A data set version of pictures with their colours, and three budgets."""
    name = plain_version(mesh, "colours", seed=1)
    for budget, dataset, unit in (
        ("colours", "datasets/colours", privacy_pb2.UNIT_EXAMPLE),
        ("clients", "datasets/crowd", privacy_pb2.UNIT_CLIENT),
        ("other", "datasets/other", privacy_pb2.UNIT_EXAMPLE),
    ):
        create(mesh, budget, dataset, unit)
    return name


def plain_version(mesh: TrainerMesh, name: str, seed: int = 3) -> str:
    """A data set version of pictures without a budget."""
    data = samples(48, "train", seed) + samples(16, "test", 2)
    return add_dataset(mesh.registry.channel(), mesh.home / "store", name, FIELDS, data)


def create(mesh: TrainerMesh, budget: str, dataset: str, unit: privacy_pb2.Unit, limit: float = EPSILON) -> None:
    """Creates a budget."""
    ledger(mesh).CreateBudget(
        privacy_pb2.CreateBudgetRequest(budget_id=budget, dataset=dataset, unit=unit, epsilon=limit, delta=DELTA)
    )


def ledger(mesh: TrainerMesh) -> privacy_pb2_grpc.PrivacyServiceStub:
    return privacy_pb2_grpc.PrivacyServiceStub(mesh.registry.channel())


def spec(
    version: str,
    *,
    budget: str = "colours",
    noise: float = NOISE,
    epsilon: float | None = None,
    rate: float = RATE,
    **changes: Any,
) -> dict[str, Any]:
    chosen = {"noise_multiplier": noise} if epsilon is None else {"target_epsilon": epsilon}
    privacy = {**chosen, "clip_norm": 1, "example_rate": rate, "budget": f"budgets/{budget}"}
    return {
        **CNN,
        "dataset_version": version,
        "epochs": EPOCHS,
        "precision": "PRECISION_FP32",
        "privacy": privacy,
        **changes,
    }


def debits(mesh: TrainerMesh, budget: str = "colours") -> list[privacy_pb2.Debit]:
    return list(ledger(mesh).ListDebits(privacy_pb2.ListDebitsRequest(parent=f"budgets/{budget}")).debits)


def further(mesh: TrainerMesh, name: str, limit: float) -> str:
    """A further data set version, with a budget of its own."""
    version = plain_version(mesh, name)
    create(mesh, name, f"datasets/{name}", privacy_pb2.UNIT_EXAMPLE, limit)
    return version


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"budget": "nowhere"}, "BUDGET_NOT_FOUND", "nowhere"),
        ({"budget": "clients"}, "BUDGET_MISMATCH", "protects clients of datasets/crowd"),
        ({"budget": "other"}, "BUDGET_MISMATCH", "examples of datasets/other, but .* examples of datasets/colours"),
        (
            {"noise": 0.01},
            "BUDGET_EXHAUSTED",
            "budgets/colours suffices for only 0; train for fewer epochs, or add more noise",
        ),
        (
            {"epsilon": 9.0},
            "BUDGET_EXHAUSTED",
            "the run makes 8 private steps, but .* for only 2; choose a smaller epsilon",
        ),
    ],
)
def test_a_run_whose_budget_does_not_suit_is_refused(
    mesh: TrainerMesh, version: str, changes: dict[str, Any], reason: str, message: str
) -> None:
    with pytest.raises(MeshError, match=message) as caught:
        mesh.submit(spec(version, **changes))
    assert (caught.value.reason, caught.value.field) == (reason, "spec.privacy.budget")


@pytest.mark.parametrize(
    ("changes", "reason", "field", "message"),
    [
        ({"epsilon": 0.0}, "BAD_EPSILON", "privacy.target_epsilon", "target epsilon is 0"),
        (
            {"epsilon": 1e-3, "rate": 1.0, "epochs": 10_000_000},
            "BAD_EPSILON",
            "privacy.target_epsilon",
            "no noise multiplier up to 1e.06 keeps epsilon at 0.001",
        ),
        ({"epsilon": 1.0, "epochs": 2_500_001}, "BAD_COUNT", "epochs", "count is 10000004"),
        ({"epochs": 2_500_001}, "BAD_COUNT", "epochs", "count is 10000004"),
    ],
)
def test_a_wrong_aim_is_refused(
    mesh: TrainerMesh, version: str, changes: dict[str, Any], reason: str, field: str, message: str
) -> None:
    with pytest.raises(MeshError, match=message) as caught:
        mesh.submit(spec(version, **changes))
    assert (caught.value.reason, caught.value.field) == (reason, f"spec.{field}")


def test_the_noise_is_chosen_for_an_epsilon_and_is_that_of_the_debit(mesh: TrainerMesh) -> None:
    aim = 1.5
    version = further(mesh, "aimed", aim)
    noise = noise_multiplier_for(aim, DELTA, RATE, NUM_STEPS)
    submitted = mesh.submit(spec(version, budget="aimed", epsilon=aim), reuse=True)
    assert submitted.privacy.release.noise_multiplier == noise, "it is decided before the run starts"
    assert not debits(mesh, "aimed"), "nothing is debited yet"
    list(mesh.watch(submitted.name))
    run = mesh.run(submitted.name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED, run.job
    assert (run.spec.privacy.target_epsilon, run.spec.privacy.WhichOneof("noise")) == (aim, "target_epsilon")
    assert (run.privacy.budget, run.privacy.release.count) == ("budgets/aimed", NUM_STEPS)
    (debit,) = debits(mesh, "aimed")
    assert (debit.run, debit.release) == (run.name, run.privacy.release)
    assert 0.99 * aim < debit.epsilon_spent <= aim

    for changes in ({"epsilon": aim}, {"noise": noise}):
        equal = mesh.submit(spec(version, budget="aimed", **changes), reuse=True)
        assert equal.name == run.name, "a run with the same noise is returned, though nothing of the budget is left"
    with pytest.raises(MeshError, match="suffices for only 0") as caught:
        mesh.submit(spec(version, budget="aimed", epsilon=aim, seed=2))
    assert caught.value.reason == "BUDGET_EXHAUSTED"


def test_a_run_without_privacy_on_data_with_a_budget_is_refused(mesh: TrainerMesh, version: str) -> None:
    for reuse in (False, True):
        with pytest.raises(MeshError, match="datasets/colours has the privacy budget budgets/colours") as caught:
            mesh.submit(spec(version, privacy=None), reuse=reuse)
        assert (caught.value.reason, caught.value.field) == ("DATASET_HAS_BUDGET", "spec.privacy")


def test_a_run_on_data_whose_clients_have_a_budget_is_refused(mesh: TrainerMesh) -> None:
    data = plain_version(mesh, "wards")
    create(mesh, "wards", "datasets/wards", privacy_pb2.UNIT_CLIENT)
    create(mesh, "patients", "datasets/wards", privacy_pb2.UNIT_EXAMPLE)
    for changes in ({"privacy": None}, {"budget": "patients"}):
        with pytest.raises(MeshError, match=r"budgets/wards.* protects clients, which a training run cannot") as caught:
            mesh.submit(spec(data, **changes))
        assert (caught.value.reason, caught.value.field) == ("DATASET_HAS_BUDGET", "spec.privacy")


def test_a_run_without_privacy_shows_none_and_is_known_again_after_a_budget_was_created(mesh: TrainerMesh) -> None:
    data = plain_version(mesh, "plain")
    plain = mesh.submit(spec(data, privacy=None), request_id="plain")
    mesh.runs.StopRun(pb.StopRunRequest(name=plain.name))
    assert not plain.HasField("privacy")
    create(mesh, "plain", "datasets/plain", privacy_pb2.UNIT_EXAMPLE)
    assert mesh.submit(spec(data, privacy=None), request_id="plain").name == plain.name


def test_a_run_that_cannot_be_private_debits_nothing(mesh: TrainerMesh, version: str) -> None:
    name = mesh.submit(spec(version, model={"name": "cnn", "params": {"width": 4}})).name
    list(mesh.watch(name))
    job = mesh.run(name).job
    assert (job.state, job.error.reason) == (job_pb2.JOB_STATE_FAILED, "NOT_PRIVATE_MODEL")
    assert not [debit for debit in debits(mesh) if debit.run == name]


@pytest.fixture(scope="module")
def exported(mesh: TrainerMesh, version: str) -> tuple[str, list[pb.RunEvent], registry_pb2.ModelVersion]:
    """A private run that has succeeded, its events and the model version that was exported from it."""
    name = mesh.submit(spec(version)).name
    events = list(mesh.watch(name))
    assert mesh.run(name).job.state == job_pb2.JOB_STATE_SUCCEEDED, mesh.run(name).job
    job = export(mesh, pb.ExportModelRequest(run=name, model="models/colours"))
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
    return name, events, mesh.models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=job.result)).model_version


def test_a_run_is_debited_once_for_all_steps_and_its_model_states_the_guarantee(
    mesh: TrainerMesh, exported: tuple[str, list[pb.RunEvent], registry_pb2.ModelVersion]
) -> None:
    name, events, made = exported
    assert mesh.run(name).spec.privacy.budget == "budgets/colours"
    assert not any("delta" in event.warning.message for event in events)
    steps = [event.step for event in events if event.HasField("step")]
    assert steps[-1].step == NUM_STEPS
    assert not any(step.metrics for step in steps)
    (debit,) = (debit for debit in debits(mesh) if debit.run == name)
    assert (debit.release.noise_multiplier, debit.release.sampling_rate, debit.release.count) == (
        NOISE,
        RATE,
        NUM_STEPS,
    )
    assert debit.epsilon_spent == pytest.approx(epsilon([Release(NOISE, RATE, NUM_STEPS)], DELTA))
    guarantee = made.privacy
    assert (guarantee.epsilon, guarantee.delta, guarantee.debit) == (debit.epsilon_spent, DELTA, debit.name)
    assert (guarantee.unit, guarantee.sampling) == (privacy_pb2.UNIT_EXAMPLE, privacy_pb2.SAMPLING_POISSON)


def test_a_run_does_not_start_from_a_model_that_used_the_data_without_a_debit(
    mesh: TrainerMesh, version: str, exported: tuple[str, list[pb.RunEvent], registry_pb2.ModelVersion]
) -> None:
    private = exported[2]
    run = mesh.submit(spec(version, init=private.name, noise=5.0))
    mesh.runs.StopRun(pb.StopRunRequest(name=run.name))

    def create(model: str, source: str) -> str:
        request = registry_pb2.CreateModelVersionRequest(parent=model, manifest=private.manifest, sources=[source])
        return str(mesh.models.CreateModelVersion(request).model_version.name)

    made = create("models/open", version)
    for init, message in ((made, "^models/open"), (create("models/tuned", made), "^models/tuned.*from models/open")):
        with pytest.raises(MeshError, match=message) as caught:
            mesh.submit(spec(version, init=init))
        assert (caught.value.reason, caught.value.field) == ("INIT_NOT_PRIVATE", "spec.init")


def test_a_debit_for_less_that_names_the_run_is_not_adopted(mesh: TrainerMesh, version: str) -> None:
    name = mesh.submit(spec(version, noise=4.0, seed=3)).name
    for noise, count, round in ((1e6, NUM_STEPS, 0), (4.0, 1, 0), (4.0, NUM_STEPS, 1)):
        release = privacy_pb2.Release(noise_multiplier=noise, sampling_rate=RATE, count=count)
        ledger(mesh).Debit(privacy_pb2.DebitRequest(budget="budgets/colours", release=release, run=name, round=round))
    assert not mesh.run(name).checkpoint.sha256, "the run has debited nothing yet"
    list(mesh.watch(name))
    assert mesh.run(name).job.state == job_pb2.JOB_STATE_SUCCEEDED, mesh.run(name).job
    made = [debit for debit in debits(mesh) if debit.run == name]
    assert len(made) == 4
    job = export(mesh, pb.ExportModelRequest(run=name, model="models/other"))
    guarantee = mesh.models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=job.result)).model_version.privacy
    assert guarantee.debit == made[0].name, "the newest debit comes first"


def test_a_delta_that_allows_an_example_to_be_published_is_warned_of(mesh: TrainerMesh, version: str) -> None:
    # The expected number of examples is 1e5, so that delta is 1/n.
    run = mesh.submit(spec(version, batch_size=25_000))
    mesh.runs.StopRun(pb.StopRunRequest(name=run.name))
    (message,) = (event.warning.message for event in mesh.watch(run.name) if event.HasField("warning"))
    assert message.startswith("delta is 1e-05, which is not below 1/n for n = 100000 examples")


def test_a_run_is_refused_if_another_one_will_debit_its_budget(mesh: TrainerMesh, version: str) -> None:
    limit = 1.01 * epsilon([Release(NOISE, RATE, NUM_STEPS + 1)], DELTA)
    other = further(mesh, "shared", limit)
    first = mesh.submit(spec(other, budget="shared")).name
    with pytest.raises(
        MeshError, match=r"besides the 1 of its runs that have not debited it yet, .* only 1;"
    ) as caught:
        mesh.submit(spec(other, budget="shared", seed=2))
    assert (caught.value.reason, caught.value.field) == ("BUDGET_EXHAUSTED", "spec.privacy.budget")
    list(mesh.watch(first))
    with pytest.raises(MeshError, match="private steps, but budgets/shared suffices for only 1;"):
        mesh.submit(spec(other, budget="shared", seed=2))


def test_a_run_whose_budget_is_spent_before_its_first_checkpoint_reports_nothing(
    mesh: TrainerMesh, version: str
) -> None:
    other = further(mesh, "tight", 1.01 * epsilon([Release(NOISE, RATE, NUM_STEPS)], DELTA))

    def submit() -> str:
        return mesh.submit(spec(other, budget="tight"), request_id="tight").name

    name = submit()
    release = privacy_pb2.Release(noise_multiplier=NOISE, sampling_rate=RATE, count=NUM_STEPS)
    ledger(mesh).Debit(privacy_pb2.DebitRequest(budget="budgets/tight", release=release, run="runs/another"))
    events = list(mesh.watch(name))
    failed = mesh.run(name)
    assert (failed.job.state, failed.job.error.reason) == (job_pb2.JOB_STATE_FAILED, "BUDGET_EXHAUSTED")
    assert not failed.checkpoint.sha256
    assert not any(event.HasField("evaluation") or event.HasField("checkpoint") for event in events)
    assert [debit.run for debit in debits(mesh, "tight")] == ["runs/another"]
    # A call whose answer was lost is recognized, although the budget no longer suffices.
    assert submit() == name
