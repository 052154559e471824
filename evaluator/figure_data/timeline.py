"""What happened when: latency, failures, load and readings of every arm on one axis of load time.

Runs follow each other without the time between them; within a run, times without requests are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import MOST_POINTS, plain, round_all
from evaluator.records import Cells
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.distribution import Distribution
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.index import distinct

POINTS = 120
"""Points per line, where there are few runs: enough for a wide screen."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Load time in slots of `slot_s` seconds: run by run, each from a slot of its own."""

    bucket_s: int
    merged: int
    """Buckets in a slot."""
    first_bucket: dict[int, int]
    """First bucket of each run, by its code."""
    first_slot: dict[int, int]
    slots: int

    @property
    def slot_s(self) -> int:
        """Seconds in a slot."""
        return self.bucket_s * self.merged

    def find(self, run: IntArray, bucket: IntArray) -> IntArray:
        """Slot of each bucket of a run; -1 where it is in none."""
        size = max(self.first_bucket, default=0) + 1
        begin, offset = np.zeros(size, np.int64), np.zeros(size, np.int64)
        for code, first in self.first_bucket.items():
            begin[code], offset[code] = first, self.first_slot[code]
        return np.asarray(offset[run] + (bucket - begin[run]) // self.merged)

    def ends(self) -> list[int]:
        """The slot after the last one of each run."""
        return [*list(self.first_slot.values())[1:], self.slots]

    def locate(self, epoch_s: float) -> float:
        """Load time of a moment; NaN outside of every run."""
        for (run, slot), end in zip(self.first_slot.items(), self.ends(), strict=True):
            at = slot * self.slot_s + epoch_s - self.first_bucket[run] * self.bucket_s
            if slot * self.slot_s <= at < end * self.slot_s:
                return at
        return float("nan")


def build_axis(cells: Cells) -> Axis:
    """Put the runs one after the other, in at most `MOST_POINTS` slots where there are fewer runs than that."""
    moments = cells.moments
    spans = {
        int(run): (int(buckets.min()), int(buckets.max()) + 1)
        for run in distinct(moments.run)
        for buckets in [moments.bucket[moments.run == run]]
    }
    total = sum(end - begin for begin, end in spans.values())
    merged = max(1, -(-total // POINTS))
    ordered = sorted(spans, key=lambda run: spans[run])
    sizes = [-(-(spans[run][1] - spans[run][0]) // merged) for run in ordered]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
    return Axis(
        cells.bucket_s,
        merged,
        {run: spans[run][0] for run in ordered},
        dict(zip(ordered, starts, strict=False)),
        starts[-1],
    )


def trace_timeline(requests: RequestPairs, axis: Axis, decided_at_s: float | None) -> dict[str, Any] | None:
    """Series of every arm, what is shaded and what happened; `None` where there are too many runs for one axis.

    `decided_at_s`: seconds of judged data after which a gate was first shown to be worse.
    """
    cells = requests.cells
    if axis.slots > MOST_POINTS:
        return None
    arms = [_trace_arm(cells, axis, code) for code in range(len(cells.arms))]
    first = next(iter(axis.first_bucket.values()))
    starts = {run: slot * axis.slot_s for run, slot in axis.first_slot.items()}
    warm_ups = [
        {"start": starts[run], "end": starts[run] + seconds, "what": "warm-up"}
        for run, seconds in requests.warm_up.cut_s.items()
        if seconds and run in starts
    ]
    events = _find_events(requests, axis)
    if decided_at_s is not None and len(axis.first_bucket) == 1:
        offset = plain((requests.span[0] - first) * axis.bucket_s) or 0.0
        events.append({"at": offset + decided_at_s, "what": "shown to be worse"})
    return {
        "slot_s": axis.slot_s,
        "start_epoch_s": first * cells.bucket_s,
        "seconds": [slot * axis.slot_s for slot in range(axis.slots)],
        "arms": arms,
        "shaded": [*warm_ups, *_find_gaps(cells, axis, arms)],
        "events": events,
    }


def _trace_arm(cells: Cells, axis: Axis, arm: int) -> dict[str, Any]:
    moments = cells.moments
    in_arm = moments.arm == arm
    slot = axis.find(moments.run[in_arm], moments.bucket[in_arm])
    n, failures = (
        np.asarray(np.bincount(slot, weights=values[in_arm], minlength=axis.slots), float)
        for values in (moments.n, moments.failures)
    )
    p50, p95 = _quantiles(cells, axis, arm, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = failures / n
    filled = np.ones(axis.slots)  # the last slot of a run may not be full
    for (run, first), end in zip(axis.first_bucket.items(), axis.ends(), strict=True):
        buckets = int(moments.bucket[moments.run == run].max()) + 1 - first
        filled[end - 1] = ((buckets - 1) % axis.merged + 1) / axis.merged
    return {
        "name": cells.arms[arm],
        "p50_ms": round_all(p50),
        "p95_ms": round_all(p95),
        "failures": round_all(share),
        "per_s": round_all(n / (axis.slot_s * filled)),
        "users": _trace_users(cells, axis, arm),
    }


def _quantiles(cells: Cells, axis: Axis, arm: int, n: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Median and p95 of time to success in each slot; failures are infinitely slow, and no number is shown then."""
    bins = cells.bins
    in_arm = bins.arm == arm
    out = np.full((2, axis.slots), np.nan)
    if not in_arm.any():
        return out[0], out[1]
    width = int(bins.bin[in_arm].max()) + 1
    key = axis.find(bins.run[in_arm], bins.bucket[in_arm]) * width + bins.bin[in_arm]
    counts = np.bincount(key, weights=bins.n[in_arm], minlength=axis.slots * width).reshape(axis.slots, width)
    cumulative = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    limits = bin_limits_ms(width - 1, cells.grid_us / 1000)
    for slot in np.flatnonzero(n):
        curve = Distribution(limits, cumulative[slot] / n[slot])
        out[:, slot] = curve.quantile(0.5), curve.quantile(0.95)
    return out[0], out[1]


def _trace_users(cells: Cells, axis: Axis, arm: int) -> list[float | None] | None:
    """Highest user count in each slot; `None` where users were not recorded."""
    loads = cells.loads
    in_arm = loads.arm == arm
    if not in_arm.any():
        return None
    out = np.full(axis.slots, np.nan)
    slot = axis.find(loads.run[in_arm], loads.bucket[in_arm])
    inside = (slot >= 0) & (slot < axis.slots)
    np.fmax.at(out, slot[inside], loads.users[in_arm][inside].astype(float))
    return round_all(out)


def _find_gaps(cells: Cells, axis: Axis, arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times in which an arm that has requests has none."""
    out = []
    for code, arm in enumerate(arms):
        moments = cells.moments
        in_arm = moments.arm == code
        silent = np.ones(axis.slots, dtype=bool)
        silent[axis.find(moments.run[in_arm], moments.bucket[in_arm])] = False
        if silent.all():
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]])))
        out += [
            {"start": int(a) * axis.slot_s, "end": int(b) * axis.slot_s, "what": f"no requests on {arm['name']}"}
            for a, b in edges.reshape(-1, 2)
        ]
    return out[:MOST_POINTS]


def _find_events(requests: RequestPairs, axis: Axis) -> list[dict[str, Any]]:
    """Starts of runs where there are several, and early ends of runs."""
    by_id = {run.id: run for run in requests.runs}
    out: list[dict[str, Any]] = []
    for number, ((code, slot), end) in enumerate(zip(axis.first_slot.items(), axis.ends(), strict=True), start=1):
        run = by_id.get(requests.cells.runs[code])
        if len(axis.first_slot) > 1:
            out.append({"at": slot * axis.slot_s, "what": f"run {number}"})
        if run is not None and run.facts.stopped_by:
            out.append({"at": end * axis.slot_s, "what": f"stopped: {run.facts.stopped_by}"})
    return out
