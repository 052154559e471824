"""What happened when: latency, failures, load and readings of every arm on one axis of load time.

Runs follow each other without the time between them; within a run, times without requests are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import MOST_POINTS, round_value, round_values
from evaluator.records import Cells
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.distribution import Distribution
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.index import distinct

QUIET_SLOTS = 2
"""Slots without requests of an instance, or with too few users, that are no event."""
LEAST_PER_SLOT = 5
"""Mean requests of an instance in a slot from which a slot without any is no chance."""
MOST_RESTARTS = 12
POINTS = 120
"""Points per line, where there are few runs: enough for a wide screen."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of load time, divided into slots of `slot_s` seconds; runs follow each other, each from a new slot."""

    bucket_s: int
    buckets_per_slot: int
    first_bucket_by_run: dict[int, int]
    """First bucket (since the epoch) of each run, by its code, in the order of the axis."""
    first_slot_by_run: dict[int, int]
    """First slot on the axis of each run, by its code, in the order of the axis."""
    slots: int
    """Number of slots."""

    @property
    def slot_s(self) -> int:
        """Seconds in a slot."""
        return self.bucket_s * self.buckets_per_slot

    def find_slots(self, run: IntArray, bucket: IntArray) -> IntArray:
        """Find the slot of each row, given the code of its run and its bucket since the epoch; all of shape (rows,).

        A bucket outside of the time of its run has a slot outside of the run's slots, which may be negative.
        """
        # Both dictionaries as arrays, whose index is the code of a run.
        highest_code = max(self.first_bucket_by_run, default=0)
        first_buckets, first_slots = np.zeros(highest_code + 1, np.int64), np.zeros(highest_code + 1, np.int64)
        for run_code, first_bucket in self.first_bucket_by_run.items():
            first_buckets[run_code] = first_bucket
            first_slots[run_code] = self.first_slot_by_run[run_code]
        return np.asarray(first_slots[run] + (bucket - first_buckets[run]) // self.buckets_per_slot)

    def end_slots(self) -> list[int]:
        """List the slot after the last slot of each run, in the order of the axis."""
        # A run ends where the next one begins.
        return [*list(self.first_slot_by_run.values())[1:], self.slots]

    def locate(self, epoch_s: float) -> float:
        """Return the seconds of load at a time since the epoch; NaN outside of every run."""
        for (run, first_slot), end_slot in zip(self.first_slot_by_run.items(), self.end_slots(), strict=True):
            run_start_s, run_end_s = first_slot * self.slot_s, end_slot * self.slot_s  # on the axis
            load_s = run_start_s + epoch_s - self.first_bucket_by_run[run] * self.bucket_s
            if run_start_s <= load_s < run_end_s:
                return load_s
        return float("nan")


def build_axis(cells: Cells) -> Axis:
    """Put the runs one after the other in the order of their time, on about `POINTS` slots of equal length.

    A run begins in a new slot, so its last slot may be filled in part only, and there may be a slot more per run.
    """
    moments = cells.moments
    spans: dict[int, tuple[int, int]] = {}  # by code of a run: its first bucket, and the bucket after its last
    for run in distinct(moments.run).tolist():
        buckets = moments.bucket[moments.run == run]
        spans[run] = int(buckets.min()), int(buckets.max()) + 1
    total_buckets = sum(end - begin for begin, end in spans.values())
    buckets_per_slot = max(1, math.ceil(total_buckets / POINTS))
    first_bucket_by_run: dict[int, int] = {}
    first_slot_by_run: dict[int, int] = {}
    slots = 0  # of the runs so far
    for run in sorted(spans, key=lambda run: spans[run]):
        begin, end = spans[run]
        first_bucket_by_run[run], first_slot_by_run[run] = begin, slots
        slots += math.ceil((end - begin) / buckets_per_slot)
    return Axis(
        bucket_s=cells.bucket_s,
        buckets_per_slot=buckets_per_slot,
        first_bucket_by_run=first_bucket_by_run,
        first_slot_by_run=first_slot_by_run,
        slots=slots,
    )


def trace_timeline(requests: RequestPairs, axis: Axis, decided_at_s: float | None) -> dict[str, Any] | None:
    """Compute the series of every arm, the times that are shaded (warm-up, gaps), and what happened.

    All times but `start_epoch_s` are seconds on `axis`; each series has a value per slot of the axis. `decided_at_s`:
    seconds of judged data after which a gate was first shown to be worse; `None`: not shown. Returns `None` if there
    are too many runs for one axis.
    """
    cells = requests.cells
    if axis.slots > MOST_POINTS:
        return None
    arms = [_trace_arm(cells, axis, arm_code) for arm_code in range(len(cells.arms))]
    run_starts_s = {run: first_slot * axis.slot_s for run, first_slot in axis.first_slot_by_run.items()}
    warm_ups = [
        {"start": run_starts_s[run], "end": run_starts_s[run] + warm_up_s, "what": "warm-up"}
        for run, warm_up_s in requests.warm_up.cut_s.items()
        if warm_up_s and run in run_starts_s
    ]
    first_bucket_of_axis = next(iter(axis.first_bucket_by_run.values()))
    return {
        "slot_s": axis.slot_s,
        "runs": len(axis.first_bucket_by_run),
        # The first run's start; a time in a later run cannot be computed from it.
        "start_epoch_s": first_bucket_of_axis * axis.bucket_s,
        "seconds": [slot * axis.slot_s for slot in range(axis.slots)],
        "arms": arms,
        "shaded": [*warm_ups, *_find_gaps(cells, axis, arms)],
        "events": [
            *_find_events(requests, axis),
            *_find_ramp(cells, axis),
            *_find_restarts(cells, axis),
            *_find_decision(requests, axis, decided_at_s),
        ],
    }


def _trace_arm(cells: Cells, axis: Axis, arm_code: int) -> dict[str, Any]:
    """Compute the series of an arm, each a list with a value per slot, an interval of the axis.

    `None` is no value, for example without requests. Failures are a share, `per_s` are requests per second.
    """
    moments = cells.moments
    in_arm = moments.arm == arm_code
    slot = axis.find_slots(moments.run[in_arm], moments.bucket[in_arm])
    n, failures = (
        np.asarray(np.bincount(slot, weights=values[in_arm], minlength=axis.slots), float)
        for values in (moments.n, moments.failures)
    )
    p50_ms, p95_ms = _find_quantiles(cells, axis, arm_code, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        failure_share = failures / n
    # The last slot of a run may be filled only in part: its rate is over the time that it has.
    filled_share = np.ones(axis.slots)
    for (run, first_bucket), end_slot in zip(axis.first_bucket_by_run.items(), axis.end_slots(), strict=True):
        run_buckets = int(moments.bucket[moments.run == run].max()) + 1 - first_bucket
        buckets_in_last_slot = (run_buckets - 1) % axis.buckets_per_slot + 1
        filled_share[end_slot - 1] = buckets_in_last_slot / axis.buckets_per_slot
    return {
        "name": cells.arms[arm_code],
        "p50_ms": round_values(p50_ms),
        "p95_ms": round_values(p95_ms),
        "failures": round_values(failure_share),
        "per_s": round_values(n / (axis.slot_s * filled_share)),
        "users": _trace_users(cells, axis, arm_code),
    }


def _find_quantiles(cells: Cells, axis: Axis, arm_code: int, n: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return median and p95 of time to success (ms) in each slot, each of shape (slots,).

    `n`: requests of the arm in each slot. Failures count as infinitely slow: a quantile among them is infinite. NaN in
    slots without requests.
    """
    bins = cells.bins
    in_arm = bins.arm == arm_code
    quantiles = np.full((2, axis.slots), np.nan)  # median, p95
    if not in_arm.any():
        return quantiles[0], quantiles[1]
    bin_count = int(bins.bin[in_arm].max()) + 1
    # Counts by slot and bin, in one pass over a flat index of both.
    slot_and_bin = axis.find_slots(bins.run[in_arm], bins.bucket[in_arm]) * bin_count + bins.bin[in_arm]
    counts = np.bincount(slot_and_bin, weights=bins.n[in_arm], minlength=axis.slots * bin_count)
    # Successes up to each limit of a bin, with a 0 at the lowest limit: shape (slots, bins + 1).
    cumulative = np.pad(np.cumsum(counts.reshape(axis.slots, bin_count), axis=1), ((0, 0), (1, 0)))
    step_ms = cells.grid / cells.units_per_ms  # of the recorded times
    limits_ms = bin_limits_ms(bin_count - 1, step_ms, cells.units_per_ms)  # of the bins up to the last
    for slot in np.flatnonzero(n):
        # Bins hold successes only, and `n` all requests: the last share is below 1 if some failed.
        curve = Distribution(limits_ms, cumulative[slot] / n[slot])
        quantiles[:, slot] = curve.quantile(0.5), curve.quantile(0.95)
    return quantiles[0], quantiles[1]


def _trace_users(cells: Cells, axis: Axis, arm_code: int) -> list[float | None] | None:
    """Return the highest user count of an arm in each slot (`None`: no count); `None` if no users were recorded."""
    loads = cells.loads  # counts of users
    in_arm = loads.arm == arm_code
    if not in_arm.any():
        return None
    most_users = np.full(axis.slots, np.nan)
    slot = axis.find_slots(loads.run[in_arm], loads.bucket[in_arm])
    # Users may be recorded before the first request and after the last.
    on_axis = (slot >= 0) & (slot < axis.slots)
    np.fmax.at(most_users, slot[on_axis], loads.users[in_arm][on_axis].astype(float))
    return round_values(most_users)


def _find_gaps(cells: Cells, axis: Axis, arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the times in which an arm has no requests, in seconds of load; arms without any request have no gaps.

    `arms` are the series of the arms, in the order of their codes.
    """
    gaps = []
    moments = cells.moments
    for arm_code, arm in enumerate(arms):
        in_arm = moments.arm == arm_code
        is_silent = np.ones(axis.slots, dtype=bool)
        is_silent[axis.find_slots(moments.run[in_arm], moments.bucket[in_arm])] = False
        if is_silent.all():
            continue
        # With a zero at both ends, each gap has two edges: its first slot, and the slot after its last.
        edges = np.flatnonzero(np.diff(np.concatenate([[0], is_silent.astype(np.int8), [0]])))
        gaps += [
            {
                "start": int(first) * axis.slot_s,
                "end": int(end) * axis.slot_s,
                "what": f"no requests on {arm['name']}",
            }
            for first, end in edges.reshape(-1, 2)
        ]
    return gaps[:MOST_POINTS]  # more could not be told apart in a figure


def _find_events(requests: RequestPairs, axis: Axis) -> list[dict[str, Any]]:
    """List the starts of runs, if there are several, and what stopped a run early; `at` in seconds of load."""
    runs_by_id = {run.id: run for run in requests.runs}
    events: list[dict[str, Any]] = []
    spans = zip(axis.first_slot_by_run.items(), axis.end_slots(), strict=True)
    for number, ((run_code, first_slot), end_slot) in enumerate(spans, start=1):
        run = runs_by_id.get(requests.cells.runs[run_code])  # `None`: only its cells are known
        if len(axis.first_slot_by_run) > 1:
            events.append({"at": first_slot * axis.slot_s, "what": f"run {number}"})
        if run is not None and run.facts.stopped_by:
            events.append({"at": end_slot * axis.slot_s, "what": f"stopped: {run.facts.stopped_by}"})
    return events


def _find_ramp(cells: Cells, axis: Axis) -> list[dict[str, Any]]:
    """List when all users were there, in seconds of load, if they became more for longer than two slots of one run."""
    counts = [count or 0.0 for count in _trace_users(cells, axis, 0) or ()]  # of the baseline: both arms have the same
    if len(axis.first_bucket_by_run) != 1 or not any(counts):
        return []
    most = max(counts)
    first = counts.index(most)
    return [{"at": first * axis.slot_s, "what": f"{most:g} users"}] if first > QUIET_SLOTS else []


def _find_restarts(cells: Cells, axis: Axis) -> list[dict[str, Any]]:
    """List when instances began to serve after the start of their arm, or again after a time without requests.

    `at` is in seconds of load. Only one run is looked at, and arms whose instances are called often enough for a gap to
    be seen; with more than `MOST_RESTARTS` of them, none is listed: instances then come and go all the time.
    """
    moments = cells.moments
    if len(axis.first_bucket_by_run) != 1:
        return []
    slot = axis.find_slots(moments.run, moments.bucket)
    n = np.zeros((len(cells.instances), axis.slots))
    np.add.at(n, (moments.instance, slot), moments.n)
    arm_of_instance = np.zeros(len(cells.instances), np.int64)
    arm_of_instance[moments.instance] = moments.arm
    events = []
    for instance in np.flatnonzero(n.sum(axis=1)):
        serves = n[instance] > 0
        arm_serves = n[arm_of_instance == arm_of_instance[instance]].sum(axis=0) > 0
        if n[instance].sum() < LEAST_PER_SLOT * serves.sum():
            continue
        idle = 0  # slots without requests so far, while the arm had some
        for place in range(int(np.flatnonzero(arm_serves)[0]), axis.slots):
            if serves[place]:
                if idle > QUIET_SLOTS:
                    events.append({"at": place * axis.slot_s, "what": f"{cells.instances[instance]} starts"})
                idle = 0
            elif arm_serves[place]:
                idle += 1
    return events if len(events) <= MOST_RESTARTS else []


def _find_decision(requests: RequestPairs, axis: Axis, decided_at_s: float | None) -> list[dict[str, Any]]:
    """Place on the axis when a gate was first shown to be worse; `decided_at_s`: seconds of judged data, or `None`.

    The result has one event, or none: with several runs, seconds of judged data have no known place on the axis.
    """
    if decided_at_s is None or len(axis.first_bucket_by_run) != 1:
        return []
    (first_bucket,) = axis.first_bucket_by_run.values()
    first_judged_bucket, _ = requests.span  # later than the first bucket of the load: after the warm-up
    # The number is finite, so `round_value` gives no `None`.
    judged_from_s = round_value((first_judged_bucket - first_bucket) * axis.bucket_s) or 0.0
    return [{"at": judged_from_s + decided_at_s, "what": "shown to be worse"}]
