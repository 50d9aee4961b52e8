"""A tree of folders and files from which a source reads, and the tree on the local disk.

No file outside the stated root is ever read: names with `..` and links that lead out of the root are rejected.
"""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from common.errors import InvalidArgument
from deepseek.data.folder import Folder
from deepseek.data.rejected import Rejected
from deepseek.interchange.kinds import kind_of_name
from deepseek.interchange.source import MAX_FILE_BYTES, Blob

MAX_PATHS_PER_FOLDER = 64
"""Maximum number of paths by which links may lead to the same folder. Folders that link to each other n levels deep
would otherwise have 2^n paths."""


@dataclass(frozen=True)
class Listing:
    """The content of one folder, sorted by name.

    Attributes:
        folders: Paths of the subfolders, relative to the top of the tree.
        files: The files.
        rejected: Entries that cannot be read, e.g. links that lead out of the root.
    """

    folders: Sequence[str]
    files: Sequence[Blob]
    rejected: Sequence[Rejected] = ()


class Tree(ABC):
    """A tree of files. Paths are relative to its top, with `/` as the separator; the path of the top is empty."""

    @abstractmethod
    def list(self, folder: str = "") -> Listing:
        """Returns the content of a folder, without hidden entries that are not media files."""

    @abstractmethod
    def file(self, name: str) -> Blob:
        """Returns a file by the name that a table states.

        Raises:
            InvalidArgument: BAD_FILE_NAME if the name leads out of the root; FILE_NOT_FOUND.
        """

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Opens a file for reading. The result can seek."""

    def walk(self, folder: str = "") -> Iterator[Listing]:
        """Yields the listing of a folder, followed by those of all folders below it."""
        listing = self.list(folder)
        yield listing
        for below in listing.folders:
            yield from self.walk(below)


class LocalTree(Tree):
    """A folder on the local disk.

    Args:
        folder: Top of the tree.
        root: Folder outside which nothing is read; contains `folder`. By default, `folder` itself.
        follow_links: Whether links to files and folders inside the root are followed. Otherwise, they are rejected.

    Raises:
        InvalidArgument: BAD_SOURCE if `folder` does not exist or is not inside `root`.
    """

    def __init__(self, folder: Path, *, root: Path | None = None, follow_links: bool = False) -> None:
        self._top, self._root = Path(os.path.abspath(folder)), (root or folder).resolve()
        self._prefix = os.path.join(self._top, "")
        self._follow_links = follow_links
        if not self._top.is_dir():
            raise InvalidArgument("BAD_SOURCE", f"there is no folder {folder}", field="source")
        if not self._top.resolve().is_relative_to(self._root):
            message = f"{folder} is not inside the root {self._root}; state a folder that contains it with --root"
            raise InvalidArgument("BAD_SOURCE", message, field="root")
        self._files: Folder | None = None
        self._paths: dict[str, set[str]] = {}

    def list(self, folder: str = "") -> Listing:
        """See `Tree.list`.

        Raises:
            InvalidArgument: TOO_MANY_LINKS if links lead to the folder by more than MAX_PATHS_PER_FOLDER paths.
        """
        parent, folders, files, rejected = self._top / folder, list[str](), list[Blob](), list[Rejected]()
        above = self._above(folder) if self._follow_links else frozenset()
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if is_hidden(entry.name):
                continue
            if problem := self._problem(entry, parent, above):
                rejected.append(Rejected(path, path, "BAD_FILE_NAME", f"{path} {problem}"))
            elif entry.is_dir():
                folders.append(path)
            else:
                size = entry.stat().st_size
                files.append(Blob(path, size, partial(_read, self._prefix + path, size)))
        return Listing(folders, files, rejected)

    def _above(self, folder: str) -> frozenset[str]:
        """Returns the real paths of a folder and of the folders that led to it."""
        paths = self._paths.setdefault(os.path.realpath(self._top / folder), set())
        paths.add(folder)
        if len(paths) > MAX_PATHS_PER_FOLDER:
            message = f"links lead to the same folder by more than {MAX_PATHS_PER_FOLDER} paths, e.g. {folder}"
            raise InvalidArgument("TOO_MANY_LINKS", f"{message}; remove some of these links", field="source")
        parts = folder.split("/")
        return frozenset(os.path.realpath(self._top.joinpath(*parts[:count])) for count in range(len(parts) + 1))

    def _problem(self, entry: "os.DirEntry[str]", parent: Path, above: frozenset[str]) -> str:
        """Returns why an entry must not be read; empty if it may be."""
        if entry.is_symlink():
            if not self._follow_links:
                return "is a link; pass --follow-links to follow links inside the root"
            target = Path(os.path.realpath(entry.path))
            if not target.is_relative_to(self._root):
                return f"is a link to a place outside {self._root}; state a root that contains it with --root"
            if target == parent.resolve() or target in parent.resolve().parents:
                return "is a link to a folder that contains it"
        if above and os.path.realpath(entry.path) in above:
            return "is a folder that contains it, by way of links"
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is not a regular file"

    def file(self, name: str) -> Blob:
        self._files = self._files or Folder(self._root)
        prefix = os.path.relpath(self._top.resolve(), self._root)
        path = self._files.file(name if prefix == "." else f"{prefix}/{name}")
        size = path.stat().st_size
        return Blob(name, size, partial(_read, path, size))

    def open(self, path: str) -> BinaryIO:
        return (self._top / path).open("rb")


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is created by programs for themselves, such as `.DS_Store` or `._1.jpg`."""
    return name.startswith("._") or name in ("__MACOSX", "Thumbs.db") or (name[0] == "." and not kind_of_name(name))


def _read(path: str | Path, size: int) -> bytes:
    """Reads a file, which may have grown beyond the limit since it was listed. A file object would double the time.

    Args:
        path: Path of the file.
        size: Size of the file in bytes when it was listed. It determines the buffer: allocating a buffer of the maximum
            size would take longer than reading the file.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        data = os.read(file, size + 1)
        while len(data) != size and (more := os.read(file, MAX_FILE_BYTES + 1 - len(data))):
            data += more
    finally:
        os.close(file)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument("TOO_LARGE", f"the file has more than {MAX_FILE_BYTES} bytes")
    return data
