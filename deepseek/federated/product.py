"""The version of this package, which the coordinator and all nodes of a run must share."""

from importlib.metadata import version


def product_version() -> str:
    """Returns the version of this installation."""
    return version("deepseek-mesh")
