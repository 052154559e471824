"""Failure rates compared by score, on counts that are worth what they say (method B.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluator.records import Limit, Margin
from evaluator.stats.estimate import (
    Asked,
    Depth,
    Estimate,
    Tolerance,
    detectable,
    lasting_share,
    load,
    needed_time,
    not_worse,
    trend,
)
from evaluator.stats.frames import frame_all_requests, frame_requests
from evaluator.stats.groups import Groups
from evaluator.stats.history import on_scale
from evaluator.stats.instances import InstanceFrame
from evaluator.stats.longrun import time_variance
from evaluator.stats.panel import Panel
from evaluator.stats.score import difference_interval, difference_z, one_sample_z, ratio_interval, ratio_z
from evaluator.stats.strata import Levels, Strata, levels, run_levels
from evaluator.stats.student import t_below, t_quantile
from evaluator.stats.uncertainty import Design, Uncertainty, centre, combine, replicate_uncertainty

__all__ = ["compare_failures"]

FloatArray = npt.NDArray[np.float64]

SD_SHARE = 0.5
"""Standard deviation assumed for an arm with a single instance, as a share of the rate."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """Effective counts: mix-adjusted and divided by the design effect, once for each bound: (bounds, groups)."""

    x_c: FloatArray
    n_c: FloatArray
    x_b: FloatArray
    n_b: FloatArray
    df: FloatArray
    uncertainty: Uncertainty
    scores: FloatArray | None


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
    """Compare failure rates, standardised over endpoints and time.

    An absolute margin is a difference of rates (0.001 = 0.1 pp), a relative one a ratio. `sd_instance`: least
    standard deviation (as a rate) assumed for an arm with a single instance, else the pooled rate times `sd_share`.
    With less than full `depth` effect and interval are NaN. `shared`: the frames of a panel of the same requests.
    `tolerance`: one more bound to ask for.
    """
    assumed = sd_instance, sd_share
    strata, frame = shared or (frame_all_requests(panel) if groups is None else frame_requests(panel, groups))
    baseline, candidate = (levels(strata, arm, panel.failures[arm]) for arm in (0, 1))
    bound = 0.0 if margin is None else margin.value
    relative = margin is not None and margin.relative
    difference = candidate.level - baseline.level
    beyond = candidate.level - (1 + bound) * baseline.level if relative else difference - bound
    limit = limit or Limit()
    if depth == "suspects" and (beyond <= 0).all() and _keeps(candidate.level, limit):
        return not_worse(baseline.level, candidate.level, limit.count)
    counts = _effective(panel, design, strata, frame, baseline, candidate, assumed)
    influence = candidate.influence - (1 + bound if relative else 1.0) * baseline.influence
    if depth == "full":
        effect, lower, upper = _interval(counts, baseline, candidate, alpha, relative=relative)
    else:
        effect = lower = upper = np.full(difference.shape, np.nan)
    unit = np.where(baseline.level > 0, baseline.level, np.nan) if relative else 1.0
    deciding = counts.uncertainty.binding(alpha)
    return Estimate(
        baseline=baseline.level,
        candidate=candidate.level,
        effect=effect,
        lower=lower,
        upper=upper,
        against_margin=_ask(counts, beyond, bound, relative=relative),
        against_zero=_ask(counts, difference, 0.0, relative=False),
        trend=trend(influence, panel.position, beyond),
        detectable=detectable(deciding) / unit,
        needed=needed_time(beyond, deciding),
        lasting=lasting_share(deciding),
        se=deciding.se / unit,
        df=deciding.df,
        against_limit=_limits(panel, design, strata, frame, candidate, assumed, limit),
        against_tolerance=None if tolerance is None else _ask_tolerance(counts, difference, tolerance),
        tolerance=None if tolerance is None else tolerance.as_difference(baseline.level),
        loadings=load(influence, counts.scores, deciding.variance),
    )


def _keeps(level: FloatArray, limit: Limit) -> bool:
    """Is no estimate beyond the limits?"""
    below = limit.max is None or bool((level <= limit.max).all())
    return below and (limit.min is None or bool((level >= limit.min).all()))


def _effective(
    panel: Panel,
    design: Design,
    strata: Strata,
    frame: InstanceFrame,
    baseline: Levels,
    candidate: Levels,
    assumed: tuple[float, float],
) -> _Counts:
    n_b, n_c = strata.effective
    x_b, x_c = baseline.level * n_b, candidate.level * n_c
    binomial = _binomial(x_c, n_c) + _binomial(x_b, n_b)
    time = time_variance(candidate.influence - baseline.influence)
    scores: FloatArray | None
    if design.kind == "replicates":
        by_run = run_levels(strata, 1, panel.failures[1]) - run_levels(strata, 0, panel.failures[0])
        scores = centre(by_run).T
        _, uncertainty = replicate_uncertainty(by_run, time)
    else:
        rows = panel.rows
        parts = frame.variance(rows.failures, candidate.level - baseline.level, relative=False)
        scores = parts.scores if design.kind == "instances" else None
        history = on_scale(design.failures, np.ones(x_c.size))
        uncertainty = combine(time, parts, _prior(design, baseline, candidate, assumed), history=history)
    deff, df = _design_effect(uncertainty, binomial)
    return _Counts(x_c / deff, n_c / deff, x_b / deff, n_b / deff, df, uncertainty.also(binomial), scores)


def _design_effect(uncertainty: Uncertainty, binomial: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How many times the binomial variance each bound is, and its degrees of freedom; never below that variance."""
    deff = np.maximum(1.0, uncertainty.variance / binomial)
    return deff, np.where(deff > 1, uncertainty.df, np.inf)


def _binomial(x: FloatArray, n: FloatArray) -> FloatArray:
    """Variance of a rate, never 0: one half failure is added."""
    rate = (x + 0.5) / (n + 1)
    return np.asarray(rate * (1 - rate) / np.maximum(n, 1e-300))


def _prior(design: Design, baseline: Levels, candidate: Levels, assumed: tuple[float, float]) -> FloatArray:
    least, share = assumed
    pooled = (baseline.level + candidate.level) / 2
    sd = np.maximum(pooled * share, least)
    return np.stack([sd**2 / (said or 1) for said in design.declared])


def _ask_tolerance(counts: _Counts, difference: FloatArray, tolerance: Tolerance) -> Asked:
    """Worse than the wider of two bounds is worse than both: the less sure of two answers.

    A ratio is asked as one: its bound as a difference would be as unsure as the baseline's rate.
    """
    absolute = np.minimum(tolerance.absolute, tolerance.most)
    answers = _ask(counts, difference - absolute, absolute, relative=False)
    if not tolerance.relative.any():
        return answers
    as_ratio = _ask(counts, difference, tolerance.relative, relative=True)
    worse = np.maximum(answers.p_worse, as_ratio.p_worse)
    return Asked(answers.beyond, worse, np.minimum(answers.p_within, as_ratio.p_within))


def _ask(counts: _Counts, beyond: FloatArray, bound: FloatArray | float, *, relative: bool) -> Asked:
    test, at = (ratio_z, 1 + bound) if relative else (difference_z, bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = test(counts.x_c, counts.n_c, counts.x_b, counts.n_b, at)
    return _asked(beyond, z, counts.df)


def _asked(beyond: FloatArray, z: FloatArray, df: FloatArray) -> Asked:
    """What a claim is worth that must hold against every bound (first axis)."""
    return Asked(beyond, t_below(-z, df).max(axis=0), t_below(z, df).max(axis=0))


def _interval(
    counts: _Counts, baseline: Levels, candidate: Levels, alpha: float, *, relative: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    critical = t_quantile(1 - alpha, counts.df)
    # The bounds differ by their design effect alone, which leaves the restricted estimates as they are: the statistics
    # differ by the root of their requests less one only, and the same bound is the widest on both sides.
    total = counts.n_c + counts.n_b
    widest = np.argmax(critical**2 / np.maximum(total - 1, 1e-12), axis=0), np.arange(total.shape[1])
    x_c, n_c, x_b, n_b = (values[widest] for values in (counts.x_c, counts.n_c, counts.x_b, counts.n_b))
    with np.errstate(divide="ignore", invalid="ignore"):
        if relative:
            low, high = ratio_interval(x_c, n_c, x_b, n_b, critical[widest])
            return candidate.level / baseline.level - 1, low - 1, high - 1
        low, high = difference_interval(x_c, n_c, x_b, n_b, critical[widest])
    return candidate.level - baseline.level, low, high


def _limits(
    panel: Panel,
    design: Design,
    strata: Strata,
    frame: InstanceFrame,
    candidate: Levels,
    assumed: tuple[float, float],
    limit: Limit,
) -> tuple[Asked, ...]:
    """The candidate's own rate against `max` and `min`."""
    bounds = [(1.0, limit.max), (-1.0, limit.min)]
    if limit.max is None and limit.min is None:
        return ()
    n, x = strata.effective[1], candidate.level * strata.effective[1]
    binomial = _binomial(x, n)
    time = time_variance(candidate.influence)
    if design.kind == "replicates":
        _, uncertainty = replicate_uncertainty(run_levels(strata, 1, panel.failures[1]), time)
    else:
        rows = panel.rows
        parts = frame.variance(rows.failures, np.zeros(x.size), relative=False)
        prior, history = _prior(design, candidate, candidate, assumed), on_scale(design.failures, np.ones(x.size))
        uncertainty = combine(time, parts, prior, arms=(1,), history=history)
    deff, df = _design_effect(uncertainty, binomial)
    out = []
    for sign, bound in bounds:
        if bound is not None:
            z = sign * one_sample_z(x / deff, n / deff, bound)
            out.append(_asked(sign * (candidate.level - bound), z, df))
    return tuple(out)
