"""Looks up files in a folder by name, regardless of the name's Unicode normalization form.

The same name may be composed (`é`) on one machine and decomposed (`e` followed by an accent) on another, because file
systems, archives and keyboards produce different forms. A file whose name matches exactly takes precedence. If there is
no such file, and exactly one file's name matches in another form, that file is used. Files outside the folder are never
used.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from common.errors import InvalidArgument


class Folder:
    """A folder in which files are looked up. Directory listings are cached when they are first needed.

    Args:
        path: Path of the folder.

    Attributes:
        path: Path of the folder, with symbolic links resolved.

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
        """Returns the path of the file with the given name, with symbolic links resolved.

        Args:
            name: Path of the file relative to the folder, with `/` as the separator, in any normalization form. If
                there is no such file, surrounding whitespace is ignored.

        Raises:
            InvalidArgument: BAD_FILE_NAME if the name leads out of the folder; FILE_NOT_FOUND if no file matches, or if
                none matches exactly and several match in other normalization forms. The message has no subject: the
                caller is expected to prepend the place where the name occurs, as `<file>:<line>`.
        """
        for written in dict.fromkeys((name, name.strip())):
            relative = PurePosixPath(written)
            if relative.is_absolute() or ".." in relative.parts or "\\" in written or "\0" in written:
                message = f"names the file {name[:80]!r}; only files inside {self.path} are read"
                raise InvalidArgument("BAD_FILE_NAME", message)
            path = self._spelled(relative)
            resolved = path.resolve()
            if not resolved.is_relative_to(self.path):
                message = f"names the file {name[:80]!r}, which is a link to a file outside {self.path}"
                raise InvalidArgument("BAD_FILE_NAME", message)
            if os.path.isfile(resolved):  # returns False for a name that is too long, whereas Path.is_file raises
                return resolved
        message = f"names the file {name[:80]!r}, which is not in {self.path}{self._hint(path)}"
        raise InvalidArgument("FILE_NOT_FOUND", message)

    def _spelled(self, relative: PurePosixPath) -> Path:
        """Returns the path of a file as it is spelled on disk. Path components that do not exist remain unchanged."""
        if os.path.exists(self.path / relative):
            return self.path / relative
        path = self.path
        for part in relative.parts:
            found = self._spellings(path).get(unicodedata.normalize("NFC", part), [part])
            if len(found) > 1 and part not in found:
                known = ", ".join(map(ascii, found))
                what = f"names the file {str(relative)[:80]!a}"
                message = f"{what}, which exists only in other Unicode forms: {known}; rename all but one of them"
                raise InvalidArgument("FILE_NOT_FOUND", message)
            path /= part if part in found else found[0]
        return path

    def _hint(self, missing: Path) -> str:
        """Returns a suggestion of a similar file name, for the end of an error message; empty if no name is similar."""
        alike = [name for name in self._names(missing.parent) if _visible(name) == _visible(missing.name)]
        return f"; did you mean {alike[0]!a}?" if alike else ""


def _names(folder: Path) -> Sequence[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _spellings(folder: Path) -> dict[str, list[str]]:
    """Returns the names of the files in a folder as they are spelled on disk, grouped by composed form (NFC)."""
    found: dict[str, list[str]] = {}
    for name in _names(folder):
        found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return found


def _visible(name: str) -> str:
    """Returns a name in lower case without spaces and invisible characters such as joiners."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if unicodedata.category(character) not in ("Cf", "Zs"))
