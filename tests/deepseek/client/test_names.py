"""The grammar of names: short and long forms, and what is refused before any work starts."""

import pytest

from common.errors import InvalidArgument
from deepseek.client.names import Collection, run_name, series_id, short_name, version_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("colours", "datasets/colours/versions/latest"),
        ("colours:latest", "datasets/colours/versions/latest"),
        ("colours:3", "datasets/colours/versions/3"),
        ("colours@champion", "datasets/colours/aliases/champion"),
        ("datasets/colours", "datasets/colours/versions/latest"),
        ("datasets/colours:3", "datasets/colours/versions/3"),
        ("datasets/colours@champion", "datasets/colours/aliases/champion"),
        ("datasets/colours/versions/3", "datasets/colours/versions/3"),
        ("datasets/colours/versions/latest", "datasets/colours/versions/latest"),
        ("datasets/colours/aliases/champion", "datasets/colours/aliases/champion"),
    ],
)
def test_every_form_of_a_version_has_one_resource_name(text: str, name: str) -> None:
    assert version_name(text, "datasets", field="dataset") == name
    assert version_name(text.replace("datasets/", "models/"), "models", field="model") == name.replace(
        "datasets/", "models/"
    )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "My Model",
            "colours:",
            "colours:0",
            "colours:03",
            "colours:next",
            "colours@",
            "colours@A",
            "a:1@b",
            "a@b:1",
        ),
        *("datasets/", "datasets/a/versions/", "datasets/a/versions/x", "datasets/a/b", "models/colours", "a/b/c/d/e"),
        *("../../etc", "colours\n", "x" * 64, "colours/versions/3"),
    ],
)
def test_a_wrong_name_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        version_name(text, "datasets", field="dataset")
    assert caught.value.reason == "BAD_NAME"
    assert caught.value.field == "dataset"


@pytest.mark.parametrize("text", ["digits", "models/digits"])
def test_a_series_is_named_by_its_id_or_resource_name(text: str) -> None:
    assert series_id(text, "models", field="model") == "digits"


@pytest.mark.parametrize("text", ["digits:3", "digits@champion", "models/digits/versions/3", "datasets/digits"])
def test_a_version_is_no_series(text: str) -> None:
    with pytest.raises(InvalidArgument, match="digits") as caught:
        series_id(text, "models", field="model")
    assert caught.value.reason == "BAD_NAME"


def test_runs_have_one_name() -> None:
    assert run_name("x7") == run_name("runs/x7") == "runs/x7"
    with pytest.raises(InvalidArgument):
        run_name("runs/x/7")


@pytest.mark.parametrize("collection", ["datasets", "models"])
@pytest.mark.parametrize("short", ["a", "a:3", "a:latest", "a@b"])
def test_the_short_form_means_the_same(short: str, collection: Collection) -> None:
    name = version_name(short, collection, field="x")
    assert version_name(short_name(name), collection, field="x") == name
