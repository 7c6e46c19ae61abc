"""Numbers that are missing are null in views, also where a file's statistics name no null."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepseemoe.query.database import Run


def test_nan_is_null_and_passes_no_comparison(tmp_path):
    folder = tmp_path / "experts/transcoder/L00-L01"
    folder.mkdir(parents=True)
    contrast = np.arange(100, dtype=np.float32)
    contrast[::4] = np.nan
    pq.write_table(pa.table({"contrast_lo": contrast}), folder / "writes.parquet")
    counts = Run(tmp_path).ask(
        "SELECT count(contrast_lo) AS known, count(*) FILTER (contrast_lo > 0) AS above FROM writes"
    )
    assert counts.to_pylist() == [{"known": 75, "above": 75}]
