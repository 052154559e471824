"""Outcomes of units: printed results, other programs, and data with a known truth."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from evaluator.records import Direction, Limit, Margin, UnitMoments
from evaluator.stats.outcomes.arms import (
    compare_assignment,
    dunnett_p,
    find_posterior,
    probabilities_of_best,
    share_of_baseline,
)
from evaluator.stats.outcomes.levels import (
    adjust_levels,
    compare_levels,
    compare_proportions,
    linear_mean,
    linear_ratio,
    merge_moments,
    moments_of,
)
from evaluator.stats.outcomes.quantiles import cluster, compare_quantiles, find_quantile

DATA = Path(__file__).parents[1] / "data"
PUBLISHED = {e["id"]: e for e in json.loads((DATA / "published.json").read_text(encoding="utf-8"))["entries"]}
NO_MARGIN = Margin(0.0, relative=False)


def compare_means(baseline, candidate, **options):
    moments = [moments_of(np.asarray(values, float)[:, None]) for values in (baseline, candidate)]
    return compare(moments, [linear_mean(part, 0) for part in moments], **options)


def compare(moments, levels, covariates=(), arm=1, **options):
    usual = {"alpha": 0.025, "margin": NO_MARGIN, "direction": Direction.LOWER}
    return compare_levels(adjust_levels(levels, moments, covariates), arm, **(usual | options))


# ------------------------------------------------------------------ printed results


def two_sided(answers):
    """p-value against "exactly at the bound"."""
    return min(1.0, 2 * min(answers.p_worse, answers.p_within))


def test_welch_from_sums():
    entry = PUBLISHED["growthbook.ttest.abs"]
    moments = []
    for arm in (entry["inputs"]["a"], entry["inputs"]["b"]):
        mean = arm["sum"] / arm["n"]
        moments.append(UnitMoments(arm["n"], np.array([mean]), np.array([[arm["sum_squares"] - arm["n"] * mean**2]])))
    estimate = compare(moments, [linear_mean(part, 0) for part in moments])
    printed = entry["published"]
    assert estimate.effect == pytest.approx(printed["expected"], abs=5e-6)
    assert [estimate.lower, estimate.upper] == pytest.approx(printed["ci"], abs=5e-6)
    assert (estimate.se, two_sided(estimate.against_zero)) == pytest.approx((printed["se"], printed["p"]), abs=5e-6)


def test_welch_from_values():
    entry = PUBLISHED["welch.outlier_no"]
    estimate = compare_means(entry["inputs"]["y"], entry["inputs"]["x"])
    printed = entry["published"]
    assert estimate.effect / estimate.se == pytest.approx(printed["t"], abs=5e-5)
    assert estimate.df == pytest.approx(printed["df"], abs=5e-4)
    assert two_sided(estimate.against_zero) == pytest.approx(printed["p"], abs=5e-9)
    assert [estimate.lower, estimate.upper] == pytest.approx(printed["ci"], abs=5e-7)


@pytest.mark.parametrize("metric", ["sessions_per_user", "orders_per_session", "orders_per_user", "revenue_per_user"])
def test_means_and_ratios_of_a_users_guide(metric):
    plain = json.loads((DATA / "tea_tasting_users.json").read_text())
    arms = [plain["control"], plain["treatment"]]
    moments = [UnitMoments(a["n"], np.array(a["mean"]), np.array(a["products"])) for a in arms]
    outcome, per = metric.split("_per_")
    k = plain["variables"].index(outcome)
    levels = [linear_mean(m, k) if per == "user" else linear_ratio(m, k, 0) for m in moments]
    estimate = compare(moments, levels, margin=Margin(0.0), direction=Direction.HIGHER)
    printed = PUBLISHED["tea_tasting.readme"]["published"][metric]
    assert f"{estimate.baseline:.3g}" == f"{printed['control']:.3g}"
    assert f"{estimate.candidate:.3g}" == f"{printed['treatment']:.3g}"
    assert f"{estimate.effect:.2g}" == f"{printed['rel']:.2g}"
    assert f"{two_sided(estimate.against_zero):.3g}" == f"{printed['p']:.3g}"
    # Their relative interval is that of the logarithm, ours Fieller's.
    assert [estimate.lower, estimate.upper] == pytest.approx(printed["ci"], abs=0.0051)


def test_conversion_of_a_course():
    entry = PUBLISHED["ab.udacity"]
    (x_b, n_b), (x_c, n_c) = entry["inputs"]["control"], entry["inputs"]["treatment"]
    estimate = compare_proportions((x_b, x_c), (n_b, n_c), alpha=0.025, margin=NO_MARGIN, direction=Direction.LOWER)
    printed = entry["published"]
    assert estimate.baseline == pytest.approx(printed["p_control"], abs=5e-11)
    assert estimate.candidate == pytest.approx(printed["p_treatment"], abs=5e-11)
    assert estimate.effect == pytest.approx(printed["diff"], abs=5e-11)
    # The printed z has no factor N / (N - 1).
    total = n_b + n_c
    z = stats.norm.isf(estimate.against_zero.p_worse) * math.sqrt(total / (total - 1))
    assert -z == pytest.approx(printed["z"], abs=5e-9)
    assert stats.norm.sf(z) == pytest.approx(printed["p_one_sided_larger"], abs=5e-10)


@pytest.mark.parametrize("name", ["srm.wikipedia", "srm.kohavi1"])
def test_sample_ratio(name):
    entry = PUBLISHED[name]
    estimate = compare_assignment(entry["inputs"]["observed"], entry["inputs"]["ratio"])
    assert estimate == pytest.approx(entry["published"]["p"], abs=0.5 * 10 ** -entry["decimals"])


def many_to_one(groups):
    """t statistics, loadings and degrees of freedom with one pooled variance, as Dunnett has it."""
    sizes = np.array([len(group) for group in groups], float)
    means = np.array([np.mean(group) for group in groups])
    df = sizes.sum() - len(groups)
    pooled = sum(float(np.var(group)) * len(group) for group in groups) / df
    t = (means[1:] - means[0]) / np.sqrt(pooled * (1 / sizes[1:] + 1 / sizes[0]))
    return t, share_of_baseline(pooled / sizes[0], pooled / sizes[1:]), df, means, pooled, sizes


def test_dunnett_1955():
    entry = PUBLISHED["dunnett.1955"]
    groups = [entry["inputs"]["control"], *entry["inputs"]["treatments"]]
    t, loadings, df, means, pooled, sizes = many_to_one(groups)
    printed = entry["published"]
    assert t == pytest.approx(printed["t"], abs=5e-5)
    assert dunnett_p(t, loadings, df) == pytest.approx(printed["p"], abs=5e-6)
    assert dunnett_p(t, loadings, df, "greater") == pytest.approx(printed["p_greater"], abs=5e-6)
    critical = brentq(lambda size: dunnett_p(np.array([size]), loadings, df)[0] - 0.05, 0, 100)
    reach = critical * np.sqrt(pooled * (1 / sizes[1:] + 1 / sizes[0]))
    assert means[1:] - means[0] - reach == pytest.approx(printed["ci_lower"], abs=5e-4)
    assert means[1:] - means[0] + reach == pytest.approx(printed["ci_upper"], abs=5e-4)


def test_dunnett_blankets():
    entry = PUBLISHED["dunnett.recovery"]
    rows = entry["inputs"]["data"]
    groups = [[row["minutes"] for row in rows if row["blanket"] == name] for name in ("b0", "b1", "b2", "b3")]
    t, loadings, df, means, *_ = many_to_one(groups)
    assert means[1:] - means[0] == pytest.approx(entry["published"]["estimate"], abs=5e-5)
    assert t == pytest.approx(entry["published"]["t"], abs=5e-4)
    assert dunnett_p(t, loadings, df, "less") == pytest.approx(entry["published"]["p"], abs=1e-3)


def test_quantile():
    entry = PUBLISHED["quantile.nist90"]
    quantile = find_quantile(np.sort(entry["inputs"]["data"]), 0.9)
    assert quantile == pytest.approx(entry["published"]["type7"], abs=5e-6)


# ------------------------------------------------------------------ other programs


def make_arms(seed=0, sizes=(300, 400), effect=0.3):
    rng = np.random.default_rng(seed)
    arms = []
    for arm, size in enumerate(sizes):
        x = rng.normal(2 + 0.2 * arm, 1, (size, 2))
        y = 5 + effect * arm + x @ [1.0, 0.5 + 0.4 * arm] + rng.normal(0, 1 + arm, size)
        arms.append(np.column_stack([y, x]))
    return arms


def test_adjustment_is_the_regression_with_interactions():
    arms = make_arms()
    moments = [moments_of(arm) for arm in arms]
    levels = adjust_levels([linear_mean(part, 0) for part in moments], moments, [1, 2])
    rows = np.concatenate(arms)
    treated = np.repeat([0.0, 1.0], [len(arm) for arm in arms])
    centred = rows[:, 1:] - rows[:, 1:].mean(axis=0)
    design = np.column_stack([np.ones(len(rows)), treated, centred, centred * treated[:, None]])
    fit = sm.OLS(rows[:, 0], design).fit(cov_type="HC2")
    assert levels.values[1] - levels.values[0] == pytest.approx(fit.params[1], abs=1e-9)
    own = math.sqrt(levels.own.sum())
    assert own == pytest.approx(fit.bse[1], rel=0.03)
    # The covariate means are estimated too, which the regression leaves out.
    assert own < math.sqrt(levels.covariance[0, 0] + levels.covariance[1, 1] - 2 * levels.covariance[0, 1])
    assert 0.2 < levels.explained < 0.8


def test_ratio_is_clustered_least_squares():
    rng = np.random.default_rng(4)
    rows = rng.poisson(3, 200) + 1
    rates = rng.beta(2, 5, 200)
    hits = rng.binomial(rows, rates)
    moments = moments_of(np.column_stack([hits, rows]).astype(float))
    levels = adjust_levels([linear_ratio(moments, 0, 1)] * 2, [moments] * 2, [])
    each = np.concatenate([np.repeat([1.0, 0.0], [h, r - h]) for h, r in zip(hits, rows, strict=True)])
    unit = np.repeat(np.arange(200), rows)
    fit = sm.OLS(each, np.ones(each.size)).fit(cov_type="cluster", cov_kwds={"groups": unit})
    assert levels.values[0] == pytest.approx(fit.params[0], abs=1e-12)
    assert math.sqrt(levels.own[0]) == pytest.approx(fit.bse[0], rel=1e-3)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_dunnett_agrees_with_scipy(alternative):
    rng = np.random.default_rng(8)
    groups = [rng.normal(0.2 * k, 1, 12 + k) for k in range(4)]
    t, loadings, df, *_ = many_to_one(groups)
    expected = stats.dunnett(*groups[1:], control=groups[0], alternative=alternative, rng=np.random.default_rng(1))
    assert dunnett_p(t, loadings, df, alternative) == pytest.approx(expected.pvalue, abs=2e-3)


def test_best_arm_agrees_with_draws():
    values, variances = np.array([1.0, 1.1, 1.15]), np.array([0.01, 0.02, 0.01])
    draws = np.random.default_rng(1).normal(values, np.sqrt(variances), (200_000, 3))
    shares = np.bincount(draws.argmax(axis=1), minlength=3) / len(draws)
    assert probabilities_of_best(values, variances, highest=True) == pytest.approx(shares, abs=0.005)
    lowest = np.bincount(draws.argmin(axis=1), minlength=3) / len(draws)
    assert probabilities_of_best(values, variances, highest=False) == pytest.approx(lowest, abs=0.005)


def test_posterior_agrees_with_draws():
    posterior = find_posterior(0.3, 0.2, 0.1, prior_sd=0.4)
    weight = 0.16 / 0.2
    draws = np.random.default_rng(2).normal(0.3 * weight, 0.2 * math.sqrt(weight), 400_000)
    assert posterior.p_beyond == pytest.approx((draws > 0.1).mean(), abs=0.004)
    assert posterior.p_better == pytest.approx((draws < 0).mean(), abs=0.004)
    assert posterior.expected_loss == pytest.approx(np.maximum(draws, 0).mean(), abs=0.002)


# ------------------------------------------------------------------ properties


@given(st.integers(1, 29), st.integers(0, 10_000))
def test_moments_add_up(cut, seed):
    values = np.random.default_rng(seed).normal(1e6, 1, (30, 3))
    merged = merge_moments(moments_of(values[:cut]), moments_of(values[cut:]))
    together = moments_of(values)
    assert merged.n == together.n
    assert merged.mean == pytest.approx(together.mean, rel=1e-12)
    assert merged.products == pytest.approx(together.products, abs=1e-6)


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 0.01, 1000.0, 1e9]))
def test_units_of_measurement_do_not_matter(seed, scale):
    baseline, candidate = (arm[:, 0] for arm in make_arms(seed, (40, 50)))
    plain = compare_means(baseline, candidate, margin=Margin(0.1))
    scaled = compare_means(baseline * scale, candidate * scale, margin=Margin(0.1))
    assert (scaled.effect, scaled.lower, scaled.upper) == pytest.approx((plain.effect, plain.lower, plain.upper))
    assert scaled.against_margin.p_worse == pytest.approx(plain.against_margin.p_worse, abs=1e-9)


@given(st.integers(0, 10_000))
def test_swapping_the_arms_flips_the_sign(seed):
    baseline, candidate = (arm[:, 0] for arm in make_arms(seed, (40, 50)))
    forwards, backwards = compare_means(baseline, candidate), compare_means(candidate, baseline)
    assert (backwards.effect, backwards.lower, backwards.upper) == pytest.approx(
        (-forwards.effect, -forwards.upper, -forwards.lower)
    )
    assert backwards.against_zero.p_worse == pytest.approx(forwards.against_zero.p_within)


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("kind", ["mean", "proportion", "quantile"])
def test_the_interval_is_what_is_not_rejected(kind, relative, direction):
    rng = np.random.default_rng(5)
    baseline, candidate = rng.gamma(2, 3, 400), rng.gamma(2, 3.2, 500)
    sign = 1 if direction is Direction.LOWER else -1

    def ask(harm):
        options = {"alpha": 0.05, "margin": Margin(harm, relative=relative), "direction": direction}
        if kind == "mean":
            return compare_means(baseline, candidate, **options)
        if kind == "proportion":
            return compare_proportions((120, 160), (400, 410), **options)
        return compare_quantiles(cluster(baseline), cluster(candidate), 0.75, **options)

    answer = ask(0.0)
    worse, within = (answer.lower, answer.upper) if sign > 0 else (-answer.upper, -answer.lower)
    near = 1e-3 if kind == "quantile" else 1e-9
    assert ask(worse - near).against_margin.p_worse <= 0.05 + 1e-7
    assert ask(worse + near).against_margin.p_worse >= 0.05 - 1e-7
    assert ask(within + near).against_margin.p_within <= 0.05 + 1e-7
    assert ask(within - near).against_margin.p_within >= 0.05 - 1e-7


def test_limits_ask_of_the_candidate_alone():
    rng = np.random.default_rng(3)
    baseline, candidate = rng.normal(10, 1, 200), rng.normal(10, 1, 200)
    for ask in (
        lambda limit: compare_means(baseline, candidate, limit=limit),
        lambda limit: compare_quantiles(
            cluster(baseline),
            cluster(candidate),
            0.5,
            alpha=0.05,
            margin=NO_MARGIN,
            direction=Direction.LOWER,
            limit=limit,
        ),
    ):
        above, below = ask(Limit(min=5, max=8)).against_limit, ask(Limit(max=12)).against_limit
        assert (above[0].p_worse < 1e-6, above[1].p_within < 1e-6) == (True, True)
        assert below[0].p_within < 1e-6
    shares = compare_proportions(
        (10, 100), (200, 200), alpha=0.05, margin=None, direction=Direction.LOWER, limit=Limit(min=0.4, max=0.3)
    )
    assert (shares.against_limit[0].p_worse < 1e-6, shares.against_limit[1].p_within < 0.01) == (True, True)


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        pytest.param([3.0] * 40, [3.0] * 40, id="constant"),
        pytest.param([0.0] * 40, [0.0] * 39 + [1.0], id="nothing-on-baseline"),
        pytest.param([-5.0, 2.0] * 20, [-4.0, 2.0] * 20, id="below-zero"),
        pytest.param([1e12, 1.0] * 20, [1.0, 1e-12] * 20, id="many-decades"),
    ],
)
def test_odd_data_never_pass_by_accident(baseline, candidate):
    for margin in (Margin(0.1), Margin(0.5, relative=False)):
        estimate = compare_means(baseline, candidate, margin=margin)
        assert not (estimate.against_margin.p_worse < 0.025 and estimate.against_margin.p_within < 0.025)
        quantile = compare_quantiles(
            cluster(np.array(baseline)),
            cluster(np.array(candidate)),
            0.5,
            alpha=0.05,
            margin=margin,
            direction=Direction.HIGHER,
        )
        assert not (quantile.against_margin.p_worse < 0.05 and quantile.against_margin.p_within < 0.05)


@pytest.mark.parametrize(("x", "n"), [((0, 0), (500, 500)), ((500, 500), (500, 500)), ((0, 5), (10**9, 10**9))])
def test_rare_and_certain_proportions(x, n):
    estimate = compare_proportions(x, n, alpha=0.05, margin=Margin(0.01, relative=False), direction=Direction.LOWER)
    assert estimate.lower <= estimate.effect <= estimate.upper
    assert estimate.against_margin.p_within < 0.05


def test_ratio_without_denominator_is_not_a_number():
    moments = [moments_of(np.zeros((50, 2)))] * 2
    estimate = compare(moments, [linear_ratio(part, 0, 1) for part in moments])
    assert math.isnan(estimate.against_zero.p_worse)


def test_redundant_covariates_change_nothing():
    arms = [np.column_stack([arm, arm[:, 1], np.ones(len(arm))]) for arm in make_arms()]
    moments = [moments_of(arm) for arm in arms]
    levels = [linear_mean(part, 0) for part in moments]
    plain, doubled = compare(moments, levels, [1, 2]), compare(moments, levels, [1, 2, 3, 4])
    assert doubled.effect == pytest.approx(plain.effect, abs=1e-9)
    assert doubled.se == pytest.approx(plain.se, rel=1e-9)


# ------------------------------------------------------------------ a known truth

REPLICATES = 1000
MONTE_CARLO = 3.5 * math.sqrt(0.05 * 0.95 / REPLICATES)


def unit_rows(rng, units, level):
    """Skewed values, several similar rows for each unit, and a covariate that is correlated with them."""
    own = rng.lognormal(0, 0.5, units)
    rows = rng.poisson(2 * own, units) + 1
    unit = np.repeat(np.arange(units), rows)
    values = level * own[unit] * rng.lognormal(0, 0.4, unit.size)
    return unit, values, rows.astype(float), own * rng.lognormal(0, 0.3, units)


def one_trial(rng, harm, sizes):
    """p-values of "worse than a margin of `harm`" where the candidate is worse by exactly that."""
    margin, arms, quantiles = Margin(harm), [], []
    for arm, size in enumerate(sizes):
        unit, values, rows, covariate = unit_rows(rng, size, 1 + harm * arm)
        sums = np.bincount(unit, values, minlength=size)
        arms.append(moments_of(np.column_stack([sums, rows, covariate])))
        quantiles.append(cluster(values, unit))
    options = {"alpha": 0.05, "margin": margin, "direction": Direction.LOWER}
    means, ratios = [linear_mean(m, 0) for m in arms], [linear_ratio(m, 0, 1) for m in arms]
    return [
        compare(arms, means, **options),
        compare(arms, means, [2], **options),
        compare(arms, ratios, **options),
        compare(arms, ratios, [2], **options),
        compare_quantiles(*quantiles, 0.8, **options),
    ]


@pytest.mark.parametrize("harm", [0.0, 0.1])
def test_size_and_coverage_at_the_margin(harm):
    rng = np.random.default_rng(20 + int(harm * 10))
    trials = [one_trial(rng, harm, (300, 200)) for _ in range(REPLICATES)]
    for k, name in enumerate(["mean", "adjusted mean", "ratio", "adjusted ratio", "quantile"]):
        estimates = [trial[k] for trial in trials]
        worse = np.mean([f.against_margin.p_worse < 0.05 for f in estimates])
        within = np.mean([f.against_margin.p_within < 0.05 for f in estimates])
        covered = np.mean([f.lower <= harm <= f.upper for f in estimates])
        # The mean of skewed values is a little late on one side and early on the other.
        assert worse < 0.05 + MONTE_CARLO + 0.005, name
        assert within < 0.05 + MONTE_CARLO + 0.015, name
        assert covered > 0.9 - 1.4 * MONTE_CARLO - 0.01, name
    narrower = np.mean([trial[1].se / trial[0].se for trial in trials])
    assert narrower < 0.8


def test_size_of_proportions_at_the_margin():
    rng = np.random.default_rng(31)
    for p, harm in ((0.3, 0.05), (0.01, 0.005)):
        margin = Margin(harm, relative=False)
        draws = zip(rng.binomial(2000, p, REPLICATES), rng.binomial(1000, p + harm, REPLICATES), strict=True)
        estimates = [
            compare_proportions(x, (2000, 1000), alpha=0.05, margin=margin, direction=Direction.LOWER) for x in draws
        ]
        for p_value in ("p_worse", "p_within"):
            assert np.mean([getattr(f.against_margin, p_value) < 0.05 for f in estimates]) < 0.05 + MONTE_CARLO


def test_rows_are_not_units():
    """The result of a test on rows for the same releases: the reason to use units."""
    rng = np.random.default_rng(7)
    false = 0
    for _ in range(300):
        (unit, baseline, *_), (_, candidate, *_) = unit_rows(rng, 200, 1.0), unit_rows(rng, 200, 1.0)
        false += stats.ttest_ind(candidate, baseline, equal_var=False, alternative="greater").pvalue < 0.05
        assert unit.max() == 199
    assert false / 300 > 0.08


def test_dunnett_holds_the_family():
    rng = np.random.default_rng(9)
    rejected = 0
    for _ in range(200):
        arms = [moments_of(rng.normal(0, 1, (n, 1))) for n in (100, 60, 80, 40)]
        levels = adjust_levels([linear_mean(part, 0) for part in arms], arms, [])
        loadings = share_of_baseline(levels.own[0], levels.own[1:])
        t = (levels.values[1:] - levels.values[0]) / np.sqrt(levels.own[1:] + levels.own[0])
        rejected += bool((dunnett_p(t, loadings, float(levels.df.sum())) < 0.05).any())
    assert rejected / 200 < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 200)
