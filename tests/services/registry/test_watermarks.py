"""What ids in marks stand for."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from common.database import Database, PageRequest, Repeatable
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from protos.watermark.v1 import watermark_pb2
from services.registry.catalog import Catalog
from services.registry.resources import Kind
from services.registry.watermarks import Watermark, Watermarks
from tests.services.registry.conftest import MIGRATIONS, AddModel

SHA256, OTHER = "ab" * 32, "cd" * 32
IMAGE = watermark_pb2.MODALITY_IMAGE


def create(watermarks: Watermarks, tenant: str = "default", model_version: str = "", request_id: str = "") -> Watermark:
    body = model_version.encode()
    return watermarks.create(tenant, "image", model_version, 0, Repeatable("CreateWatermark", request_id, body))


def test_a_watermark_is_created_filled_read_and_listed(stub: RegistryServiceStub) -> None:
    made = stub.CreateWatermark(pb.CreateWatermarkRequest(modality=IMAGE, key_epoch=3)).watermark
    assert re.fullmatch(r"watermarks/[0-9a-f]{12}", made.name)
    assert (made.modality, made.model_version, made.key_epoch) == (IMAGE, "", 3)
    assert (made.content_sha256, made.content_size_bytes, made.HasField("create_time")) == ("", 0, True)

    content = pb.SetWatermarkContentRequest(name=made.name, content_sha256=SHA256, content_size_bytes=7)
    filled = stub.SetWatermarkContent(content).watermark
    assert (filled.content_sha256, filled.content_size_bytes) == (SHA256, 7)
    assert stub.GetWatermark(pb.GetWatermarkRequest(name=made.name)).watermark == filled
    assert list(stub.ListWatermarks(pb.ListWatermarksRequest(content_sha256=SHA256)).watermarks) == [filled]


def test_ids_are_drawn_again_until_they_are_new(watermarks: Watermarks, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([1, 1, 2, 1])
    monkeypatch.setattr("secrets.randbits", lambda bits: next(drawn))
    assert [create(watermarks).name for _ in range(2)] == ["watermarks/000000000001", "watermarks/000000000002"]
    # Unique within the tenant only: nobody learns from their ids how many others have.
    assert create(watermarks, "other").name == "watermarks/000000000001"


def test_content_is_told_once(watermarks: Watermarks) -> None:
    name = create(watermarks).name
    first = watermarks.set_content("default", name, SHA256, 7)
    assert watermarks.set_content("default", name, SHA256, 7) == first
    for sha256, size_bytes in ((OTHER, 7), (SHA256, 8)):
        with pytest.raises(FailedPrecondition) as caught:
            watermarks.set_content("default", name, sha256, size_bytes)
        assert (caught.value.reason, caught.value.field) == ("CONTENT_SET", "content_sha256")
    assert watermarks.get("default", name) == first


def test_the_model_version_has_to_exist(watermarks: Watermarks, add_model: AddModel) -> None:
    version = add_model("m").name
    assert create(watermarks, model_version=version).model_version == version
    for missing, reason in (
        ("models/m/versions/2", "MODEL_VERSION_NOT_FOUND"),
        ("models/n/versions/1", "MODEL_NOT_FOUND"),
    ):
        with pytest.raises(NotFound) as caught:
            create(watermarks, model_version=missing)
        assert (caught.value.reason, caught.value.field) == (reason, "model_version")
    for bad in ("models/m/versions/latest", "models/m/aliases/prod", "datasets/d/versions/1", "?"):
        with pytest.raises(InvalidArgument) as refused:
            create(watermarks, model_version=bad)
        assert (refused.value.reason, refused.value.field) == ("BAD_NAME", "model_version")


def test_a_repeated_request_id_gives_the_first_id(watermarks: Watermarks) -> None:
    first = create(watermarks, request_id="r")
    assert create(watermarks, request_id="r") == first
    assert create(watermarks, "other", request_id="r").name != first.name
    with pytest.raises(AlreadyExists):
        create(watermarks, model_version="models/m/versions/1", request_id="r")
    assert len(watermarks.list_watermarks("default", PageRequest())[0]) == 1


def test_lists_are_newest_first_and_page_by_page(watermarks: Watermarks, add_model: AddModel) -> None:
    version = add_model("m").name
    made = [create(watermarks, model_version=version if i % 2 else "").name for i in range(5)]
    watermarks.set_content("default", made[1], SHA256, 1)
    found, token = [], ""
    while True:
        page, token = watermarks.list_watermarks("default", PageRequest(2, token))
        found += [one.name for one in page]
        if not token:
            break
    assert found == made[::-1]
    of_version, rest = watermarks.list_watermarks("default", PageRequest(1), model_version=version)
    assert ([one.name for one in of_version], bool(rest)) == ([made[3]], True)
    both, _ = watermarks.list_watermarks("default", PageRequest(), model_version=version, content_sha256=SHA256)
    assert [one.name for one in both] == [made[1]]
    with pytest.raises(InvalidArgument) as caught:
        watermarks.list_watermarks("default", PageRequest(1, rest))
    assert caught.value.reason == "BAD_PAGE_TOKEN"


def test_another_tenant_finds_nothing(watermarks: Watermarks, catalog: Catalog, add_model: AddModel) -> None:
    version, name = add_model("m").name, create(watermarks).name
    with pytest.raises(NotFound):
        watermarks.get("other", name)
    with pytest.raises(NotFound):
        watermarks.set_content("other", name, SHA256, 1)
    with pytest.raises(NotFound):
        create(watermarks, "other", version)
    assert watermarks.list_watermarks("other", PageRequest()) == ([], "")
    assert watermarks.get("default", name).content_sha256 == ""
    assert catalog.list_series("other", Kind.MODEL, PageRequest())[0] == []


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.CreateWatermarkRequest(), "BAD_VALUE", "modality"),
        (pb.CreateWatermarkRequest(modality=77), "BAD_VALUE", "modality"),  # type: ignore[arg-type]
        (pb.CreateWatermarkRequest(modality=IMAGE, key_epoch=-1), "BAD_VALUE", "key_epoch"),
        (pb.SetWatermarkContentRequest(name="watermarks/1"), "BAD_NAME", "name"),
        (pb.SetWatermarkContentRequest(name="watermarks/0000000000AB"), "BAD_NAME", "name"),
        (
            pb.SetWatermarkContentRequest(name="watermarks/0000000000ab", content_sha256="AB" * 32),
            "BAD_DIGEST",
            "content_sha256",
        ),
        (
            pb.SetWatermarkContentRequest(name="watermarks/0000000000ab", content_sha256=SHA256),
            "BAD_VALUE",
            "content_size_bytes",
        ),
        (pb.GetWatermarkRequest(name="models/m"), "BAD_NAME", "name"),
        (pb.ListWatermarksRequest(content_sha256="ab"), "BAD_DIGEST", "content_sha256"),
        (pb.ListWatermarksRequest(model_version="models/m"), "BAD_NAME", "model_version"),
        (pb.ListWatermarksRequest(page_token="!"), "BAD_PAGE_TOKEN", "page_token"),
        (pb.ListWatermarksRequest(page_size=-1), "BAD_VALUE", "page_size"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(
    stub: RegistryServiceStub,
    request_: pb.CreateWatermarkRequest
    | pb.SetWatermarkContentRequest
    | pb.GetWatermarkRequest
    | pb.ListWatermarksRequest,
    reason: str,
    field: str,
) -> None:
    method = type(request_).__name__.removesuffix("Request")
    with pytest.raises(InvalidArgument) as caught:
        getattr(stub, method)(request_)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Database]:
    """A registry from before there were watermarks."""
    (tmp_path / "earlier").mkdir()
    shutil.copy(MIGRATIONS / "registry_1.py", tmp_path / "earlier")
    database = Database(f"sqlite:///{tmp_path}/earlier.db")
    database.migrate(tmp_path / "earlier")
    yield database
    database.close()


def test_a_registry_from_before_learns_of_watermarks(earlier: Database) -> None:
    with earlier.transaction() as session:
        session.execute(text("INSERT INTO series VALUES ('default', 'models', 'm', '', 1, 1)"))
        columns = "tenant, kind, series_id, number, sha256, size_bytes, media_type, create_us"
        session.execute(text(f"INSERT INTO versions ({columns}) VALUES ('default', 'models', 'm', 1, 'a', 1, 'b', 1)"))

    earlier.migrate(MIGRATIONS)

    made = create(Watermarks(earlier), model_version="models/m/versions/1")
    assert Watermarks(earlier).get("default", made.name) == made
