"""Privacy guarantees of model versions."""

import pytest
from google.protobuf.message import Message

from common.errors import InvalidArgument, NotFound
from deepseek.models.manifest import MEDIA_TYPE
from protos.artifact.v1 import artifact_pb2
from protos.privacy.v1 import privacy_pb2
from protos.privacy.v1.privacy_pb2_grpc import PrivacyServiceStub
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub

GUARANTEE = privacy_pb2.Guarantee(
    epsilon=2.5,
    delta=1e-6,
    unit=privacy_pb2.UNIT_EXAMPLE,
    adjacency=privacy_pb2.ADJACENCY_ADD_REMOVE,
    sampling=privacy_pb2.SAMPLING_POISSON,
)


def changed(**fields: object) -> privacy_pb2.Guarantee:
    found = privacy_pb2.Guarantee()
    found.CopyFrom(GUARANTEE)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def create(
    stub: RegistryServiceStub, digest: str, privacy: privacy_pb2.Guarantee | None = None, *sources: str
) -> pb.ModelVersion:
    manifest = artifact_pb2.Artifact(sha256=32 * digest, size_bytes=1, media_type=MEDIA_TYPE)
    request = pb.CreateModelVersionRequest(parent="models/m", manifest=manifest, privacy=privacy, sources=sources)
    version: pb.ModelVersion = stub.CreateModelVersion(request).model_version
    return version


@pytest.fixture
def debit(privacy: PrivacyServiceStub) -> privacy_pb2.Debit:
    """A debit of a budget for examples, with delta 1e-5."""
    privacy.CreateBudget(
        privacy_pb2.CreateBudgetRequest(
            budget_id="b", dataset="datasets/d", unit=privacy_pb2.UNIT_EXAMPLE, epsilon=3, delta=1e-5
        )
    )
    release = privacy_pb2.Release(noise_multiplier=4, sampling_rate=0.01, count=10)
    made: privacy_pb2.Debit = privacy.Debit(
        privacy_pb2.DebitRequest(budget="budgets/b", release=release, run="runs/r")
    ).debit
    return made


def test_a_version_keeps_the_guarantee_it_was_created_with(stub: RegistryServiceStub) -> None:
    without = create(stub, "aa")
    made = create(stub, "bb", GUARANTEE, without.name)
    assert made.privacy == GUARANTEE
    assert not without.HasField("privacy")
    # A version with this manifest exists, so the call changes nothing.
    assert create(stub, "bb", changed(epsilon=9)).privacy == GUARANTEE
    assert stub.GetModelVersion(pb.GetModelVersionRequest(name=made.name)).model_version == made
    listed = stub.ListModelVersions(pb.ListModelVersionsRequest(parent="models/m")).model_versions
    assert list(listed) == [made, without]
    lineage: Message = stub.GetLineage(pb.GetLineageRequest(name=without.name))
    assert lineage == pb.GetLineageResponse(
        edges=[pb.LineageEdge(source=without.name, target=made.name)],
        guarantees=[pb.VersionGuarantee(version=made.name, privacy=GUARANTEE)],
    )


def test_the_guarantee_is_deleted_with_its_version(stub: RegistryServiceStub) -> None:
    name = create(stub, "aa", GUARANTEE).name
    stub.DeleteModelVersion(pb.DeleteModelVersionRequest(name=name))
    assert create(stub, "aa").name == "models/m/versions/2"
    assert not stub.GetModelVersion(pb.GetModelVersionRequest(name="models/m/versions/2")).model_version.HasField(
        "privacy"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        *(({"epsilon": value}, "BAD_EPSILON") for value in (0, -1, float("nan"), float("inf"))),
        *(({"delta": value}, "BAD_DELTA") for value in (0, 1, float("nan"))),
        *(({"unit": value}, "BAD_UNIT") for value in (0, 99)),
        *(({"adjacency": value}, "BAD_ADJACENCY") for value in (0, 99)),
        *(({"sampling": value}, "BAD_SAMPLING") for value in (0, 99)),
        ({"debit": "budgets/b"}, "BAD_NAME"),
    ],
)
def test_a_guarantee_states_everything(stub: RegistryServiceStub, fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        create(stub, "aa", changed(**fields))
    assert (caught.value.reason, caught.value.field) == (reason, f"privacy.{next(iter(fields))}")


def test_a_guarantee_promises_no_more_than_its_debit(stub: RegistryServiceStub, debit: privacy_pb2.Debit) -> None:
    right = changed(debit=debit.name, delta=1e-5, epsilon=debit.epsilon_spent)
    assert create(stub, "aa", right, "runs/r").privacy == right
    for fields, field in (
        ({"epsilon": debit.epsilon_spent * 0.999}, "epsilon"),
        ({"delta": 1e-6}, "delta"),
        ({"unit": privacy_pb2.UNIT_CLIENT}, "unit"),
        ({"sampling": privacy_pb2.SAMPLING_NONE}, "sampling"),
    ):
        wrong = privacy_pb2.Guarantee()
        wrong.CopyFrom(right)
        for name, value in fields.items():
            setattr(wrong, name, value)
        with pytest.raises(InvalidArgument) as caught:
            create(stub, "bb", wrong, "runs/r")
        assert (caught.value.reason, caught.value.field) == ("WRONG_GUARANTEE", f"privacy.{field}")
    with pytest.raises(InvalidArgument, match="made by runs/r, which is not among the sources") as caught:
        create(stub, "bb", right, "runs/s")
    assert (caught.value.reason, caught.value.field) == ("WRONG_GUARANTEE", "privacy.debit")
    for name, reason in (("budgets/c/debits/1", "BUDGET_NOT_FOUND"), ("budgets/b/debits/2", "DEBIT_NOT_FOUND")):
        with pytest.raises(NotFound) as caught_missing:
            create(stub, "bb", changed(debit=name, delta=1e-5))
        assert (caught_missing.value.reason, caught_missing.value.field) == (reason, "privacy.debit")
    assert len(stub.ListModelVersions(pb.ListModelVersionsRequest(parent="models/m")).model_versions) == 1
