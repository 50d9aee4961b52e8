"""Ancestors of a model that have used private data without protection."""

import pytest

from deepseek.privacy.ancestry import unprotected_ancestor

DATA, OTHER, COPY = (f"datasets/{name}/versions/1" for name in ("d", "dd", "copy"))
A, B, C = (f"models/{name}/versions/1" for name in "abc")


@pytest.mark.parametrize(
    ("edges", "debits", "found"),
    [
        ([], {}, ""),
        ([(DATA, C)], {}, C),
        ([(DATA, C)], {C: "budgets/b/debits/1"}, ""),
        ([(DATA, C)], {C: "budgets/bb/debits/1"}, C),
        ([(DATA, C)], {C: ""}, C),
        ([(OTHER, C)], {}, ""),
        ([(DATA, A), (A, B), (B, C)], {C: "budgets/b/debits/2", B: "budgets/b/debits/1"}, A),
        ([(DATA, COPY), (COPY, B), (OTHER, C), (B, C)], {}, B),
        ([(DATA, A), (C, A)], {}, ""),
        ([(DATA, C), (DATA, A), (A, B), (B, C)], {A: "budgets/b/debits/1", C: "budgets/b/debits/3"}, ""),
    ],
)
def test_the_model_that_used_the_data_without_a_debit_is_named(
    edges: list[tuple[str, str]], debits: dict[str, str], found: str
) -> None:
    assert unprotected_ancestor(edges, debits, start=C, dataset="datasets/d", budget="budgets/b") == found


RUN, FURTHER = "federations/f/runs/r", "federations/ff/runs/r"


@pytest.mark.parametrize(
    ("edges", "debits", "found"),
    [
        ([(DATA, C), (RUN, C)], {}, C),
        ([(DATA, C), (RUN, C)], {C: "budgets/b/debits/1"}, ""),
        ([(DATA, C), (FURTHER, C)], {}, ""),
        ([(RUN, A), (A, B), (FURTHER, B), (RUN, C), (B, C)], {C: "budgets/b/debits/1"}, A),
    ],
)
def test_the_data_of_a_federation_is_used_by_its_runs(
    edges: list[tuple[str, str]], debits: dict[str, str], found: str
) -> None:
    assert unprotected_ancestor(edges, debits, start=C, dataset="federations/f", budget="budgets/b") == found
