import pytest

from common.errors import InvalidArgument
from common.names import check_id, new_id, parse


def test_a_name_is_taken_apart() -> None:
    assert parse("datasets/d.1/versions/3", "datasets/{}/versions/{}") == ("d.1", "3")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "datasets/",
        "datasets/a/",
        "datasets/A",
        "datasets/a/b",
        "datasets/../etc",
        "datasets/a\n",
        "x/a",
        "datasets/" + "a" * 64,
    ],
)
def test_a_malformed_name_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(name, "datasets/{}", field="parent")
    assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "parent")
    assert "datasets/<id>" in caught.value.message


@pytest.mark.parametrize("value", ["", "-a", ".", "..", "a/b", "a b", "ä", "a" * 64])
def test_a_malformed_id_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument):
        check_id(value, field="id")


def test_new_ids_are_ids_and_differ() -> None:
    ids = {check_id(new_id(), field="id") for _ in range(1000)}
    assert len(ids) == 1000
