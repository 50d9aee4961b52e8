"""Checks an imported model: `python -m deepseek.trainjob.import_main JOB.json`.

This module is only the entry point of the process; `deepseek.trainjob.onnx_import` does the work. Before `main` imports
slow modules, it makes sure that the process ends when its parent ends.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import MeshError, ResourceExhausted
from common.processes import die_with_parent


def main(argv: Sequence[str]) -> int:
    """Checks the model that a job file describes, and returns the exit code."""
    die_with_parent()
    path = Path(argv[0])
    from deepseek.trainjob.jobfile import report_failure, traced
    from deepseek.trainjob.onnx_import import import_model, limit_memory

    try:
        limit_memory(path)
        with traced(path, "import"):
            import_model(path)
    except MeshError as error:
        report_failure(path.parent, error)
        return 1
    except MemoryError:
        message = "the model needs more memory than an import may use; it is too large or damaged"
        report_failure(path.parent, ResourceExhausted("OUT_OF_MEMORY", message, field="file"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
