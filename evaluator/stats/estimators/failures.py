"""Compare failure rates by score, on counts divided by the design effect (method B.2, failures by score).

Sources: Miettinen & Nurminen (1985), Statistics in Medicine 4, 213-226 (score test); Kish (1965) and Rao & Scott (1992)
(design effect).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import Estimand, Spread, conclude, looks_well, measure_level
from evaluator.stats.estimators.estimate import Z_OF_POWER, Depth, Estimate, GroupAnswers, Tolerance, load, not_worse
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
from evaluator.stats.variance.history import on_scale
from evaluator.stats.variance.instances import InstanceFrame
from evaluator.stats.variance.uncertainty import Design, Uncertainty

SD_SHARE = 0.5
"""Standard deviation assumed for an arm with a single instance, as a share of the rate."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """Effective counts: adjusted for the mix and divided by the design effect of each bound: shape (bounds, groups)."""

    x_c: FloatArray
    n_c: FloatArray
    x_b: FloatArray
    n_b: FloatArray
    df: FloatArray


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

    `alpha` is the one-sided level of the interval. `margin` is a difference of rates (0.001 = 0.1 pp), or a ratio if it
    is relative; without one, the question is whether there is any harm. For an arm with a single instance, the assumed
    standard deviation is the pooled rate times `sd_share`, at least `sd_instance` (a rate). `groups`: which endpoints
    are compared together, `None` for all. Unless `depth` is full, effect and interval are NaN. `shared`: the frames of
    a panel of the same requests. `tolerance`: one more bound. `limit` is for the candidate's own rate.
    """
    strata, frame = shared or (frame_all_requests(panel) if groups is None else frame_requests(panel, groups))
    baseline, candidate = (measure_level(strata, arm, panel.failures, design) for arm in (0, 1))
    shown, difference, limit = (baseline.value, candidate.value), candidate - baseline, limit or Limit()
    margin = margin or Margin(0.0, relative=False)
    if depth == "suspects" and looks_well(*shown, margin, limit):
        return not_worse(*shown, limit.count)
    pooled = (baseline.value + candidate.value) / 2
    assumed = sd_instance, sd_share
    spread = _find_spread(panel, design, frame, difference.value, pooled, assumed)
    _, uncertainty = spread.find_uncertainty(difference)
    n_b, n_c = strata.effective
    binomial = share_variance(candidate.value, n_c) + share_variance(baseline.value, n_b)
    deff, df = _design_effect(uncertainty, binomial)
    counts = _Counts(candidate.value * n_c / deff, n_c / deff, baseline.value * n_b / deff, n_b / deff, df)
    bound = 1 + margin.value if margin.relative else 1.0
    beyond = candidate.value - bound * baseline.value if margin.relative else difference.value - margin.value
    harm = candidate.influence - bound * baseline.influence
    effect = np.full((3, pooled.size), np.nan)
    if depth == "full":
        effect = _interval(counts, baseline.value, candidate.value, alpha, relative=margin.relative)
    unit = np.where(baseline.value > 0, baseline.value, np.nan) if margin.relative else 1.0
    deciding = uncertainty.also(binomial).binding(alpha)
    return conclude(
        shown,
        effect,
        _ask(counts, beyond, margin.value, relative=margin.relative),
        _ask(counts, difference.value, 0.0, relative=False),
        deciding,
        harm=harm,
        position=panel.position,
        beyond=beyond,
        detectable=(deciding.reach + Z_OF_POWER * deciding.se) / unit,
        se=deciding.se / unit,
        against_limit=_limits(panel, design, strata, frame, candidate, assumed, limit),
        against_tolerance=None if tolerance is None else _ask_tolerance(counts, difference.value, tolerance),
        tolerance=None if tolerance is None else tolerance.as_difference(baseline.value),
        loadings=load(harm, spread.find_scores(difference), deciding.variance),
    )


def _find_spread(
    panel: Panel,
    design: Design,
    frame: InstanceFrame,
    difference: FloatArray,
    rate: FloatArray,
    assumed: tuple[float, float],
) -> Spread:
    """Variance of rates; `assumed`: smallest standard deviation of a single instance, and its share of the rate."""
    least, share = assumed
    replicates = design.kind == "replicates"
    instances = None if replicates else frame.variance(panel.rows.failures, difference, relative=False)
    prior = design.assume_variance(np.maximum(rate * share, least))
    return Spread(design, instances, prior, on_scale(design.failures, np.ones(rate.size)))


def _design_effect(uncertainty: Uncertainty, binomial: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each bound as a multiple of the binomial variance, at least 1, and its degrees of freedom."""
    deff = np.maximum(1.0, uncertainty.variance / binomial)
    return deff, np.where(deff > 1, uncertainty.df, np.inf)


def _ask_tolerance(counts: _Counts, difference: FloatArray, tolerance: Tolerance) -> GroupAnswers:
    """Worse than the wider of two bounds means worse than both: the larger of two p-values.

    The relative bound is tested as a ratio: as a difference it would be as uncertain as the baseline's rate.
    """
    absolute = np.minimum(tolerance.absolute, tolerance.most)
    answers = _ask(counts, difference - absolute, absolute, relative=False)
    if not tolerance.relative.any():
        return answers
    as_ratio = _ask(counts, difference, tolerance.relative, relative=True)
    worse = np.maximum(answers.p_worse, as_ratio.p_worse)
    return GroupAnswers(answers.beyond, worse, np.minimum(answers.p_within, as_ratio.p_within))


def _ask(counts: _Counts, beyond: FloatArray, bound: FloatArray | float, *, relative: bool) -> GroupAnswers:
    test, at = (ratio_z, 1 + bound) if relative else (difference_z, bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = test(counts.x_c, counts.n_c, counts.x_b, counts.n_b, at)
    return _test_all_bounds(beyond, z, counts.df)


def _test_all_bounds(beyond: FloatArray, z: FloatArray, df: FloatArray) -> GroupAnswers:
    """p-values of a claim that must hold for all bounds (first axis)."""
    return GroupAnswers(beyond, t_below(-z, df).max(axis=0), t_below(z, df).max(axis=0))


def _interval(
    counts: _Counts, baseline: FloatArray, candidate: FloatArray, alpha: float, *, relative: bool
) -> FloatArray:
    """The effect, and the lowest and highest effect that the test does not reject, shape (3, groups)."""
    critical = t_quantile(1 - alpha, counts.df)
    # The bounds differ only in their design effect, which does not change the restricted estimates. So the statistics
    # differ only by the root of (requests - 1), and the same bound is the widest on both sides.
    total = counts.n_c + counts.n_b
    widest = np.argmax(critical**2 / np.maximum(total - 1, 1e-12), axis=0), np.arange(total.shape[1])
    x_c, n_c, x_b, n_b = (values[widest] for values in (counts.x_c, counts.n_c, counts.x_b, counts.n_b))
    with np.errstate(divide="ignore", invalid="ignore"):
        if relative:
            low, high = ratio_interval(x_c, n_c, x_b, n_b, critical[widest])
            return np.stack([candidate / baseline, low, high]) - 1
        low, high = difference_interval(x_c, n_c, x_b, n_b, critical[widest])
    return np.stack([candidate - baseline, low, high])


def _limits(
    panel: Panel,
    design: Design,
    strata: Strata,
    frame: InstanceFrame,
    candidate: Estimand,
    assumed: tuple[float, float],
    limit: Limit,
) -> tuple[GroupAnswers, ...]:
    """Test the candidate's own rate against `max` and `min`."""
    if not limit.count:
        return ()
    rate, n = candidate.value, strata.effective[1]
    spread = _find_spread(panel, design, frame, np.zeros(rate.size), rate, assumed)
    deff, df = _design_effect(spread.find_uncertainty(candidate, arms=(1,))[1], share_variance(rate, n))
    return tuple(
        _test_all_bounds(sign * (rate - bound), sign * one_sample_z(rate * n / deff, n / deff, bound), df)
        for sign, bound in limit.bounds
    )
