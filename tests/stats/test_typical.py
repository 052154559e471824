"""Geometric means of response times: their values, and what does not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import SMALL

from evaluator.records import Margin
from evaluator.simulate import Change, simulate, simulate_cells, to_cells
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.estimators.typical import compare_typical_times
from evaluator.stats.shaping.bins import bin_limits_ms, mean_logs
from evaluator.stats.shaping.groups import group_by
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import choose_design

ONE_ENDPOINT = replace(SMALL, endpoints=1)
OPTIONS = {"alpha": 0.05, "margin": Margin(0.25), "sd_instance": 0.05}


def compare(cells, **changes):
    panel = build_panel(cells, "canary")
    groups = group_by(np.arange(len(panel.endpoints)))
    return compare_typical_times(panel, choose_design(panel), **{**OPTIONS, "groups": groups, **changes})


@pytest.mark.parametrize("grid_ms", [0.001, 1.0, 5.0])
def test_the_mean_logarithm_of_a_bin_is_that_of_times_spread_evenly_over_it(grid_ms):
    limits, logs = bin_limits_ms(500, grid_ms, 1000), mean_logs(500, grid_ms, 1000)
    for k in np.flatnonzero(np.diff(limits) > 0)[:: max(1, int(30 / grid_ms))]:
        spread = np.linspace(limits[k], limits[k + 1], 20_001)
        middle = (spread[1:] + spread[:-1]) / 2
        assert logs[k] == pytest.approx(np.log(middle).mean(), abs=2e-4)


def test_the_ratio_is_that_of_geometric_means():
    requests = simulate(ONE_ENDPOINT, 3)
    ok = ~requests.failed
    logs = [np.log(requests.response_us[ok & (requests.arm == arm)]).mean() for arm in (0, 1)]
    estimate = compare(to_cells(requests))
    assert estimate.effect[0] == pytest.approx(np.expm1(logs[1] - logs[0]), abs=0.02)  # weighed by time as well
    assert estimate.baseline[0] == pytest.approx(np.exp(logs[0]) / 1000, rel=0.02)


def test_a_change_of_every_time_is_estimated_exactly():
    requests = simulate(ONE_ENDPOINT, 3)
    slower = replace(requests, response_us=np.where(requests.arm == 1, requests.response_us * 2, requests.response_us))
    before, after = (compare(to_cells(simulated)).effect[0] for simulated in (requests, slower))
    assert (1 + after) / (1 + before) == pytest.approx(2, rel=1e-3)


def test_the_unit_of_times_does_not_matter():
    requests = simulate(SMALL, 4)
    plain, thousandfold = (
        compare(to_cells(replace(requests, response_us=requests.response_us * factor))) for factor in (1, 1000)
    )
    assert thousandfold.effect == pytest.approx(plain.effect, abs=1e-3)
    assert thousandfold.against_margin.p_worse == pytest.approx(plain.against_margin.p_worse, rel=0.05, abs=1e-6)


def test_a_few_very_slow_requests_do_not_hide_that_all_became_slower():
    """One of fifty baseline requests takes thirty seconds for another reason; the candidate is twice as slow."""
    requests = simulate(
        replace(ONE_ENDPOINT, duration_s=75.0, rate_per_s=3.0, instances=(1,), changes=(Change(latency=1.0),)), 5
    )
    hangs = (requests.arm == 0) & (np.arange(len(requests)) % 100 == 0)
    cells = to_cells(replace(requests, response_us=np.where(hangs, 30_000_000, requests.response_us)))
    panel = build_panel(cells, "canary")
    typical = compare(cells)
    mean = compare_means(panel, choose_design(panel), **OPTIONS)
    assert typical.effect[0] > 0.6
    assert typical.against_margin.p_worse[0] < 0.01
    assert mean.against_margin.p_worse[0] > 0.2


def test_an_early_look_at_what_is_not_worse_computes_nothing():
    cells = simulate_cells(ONE_ENDPOINT, 3)
    estimate = compare(cells, depth="suspects")
    assert estimate.against_margin.p_worse.tolist() == [1.0]
    assert np.isnan(estimate.effect).all()
    worse = simulate_cells(replace(ONE_ENDPOINT, changes=(Change(latency=0.6),)), 3)
    early, full = (compare(worse, depth=depth).against_margin.p_worse[0] for depth in ("suspects", "full"))
    assert early == full < 0.01


@pytest.mark.parametrize("replicates", [1, 4])
def test_identical_versions_are_not_shown_to_be_worse_too_often(replicates):
    """At margin 0 and 5 %: at most 13 of 120 (12 has a probability of 1 %)."""
    design = replace(ONE_ENDPOINT, duration_s=120.0, replicates=replicates, instances=(4,) if replicates == 1 else (1,))
    wrong = [
        compare(simulate_cells(design, 900 + seed), margin=None).against_margin.p_worse[0] < 0.05 for seed in range(120)
    ]
    assert sum(wrong) <= 13
