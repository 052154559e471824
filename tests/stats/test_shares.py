"""Shares that may shift either way: what holds exactly, by the test of failure rates and by symmetry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numbers_of.estimates import count_failures_as_redirects
from numbers_of.releases import cells_of, panel_of

from evaluator.records import InstancePrior, InstanceSpread, Limit, Margin
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.estimators.shares import compare_shares
from evaluator.stats.shaping.cells import recode
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import choose_design

MARGIN = Margin(0.005, relative=False)
RELEASES = ("instances", "rare", "two blocks", "replicates", "apart", "one a side")


def compare(panel, **changes):
    options = {"alpha": 0.05, "margin": MARGIN, "limit": Limit(max=0.02), **changes}
    return compare_shares(panel, choose_design(panel), "redirects", **options)


def with_swapped_arms(name):
    """The panel of the same requests, with the candidate as baseline."""
    return build_panel(recode(cells_of(name), arm=np.array([1, 0])), "canary")


@pytest.mark.parametrize("name", RELEASES)
def test_a_rise_is_tested_as_that_of_a_failure_rate(name):
    panel = count_failures_as_redirects(panel_of(name))
    change = compare(panel)
    rise = compare_failures(
        panel,
        choose_design(panel),
        alpha=0.05,
        margin=MARGIN,
        limit=Limit(max=0.02),
        sd_instance=0.0,
        sd_share=0.0,
        groups=all_together(len(panel.endpoints)),
    )
    for field in ("baseline", "candidate", "effect", "lower", "upper", "se", "df"):
        assert getattr(change.estimate, field) == pytest.approx(getattr(rise, field), nan_ok=True), field
    assert change.estimate.against_limit[0].p_worse == rise.against_limit[0].p_worse
    # A shift either way is shown at half the level, and "within" is no easier than in one direction.
    assert change.estimate.against_margin.p_worse <= np.minimum(1, 2 * rise.against_margin.p_worse)
    assert change.estimate.against_margin.p_within >= rise.against_margin.p_within


@pytest.mark.parametrize("name", RELEASES)
def test_with_the_arms_exchanged_it_is_the_same_change_the_other_way(name):
    panel, swapped = map(count_failures_as_redirects, (panel_of(name), with_swapped_arms(name)))
    change, mirrored = compare(panel, limit=Limit()), compare(swapped, limit=Limit())
    assert change.fell is not mirrored.fell
    assert mirrored.estimate.effect == pytest.approx(-change.estimate.effect)
    assert mirrored.estimate.upper == pytest.approx(-change.estimate.lower, rel=1e-6)
    for question in ("against_margin", "against_zero"):
        for p in ("p_worse", "p_within"):
            ours, theirs = (getattr(getattr(one.estimate, question), p) for one in (change, mirrored))
            assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-12), (question, p)
    assert mirrored.estimate.trend.last_third == pytest.approx(change.estimate.trend.last_third)


def test_what_earlier_runs_showed_of_failures_is_not_used():
    panel = count_failures_as_redirects(panel_of("instances"))
    history = InstancePrior(failures=InstanceSpread(0.5, 20, 0.5, 20))
    options = {"alpha": 0.05, "margin": MARGIN, "limit": Limit()}
    plain, informed = (
        compare_shares(panel, choose_design(panel, prior), "redirects", **options)
        for prior in (InstancePrior(), history)
    )
    assert informed.estimate.se == plain.estimate.se


def test_requests_without_a_known_status_count_neither_way():
    """Half of the requests of each slot have no status: the share is that of the others."""
    panel = count_failures_as_redirects(panel_of("instances"))
    rows = panel.rows
    half = replace(
        panel,
        n=2 * panel.n,
        rows=replace(rows, n=2 * rows.n),
    )
    ours, theirs = compare(panel).estimate, compare(half).estimate
    assert theirs.effect == pytest.approx(ours.effect)
    assert theirs.se == pytest.approx(ours.se)
