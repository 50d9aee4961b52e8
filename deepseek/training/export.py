"""Makes a model version's files: `python -m deepseek.training.export JOB.json`.

The program of an export process, nothing else: it dies with its parent before anything slow is imported. The work is
`deepseek.training.packaging`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import MeshError
from common.processes import die_with_parent


def main(argv: Sequence[str]) -> int:
    """Carries out the job file's export; returns the exit code."""
    die_with_parent()
    path = Path(argv[0])
    from deepseek.training.jobfile import report_failure, traced
    from deepseek.training.packaging import package

    try:
        with traced(path, "export"):
            package(path)
    except MeshError as error:
        report_failure(path.parent, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
