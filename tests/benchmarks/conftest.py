"""Imports Typer without its warning, so that the tests of this folder can be collected in any order."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Typer imports names that click has deprecated
    import typer  # noqa: F401
