"""Files of a folder, found by the names that people write.

One name may be composed (`é`) on one machine and decomposed (`e` and an accent) on another: macOS, archives and
keyboards differ. The file in the spelling that was written comes first; else the one file in another spelling is taken.
Nothing outside the folder is found.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from common.errors import InvalidArgument


class Folder:
    """A folder as it was when its files were first looked for.

    Args:
        path: Where it is.

    Attributes:
        path: The same, without links.

    Raises:
        FileNotFoundError: There is none.
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
            name: Its path within the folder, `/` between folders, in any normalization form. Space around it is left
                out unless it belongs to the file's name.

        Raises:
            InvalidArgument: BAD_FILE_NAME if the name leads out of the folder; FILE_NOT_FOUND, also if it is there in
                several other spellings. The message follows `<file>:<line>`.
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
        """The path of a file in the spelling that is there; as it was written if there is none."""
        if os.path.exists(self.path / relative):
            return self.path / relative
        path = self.path
        for part in relative.parts:
            found = self._spellings(path).get(unicodedata.normalize("NFC", part), [part])
            if len(found) > 1 and part not in found:
                known = ", ".join(map(ascii, found))
                message = f"names the file {str(relative)[:80]!a}, which is there in other spellings: {known}"
                raise InvalidArgument("FILE_NOT_FOUND", f"{message}; rename all but one of them")
            path /= part if part in found else found[0]
        return path

    def _hint(self, missing: Path) -> str:
        """What is there instead of a file: a name that looks alike."""
        alike = [name for name in self._names(missing.parent) if _visible(name) == _visible(missing.name)]
        return f"; did you mean {alike[0]!a}?" if alike else ""


def _names(folder: Path) -> Sequence[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _spellings(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by their composed form."""
    found: dict[str, list[str]] = {}
    for name in _names(folder):
        found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return found


def _visible(name: str) -> str:
    """What of a name can be seen, whatever the case: no spaces of any kind, no joiners."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if unicodedata.category(character) not in ("Cf", "Zs"))
