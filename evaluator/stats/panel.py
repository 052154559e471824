"""Baseline and one candidate on a common time axis: the dense arrays that every comparison starts from.

A *slot* is one bucket of one run. Endpoints keep their own time blocks: one bucket, doubled until the smaller arm
expects five requests in it, at most five minutes (method B.2). Where the arms of a run did not overlap in time the
block is the whole run, which leaves their time variance unpaired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluator.records import BLOCK_BUCKETS, Bins, Cells, InstanceBins, Moments
from evaluator.stats.bins import mean_logs
from evaluator.stats.histogram import SortedBins, sort_bins, sum_by_cell
from evaluator.stats.index import Index, distinct, rows_of_each
from evaluator.stats.steps import find_steps_us

__all__ = ["InstanceRows", "Panel", "build_panel"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Rows = Moments | Bins | InstanceBins

EXPECTED_IN_BLOCK = 5
MAX_BLOCK_S = 300
MIN_OVERLAP = 0.5
RARELY_EMPTY = 3.0
ALIGNED = 256
"""Each run's buckets are counted from a multiple of this: no block of any width straddles the origin."""
WHOLE_RUN = 0
"""Width code of a block that is the whole run."""


@dataclass(frozen=True, slots=True)
class InstanceRows:
    """One row per instance × block of `BLOCK_BUCKETS` buckets × endpoint that has requests, both arms, in this order.

    `stratum` numbers endpoint × time block; `series` numbers instance × block slot; `slots` block slots in all.
    """

    arm: IntArray
    instance: IntArray
    endpoint: IntArray
    slot: IntArray
    stratum: IntArray
    n: FloatArray
    failures: FloatArray
    sum_ms: FloatArray
    sum_bytes: FloatArray
    sum_log_ms: FloatArray
    """Sum of the logarithms of the times (ms) of successes."""
    instance_arm: IntArray
    """Arm (0 baseline, 1 candidate) of each instance, shape (instances,)."""
    names: tuple[str, ...]
    """Name of each instance."""
    histogram: IntArray
    """Which row of the instance histogram each row is."""
    histogram_rows: int
    """Rows of the histogram: more than here at an earlier look."""
    place: IntArray
    """Run and block of each block slot as one rising number, shape (slots,)."""
    blocks: int
    """Such numbers per run."""
    slots: int
    strata: int

    def before(self, block_place: int, widths: IntArray) -> InstanceRows:
        """The rows as they were before this block of the only run."""
        slots = int(np.searchsorted(self.place, block_place))
        known = np.flatnonzero(self.slot < slots)
        sums = ("n", "failures", "sum_ms", "sum_bytes", "sum_log_ms")
        columns = ("arm", "instance", "endpoint", "slot", *sums, "histogram")
        kept = {name: getattr(self, name)[known] for name in columns}
        stratum = _stratify(widths, kept["endpoint"], kept["slot"], self.place, self.blocks)
        return replace(self, **kept, stratum=stratum.find(stratum.given), slots=slots, strata=stratum.size)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Dense arrays: axis 0 baseline and candidate, then endpoint, then slot. Times in milliseconds."""

    endpoints: tuple[str, ...]
    bucket_s: int
    grid_ms: float
    """Step of which all times of the run are multiples."""
    steps_us: IntArray
    """Step of the times of each arm and endpoint (µs), (2, endpoints): a multiple of the grid."""
    run: IntArray
    """Run of each slot, shape (slots,); slots are in time order and a run's slots adjoin."""
    place: IntArray
    """Bucket of each slot within its run, from an origin that all blocks respect."""
    origin: int
    """Bucket of that origin, for a panel of one run."""
    stride: int
    """Slots that a histogram cell counts for each endpoint: those of the panel, or more at an earlier look."""
    position: FloatArray
    """Place of each slot within its run, 0 to 1."""
    n: FloatArray
    failures: FloatArray
    sum_ms: FloatArray
    sum_bytes: FloatArray
    sum_log_ms: FloatArray
    """Sum of the logarithms of the times (ms) of successes, as exact as the bins."""
    widths: IntArray
    """Block width of each endpoint in buckets; a power of two."""
    block_starts: dict[int, IntArray]
    """For each width in use, the first slot of every block."""
    paired: dict[int, bool]
    """For each run: did the arms overlap in time?"""
    constant: tuple[bool, bool]
    """Per arm: are all times equal?"""
    bins: SortedBins
    """Its cells are (2, endpoints, stride)."""
    rows: InstanceRows
    row_bins: SortedBins
    """Its cells are the rows of the instance histogram."""

    @property
    def slots(self) -> int:
        """Usable buckets, over all runs."""
        return int(self.run.size)

    @property
    def runs(self) -> IntArray:
        """Codes of the runs present."""
        return distinct(self.run)

    @property
    def ok(self) -> FloatArray:
        """Successes, shape (2, endpoints, slots)."""
        return self.n - self.failures

    @property
    def has_fine_blocks(self) -> bool:
        """Is every slot a block of its own?"""
        return all(starts.size == self.slots for starts in self.block_starts.values())

    def before(self, bucket: int) -> Panel | None:
        """The panel of one run as it was before this bucket, at the start of a block; `None` where it was empty."""
        slots = int(np.searchsorted(self.place, bucket - self.origin))
        if not slots or not (self.n[:, :, :slots].sum(axis=(1, 2)) > 0).all():
            return None
        # Copies, not views: sums over them are then the same to the last bit as when no more data had landed.
        n, failures, sum_ms, sum_bytes, sum_log_ms = (
            np.ascontiguousarray(values[:, :, :slots])
            for values in (self.n, self.failures, self.sum_ms, self.sum_bytes, self.sum_log_ms)
        )
        widths = choose_widths(n, self.bucket_s) if all(self.paired.values()) else self.widths
        run, place = self.run[:slots], self.place[:slots]
        return replace(
            self,
            run=run,
            place=place,
            position=(place - place[0] + 0.5) / (place[-1] - place[0] + 1),
            n=n,
            failures=failures,
            sum_ms=sum_ms,
            sum_bytes=sum_bytes,
            sum_log_ms=sum_log_ms,
            widths=widths,
            block_starts={int(w): _starts(run, place, int(w)) for w in distinct(widths)},
            rows=self.rows.before((bucket - self.origin) // BLOCK_BUCKETS, widths),
        )

    def by_cell(self, counts: FloatArray) -> FloatArray:
        """Counts per histogram cell (..., 2 · endpoints · stride) laid out as (..., 2, endpoints, slots)."""
        shape = (*counts.shape[:-1], 2, len(self.endpoints), self.stride)
        return counts.reshape(shape)[..., : self.slots]

    def block_sum(self, values: FloatArray) -> FloatArray:
        """Sum `values` (..., endpoints, slots) over each endpoint's blocks, repeated on every slot of the block."""
        if self.has_fine_blocks:
            return values
        out = np.empty_like(values)
        for width, starts in self.block_starts.items():
            chosen = self.widths == width
            if not chosen.any():
                continue
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
    whole_runs: bool = False,
) -> Panel | None:
    """Panel of the baseline (`cells.arms[0]`) and `candidate`; `None` where they share no usable bucket.

    `endpoint` restricts to one endpoint; `first_bucket` gives for each run code the first bucket to use (warm-up).
    `whole_runs`: levels are standardised over runs, not over time within them.
    """
    choice = _Choice(cells, cells.arms.index(candidate), endpoint, first_bucket)
    moments = _select(cells.moments, choice.of(cells.moments))
    stretches = _find_stretches(moments)
    usable = _is_within(moments, stretches)
    if not usable.any():
        return None
    paired = {run: stretch is not None for run, stretch in stretches.items()}
    return _Layout(cells, choice, _select(moments, usable), paired).panel(whole_runs=whole_runs)


def _select(moments: Moments, keep: BoolArray) -> Moments:
    """Some of the rows; where that is all of them nothing is copied."""
    if keep.all():
        return moments
    rows = np.flatnonzero(keep)
    return Moments(**{name: getattr(moments, name)[rows] for name in Moments.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which rows belong to the two arms, the endpoint and the window."""

    cells: Cells
    candidate: int
    endpoint: str | None
    first_bucket: dict[int, int] | None

    def arms(self, rows: Rows) -> BoolArray | None:
        """Rows of the two arms; `None` where there are no others."""
        return None if len(self.cells.arms) == 2 else (rows.arm == 0) | (rows.arm == self.candidate)

    def of(self, rows: Moments) -> BoolArray:
        keep = (rows.arm == 0) | (rows.arm == self.candidate)
        if self.endpoint is not None:
            keep &= rows.endpoint == self.cells.endpoints.index(self.endpoint)
        if self.first_bucket:
            first = np.array([self.first_bucket.get(code, -(2**62)) for code in range(len(self.cells.runs))])
            # A block that the start of the data cuts is whole: there is nothing before it.
            keep &= rows.bucket >= (first // BLOCK_BUCKETS * BLOCK_BUCKETS)[rows.run]
        return np.asarray(keep)


def _find_stretches(moments: Moments) -> dict[int, tuple[int, int] | None]:
    """For each run with both arms: the first and last bucket that both cover, `None` where they did not overlap.

    They overlap if both cover at least half of the time that the shorter one covers: a canary of an hour overlaps with
    a baseline of a day. What an arm covers is told by its own rate (`_cover`).
    """
    out: dict[int, tuple[int, int] | None] = {}
    for run, here in rows_of_each(moments.run):
        bucket, candidate, n = moments.bucket[here], moments.arm[here] != 0, moments.n[here]
        first, last = int(bucket.min()), int(bucket.max())
        place = 2 * (bucket - first)
        place += candidate
        counts = np.bincount(place, weights=n, minlength=2 * (last - first + 1)).reshape(-1, 2)
        if not counts.sum(axis=0).all():
            continue
        covered = np.stack([_cover(np.asarray(count, float)) for count in counts.T])
        together = int(covered.all(axis=0).sum())
        used = [first + np.flatnonzero(count) for count in counts.T]
        ends = max(int(at[0]) for at in used), min(int(at[-1]) for at in used)
        overlap = together >= MIN_OVERLAP * int(covered.sum(axis=1).min()) and ends[0] <= ends[1]
        out[run] = ends if overlap else None
    return out


def _cover(counts: FloatArray) -> BoolArray:
    """Tell in which buckets an arm was there: in those with requests, and as far around as it is rarely without one.

    Independent requests leave a time that holds three on average empty in one of twenty cases; clusters more often.
    """
    used = np.flatnonzero(counts)
    mean = counts.sum() / (used[-1] - used[0] + 1)
    reach = max(int(np.ceil(RARELY_EMPTY / mean)), 1)
    edges = np.zeros(counts.size + 1)
    np.add.at(edges, np.maximum(used - reach, used[0]), 1)
    np.add.at(edges, np.minimum(used + reach, used[-1]) + 1, -1)
    return np.asarray(np.cumsum(edges[:-1]) > 0)


def _is_within(moments: Moments, stretches: dict[int, tuple[int, int] | None]) -> BoolArray:
    """Rows within the stretch of their run that both arms cover (runs that overlap); all rows of other runs."""
    keep = np.zeros(moments.run.size, dtype=bool)
    for run, stretch in stretches.items():
        here = moments.run == run
        if stretch is not None:
            here &= (moments.bucket >= stretch[0]) & (moments.bucket <= stretch[1])
        keep |= here
    return keep


class _Layout:
    """Numbers slots, endpoints, instances and blocks; builds the arrays of a panel."""

    def __init__(self, cells: Cells, choice: _Choice, moments: Moments, paired: dict[int, bool]) -> None:
        self.cells, self.choice, self.moments, self.paired = cells, choice, moments, paired
        self.arm = self._candidate(moments)
        self.base = np.zeros(len(cells.runs), dtype=np.int64)
        buckets = 0
        for run, here in rows_of_each(moments.run):
            bucket = moments.bucket[here]
            self.base[run] = bucket.min() // ALIGNED * ALIGNED
            buckets = max(buckets, int(bucket.max() - self.base[run]) + 1)
        self.span = -(-buckets // ALIGNED) * ALIGNED
        self.blocks = self.span // BLOCK_BUCKETS
        runs = len(cells.runs)
        self.slots = Index(self._slot_key(moments), runs * (self.span + 2))
        self.block = moments.bucket // BLOCK_BUCKETS
        self.block_slots = Index(self._block_key(moments.run, self.block), runs * (self.blocks + 2))
        self.endpoints = Index(moments.endpoint, len(cells.endpoints))
        self.instances = Index(self._instance_code(moments), 2 * len(cells.instances))
        self.run = self.slots.keys // (self.span + 2)
        self.place = self.slots.keys % (self.span + 2) - 1
        self.shape = (2, self.endpoints.size, self.slots.size)

    def _candidate(self, rows: Rows) -> IntArray:
        """1 for rows of a candidate, 0 for those of the baseline."""
        return rows.arm if len(self.cells.arms) == 2 else np.minimum(rows.arm, 1)

    def _slot_key(self, rows: Moments | Bins) -> IntArray:
        return _key(rows.run, rows.bucket, self.base, self.span)

    def _block_key(self, run: IntArray, block: IntArray) -> IntArray:
        return _key(run, block, self.base // BLOCK_BUCKETS, self.blocks)

    def panel(self, *, whole_runs: bool) -> Panel:
        """Lay everything out."""
        moments = self.moments
        cell = self.arm * self.shape[1] + self.endpoints.find(moments.endpoint)
        cell = cell * self.shape[2] + self.slots.find(self.slots.given)

        def dense(values: FloatArray | IntArray) -> FloatArray:
            summed = np.bincount(cell, weights=values, minlength=int(np.prod(self.shape)))
            return np.asarray(summed, float).reshape(self.shape)

        n = dense(moments.n)
        together = all(self.paired.values()) and not whole_runs
        widths = choose_widths(n, self.cells.bucket_s) if together else np.full(n.shape[1], WHOLE_RUN)
        rows, row_index = self._rows(widths)
        bins, row_bins = self._bins(), self._row_bins(row_index, int(np.searchsorted(rows.arm, 1)))
        grid_ms = self.cells.grid_us / 1000
        logs = mean_logs(max(bins.last, row_bins.last), grid_ms)
        return Panel(
            endpoints=tuple(self.cells.endpoints[code] for code in self.endpoints.keys),
            bucket_s=self.cells.bucket_s,
            grid_ms=grid_ms,
            steps_us=find_steps_us(moments, cell // self.shape[2], self.shape[:2], self.cells.grid_us),
            run=self.run,
            place=self.place,
            origin=int(self.base[self.run[0]]),
            stride=self.slots.size,
            position=self._positions(),
            n=n,
            failures=dense(moments.failures),
            sum_ms=dense(moments.sum_us) / 1000,
            sum_bytes=dense(moments.bytes),
            sum_log_ms=sum_by_cell(bins, logs, n.size).reshape(self.shape),
            widths=widths,
            block_starts={int(w): _starts(self.run, self.place, int(w)) for w in distinct(widths)},
            paired=self.paired,
            constant=(self._is_constant(0), self._is_constant(1)),
            bins=bins,
            rows=replace(rows, sum_log_ms=sum_by_cell(row_bins, logs, row_index.size)),
            row_bins=row_bins,
        )

    def _is_constant(self, arm: int) -> bool:
        mine = np.flatnonzero((self.arm == arm) & (self.moments.n > self.moments.failures))
        low, high = self.moments.min_us, self.moments.max_us
        if not mine.size or low[mine[0]] != high[mine[-1]]:
            return False
        return bool(low[mine].min() == high[mine].max())

    def _positions(self) -> FloatArray:
        position = np.zeros(self.run.size)
        for run in distinct(self.run):
            here = self.run == run
            place = self.place[here] - self.place[here].min()
            position[here] = (place + 0.5) / (place.max() + 1)
        return position

    def _bins(self) -> SortedBins:
        rows = self.cells.bins
        slot = self.slots.find(np.arange(self.slots.possible))
        endpoint = self.endpoints.find(np.arange(len(self.cells.endpoints)))[:, None]
        # Rows outside the window or of other endpoints have no place among those of the moments.
        cells = np.where((endpoint | slot) >= 0, endpoint * self.shape[2] + slot, -1)
        of_baseline = self.shape[1] * self.shape[2]
        table = np.stack([cells, np.where(cells >= 0, cells + of_baseline, -1)])
        code = self._candidate(rows) * len(self.cells.endpoints)
        code += rows.endpoint
        code *= slot.size
        code += self._slot_key(rows)
        return sort_bins(rows, np.take(table, code), of_baseline, self.choice.arms(rows))

    def _instance_code(self, rows: Moments | InstanceBins) -> IntArray:
        """A number for each name of an instance within its arm, the baseline's first."""
        code = self._candidate(rows) * len(self.cells.instances)
        code += rows.instance
        return code

    def _row_code(self, rows: Moments | InstanceBins, block: IntArray) -> IntArray:
        """A number for each instance × block × endpoint, in use or not."""
        code = self._instance_code(rows)
        code *= self.block_slots.possible
        code += self._block_key(rows.run, block)
        code *= len(self.cells.endpoints)
        code += rows.endpoint
        return code

    def _rows(self, widths: IntArray) -> tuple[InstanceRows, Index]:
        """Instance rows, and where to find the row of an instance × block × endpoint."""
        moments = self.moments
        code = self._row_code(moments, self.block)
        index = Index(code, self.instances.possible * self.block_slots.possible * len(self.cells.endpoints))
        row = index.find(code)

        def summed(values: FloatArray | IntArray) -> FloatArray:
            return np.asarray(np.bincount(row, weights=values, minlength=index.size), float)

        when, endpoint = np.divmod(index.keys, len(self.cells.endpoints))
        instance, block = np.divmod(when, self.block_slots.possible)
        row_instance, row_slot = self.instances.find(instance), self.block_slots.find(block)
        row_endpoint = self.endpoints.find(endpoint)
        instance_arm = self.instances.keys // len(self.cells.instances)
        place = self._block_place()
        strata = _stratify(widths, row_endpoint, row_slot, place, self.blocks)
        rows = InstanceRows(
            arm=instance_arm[row_instance],
            instance=row_instance,
            endpoint=row_endpoint,
            slot=row_slot,
            stratum=strata.find(strata.given),
            n=summed(moments.n),
            failures=summed(moments.failures),
            sum_ms=summed(moments.sum_us) / 1000,
            sum_bytes=summed(moments.bytes),
            sum_log_ms=np.zeros(index.size),
            instance_arm=instance_arm,
            names=tuple(self.cells.instances[code % len(self.cells.instances)] for code in self.instances.keys),
            histogram=np.arange(index.size),
            histogram_rows=index.size,
            place=place,
            blocks=self.blocks,
            slots=self.block_slots.size,
            strata=strata.size,
        )
        return rows, index

    def _block_place(self) -> IntArray:
        """Run and block of each block slot as one rising number."""
        run, place = self.block_slots.keys // (self.blocks + 2), self.block_slots.keys % (self.blocks + 2) - 1
        return np.asarray(run * self.blocks + place)

    def _row_bins(self, index: Index, of_baseline: int) -> SortedBins:
        rows = self.cells.instance_bins
        return sort_bins(rows, index.find(self._row_code(rows, rows.block)), of_baseline, self.choice.arms(rows))


def choose_widths(n: FloatArray, bucket_s: int) -> IntArray:
    """Block width of each endpoint: doubled until the smaller arm expects enough requests in a block."""
    expected = n.sum(axis=2).min(axis=0) / n.shape[2]
    widest = 1
    while widest * 2 * bucket_s <= MAX_BLOCK_S and widest < ALIGNED:
        widest *= 2
    wanted = EXPECTED_IN_BLOCK / np.maximum(expected, 1e-9)
    width: IntArray = np.clip(2 ** np.ceil(np.log2(np.maximum(wanted, 1.0))), 1, widest).astype(np.int64)
    return width


def _stratify(widths: IntArray, endpoint: IntArray, slot: IntArray, slot_place: IntArray, blocks: int) -> Index:
    """Endpoint × time block of each row; blocks here are whole blocks of the instance histogram."""
    wide = np.where(widths == WHOLE_RUN, blocks, np.maximum(1, widths // BLOCK_BUCKETS))
    run, place = np.divmod(slot_place, blocks)
    codes = (run * blocks + place // wide[:, None]) * widths.size + np.arange(widths.size)[:, None]
    return Index(codes[endpoint, slot], (int(slot_place.max()) + 1) * widths.size)


def _starts(run: IntArray, place: IntArray, width: int) -> IntArray:
    """First slot of every block of this width."""
    block = np.zeros_like(place) if width == WHOLE_RUN else place // width
    changed = (np.diff(run, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0)
    return np.asarray(np.flatnonzero(changed))


def _key(run: IntArray, when: IntArray, base: IntArray, span: int) -> IntArray:
    """A number for each place of each run, with one before the first and one after the last for all that is outside."""
    key = when - (base[0] - 1 if base.size == 1 else base[run] - 1)
    np.clip(key, 0, span + 1, out=key)
    if base.size > 1:
        key += run * (span + 2)
    return key
