"""Pool thousands of endpoints with very few requests into one before a panel is built (method B.5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from evaluator.records import Cells
from evaluator.records.arrays import IntArray
from evaluator.stats.shaping.cells import recode

OTHER_ENDPOINTS = "other endpoints"
"""Name of the pooled endpoints."""
MOST_APART = 2000
"""Up to this number of endpoints, none is pooled. Arrays of a panel grow with endpoints × buckets."""


def pool_rare_endpoints(cells: Cells, least: int, keep: Collection[str] = ()) -> Cells:
    """Pool all endpoints with fewer than `least` requests on some arm into one, if there are more than `MOST_APART`.

    So many endpoints usually have ids in their names, and are really one endpoint. Endpoints in `keep` are not pooled.
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
