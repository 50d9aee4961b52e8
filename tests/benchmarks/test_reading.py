"""Passages for the reading test."""

from collections import Counter

from benchmarks.reading import NUM_PASSAGES, draw, passages


def test_a_draw_has_its_number_of_each_kind_and_depends_on_the_seed_alone() -> None:
    first = draw("2026-01-01")
    assert Counter(passage.kind for passage in first) == NUM_PASSAGES
    assert len(set(first)) == len(first)
    assert first == draw("2026-01-01")
    assert first != draw("2026-01-02")


def test_every_kind_of_prose_is_found() -> None:
    known = list(passages())
    assert {passage.kind for passage in known} == set(NUM_PASSAGES)
    places = {passage.place.partition(":")[0] for passage in known}
    assert {"common/errors.py", "protos/job/v1/job.proto", "README.md", "docs/security.md"} <= places
