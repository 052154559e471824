"""The mean of successes (or any positive rate) compared as a ratio or a difference (method B.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from evaluator.records import Direction, Limit, Margin
from evaluator.stats.estimate import (
    Asked,
    Depth,
    Estimate,
    Tolerance,
    Trend,
    ask,
    ask_allowing,
    decide_nothing,
    detectable,
    lasting_share,
    load,
    needed_time,
    not_worse,
    trend,
)
from evaluator.stats.groups import Groups
from evaluator.stats.history import InstanceHistory, on_scale
from evaluator.stats.instances import InstanceFrame, InstanceVariance
from evaluator.stats.longrun import time_variance
from evaluator.stats.panel import Panel
from evaluator.stats.resolution import find_doubt_ms
from evaluator.stats.strata import Levels, Strata, build_strata, levels, run_levels
from evaluator.stats.uncertainty import Binding, Design, Uncertainty, centre, combine, replicate_uncertainty

__all__ = ["compare_means", "estimate_ratio", "log_doubt"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Parts:
    strata: Strata
    sums: FloatArray
    baseline: Levels
    candidate: Levels
    instances: InstanceVariance
    prior: FloatArray
    history: InstanceHistory | None
    doubt: FloatArray
    """How far rounding may have moved the difference of the levels, in their unit (groups,)."""
    floor: FloatArray | None = None
    tolerance: Tolerance | None = None


def compare_means(
    panel: Panel,
    design: Design,
    *,
    alpha: float,
    margin: Margin | None,
    sd_instance: float,
    direction: Direction = Direction.LOWER,
    limit: Limit | None = None,
    groups: Groups | None = None,
    depth: Depth = "full",
    of: Literal["sum_ms", "sum_bytes"] = "sum_ms",
    floor: FloatArray | None = None,
    tolerance: Tolerance | None = None,
) -> Estimate:
    """Compare mean response times (ms) or sizes (bytes) of successes, standardised over endpoints and time.

    `sd_instance`: relative standard deviation assumed for an arm with a single instance. `groups`: subsets of the
    endpoints, compared in one go. Limits are on the candidate's own mean. `floor` (2, groups):
    least variance of the logarithm of each arm's mean, where something is known of it. What rounding may hide of times
    is allowed for in either direction (see `resolution.find_doubt_ms`). `tolerance`: one more bound to ask for.
    """
    strata = build_strata(panel, panel.ok, groups)
    sums: FloatArray = getattr(panel, of)
    baseline, candidate = (levels(strata, arm, sums[arm]) for arm in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = candidate.level / baseline.level
    relative = margin is None or margin.relative
    sign = 1.0 if direction is Direction.LOWER else -1.0
    limit = limit or Limit()
    if depth == "suspects" and _all_well(baseline.level, candidate.level, margin, sign, limit):
        return not_worse(baseline.level, candidate.level, limit.count)
    rows = panel.rows
    safe = np.where(np.isfinite(ratio) & (ratio > 0), ratio, 1.0)
    frame = InstanceFrame(rows, rows.n - rows.failures, strata.groups)
    instances = frame.variance(getattr(rows, of), safe, relative=True)
    behind = np.array([said or 1 for said in design.declared])
    prior = np.repeat((sd_instance**2 / behind)[:, None], ratio.size, axis=1)
    history = on_scale(design.latency, np.ones(ratio.size)) if of == "sum_ms" else None
    doubt = find_doubt_ms(panel, strata.groups) if of == "sum_ms" else np.zeros(ratio.size)
    parts = _Parts(strata, sums, baseline, candidate, instances, prior, history, doubt, floor, tolerance)
    estimate = _relative if relative else _absolute
    return estimate(parts, design, alpha, margin, sign, limit)


def _all_well(baseline: FloatArray, candidate: FloatArray, margin: Margin | None, sign: float, limit: Limit) -> bool:
    """Is no estimate beyond its margin or limits?"""
    allowed = 0.0 if margin is None else margin.value
    bound = baseline * (1 + sign * allowed) if margin is None or margin.relative else baseline + sign * allowed
    well = sign * (candidate - bound) <= 0
    if limit.max is not None:
        well &= candidate <= limit.max
    if limit.min is not None:
        well &= candidate >= limit.min
    return bool(well.all())


def _relative(
    parts: _Parts, design: Design, alpha: float, margin: Margin | None, sign: float, limit: Limit
) -> Estimate:
    bound = 0.0 if margin is None else (np.log1p(margin.value) if sign > 0 else -np.log1p(-margin.value))
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.log(parts.candidate.level / parts.baseline.level)
        influence = _scaled(parts.candidate) - _scaled(parts.baseline)
        by_run = np.log(_by_run(parts, design, 1) / _by_run(parts, design, 0))
    theta, uncertainty = _uncertain(parts, design, theta, influence, by_run)
    deciding = uncertainty.binding(alpha)
    return estimate_ratio(
        (parts.baseline.level, parts.candidate.level),
        theta,
        uncertainty,
        deciding,
        bound=bound,
        sign=sign,
        drift=trend(sign * influence, parts.strata.panel.position, sign * theta - bound),
        against_limit=_limits(parts, design, limit),
        loadings=load(sign * influence, _scores(parts, design, by_run, sign), deciding.variance),
        doubt=log_doubt(parts.doubt, parts.baseline.level),
        tolerance=None if parts.tolerance is None else parts.tolerance.as_ratio(parts.baseline.level),
    )


def log_doubt(doubt: FloatArray, level: FloatArray) -> FloatArray:
    """What rounding may hide (in the unit of the level) as a difference of logarithms, (groups,)."""
    return np.asarray(np.log1p(np.divide(doubt, level, out=np.zeros_like(doubt), where=level > 0)))


def estimate_ratio(
    levels_of: tuple[FloatArray, FloatArray],
    theta: FloatArray,
    uncertainty: Uncertainty,
    deciding: Binding,
    *,
    bound: float,
    sign: float,
    drift: Trend,
    against_limit: tuple[Asked, ...] = (),
    loadings: FloatArray | None = None,
    doubt: FloatArray,
    tolerance: FloatArray | None = None,
) -> Estimate:
    """The comparison of the levels of baseline and candidate whose logarithms differ by `theta` (groups,).

    `bound` is the margin on that scale, and so is `doubt`, by which rounding may have moved it; `sign` is 1 where
    lower is better, -1 where higher is. `tolerance` (groups,) is one more bound to ask for, as a relative harm.
    """
    half = deciding.reach + doubt
    coarse = (doubt >= bound) & (doubt > 0) & (bound > 0)
    tolerated = None if tolerance is None else ask_allowing(theta - np.log1p(tolerance), doubt, uncertainty)
    return Estimate(
        baseline=levels_of[0],
        candidate=levels_of[1],
        effect=np.expm1(theta),
        lower=np.expm1(theta - half),
        upper=np.expm1(theta + half),
        against_margin=decide_nothing(ask_allowing(sign * theta - bound, doubt, uncertainty), coarse),
        against_zero=ask_allowing(sign * theta, doubt, uncertainty),
        trend=drift,
        detectable=np.expm1(detectable(deciding) + doubt),
        needed=needed_time(sign * theta - bound + doubt, deciding),
        lasting=lasting_share(deciding),
        se=deciding.se,
        df=deciding.df,
        against_limit=against_limit,
        against_tolerance=tolerated,
        tolerance=tolerance,
        coarse=coarse,
        loadings=loadings,
    )


def _absolute(
    parts: _Parts, design: Design, alpha: float, margin: Margin | None, sign: float, limit: Limit
) -> Estimate:
    bound = 0.0 if margin is None else margin.value
    theta = parts.candidate.level - parts.baseline.level
    influence = parts.candidate.influence - parts.baseline.influence
    scale = np.stack([parts.baseline.level, parts.candidate.level])
    instances = replace(
        parts.instances, variance=parts.instances.variance * scale**2, within=parts.instances.within * scale**2
    )
    history = on_scale(design.latency, parts.baseline.level) if parts.history else None
    floor = None if parts.floor is None else parts.floor * scale**2
    scaled = replace(parts, instances=instances, prior=parts.prior * scale**2, history=history, floor=floor)
    by_run = _by_run(parts, design, 1) - _by_run(parts, design, 0)
    theta, uncertainty = _uncertain(scaled, design, theta, influence, by_run)
    deciding, doubt = uncertainty.binding(alpha), parts.doubt
    half = deciding.reach + doubt
    coarse = (doubt >= bound) & (doubt > 0) & (bound > 0)
    return Estimate(
        baseline=parts.baseline.level,
        candidate=parts.candidate.level,
        effect=theta,
        lower=theta - half,
        upper=theta + half,
        against_margin=decide_nothing(ask_allowing(sign * theta - bound, doubt, uncertainty), coarse),
        against_zero=ask_allowing(sign * theta, doubt, uncertainty),
        trend=trend(sign * influence, parts.strata.panel.position, sign * theta - bound),
        detectable=detectable(deciding) + doubt,
        needed=needed_time(sign * theta - bound + doubt, deciding),
        lasting=lasting_share(deciding),
        se=deciding.se,
        df=deciding.df,
        against_limit=_limits(parts, design, limit),
        coarse=coarse,
        loadings=load(sign * influence, _scores(parts, design, by_run, sign), deciding.variance),
    )


def _scaled(part: Levels) -> FloatArray:
    """Influence on the logarithm of the level."""
    return np.asarray(part.influence / part.level[:, None])


def _by_run(parts: _Parts, design: Design, arm: int) -> FloatArray:
    """Level of one arm in each run (groups, runs); all together where runs are no replicates."""
    if design.kind != "replicates":
        return (parts.candidate if arm else parts.baseline).level[:, None]
    return run_levels(parts.strata, arm, parts.sums[arm])


def _uncertain(
    parts: _Parts, design: Design, theta: FloatArray, influence: FloatArray, by_run: FloatArray
) -> tuple[FloatArray, Uncertainty]:
    time = time_variance(influence)
    if design.kind == "replicates":
        theta, uncertainty = replicate_uncertainty(by_run, time)
    else:
        uncertainty = combine(time, parts.instances, parts.prior, history=parts.history)
    return theta, uncertainty if parts.floor is None else uncertainty.also(parts.floor.sum(axis=0))


def _limits(parts: _Parts, design: Design, limit: Limit) -> tuple[Asked, ...]:
    """The candidate's own mean against `max` and `min`, on the log scale."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.log(parts.candidate.level)
        influence = _scaled(parts.candidate)
        by_run = np.log(_by_run(parts, design, 1))
    time = time_variance(influence)
    if design.kind == "replicates":
        own, uncertainty = replicate_uncertainty(by_run, time)
    else:
        uncertainty = combine(time, parts.instances, parts.prior, arms=(1,), history=parts.history)
    if parts.floor is not None:
        uncertainty = uncertainty.also(parts.floor[1])
    bounds = [(1.0, limit.max), (-1.0, limit.min)]
    return tuple(
        ask(sign * (own - np.log(max(bound, 1e-12))), uncertainty) for sign, bound in bounds if bound is not None
    )


def _scores(parts: _Parts, design: Design, by_run: FloatArray, sign: float) -> FloatArray | None:
    """What replicates or instances add to the error, (units, groups); nothing known where there is one a side."""
    if design.kind == "replicates":
        return np.asarray(sign * centre(by_run).T)
    return sign * parts.instances.scores if design.kind == "instances" else None
