"""Which version came of what: a graph of resource names, written with a version and never changed.

An edge runs from what was used to what came of it. A source in this registry must exist before the version that
names it and a version's sources never change, so the graph has no cycles. Sources that others keep, e.g. `runs/<id>`,
are taken by name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database
from common.errors import InvalidArgument, NotFound, ResourceExhausted
from services.registry.resolve import find_version
from services.registry.resources import (
    Kind,
    VersionReference,
    parse_version,
    parse_version_reference,
    version_name,
)
from services.registry.tables import LineageRow

DEFAULT_DEPTH = 10
MAX_DEPTH = 100
MAX_EDGES = 10_000

_SEGMENT = r"[a-z0-9][a-z0-9._-]{0,62}"
_RESOURCE = re.compile(rf"{_SEGMENT}/{_SEGMENT}(/{_SEGMENT}/{_SEGMENT})*")
_NAMES_PER_QUERY = 500


@dataclass(frozen=True)
class Edge:
    """`target` was made from `source`; both are resource names."""

    source: str
    target: str


class Lineage:
    """Walks over the lineage of all tenants. Safe to share between threads.

    Args:
        database: Migrated; borrowed, not closed.
        max_edges: A walk that finds more in one direction is refused: it would take long and fill the answer.
    """

    def __init__(self, database: Database, *, max_edges: int = MAX_EDGES) -> None:
        self._database = database
        self._max_edges = max_edges

    def walk(self, tenant: str, name: str, depth: int) -> list[Edge]:
        """Everything a resource was made from and everything that came of it.

        Args:
            tenant: Owner.
            name: Where to start; versions may be named as the latest or by alias, too.
            depth: Edges to follow in each direction; 0 means 10.

        Returns:
            Edges without repeats, from sources to targets: an edge into a resource stands before any edge out of it.

        Raises:
            InvalidArgument: BAD_NAME or BAD_VALUE.
            NotFound: The version does not exist, or nothing names the resource (RESOURCE_NOT_FOUND).
            ResourceExhausted: TOO_MANY_EDGES beyond `max_edges`.
        """
        if not 0 <= depth <= MAX_DEPTH:
            raise InvalidArgument("BAD_VALUE", f"depth must be 0 to {MAX_DEPTH}", field="depth")
        with self._database.snapshot() as session:
            start = self._start(session, tenant, name)
            up = self._follow(session, tenant, start, depth or DEFAULT_DEPTH, up=True)
            down = self._follow(session, tenant, start, depth or DEFAULT_DEPTH, up=False)
            if not up and not down and not _in_registry(start):
                raise NotFound("RESOURCE_NOT_FOUND", f"no version was made from {name!r}", field="name")
        return _in_order([*up, *down])

    def _start(self, session: Session, tenant: str, name: str) -> str:
        if not _in_registry(name):
            _check_resource(name, field="name")
            return name
        reference = parse_version_reference(name, Kind.of(name, field="name"), field="name")
        row = find_version(session, tenant, reference, field="name")
        return version_name(reference.kind, row.series_id, row.number)

    def _follow(self, session: Session, tenant: str, start: str, depth: int, *, up: bool) -> list[Edge]:
        """Edges within `depth` steps in one direction, a breadth-first walk that visits every resource once."""
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
                        f"more than {self._max_edges} edges lie within this depth; lower it",
                        field="depth",
                    )
            frontier = [name for name in reached if name not in seen]
            seen.update(frontier)
            if not frontier:
                break
        return edges


def record(session: Session, tenant: str, target: str, sources: Sequence[str]) -> None:
    """Write the sources of a version that this transaction makes.

    Args:
        session: The transaction.
        tenant: Owner.
        target: Name of the new version.
        sources: Resource names in the caller's order; a repeated one counts once.

    Raises:
        InvalidArgument: BAD_NAME for what is no resource name, or not a version of this registry by its number.
        NotFound: A source in this registry does not exist.
    """
    for position, source in enumerate(sources):
        field = f"sources[{position}]"
        if _in_registry(source):
            kind, series_id, number = parse_version(source, field=field)
            find_version(session, tenant, VersionReference(kind, series_id, number=number), field=field)
        else:
            _check_resource(source, field=field)
    session.add_all(
        LineageRow(tenant=tenant, target=target, source=source, position=position)
        for position, source in enumerate(dict.fromkeys(sources))
    )


def sources_of(session: Session, tenant: str, targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each of the named versions was made from, in the order given when it was made."""
    found: dict[str, list[str]] = {}
    for names in _batches(targets):
        query = select(LineageRow).where(LineageRow.tenant == tenant, LineageRow.target.in_(names))
        for row in session.scalars(query.order_by(LineageRow.position)):
            found.setdefault(row.target, []).append(row.source)
    return {target: tuple(sources) for target, sources in found.items()}


def _in_order(edges: Sequence[Edge]) -> list[Edge]:
    """The edges in topological order of their sources (Kahn's algorithm), without repeats."""
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


def _check_resource(name: str, *, field: str) -> None:
    if not _RESOURCE.fullmatch(name):
        raise InvalidArgument("BAD_NAME", f"{name!r} is no resource name such as 'runs/<id>'", field=field)


def _batches(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[first : first + _NAMES_PER_QUERY] for first in range(0, len(names), _NAMES_PER_QUERY)]
