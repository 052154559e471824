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
    The pooled endpoint comes last and is called `OTHER_ENDPOINTS`.
    """
    endpoints, moments = len(cells.endpoints), cells.moments
    if endpoints <= MOST_APART:
        return cells
    cell = moments.arm * endpoints + moments.endpoint
    requests = np.bincount(cell, weights=moments.n, minlength=len(cells.arms) * endpoints).reshape(-1, endpoints)
    pooled = requests.min(axis=0) < least
    pooled &= np.array([name not in keep for name in cells.endpoints])
    apart = [name for name, is_pooled in zip(cells.endpoints, pooled, strict=True) if not is_pooled]
    new_code: IntArray = np.where(pooled, len(apart), np.cumsum(~pooled) - 1)
    return replace(recode(cells, endpoint=new_code), endpoints=(*apart, OTHER_ENDPOINTS))
