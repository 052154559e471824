"""Compare the mean of successes (or any positive rate) as a ratio or a difference (method B.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from evaluator.records import Direction, Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import (
    Spread,
    answer_limits,
    are_within_bounds,
    contrast,
    log_bound,
    measure_level,
    vary_by_instance,
)
from evaluator.stats.estimators.estimate import Depth, Estimate, Tolerance, build_untested
from evaluator.stats.estimators.resolution import find_doubt_ms, log_doubt
from evaluator.stats.estimators.strata import Strata, build_strata
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import convert_history
from evaluator.stats.variance.uncertainty import Design

Averaged = Literal["time_ms", "bytes", "value"]
"""What is averaged: the name of a total of the panel."""


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
    of: Averaged = "time_ms",
    floor: FloatArray | None = None,
    tolerance: Tolerance | None = None,
) -> Estimate:
    """Compare means of successes, standardised over endpoints and time (method B.2, B.3; Mantel & Haenszel 1959).

    Args:
        panel: Baseline and candidate.
        design: What is replicated: whole runs, instances within runs, or nothing.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; `None`: the question is whether there is any harm.
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
        direction: Which way is better.
        limit: Bounds on the candidate's own mean.
        groups: Which endpoints are compared together; `None`: all.
        depth: What is computed: tests only if a mean is beyond its bound (`suspects`), else all.
        of: What is averaged: times (ms), sizes (bytes) or `value`.
        floor: Smallest possible variance of the logarithm of each arm's mean, shape (2, groups), if it is known.
        tolerance: One more bound to test, if the margin is relative: the harm that is tolerated in a GO.
    """
    strata = build_strata(panel, panel.ok, groups)
    baseline, candidate = (measure_level(strata, arm, panel.totals[of], design) for arm in (0, 1))
    means = baseline.value, candidate.value
    sign, limit = (1.0 if direction is Direction.LOWER else -1.0), limit or Limit()
    if depth == "suspects" and are_within_bounds(*means, margin, limit, sign):
        return build_untested(*means, limit.count)
    log_ratio = candidate.log() - baseline.log()
    # The effect that is removed before instances are compared: none (1) if it is unknown.
    ratio = np.exp(np.where(np.isfinite(log_ratio.value), log_ratio.value, 0.0))
    spread = replace(_find_spread(strata, design, of, ratio, sd_instance), floor=floor)
    against_limit = answer_limits(candidate.log(), spread, limit, log=True)
    # How far rounding may have moved the difference; only times are rounded.
    doubt = find_doubt_ms(panel, strata.groups) if of == "time_ms" else np.zeros(ratio.size)
    if margin is None or margin.relative:
        difference, bound, relative = log_ratio, log_bound(margin, sign), True
        doubt = log_doubt(doubt, baseline.value)
    else:
        difference, bound, relative = candidate - baseline, margin.value, False
        spread = _convert_to_difference(spread, np.stack(means))
    return contrast(
        means,
        difference,
        spread,
        panel.position,
        alpha=alpha,
        bound=bound,
        sign=sign,
        relative=relative,
        doubt=doubt,
        tolerance=tolerance.as_ratio(baseline.value) if tolerance and relative else None,
        against_limit=against_limit,
    )


def _find_spread(strata: Strata, design: Design, of: Averaged, ratio: FloatArray, sd_instance: float) -> Spread:
    """Find how much the logarithm of each arm's mean varies between instances.

    Args:
        strata: Weights of the comparison.
        design: What is replicated: whole runs, instances within runs, or nothing.
        of: What is averaged.
        ratio: Candidate's mean divided by the baseline's, which is removed before instances are compared, (groups,).
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
    """
    rows = strata.panel.rows
    return Spread(
        design,
        vary_by_instance(strata, rows.n - rows.failures, rows.totals[of], ratio, design, relative=True),
        design.assume_variance(np.full(ratio.size, sd_instance)),
        # Earlier runs show how much latency differs between instances, not sizes.
        convert_history(design.latency, np.ones(ratio.size)) if of != "bytes" else None,
    )


def _convert_to_difference(spread: Spread, level: FloatArray) -> Spread:
    """Convert the spread of logarithms of levels to that of the levels themselves, `level` (2, groups).

    By the delta method, variances are multiplied by the square of the level.
    """
    factor = level**2
    instances, history = spread.instances, spread.history
    if instances is not None:
        instances = replace(instances, variance=instances.variance * factor, within=instances.within * factor)
    return replace(
        spread,
        instances=instances,
        prior=None if spread.prior is None else spread.prior * factor,
        history=None if history is None else history.times(level[0]),
        floor=None if spread.floor is None else spread.floor * factor,
    )
