"""Deletions: what is refused because something uses it, and what is left."""

from collections.abc import Callable

import pytest

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from deepseek.models.manifest import MEDIA_TYPE
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub

Publish = Callable[..., str]


@pytest.fixture
def publish(stub: RegistryServiceStub) -> Publish:
    def published(model: str, content: int, *sources: str) -> str:
        manifest = artifact_pb2.Artifact(sha256=f"{content:064x}", size_bytes=1, media_type=MEDIA_TYPE)
        request = pb.CreateModelVersionRequest(
            parent=f"models/{model}",
            manifest=manifest,
            sources=sources,
            metrics=[pb.Metric(name="test/accuracy", value=0.5)],
        )
        return str(stub.CreateModelVersion(request).model_version.name)

    return published


def delete_version(stub: RegistryServiceStub, name: str, request_id: str = "") -> None:
    stub.DeleteModelVersion(pb.DeleteModelVersionRequest(name=name, request_id=request_id))


def latest(stub: RegistryServiceStub, model: str) -> pb.ModelVersion:
    name = f"models/{model}/versions/latest"
    version: pb.ModelVersion = stub.GetModelVersion(pb.GetModelVersionRequest(name=name)).model_version
    return version


def test_a_deleted_version_is_gone_and_its_number_is_not_used_again(
    stub: RegistryServiceStub, publish: Publish
) -> None:
    first, second = publish("m", 1), publish("m", 2, "runs/r")
    delete_version(stub, second)
    assert latest(stub, "m").name == first
    with pytest.raises(NotFound, match="'models/m/versions/2' does not exist; it was deleted") as caught:
        stub.GetModelVersion(pb.GetModelVersionRequest(name=second))
    assert caught.value.reason == "MODEL_VERSION_NOT_FOUND"
    with pytest.raises(NotFound):
        stub.GetLineage(pb.GetLineageRequest(name="runs/r"))
    assert publish("m", 2) == "models/m/versions/3"


def test_a_deletion_with_a_request_id_can_be_repeated(stub: RegistryServiceStub, publish: Publish) -> None:
    first, second = publish("m", 1), publish("m", 2)
    for _ in range(2):
        delete_version(stub, first, "once")
    with pytest.raises(AlreadyExists):
        delete_version(stub, second, "once")
    with pytest.raises(NotFound):
        delete_version(stub, first)


def test_a_creation_repeated_after_the_deletion_says_so(stub: RegistryServiceStub) -> None:
    manifest = artifact_pb2.Artifact(sha256="a" * 64, size_bytes=1, media_type=MEDIA_TYPE)
    request = pb.CreateModelVersionRequest(parent="models/m", manifest=manifest, request_id="create")
    delete_version(stub, stub.CreateModelVersion(request).model_version.name)
    with pytest.raises(NotFound, match="it was deleted"):
        stub.CreateModelVersion(request)


def test_what_is_used_is_kept_and_the_message_names_its_users(stub: RegistryServiceStub, publish: Publish) -> None:
    parent = publish("m", 1)
    child = publish("other", 2, parent)
    stub.SetAlias(pb.SetAliasRequest(name="models/m/aliases/champion", version=parent))
    for call in (
        lambda: delete_version(stub, parent),
        lambda: stub.DeleteModel(pb.DeleteModelRequest(name="models/m")),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            call()
        assert caught.value.reason == "VERSION_IN_USE"
        assert "the alias 'models/m/aliases/champion' points at version 1" in caught.value.message
        assert f"{child!r} was made from {parent!r}" in caught.value.message
    assert latest(stub, "m").metrics
    stub.DeleteAlias(pb.DeleteAliasRequest(name="models/m/aliases/champion"))
    delete_version(stub, child)
    delete_version(stub, parent)
    with pytest.raises(NotFound, match="there are no versions yet"):
        latest(stub, "m")


def test_a_version_may_be_made_from_a_version_that_was_deleted_meanwhile(
    stub: RegistryServiceStub, publish: Publish
) -> None:
    source = publish("m", 1)
    stub.DeleteModel(pb.DeleteModelRequest(name="models/m"))
    made = publish("other", 2, source)
    edges = stub.GetLineage(pb.GetLineageRequest(name=made)).edges
    assert [(edge.source, edge.target) for edge in edges] == [(source, made)]
    with pytest.raises(NotFound):
        publish("other", 3, "models/m/versions/2")


def test_a_deleted_model_is_gone_and_a_new_one_continues_its_numbers(
    stub: RegistryServiceStub, publish: Publish
) -> None:
    first = publish("m", 1)
    publish("m", 2, first)  # made from a version that is deleted, too
    stub.DeleteModel(pb.DeleteModelRequest(name="models/m"))
    assert not stub.ListModels(pb.ListModelsRequest()).models
    for call in (
        lambda: stub.GetModel(pb.GetModelRequest(name="models/m")),
        lambda: stub.ListModelVersions(pb.ListModelVersionsRequest(parent="models/m")),
        lambda: stub.DeleteModel(pb.DeleteModelRequest(name="models/m")),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.reason == "MODEL_NOT_FOUND"
    stub.CreateModel(pb.CreateModelRequest(model_id="m", description="again"))
    assert publish("m", 1) == "models/m/versions/3"


@pytest.mark.parametrize(
    "name", ["models/m/versions/latest", "models/m/aliases/a", "models/m", "datasets/m/versions/1"]
)
def test_only_a_numbered_version_of_the_kind_can_be_deleted(stub: RegistryServiceStub, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        delete_version(stub, name)
    assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "name")


def test_an_alias_is_deleted_with_its_history(stub: RegistryServiceStub, publish: Publish) -> None:
    alias, version = "models/m/aliases/a", publish("m", 1)
    stub.SetAlias(pb.SetAliasRequest(name=alias, version=version))
    stub.DeleteAlias(pb.DeleteAliasRequest(name=alias))
    with pytest.raises(NotFound) as caught:
        stub.DeleteAlias(pb.DeleteAliasRequest(name=alias))
    assert caught.value.reason == "ALIAS_NOT_FOUND"
    stub.SetAlias(pb.SetAliasRequest(name=alias, version=version))
    assert len(stub.ListAliasHistory(pb.ListAliasHistoryRequest(name=alias)).moves) == 1
