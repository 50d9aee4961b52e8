"""The base class of all tables. Every row belongs to a tenant. Times are UTC microseconds since the epoch."""

import time
from typing import ClassVar

from sqlalchemy import BigInteger, MetaData
from sqlalchemy.orm import DeclarativeBase

READ_ONLY = "deepseek_read_only"
"""Name of the execution option that makes a connection's transactions read-only."""


class Base(DeclarativeBase):
    """Base class of all models.

    An `int` column is 64 bits wide. Constraint names follow a fixed convention, so that migrations can refer to them.
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
    """Returns the current time as UTC microseconds since the epoch."""
    return time.time_ns() // 1000
