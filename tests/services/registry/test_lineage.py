"""The lineage graph."""

import pytest

from common.database import Database, Repeatable
from common.errors import InvalidArgument, NotFound, ResourceExhausted
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog, NewVersion
from services.registry.lineage import Edge, Lineage
from services.registry.resources import Kind
from tests.services.registry.conftest import AddModel, manifest

DATA = "datasets/d/versions/1"
A1, B1, C1 = (f"models/{model_id}/versions/1" for model_id in "abc")


@pytest.fixture
def diamond(catalog: Catalog, add_model: AddModel) -> None:
    """Data and a run make a; a makes b; a and b make c."""
    catalog.create_version(
        "default",
        Kind.DATASET,
        "datasets/d",
        NewVersion(manifest("d"), num_samples=1),
        Repeatable("CreateDatasetVersion"),
    )
    add_model("a", DATA, "runs/r")
    add_model("b", A1)
    add_model("c", A1, B1)


@pytest.mark.usefixtures("diamond")
def test_a_walk_goes_both_ways_and_names_every_edge_once(lineage: Lineage) -> None:
    edges = lineage.walk("default", A1, 0)
    assert set(edges) == {Edge(DATA, A1), Edge("runs/r", A1), Edge(A1, B1), Edge(A1, C1), Edge(B1, C1)}
    assert len(edges) == 5


@pytest.mark.usefixtures("diamond")
def test_edges_run_from_sources_to_targets(lineage: Lineage) -> None:
    edges = lineage.walk("default", DATA, 0)
    for index, edge in enumerate(edges):
        assert edge.source not in {later.target for later in edges[index:]}


@pytest.mark.usefixtures("diamond")
def test_depth_counts_edges_in_each_direction(lineage: Lineage) -> None:
    assert set(lineage.walk("default", B1, 1)) == {Edge(A1, B1), Edge(B1, C1)}
    assert set(lineage.walk("default", DATA, 2)) == {Edge(DATA, A1), Edge(A1, B1), Edge(A1, C1)}


@pytest.mark.usefixtures("diamond")
def test_siblings_are_not_ancestors_or_descendants(lineage: Lineage, add_model: AddModel) -> None:
    add_model("sibling", DATA)
    assert "models/sibling/versions/1" not in {edge.target for edge in lineage.walk("default", A1, 0)}


@pytest.mark.usefixtures("diamond")
def test_a_walk_may_start_at_an_alias_the_latest_or_what_others_keep(lineage: Lineage, aliases: Aliases) -> None:
    aliases.set("default", "models/b/aliases/best", B1, "", Repeatable("SetAlias"))
    expected = lineage.walk("default", B1, 0)
    assert lineage.walk("default", "models/b/aliases/best", 0) == expected
    assert lineage.walk("default", "models/b/versions/latest", 0) == expected
    assert Edge("runs/r", A1) in lineage.walk("default", "runs/r", 1)


def test_a_version_without_relations_has_no_edges(lineage: Lineage, add_model: AddModel) -> None:
    add_model("a")
    assert lineage.walk("default", A1, 0) == []


@pytest.mark.usefixtures("diamond")
@pytest.mark.parametrize(
    ("name", "depth", "error", "field"),
    [
        ("models/none/versions/1", 0, NotFound, "name"),
        ("runs/none", 0, NotFound, "name"),
        ("models/a", 0, InvalidArgument, "name"),
        ("nonsense", 0, InvalidArgument, "name"),
        (A1, -1, InvalidArgument, "depth"),
        (A1, 101, InvalidArgument, "depth"),
    ],
)
def test_a_wrong_start_or_depth_is_refused_with_its_field(
    lineage: Lineage, name: str, depth: int, error: type[InvalidArgument | NotFound], field: str
) -> None:
    with pytest.raises(error) as caught:
        lineage.walk("default", name, depth)
    assert caught.value.field == field


def test_no_sequence_of_calls_makes_a_cycle(catalog: Catalog, lineage: Lineage, add_model: AddModel) -> None:
    def add_a(*sources: str) -> bool:
        new = NewVersion(manifest("a"), sources=sources)
        return catalog.create_version("default", Kind.MODEL, "models/a", new, Repeatable("CreateModelVersion"))[1]

    with pytest.raises(NotFound):
        add_a(A1)
    assert add_a()
    add_model("b", A1)
    assert not add_a(B1)
    assert lineage.walk("default", A1, 0) == [Edge(A1, B1)]


@pytest.mark.usefixtures("diamond")
def test_tenants_do_not_share_edges(lineage: Lineage) -> None:
    with pytest.raises(NotFound):
        lineage.walk("other", "runs/r", 0)


def test_a_walk_that_finds_too_much_is_refused(database: Database, add_model: AddModel) -> None:
    for index in range(6):
        add_model(f"m{index}", "runs/popular")
    assert len(Lineage(database, max_edges=6).walk("default", "runs/popular", 0)) == 6
    with pytest.raises(ResourceExhausted) as caught:
        Lineage(database, max_edges=5).walk("default", "runs/popular", 0)
    assert caught.value.field == "depth"


def test_a_chain_deeper_than_the_depth_is_cut(lineage: Lineage, add_model: AddModel) -> None:
    add_model("m0")
    for index in range(1, 15):
        add_model(f"m{index}", f"models/m{index - 1}/versions/1")
    assert len(lineage.walk("default", "models/m0/versions/1", 0)) == 10
    assert len(lineage.walk("default", "models/m0/versions/1", 100)) == 14
