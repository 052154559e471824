"""One instance a side, and times within a few percent: the assumed difference between instances is a shift of times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import timed_requests

from evaluator.records import Direction, InstanceSpread, Limit, Margin
from evaluator.simulate import to_cells
from evaluator.stats.estimators.assumed_shift import SHARE_OF_SHIFT, assume_shift, find_p_value, list_levels
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import Design, choose_design

ALPHA, SD = 0.05, 0.05
FEW = {"instances": (1,), "duration_s": 100.0, "rate_per_s": 2.0}
SINGLE = Design("single", 1, (1, 1))


def compare(change: float, question: QuantileQuestion, *, sd: float = 0.02, seed: int = 1):
    """Compare a quantile of a release whose times have a relative spread of `sd`."""
    requests = timed_requests(
        lambda random, n: 819_000 * np.exp(random.normal(0, sd, n)),
        lambda random, n: 819_000 * (1 + change) * np.exp(random.normal(0, sd, n)),
        seed=seed,
        **FEW,
    )
    panel = build_panel(to_cells(requests), "canary")
    result = compare_quantiles(panel, choose_design(panel), [question], alpha=ALPHA, sd_instance=SD)[0]
    return result.estimate


P50 = QuantileQuestion(0.5, Margin(0.05))


def test_large_harm_is_shown_although_all_times_lie_close_together():
    worse = compare(0.678, P50)
    assert worse.against_margin.p_worse[0] < 0.01
    assert 0.30 < worse.lower[0] < worse.effect[0] < worse.upper[0] < 1.1
    assert compare(0.2, P50).against_margin.p_worse[0] > ALPHA  # two machines may differ so much
    assert compare(9.0, P50).against_margin.p_worse[0] <= worse.against_margin.p_worse[0]
    assert compare(-0.6, P50).against_margin.p_within[0] < ALPHA


def test_the_interval_agrees_with_the_test():
    for change in (0.2, 0.24, 0.27, 0.28, 0.3, 0.34):
        estimate = compare(change, P50)
        assert (estimate.against_margin.p_worse[0] < ALPHA) == (estimate.lower[0] > 0.05)


def test_a_limit_and_the_other_direction_are_tested_in_the_same_way():
    beyond = compare(0.678, replace(P50, limit=Limit(max=900.0)))
    assert beyond.against_limit[0].p_worse[0] < ALPHA
    near = compare(0.0, replace(P50, limit=Limit(max=900.0)))
    assert near.against_limit[0].p_worse[0] == 1.0
    assert near.against_limit[0].p_within[0] > ALPHA / 2
    higher_is_better = compare(-0.6, replace(P50, direction=Direction.HIGHER))
    assert higher_is_better.against_margin.p_worse[0] < ALPHA


def test_ordinary_distributions_are_compared_as_before():
    """Times that differ by 45 %: the slope is 0.9, and the assumed difference is 15 % of the requests."""
    shift = assume_shift(SINGLE, SD)
    assert shift.sd == pytest.approx(np.sqrt(2) * SD)
    assert not shift.hides(0.9, 0.5, ALPHA)
    assert shift.hides(3.1, 0.5, ALPHA)
    assert not shift.hides(2.9, 0.5, ALPHA)


def test_measured_instances_need_no_assumption_and_declared_ones_narrow_it():
    assert assume_shift(Design("instances", 1, (3, 3)), SD) is None
    assert assume_shift(Design("replicates", 5, (1, 1)), SD) is None
    assert assume_shift(Design("single", 1, (1, 3)), SD) is None
    assert assume_shift(replace(SINGLE, declared=(4, 4)), SD).sd == pytest.approx(np.sqrt(2) * SD / 2)
    assert assume_shift(SINGLE, SD, arms=(1,)).sd == pytest.approx(SD)
    learnt = replace(SINGLE, latency=InstanceSpread(0.05, 6, between_arms=0.1, between_arms_comparisons=6))
    assert assume_shift(learnt, SD).sd == pytest.approx(np.sqrt(2 * SD**2 + 0.1**2))


def test_a_p_value_is_the_lowest_level_at_which_the_claim_holds():
    part, levels = 1 - SHARE_OF_SHIFT, list_levels(ALPHA)
    assert levels[levels < ALPHA][-1] == pytest.approx(ALPHA)
    assert find_p_value(np.zeros(levels.size), levels) == levels[0]
    assert find_p_value(np.ones(levels.size), levels) == 1.0
    assert find_p_value(np.full(levels.size, np.nan), levels) == 1.0
    assert find_p_value(np.full(levels.size, part * levels[7]), levels) == levels[7]


def test_differences_that_are_as_large_as_assumed_are_rarely_called_harm():
    """Machines differ by t with three degrees of freedom: 24 releases at the margin, 1.2 ± 1.1 may be called worse."""
    random = np.random.default_rng(5)
    machines = np.exp(np.sqrt(2) * SD * random.standard_t(3, 24))
    worse = [
        compare(1.05 * factor - 1, P50, seed=seed).against_margin.p_worse[0] < ALPHA
        for seed, factor in enumerate(machines)
    ]
    assert sum(worse) <= 4


def test_an_assumed_difference_without_bounds_shows_nothing():
    """A standard deviation of 5,000 % at a level of 0.1 %: the shift is cut off, and its interval is not."""
    requests = timed_requests(
        lambda random, n: random.normal(8e5, 1e4, n), lambda random, n: 3 * random.normal(8e5, 1e4, n), **FEW
    )
    panel = build_panel(to_cells(requests), "canary")
    estimate = compare_quantiles(panel, choose_design(panel), [P50], alpha=0.001, sd_instance=50.0)[0].estimate
    assert (estimate.lower[0], estimate.upper[0]) == (-1.0, np.inf)
    assert estimate.against_margin.p_worse[0] == 1.0
