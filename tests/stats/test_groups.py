"""Groups of endpoints: sums equal those with a matrix of 0 and 1, which is not built."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.metrics.base import Pair
from evaluator.metrics.scan import OTHER_ENDPOINTS, scan_endpoints
from evaluator.records import InstancePrior, Scan
from evaluator.simulate import Scenario, simulate_cells
from evaluator.stats.shaping.groups import all_together, group_by
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.shaping.rare import MOST_APART, pool_rare_endpoints
from evaluator.stats.variance.uncertainty import choose_design


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.integers(1, 4))
def test_sums_are_those_of_a_matrix_of_ones(wanted, width):
    of = np.unique(wanted, return_inverse=True)[1] - (1 if -1 in wanted else 0)
    groups = group_by(of)
    values = np.random.default_rng(1).normal(size=(2, of.size, width))
    matrix = np.array([of == group for group in range(groups.count)], float).reshape(groups.count, of.size)
    assert groups.sum(values) == pytest.approx(matrix @ values)
    assert groups.sum_totals(values[..., 0]) == pytest.approx(values[..., 0] @ matrix.T)
    chosen = np.arange(groups.count) % 2 == 0
    assert groups.pick(chosen).sum(values) == pytest.approx(matrix[chosen] @ values)


def test_all_endpoints_together_are_one_group():
    values = np.arange(6.0).reshape(3, 2)
    assert all_together(3).sum(values).tolist() == [[6.0, 9.0]]


def _pair(cells):
    panel = build_panel(cells, "canary")
    return Pair(panel, choose_design(panel), "canary", 0.05, InstancePrior())


def test_memory_of_the_scan_grows_with_endpoints_not_with_their_square():
    cells = simulate_cells(Scenario(duration_s=60.0, bucket_s=6, rate_per_s=5000.0, endpoints=6000, zipf=0.0), 1)
    pair = _pair(cells)
    tracemalloc.start()
    measured = scan_endpoints(pair, Scan())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(row.rule.type == "failure_rate" for row in measured.comparisons) > 5000
    # A matrix of 6,000 × 6,000 alone takes 288 MB.
    assert peak < 200e6


def test_thousands_of_rare_endpoints_are_pooled_into_one():
    cells = simulate_cells(Scenario(duration_s=60.0, rate_per_s=600.0, endpoints=4000, zipf=1.0), 1)
    pooled = pool_rare_endpoints(cells, 60, keep={"GET /endpoint/3999"})
    assert len(cells.endpoints) > MOST_APART > len(pooled.endpoints)
    assert pooled.endpoints[-1] == OTHER_ENDPOINTS
    assert "GET /endpoint/000" in pooled.endpoints
    for table in ("moments", "bins", "instance_bins"):
        before, after = getattr(cells, table), getattr(pooled, table)
        assert after.n.sum() == before.n.sum()
        index = pooled.endpoints.index("GET /endpoint/000")
        first = cells.endpoints.index("GET /endpoint/000")
        assert after.n[after.endpoint == index].sum() == before.n[before.endpoint == first].sum()
    names = {row.rule.slice.endpoint for row in scan_endpoints(_pair(pooled), Scan()).comparisons}
    assert {OTHER_ENDPOINTS, "GET /endpoint/000"} <= names
    few = simulate_cells(Scenario(duration_s=60.0, endpoints=5), 1)
    assert pool_rare_endpoints(few, 10**9) is few
