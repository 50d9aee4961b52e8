"""What all tables share. Every row carries its tenant; times are UTC microseconds since the epoch."""

import time
from typing import ClassVar

from sqlalchemy import BigInteger, MetaData
from sqlalchemy.orm import DeclarativeBase

READ_ONLY = "deepseek_read_only"
"""Execution option of connections whose transactions only read."""


class Base(DeclarativeBase):
    """Base of all models.

    An `int` is 64 bits wide. Constraints get their names by one rule, so that a migration can name what it changes.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {int: BigInteger}


def now_us() -> int:
    """Returns the time as UTC microseconds since the epoch."""
    return time.time_ns() // 1000
