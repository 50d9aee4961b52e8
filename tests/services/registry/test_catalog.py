"""Data sets, models and their versions."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.database import Database, PageRequest, Repeatable
from common.errors import AlreadyExists, InvalidArgument, MeshError, NotFound
from services.registry.catalog import Catalog, NewVersion
from services.registry.resources import Kind, Metric, Version
from tests.services.registry.conftest import AddModel, manifest


def create_dataset(catalog: Catalog, dataset_id: str, *, request_id: str = "", body: bytes = b"") -> str:
    return catalog.create("default", Kind.DATASET, dataset_id, "", Repeatable("CreateDataset", request_id, body)).name


def create_version(
    catalog: Catalog, new: NewVersion, *, parent: str = "models/m", tenant: str = "default", request_id: str = ""
) -> tuple[Version, bool]:
    kind = Kind.of(parent, field="parent")
    return catalog.create_version(tenant, kind, parent, new, Repeatable("Create", request_id, repr(new).encode()))


def test_a_created_series_is_found_again(catalog: Catalog) -> None:
    made = catalog.create("default", Kind.MODEL, "m", "it says cat or dog", Repeatable("CreateModel"))
    assert made.name == "models/m"
    assert catalog.get("default", Kind.MODEL, "models/m") == made


def test_a_data_set_and_a_model_may_share_an_id(catalog: Catalog, add_model: AddModel) -> None:
    create_dataset(catalog, "x")
    add_model("x")
    with pytest.raises(NotFound) as caught:
        catalog.get_version("default", Kind.DATASET, "datasets/x/versions/1")
    assert caught.value.reason == "DATASET_VERSION_NOT_FOUND"


def test_an_id_that_is_taken_is_refused(catalog: Catalog) -> None:
    create_dataset(catalog, "d")
    with pytest.raises(AlreadyExists) as caught:
        create_dataset(catalog, "d")
    assert (caught.value.reason, caught.value.field) == ("DATASET_EXISTS", "dataset_id")


def test_a_repeated_request_returns_what_the_first_one_made(catalog: Catalog) -> None:
    assert create_dataset(catalog, "d", request_id="r", body=b"1") == create_dataset(
        catalog, "d", request_id="r", body=b"1"
    )


def test_a_request_id_with_another_body_is_refused_and_changes_nothing(catalog: Catalog) -> None:
    create_dataset(catalog, "d", request_id="r", body=b"1")
    with pytest.raises(AlreadyExists) as caught:
        create_dataset(catalog, "e", request_id="r", body=b"2")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    with pytest.raises(NotFound):
        catalog.get("default", Kind.DATASET, "datasets/e")


def test_a_refused_request_leaves_its_id_free(catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        create_version(catalog, NewVersion(manifest("a"), sources=("datasets/d/versions/1",)), request_id="r")
    version, created = create_version(catalog, NewVersion(manifest("a")), request_id="r")
    assert (version.number, created) == (1, True)


def test_versions_are_numbered_from_one_and_keep_what_they_were_given(catalog: Catalog) -> None:
    dataset, _ = create_version(catalog, NewVersion(manifest("d"), num_samples=7), parent="datasets/d")
    assert (dataset.name, dataset.num_samples, dataset.manifest) == ("datasets/d/versions/1", 7, manifest("d"))
    new = NewVersion(
        manifest("m"),
        sources=("runs/zz", "datasets/d/versions/1", "runs/zz"),
        metrics=(Metric("test/accuracy", 0.995), Metric("test/loss", 0.1 + 0.2)),
    )
    model, _ = create_version(catalog, new)
    assert model.name == "models/m/versions/1"
    assert catalog.get_version("default", Kind.MODEL, "models/m/versions/1") == model
    assert model.sources == ("runs/zz", "datasets/d/versions/1")
    assert model.metrics == new.metrics


def test_a_manifest_that_the_series_has_returns_its_version_unchanged(catalog: Catalog) -> None:
    first, _ = create_version(catalog, NewVersion(manifest("m"), metrics=(Metric("a", 1.0),)))
    create_version(catalog, NewVersion(manifest("n")))
    again, created = create_version(catalog, NewVersion(manifest("m"), sources=("runs/r",)))
    assert not created
    assert again == first
    elsewhere, created = create_version(catalog, NewVersion(manifest("m")), parent="models/other")
    assert (elsewhere.number, created) == (1, True)


def test_a_repeated_request_says_created_again(catalog: Catalog) -> None:
    first = create_version(catalog, NewVersion(manifest("m")), request_id="r")
    assert create_version(catalog, NewVersion(manifest("m")), request_id="r") == first
    assert first[1]


def test_the_latest_version_is_the_newest(catalog: Catalog, add_model: AddModel) -> None:
    add_model()
    newest = add_model()
    assert catalog.get_version("default", Kind.MODEL, "models/m/versions/latest") == newest


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("models/none/versions/1", "MODEL_NOT_FOUND"),
        ("models/none/versions/latest", "MODEL_NOT_FOUND"),
        ("models/m/versions/2", "MODEL_VERSION_NOT_FOUND"),
        ("models/m/aliases/production", "ALIAS_NOT_FOUND"),
    ],
)
def test_what_does_not_exist_is_not_found_with_its_reason(
    catalog: Catalog, add_model: AddModel, name: str, reason: str
) -> None:
    add_model("m")
    with pytest.raises(NotFound) as caught:
        catalog.get_version("default", Kind.MODEL, name)
    assert (caught.value.reason, caught.value.field) == (reason, "name")


def test_a_series_without_versions_has_no_latest(catalog: Catalog) -> None:
    create_dataset(catalog, "d")
    with pytest.raises(NotFound, match="there are no versions yet"):
        catalog.get_version("default", Kind.DATASET, "datasets/d/versions/latest")


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewVersion(manifest("a"), num_samples=0), "num_samples"),
        (NewVersion(manifest("a"), metrics=(Metric("", 1.0),)), "metrics[0].name"),
        (NewVersion(manifest("a"), metrics=(Metric("a", 1.0), Metric("a", 2.0))), "metrics[1].name"),
        (NewVersion(manifest("a"), metrics=(Metric("a", math.nan),)), "metrics[0].value"),
        (NewVersion(manifest("a"), metrics=(Metric("a\0", 1.0),)), "metrics[0].name"),
        (NewVersion(manifest("a"), sources=("nonsense",)), "sources[0]"),
        (NewVersion(manifest("a"), sources=("runs/r", "models/m/versions/latest")), "sources[1]"),
    ],
)
def test_a_wrong_version_is_refused_and_leaves_nothing(catalog: Catalog, new: NewVersion, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        create_version(catalog, new)
    assert caught.value.field == field
    with pytest.raises(NotFound):
        catalog.get("default", Kind.MODEL, "models/m")


def test_a_source_that_does_not_exist_undoes_the_whole_version(catalog: Catalog) -> None:
    with pytest.raises(NotFound) as caught:
        create_version(catalog, NewVersion(manifest("a"), sources=("runs/r", "datasets/d/versions/1")))
    assert (caught.value.reason, caught.value.field) == ("DATASET_NOT_FOUND", "sources[1]")
    with pytest.raises(NotFound):
        catalog.get("default", Kind.MODEL, "models/m")


def test_pages_are_complete_and_in_order(catalog: Catalog, add_model: AddModel) -> None:
    for index in range(5):
        create_dataset(catalog, f"d{index}")
        add_model("m")
    names, token = [], ""
    for expected_rows in (2, 2, 1):
        series, token = catalog.list_series("default", Kind.DATASET, PageRequest(2, token))
        assert len(series) == expected_rows
        names += [one.name for one in series]
    assert names == [f"datasets/d{index}" for index in range(5)]
    assert token == ""
    versions, token = catalog.list_versions("default", Kind.MODEL, "models/m", PageRequest(3))
    add_model("m")
    more, token = catalog.list_versions("default", Kind.MODEL, "models/m", PageRequest(3, token))
    assert [version.number for version in (*versions, *more)] == [5, 4, 3, 2, 1]
    assert token == ""


def test_a_full_last_page_has_no_token(catalog: Catalog) -> None:
    create_dataset(catalog, "d")
    assert catalog.list_series("default", Kind.DATASET, PageRequest(1))[1] == ""


def test_a_page_token_of_another_list_is_refused(catalog: Catalog, add_model: AddModel) -> None:
    for model_id in ("m", "m", "n", "n"):
        add_model(model_id)
    _, of_versions = catalog.list_versions("default", Kind.MODEL, "models/m", PageRequest(1))
    _, of_models = catalog.list_series("default", Kind.MODEL, PageRequest(1))
    for token in (of_versions, of_models, "junk"):
        with pytest.raises(InvalidArgument) as caught:
            catalog.list_versions("default", Kind.MODEL, "models/n", PageRequest(1, token))
        assert (caught.value.reason, caught.value.field) == ("BAD_PAGE_TOKEN", "page_token")


def test_listing_versions_of_nothing_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        catalog.list_versions("default", Kind.MODEL, "models/m", PageRequest())


def test_tenants_do_not_see_each_other(catalog: Catalog) -> None:
    create_version(catalog, NewVersion(manifest("secret")), tenant="a")
    with pytest.raises(NotFound):
        catalog.get_version("b", Kind.MODEL, "models/m/versions/1")
    assert catalog.list_series("b", Kind.MODEL, PageRequest())[0] == []
    with pytest.raises(NotFound):
        create_version(catalog, NewVersion(manifest("x"), sources=("models/m/versions/1",)), tenant="b")
    version, created = create_version(catalog, NewVersion(manifest("secret")), tenant="b")
    assert (version.number, created) == (1, True)


def test_concurrent_versions_get_consecutive_numbers_without_gaps(database: Database) -> None:
    num_threads, num_versions = 4, 10
    barrier = threading.Barrier(num_threads)

    def add_many(thread: int) -> list[int]:
        catalog = Catalog(database)
        barrier.wait()
        numbers = []
        for index in range(num_versions):
            numbers.append(create_version(catalog, NewVersion(manifest(f"{thread} {index}")))[0].number)
            with pytest.raises(MeshError):  # a refused version takes no number
                create_version(catalog, NewVersion(manifest(f"{thread} {index}!"), sources=("models/m/versions/999",)))
        return numbers

    with ThreadPoolExecutor(num_threads) as pool:
        numbers = [number for one in pool.map(add_many, range(num_threads)) for number in one]
    assert sorted(numbers) == list(range(1, num_threads * num_versions + 1))


def test_the_same_manifest_at_the_same_moment_makes_one_version(database: Database) -> None:
    num_threads = 4
    barrier = threading.Barrier(num_threads)

    def add(_: int) -> tuple[Version, bool]:
        barrier.wait()
        return create_version(Catalog(database), NewVersion(manifest("same")))

    with ThreadPoolExecutor(num_threads) as pool:
        made = list(pool.map(add, range(num_threads)))
    assert {version.number for version, _ in made} == {1}
    assert [created for _, created in made].count(True) == 1
