"""Paths of fields of a run spec, and how values get there."""

from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.search.run_fields import overlap, put, read_path


def test_values_get_to_fields_keys_and_list_entries() -> None:
    document: dict[str, Any] = {"optimizer": {"params": {"lr": 1}}, "inputs": [{"field": "a"}], "early_stopping": None}
    for path, value in (
        ("optimizer.params.lr", 0.5),
        ("model.params.width", 8),
        ("inputs[0].encoder.params.size", 16),
        ("early_stopping.patience", 3),
        ("seed", 7),
    ):
        put(document, read_path(path, field="f"), value, field="f")
    assert document == {
        "optimizer": {"params": {"lr": 0.5}},
        "model": {"params": {"width": 8}},
        "inputs": [{"field": "a", "encoder": {"params": {"size": 16}}}],
        "early_stopping": {"patience": 3},
        "seed": 7,
    }


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", "a[x]", "[0]", "a[0]b", "a[12345]", "a b", "a" * 201, "a.b\n"])
def test_texts_that_are_no_paths_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        read_path(text, field="fields[2].field")
    assert (error.value.reason, error.value.field) == ("BAD_PATH", "fields[2].field")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("inputs[1].field", r"there is no inputs\[1\]; the list has 1 entries"),
        ("seed.value", "seed has no fields"),
        ("optimizer[0]", "optimizer is not a list"),
        ("inputs.field", "inputs has no fields"),
    ],
)
def test_places_that_do_not_exist_are_refused(path: str, message: str) -> None:
    document = {"seed": 1, "optimizer": {}, "inputs": [{}]}
    with pytest.raises(InvalidArgument, match=message):
        put(document, read_path(path, field="f"), 1, field="f")


def test_paths_that_contain_each_other_overlap() -> None:
    paths = [read_path(text, field="f") for text in ("a.b", "a.c[0]", "a.c[1]", "d", "a.c")]
    assert overlap(paths[:4]) is None
    assert overlap(paths) == (1, 4)
    assert overlap([paths[3], paths[3]]) == (0, 1)
