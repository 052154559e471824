"""Variation between instances: several rates at once, and subsets of endpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import SMALL

from evaluator.simulate import AR1, simulate_cells
from evaluator.stats.shaping.groups import all_together, group_by
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.instances import InstanceFrame

PARTS = ("variance", "within", "effective", "scores")


@pytest.fixture(scope="module")
def rows():
    panel = build_panel(simulate_cells(SMALL, seed=3), "canary")
    assert panel is not None
    return panel.rows


@pytest.mark.parametrize("relative", [False, True])
def test_several_rates_at_once_are_each_by_itself(rows, relative):
    frame = InstanceFrame(rows, rows.n, all_together(int(rows.endpoint.max()) + 1))
    observed = np.stack([rows.n * 0.9 + rows.failures, rows.totals["time_ms"]])
    effect = np.array([[1.01], [0.98]])
    together = frame.variance(observed, effect, relative=relative)
    for k in range(2):
        alone = frame.variance(observed[k], effect[k], relative=relative)
        for name in PARTS:
            assert getattr(together, name)[:, k] == pytest.approx(getattr(alone, name), rel=1e-12), name


def test_a_group_of_endpoints_is_judged_as_if_there_were_no_others(rows):
    endpoints = int(rows.endpoint.max()) + 1
    apart = InstanceFrame(rows, rows.n, group_by(np.arange(endpoints))).variance(
        rows.failures, np.zeros(endpoints), relative=False
    )
    for endpoint in range(endpoints):
        only = group_by(np.where(np.arange(endpoints) == endpoint, 0, -1))
        alone = InstanceFrame(rows, rows.n, only).variance(rows.failures, np.zeros(1), relative=False)
        for name in PARTS:
            assert getattr(apart.of_group(endpoint), name) == pytest.approx(getattr(alone.of_group(0), name)), name


def test_the_squares_of_the_scores_are_the_variance(rows):
    frame = InstanceFrame(rows, rows.n, all_together(int(rows.endpoint.max()) + 1))
    variance = frame.variance(rows.failures, np.zeros(1), relative=False).of_group(0)
    by_arm = [(variance.scores[rows.instance_arm == arm] ** 2).sum() for arm in (0, 1)]
    assert variance.variance == pytest.approx(by_arm)


def test_a_short_run_of_like_instances_shows_no_persistent_difference():
    """Five blocks are too few for cosines; what varies from block to block is still not what sets instances apart."""
    like = replace(SMALL, duration_s=100.0, bucket_s=5, instances=(4,), instance_sd=0.0)
    like = replace(like, instance_drift=AR1(0.0, 100.0))
    variances = []
    for seed in range(60):
        panel = build_panel(simulate_cells(like, seed), "canary")
        rows = panel.rows
        assert rows.slots == 5
        frame = InstanceFrame(rows, rows.n - rows.failures, all_together(int(rows.endpoint.max()) + 1))
        parts = frame.variance(rows.totals["time_ms"], np.ones(1), relative=True)
        variances.append([parts.variance.sum(), parts.within.sum()])
    variance, within = np.mean(variances, axis=0)
    assert within == pytest.approx(variance, rel=0.25)
