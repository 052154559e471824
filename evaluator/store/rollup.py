"""The roll-up: request rows become cells. The one place where that is said, in portable SQL over Parquet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evaluator.records import BLOCK_BUCKETS
from evaluator.store.engine import Engine, quote

__all__ = ["CELL_TABLES", "HIGHEST_MS", "find_grid_us", "roll_up"]

_ROWS = """
CREATE OR REPLACE TEMP VIEW request_rows AS
SELECT
    arm, endpoint, coalesce(nullif(instance, ''), arm) AS instance,
    epoch_us(ts) // ({bucket_s} * 1000000) AS bucket,
    CAST(round(response_time_ms * 1000) AS BIGINT) AS us,
    response_bytes, status_code, failed, exception, user_count
FROM read_parquet({paths})
WHERE response_time_ms BETWEEN 0 AND {highest_ms}
"""

HIGHEST_MS = 1e12
"""Longest time that counts as one; NaN and infinity are above it."""

_BIN = "CAST(CASE WHEN us < 1 THEN 0 ELSE floor(115 * log10(us)) END AS SMALLINT)"

CELL_TABLES = {
    "moments": """
        SELECT
            arm, endpoint, instance, bucket,
            count(*) AS n,
            count(*) FILTER (failed) AS failures,
            coalesce(sum(us) FILTER (NOT failed), 0) AS sum_us,
            coalesce(sum(us * us) FILTER (NOT failed), 0) AS sum_sq_us,
            min(us) FILTER (NOT failed) AS min_us,
            max(us) FILTER (NOT failed) AS max_us,
            coalesce(sum(response_bytes) FILTER (NOT failed), 0) AS bytes,
            coalesce(sum(CAST(response_bytes AS HUGEINT) * response_bytes) FILTER (NOT failed), 0) AS bytes_sq
        FROM request_rows GROUP BY ALL""",
    "bins": f"""
        SELECT arm, endpoint, bucket, {_BIN} AS bin, count(*) AS n
        FROM request_rows WHERE NOT failed GROUP BY ALL""",
    "instance_bins": f"""
        SELECT arm, endpoint, instance, bucket // {BLOCK_BUCKETS} AS block, {_BIN} AS bin, count(*) AS n
        FROM request_rows WHERE NOT failed GROUP BY ALL""",
    "loads": """
        SELECT arm, bucket, max(user_count) AS users
        FROM request_rows WHERE user_count IS NOT NULL GROUP BY ALL""",
    "failure_kinds": """
        SELECT
            arm, endpoint, coalesce(status_code, -1) AS status, coalesce(exception, '') AS exception, count(*) AS n
        FROM request_rows WHERE failed GROUP BY ALL""",
}
"""Cells by name: keys as text, then what adds up (loads: what is the highest)."""


def roll_up(engine: Engine, paths: Sequence[Path], bucket_s: int, part: str = "") -> None:
    """Roll the rows of one run's segments up into temporary tables `cells_<name><part>`, named in CELL_TABLES.

    Rows whose time is NaN, negative or infinite are left out: compare the count with that of the segments.
    """
    listed = "[" + ", ".join(quote(str(path)) for path in paths) + "]"
    engine.execute(_ROWS.format(bucket_s=bucket_s, paths=listed, highest_ms=HIGHEST_MS))
    for name, query in CELL_TABLES.items():
        engine.execute(f"CREATE OR REPLACE TEMP TABLE cells_{name}{part} AS {query}")


def find_grid_us(engine: Engine, part: str = "") -> int:
    """Find the largest step (µs) of which all times just rolled up are multiples; 0 where there is no time.

    Extremes and sums bound it from above at no cost; only where they leave a step above 1 are the rows read again.
    """
    rows = engine.execute(f"SELECT min_us, max_us, sum_us FROM cells_moments{part} WHERE n > failures").fetchall()
    bound = math.gcd(*(int(value) for row in rows for value in row))
    if bound <= 1:
        return bound
    rest = engine.execute(f"SELECT DISTINCT us % {bound} FROM request_rows WHERE NOT failed").fetchall()
    return math.gcd(bound, *(int(row[0]) for row in rest))
