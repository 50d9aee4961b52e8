"""One sample of a data set, as clients, ingest and trainer pass it around. Needs no Parquet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One sample of a data set.

    Attributes:
        key: Unique within the data set; 1 to 255 printable characters.
        split: Split it belongs to.
        values: For each field of the schema its value (bytes, str, int or float), or a list of them if repeated.
    """

    key: str
    split: str
    values: Mapping[str, Any]
