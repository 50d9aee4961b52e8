"""Aliases and their history."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.database import Database, PageRequest, Repeatable
from common.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog
from services.registry.resources import Kind
from tests.services.registry.conftest import AddModel

PRODUCTION = "models/m/aliases/production"
V1, V2, V3 = (f"models/m/versions/{number}" for number in (1, 2, 3))


@pytest.fixture(autouse=True)
def versions(add_model: AddModel) -> None:
    for _ in range(3):
        add_model("m")


def test_an_alias_stands_for_the_version_it_was_set_to(aliases: Aliases, catalog: Catalog) -> None:
    alias = aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias"))
    assert (alias.name, alias.version) == (PRODUCTION, V1)
    assert aliases.get("default", PRODUCTION) == alias
    aliases.set("default", PRODUCTION, V3, V1, Repeatable("SetAlias"))
    assert catalog.get_version("default", Kind.MODEL, PRODUCTION).name == V3


@pytest.mark.parametrize(("existing", "expected"), [("", V1), (V1, ""), (V1, V2), (V1, "models/m/versions/99")])
def test_an_alias_that_stands_elsewhere_does_not_move(aliases: Aliases, existing: str, expected: str) -> None:
    if existing:
        aliases.set("default", PRODUCTION, existing, "", Repeatable("SetAlias"))
    with pytest.raises(Aborted) as caught:
        aliases.set("default", PRODUCTION, V3, expected, Repeatable("SetAlias"))
    assert (caught.value.reason, caught.value.field) == ("ALIAS_MOVED", "expected_version")
    if existing:
        assert aliases.get("default", PRODUCTION).version == existing
    else:
        with pytest.raises(NotFound):
            aliases.get("default", PRODUCTION)


def test_of_racing_callers_exactly_one_wins(database: Database, aliases: Aliases) -> None:
    aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias"))
    rounds = 10
    barrier = threading.Barrier(2)

    def race(mine: str) -> list[bool]:
        won = []
        for _ in range(rounds):
            stands = Aliases(database).get("default", PRODUCTION).version
            barrier.wait()
            try:
                Aliases(database).set(
                    "default", PRODUCTION, mine if stands != mine else V1, stands, Repeatable("SetAlias")
                )
                won.append(True)
            except Aborted:
                won.append(False)
            barrier.wait()
        return won

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(race, (V2, V3))
    assert [a != b for a, b in zip(first, second, strict=True)] == [True] * rounds
    moves, _ = aliases.history("default", PRODUCTION, PageRequest())
    assert len(moves) == rounds + 1


def test_history_lists_every_move_newest_first_and_chains(aliases: Aliases) -> None:
    aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias"))
    aliases.set("default", PRODUCTION, V2, V1, Repeatable("SetAlias"))
    aliases.set("default", PRODUCTION, V1, V2, Repeatable("SetAlias"))
    moves, token = aliases.history("default", PRODUCTION, PageRequest(2))
    older, last = aliases.history("default", PRODUCTION, PageRequest(2, token))
    assert [(move.from_version, move.to_version) for move in (*moves, *older)] == [(V2, V1), (V1, V2), ("", V1)]
    assert last == ""
    times = [move.time_us for move in (*moves, *older)]
    assert times == sorted(times, reverse=True)


def test_setting_an_alias_where_it_stands_is_no_move(aliases: Aliases) -> None:
    first = aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias"))
    assert aliases.set("default", PRODUCTION, V1, V1, Repeatable("SetAlias")) == first
    assert len(aliases.history("default", PRODUCTION, PageRequest())[0]) == 1


def test_a_repeated_move_gives_the_first_answer_even_if_others_moved_it_since(aliases: Aliases) -> None:
    first = aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias", "r", b"1"))
    assert aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias", "r", b"1")) == first
    assert len(aliases.history("default", PRODUCTION, PageRequest())[0]) == 1
    aliases.set("default", PRODUCTION, V2, V1, Repeatable("SetAlias", "s", b"2"))
    assert aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias", "r", b"1")) == first
    assert aliases.get("default", PRODUCTION).version == V2


def test_a_request_id_is_for_one_move(aliases: Aliases) -> None:
    aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias", "r", b"1"))
    with pytest.raises(AlreadyExists) as caught:
        aliases.set("default", PRODUCTION, V2, V1, Repeatable("SetAlias", "r", b"2"))
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    assert aliases.get("default", PRODUCTION).version == V1


def test_a_move_that_failed_leaves_its_request_id_free(aliases: Aliases) -> None:
    with pytest.raises(Aborted):
        aliases.set("default", PRODUCTION, V2, V1, Repeatable("SetAlias", "r", b"1"))
    aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias"))
    assert aliases.set("default", PRODUCTION, V2, V1, Repeatable("SetAlias", "r", b"1")).version == V2


def test_aliases_are_listed_by_id(aliases: Aliases) -> None:
    for alias_id in ("staging", "canary", "production"):
        aliases.set("default", f"models/m/aliases/{alias_id}", V1, "", Repeatable("SetAlias"))
    first, token = aliases.list_aliases("default", "models/m", PageRequest(2))
    second, last = aliases.list_aliases("default", "models/m", PageRequest(2, token))
    assert [alias.name.rpartition("/")[2] for alias in (*first, *second)] == ["canary", "production", "staging"]
    assert last == ""


@pytest.mark.parametrize(
    ("name", "version", "expected", "error", "field"),
    [
        ("models/none/aliases/a", "models/none/versions/1", "", NotFound, "name"),
        (PRODUCTION, "models/m/versions/4", "", NotFound, "version"),
        (PRODUCTION, "models/other/versions/1", "", InvalidArgument, "version"),
        (PRODUCTION, "datasets/m/versions/1", "", InvalidArgument, "version"),
        (PRODUCTION, "models/m/versions/latest", "", InvalidArgument, "version"),
        (PRODUCTION, V1, "models/other/versions/1", InvalidArgument, "expected_version"),
        ("runs/m/aliases/a", V1, "", InvalidArgument, "name"),
    ],
)
def test_a_wrong_move_is_refused_with_its_field(
    aliases: Aliases, name: str, version: str, expected: str, error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        aliases.set("default", name, version, expected, Repeatable("SetAlias"))
    assert isinstance(caught.value, InvalidArgument | NotFound)
    assert caught.value.field == field


def test_tenants_have_aliases_of_their_own(aliases: Aliases) -> None:
    aliases.set("default", PRODUCTION, V1, "", Repeatable("SetAlias"))
    with pytest.raises(NotFound):
        aliases.get("other", PRODUCTION)
