"""A part of a release is judged as if only that had been recorded."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import SMALL

from evaluator.errors import UnknownName, UsageError
from evaluator.records import BLOCK_BUCKETS
from evaluator.simulate import simulate, to_cells
from evaluator.stats.narrow import cut_each_run, narrow
from evaluator.stats.panel import build_panel

REQUESTS = simulate(SMALL, 3)
CELLS = to_cells(REQUESTS)


def select(keep):
    columns = {
        field.name: getattr(REQUESTS, field.name)[keep]
        for field in fields(REQUESTS)
        if isinstance(getattr(REQUESTS, field.name), np.ndarray) and getattr(REQUESTS, field.name).size == len(REQUESTS)
    }
    return to_cells(replace(REQUESTS, **columns), bucket_s=CELLS.bucket_s)


def assert_same_panel(one, other):
    one, other = build_panel(one, "canary"), build_panel(other, "canary")
    for left, right in ((one, other), (one.rows, other.rows)):
        for name in ("n", "failures"):
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-9, err_msg=name)
        for name in ("time_ms", "log_time_ms", "bytes"):
            np.testing.assert_allclose(left.totals[name], right.totals[name], rtol=1e-9, err_msg=name)
    assert one.endpoints == other.endpoints


def test_a_stretch_of_time_is_whole_blocks():
    block_us = CELLS.bucket_s * BLOCK_BUCKETS * 1_000_000
    first = int(REQUESTS.ts_us.min() // block_us + 2) * block_us
    last = first + 3 * block_us
    start, end = (datetime.fromtimestamp(ts / 1e6, UTC) for ts in (first + 1, last - 1))
    inside = (REQUESTS.ts_us >= first) & (REQUESTS.ts_us < last)
    assert_same_panel(narrow(CELLS, start=start, end=end), select(inside))


def test_some_endpoints():
    inside = np.isin(REQUESTS.endpoint, [1, 3])
    assert_same_panel(narrow(CELLS, endpoints=[REQUESTS.endpoints[1], REQUESTS.endpoints[3]]), select(inside))


def test_some_instances_have_blocks_for_buckets():
    names = [name for name in CELLS.instances if not name.endswith("0")]
    found = narrow(CELLS, instances=names)
    codes = [CELLS.instances.index(name) for name in names]
    keep = np.isin(CELLS.moments.instance, codes)
    assert found.bucket_s == BLOCK_BUCKETS * CELLS.bucket_s
    assert found.moments.n.sum() == CELLS.moments.n[keep].sum()
    successes = (CELLS.moments.n - CELLS.moments.failures)[keep].sum()
    assert found.bins.n.sum() == successes == found.instance_bins.n.sum()
    panel = build_panel(found, "canary")
    assert panel.n.sum() <= found.moments.n.sum()
    np.testing.assert_allclose(panel.by_cell(np.bincount(panel.bins.cell, panel.bins.n, panel.n.size)), panel.ok)


def test_what_is_not_there_is_named():
    with pytest.raises(UnknownName, match="no endpoint 'GET /endpoint/01'; did you mean"):
        narrow(CELLS, endpoints=["GET /endpoint/01"])
    with pytest.raises(UnknownName, match="no instance"):
        narrow(CELLS, instances=["nobody"])


def test_an_empty_stretch_is_refused():
    with pytest.raises(UsageError, match="empty"):
        narrow(CELLS, start=datetime(2026, 1, 2, tzinfo=UTC), end=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_stretch_of_each_run():
    block_us = CELLS.bucket_s * BLOCK_BUCKETS * 1_000_000
    first = int(REQUESTS.ts_us.min() // block_us) * block_us
    inside = (REQUESTS.ts_us >= first + block_us) & (REQUESTS.ts_us < first + 4 * block_us)
    assert_same_panel(cut_each_run(CELLS, block_us / 1e6, 3.5 * block_us / 1e6), select(inside))
