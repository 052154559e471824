"""What the runs of a release have recorded so far, counted from their segments: also what has not landed yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluator.records import BASELINE, Run, RunState
from evaluator.segments import segment_paths
from evaluator.store import Store
from evaluator.wording import format_duration

RECENT_S = 10.0
"""The rate is that of this time before the newest request, in seconds."""


@dataclass(frozen=True, slots=True)
class RecordedArm:
    """What one arm of a release has recorded."""

    name: str
    requests: int
    failures: int
    rate_per_s: float
    """Requests a second, of the last RECENT_S, or since the start."""


@dataclass(frozen=True, slots=True)
class _Count:
    """Rows of one segment."""

    arms: Mapping[str, tuple[int, int]]
    """Arm → requests and failures."""
    first_s: float
    """Start of its oldest request, seconds since 1970."""
    last_s: float
    """Start of its newest request."""


def list_running(runs: Sequence[Run]) -> tuple[Run, ...]:
    """List the runs that are still being recorded."""
    return tuple(run for run in runs if run.state is RunState.RUNNING)


def describe_progress(run: Run, now: datetime) -> str:
    """Say how far a run is: `21 s of 45 s`; without a planned end `21 s`; after that, since when it should be over."""
    if run.started is None:
        return "just begun"
    elapsed_s = round(max((now - run.started).total_seconds(), 0.0))
    if run.planned_end is None:
        return format_duration(elapsed_s)
    planned_s = round((run.planned_end - run.started).total_seconds())
    if elapsed_s <= planned_s:
        return f"{format_duration(elapsed_s)} of {format_duration(planned_s)}"
    return f"{format_duration(planned_s)} planned, which were over {format_duration(elapsed_s - planned_s)} ago"


def count_recorded(store: Store, runs: Sequence[Run]) -> tuple[RecordedArm, ...]:
    """Count the requests of runs by arm, from the segments in their folders; a segment never changes, and is read once.

    Empty without segments. One that cannot be read is left out: landing it names the reason.
    """
    counts: list[_Count] = []
    for run in runs:
        for path in segment_paths(store.data.segment_folder(run)):
            with suppress(OSError, pa.ArrowException):
                counts += _count(path)
    newest_s = max((count.last_s for count in counts), default=0.0)
    recent = [count for count in counts if newest_s - count.last_s < RECENT_S]
    recent_s = max(newest_s - min((count.first_s for count in recent), default=newest_s), 1.0)
    names = sorted({arm for count in counts for arm in count.arms}, key=lambda arm: (arm != BASELINE, arm))
    return tuple(
        RecordedArm(
            name,
            requests=sum(count.arms.get(name, (0, 0))[0] for count in counts),
            failures=sum(count.arms.get(name, (0, 0))[1] for count in counts),
            rate_per_s=sum(count.arms.get(name, (0, 0))[0] for count in recent) / recent_s,
        )
        for name in names
    )


@lru_cache(maxsize=100_000)
def _count(path: Path) -> tuple[_Count, ...]:
    """Count the rows of a segment; empty without rows. Raises OSError and ArrowException."""
    rows = pq.read_table(path, columns=["arm", "failed", "ts"])
    if not len(rows):
        return ()
    rows = rows.set_column(0, "arm", pc.cast(rows["arm"], pa.string()))
    counted = rows.group_by("arm").aggregate([("failed", "count"), ("failed", "sum")]).to_pylist()
    times = pc.min_max(rows["ts"]).as_py()
    arms = {row["arm"]: (row["failed_count"], row["failed_sum"]) for row in counted}
    return (_Count(arms, times["min"].timestamp(), times["max"].timestamp()),)
