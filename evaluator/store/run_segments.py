"""Segments of files before they become those of runs: their pauses, and how they are cut to a period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evaluator.store.engine import Engine, quote

__all__ = ["SegmentRows", "TimeLimits", "count_inside", "find_pause_s", "give_run"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The time from `start` on and before `end`; `None`: without a limit on that side."""

    start: datetime | None = None
    end: datetime | None = None

    def express(self) -> str:
        """Write it as a condition of SQL on `ts`."""
        limits = [f"epoch_us(ts) {sign} {_micros(at)}" for sign, at in ((">=", self.start), ("<", self.end)) if at]
        return " AND ".join(limits) or "true"

    def hold(self, first: datetime, last: datetime) -> bool:
        """Tell whether all of a time lies within them."""
        return (self.start is None or self.start <= first) and (self.end is None or last < self.end)


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """Rows of a segment that lie in a period, and those that do not. The times are those of the former, if any."""

    inside: int
    outside: int
    failures_outside: int
    first: datetime | None
    last: datetime | None


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def count_inside(engine: Engine, path: Path, limits: TimeLimits) -> SegmentRows:
    """Count the rows of a segment within and beyond limits."""
    inside = limits.express()
    row = engine.execute(
        f"""SELECT
            count(*) FILTER ({inside}), count(*) FILTER (NOT ({inside})), count(*) FILTER (NOT ({inside}) AND failed),
            min(ts) FILTER ({inside}), max(ts) FILTER ({inside})
        FROM read_parquet(?)""",
        [str(path)],
    ).fetchall()[0]
    first, last = (moment.astimezone(UTC) if moment else None for moment in row[3:])
    return SegmentRows(int(row[0]), int(row[1]), int(row[2]), first, last)


def find_pause_s(engine: Engine, path: Path) -> float:
    """Find the longest time between two requests of a segment, to the second."""
    rows = engine.execute(
        """SELECT coalesce(max(second - before), 0) FROM (
            SELECT second, lag(second) OVER (ORDER BY second) AS before
            FROM (SELECT DISTINCT epoch_us(ts) // 1000000 AS second FROM read_parquet(?)))""",
        [str(path)],
    ).fetchall()
    return float(rows[0][0])


def give_run(engine: Engine, path: Path, target: Path, run: str, limits: TimeLimits) -> None:
    """Write the rows of a segment in a period as a segment of a run, which takes the place of the first."""
    staged = target.with_name(target.name + ".again.tmp")
    engine.execute(
        f"COPY (SELECT * REPLACE ({quote(run)} AS run) FROM read_parquet({quote(str(path))}) WHERE {limits.express()})"
        f" TO {quote(str(staged))} (FORMAT parquet)"
    )
    path.unlink()
    staged.replace(target)
