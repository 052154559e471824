"""Compare levels by their difference: gauges that may be 0 or negative, and slopes (method B.2, B.7).

As `compare_means`, but instances are also compared by differences, because logarithms may not exist.
"""

from __future__ import annotations

import numpy as np

from evaluator.records import Direction, Limit
from evaluator.stats.estimators.contrast import Spread, answer_limits, contrast, measure_level, vary_by_instance
from evaluator.stats.estimators.estimate import Estimate
from evaluator.stats.estimators.strata import build_strata
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.uncertainty import Design


def compare_differences(
    panel: Panel,
    design: Design,
    *,
    alpha: float,
    margin: float,
    sd_instance: float,
    direction: Direction = Direction.LOWER,
    limit: Limit | None = None,
    floor: tuple[float, float] = (0.0, 0.0),
    fitted: int = 0,
) -> Estimate:
    """Compare both arms by the difference of their levels. A level is the sum of an arm's values divided by its counts.

    Margin, limits and `sd_instance` have the unit of the value. If nothing varies, the answer is exact (method B.2,
    B.3; trends: B.7).

    Args:
        panel: Baseline and candidate, with the total `value`.
        design: What is replicated: whole runs, instances within runs, or nothing.
        alpha: One-sided level of the interval.
        margin: Largest absolute harm that is tolerated.
        sd_instance: Standard deviation assumed for an arm with a single instance.
        direction: Which way is better.
        limit: Bounds on the candidate's own level.
        floor: Smallest possible variance of the level of baseline and candidate.
        fitted: Number of slow cosines (waves over the run) that the level itself has removed from its influences: two
            if the level is the slope of a line.
    """
    strata = build_strata(panel, panel.n)
    baseline, candidate = (measure_level(strata, arm, panel.totals["value"], design) for arm in (0, 1))
    difference = candidate - baseline
    rows = panel.rows
    spread = Spread(
        design,
        vary_by_instance(strata, rows.n, rows.totals["value"], difference.value, design, relative=False),
        design.assume_variance(np.full(difference.value.size, sd_instance)),
        floor=np.array(floor)[:, None],
        fitted=fitted,
    )
    return contrast(
        (baseline.value, candidate.value),
        difference,
        spread,
        panel.position,
        alpha=alpha,
        bound=margin,
        sign=1.0 if direction is Direction.LOWER else -1.0,
        relative=False,
        against_limit=answer_limits(candidate, spread, limit or Limit()),
    )
