"""Names of resources."""

import pytest

from common.errors import InvalidArgument
from services.registry.resources import (
    Kind,
    VersionReference,
    parse_alias,
    parse_series,
    parse_version,
    parse_version_reference,
)


def test_a_version_may_be_named_by_number_as_the_latest_and_by_alias() -> None:
    def parse(name: str) -> VersionReference:
        return parse_version_reference(name, Kind.MODEL, field="name")

    assert parse("models/m/versions/12") == VersionReference(Kind.MODEL, "m", number=12)
    assert parse("models/m/versions/latest") == VersionReference(Kind.MODEL, "m")
    assert parse("models/m/aliases/production") == VersionReference(Kind.MODEL, "m", alias_id="production")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "models",
        "models/m",
        "models/M/versions/1",
        "models/m/versions/",
        "models/m/versions/0",
        "models/m/versions/01",
        "models/m/versions/-1",
        "models/m/versions/1.0",
        "models/m/versions/9999999999999999999",
        "models/m/versions/1/",
        "models/m/versions/1\n",
        "datasets/m/versions/1",
        "models/../versions/1",
        f"models/{'m' * 64}/versions/1",
    ],
)
def test_what_is_no_name_of_a_version_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_version_reference(name, Kind.MODEL, field="version")
    assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "version")


@pytest.mark.parametrize("name", ["models/m/versions/latest", "models/m/aliases/production", "runs/r"])
def test_where_a_version_must_not_move_only_its_number_names_it(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_version(name, field="sources[0]")
    assert caught.value.reason == "BAD_NAME"


@pytest.mark.parametrize("alias_id", ["latest", "3", "2024"])
def test_an_alias_that_reads_like_a_version_is_refused(alias_id: str) -> None:
    with pytest.raises(InvalidArgument, match="mistaken for a version"):
        parse_alias(f"models/m/aliases/{alias_id}", field="name")


def test_the_name_of_one_kind_is_not_taken_for_the_other() -> None:
    assert parse_series("datasets/d", Kind.DATASET, field="name") == "d"
    with pytest.raises(InvalidArgument):
        parse_series("models/d", Kind.DATASET, field="name")
