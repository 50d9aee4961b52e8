"""Lets a test of this folder import the command line, whichever test is collected first."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Typer imports names that click has deprecated
    import typer  # noqa: F401
