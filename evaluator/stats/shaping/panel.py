"""Baseline and one candidate on a common time axis: the dense arrays that every comparison needs.

A *slot* is one bucket of one run. Each endpoint has its own time blocks: one bucket, doubled until the smaller arm
expects five requests in a block, at most five minutes (method B.2). If the arms of a run did not overlap in time, the
block is the whole run, so the variances over time of the two arms are not paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import BLOCK_BUCKETS, MICROSECONDS, Bins, Cells, InstanceBins, Moments
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.bins import mean_logs
from evaluator.stats.shaping.blocks import (
    ALIGNED,
    WHOLE_RUN,
    choose_widths,
    find_block_starts,
    number_buckets,
    number_strata,
)
from evaluator.stats.shaping.cells import count_by_status, take
from evaluator.stats.shaping.counted import Counted, find_usable
from evaluator.stats.shaping.histogram import NO_BINS, SortedBins, sort_bins, sum_by_cell
from evaluator.stats.shaping.index import Index, distinct, rows_of_each
from evaluator.stats.shaping.steps import find_steps


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
        """Return the rows (instance × block × endpoint) of a panel of one run that lie before the block of this number.

        `widths` are the lengths of the time blocks of the earlier panel in buckets, shape (endpoints,). They define the
        strata (endpoint × time block) of its rows. Numbers of instances and rows of the histogram do not change.
        """
        slots = int(np.searchsorted(self.slot_block, block))  # how many block slots lie before
        earlier = np.flatnonzero(self.slot < slots)
        columns = ("arm", "instance", "endpoint", "slot", "n", "failures", "histogram")
        earlier_columns = {name: getattr(self, name)[earlier] for name in columns}
        totals = {name: values[earlier] for name, values in self.totals.items()}
        strata = number_strata(
            widths, earlier_columns["endpoint"], earlier_columns["slot"], self.slot_block, self.blocks
        )
        earlier_columns["stratum"] = strata.find(strata.codes)  # numbered from 0 among the strata that occur
        return replace(self, **earlier_columns, totals=totals, slots=slots, strata=strata.size)


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
    bins), `bytes`, and where they occur the numbers of `count_by_status`; for readings: `value`, in the unit of the
    metric."""
    widths: IntArray
    """Block width of each endpoint in buckets, shape (endpoints,): a power of two, or `WHOLE_RUN`."""
    block_starts: dict[int, IntArray]
    """Width → first slot of each block, for each width in use."""
    paired: dict[int, bool]
    """Run → did its arms overlap in time?"""
    rows: InstanceRows
    units_per_ms: int
    """Unit of the times that the store keeps, and of the bins, as the number of units in a millisecond."""
    grid_ms: float
    """Largest step of which all times of the run are multiples."""
    steps_ms: FloatArray
    """Step of the times of each arm and endpoint, shape (2, endpoints): at least the grid and `mixed_unit_ms`."""
    mixed_unit_ms: float
    """Coarsest unit (ms) in which the store keeps runs, if it keeps some in a finer one; 0 if all have one unit."""
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
        """Return the part of a panel of one run that lies before `bucket`, the first bucket of a block.

        `None` if an arm had no data before it.
        """
        # Offsets of slots are buckets that are counted from `origin`.
        slots = int(np.searchsorted(self.offset, bucket - self.origin))
        if not slots or not (self.n[:, :, :slots].sum(axis=(1, 2)) > 0).all():
            return None
        # Copies, not views: sums then equal, to the last bit, those of the time when no more data had landed.
        n, failures = (np.ascontiguousarray(values[:, :, :slots]) for values in (self.n, self.failures))
        # Fewer data may need wider blocks. If the arms did not overlap, a block is the whole run, as before.
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
            block_starts={int(width): find_block_starts(run, offset, int(width)) for width in distinct(widths)},
            rows=self.rows.before((bucket - self.origin) // BLOCK_BUCKETS, widths),
        )

    def by_cell(self, counts: FloatArray) -> FloatArray:
        """Reshape counts of each cell of `bins`, (..., 2 · endpoints · stride), to (..., 2, endpoints, slots).

        `stride`: slots of each endpoint in `bins`. In a panel that was cut to an earlier time, these contain later
        slots as well, which are dropped.
        """
        shape = (*counts.shape[:-1], 2, len(self.endpoints), self.stride)
        return counts.reshape(shape)[..., : self.slots]

    def block_sum(self, values: FloatArray) -> FloatArray:
        """Sum `values` (..., endpoints, slots) over each endpoint's blocks; each slot gets the sum of its block.

        A block is some successive slots; how many depends on the endpoint. Returns the shape of `values`.
        """
        if self.has_fine_blocks:  # each block is a single slot
            return values
        sums_of_slots = np.empty_like(values)
        for width, starts in self.block_starts.items():  # width of blocks → first slot of each block
            has_width = self.widths == width  # the endpoints with blocks of this width
            sums_of_blocks = np.add.reduceat(values[..., has_width, :], starts, axis=-1)
            slots_in_block = np.diff(np.append(starts, self.slots))
            sums_of_slots[..., has_width, :] = np.repeat(sums_of_blocks, slots_in_block, axis=-1)
        return sums_of_slots


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
        totals={"time": moments.sum_time, "bytes": moments.bytes, **count_by_status(moments)},
    )
    usable = find_usable(counted, candidate, endpoint, first_bucket)
    if usable is None:
        return None
    usable_rows, paired = usable
    builder = _PanelBuilder(counted.take(usable_rows), paired)
    panel = builder.build(whole_runs=False)
    return builder.add_histograms(panel, cells, candidate, take(moments, usable_rows))


def build_counted_panel(
    counted: Counted, candidate: str, *, endpoint: str | None = None, whole_runs: bool = False
) -> Panel | None:
    """Build the panel of anything that is counted by bucket; it has no histograms.

    Args:
        counted: What is counted for each arm; `counted.arms[0]` is the baseline.
        candidate: Name of the candidate arm.
        endpoint: Only this endpoint; `None`: all.
        whole_runs: Whether the arms are compared over whole runs, and not in blocks of time.

    Returns:
        The panel; `None` if the arms have no usable bucket in common.
    """
    usable = find_usable(counted, candidate, endpoint, first_bucket=None)
    if usable is None:
        return None
    usable_rows, paired = usable
    return _PanelBuilder(counted.take(usable_rows), paired).build(whole_runs=whole_runs)


class _PanelBuilder:
    """Numbers slots, endpoints, instances and blocks of the usable rows, and builds the arrays of a panel."""

    def __init__(self, counted: Counted, paired: dict[int, bool]) -> None:
        """Number the slots, blocks, endpoints and instances that occur in `counted`, whose rows are all usable.

        `paired`: run code → did its arms overlap in time?
        """
        self.counted, self.paired = counted, paired
        # `base`: bucket from which the buckets of each run are counted. `span`: buckets of the longest run. Both are
        # multiples of `ALIGNED`, so that blocks begin at the same buckets whatever part of a run is read.
        self.base = np.zeros(len(counted.runs), dtype=np.int64)
        longest = 0
        for run, rows in rows_of_each(counted.run):
            bucket = counted.bucket[rows]
            self.base[run] = bucket.min() // ALIGNED * ALIGNED
            longest = max(longest, int(bucket.max() - self.base[run]) + 1)
        self.span = math.ceil(longest / ALIGNED) * ALIGNED
        self.blocks = self.span // BLOCK_BUCKETS
        # Each `Index` numbers those of its possible keys that occur: slots (bucket of a run), block slots (block of a
        # run), endpoints, and at last the rows of `InstanceRows` (arm × instance × block × endpoint).
        runs, block = len(counted.runs), counted.bucket // BLOCK_BUCKETS
        # `number_buckets` has two more numbers for each run: one for buckets before it, one for buckets after it.
        self.slots = Index(number_buckets(counted.run, counted.bucket, self.base, self.span), runs * (self.span + 2))
        self.block_slots = Index(self._number_blocks(counted.run, block), runs * (self.blocks + 2))
        self.endpoints = Index(counted.endpoint, len(counted.endpoints))
        # The shape of the dense arrays of the panel.
        self.shape = (2, self.endpoints.size, self.slots.size)
        arm = self._find_arm(counted)
        arm_and_endpoint = arm * self.endpoints.size + self.endpoints.find(counted.endpoint)
        # Flat index of each row of `counted` in an array of shape `self.shape`.
        self.cell_of_row = arm_and_endpoint * self.slots.size + self.slots.find(self.slots.codes)
        possible_instance_rows = 2 * len(counted.instances) * self.block_slots.possible * len(counted.endpoints)
        self.instance_rows = Index(self._number_instance_rows(counted, block), possible_instance_rows)

    def _find_arm(self, rows: Counted | Moments | Bins | InstanceBins) -> IntArray:
        """Return the arm of each row in the panel: 0 for the baseline, 1 for a candidate, whatever its code."""
        return rows.arm if len(self.counted.arms) == 2 else np.minimum(rows.arm, 1)

    def _number_blocks(self, run: IntArray, block: IntArray) -> IntArray:
        """Number the blocks of all runs, as `number_buckets` does; all arrays have shape (rows,)."""
        return number_buckets(run, block, self.base // BLOCK_BUCKETS, self.blocks)

    def _number_instance_rows(self, rows: Counted | InstanceBins, block: IntArray) -> IntArray:
        """Number the arm × instance × block × endpoint of each row, so that the baseline's rows come first.

        `block` is the block of each row, shape (rows,). Rows of equal keys get the same number.
        """
        # One number whose digits are arm, instance, block and endpoint. In place, because the arrays are large.
        number = self._find_arm(rows) * len(self.counted.instances)
        number += rows.instance
        number *= self.block_slots.possible
        number += self._number_blocks(rows.run, block)
        number *= len(self.counted.endpoints)
        number += rows.endpoint
        return number

    def build(self, *, whole_runs: bool) -> Panel:
        """Build the panel without histograms; with `whole_runs`, each block of time is a whole run."""
        counted = self.counted

        def sum_by_cell_of_panel(values: FloatArray | IntArray) -> FloatArray:
            """Sum the values (rows,) of each arm, endpoint and slot: shape (2, endpoints, slots)."""
            summed = np.bincount(self.cell_of_row, weights=values, minlength=int(np.prod(self.shape)))
            return np.asarray(summed, float).reshape(self.shape)

        # Run, and bucket within the run, of each slot: the reverse of `number_buckets`, which numbers a bucket as
        # run · (span + 2) + bucket + 1.
        run, offset = self.slots.keys // (self.span + 2), self.slots.keys % (self.span + 2) - 1
        position = np.zeros(run.size)  # of each slot within its run, 0 to 1
        for run_code in distinct(run):
            of_run = run == run_code
            since_start = offset[of_run] - offset[of_run].min()
            position[of_run] = (since_start + 0.5) / (since_start.max() + 1)
        n = sum_by_cell_of_panel(counted.n)
        # If the arms of a run did not overlap in time, they can be compared over whole runs only.
        has_time_blocks = all(self.paired.values()) and not whole_runs
        widths = choose_widths(n, counted.bucket_s) if has_time_blocks else np.full(n.shape[1], WHOLE_RUN)
        return Panel(
            endpoints=tuple(counted.endpoints[endpoint_code] for endpoint_code in self.endpoints.keys),
            bucket_s=counted.bucket_s,
            run=run,
            offset=offset,
            origin=int(self.base[run[0]]),
            stride=self.slots.size,
            position=position,
            n=n,
            failures=sum_by_cell_of_panel(counted.failures),
            totals={name: sum_by_cell_of_panel(values) for name, values in counted.totals.items()},
            widths=widths,
            block_starts={int(width): find_block_starts(run, offset, int(width)) for width in distinct(widths)},
            paired=self.paired,
            rows=self._build_instance_rows(widths),
            # `add_histograms` sets the following for requests.
            units_per_ms=MICROSECONDS,  # of times that readings do not have
            grid_ms=0.0,
            steps_ms=np.zeros(self.shape[:2]),
            mixed_unit_ms=0.0,
            constant=(False, False),
            bins=NO_BINS,
            row_bins=NO_BINS,
        )

    def _build_instance_rows(self, widths: IntArray) -> InstanceRows:
        """Add up the rows of each instance × block × endpoint.

        `widths` are the lengths of time blocks in buckets, shape (endpoints,): they define the stratum (endpoint × time
        block) of each row. A block slot is a block of a run that has data.
        """
        counted, index = self.counted, self.instance_rows
        row = index.find(index.codes)  # row of the result to which each row of `counted` is added

        def sum_by_row(values: FloatArray | IntArray) -> FloatArray:
            """Sum the values of all rows of `counted` that are added to each row of the result."""
            return np.asarray(np.bincount(row, weights=values, minlength=index.size), float)

        # Of each row of the result: arm and instance (as one number), block, and endpoint. This is the reverse of
        # `_number_instance_rows`.
        instance_and_block, endpoint = np.divmod(index.keys, len(counted.endpoints))
        arm_and_instance, block = np.divmod(instance_and_block, self.block_slots.possible)
        instances = Index(arm_and_instance, 2 * len(counted.instances))
        instance_arm = instances.keys // len(counted.instances)
        row_instance, row_slot = instances.find(arm_and_instance), self.block_slots.find(block)
        row_endpoint = self.endpoints.find(endpoint)
        # Run and block of each block slot, without the free numbers at both ends of a run (`number_buckets`).
        run, numbered_block = np.divmod(self.block_slots.keys, self.blocks + 2)
        slot_block = run * self.blocks + numbered_block - 1
        strata = number_strata(widths, row_endpoint, row_slot, slot_block, self.blocks)
        return InstanceRows(
            arm=instance_arm[row_instance],
            instance=row_instance,
            endpoint=row_endpoint,
            slot=row_slot,
            stratum=strata.find(strata.codes),
            n=sum_by_row(counted.n),
            failures=sum_by_row(counted.failures),
            totals={name: sum_by_row(values) for name, values in counted.totals.items()},
            instance_arm=instance_arm,
            names=tuple(counted.instances[key % len(counted.instances)] for key in instances.keys),
            histogram=np.arange(index.size),  # the histogram has the same rows
            histogram_rows=index.size,
            slot_block=slot_block,
            blocks=self.blocks,
            slots=self.block_slots.size,
            strata=strata.size,
        )

    def add_histograms(self, panel: Panel, cells: Cells, candidate: str, moments: Moments) -> Panel:
        """Add histograms, sums of times and bytes, and the steps of times to a panel of requests.

        `moments` are the usable rows of `cells.moments`: those from which the panel was built.
        """
        has_other_arms = len(cells.arms) > 2
        both_arms = (0, cells.arms.index(candidate))
        # Each row of a histogram belongs to a cell of the panel (arm × endpoint × slot), or of the panel's table of
        # instances; the cells of the baseline come first.
        bins = sort_bins(
            cells.bins,
            self._find_cells_of_bins(cells),
            baseline_cells=self.endpoints.size * self.slots.size,
            of_both_arms=np.isin(cells.bins.arm, both_arms) if has_other_arms else None,
        )
        instance_bins = cells.instance_bins
        row_bins = sort_bins(
            instance_bins,
            self.instance_rows.find(self._number_instance_rows(instance_bins, instance_bins.block)),
            baseline_cells=int(np.searchsorted(panel.rows.arm, 1)),
            of_both_arms=np.isin(instance_bins.arm, both_arms) if has_other_arms else None,
        )
        units_per_ms = cells.units_per_ms
        grid_ms = cells.grid / units_per_ms
        # Mean logarithm of the times (ms) in each bin, shape (bins,).
        mean_log_of_bin = mean_logs(max(bins.last, row_bins.last), grid_ms, units_per_ms)

        def name_totals(totals: Mapping[str, FloatArray], log_time_ms: FloatArray) -> dict[str, FloatArray]:
            """Convert counted sums to the totals of a panel, and add the sums of logarithms."""
            unchanged = {name: values for name, values in totals.items() if name != "time"}
            return {"time_ms": totals["time"] / units_per_ms, "log_time_ms": log_time_ms, **unchanged}

        row_totals = name_totals(panel.rows.totals, sum_by_cell(row_bins, mean_log_of_bin, panel.rows.n.size))
        # `cell // slots` is the arm × endpoint of each row. Steps found in rows may be those of the finer runs: a few
        # times of a coarser run, all rounded to one number, may be the ones that hold a high quantile.
        steps = find_steps(moments, self.cell_of_row // self.slots.size, self.shape[:2], cells.grid)
        return replace(
            panel,
            totals=name_totals(panel.totals, sum_by_cell(bins, mean_log_of_bin, panel.n.size).reshape(self.shape)),
            rows=replace(panel.rows, totals=row_totals),
            units_per_ms=units_per_ms,
            grid_ms=grid_ms,
            steps_ms=np.maximum(steps, cells.coarsest_unit) / units_per_ms,
            mixed_unit_ms=cells.coarsest_unit / units_per_ms if cells.coarsest_unit > 1 else 0.0,
            constant=(self._is_constant(moments, 0), self._is_constant(moments, 1)),
            bins=bins,
            row_bins=row_bins,
        )

    def _find_cells_of_bins(self, cells: Cells) -> IntArray:
        """Return the flat index (arm, endpoint, slot) of each row of `cells.bins` in the panel's arrays.

        It is -1 if the panel lacks the bucket or the endpoint of the row. The indices of all possible buckets and
        endpoints are computed first, because rows are many more.
        """
        rows = cells.bins
        # Position in the panel of each possible bucket, and of each endpoint as a column; -1: not in the panel.
        slot = self.slots.find(np.arange(self.slots.possible))
        endpoint = self.endpoints.find(np.arange(len(cells.endpoints)))[:, None]
        # The bitwise or of two numbers is negative if one of them is -1.
        of_baseline = np.where((endpoint | slot) >= 0, endpoint * self.slots.size + slot, -1)
        of_candidate = np.where(of_baseline >= 0, of_baseline + self.endpoints.size * self.slots.size, -1)
        # Position of each row in the table (2, endpoints, possible slots) of both; in place, because it is large.
        table_position = self._find_arm(rows) * len(cells.endpoints)
        table_position += rows.endpoint
        table_position *= slot.size
        table_position += number_buckets(rows.run, rows.bucket, self.base, self.span)
        return np.take(np.stack([of_baseline, of_candidate]), table_position)

    def _is_constant(self, moments: Moments, arm: int) -> bool:
        """Are all response times of successes of an arm (0 baseline, 1 candidate) equal? False without successes."""
        rows = np.flatnonzero((self._find_arm(moments) == arm) & (moments.n > moments.failures))
        lowest, highest = moments.min_time, moments.max_time
        # The first comparison only saves time: it is enough for nearly all data.
        if not rows.size or lowest[rows[0]] != highest[rows[-1]]:
            return False
        return bool(lowest[rows].min() == highest[rows].max())
