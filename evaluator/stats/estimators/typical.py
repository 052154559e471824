"""Compare typical response times as a ratio: the geometric mean of successes, endpoint by endpoint (method B.5, scan).

The mean of an endpoint with a hundred requests depends on the slowest few. The mean of logarithms does not, and an
endpoint that became slower has moved all its times. Of simulated rare endpoints that became 95 % slower, in a run of 75
seconds with one instance on each arm, the geometric mean shows 82 to 92 % at p < 0.005, the mean 55 to 63 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import (
    Estimand,
    Spread,
    are_within_bounds,
    contrast,
    log_bound,
    measure_level,
    vary_by_instance,
)
from evaluator.stats.estimators.estimate import Depth, Estimate, Tolerance, build_untested
from evaluator.stats.estimators.resolution import find_doubt_ms, find_log_doubt, log_doubt
from evaluator.stats.estimators.strata import Strata, build_strata
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import convert_history
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
    """Compare geometric means of response times (ms) of successes, standardised over endpoints and time (method B.5).

    Each claim is tested as if rounding had moved the times against it (`resolution.find_doubt_ms`,
    `resolution.find_log_doubt`).

    Args:
        panel: Baseline and candidate.
        design: What is replicated: whole runs, instances within runs, or nothing.
        alpha: One-sided level of the interval.
        margin: Largest relative harm that is tolerated; `None`: the question is whether there is any harm.
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
        groups: Which endpoints are compared together.
        depth: What is computed: all (`full`), all but intervals (`answers`), or tests only if a level is beyond its
            bound (`suspects`).
        tolerance: One more bound to test: the harm that is tolerated in a GO.
    """
    measured = measure_typical_times(panel, design, sd_instance=sd_instance, groups=groups)
    if depth == "suspects" and are_within_bounds(*measured.typical_ms, margin, Limit()):
        return build_untested(*measured.typical_ms, 0)
    return contrast(
        measured.typical_ms,
        measured.log_ratio,
        measured.find_spread(),
        panel.position,
        alpha=alpha,
        bound=log_bound(margin, 1.0),
        relative=True,
        doubt=measured.find_doubt(),
        tolerance=None if tolerance is None else tolerance.as_ratio(measured.typical_ms[0]),
        joint=False,
    )


@dataclass(frozen=True, slots=True)
class TypicalTimes:
    """Typical times of both arms, and what their uncertainty is computed from."""

    strata: Strata
    design: Design
    sd_instance: float
    """Relative standard deviation assumed for an arm with a single instance."""
    typical_ms: tuple[FloatArray, FloatArray]
    """Of baseline and candidate, each (groups,)."""
    log_ratio: Estimand
    """Candidate against baseline."""

    def find_spread(self) -> Spread:
        """Find how much the logarithm of each arm's typical time varies between instances."""
        rows, count = self.strata.panel.rows, self.log_ratio.value.size
        return Spread(
            self.design,
            vary_by_instance(
                self.strata,
                rows.n - rows.failures,
                rows.totals["log_time_ms"],
                self.log_ratio.value,
                self.design,
                relative=False,
            ),
            self.design.assume_variance(np.full(count, self.sd_instance)),
            convert_history(self.design.latency, np.ones(count)),
        )

    def find_doubt(self) -> FloatArray:
        """Find how far rounding may have moved the log ratio, shape (groups,)."""
        panel, groups = self.strata.panel, self.strata.groups
        doubt = log_doubt(find_doubt_ms(panel, groups), self.typical_ms[0])
        return np.asarray(np.maximum(doubt, find_log_doubt(panel, groups)))


def measure_typical_times(panel: Panel, design: Design, *, sd_instance: float, groups: Groups) -> TypicalTimes:
    """Measure the geometric means of both arms; arguments as of `compare_typical_times`."""
    strata = build_strata(panel, panel.ok, groups)
    baseline, candidate = (measure_level(strata, arm, panel.totals["log_time_ms"], design) for arm in (0, 1))
    # Differences of mean logarithms are log ratios of geometric means.
    typical_ms = np.exp(baseline.value), np.exp(candidate.value)
    return TypicalTimes(strata, design, sd_instance, typical_ms, candidate - baseline)
