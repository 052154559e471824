"""Compare failure rates by score, on counts divided by the design effect (method B.2, failures by score).

Sources: Miettinen & Nurminen (1985), Statistics in Medicine 4, 213-226 (score test); Kish (1965) and Rao & Scott (1992)
(design effect).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import Estimand, Spread, are_within_bounds, build_estimate, measure_level
from evaluator.stats.estimators.estimate import (
    Z_OF_POWER,
    Depth,
    Estimate,
    GroupAnswers,
    Tolerance,
    build_untested,
    compute_loadings,
)
from evaluator.stats.estimators.frames import frame_all_requests, frame_requests
from evaluator.stats.estimators.strata import Strata
from evaluator.stats.inference.score import (
    difference_interval,
    difference_z,
    one_sample_z,
    ratio_interval,
    ratio_z,
    share_variance,
)
from evaluator.stats.inference.student import t_below, t_quantile
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import convert_history
from evaluator.stats.variance.instances import InstanceFrame
from evaluator.stats.variance.uncertainty import Design, Uncertainty

SD_SHARE = 0.5
"""Standard deviation assumed for an arm with a single instance, as a share of the rate."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """Effective counts, which a test of independent requests may use: shape (variances, groups).

    They are adjusted for the mix of endpoints and divided by the design effect, which differs between the variances of
    an `Uncertainty`.
    """

    x_c: FloatArray
    """Failures of the candidate."""
    n_c: FloatArray
    """Requests of the candidate."""
    x_b: FloatArray
    """Failures of the baseline."""
    n_b: FloatArray
    """Requests of the baseline."""
    df: FloatArray
    """Degrees of freedom of the variance; infinite if it is that of independent requests."""


@dataclass(frozen=True, slots=True)
class _AssumedSd:
    """Standard deviation of the rate assumed for an arm with a single instance: the larger of two."""

    least: float
    """A rate."""
    share: float
    """A share of the arm's rate."""


def compare_failures(
    panel: Panel,
    design: Design,
    *,
    alpha: float,
    margin: Margin | None,
    sd_instance: float,
    sd_share: float = SD_SHARE,
    limit: Limit | None = None,
    groups: Groups | None = None,
    depth: Depth = "full",
    shared: tuple[Strata, InstanceFrame] | None = None,
    tolerance: Tolerance | None = None,
) -> Estimate:
    """Compare failure rates, standardised over endpoints and time (method B.2, failures by score).

    Args:
        panel: Baseline and candidate.
        design: What is replicated: whole runs, instances within runs, or nothing.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated, a difference of rates (0.001 is 0.1 pp), or a ratio if it is relative;
            `None`: the question is whether there is any harm.
        sd_instance: Standard deviation of the rate assumed for an arm with a single instance.
        sd_share: The same, as a share of the mean rate of both arms. The larger of the two counts.
        limit: Bounds on the candidate's own rate.
        groups: Which endpoints are compared together; `None`: all.
        depth: What is computed: all (`full`), all but effect and interval, which are NaN (`answers`), or tests only if
            a rate is beyond its bound (`suspects`).
        shared: Weights and instances of the panel, if the caller has them already.
        tolerance: One more bound to test: the harm that is tolerated in a GO.
    """
    strata, frame = shared or (frame_all_requests(panel) if groups is None else frame_requests(panel, groups))
    baseline, candidate = (measure_level(strata, arm, panel.failures, design) for arm in (0, 1))
    rates, difference, limit = (baseline.value, candidate.value), candidate - baseline, limit or Limit()
    margin = margin or Margin(0.0, relative=False)
    if depth == "suspects" and are_within_bounds(*rates, margin, limit):
        return build_untested(*rates, limit.count)
    mean_rate = (baseline.value + candidate.value) / 2
    assumed = _AssumedSd(sd_instance, sd_share)
    spread = _find_spread(panel, design, frame, difference.value, mean_rate, assumed)
    _, uncertainty = spread.find_uncertainty(difference)
    # The score test is for independent requests (variance `binomial`), so counts are divided by the design effect.
    n_b, n_c = strata.effective_n
    binomial = share_variance(candidate.value, n_c) + share_variance(baseline.value, n_b)
    counts = _find_effective_counts(strata, rates, *_find_design_effect(uncertainty, binomial))
    factor = 1 + margin.value if margin.relative else 1.0  # the multiple of the baseline's rate that is allowed
    beyond = candidate.value - factor * baseline.value if margin.relative else difference.value - margin.value
    harm_influence = candidate.influence - factor * baseline.influence
    effect = np.full((3, mean_rate.size), np.nan)  # with both ends of its interval
    if depth == "full":
        effect = _find_interval(counts, baseline.value, candidate.value, alpha, relative=margin.relative)
    # What a difference of rates is divided by, to be on the scale of the effect; NaN: there is no ratio to 0.
    unit_of_effect = np.where(baseline.value > 0, baseline.value, np.nan) if margin.relative else 1.0
    deciding = uncertainty.also(binomial).find_widest(alpha)
    return build_estimate(
        rates,
        effect,
        _test_rates(counts, beyond, margin.value, relative=margin.relative),
        _test_rates(counts, difference.value, 0.0, relative=False),
        deciding,
        harm=harm_influence,
        position=panel.position,
        beyond=beyond,
        detectable=(deciding.half_width + Z_OF_POWER * deciding.se) / unit_of_effect,
        se=deciding.se / unit_of_effect,
        against_limit=_answer_limits(panel, design, strata, frame, candidate, assumed, limit),
        against_tolerance=None if tolerance is None else _answer_tolerance(counts, difference.value, tolerance),
        tolerance=None if tolerance is None else tolerance.as_difference(baseline.value),
        loadings=compute_loadings(harm_influence, spread.find_scores(difference), deciding.variance),
    )


def _find_spread(
    panel: Panel,
    design: Design,
    frame: InstanceFrame,
    difference: FloatArray,
    rate: FloatArray,
    assumed: _AssumedSd,
) -> Spread:
    """Find how much failure rates vary between instances.

    Args:
        panel: Baseline and candidate.
        design: What is replicated; with replicates, instances are not compared.
        frame: Instances of the panel, by groups.
        difference: Difference of the rates of both arms, which is removed before instances are compared, (groups,).
        rate: Rate to which an assumed share refers, shape (groups,).
        assumed: Standard deviation of an arm with a single instance.
    """
    has_replicates = design.kind == "replicates"
    instances = None if has_replicates else frame.variance(panel.rows.failures, difference, relative=False)
    prior = design.assume_variance(np.maximum(rate * assumed.share, assumed.least))
    return Spread(design, instances, prior, convert_history(design.failures, np.ones(rate.size)))


def _find_design_effect(uncertainty: Uncertainty, binomial: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return each variance as a multiple of that of independent requests, at least 1, and its degrees of freedom.

    `binomial` (groups,) is the variance of independent requests. Both results have the shape (variances, groups). A
    variance that is no larger than the binomial is known: its degrees of freedom are infinite.
    """
    design_effect = np.maximum(1.0, uncertainty.variance / binomial)
    return design_effect, np.where(design_effect > 1, uncertainty.df, np.inf)


def _find_effective_counts(
    strata: Strata, rates: tuple[FloatArray, FloatArray], design_effect: FloatArray, df: FloatArray
) -> _Counts:
    """Divide the requests and failures of both arms by the design effect of each variance.

    The requests are `Strata.effective_n`, which are adjusted for the mix of endpoints. `rates` are those of baseline
    and candidate, each (groups,); `design_effect` and `df` are of `_find_design_effect`.
    """
    (baseline, candidate), (n_b, n_c) = rates, strata.effective_n
    return _Counts(
        x_c=candidate * n_c / design_effect,
        n_c=n_c / design_effect,
        x_b=baseline * n_b / design_effect,
        n_b=n_b / design_effect,
        df=df,
    )


def _answer_tolerance(counts: _Counts, difference: FloatArray, tolerance: Tolerance) -> GroupAnswers:
    """Test whether the candidate's rate is beyond the harm that is tolerated: the wider of two bounds.

    Beyond the wider bound means beyond both, so its p-value is the larger of two; within it means within one of them.
    The relative bound is tested as a ratio: as a difference it would be as uncertain as the baseline's rate.
    """
    absolute = np.minimum(tolerance.absolute, tolerance.most)
    as_difference = _test_rates(counts, difference - absolute, absolute, relative=False)
    if not tolerance.relative.any():
        return as_difference
    as_ratio = _test_rates(counts, difference, tolerance.relative, relative=True)
    p_worse = np.maximum(as_difference.p_worse, as_ratio.p_worse)
    p_within = np.minimum(as_difference.p_within, as_ratio.p_within)
    return GroupAnswers(as_difference.beyond, p_worse, p_within)


def _test_rates(counts: _Counts, beyond: FloatArray, bound: FloatArray | float, *, relative: bool) -> GroupAnswers:
    """Test the candidate's rate against the baseline's by score.

    Args:
        counts: Effective counts of both arms.
        beyond: Distance beyond the bound, to show with the answers, shape (groups,).
        bound: The bound: a difference of rates, or if `relative` an increase as a share of the baseline's rate.
        relative: Whether the ratio of both rates is tested.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if relative:
            z = ratio_z(counts.x_c, counts.n_c, counts.x_b, counts.n_b, 1 + bound)
        else:
            z = difference_z(counts.x_c, counts.n_c, counts.x_b, counts.n_b, bound)
    return _test_all_variances(beyond, z, counts.df)


def _test_all_variances(beyond: FloatArray, z: FloatArray, df: FloatArray) -> GroupAnswers:
    """Compute p-values of claims that must hold with each variance: the largest over the first axis.

    `z` and `df` have the shape (variances, groups); a positive `z` is beyond the bound.
    """
    return GroupAnswers(beyond, t_below(-z, df).max(axis=0), t_below(z, df).max(axis=0))


def _find_interval(
    counts: _Counts, baseline: FloatArray, candidate: FloatArray, alpha: float, *, relative: bool
) -> FloatArray:
    """Return the effect, and the lowest and highest effect that the test does not reject, shape (3, groups).

    `baseline` and `candidate` are the rates (groups,). If `relative`, the effect is their ratio minus 1.
    """
    critical = t_quantile(1 - alpha, counts.df)
    # The interval must pass the test with each variance, so it is the widest of their intervals. The variances differ
    # only in their design effect, which changes no rate. So the statistics differ only by the root of (requests - 1),
    # and the same variance is the widest on both sides.
    total = counts.n_c + counts.n_b
    widest_variance = np.argmax(critical**2 / np.maximum(total - 1, 1e-12), axis=0)
    widest = widest_variance, np.arange(total.shape[1])  # index of one element for each group
    x_c, n_c, x_b, n_b = (values[widest] for values in (counts.x_c, counts.n_c, counts.x_b, counts.n_b))
    with np.errstate(divide="ignore", invalid="ignore"):
        if relative:
            low, high = ratio_interval(x_c, n_c, x_b, n_b, critical[widest])
            return np.stack([candidate / baseline, low, high]) - 1
        low, high = difference_interval(x_c, n_c, x_b, n_b, critical[widest])
    return np.stack([candidate - baseline, low, high])


def _answer_limits(
    panel: Panel,
    design: Design,
    strata: Strata,
    frame: InstanceFrame,
    candidate: Estimand,
    assumed: _AssumedSd,
    limit: Limit,
) -> tuple[GroupAnswers, ...]:
    """Test the candidate's own failure rate against the limit: one answer for each of `max` and `min` that is set.

    As for a comparison, counts are divided by the design effect of each variance. `candidate` is the candidate's rate
    (groups,) with its influences; `assumed` is the standard deviation of an arm with a single instance.
    """
    if not limit.count:
        return ()
    rate = candidate.value
    _, n = strata.effective_n
    # The baseline is not compared: there is no difference to remove.
    no_difference = np.zeros(rate.size)
    spread = _find_spread(panel, design, frame, no_difference, rate, assumed)
    _, uncertainty = spread.find_uncertainty(candidate, arms=(1,))
    design_effect, df = _find_design_effect(uncertainty, share_variance(rate, n))
    answers = []
    # The sign is 1 for a maximum, -1 for a minimum, so that positive distances are beyond the limit.
    for sign, bound in limit.bounds:
        z = one_sample_z(rate * n / design_effect, n / design_effect, bound)
        answers.append(_test_all_variances(sign * (rate - bound), sign * z, df))
    return tuple(answers)
