"""The time blocks of a panel: how wide they are, and the numbers of buckets, blocks and strata (method B.2)."""

from __future__ import annotations

import numpy as np

from evaluator.records import BLOCK_BUCKETS
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.index import Index

EXPECTED_IN_BLOCK = 5
MAX_BLOCK_S = 300
ALIGNED = 256
"""The buckets of each run are counted from a multiple of this, so that the origin is the border of a block."""
WHOLE_RUN = 0
"""Code of the width of a block that is the whole run."""


def choose_widths(n: FloatArray, bucket_s: int) -> IntArray:
    """Choose the block width of each endpoint: doubled until the smaller arm expects 5 requests in it (method B.2).

    `n` are requests, shape (2, endpoints, buckets). Returns widths in buckets, shape (endpoints,), at most 5 minutes.
    """
    expected_in_bucket = n.sum(axis=2).min(axis=0) / n.shape[2]  # of the smaller arm, by endpoint
    widest = 1  # in buckets: the largest power of two that is at most 5 minutes, and `ALIGNED` buckets
    while widest * 2 * bucket_s <= MAX_BLOCK_S and widest < ALIGNED:
        widest *= 2
    needed = EXPECTED_IN_BLOCK / np.maximum(expected_in_bucket, 1e-9)
    rounded_up = 2 ** np.ceil(np.log2(np.maximum(needed, 1.0)))
    widths: IntArray = np.clip(rounded_up, 1, widest).astype(np.int64)
    return widths


def number_strata(widths: IntArray, endpoint: IntArray, slot: IntArray, slot_block: IntArray, blocks: int) -> Index:
    """Number the stratum (endpoint × time block) of each row in the counts of single instances (`InstanceRows`).

    These rows are counted by blocks of `BLOCK_BUCKETS` buckets; a time block is one or several of them.

    Args:
        widths: Length of the time blocks of each endpoint in buckets, shape (endpoints,), or `WHOLE_RUN`; less than
            `BLOCK_BUCKETS` counts as one block.
        endpoint: Endpoint of each row, shape (rows,).
        slot: Block slot (a block of a run that has data) of each row, shape (rows,).
        slot_block: run · `blocks` + block of each block slot, shape (slots,).
        blocks: Possible blocks of a run.

    Returns:
        An index of the strata, whose `codes` are the strata of the rows.
    """
    width_in_blocks = np.where(widths == WHOLE_RUN, blocks, np.maximum(1, widths // BLOCK_BUCKETS))
    run, block = np.divmod(slot_block, blocks)
    # A number for each time block of each run, shape (endpoints, slots).
    time_block = run * blocks + block // width_in_blocks[:, None]
    codes = time_block * widths.size + np.arange(widths.size)[:, None]
    return Index(codes[endpoint, slot], (int(slot_block.max()) + 1) * widths.size)


def find_block_starts(run: IntArray, offset: IntArray, width: int) -> IntArray:
    """Find the first slot of each block of `width` buckets (or `WHOLE_RUN`), shape (blocks,).

    `run` and `offset` are the run of each slot and its bucket within the run, shape (slots,).
    """
    block = np.zeros_like(offset) if width == WHOLE_RUN else offset // width
    # No run or block has the number -1, so that the first slot begins a block.
    changed = (np.diff(run, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0)
    return np.asarray(np.flatnonzero(changed))


def number_buckets(run: IntArray, bucket: IntArray, base: IntArray, span: int) -> IntArray:
    """Number the buckets (or blocks) of all runs: run · (span + 2) + bucket since the run's `base` + 1.

    All buckets before the base get the number 0 within the run, and all after `span` buckets the number span + 1.

    Args:
        run: Run of each row, shape (rows,).
        bucket: Bucket of each row, shape (rows,).
        base: Bucket from which those of each run are counted, shape (runs,).
        span: Buckets of the longest run.
    """
    # The 1 keeps 0 free for buckets before the base. A single run is the usual case: its base is one number.
    number = bucket - (base[0] - 1 if base.size == 1 else base[run] - 1)
    np.clip(number, 0, span + 1, out=number)
    if base.size > 1:
        number += run * (span + 2)
    return number
