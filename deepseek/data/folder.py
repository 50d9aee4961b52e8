"""Looks up files of a folder by name, whatever the Unicode normalization form of the name.

A name may be composed (`é`) on one machine and decomposed (`e` and an accent) on another: macOS, archives and keyboards
differ. An exact match comes first; otherwise the only file whose name matches in another form is used. Files outside
the folder are not found.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from common.errors import InvalidArgument


class Folder:
    """A folder, listed once at the first lookup.

    Args:
        path: Path of the folder.

    Attributes:
        path: The path with links resolved.

    Raises:
        FileNotFoundError: The folder does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder {path}")
        self._names = cache(_names)
        self._spellings = cache(_spellings)

    def file(self, name: str) -> Path:
        """Returns the file with a name, links resolved.

        Args:
            name: Path within the folder, with `/` between folders, in any normalization form. Surrounding whitespace
                is ignored unless it belongs to the file's name.

        Raises:
            InvalidArgument: BAD_FILE_NAME if the name leads out of the folder; FILE_NOT_FOUND, also if the name matches
                several files in other normalization forms. The message is to follow `<file>:<line>`.
        """
        for written in dict.fromkeys((name, name.strip())):
            relative = PurePosixPath(written)
            if relative.is_absolute() or ".." in relative.parts or "\\" in written or "\0" in written:
                message = f"names the file {name[:80]!r}; only files inside {self.path} are read"
                raise InvalidArgument("BAD_FILE_NAME", message)
            path = self._spelled(relative)
            resolved = path.resolve()
            if not resolved.is_relative_to(self.path):
                message = f"names the file {name[:80]!r}, a link that leads out of {self.path}"
                raise InvalidArgument("BAD_FILE_NAME", message)
            if os.path.isfile(resolved):  # False for a name that is too long for a file, where Path.is_file raises
                return resolved
        message = f"names the file {name[:80]!r}, which is not in {self.path}{self._hint(path)}"
        raise InvalidArgument("FILE_NOT_FOUND", message)

    def _spelled(self, relative: PurePosixPath) -> Path:
        """The path of a file in the form that exists; unchanged if there is none."""
        if os.path.exists(self.path / relative):
            return self.path / relative
        path = self.path
        for part in relative.parts:
            found = self._spellings(path).get(unicodedata.normalize("NFC", part), [part])
            if len(found) > 1 and part not in found:
                known = ", ".join(map(ascii, found))
                message = f"names the file {str(relative)[:80]!a}, which exists in other Unicode forms: {known}"
                raise InvalidArgument("FILE_NOT_FOUND", f"{message}; rename all but one of them")
            path /= part if part in found else found[0]
        return path

    def _hint(self, missing: Path) -> str:
        """Suggests an existing file whose name looks similar."""
        alike = [name for name in self._names(missing.parent) if _visible(name) == _visible(missing.name)]
        return f"; did you mean {alike[0]!a}?" if alike else ""


def _names(folder: Path) -> Sequence[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _spellings(folder: Path) -> dict[str, list[str]]:
    """The names in a folder, by their composed form."""
    found: dict[str, list[str]] = {}
    for name in _names(folder):
        found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return found


def _visible(name: str) -> str:
    """The visible part of a name in lower case: without spaces of any kind and without joiners."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if unicodedata.category(character) not in ("Cf", "Zs"))
