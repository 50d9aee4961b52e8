"""Several files of the same format, read one after the other as one source."""

from collections.abc import Iterator, Mapping

from common.errors import InvalidArgument
from deepseek.data.rejected import Rejected
from deepseek.interchange.source import Blob, Declared, Row, Source


class SeveralSources(Source):
    """Sources that are read one after the other. A source that cannot be read at all costs only its own rows.

    Args:
        sources: The sources by the path of their file, at least one. Files named by columns are looked up in the first
            one, so all must have the same folder.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self.is_typed = all(source.is_typed for source in sources.values())

    def declared(self) -> Declared:
        problem: InvalidArgument | None = None
        for source in self._sources.values():
            try:
                return source.declared()
            except InvalidArgument as error:
                problem = problem or error
        assert problem is not None, "there is at least one source"
        raise problem

    def rows(self) -> Iterator[Row | Rejected]:
        for path, source in self._sources.items():
            try:
                yield from source.rows()
            except InvalidArgument as error:
                yield Rejected.from_error("", path, error)

    def file(self, name: str) -> Blob:
        return next(iter(self._sources.values())).file(name)
