"""Lineage: a graph of resource names. Edges are stored together with a version and never change.

An edge leads from a source to a version made from that source. A source that belongs to this registry must have been
created before any version that names it, and the sources of a version never change, so the graph has no cycles. A
deleted source is accepted: a run may end, and its model be registered, after the data set was deleted. Sources that
belong to other services, such as `runs/<id>`, are not checked for existence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database
from common.errors import InvalidArgument, NotFound, ResourceExhausted
from common.sources import check_resource
from services.registry.guarantees import guarantees_of
from services.registry.resolve import check_created, find_version
from services.registry.resources import (
    Guarantee,
    Kind,
    parse_version,
    parse_version_reference,
    version_name,
)
from services.registry.tables import LineageRow

DEFAULT_DEPTH = 10
MAX_DEPTH = 100
MAX_EDGES = 10_000

_NAMES_PER_QUERY = 500


@dataclass(frozen=True)
class Edge:
    """`target` was made from `source`; both are resource names."""

    source: str
    target: str


class Lineage:
    """Walks the lineage graphs of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
        max_edges: Maximum number of edges that a walk returns in one direction; a walk that finds more raises an error.
    """

    def __init__(self, database: Database, *, max_edges: int = MAX_EDGES) -> None:
        self._database = database
        self._max_edges = max_edges

    def walk(self, tenant: str, name: str, depth: int) -> list[Edge]:
        """Returns the edges that lead to the ancestors and descendants of a resource.

        Args:
            tenant: Tenant that owns the resource.
            name: Name of the resource to start from. For a version, the name may contain an alias or `latest` in place
                of the number.
            depth: Maximum number of steps in each direction; 0 means 10.

        Returns:
            Edges without duplicates, in topological order: all edges into a resource precede all edges out of it.

        Raises:
            InvalidArgument: BAD_NAME or BAD_VALUE.
            NotFound: A reason of `resolve.find_version` if the resource is a version in this registry;
                RESOURCE_NOT_FOUND if it belongs to another service and no version names it as a source.
            ResourceExhausted: TOO_MANY_EDGES if there are more than `max_edges` in one direction.
        """
        if not 0 <= depth <= MAX_DEPTH:
            raise InvalidArgument("BAD_VALUE", f"depth is {depth}; it must be 0 to {MAX_DEPTH}", field="depth")
        with self._database.snapshot() as session:
            start = self._start(session, tenant, name)
            up = self._follow(session, tenant, start, depth or DEFAULT_DEPTH, up=True)
            down = self._follow(session, tenant, start, depth or DEFAULT_DEPTH, up=False)
            if not up and not down and not _in_registry(start):
                raise NotFound("RESOURCE_NOT_FOUND", f"{name!r} is not a source of any version", field="name")
        return _in_order([*up, *down])

    def guarantees(self, tenant: str, edges: Sequence[Edge]) -> dict[str, Guarantee]:
        """Returns the privacy guarantee of each model version in a graph that has one, ordered by name."""
        numbers: dict[str, set[int]] = {}
        for name in {name for edge in edges for name in (edge.source, edge.target)}:
            if name.startswith(f"{Kind.MODEL.value}/"):
                _, series_id, number = parse_version(name, field="name")
                numbers.setdefault(series_id, set()).add(number)
        found: dict[str, Guarantee] = {}
        with self._database.snapshot() as session:
            for series_id, some in sorted(numbers.items()):
                of_series = guarantees_of(session, tenant, Kind.MODEL, series_id, sorted(some))
                found |= {version_name(Kind.MODEL, series_id, number): one for number, one in of_series.items()}
        return dict(sorted(found.items()))

    def _start(self, session: Session, tenant: str, name: str) -> str:
        if not _in_registry(name):
            check_resource(name, field="name")
            return name
        reference = parse_version_reference(name, Kind.of(name, field="name"), field="name")
        row = find_version(session, tenant, reference, field="name")
        return version_name(reference.kind, row.series_id, row.number)

    def _follow(self, session: Session, tenant: str, start: str, depth: int, *, up: bool) -> list[Edge]:
        """Walks breadth-first in one direction, and returns the edges within `depth` steps."""
        near, far = (LineageRow.target, LineageRow.source) if up else (LineageRow.source, LineageRow.target)
        edges: list[Edge] = []
        seen = {start}
        frontier = [start]
        for _ in range(depth):
            reached: dict[str, None] = {}
            for names in _batches(frontier):
                query = select(LineageRow).where(LineageRow.tenant == tenant, near.in_(names)).order_by(near, far)
                for row in session.scalars(query.limit(self._max_edges + 1)):
                    edges.append(Edge(row.source, row.target))
                    reached[row.source if up else row.target] = None
                if len(edges) > self._max_edges:
                    raise ResourceExhausted(
                        "TOO_MANY_EDGES",
                        f"the lineage has more than {self._max_edges} edges within this depth; request a smaller depth",
                        field="depth",
                    )
            frontier = [name for name in reached if name not in seen]
            seen.update(frontier)
            if not frontier:
                break
        return edges


def record(session: Session, tenant: str, target: str, sources: Sequence[str]) -> None:
    """Stores the sources of a version that this transaction creates.

    Args:
        session: Session of the transaction.
        tenant: Tenant that owns the version.
        target: Name of the new version.
        sources: Names of the sources, in the caller's order; duplicates are stored once.

    Raises:
        InvalidArgument: BAD_NAME if a source is not a resource name, or names a version by an alias or as `latest`.
        NotFound: A source in this registry was never created.
    """
    for position, source in enumerate(sources):
        field = f"sources[{position}]"
        if _in_registry(source):
            kind, series_id, number = parse_version(source, field=field)
            check_created(session, tenant, kind, series_id, number, field=field)
        else:
            check_resource(source, field=field)
    session.add_all(
        LineageRow(tenant=tenant, target=target, source=source, position=position)
        for position, source in enumerate(dict.fromkeys(sources))
    )


def sources_of(session: Session, tenant: str, targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns the sources of each named version, in their original order."""
    found: dict[str, list[str]] = {}
    for names in _batches(targets):
        query = select(LineageRow).where(LineageRow.tenant == tenant, LineageRow.target.in_(names))
        for row in session.scalars(query.order_by(LineageRow.position)):
            found.setdefault(row.target, []).append(row.source)
    return {target: tuple(sources) for target, sources in found.items()}


def _in_order(edges: Sequence[Edge]) -> list[Edge]:
    """Returns the edges without duplicates, in topological order of their sources (Kahn's algorithm)."""
    unique = list(dict.fromkeys(edges))
    out_of: dict[str, list[Edge]] = {}
    num_incoming: dict[str, int] = {}
    for edge in unique:
        out_of.setdefault(edge.source, []).append(edge)
        num_incoming[edge.target] = num_incoming.get(edge.target, 0) + 1
    ready = [source for source in out_of if source not in num_incoming]
    ordered: list[Edge] = []
    for name in ready:
        for edge in out_of.get(name, ()):
            ordered.append(edge)
            num_incoming[edge.target] -= 1
            if not num_incoming[edge.target]:
                ready.append(edge.target)
    assert len(ordered) == len(unique), "the lineage graph has a cycle"
    return ordered


def _in_registry(name: str) -> bool:
    return any(name.startswith(f"{kind.value}/") for kind in Kind)


def _batches(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[first : first + _NAMES_PER_QUERY] for first in range(0, len(names), _NAMES_PER_QUERY)]
