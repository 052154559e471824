"""Thousands of endpoints that were hardly called: put together before any panel is built (method B.5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from evaluator.records import Cells
from evaluator.records.arrays import IntArray
from evaluator.stats.shaping.cells import recode

OTHER_ENDPOINTS = "other endpoints"
"""What endpoints with too few requests are called together."""
MOST_APART = 2000
"""Endpoints up to which each has arrays of its own, however rare: arrays are endpoints × buckets."""


def pool_rare_endpoints(cells: Cells, least: int, keep: Collection[str] = ()) -> Cells:
    """The cells with all endpoints of fewer than `least` requests on some arm as one; unchanged up to `MOST_APART`.

    So many endpoints have ids in their names, and what differs in name only is one endpoint. `keep`: never pooled.
    """
    size, moments = len(cells.endpoints), cells.moments
    if size <= MOST_APART:
        return cells
    counts = np.bincount(moments.arm * size + moments.endpoint, weights=moments.n, minlength=len(cells.arms) * size)
    rare = counts.reshape(-1, size).min(axis=0) < least
    rare &= np.array([name not in keep for name in cells.endpoints])
    apart = [name for name, pooled in zip(cells.endpoints, rare, strict=True) if not pooled]
    code: IntArray = np.where(rare, len(apart), np.cumsum(~rare) - 1)
    return replace(recode(cells, endpoint=code), endpoints=(*apart, OTHER_ENDPOINTS))
