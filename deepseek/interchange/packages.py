"""Imports the optional packages that some sources and formats require."""

import importlib
from typing import Any

from common.errors import FailedPrecondition


def require(module: str, purpose: str, *, extra: str = "ingest") -> Any:
    """Imports and returns a module of an optional package.

    Args:
        module: Name of the module, e.g. `pyarrow.parquet`.
        purpose: What requires the package, for the error message, e.g. `Parquet files`.
        extra: Extra of this package that installs it.

    Raises:
        FailedPrecondition: PACKAGE_MISSING.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        message = f"{purpose} require the package {package}; install it: pip install 'deepseek-mesh[{extra}]'"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
