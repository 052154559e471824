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
MOST_KEPT = 2000
"""Most endpoints that keep their names when a run lands; those with the fewest requests are pooled then.

A service has fewer, and memory grows with their number.
"""
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
    # Requests of each arm and endpoint, shape (arms, endpoints), from one number for each pair of both.
    arm_and_endpoint = moments.arm * endpoints + moments.endpoint
    requests = np.bincount(arm_and_endpoint, weights=moments.n, minlength=len(cells.arms) * endpoints)
    is_pooled = requests.reshape(-1, endpoints).min(axis=0) < least
    is_pooled &= np.array([name not in keep for name in cells.endpoints])
    kept_names = [name for name, pooled in zip(cells.endpoints, is_pooled, strict=True) if not pooled]
    # The kept endpoints are numbered from 0 in their order, the pooled endpoint follows them.
    new_code: IntArray = np.where(is_pooled, len(kept_names), np.cumsum(~is_pooled) - 1)
    return replace(recode(cells, endpoint=new_code), endpoints=(*kept_names, OTHER_ENDPOINTS))
