"""Quantiles of a histogram whose buckets are wide: claims are made at its bounds only (method B.2).

Nothing is known of where in a bucket its observations lie, so no claim rests on an interpolation. Let r be the factor
by which the candidate is slower, F the share of observations up to a bound.

- worse than δ: u is the first bound at or above the baseline's quantile, e the first bound at or above u(1 + δ). If
  fewer of the candidate's observations are within e than of the baseline's within u, then r > e/u ≥ 1 + δ.
- within δ: l is the last bound below the baseline's quantile, e the last bound up to l(1 + δ). If at least as many of
  the candidate's observations are within e as of the baseline's within l, then r ≤ e/l ≤ 1 + δ.

Both are differences of two shares, paired in time like any other: `compare_failures` with the observations above u (or
l) as the baseline's failures and those above e as the candidate's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Depth, Estimate, GroupAnswers
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.estimators.frames import frame_all_requests
from evaluator.stats.estimators.strata import levels
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.uncertainty import Design

SAME = 1e-9
"""Bounds that differ by less, relatively, are one."""


@dataclass(frozen=True, slots=True, eq=False)
class EdgePanel:
    """A panel of observations, and how many of them lie above each bound."""

    panel: Panel
    bounds: FloatArray
    """Finite and rising, in the metric's unit."""
    above: FloatArray
    """(bounds, 2, endpoints, slots)"""
    row_above: FloatArray
    """(bounds, rows)"""

    @property
    def bucket_s(self) -> int:
        """Width of a bucket of time."""
        return self.panel.bucket_s

    def before(self, bucket: int) -> EdgePanel | None:
        """As it was before this bucket, at the start of a block."""
        panel = self.panel.before(bucket)
        if panel is None:
            return None
        earlier_rows = self.panel.rows.slot < panel.rows.slots
        above = np.ascontiguousarray(self.above[..., : panel.slots])
        return EdgePanel(panel, self.bounds, above, self.row_above[:, earlier_rows])

    def pair(self, baseline: int, candidate: int) -> Panel:
        """Observations above one bound as the baseline's failures, those above another as the candidate's."""
        rows = self.panel.rows
        failures = np.stack([self.above[baseline, 0], self.above[candidate, 1]])
        row_failures = np.where(rows.arm == 1, self.row_above[candidate], self.row_above[baseline])
        return replace(self.panel, failures=failures, rows=replace(rows, failures=row_failures))

    def shares(self) -> FloatArray:
        """Standardised share of observations within each bound, (2, bounds)."""
        strata, _ = frame_all_requests(self.panel)
        return np.stack([1 - levels(strata, arm, self.above[:, arm]).level[:, 0] for arm in (0, 1)])


def stack_panels(bounds: FloatArray, panels: list[Panel]) -> EdgePanel:
    """Panels of one layout, whose failures are the observations above each bound."""
    return EdgePanel(
        panels[0],
        bounds,
        np.stack([panel.failures for panel in panels]),
        np.stack([panel.rows.failures for panel in panels]),
    )


@dataclass(frozen=True, slots=True)
class EdgeEstimate:
    """An estimate, or why there is none; and what its buckets cannot show."""

    estimate: Estimate | None
    problem: str = ""
    unresolved: str = ""
    """Why no data could show it to be within the margin."""


@dataclass(frozen=True, slots=True)
class _BoundTests:
    """Tests of one quantile between any two bounds, and what they share."""

    edges: EdgePanel
    design: Design
    probability: float
    margin: Margin | None
    alpha: float
    shares: FloatArray
    quantiles: tuple[float, float]
    """Interpolated; to show, not to decide."""
    upper: int
    """First bound at or above the baseline's quantile."""
    sd_instance: float
    depth: Depth

    @property
    def relative(self) -> bool:
        """Is the effect a ratio?"""
        return self.margin is None or self.margin.relative

    def ask(self, baseline: int, candidate: int, limit: Limit | None = None) -> Estimate:
        """Compare the share above two bounds."""
        return compare_failures(
            self.edges.pair(baseline, candidate),
            self.design,
            alpha=self.alpha,
            margin=None,
            sd_instance=self.sd_instance,
            sd_share=0.0,
            limit=limit,
            depth="answers" if self.depth == "full" else self.depth,
            shared=frame_all_requests(self.edges.panel),
        )

    def reach(self, bound: float) -> float:
        """This bound, as far off as the margin allows."""
        if self.margin is None:
            return bound
        return bound * (1 + self.margin.value) if self.margin.relative else bound + self.margin.value


def compare_edges(
    edges: EdgePanel,
    design: Design,
    probability: float,
    *,
    alpha: float,
    margin: Margin | None,
    sd_instance: float,
    limit: Limit,
    depth: Depth,
) -> EdgeEstimate:
    """Compare a quantile where lower is better. `sd_instance`: relative spread assumed of a single instance."""
    shares = edges.shares()
    reached = np.flatnonzero(shares[0] >= probability)
    if not reached.size:
        largest = edges.bounds[-1] if edges.bounds.size else 0.0
        return EdgeEstimate(None, problem=f"on baseline it lies above the largest bound of the histogram, {largest:g}")
    upper = int(reached[0])
    if edges.bounds[upper] <= 0 and (margin is None or margin.relative):
        return EdgeEstimate(
            None, problem="on baseline it is 0 or negative, so there is no ratio: give it an absolute margin"
        )
    quantiles = tuple(_interpolate(edges.bounds, arm, probability) for arm in shares)
    spread = sd_instance * spread_of_share(edges.bounds, shares[0], upper)
    tests = _BoundTests(
        edges, design, probability, margin, alpha, shares, (quantiles[0], quantiles[1]), upper, spread, depth
    )
    return _answer(tests, limit)


def spread_of_share(bounds: FloatArray, shares: FloatArray, index: int) -> float:
    """By how much the share within a bound moves per relative change of scale, from the bucket below it."""
    if index == 0 or bounds[index - 1] <= 0:
        return float(shares[index])
    return float((shares[index] - shares[index - 1]) / np.log(bounds[index] / bounds[index - 1]))


def _interpolate(bounds: FloatArray, shares: FloatArray, probability: float) -> float:
    """As Prometheus interpolates: evenly within the bucket; the largest bound where it lies above that."""
    index = int(np.searchsorted(shares, probability))
    if index >= bounds.size:
        return float(bounds[-1])
    low, below = (float(bounds[index - 1]), float(shares[index - 1])) if index else (0.0, 0.0)
    if bounds[index] <= 0 and not index:
        return float(bounds[index])
    inside = (probability - below) / max(float(shares[index]) - below, 1e-300)
    return low + (float(bounds[index]) - low) * min(max(inside, 0.0), 1.0)


def _answer(tests: _BoundTests, limit: Limit) -> EdgeEstimate:
    bounds, upper = tests.edges.bounds, tests.upper
    # The first bound that is the margin or more above the bound at the baseline's quantile shows it to be worse; the
    # last bound that is at most the margin above the one below that quantile shows it to be within.
    least_bound = tests.reach(float(bounds[upper]))
    worse_at = np.flatnonzero(bounds >= least_bound - SAME * abs(least_bound))
    within_at = upper - 1
    if upper:
        allowed = tests.reach(float(bounds[upper - 1]))
        within_at = int(np.flatnonzero(bounds <= allowed + SAME * abs(allowed))[-1])
    resolved = within_at > upper - 1
    at_all = tests.ask(upper, upper)
    worse = None if not worse_at.size else at_all if worse_at[0] == upper else tests.ask(upper, int(worse_at[0]))
    within = tests.ask(upper - 1, within_at) if resolved else None
    shown = within or worse or at_all
    # Nothing is shown where no bound can show it, or where the candidate's own quantile lies on its other side.
    p_worse = p_within = np.ones(1)
    if worse and tests.shares[1][worse_at[0]] < tests.probability:
        p_worse = worse.against_zero.p_worse
    if within and tests.shares[1][within_at] >= tests.probability:
        p_within = within.against_zero.p_within
    against = GroupAnswers(shown.against_zero.beyond, p_worse, p_within)
    baseline, candidate = tests.quantiles
    effect = candidate / baseline - 1 if tests.relative else candidate - baseline
    lower, upper_end = _interval(tests, effect) if tests.depth == "full" else (np.nan, np.nan)
    ones = np.ones(1)
    return EdgeEstimate(
        replace(
            shown,
            baseline=baseline * ones,
            candidate=candidate * ones,
            effect=effect * ones,
            lower=lower * ones,
            upper=upper_end * ones,
            against_margin=against if tests.margin else at_all.against_zero,
            against_zero=at_all.against_zero,
            detectable=_find_detectable(tests, at_all) * ones,
            se=np.nan * ones,
            against_limit=_limits(tests, limit),
            loadings=(worse or at_all).loadings,
        ),
        unresolved=_explain(tests) if tests.margin and not resolved else "",
    )


def _interval(tests: _BoundTests, effect: float) -> tuple[float, float]:
    """All changes that the bounds do not exclude: the ends are ratios (or differences) of bounds."""
    bounds, upper, alpha = tests.edges.bounds, tests.upper, tests.alpha
    above = _last(lambda e: float(tests.ask(upper, e).against_zero.p_worse[0]) < alpha, bounds.size - 1)
    low = -1.0 if tests.relative else -float(bounds[upper])
    lower = low if above is None else _change(tests, bounds[above], bounds[upper])
    high = np.inf
    if upper > 0:
        under = upper - 1
        count = bounds.size - 1
        inside = _last(lambda k: float(tests.ask(under, count - k).against_zero.p_within[0]) < alpha, count)
        if inside is not None:
            high = _change(tests, bounds[count - inside], bounds[under])
    return min(lower, effect), max(high, effect)


def _change(tests: _BoundTests, to: float, since: float) -> float:
    if not tests.relative:
        return float(to - since)
    return float(to / since - 1) if since > 0 else np.inf


def _last(holds: Callable[[int], bool], last: int) -> int | None:
    """The last place at which something holds that holds up to some place and not after it."""
    first = 0
    if not holds(first):
        return None
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if holds(middle) else (first, middle - 1)
    return first


def _find_detectable(tests: _BoundTests, at_all: Estimate) -> float:
    """Slowdown that would be found at the bound, by the baseline's own (interpolated) distribution."""
    detectable_share = float(at_all.detectable[0])
    share_before = float(tests.shares[0][tests.upper]) - detectable_share
    if not np.isfinite(detectable_share) or share_before <= 0:
        return np.nan
    bound = float(tests.edges.bounds[tests.upper])
    before = _interpolate(tests.edges.bounds, tests.shares[0], share_before)
    return _change(tests, bound, before) if before > 0 else np.nan


def _limits(tests: _BoundTests, limit: Limit) -> tuple[GroupAnswers, ...]:
    """Absolute limits at the bounds next to them: "beyond" at the one outside, "within" at the one inside."""
    bounds, by_limit = tests.edges.bounds, []
    share = Limit(max=1 - tests.probability)
    for sign, bound in limit.bounds:
        below, above = bounds[bounds <= bound * (1 + SAME)].size - 1, int(np.sum(bounds < bound * (1 - SAME)))
        inner, outer = (below, above) if sign > 0 else (above, below)
        p_values = []
        for at, beyond in ((outer, True), (inner, False)):
            # p-value of "the candidate's quantile is above this bound", or below it.
            estimate = tests.ask(at, at, share) if 0 <= at < bounds.size else None
            above_it = beyond == (sign > 0)
            if estimate is None:
                p_values.append(np.ones(1))
            else:
                answers = estimate.against_limit[0]
                p_values.append(answers.p_worse if above_it else answers.p_within)
        by_limit.append(GroupAnswers(np.zeros(1), *p_values))
    return tuple(by_limit)


def _explain(tests: _BoundTests) -> str:
    """Which bounds would show it."""
    bounds, margin = tests.edges.bounds, tests.margin
    high, quantile = float(bounds[tests.upper]), tests.quantiles[0]
    low = float(bounds[tests.upper - 1]) if tests.upper else 0.0
    allowed = margin.value if margin else 0.0
    if tests.relative:
        start = max(low, quantile / (1 + allowed))
        near = start * (1 + allowed)
    else:
        start = max(low, quantile - allowed)
        near = start + allowed
    suggested_bounds = f"{start:.3g} and {near:.3g}" if start > low else f"{near:.3g}"
    return (
        f"it lies between the bounds {low:g} and {high:g} of the histogram, further apart than the margin: "
        f"add bounds such as {suggested_bounds}, or ask for the share of observations below {high:g} (histogram_share)"
    )
