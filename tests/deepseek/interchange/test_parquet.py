"""Values of Parquet files that Python cannot represent."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.deepseek.interchange.imports import imported, reasons


@pytest.mark.parametrize("bad", [pa.array([0, 1 << 42], pa.timestamp("s")), pa.array([0, 1 << 30], pa.date32())])
def test_a_time_that_cannot_be_read_costs_only_its_row(tmp_path: Path, bad: pa.Array) -> None:
    pq.write_table(pa.table({"n": [0, 1], "time": bad}), tmp_path / "x.parquet")
    _, samples, rejected = imported(tmp_path / "x.parquet")
    assert [one.values["n"] for one in samples] == [0]
    assert samples[0].values["time"].startswith("1970-01-01")
    assert reasons(rejected) == {"x.parquet:2": "BAD_VALUE"}


def test_nanoseconds_cause_no_unknown_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [0, 1], "time": pa.array([0, 1], pa.timestamp("ns"))}), tmp_path / "x.parquet")
    _, samples, rejected = imported(tmp_path / "x.parquet")
    assert len(samples) + len(rejected) == 2
