"""Checks of the arguments of models' factories."""

from collections.abc import Mapping

from common.errors import InvalidArgument


def check_positive(arguments: Mapping[str, int]) -> None:
    """Checks that every argument is at least 1.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    for name, value in arguments.items():
        if value < 1:
            raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be at least 1", field=name)


def check_dropout(dropout: float) -> None:
    """Checks that a dropout probability is at least 0 and below 1.

    Raises:
        InvalidArgument: BAD_VALUE at `dropout`.
    """
    if not 0.0 <= dropout < 1.0:
        raise InvalidArgument("BAD_VALUE", f"dropout is {dropout}; it must be at least 0 and below 1", field="dropout")
