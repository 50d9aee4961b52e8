"""Starts services as forks of itself, which share its imports: `common.fork_server fresh|migrated PADDING`.

Importing SQLAlchemy, gRPC and pydantic takes most of a service's start-up time; forks share one import and its memory.
They are created before any thread, channel or database exists. `ps` shows each fork with its service's command line.
`common.fork_client` runs this program; `fresh` means that the services will migrate databases. The first line of
standard input is a JSON list of objects with `argv` and `log`. The list of process ids is written to standard output.
Each fork then reads one byte of standard input before it runs its service, and exits if the input ends first.
"""

import ctypes
import gc
import json
import os
import runpy
import sys
from pathlib import Path

# Imported so that the forks need not import them.
import sqlalchemy.dialects.sqlite  # noqa: F401

import common.launch
import common.server.process  # noqa: F401

_ARGUMENTS_START, _ARGUMENTS_END = 45, 46
"""Indexes of the fields of /proc/self/stat that locate the command line in memory (proc_pid_stat(5)). They are counted
from the field after the process name."""


def main() -> None:
    """Forks the programs, and then exits."""
    if sys.argv[1] == "fresh":
        import alembic.operations
        import alembic.runtime.migration
        import alembic.script  # noqa: F401
    programs = json.loads(_read_line())
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has only the thread that made it"
    gc.freeze()  # otherwise the first collection in a fork copies the pages of all objects
    pids = []
    for program in programs:
        pid = os.fork()
        if pid == 0:
            _become(program["argv"], Path(program["log"]))
        pids.append(pid)
    print(json.dumps(pids), flush=True)
    os._exit(0)  # freeing the imported modules would take longer than the forks


def _read_line() -> bytes:
    """Returns the first line of standard input. Leaves the bytes after it unread, because they are for the forks."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit("the request is incomplete")
        line += byte
    return line


def _become(argv: list[str], log: Path) -> None:
    """Runs a program of the form `python -P -m MODULE ...` in this process, and then exits."""
    os.setsid()
    _replace(1, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    os.dup2(1, 2)
    if not os.read(0, 1):
        os._exit(0)  # the client ended before it recorded this process
    _replace(0, os.open(os.devnull, os.O_RDONLY))
    if not _show_command_line(argv):
        os.execv(argv[0], argv)
    module = argv[argv.index("-m") + 1]
    sys.argv = [module, *argv[argv.index("-m") + 2 :]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


def _replace(target: int, descriptor: int) -> None:
    os.dup2(descriptor, target)
    os.close(descriptor)


def _show_command_line(argv: list[str]) -> bool:
    """Makes `ps` and /proc show a command line in place of this program's own; returns whether this succeeded.

    The padding argument makes this program's own command line long enough.
    """
    text = b"".join(os.fsencode(argument) + b"\0" for argument in argv)
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[_ARGUMENTS_START]), int(fields[_ARGUMENTS_END])
    if end - start < len(text):
        return False
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    return Path("/proc/self/cmdline").read_bytes().startswith(text)


if __name__ == "__main__":
    main()
