"""The registry over gRPC, with a real server and client."""

import time

import pytest

from common.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from deepseek.data import manifest as data_manifest
from deepseek.models import manifest as model_manifest
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub

SHA256 = "ab" * 32
MANIFEST = artifact_pb2.Artifact(sha256=SHA256, size_bytes=12, media_type=data_manifest.MEDIA_TYPE)
URI = f"artifact://default/sha256/{SHA256}"


def create_dataset_version(stub: RegistryServiceStub, request_id: str = "") -> pb.CreateDatasetVersionResponse:
    return stub.CreateDatasetVersion(
        pb.CreateDatasetVersionRequest(parent="datasets/d", manifest=MANIFEST, num_samples=3, request_id=request_id)
    )


def create_model_version(stub: RegistryServiceStub, digest: str = SHA256) -> pb.CreateModelVersionResponse:
    return stub.CreateModelVersion(
        pb.CreateModelVersionRequest(
            parent="models/m",
            manifest=artifact_pb2.Artifact(sha256=digest, size_bytes=12, media_type=model_manifest.MEDIA_TYPE),
            sources=["datasets/d/versions/1", "runs/r"],
            metrics=[pb.Metric(name="test/accuracy", value=0.995)],
        )
    )


def test_a_data_set_is_created_read_and_listed(stub: RegistryServiceStub) -> None:
    before = time.time()
    made = stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="d", description="shapes")).dataset
    assert (made.name, made.description) == ("datasets/d", "shapes")
    assert before - 1 < made.create_time.ToMicroseconds() / 1e6 < time.time() + 1
    assert stub.GetDataset(pb.GetDatasetRequest(name="datasets/d")).dataset == made
    assert list(stub.ListDatasets(pb.ListDatasetsRequest()).datasets) == [made]


def test_a_model_is_created_read_and_listed(stub: RegistryServiceStub) -> None:
    made = stub.CreateModel(pb.CreateModelRequest(model_id="m", description="answers")).model
    assert (made.name, made.description) == ("models/m", "answers")
    assert stub.GetModel(pb.GetModelRequest(name="models/m")).model == made
    assert list(stub.ListModels(pb.ListModelsRequest()).models) == [made]


def test_a_data_set_version_keeps_its_manifest(stub: RegistryServiceStub) -> None:
    answer = create_dataset_version(stub)
    made = answer.dataset_version
    assert answer.created
    assert (made.name, made.num_samples, made.manifest.uri) == ("datasets/d/versions/1", 3, URI)
    assert (made.manifest.sha256, made.manifest.size_bytes, made.manifest.media_type) == (
        SHA256,
        12,
        data_manifest.MEDIA_TYPE,
    )
    get = stub.GetDatasetVersion(pb.GetDatasetVersionRequest(name="datasets/d/versions/latest"))
    assert get.dataset_version == made
    listed = stub.ListDatasetVersions(pb.ListDatasetVersionsRequest(parent="datasets/d"))
    assert list(listed.dataset_versions) == [made]


def test_a_model_version_keeps_lineage_and_metrics(stub: RegistryServiceStub) -> None:
    create_dataset_version(stub)
    made = create_model_version(stub).model_version
    assert list(made.sources) == ["datasets/d/versions/1", "runs/r"]
    assert [(metric.name, metric.value) for metric in made.metrics] == [("test/accuracy", 0.995)]
    assert stub.GetModelVersion(pb.GetModelVersionRequest(name=made.name)).model_version == made
    listed = stub.ListModelVersions(pb.ListModelVersionsRequest(parent="models/m"))
    assert list(listed.model_versions) == [made]
    edges = stub.GetLineage(pb.GetLineageRequest(name="datasets/d/versions/1")).edges
    assert [(edge.source, edge.target) for edge in edges] == [("datasets/d/versions/1", "models/m/versions/1")]


def test_a_repeated_manifest_is_the_version_that_exists(stub: RegistryServiceStub) -> None:
    first = create_dataset_version(stub)
    again = create_dataset_version(stub)
    assert (again.created, again.dataset_version) == (False, first.dataset_version)


def test_a_repeated_request_id_gives_the_first_answer(stub: RegistryServiceStub) -> None:
    first = create_dataset_version(stub, "r")
    assert create_dataset_version(stub, "r") == first
    with pytest.raises(AlreadyExists) as caught:
        stub.CreateDatasetVersion(
            pb.CreateDatasetVersionRequest(parent="datasets/d", manifest=MANIFEST, num_samples=4, request_id="r")
        )
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    stub.CreateModel(pb.CreateModelRequest(model_id="m", request_id="s"))
    with pytest.raises(AlreadyExists):
        stub.CreateModel(pb.CreateModelRequest(model_id="n", request_id="s"))


def test_a_move_that_is_sent_again_with_its_id_is_one_move(stub: RegistryServiceStub) -> None:
    create_dataset_version(stub)
    version = create_model_version(stub).model_version.name
    request = pb.SetAliasRequest(name="models/m/aliases/production", version=version, request_id="r")
    assert stub.SetAlias(request) == stub.SetAlias(request)
    assert len(stub.ListAliasHistory(pb.ListAliasHistoryRequest(name=request.name)).moves) == 1
    with pytest.raises(AlreadyExists) as caught:
        stub.SetAlias(pb.SetAliasRequest(name=request.name, version=version, expected_version=version, request_id="r"))
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_an_alias_moves_by_compare_and_swap_and_remembers(stub: RegistryServiceStub) -> None:
    create_dataset_version(stub)
    one = create_model_version(stub).model_version.name
    two = create_model_version(stub, "cd" * 32).model_version.name
    name = "models/m/aliases/production"
    stub.SetAlias(pb.SetAliasRequest(name=name, version=one))
    moved = stub.SetAlias(pb.SetAliasRequest(name=name, version=two, expected_version=one)).alias
    with pytest.raises(Aborted) as caught:
        stub.SetAlias(pb.SetAliasRequest(name=name, version=two, expected_version=one))
    assert caught.value.reason == "ALIAS_MOVED"
    assert stub.GetAlias(pb.GetAliasRequest(name=name)).alias == moved
    assert list(stub.ListAliases(pb.ListAliasesRequest(parent="models/m")).aliases) == [moved]
    history = stub.ListAliasHistory(pb.ListAliasHistoryRequest(name=name, page_size=1))
    assert [(move.from_version, move.to_version) for move in history.moves] == [(one, two)]
    assert history.moves[0].time == moved.update_time
    assert history.next_page_token


@pytest.mark.parametrize(
    ("manifest", "reason", "field"),
    [
        (None, "BAD_DIGEST", "manifest.sha256"),
        (artifact_pb2.Artifact(sha256="AB" * 32, media_type="a/b"), "BAD_DIGEST", "manifest.sha256"),
        (artifact_pb2.Artifact(sha256=SHA256, media_type="a/b", size_bytes=-1), "BAD_VALUE", "manifest.size_bytes"),
        (artifact_pb2.Artifact(sha256=SHA256, media_type="a/b"), "WRONG_MEDIA_TYPE", "manifest.media_type"),
        (
            artifact_pb2.Artifact(sha256=SHA256, media_type=model_manifest.MEDIA_TYPE),
            "WRONG_MEDIA_TYPE",
            "manifest.media_type",
        ),
        (
            artifact_pb2.Artifact(sha256=SHA256, media_type=data_manifest.MEDIA_TYPE, size_bytes=(64 << 20) + 1),
            "TOO_LARGE",
            "manifest.size_bytes",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_field(
    stub: RegistryServiceStub, manifest: artifact_pb2.Artifact | None, reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        stub.CreateDatasetVersion(pb.CreateDatasetVersionRequest(parent="datasets/d", manifest=manifest, num_samples=1))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_data_set_version_without_samples_is_refused(stub: RegistryServiceStub) -> None:
    with pytest.raises(InvalidArgument) as caught:
        stub.CreateDatasetVersion(pb.CreateDatasetVersionRequest(parent="datasets/d", manifest=MANIFEST))
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "num_samples")


def test_errors_travel_with_reason_and_field(stub: RegistryServiceStub) -> None:
    with pytest.raises(NotFound) as missing:
        stub.GetModelVersion(pb.GetModelVersionRequest(name="models/m/versions/1"))
    assert (missing.value.reason, missing.value.field) == ("MODEL_NOT_FOUND", "name")
    with pytest.raises(InvalidArgument) as page:
        stub.ListModels(pb.ListModelsRequest(page_token="!"))
    assert (page.value.reason, page.value.field) == ("BAD_PAGE_TOKEN", "page_token")
    with pytest.raises(InvalidArgument) as size:
        stub.ListModels(pb.ListModelsRequest(page_size=-1))
    assert (size.value.reason, size.value.field) == ("BAD_VALUE", "page_size")


LARGEST = pb.CreateModelVersionRequest(
    parent="models/m",
    manifest=artifact_pb2.Artifact(sha256=SHA256, size_bytes=12, media_type=model_manifest.MEDIA_TYPE),
    sources=["/".join(["runs", f"r{i:03}", "a" * 63, "b" * 63, "c" * 63, "d" * 53]) for i in range(128)],
    metrics=[pb.Metric(name=f"{i:03}/" + "é" * 62, value=0.1) for i in range(128)],
)


def test_the_largest_model_version_leaves_room_for_a_page_of_them(stub: RegistryServiceStub) -> None:
    made = stub.CreateModelVersion(LARGEST).model_version
    assert (len(made.sources), len(made.metrics)) == (128, 128)
    assert made.ByteSize() * 50 < 4 << 20
    assert made.ByteSize() * 1000 < 64 << 20


def test_the_longest_description_leaves_room_for_a_page_of_them(stub: RegistryServiceStub) -> None:
    text = "é" * (8 << 10)
    made = stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="d", description=text)).dataset
    assert made.description == text
    assert made.ByteSize() * 50 < 4 << 20
    assert made.ByteSize() * 1000 < 64 << 20


@pytest.mark.parametrize("num_bytes", [(16 << 10) + 1, 40 << 20])
def test_a_description_that_is_too_long_is_refused_and_lists_go_on(stub: RegistryServiceStub, num_bytes: int) -> None:
    for call in (
        lambda: stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="d", description="x" * num_bytes)),
        lambda: stub.CreateModel(pb.CreateModelRequest(model_id="m", description="x" * num_bytes)),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", "description")
    assert not stub.ListDatasets(pb.ListDatasetsRequest()).datasets


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (pb.CreateModelVersionRequest(sources=["runs/one-more"]), "sources"),
        (pb.CreateModelVersionRequest(metrics=[pb.Metric(name="one more")]), "metrics"),
    ],
)
def test_a_list_that_is_too_long_is_refused(
    stub: RegistryServiceStub, more: pb.CreateModelVersionRequest, field: str
) -> None:
    request = pb.CreateModelVersionRequest()
    request.CopyFrom(LARGEST)
    request.MergeFrom(more)
    with pytest.raises(InvalidArgument) as caught:
        stub.CreateModelVersion(request)
    assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", field)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateModelVersionRequest(sources=["runs/r", "runs/r" + "/a/a" * 63]), "sources[1]"),
        (pb.CreateModelVersionRequest(metrics=[pb.Metric(name="é" * 65)]), "metrics[0].name"),
    ],
)
def test_a_name_that_is_too_long_is_refused(
    stub: RegistryServiceStub, request_: pb.CreateModelVersionRequest, field: str
) -> None:
    request_.parent = LARGEST.parent
    request_.manifest.CopyFrom(LARGEST.manifest)
    with pytest.raises(InvalidArgument) as caught:
        stub.CreateModelVersion(request_)
    assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", field)
