"""Levels compared as a difference on their own scale: gauges that may be 0 or negative, and slopes (method B.2).

As `compare_means`, but instances are compared by differences too, where a logarithm would not exist.
"""

from __future__ import annotations

import numpy as np

from evaluator.records import Direction, Limit
from evaluator.stats.estimators.contrast import Spread, ask_limits, contrast, measure_level, vary_by_instance
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
    """Compare the total `value` per count of both arms; margin, limits and `sd_instance` are in its unit.

    `sd_instance`: standard deviation assumed for an arm with a single instance. `floor`: least variance of the level
    of each arm. `fitted`: slow cosines that the level itself has taken out of its influences: a line takes two.
    Where nothing varies at all the answer is exact.
    """
    strata = build_strata(panel, panel.n)
    baseline, candidate = (measure_level(strata, arm, panel.totals["value"], design) for arm in (0, 1))
    rows, difference = panel.rows, candidate - baseline
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
        against_limit=ask_limits(candidate, spread, limit or Limit()),
    )
