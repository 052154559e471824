"""A part of a release is judged as if only this part had been recorded."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from judging import SMALL

from evaluator.errors import UnknownName, UsageError
from evaluator.records import BLOCK_BUCKETS
from evaluator.simulate import simulate, to_cells
from evaluator.stats.shaping.narrow import cut_each_run, cut_readings, narrow
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.replication import merge_unreplicated

REQUESTS = simulate(SMALL, 3)
CELLS = to_cells(REQUESTS)


def select(keep):
    columns = {
        field.name: getattr(REQUESTS, field.name)[keep]
        for field in fields(REQUESTS)
        if isinstance(getattr(REQUESTS, field.name), np.ndarray) and getattr(REQUESTS, field.name).size == len(REQUESTS)
    }
    return to_cells(replace(REQUESTS, **columns), bucket_s=CELLS.bucket_s)


def assert_same_panel(cells, expected):
    cells, expected = build_panel(cells, "canary"), build_panel(expected, "canary")
    for record, expected_record in ((cells, expected), (cells.rows, expected.rows)):
        for name in ("n", "failures"):
            np.testing.assert_allclose(getattr(record, name), getattr(expected_record, name), rtol=1e-9, err_msg=name)
        for name in ("time_ms", "log_time_ms", "bytes"):
            np.testing.assert_allclose(record.totals[name], expected_record.totals[name], rtol=1e-9, err_msg=name)
    assert cells.endpoints == expected.endpoints


def test_an_interval_of_time_is_whole_blocks():
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
    narrowed = narrow(CELLS, instances=names)
    codes = [CELLS.instances.index(name) for name in names]
    keep = np.isin(CELLS.moments.instance, codes)
    assert narrowed.bucket_s == BLOCK_BUCKETS * CELLS.bucket_s
    assert narrowed.moments.n.sum() == CELLS.moments.n[keep].sum()
    successes = (CELLS.moments.n - CELLS.moments.failures)[keep].sum()
    assert narrowed.bins.n.sum() == successes == narrowed.instance_bins.n.sum()
    panel = build_panel(narrowed, "canary")
    assert panel.n.sum() <= narrowed.moments.n.sum()
    np.testing.assert_allclose(panel.by_cell(np.bincount(panel.bins.cell, panel.bins.n, panel.n.size)), panel.ok)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownName, match="no endpoint 'GET /endpoint/01'; did you mean"):
        narrow(CELLS, endpoints=["GET /endpoint/01"])
    with pytest.raises(UnknownName, match="no instance"):
        narrow(CELLS, instances=["nobody"])


def test_an_empty_interval_is_refused():
    with pytest.raises(UsageError, match="empty"):
        narrow(CELLS, start=datetime(2026, 1, 2, tzinfo=UTC), end=datetime(2026, 1, 1, tzinfo=UTC))


def test_an_interval_of_each_run():
    block_us = CELLS.bucket_s * BLOCK_BUCKETS * 1_000_000
    first = int(REQUESTS.ts_us.min() // block_us) * block_us
    inside = (REQUESTS.ts_us >= first + block_us) & (REQUESTS.ts_us < first + 4 * block_us)
    assert_same_panel(cut_each_run(CELLS, block_us / 1e6, 3.5 * block_us / 1e6), select(inside))


def keep_instances(replicating, scraps):
    """Of each arm so many instances as they are, and of so many more one request."""
    keep = np.zeros(len(REQUESTS), dtype=bool)
    for code in range(len(REQUESTS.arms)):
        of_arm = REQUESTS.arm == code
        for index, instance in enumerate(np.unique(REQUESTS.instance[of_arm])):
            rows = np.flatnonzero(of_arm & (REQUESTS.instance == instance))
            keep[rows if index < replicating else rows[:1] if index < replicating + scraps else []] = True
    return select(keep)


def test_two_instances_and_a_few_requests_of_others_are_instances():
    cells = keep_instances(2, 1)
    cells_merged, merged = merge_unreplicated(cells)
    assert merged == {}
    assert cells_merged is cells


def test_one_instance_and_a_few_requests_of_others_are_one():
    cells = keep_instances(1, 1)
    cells_merged, merged = merge_unreplicated(cells)
    assert merged == dict.fromkeys(cells.arms, 2)
    assert cells_merged.instances == (*cells.instances, *cells.arms)
    for code, arm in enumerate(cells.arms):
        of_arm = cells_merged.moments.arm == code
        assert set(cells_merged.moments.instance[of_arm]) == {cells_merged.instances.index(arm)}
        assert cells_merged.moments.n[of_arm].sum() == cells.moments.n[cells.moments.arm == code].sum()
    assert merge_unreplicated(keep_instances(1, 0))[1] == {}


def test_a_name_that_an_arm_has_already_is_used():
    cells = keep_instances(1, 1)
    named = replace(cells, instances=(cells.arms[0], *cells.instances[1:]))
    assert merge_unreplicated(named)[0].instances == (*named.instances, *cells.arms[1:])


@pytest.mark.parametrize(
    ("start", "end", "buckets"),
    [(None, None, [0, 1, 2, 3]), (10, 40, [1, 2, 3]), (11, 39, [2]), (10, None, [1, 2, 3]), (None, 29, [0, 1])],
)
def test_readings_are_cut_to_whole_buckets(monkeypatch, start, end, buckets):
    monkeypatch.setattr(
        "evaluator.stats.shaping.narrow.keep_rows", lambda readings, keep: readings.bucket[keep].tolist()
    )
    readings = SimpleNamespace(bucket=np.arange(4), bucket_s=10.0)
    start, end = (None if at is None else datetime.fromtimestamp(at, UTC) for at in (start, end))
    assert cut_readings(readings, start, end) == buckets
