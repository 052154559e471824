"""Baseline and one candidate on a common time axis: the dense arrays that every comparison starts from.

A *slot* is one bucket of one run. Endpoints keep their own time blocks: one bucket, doubled until the smaller arm
expects five requests in it, at most five minutes (method B.2). Where the arms of a run did not overlap in time the
block is the whole run, which leaves their time variance unpaired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from evaluator.records import BLOCK_BUCKETS, Bins, Cells, InstanceBins, Moments

__all__ = ["InstanceRows", "Panel", "SortedBins", "build_panel"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Rows = TypeVar("Rows", Moments, Bins, InstanceBins)

EXPECTED_IN_BLOCK = 5
MAX_BLOCK_S = 300
MIN_OVERLAP = 0.5
WHOLE_RUN = 0
"""Width code of a block that is the whole run."""


@dataclass(frozen=True, slots=True)
class SortedBins:
    """Histogram rows of one arm, sorted by bin; `cell` indexes the flattened cells of the histogram's layout."""

    cell: IntArray
    bin: IntArray
    n: FloatArray


@dataclass(frozen=True, slots=True)
class InstanceRows:
    """One row per instance × endpoint × block of `BLOCK_BUCKETS` buckets that has requests, both arms.

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
    instance_arm: IntArray
    """Arm (0 baseline, 1 candidate) of each instance, shape (instances,)."""
    slots: int
    strata: int


@dataclass(frozen=True, slots=True)
class Panel:
    """Dense arrays: axis 0 baseline and candidate, then endpoint, then slot. Times in milliseconds."""

    endpoints: tuple[str, ...]
    bucket_s: int
    grid_ms: float
    run: IntArray
    """Run of each slot, shape (slots,); slots are in time order and a run's slots adjoin."""
    position: FloatArray
    """Place of each slot within its run, 0 to 1."""
    n: FloatArray
    failures: FloatArray
    sum_ms: FloatArray
    widths: IntArray
    """Block width of each endpoint in buckets; a power of two."""
    block_starts: dict[int, IntArray]
    """For each width in use, the first slot of every block."""
    paired: dict[int, bool]
    """For each run: did the arms overlap in time?"""
    constant: tuple[bool, bool]
    """Per arm: are all times equal?"""
    bins: tuple[SortedBins, SortedBins]
    rows: InstanceRows
    row_bins: tuple[SortedBins, SortedBins]

    @property
    def slots(self) -> int:
        """Usable buckets, over all runs."""
        return int(self.run.size)

    @property
    def runs(self) -> IntArray:
        """Codes of the runs present."""
        return np.unique(self.run)

    @property
    def ok(self) -> FloatArray:
        """Successes, shape (2, endpoints, slots)."""
        return self.n - self.failures

    def block_sum(self, values: FloatArray) -> FloatArray:
        """Sum `values` (..., endpoints, slots) over each endpoint's blocks, repeated on every slot of the block."""
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
    cells: Cells, candidate: str, *, endpoint: str | None = None, first_bucket: dict[int, int] | None = None
) -> Panel | None:
    """Panel of the baseline (`cells.arms[0]`) and `candidate`; `None` where they share no usable bucket.

    `endpoint` restricts to one endpoint; `first_bucket` gives for each run code the first bucket to use (warm-up).
    """
    keep = _chosen(cells, cells.moments, candidate, endpoint, first_bucket)
    moments = _take(cells.moments, keep)
    arm = (moments.arm != 0).astype(np.int64)
    if not (arm == 0).any() or not (arm == 1).any():
        return None
    paired = _overlaps(moments, arm)
    axis = _TimeAxis(moments, arm, paired, cells.bucket_s, cells)
    if axis.run.size == 0:
        return None
    return axis.panel(cells, candidate, endpoint, first_bucket)


def _chosen(
    cells: Cells,
    rows: Moments | Bins | InstanceBins,
    candidate: str,
    endpoint: str | None,
    first_bucket: dict[int, int] | None,
) -> BoolArray:
    """Which rows belong to the two arms, the endpoint and the window."""
    keep = (rows.arm == 0) | (rows.arm == cells.arms.index(candidate))
    if endpoint is not None:
        keep &= rows.endpoint == cells.endpoints.index(endpoint)
    if first_bucket:
        first = np.array([first_bucket.get(code, -(2**62)) for code in range(len(cells.runs))])
        when = rows.block * BLOCK_BUCKETS if isinstance(rows, InstanceBins) else rows.bucket
        keep &= when >= first[rows.run]
    return np.asarray(keep)


def _take(rows: Rows, keep: BoolArray) -> Rows:
    return type(rows)(**{name: getattr(rows, name)[keep] for name in rows.__dataclass_fields__})


def _overlaps(moments: Moments, arm: IntArray) -> dict[int, bool]:
    """For each run with both arms: do at least half of each arm's requests lie in buckets that both arms have?"""
    out: dict[int, bool] = {}
    for run in np.unique(moments.run):
        here = moments.run == run
        buckets = [moments.bucket[here & (arm == a)] for a in (0, 1)]
        if not buckets[0].size or not buckets[1].size:
            continue
        shares = [
            moments.n[here & (arm == a)][np.isin(buckets[a], buckets[1 - a])].sum() / moments.n[here & (arm == a)].sum()
            for a in (0, 1)
        ]
        out[int(run)] = min(shares) >= MIN_OVERLAP
    return out


class _TimeAxis:
    """Numbers slots, endpoints and blocks; builds the dense arrays."""

    def __init__(self, moments: Moments, arm: IntArray, paired: dict[int, bool], bucket_s: int, cells: Cells) -> None:
        self.paired = paired
        self.bucket_s = bucket_s
        self.base = int(cells.moments.bucket.min())
        self.span = int(cells.moments.bucket.max()) - self.base + 1
        usable = np.isin(moments.run, [run for run, _ in paired.items()])
        usable &= self._shared(moments, arm)
        self.moments, self.arm = _take(moments, usable), arm[usable]
        keys = self._key(self.moments.run, self.moments.bucket)
        slots = np.unique(keys)
        self.slot_keys = slots
        self.run = slots // self.span
        self.bucket = slots % self.span + self.base
        self.endpoint_codes = np.unique(self.moments.endpoint)

    def _key(self, run: IntArray, bucket: IntArray) -> IntArray:
        return np.asarray(run * self.span + (bucket - self.base))

    def _shared(self, moments: Moments, arm: IntArray) -> BoolArray:
        """Rows within the stretch of their run that both arms cover (runs that overlap); all rows of other runs."""
        keep = np.ones(moments.run.size, dtype=bool)
        for run, overlap in self.paired.items():
            if not overlap:
                continue
            here = moments.run == run
            ends = [(moments.bucket[here & (arm == a)].min(), moments.bucket[here & (arm == a)].max()) for a in (0, 1)]
            inside = (moments.bucket >= max(e[0] for e in ends)) & (moments.bucket <= min(e[1] for e in ends))
            keep &= ~here | inside
        return keep

    def lookup_slot(self, run: IntArray, bucket: IntArray) -> IntArray:
        """Slot of each (run, bucket), -1 where it is not in use."""
        keys = self._key(run, bucket)
        at = np.minimum(np.searchsorted(self.slot_keys, keys), self.slot_keys.size - 1)
        return np.where(self.slot_keys[at] == keys, at, -1)

    def lookup_endpoint(self, codes: IntArray) -> IntArray:
        """Position of each endpoint code in the panel, -1 where it is not in use."""
        table = np.full(int(max(codes.max(initial=0), self.endpoint_codes.max())) + 1, -1)
        table[self.endpoint_codes] = np.arange(self.endpoint_codes.size)
        return np.asarray(table[codes])

    def panel(self, cells: Cells, candidate: str, endpoint: str | None, first_bucket: dict[int, int] | None) -> Panel:
        shape = (2, self.endpoint_codes.size, self.run.size)
        slot = self.lookup_slot(self.moments.run, self.moments.bucket)
        cell = (self.arm * shape[1] + self.lookup_endpoint(self.moments.endpoint)) * shape[2] + slot

        def dense(values: FloatArray | IntArray) -> FloatArray:
            return np.asarray(np.bincount(cell, weights=values, minlength=int(np.prod(shape))), float).reshape(shape)

        n = dense(self.moments.n)
        widths = self._widths(n)
        bins = _take(cells.bins, _chosen(cells, cells.bins, candidate, endpoint, first_bucket))
        instance_bins = _take(
            cells.instance_bins, _chosen(cells, cells.instance_bins, candidate, endpoint, first_bucket)
        )
        rows, row_bins = self._instances(widths, instance_bins)
        return Panel(
            endpoints=tuple(cells.endpoints[code] for code in self.endpoint_codes),
            bucket_s=self.bucket_s,
            grid_ms=cells.grid_us / 1000,
            run=self.run,
            position=self._positions(),
            n=n,
            failures=dense(self.moments.failures),
            sum_ms=dense(self.moments.sum_us) / 1000,
            widths=widths,
            block_starts={int(w): self._starts(int(w)) for w in np.unique(widths)},
            paired=self.paired,
            constant=self._constant(),
            bins=self._sorted_bins(bins, shape),
            rows=rows,
            row_bins=row_bins,
        )

    def _constant(self) -> tuple[bool, bool]:
        def constant(arm: int) -> bool:
            mine = (self.arm == arm) & (self.moments.n > self.moments.failures)
            # A bucket of failures only has no extremes: NaN, or not counted by `mine`.
            return bool(mine.any() and np.nanmin(self.moments.min_us[mine]) == np.nanmax(self.moments.max_us[mine]))

        return constant(0), constant(1)

    def _widths(self, n: FloatArray) -> IntArray:
        """Block width of each endpoint: doubled until the smaller arm expects enough requests in a block."""
        if not all(self.paired.values()):
            return np.full(n.shape[1], WHOLE_RUN)
        expected = n.sum(axis=2).min(axis=0) / self.run.size
        widest = 1
        while widest * 2 * self.bucket_s <= MAX_BLOCK_S:
            widest *= 2
        wanted = EXPECTED_IN_BLOCK / np.maximum(expected, 1e-9)
        width: IntArray = np.clip(2 ** np.ceil(np.log2(np.maximum(wanted, 1.0))), 1, widest).astype(np.int64)
        return width

    def _block_of(self, run: IntArray, bucket: IntArray, width: int) -> IntArray:
        """A number that is equal within a block and grows with time."""
        within = bucket // width - self.base // width if width != WHOLE_RUN else np.zeros_like(bucket)
        return np.asarray(run * self.span * 2 + within)

    def _starts(self, width: int) -> IntArray:
        blocks = self._block_of(self.run, self.bucket, width)
        return np.asarray(np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1)))

    def _positions(self) -> FloatArray:
        position = np.zeros(self.run.size)
        for run in np.unique(self.run):
            here = self.run == run
            buckets = self.bucket[here] - self.bucket[here].min()
            position[here] = (buckets + 0.5) / (buckets.max() + 1)
        return position

    def _sorted_bins(self, bins: Bins, shape: tuple[int, int, int]) -> tuple[SortedBins, SortedBins]:
        slot = self.lookup_slot(bins.run, bins.bucket)
        endpoint = self.lookup_endpoint(bins.endpoint)
        keep = (slot >= 0) & (endpoint >= 0)
        cell = endpoint * shape[2] + slot
        is_candidate = bins.arm != 0
        return (
            _sort_bins(cell, bins.bin, bins.n, keep & ~is_candidate),
            _sort_bins(cell, bins.bin, bins.n, keep & is_candidate),
        )

    def _instances(
        self, widths: IntArray, instance_bins: InstanceBins
    ) -> tuple[InstanceRows, tuple[SortedBins, SortedBins]]:
        moments = self.moments
        endpoint = self.lookup_endpoint(moments.endpoint)
        block = moments.bucket // BLOCK_BUCKETS
        block_base = self.base // BLOCK_BUCKETS
        block_span = self.span // BLOCK_BUCKETS + 2
        slot_keys, slot = np.unique(moments.run * block_span + block - block_base, return_inverse=True)
        names, instance = np.unique(
            self.arm * (int(moments.instance.max()) + 1) + moments.instance, return_inverse=True
        )
        size = (names.size, self.endpoint_codes.size, slot_keys.size)
        code = (instance * size[1] + endpoint) * size[2] + slot
        codes, row = np.unique(code, return_inverse=True)
        row_instance, row_endpoint, row_slot = np.unravel_index(codes, size)

        def summed(values: FloatArray | IntArray) -> FloatArray:
            return np.asarray(np.bincount(row, weights=values, minlength=codes.size), float)

        instance_arm = names // (int(moments.instance.max()) + 1)
        slot_run, slot_block = slot_keys // block_span, slot_keys % block_span + block_base
        strata = np.empty(codes.size, dtype=np.int64)
        for width in np.unique(widths):
            here = widths[row_endpoint] == width
            wide = WHOLE_RUN if width == WHOLE_RUN else max(1, int(width) // BLOCK_BUCKETS)
            when = self._block_of(slot_run[row_slot[here]], slot_block[row_slot[here]], wide)
            strata[here] = when * self.endpoint_codes.size + row_endpoint[here]
        stratum = np.unique(strata, return_inverse=True)[1]
        rows = InstanceRows(
            arm=instance_arm[row_instance],
            instance=np.asarray(row_instance),
            endpoint=np.asarray(row_endpoint),
            slot=np.asarray(row_slot),
            stratum=stratum,
            n=summed(moments.n),
            failures=summed(moments.failures),
            sum_ms=summed(moments.sum_us) / 1000,
            instance_arm=instance_arm,
            slots=int(slot_keys.size),
            strata=int(stratum.max()) + 1,
        )
        return rows, self._row_bins(instance_bins, codes, names, slot_keys, block_span, block_base, size)

    def _row_bins(
        self,
        bins: InstanceBins,
        codes: IntArray,
        names: IntArray,
        slot_keys: IntArray,
        block_span: int,
        block_base: int,
        size: tuple[int, int, int],
    ) -> tuple[SortedBins, SortedBins]:
        arm = (bins.arm != 0).astype(np.int64)
        factor = int(self.moments.instance.max()) + 1
        name = np.where(bins.instance < factor, arm * factor + bins.instance, -1)
        instance = _find(names, name)
        slot = _find(slot_keys, bins.run * block_span + bins.block - block_base)
        endpoint = self.lookup_endpoint(bins.endpoint)
        found = (instance >= 0) & (slot >= 0) & (endpoint >= 0)
        row = _find(codes, np.where(found, (instance * size[1] + endpoint) * size[2] + slot, -1))
        return (
            _sort_bins(row, bins.bin, bins.n, (row >= 0) & (arm == 0)),
            _sort_bins(row, bins.bin, bins.n, (row >= 0) & (arm == 1)),
        )


def _find(known: IntArray, wanted: IntArray) -> IntArray:
    """Position of each value of `wanted` in the sorted `known`, -1 where it is not there."""
    at = np.minimum(np.searchsorted(known, wanted), known.size - 1)
    return np.where(known[at] == wanted, at, -1)


def _sort_bins(cell: IntArray, bins: IntArray, n: IntArray, keep: BoolArray) -> SortedBins:
    chosen = bins[keep].astype(np.int16)
    order = np.argsort(chosen, kind="stable")  # radix sort on 16 bits: linear in rows
    return SortedBins(cell[keep][order], chosen[order].astype(np.int64), n[keep][order].astype(float))
