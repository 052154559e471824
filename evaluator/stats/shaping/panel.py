"""Baseline and one candidate on a common time axis: the dense arrays that every comparison needs.

A *slot* is one bucket of one run. Each endpoint has its own time blocks: one bucket, doubled until the smaller arm
expects five requests in a block, at most five minutes (method B.2). If the arms of a run did not overlap in time, the
block is the whole run, so the variances over time of the two arms are not paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import BLOCK_BUCKETS, Bins, Cells, InstanceBins, Moments
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.bins import mean_logs
from evaluator.stats.shaping.cells import take
from evaluator.stats.shaping.counted import Counted, find_usable
from evaluator.stats.shaping.histogram import NO_BINS, SortedBins, sort_bins, sum_by_cell
from evaluator.stats.shaping.index import Index, distinct, rows_of_each
from evaluator.stats.shaping.steps import find_steps_us

EXPECTED_IN_BLOCK = 5
MAX_BLOCK_S = 300
ALIGNED = 256
"""The buckets of each run are counted from a multiple of this, so that the origin is the border of a block."""
WHOLE_RUN = 0
"""Code of the width of a block that is the whole run."""


@dataclass(frozen=True, slots=True)
class InstanceRows:
    """Counts of single instances: one row per instance × block slot × endpoint with requests, of both arms, so ordered.

    A *block slot* is one block of `BLOCK_BUCKETS` buckets of one run. Columns have shape (rows,).
    """

    arm: IntArray
    """0: baseline, 1: candidate."""
    instance: IntArray
    endpoint: IntArray
    slot: IntArray
    """Number of the block slot."""
    stratum: IntArray
    """Number of endpoint × time block."""
    n: FloatArray
    failures: FloatArray
    totals: Mapping[str, FloatArray]
    """Name → sum over each row, as in `Panel.totals`."""
    instance_arm: IntArray
    """Arm (0 baseline, 1 candidate) of each instance, shape (instances,)."""
    names: tuple[str, ...]
    """Name of each instance."""
    histogram: IntArray
    """Row of each row in the instance histogram."""
    histogram_rows: int
    """Rows of the instance histogram; at an earlier look it has more rows than this table."""
    slot_block: IntArray
    """Run and block of each block slot as one increasing number, shape (slots,)."""
    blocks: int
    """How many of these numbers a run has."""
    slots: int
    """Number of block slots."""
    strata: int
    """Number of strata."""

    def before(self, block: int, widths: IntArray) -> InstanceRows:
        """Return the rows before this block of the only run; `widths` are the block widths at that time."""
        slots = int(np.searchsorted(self.slot_block, block))
        earlier = np.flatnonzero(self.slot < slots)
        columns = ("arm", "instance", "endpoint", "slot", "n", "failures", "histogram")
        columns_before = {name: getattr(self, name)[earlier] for name in columns}
        totals = {name: values[earlier] for name, values in self.totals.items()}
        stratum = _stratify(widths, columns_before["endpoint"], columns_before["slot"], self.slot_block, self.blocks)
        columns_before["stratum"] = stratum.find(stratum.codes)
        return replace(self, **columns_before, totals=totals, slots=slots, strata=stratum.size)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Baseline and candidate as dense arrays of shape (2, endpoints, slots).

    Panels of readings have no single times: their bins are empty, and their grid and steps are 0.
    """

    endpoints: tuple[str, ...]
    bucket_s: int
    run: IntArray
    """Run of each slot, shape (slots,). Slots are in the order of time, one run after the other."""
    offset: IntArray
    """Bucket of each slot within its run, counted from an origin at the border of a block."""
    origin: int
    """Bucket of this origin, for a panel of one run."""
    stride: int
    """Slots per endpoint in the cells of `bins`; at an earlier look more than the panel has."""
    position: FloatArray
    """Position of each slot within its run, 0 to 1."""
    n: FloatArray
    """What is counted: requests, observations, samples, or seconds in which an instance was seen."""
    failures: FloatArray
    """Those of `n` that failed, or are above a bound."""
    totals: Mapping[str, FloatArray]
    """Name → sum over successes. For requests: `time_ms`, `log_time_ms` (logarithms of the times in ms, as exact as the
    bins) and `bytes`; for readings: `value`, in the unit of the metric."""
    widths: IntArray
    """Block width of each endpoint in buckets, shape (endpoints,): a power of two, or `WHOLE_RUN`."""
    block_starts: dict[int, IntArray]
    """Width → first slot of each block, for each width in use."""
    paired: dict[int, bool]
    """Run → did its arms overlap in time?"""
    rows: InstanceRows
    grid_ms: float
    """Largest step of which all times of the run are multiples."""
    steps_us: IntArray
    """Step of the times of each arm and endpoint, shape (2, endpoints): a multiple of the grid."""
    constant: tuple[bool, bool]
    """For each arm: are all its times equal?"""
    bins: SortedBins
    """Histograms of the panel. Cells have the shape (2, endpoints, stride)."""
    row_bins: SortedBins
    """Histograms of the instances. Cells are the rows of the instance histogram."""

    @property
    def slots(self) -> int:
        """Number of slots: usable buckets of all runs."""
        return int(self.run.size)

    @property
    def runs(self) -> IntArray:
        """Codes of the runs in the panel."""
        return distinct(self.run)

    @property
    def ok(self) -> FloatArray:
        """Successes, shape (2, endpoints, slots)."""
        return self.n - self.failures

    @property
    def has_fine_blocks(self) -> bool:
        """Is each block a single slot?"""
        return all(starts.size == self.slots for starts in self.block_starts.values())

    def before(self, bucket: int) -> Panel | None:
        """Return the panel of one run before this bucket, the first of a block; `None` if an arm had no data yet."""
        slots = int(np.searchsorted(self.offset, bucket - self.origin))
        if not slots or not (self.n[:, :, :slots].sum(axis=(1, 2)) > 0).all():
            return None
        # Copies, not views: sums then equal, to the last bit, those of the time when no more data had landed.
        n, failures = (np.ascontiguousarray(values[:, :, :slots]) for values in (self.n, self.failures))
        widths = choose_widths(n, self.bucket_s) if all(self.paired.values()) else self.widths
        run, offset = self.run[:slots], self.offset[:slots]
        return replace(
            self,
            run=run,
            offset=offset,
            position=(offset - offset[0] + 0.5) / (offset[-1] - offset[0] + 1),
            n=n,
            failures=failures,
            totals={name: np.ascontiguousarray(values[:, :, :slots]) for name, values in self.totals.items()},
            widths=widths,
            block_starts={int(w): _starts(run, offset, int(w)) for w in distinct(widths)},
            rows=self.rows.before((bucket - self.origin) // BLOCK_BUCKETS, widths),
        )

    def by_cell(self, counts: FloatArray) -> FloatArray:
        """Reshape counts per histogram cell (..., 2 · endpoints · stride) to (..., 2, endpoints, slots)."""
        shape = (*counts.shape[:-1], 2, len(self.endpoints), self.stride)
        return counts.reshape(shape)[..., : self.slots]

    def block_sum(self, values: FloatArray) -> FloatArray:
        """Sum `values` (..., endpoints, slots) over each endpoint's blocks; each slot gets the sum of its block."""
        if self.has_fine_blocks:
            return values
        out = np.empty_like(values)
        for width, starts in self.block_starts.items():
            chosen = self.widths == width
            sums = np.add.reduceat(values[..., chosen, :], starts, axis=-1)
            sizes = np.diff(np.append(starts, self.slots))
            out[..., chosen, :] = np.repeat(sums, sizes, axis=-1)
        return out


def build_panel(
    cells: Cells,
    candidate: str,
    *,
    endpoint: str | None = None,
    first_bucket: dict[int, int] | None = None,
) -> Panel | None:
    """Build the panel of the requests of baseline (`cells.arms[0]`) and `candidate`.

    Args:
        cells: Cells of the release.
        candidate: Name of the candidate arm.
        endpoint: Only this endpoint; `None`: all.
        first_bucket: Run code → first bucket to use (after warm-up); `None`: all buckets.

    Returns:
        The panel; `None` if the arms have no usable bucket in common.
    """
    moments = cells.moments
    counted = Counted(
        runs=cells.runs,
        arms=cells.arms,
        endpoints=cells.endpoints,
        instances=cells.instances,
        bucket_s=cells.bucket_s,
        run=moments.run,
        arm=moments.arm,
        endpoint=moments.endpoint,
        instance=moments.instance,
        bucket=moments.bucket,
        n=moments.n,
        failures=moments.failures,
        totals={"time_us": moments.sum_us, "bytes": moments.bytes},
    )
    usable = find_usable(counted, candidate, endpoint, first_bucket)
    if usable is None:
        return None
    rows, paired = usable
    grid = _PanelBuilder(counted.take(rows), paired)
    return grid.add_histograms(grid.build(whole_runs=False), cells, candidate, take(moments, rows))


def build_counted_panel(
    counted: Counted, candidate: str, *, endpoint: str | None = None, whole_runs: bool = False
) -> Panel | None:
    """Build the panel of anything that is counted by bucket; it has no histograms.

    `whole_runs`: levels are standardised over whole runs, not over blocks of time. Otherwise as `build_panel`.
    """
    usable = find_usable(counted, candidate, endpoint, None)
    return None if usable is None else _PanelBuilder(counted.take(usable[0]), usable[1]).build(whole_runs=whole_runs)


class _PanelBuilder:
    """Numbers slots, endpoints, instances and blocks of the usable rows, and builds the arrays of a panel."""

    def __init__(self, counted: Counted, paired: dict[int, bool]) -> None:
        self.counted, self.paired = counted, paired
        self.base = np.zeros(len(counted.runs), dtype=np.int64)
        buckets = 0
        for run, rows in rows_of_each(counted.run):
            bucket = counted.bucket[rows]
            self.base[run] = bucket.min() // ALIGNED * ALIGNED
            buckets = max(buckets, int(bucket.max() - self.base[run]) + 1)
        self.span = -(-buckets // ALIGNED) * ALIGNED
        self.blocks = self.span // BLOCK_BUCKETS
        runs, block = len(counted.runs), counted.bucket // BLOCK_BUCKETS
        self.slots = Index(_key(counted.run, counted.bucket, self.base, self.span), runs * (self.span + 2))
        self.block_slots = Index(self._block_key(counted.run, block), runs * (self.blocks + 2))
        self.endpoints = Index(counted.endpoint, len(counted.endpoints))
        self.shape = (2, self.endpoints.size, self.slots.size)
        arm = self._candidate(counted)
        self.cell = arm * self.shape[1] + self.endpoints.find(counted.endpoint)
        self.cell = self.cell * self.shape[2] + self.slots.find(self.slots.codes)
        code = self._row_code(counted, block)
        self.rows = Index(code, 2 * len(counted.instances) * self.block_slots.possible * len(counted.endpoints))

    def _candidate(self, rows: Counted | Moments | Bins | InstanceBins) -> IntArray:
        """1 for rows of a candidate, 0 for those of the baseline."""
        return rows.arm if len(self.counted.arms) == 2 else np.minimum(rows.arm, 1)

    def _block_key(self, run: IntArray, block: IntArray) -> IntArray:
        return _key(run, block, self.base // BLOCK_BUCKETS, self.blocks)

    def _row_code(self, rows: Counted | InstanceBins, block: IntArray) -> IntArray:
        """A number for each possible instance × block × endpoint; the baseline's instances come first."""
        code = self._candidate(rows) * len(self.counted.instances)
        code += rows.instance
        code *= self.block_slots.possible
        code += self._block_key(rows.run, block)
        code *= len(self.counted.endpoints)
        code += rows.endpoint
        return code

    def build(self, *, whole_runs: bool) -> Panel:
        """Build the panel without histograms."""
        counted = self.counted

        def dense(values: FloatArray | IntArray) -> FloatArray:
            summed = np.bincount(self.cell, weights=values, minlength=int(np.prod(self.shape)))
            return np.asarray(summed, float).reshape(self.shape)

        run, offset = self.slots.keys // (self.span + 2), self.slots.keys % (self.span + 2) - 1
        position = np.zeros(run.size)
        for code in distinct(run):
            of_run = run == code
            since = offset[of_run] - offset[of_run].min()
            position[of_run] = (since + 0.5) / (since.max() + 1)
        n = dense(counted.n)
        together = all(self.paired.values()) and not whole_runs
        widths = choose_widths(n, counted.bucket_s) if together else np.full(n.shape[1], WHOLE_RUN)
        return Panel(
            endpoints=tuple(counted.endpoints[code] for code in self.endpoints.keys),
            bucket_s=counted.bucket_s,
            run=run,
            offset=offset,
            origin=int(self.base[run[0]]),
            stride=self.slots.size,
            position=position,
            n=n,
            failures=dense(counted.failures),
            totals={name: dense(values) for name, values in counted.totals.items()},
            widths=widths,
            block_starts={int(w): _starts(run, offset, int(w)) for w in distinct(widths)},
            paired=self.paired,
            rows=self._build_rows(widths),
            grid_ms=0.0,
            steps_us=np.zeros(self.shape[:2], dtype=np.int64),
            constant=(False, False),
            bins=NO_BINS,
            row_bins=NO_BINS,
        )

    def _build_rows(self, widths: IntArray) -> InstanceRows:
        counted, index = self.counted, self.rows
        row = index.find(index.codes)

        def summed(values: FloatArray | IntArray) -> FloatArray:
            return np.asarray(np.bincount(row, weights=values, minlength=index.size), float)

        when, endpoint = np.divmod(index.keys, len(counted.endpoints))
        instance, block = np.divmod(when, self.block_slots.possible)
        instances = Index(instance, 2 * len(counted.instances))
        instance_arm = instances.keys // len(counted.instances)
        row_instance, row_slot = instances.find(instance), self.block_slots.find(block)
        row_endpoint = self.endpoints.find(endpoint)
        run, block_of_run = np.divmod(self.block_slots.keys, self.blocks + 2)
        slot_block = run * self.blocks + block_of_run - 1
        strata = _stratify(widths, row_endpoint, row_slot, slot_block, self.blocks)
        return InstanceRows(
            arm=instance_arm[row_instance],
            instance=row_instance,
            endpoint=row_endpoint,
            slot=row_slot,
            stratum=strata.find(strata.codes),
            n=summed(counted.n),
            failures=summed(counted.failures),
            totals={name: summed(values) for name, values in counted.totals.items()},
            instance_arm=instance_arm,
            names=tuple(counted.instances[code % len(counted.instances)] for code in instances.keys),
            histogram=np.arange(index.size),
            histogram_rows=index.size,
            slot_block=slot_block,
            blocks=self.blocks,
            slots=self.block_slots.size,
            strata=strata.size,
        )

    def add_histograms(self, panel: Panel, cells: Cells, candidate: str, moments: Moments) -> Panel:
        """Add histograms, sums of times and bytes, and the steps of times (from `moments`) to a panel of requests."""
        rows, spread = cells.bins, cells.instance_bins
        slot = self.slots.find(np.arange(self.slots.possible))
        endpoint = self.endpoints.find(np.arange(len(cells.endpoints)))[:, None]
        # Rows outside the window or of other endpoints get -1.
        places = np.where((endpoint | slot) >= 0, endpoint * self.shape[2] + slot, -1)
        of_baseline = self.shape[1] * self.shape[2]
        table = np.stack([places, np.where(places >= 0, places + of_baseline, -1)])
        code = self._candidate(rows) * len(cells.endpoints)
        code += rows.endpoint
        code *= slot.size
        code += _key(rows.run, rows.bucket, self.base, self.span)
        others = len(cells.arms) > 2
        arms = (0, cells.arms.index(candidate))
        bins = sort_bins(rows, np.take(table, code), of_baseline, np.isin(rows.arm, arms) if others else None)
        row_bins = sort_bins(
            spread,
            self.rows.find(self._row_code(spread, spread.block)),
            int(np.searchsorted(panel.rows.arm, 1)),
            np.isin(spread.arm, arms) if others else None,
        )
        grid_ms = cells.grid_us / 1000
        logs = mean_logs(max(bins.last, row_bins.last), grid_ms)

        def in_units(totals: Mapping[str, FloatArray], log_time_ms: FloatArray) -> dict[str, FloatArray]:
            return {"time_ms": totals["time_us"] / 1000, "bytes": totals["bytes"], "log_time_ms": log_time_ms}

        row_totals = in_units(panel.rows.totals, sum_by_cell(row_bins, logs, panel.rows.n.size))
        return replace(
            panel,
            totals=in_units(panel.totals, sum_by_cell(bins, logs, panel.n.size).reshape(self.shape)),
            rows=replace(panel.rows, totals=row_totals),
            grid_ms=grid_ms,
            steps_us=find_steps_us(moments, self.cell // self.shape[2], self.shape[:2], cells.grid_us),
            constant=(self._is_constant(moments, 0), self._is_constant(moments, 1)),
            bins=bins,
            row_bins=row_bins,
        )

    def _is_constant(self, moments: Moments, arm: int) -> bool:
        rows = np.flatnonzero((self._candidate(moments) == arm) & (moments.n > moments.failures))
        low, high = moments.min_us, moments.max_us
        if not rows.size or low[rows[0]] != high[rows[-1]]:
            return False
        return bool(low[rows].min() == high[rows].max())


def choose_widths(n: FloatArray, bucket_s: int) -> IntArray:
    """Choose the block width of each endpoint: doubled until the smaller arm expects 5 requests in it (method B.2).

    `n` are requests, shape (2, endpoints, slots). Returns the widths in buckets, shape (endpoints,), at most 5 minutes.
    """
    expected = n.sum(axis=2).min(axis=0) / n.shape[2]
    widest = 1
    while widest * 2 * bucket_s <= MAX_BLOCK_S and widest < ALIGNED:
        widest *= 2
    buckets = EXPECTED_IN_BLOCK / np.maximum(expected, 1e-9)
    width: IntArray = np.clip(2 ** np.ceil(np.log2(np.maximum(buckets, 1.0))), 1, widest).astype(np.int64)
    return width


def _stratify(widths: IntArray, endpoint: IntArray, slot: IntArray, slot_block: IntArray, blocks: int) -> Index:
    """Number endpoint × time block of each row; time blocks are at least one block of the instance histogram."""
    wide = np.where(widths == WHOLE_RUN, blocks, np.maximum(1, widths // BLOCK_BUCKETS))
    run, block = np.divmod(slot_block, blocks)
    codes = (run * blocks + block // wide[:, None]) * widths.size + np.arange(widths.size)[:, None]
    return Index(codes[endpoint, slot], (int(slot_block.max()) + 1) * widths.size)


def _starts(run: IntArray, offset: IntArray, width: int) -> IntArray:
    """First slot of each block of this width."""
    block = np.zeros_like(offset) if width == WHOLE_RUN else offset // width
    changed = (np.diff(run, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0)
    return np.asarray(np.flatnonzero(changed))


def _key(run: IntArray, when: IntArray, base: IntArray, span: int) -> IntArray:
    """Number the buckets of each run. All buckets before `base` share one number, all after the span another."""
    key = when - (base[0] - 1 if base.size == 1 else base[run] - 1)
    np.clip(key, 0, span + 1, out=key)
    if base.size > 1:
        key += run * (span + 2)
    return key
