"""Results at each threshold, just below and just above it, computed by hand from its documentation."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from numbers_of.outcomes import look_at, make_outcomes
from numbers_of.releases import cells_of, panel_of
from scipy.stats import t as student

from evaluator.records import Cells, Direction, LoadLevels, Margin, Moments, Monitoring
from evaluator.stats.estimators.distribution import Distribution, find_limits_ms
from evaluator.stats.estimators.edges import EdgePanel, compare_edges
from evaluator.stats.estimators.estimate import TREND_BELOW, Tolerance, find_trend
from evaluator.stats.estimators.frames import frame_all_requests
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion, standardise_both
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.estimators.resolution import (
    FINE_SHARE,
    LONE_SHARE,
    find_doubt_ms,
    find_quantile_doubt_ms,
    step_of_arms_ms,
)
from evaluator.stats.inference import sequential
from evaluator.stats.inference.assignment import log_wealth_of_ratio
from evaluator.stats.inference.calendar import SHORTEST_S, plan_looks
from evaluator.stats.inference.sequential import boundaries
from evaluator.stats.inference.student import load_early
from evaluator.stats.outcomes.arms import _find_normal_nodes
from evaluator.stats.outcomes.levels import adjust_levels, linear_mean, merge_moments, moments_of
from evaluator.stats.outcomes.looks import _find_planned_boundaries, find_earlier_looks
from evaluator.stats.outcomes.quantiles import cluster
from evaluator.stats.outcomes.quantiles import compare_quantiles as compare_outcome_quantiles
from evaluator.stats.shaping.blocks import EXPECTED_IN_BLOCK, MAX_BLOCK_S, choose_widths
from evaluator.stats.shaping.groups import all_together, group_by
from evaluator.stats.shaping.index import group_rows
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.rare import MOST_APART, OTHER_ENDPOINTS, pool_rare_endpoints
from evaluator.stats.shaping.silence import LEAST_INSIDE, find_silence, measure_clusters
from evaluator.stats.shaping.steps import FEWEST_OTHERS, find_steps
from evaluator.stats.shaping.window import find_warm_up
from evaluator.stats.variance.instances import FEWEST_BLOCKS, InstanceFrame, find_replicating
from evaluator.stats.variance.longrun import BATCH_BELOW, BATCHES, MIN_BUCKETS, cosine_count, cosines, time_variance
from evaluator.stats.variance.uncertainty import Uncertainty, choose_design


def test_the_thresholds_are_those_that_are_documented():
    assert (LEAST_INSIDE, FEWEST_BLOCKS, EXPECTED_IN_BLOCK, MAX_BLOCK_S) == (3.0, 3, 5, 300)
    assert (LONE_SHARE, FINE_SHARE, TREND_BELOW, BATCH_BELOW, MIN_BUCKETS, BATCHES) == (0.25, 0.002, 30, 30, 8, 8)


# ------------------------------------------------------------------ silence


@pytest.mark.parametrize(("buckets", "silent"), [(5, False), (6, True), (7, True)])
def test_three_requests_of_the_reference_in_a_gap_are_evidence(buckets, silent):
    """Half a request in each bucket: 2.5, 3 and 3.5 inside. A thousand of the series in each bucket outside the gap."""
    own = np.full((1, 60), 1000.0)
    own[0, 20 : 20 + buckets] = 0
    silences = find_silence(own, np.full((1, 60), 0.5))
    assert bool(silences) is silent
    if silent:
        (gap,) = silences[0].gaps
        assert (gap.start, gap.end, gap.at_end) == (20, 20 + buckets, False)
        inside = buckets * 0.5
        assert gap.expected == pytest.approx(inside * own.sum() / (30 - inside), abs=0.005)


def test_the_evidence_of_a_gap_is_hypergeometric():
    """Of 20 + 20 requests 12 of the reference inside, none of the series': C(28, 20) / C(40, 20) = 1/44,351, no proof.

    Of 13 it is C(27, 20) / C(40, 20) = 1/155,228: less than 1/100,000.
    """
    for inside, silent in ((12, False), (10, False), (13, True)):
        reference = np.ones((1, 20))
        own = np.zeros((1, 20))
        own[0, : 20 - inside] = 20 / (20 - inside)
        assert bool(find_silence(own, reference)) is silent, inside


@pytest.mark.parametrize("paced_alike", [True, False])
def test_the_caller_sets_one_hole(paced_alike):
    """Dense except for one gap that is most of the run: only `one_hole` treats it as a dense series."""
    counts = np.zeros((1, 100))
    counts[0, :10], counts[0, 90:] = 30.0, 30.0
    (apart,), (dense,) = measure_clusters(counts)[0], measure_clusters(counts, one_hole=True)[0]
    assert apart == pytest.approx(300.0)  # 600 requests in two groups
    assert dense < 20
    assert measure_clusters(counts, one_hole=False)[0].tolist() == [apart]
    reference = np.full((1, 100), 10.0)
    if not paced_alike:  # clusters are those of the series itself
        assert find_silence(counts, reference, paced_alike=False) == []
        assert find_silence(counts, reference, paced_alike=False, one_hole=True)[0].gaps[0].buckets == 80


@pytest.mark.parametrize(("occupied", "size"), [(4, 30.0), (5, 1.0)])
def test_a_series_that_is_mostly_empty_comes_in_groups(occupied, size):
    """Of ten buckets from the first request to the last, fewer than half have some; each of equal size, none varies."""
    counts = np.zeros((1, 10))
    places = [0, 3, 6, 9] if occupied == 4 else [0, 2, 4, 6, 9]
    counts[0, places] = 30.0
    (found,) = measure_clusters(counts)[0]
    assert found >= size
    if occupied == 4:
        assert found >= counts.sum() / 4


# ------------------------------------------------------------------ instances and time


def test_an_instance_has_thirty_requests_and_a_twentieth_of_an_equal_share():
    assert find_replicating(np.array([29.0, 30.0, 31.0])).tolist() == [False, True, True]
    assert find_replicating(np.array([3900.0, 100.0])).tolist() == [True, True]  # an equal share is 2,000
    assert find_replicating(np.array([3900.0, 99.0])).tolist() == [True, False]
    assert find_replicating(np.array([3900.0, 0.0, 100.0])).tolist() == [
        True,
        False,
        True,
    ]  # who never answered is none


@pytest.mark.parametrize(("name", "blocks"), [("two blocks", 2), ("three blocks", 3)])
def test_two_blocks_show_no_drift_within_instances_and_three_do(name, blocks):
    """Of two rates and two groups at once: each has its own number, in the shape (arms, rates, groups)."""
    rows = panel_of(name).rows
    assert rows.slots == blocks
    groups = group_by(np.array([0, 1, 1]))
    observed = np.stack([rows.n * 0.5 + rows.failures, rows.failures])
    variance = InstanceFrame(rows, rows.n, groups).variance(observed, np.zeros((2, 2)), relative=False)
    assert variance.variance.shape == variance.within.shape == variance.effective.shape == (2, 2, 2)
    assert (variance.variance > 0).all()
    assert (variance.within == 0).all() if blocks < FEWEST_BLOCKS else (variance.within > 0).all()


@pytest.mark.parametrize(("buckets", "df"), [(7, 1), (8, 7), (29, 7), (30, 7), (31, 7), (240, 12)])
def test_variation_over_time_needs_eight_buckets(buckets, df):
    variance = time_variance(np.random.default_rng(1).normal(size=(3, buckets)))
    assert np.isnan(variance.variance).all() == (buckets < 8)
    assert (variance.df, variance.buckets) == (df, buckets)
    assert cosine_count(240) == round(0.3 * 240 ** (2 / 3)) == 12


def test_eight_batches_are_means_around_the_mean():
    """Of eight values each is a batch: the variance of their mean, by hand."""
    values = np.array([[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5]])
    assert time_variance(values).variance[0] == pytest.approx(values.var(ddof=1) / 8)
    # Sixteen values that go in pairs: the pair is a batch, so the pairs do not hide that they depend on each other.
    pairs = np.repeat(values, 2, axis=1)
    assert time_variance(pairs).variance[0] == pytest.approx(values.var(ddof=1) / 8)
    assert time_variance(pairs).independent[0] == pytest.approx(pairs.var(ddof=1) / 16)


@pytest.mark.parametrize(("slots", "by_cosines"), [(29, False), (30, True)])
def test_the_error_of_a_trend_comes_from_cosines_from_thirty_slots_on(slots, by_cosines):
    position = (np.arange(slots) + 0.5) / slots
    noise = np.random.default_rng(5).normal(size=slots)
    centred = position - position.mean()
    noise -= noise.mean()
    slope = noise @ centred / (centred @ centred)
    residual = noise - slope * centred
    drift = find_trend(noise[None], position, np.array([0.5]))
    assert drift.at_end[0] == pytest.approx(0.5 + slope / 2)
    assert drift.last_third[0] == pytest.approx(0.5 + noise[position > 2 / 3].mean())
    if by_cosines:
        count = cosine_count(slots)
        waves = np.sqrt(2 / slots) * np.cos(np.pi * np.arange(2, count + 1)[:, None] * position)
        density, df = max(((waves @ residual) ** 2).mean(), residual.var()), count - 1
    else:
        density, df = residual @ residual / (slots - 2), 6
    assert drift.p_worsening[0] == pytest.approx(student.sf(slope / np.sqrt(density / (centred @ centred)), df))


# ------------------------------------------------------------------ blocks, warm-up, rare endpoints


@pytest.mark.parametrize(
    ("per_bucket", "width"), [(5.0, 1), (4.9, 2), (2.5, 2), (2.4, 4), (1.25, 4), (1.2, 8), (0.0, 64)]
)
def test_a_block_expects_five_requests_of_the_smaller_arm(per_bucket, width):
    n = np.stack([np.full((1, 8), 100.0), np.full((1, 8), per_bucket)])
    assert choose_widths(n, 4).tolist() == [width]


@pytest.mark.parametrize(("bucket_s", "width"), [(1, 256), (75, 4), (76, 2), (150, 2), (151, 1), (600, 1)])
def test_no_block_is_longer_than_five_minutes(bucket_s, width):
    assert choose_widths(np.zeros((2, 1, 4)), bucket_s).tolist() == [width]


def _with_users(*counts: int) -> Cells:
    """One run of twelve blocks, whose baseline has these users from the start on."""
    cells = cells_of("instances")
    first = int(cells.moments.bucket.min())
    bucket = np.arange(len(counts))
    return replace(cells, loads=LoadLevels(0 * bucket, 0 * bucket, first + bucket, np.array(counts)))


@pytest.mark.parametrize(
    ("users", "cut_s"),
    [
        ((10, 10, 10), 0),
        ((19, 19, 20), 0),  # 95 % of the highest is level
        ((18, 19, 20), 20),  # the bucket in which the plateau is reached is cut off too, up to a whole block
        ((1, 1, 1, 20, 20), 20),
        ((1, 1, 1, 1, 20, 20), 40),
        ((*[1] * 15, 20, 20), 80),  # level at bucket 16 of 48: a third of the run
        ((*[1] * 16, 20, 20), 0),  # later than that: nothing is cut, and it is named
    ],
)
def test_warm_up_ends_where_the_users_are_level(users, cut_s):
    cells = _with_users(*users)
    assert np.ptp(cells.moments.bucket) == 47
    assert int(cells.moments.bucket.min()) % 4 == 0
    warm_up = find_warm_up(cells, None)
    assert warm_up.cut_s == {0: cut_s}
    assert warm_up.never_level == ((0,) if len(users) == 18 else ())
    assert warm_up.unknown == ()


def test_two_thousand_endpoints_have_arrays_of_their_own():
    cells = cells_of("rare")
    least = int(cells.moments.n[cells.moments.endpoint == 2].sum())
    for count, pooled in ((MOST_APART - 3, False), (MOST_APART - 2, True)):
        many = replace(cells, endpoints=(*cells.endpoints, *(f"GET /{k}" for k in range(count))))
        cells_pooled = pool_rare_endpoints(many, least)
        assert (cells_pooled.endpoints[-1] == OTHER_ENDPOINTS) is pooled


@pytest.mark.parametrize(("planned", "kind"), [(SHORTEST_S - 1, "fixed"), (SHORTEST_S, "group_sequential")])
def test_a_run_of_five_minutes_is_looked_at_before_its_end(planned, kind):
    plan = plan_looks(Monitoring(), bucket_s=5, covered_s=250.0, planned_s=planned)
    assert (plan.kind, plan.planned_s, plan.final) == (kind, planned, False)


# ------------------------------------------------------------------ the step of times


def _with_steps(steps_ms: list[list[float]], ok: list[list[float]]) -> Panel:
    """The panel of two endpoints, whose times have these steps and which had so many successes in all."""
    panel = panel_of("steps of 10 and 1 ms")
    n = np.zeros_like(panel.n)
    n[..., 0] = ok
    return replace(panel, steps_ms=np.array(steps_ms), n=n, failures=0 * n)


@pytest.mark.parametrize(("coarse", "step_ms"), [(24.0, 0.001), (25.0, 10.0), (26.0, 10.0)])
def test_a_quarter_of_the_requests_decides_the_step_of_an_arm(coarse, step_ms):
    panel = _with_steps([[0.001, 10.0], [0.001, 0.001]], [[100 - coarse, coarse], [10, 10]])
    assert step_of_arms_ms(panel).tolist() == [step_ms, 0.001]


def test_half_of_the_coarser_step_is_in_doubt_where_arms_differ():
    """Times on many steps leave one doubt only: whether a tool rounds or cuts off."""
    panel = panel_of("steps of 10 and 1 ms")
    alike = replace(panel, steps_ms=np.full((2, 2), 1.0))
    apart = replace(panel, steps_ms=np.array([[1.0, 1.0], [0.001, 1.0]]))
    groups = group_by(np.array([0, 1]))
    assert (find_doubt_ms(apart, groups) - find_doubt_ms(alike, groups))[1] == 0
    assert panel.steps_ms.tolist() == [[10.0, 10.0], [1.0, 1.0]]
    lone = find_doubt_ms(replace(panel, steps_ms=np.full((2, 2), 10.0)), all_together(2))
    fine = replace(panel, steps_ms=np.array([[10.0, 10.0], [0.001, 0.001]]))
    own = find_doubt_ms(fine, all_together(2)) - 5.0  # half of 10 ms
    assert 0 <= own[0] < lone[0]


@pytest.mark.parametrize(("factor", "doubtful"), [(0.99, True), (1.0, False), (1.01, False)])
def test_a_step_of_two_thousandths_of_the_mean_hides_nothing(factor, doubtful):
    """All requests are on one step: half of it is in doubt for each arm, unless the step is this small."""
    panel = panel_of("both constant")
    mean_ms = 20.0 / FINE_SHARE * factor  # steps of 20 ms
    totals = dict(panel.totals) | {"time_ms": panel.ok * mean_ms}
    assert (panel.steps_ms == 20.0).all()
    doubt_ms = find_doubt_ms(replace(panel, totals=totals), all_together(2))
    assert (doubt_ms[0] > 0) == doubtful


@pytest.mark.parametrize(("share", "doubt_ms"), [(0.24, 0.0), (0.25, 0.5), (0.26, 0.5)])
def test_a_step_alone_hides_half_of_itself_if_it_holds_a_quarter(share, doubt_ms):
    """Half of the requests are done by 1 ms, this share between 2 and 3 ms, the others after 4 ms."""
    curve = Distribution(np.arange(6.0), np.array([0.0, 0.5, 0.5, 0.5 + share, 0.5 + share, 1.0]))
    assert find_quantile_doubt_ms(curve, curve.quantile(0.6), 0.001) == pytest.approx(doubt_ms)


def _rows(low_us: np.ndarray, high_us: np.ndarray) -> Moments:
    """Rows of two requests each."""
    row, low, high = np.arange(low_us.size), low_us.astype(float), high_us.astype(float)
    nothing = 0.0 * low
    return Moments(
        *(row for _ in range(5)),
        2 + 0 * row,
        0 * row,
        low + high,
        nothing,
        low,
        high,
        nothing,
        nothing,
        *(0 * row,) * 3,
    )


@pytest.mark.parametrize(("others", "step_us"), [(6, 1), (7, 3000), (8, 3000)])
def test_seven_other_rows_make_a_step(others, step_us):
    times = 3000 * np.array([5, *range(7, 7 + others)])
    steps = find_steps(_rows(times, times), np.zeros(times.size, int), (2, 1), grid=1)
    assert steps.tolist() == [[step_us], [1]]
    assert FEWEST_OTHERS == 7


@pytest.mark.parametrize(("fine", "step_us"), [(19, 3000), (20, 3000), (21, 1)])
def test_half_of_the_rows_on_a_step_make_it_the_step(fine, step_us):
    """Of forty rows; the others have times one apart."""
    low = np.concatenate([3000 * (7 + np.arange(40 - fine)), 101 + np.arange(fine)])
    high = low + np.where(np.arange(40) < 40 - fine, 3000, 1)
    steps = find_steps(_rows(low, high), np.zeros(40, int), (2, 1), grid=1)
    assert steps.tolist() == [[step_us], [1]]


# ------------------------------------------------------------------ bounds of a histogram


def _edges(shares: tuple[list[float], list[float]], bounds: list[float]) -> EdgePanel:
    """Every bucket of time has the same shares of observations within each bound."""
    panel = panel_of("instances")
    above = np.stack([np.stack([panel.n[arm] * (1 - shares[arm][k]) for arm in (0, 1)]) for k in range(len(bounds))])
    rows = panel.rows
    row_above = np.stack(
        [rows.n * (1 - np.where(rows.arm == 1, shares[1][k], shares[0][k])) for k in range(len(bounds))]
    )
    return EdgePanel(panel, np.array(bounds), above, row_above)


@pytest.mark.parametrize("margin", [Margin(0.5), None, Margin(5.0, relative=False)])
def test_a_quantile_between_bounds_is_interpolated_and_its_change_is_a_ratio_or_a_difference(margin):
    """The median of the baseline is half of the way from 10 to 20, the candidate's a quarter of that from 20 to 40."""
    edges = _edges(([0.25, 0.75, 1.0], [0.1, 0.4, 0.8]), [10.0, 20.0, 40.0])
    estimate = compare_edges(
        edges,
        choose_design(edges.panel),
        0.5,
        alpha=0.05,
        margin=margin,
        sd_instance=0.05,
        limit=replace(QuantileQuestion(0.5).limit, max=30.0),
        depth="full",
    ).estimate
    assert estimate is not None
    assert edges.shares() == pytest.approx(np.array([[0.25, 0.75, 1.0], [0.1, 0.4, 0.8]]))
    assert (estimate.baseline[0], estimate.candidate[0]) == pytest.approx((15.0, 25.0))
    assert estimate.effect[0] == pytest.approx(10.0 if margin and not margin.relative else 25 / 15 - 1)
    # More than 60 % of the candidate is above 20, and 25 % of the baseline: it is slower, at the bound itself.
    assert estimate.against_zero.p_worse[0] < 1e-6
    # Nothing shows it to be more than 50 % above 20 but the bound of 40, within which is 80 % of it.
    if margin and margin.relative:
        assert (estimate.against_margin.p_worse[0], estimate.against_margin.p_within[0]) == (1.0, 1.0)


# ------------------------------------------------------------------ tolerance, keys


@pytest.mark.parametrize(("baseline", "ratio", "difference"), [(10.0, 0.2, 2.0), (2.0, 0.25, 0.4), (0.0, 0.1, 0.25)])
def test_a_tolerance_is_the_wider_of_two_and_at_most_the_margin(baseline, ratio, difference):
    ones = np.ones(1)
    assert Tolerance(0.2 * ones, 0.5 * ones, 0.25).as_ratio(baseline * ones) == pytest.approx(
        ratio if baseline else 0.2
    )
    assert Tolerance(0.2 * ones, 0.25 * ones, 9.0).as_difference(baseline * ones) == pytest.approx(difference)


def test_codes_too_large_for_one_number_are_ordered_column_by_column():
    columns = np.array([[2, 0, 2, 1], [2**40, 5, 0, 7], [2**40, 1, 2**40, -(2**30)]])
    order, starts = group_rows(columns)
    assert order.tolist() == [1, 3, 2, 0]
    assert starts.tolist() == [0, 1, 2, 3]
    again, ends = group_rows(columns[:, [0, 0, 1, 1, 1]])
    assert (again.tolist(), ends.tolist()) == ([2, 3, 4, 0, 1], [0, 3])


def test_a_margin_that_a_step_covers_decides_nothing():
    """Steps of 10 ms: a margin of 10 ms is decided, one of less is not."""
    panel = panel_of("steps of 10 ms")
    design = choose_design(panel)
    for margin, coarse in ((9.9, True), (10.0, False), (10.1, False)):
        (estimate,) = compare_quantiles(
            panel, design, [QuantileQuestion(0.5, Margin(margin, relative=False))], alpha=0.05, sd_instance=0.05
        )
        assert estimate.estimate.coarse.tolist() == [coarse]


def test_a_look_of_which_only_the_number_of_rows_is_known_is_another_look():
    data = [np.ones((9, 5)), np.zeros((9, 5))]
    look = look_at(data, "fixed", "before")
    assert find_earlier_looks(make_outcomes(data, (look,)), 1) == ()
    fewer = replace(look, sums={arm: {"rows": own["rows"]} for arm, own in look.sums.items()})
    assert find_earlier_looks(make_outcomes(data, (fewer,)), 1) == (fewer,)


def test_a_panel_starts_from_no_time_before_its_first_bucket():
    panel = panel_of("instances")
    first = panel.origin + int(panel.offset[0])
    assert panel.before(first) is None
    assert panel.before(first + 4).slots == 4


def test_no_success_is_an_empty_histogram():
    panel = panel_of("all failed")
    for bins in (panel.bins, panel.row_bins):
        assert (bins.cell.size, bins.n.size, bins.starts.tolist(), bins.last, bins.sizes.size) == (0, 0, [0], 0, 0)


@pytest.mark.parametrize(("far", "upper"), [(900_000.0, 899_999.0), (1_100_000.0, np.inf)])
def test_an_interval_reaches_a_million_times_the_baseline_and_no_further(far, upper):
    """Half of the candidate's values, less a few, are far off: its median may be there."""
    baseline = cluster(np.linspace(0.99, 1.01, 401))
    candidate = cluster(np.concatenate([np.linspace(0.99, 1.01, 205), np.full(196, far)]))
    estimate = compare_outcome_quantiles(
        baseline, candidate, 0.5, alpha=0.05, margin=Margin(0.1), direction=Direction.LOWER
    )
    assert estimate.upper == pytest.approx(upper)
    assert estimate.effect < 0.02


def test_moments_without_units_change_nothing():
    some, none = moments_of(np.arange(6.0).reshape(3, 2)), moments_of(np.zeros((0, 2)))
    assert merge_moments(some, none) is some
    assert merge_moments(none, some) is some
    assert merge_moments(none, none) is none


# ------------------------------------------------------------------ what is computed once, and what has to fit together


def test_what_all_questions_of_a_panel_share_is_computed_once():
    panel = panel_of("instances")
    assert frame_all_requests(panel) is frame_all_requests(panel)
    assert find_limits_ms(panel) is find_limits_ms(panel)
    assert standardise_both(panel) is standardise_both(panel)
    assert cosines(60, 5) is cosines(60, 5)
    assert sequential._load_table() is sequential._load_table()
    assert _find_normal_nodes(8) is _find_normal_nodes(8)
    assert _find_planned_boundaries((0.5, 1.0), "worse") is _find_planned_boundaries((0.5, 1.0), "worse")
    # A few panels are kept, so that memory does not grow with their number.
    assert [cached.cache_info().maxsize for cached in (frame_all_requests, find_limits_ms, standardise_both)] == [
        4,
        4,
        4,
    ]
    assert [cached.cache_info().maxsize for cached in (cosines, _find_planned_boundaries, _find_normal_nodes)] == [
        64,
        64,
        4,
    ]
    assert sequential._load_table.cache_info().maxsize == 1


def test_columns_must_have_equal_length():
    ones = np.ones(1)
    moments = [moments_of(np.ones((3, 1)))] * 2
    outcomes = make_outcomes([np.ones((9, 5))] * 2)
    for ask in (
        lambda: log_wealth_of_ratio([5, 5, 5], [1, 1]),
        lambda: boundaries(np.ones(2), np.full(1, 0.05)),
        lambda: adjust_levels([linear_mean(moments[0], 0)], moments, ()),
        lambda: Uncertainty(ones[None], np.ones((2, 1)), ones).also(ones),
        lambda: find_earlier_looks(replace(outcomes, moments=outcomes.moments[:1]), 1),
    ):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            ask()


def test_the_quantiles_of_the_normal_distribution_are_loaded_in_a_thread():
    before = set(threading.enumerate())
    load_early()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=20)
    assert "scipy.special" in sys.modules
