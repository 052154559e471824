"""The time of a panel: which bucket of a run is the begin of a grid, and what is counted in the buckets of a scope."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.faults.grid import FaultGrid
from evaluator.faults.onset import Onset
from evaluator.faults.scanning import Scope
from evaluator.records import BLOCK_BUCKETS, FaultOnset
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.shaping.blocks import ALIGNED
from evaluator.stats.shaping.index import rows_of_each


class FaultClock:
    """The buckets of a candidate's panel, counted from the first judged block of each run."""

    def __init__(self, requests: RequestPairs, arm: str) -> None:
        """Find the first bucket of each run: of the panel (at the begin of a block), and of all that was recorded."""
        self.cells, self.panel = requests.cells, requests.panels[arm]
        self.arm_code = self.cells.arms.index(arm)
        moments, panel = self.cells.moments, self.panel
        self.runs = panel.runs
        self.first_judged = np.zeros(len(self.cells.runs), dtype=np.int64)
        self.first_recorded = np.zeros(len(self.cells.runs), dtype=np.int64)
        for run, rows in rows_of_each(moments.run):
            if run not in self.runs:
                continue
            recorded = int(moments.bucket[rows].min())
            # A panel counts its buckets from a multiple of `ALIGNED`. It begins with or after the warm-up, and by less
            # than so many buckets later.
            warm = requests.warm_up.first_bucket.get(run, 0) // BLOCK_BUCKETS * BLOCK_BUCKETS
            offset = int(panel.offset[panel.run == run].min())
            first = max(recorded, warm)
            first += (offset - first) % ALIGNED
            self.first_judged[run] = first - offset % BLOCK_BUCKETS
            self.first_recorded[run] = recorded

    def count(self, scope: Scope, grid: FaultGrid) -> tuple[FloatArray, FloatArray]:
        """Count requests and failures of a scope in each bucket since the begin of the grid; both (buckets,)."""
        moments = self.cells.moments
        # Endpoints that the panel lacks are those that were pooled: they belong to its pool, which is not named.
        pooled = _choose_unknown(self.cells.endpoints, grid.endpoints, scope.endpoints)
        endpoint_chosen = _choose_by_name(self.cells.endpoints, grid.endpoints, scope.endpoints) | pooled
        instance_chosen = _choose_by_name(self.cells.instances, grid.instances, scope.instances)
        buckets = grid.slots * (grid.slot_s // self.panel.bucket_s)
        # One after the other, because an endpoint is a small part of the rows.
        rows = np.flatnonzero(endpoint_chosen[moments.endpoint])
        rows = rows[(moments.arm[rows] == self.arm_code) & instance_chosen[moments.instance[rows]]]
        since = moments.bucket[rows] - self.first_judged[moments.run[rows]]
        is_judged = (since >= 0) & (since < buckets)
        rows, since = rows[is_judged], since[is_judged]
        n, failures = (
            np.bincount(since, weights=values[rows], minlength=buckets).astype(float)
            for values in (moments.n, moments.failures)
        )
        used = int(np.flatnonzero(n).max(initial=0)) + 1
        return n[:used], failures[:used]

    def date(self, onset: Onset) -> FaultOnset:
        """Turn an onset, in seconds since the begin of the grid, into seconds since the start of the run and a time."""
        first = int(self.runs[0])
        start_s = float(self.first_judged[first]) * self.panel.bucket_s
        warm_up_s = float(self.first_judged[first] - self.first_recorded[first]) * self.panel.bucket_s

        def count(seconds: float | None) -> float | None:
            """Count from the start of the run."""
            return None if seconds is None else float(max(round(seconds + warm_up_s), 0))

        def date(seconds: float | None) -> datetime | None:
            """Return the time, if there is one run."""
            if seconds is None or self.runs.size > 1:
                return None
            return datetime.fromtimestamp(start_s + round(seconds), UTC)

        named_s = onset.elapsed_s if onset.is_near else None
        return FaultOnset(
            onset.kind,
            elapsed_s=count(named_s),
            earliest_s=count(onset.earliest_s),
            latest_s=count(onset.latest_s),
            since=date(named_s),
            earliest=date(onset.earliest_s),
            latest=date(onset.latest_s),
        )


def _choose_by_name(names: tuple[str, ...], grid_names: tuple[str, ...], chosen: BoolArray) -> BoolArray:
    """Return which of `names` are chosen, given the names of a grid and which of these are chosen."""
    kept = {name for name, is_chosen in zip(grid_names, chosen, strict=True) if is_chosen}
    return np.array([name in kept for name in names], dtype=bool)


def _choose_unknown(names: tuple[str, ...], grid_names: tuple[str, ...], chosen: BoolArray) -> BoolArray:
    """Return which of `names` a grid lacks, if all of its names are chosen; else none."""
    known = set(grid_names)
    return np.array([bool(chosen.all()) and name not in known for name in names], dtype=bool)
