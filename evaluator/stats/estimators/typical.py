"""Typical response times, compared as a ratio: the geometric mean of successes, endpoint by endpoint (method B.5).

The mean of an endpoint with a hundred requests is at the mercy of the slowest few. The mean of logarithms is not, and
an endpoint that became slower has moved all of its times: of those that became 95 % slower in a run of 75 seconds with
one instance a side the geometric mean shows 82 to 92 %, the mean 55 to 63 % (simulated; a rare endpoint, p < 0.005).
"""

from __future__ import annotations

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.stats.estimators.contrast import Spread, contrast, log_bound, looks_well, measure_level, vary_by_instance
from evaluator.stats.estimators.estimate import Depth, Estimate, Tolerance, not_worse
from evaluator.stats.estimators.resolution import find_doubt_ms, log_doubt
from evaluator.stats.estimators.strata import build_strata
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import on_scale
from evaluator.stats.variance.uncertainty import Design


def compare_typical_times(
    panel: Panel,
    design: Design,
    *,
    alpha: float,
    margin: Margin | None,
    sd_instance: float,
    groups: Groups,
    depth: Depth = "full",
    tolerance: Tolerance | None = None,
) -> Estimate:
    """Compare geometric means of response times (ms) of successes, standardised over endpoints and time.

    `groups` (subsets of the endpoints) are compared in one go; `margin` is relative. `sd_instance`: relative
    standard deviation assumed for an arm with a single instance. What rounding may hide of the times is allowed for in
    either direction. `tolerance`: one more bound to ask for.
    """
    strata = build_strata(panel, panel.ok, groups)
    baseline, candidate = (measure_level(strata, arm, panel.totals["log_time_ms"], design) for arm in (0, 1))
    typical = np.exp(baseline.value), np.exp(candidate.value)
    if depth == "suspects" and looks_well(*typical, margin, Limit()):
        return not_worse(*typical, 0)
    rows, difference = panel.rows, candidate - baseline
    count = difference.value.size
    spread = Spread(
        design,
        vary_by_instance(
            strata, rows.n - rows.failures, rows.totals["log_time_ms"], difference.value, design, relative=False
        ),
        design.assume_variance(np.full(count, sd_instance)),
        on_scale(design.latency, np.ones(count)),
    )
    return contrast(
        typical,
        difference,
        spread,
        panel.position,
        alpha=alpha,
        bound=log_bound(margin, 1.0),
        relative=True,
        doubt=log_doubt(find_doubt_ms(panel, groups), typical[0]),
        tolerance=None if tolerance is None else tolerance.as_ratio(typical[0]),
        joint=False,
    )
