"""Removes this machine's paths from messages to remote callers, because paths reveal how the server is set up."""

import os
import re

_ABSOLUTE = re.compile(
    r"""(?P<quote>['"`])(?P<quoted>/+[^/\s][^'"`\n]*)(?P=quote)"""
    r"""|(?<![\w.~/-])(?<!\w:(?=//[^/]))(?P<plain>/+[^/\s'"`<>|;,:()\[\]{}]+[^\s'"`<>|;,:()\[\]{}]*)"""
)
_SHOWN = "<path>"


def without_paths(text: str) -> str:
    """Returns a text in which `<path>` replaces each absolute path of this machine's file system.

    A path whose first part is not an entry of the root directory, e.g. the path of a gRPC method, is kept.

    >>> without_paths("no space left for /tmp/upload; see '/deepseek.job.v1.JobService/GetJob'")
    "no space left for <path>; see '/deepseek.job.v1.JobService/GetJob'"
    """
    return _ABSOLUTE.sub(_replaced, text) if "/" in text else text


def _replaced(match: re.Match[str]) -> str:
    if match["quoted"]:
        path, before, after = match["quoted"], match["quote"], match["quote"]
    else:
        path = match["plain"].rstrip(".!?")
        before, after = "", match["plain"][len(path) :]
    first = path.lstrip("/").partition("/")[0]
    return f"{before}{_SHOWN}{after}" if first and _exists(f"/{first}") else match[0]


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL
        return False
