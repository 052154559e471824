"""Typical response times, compared as a ratio: the geometric mean of successes, endpoint by endpoint (method B.5).

The mean of an endpoint with a hundred requests is at the mercy of the slowest few. The mean of logarithms is not, and
an endpoint that became slower has moved all of its times: of those that became 95 % slower in a run of 75 seconds with
one instance a side the geometric mean shows 82 to 92 %, the mean 55 to 63 % (simulated; a rare endpoint, p < 0.005).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluator.records import Margin
from evaluator.stats.estimate import Depth, Estimate, Tolerance, not_worse, trend
from evaluator.stats.groups import Groups
from evaluator.stats.history import on_scale
from evaluator.stats.instances import InstanceFrame
from evaluator.stats.longrun import time_variance
from evaluator.stats.means import estimate_ratio, log_doubt
from evaluator.stats.panel import Panel
from evaluator.stats.resolution import find_doubt_ms
from evaluator.stats.strata import build_strata, levels, run_levels
from evaluator.stats.uncertainty import Design, combine, replicate_uncertainty

__all__ = ["compare_typical_times"]

FloatArray = npt.NDArray[np.float64]


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
    baseline, candidate = (levels(strata, arm, panel.sum_log_ms[arm]) for arm in (0, 1))
    typical = np.exp(baseline.level), np.exp(candidate.level)
    theta, bound = candidate.level - baseline.level, float(np.log1p(margin.value)) if margin else 0.0
    if depth == "suspects" and (theta <= bound).all():
        return not_worse(*typical, 0)
    influence = candidate.influence - baseline.influence
    time = time_variance(influence)
    if design.kind == "replicates":
        by_run = run_levels(strata, 1, panel.sum_log_ms[1]) - run_levels(strata, 0, panel.sum_log_ms[0])
        theta, uncertainty = replicate_uncertainty(by_run, time)
    else:
        rows = panel.rows
        frame = InstanceFrame(rows, rows.n - rows.failures, strata.groups)
        parts = frame.variance(rows.sum_log_ms, theta, relative=False)
        prior = np.stack([np.full(theta.size, sd_instance**2 / (said or 1)) for said in design.declared])
        uncertainty = combine(time, parts, prior, history=on_scale(design.latency, np.ones(theta.size)))
    return estimate_ratio(
        typical,
        theta,
        uncertainty,
        uncertainty.binding(alpha),
        bound=bound,
        sign=1.0,
        drift=trend(influence, panel.position, theta - bound),
        doubt=log_doubt(find_doubt_ms(panel, groups), typical[0]),
        tolerance=None if tolerance is None else tolerance.as_ratio(typical[0]),
    )
