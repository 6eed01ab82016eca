"""A column of a parquet file is read in bounded memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.errors import UsageError
from runtime.jobs.parquet import count_rows, read_column

ROWS, TEXT_BYTES = 16_384, 1024


@pytest.mark.parametrize("group_rows", [256, ROWS], ids=["many row groups", "one row group"])
def test_bytes_that_were_read_are_not_kept(group_rows: int, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [f"{row:{TEXT_BYTES}}" for row in range(ROWS)]})
    pq.write_table(table, path, row_group_size=group_rows, compression="none", use_dictionary=False)
    assert path.stat().st_size > ROWS * TEXT_BYTES
    del table
    before, most = pa.total_allocated_bytes(), 0
    for row, source in enumerate(read_column(str(path), "text", "text")):
        assert source.item == f"{row:{TEXT_BYTES}}"
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < ROWS * TEXT_BYTES // 4


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(UsageError, match=r"t\.parquet has 2 columns 'text'; rename all but one"):
        count_rows(str(path), "text", "text")
