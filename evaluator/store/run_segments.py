"""Segments of files before they become those of runs: their pauses, and how they are cut to a period.

A period is the time from `start` on and before `end`; `None`: without a limit on that side.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evaluator.store.engine import Engine, quote

__all__ = ["SegmentRows", "count_inside", "find_pause_s", "give_run"]

_INSIDE = """ts >= coalesce(CAST($start AS TIMESTAMPTZ), '-infinity'::TIMESTAMPTZ)
    AND ts < coalesce(CAST($end AS TIMESTAMPTZ), 'infinity'::TIMESTAMPTZ)"""


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """Rows of a segment that lie in a period, and those that do not. The times are those of the former, if any."""

    inside: int
    outside: int
    failures_outside: int
    first: datetime | None
    last: datetime | None


def count_inside(engine: Engine, path: Path, start: datetime | None, end: datetime | None) -> SegmentRows:
    """Count the rows of a segment within and outside a period."""
    [(inside, outside, failures, first, last)] = engine.execute(
        f"""SELECT
            count(*) FILTER (inside), count(*) FILTER (NOT inside), count(*) FILTER (NOT inside AND failed),
            min(ts) FILTER (inside), max(ts) FILTER (inside)
        FROM (SELECT ts, failed, {_INSIDE} AS inside FROM read_parquet($path))""",
        {"path": str(path), "start": start, "end": end},
    ).fetchall()
    return SegmentRows(inside, outside, failures, first and first.astimezone(UTC), last and last.astimezone(UTC))


def find_pause_s(engine: Engine, path: Path) -> float:
    """Find the longest time between two requests of a segment, to the second."""
    rows = engine.execute(
        """SELECT coalesce(max(second - before), 0) FROM (
            SELECT second, lag(second) OVER (ORDER BY second) AS before
            FROM (SELECT DISTINCT epoch_us(ts) // 1000000 AS second FROM read_parquet(?)))""",
        [str(path)],
    ).fetchall()
    return float(rows[0][0])


def give_run(engine: Engine, path: Path, target: Path, run: str, start: datetime | None, end: datetime | None) -> None:
    """Write the rows of a segment in a period as a segment of a run, which takes the place of the first."""
    staged = target.with_name(target.name + ".again.tmp")
    engine.execute(
        f"""COPY (SELECT * REPLACE (CAST($run AS VARCHAR) AS run) FROM read_parquet($path) WHERE {_INSIDE})
        TO {quote(staged)} (FORMAT parquet)""",
        {"run": run, "path": str(path), "start": start, "end": end},
    )
    path.unlink()
    staged.replace(target)
