"""Exports a model: `python -m deepseek.trainjob.export_main JOB.json`.

This module is only the entry point of the process; `deepseek.trainjob.export` does the work. Before `main` imports slow
modules, it makes sure that the process exits when its parent does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import MeshError
from common.processes import die_with_parent


def main(argv: Sequence[str]) -> int:
    """Executes the export that a job file describes, and returns the exit code."""
    die_with_parent()
    path = Path(argv[0])
    from deepseek.trainjob.export import export
    from deepseek.trainjob.jobfile import report_failure, traced

    try:
        with traced(path, "export"):
            export(path)
    except MeshError as error:
        report_failure(path.parent, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
