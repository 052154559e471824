"""Quantiles of a histogram with wide buckets: claims are made at its bounds only (method B.7).

Where the observations are within a bucket is unknown, so no claim is based on interpolation. Let the candidate be
slower by the factor r, and δ be the margin.

- Worse than δ: u is the first bound at or above the baseline's quantile, e the first bound at or above u(1 + δ). If the
  share of the candidate's observations within e is below the share of the baseline's within u, then r > e/u ≥ 1 + δ.
- Within δ: l is the last bound below the baseline's quantile, e the last bound up to l(1 + δ). If the share of the
  candidate's observations within e is at least the share of the baseline's within l, then r ≤ e/l ≤ 1 + δ.

Both are differences of two shares, paired in time like all others: `compare_failures`, with observations above u (or l)
as the baseline's failures and those above e as the candidate's.
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
"""Bounds with a smaller relative difference are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class EdgePanel:
    """A panel of observations, and how many of them are above each bound."""

    panel: Panel
    bounds: FloatArray
    """Finite and increasing, in the metric's unit, shape (bounds,)."""
    above: FloatArray
    """Observations above each bound, shape (bounds, 2, endpoints, slots)."""
    row_above: FloatArray
    """The same for each instance row, shape (bounds, rows)."""

    @property
    def bucket_s(self) -> int:
        """Width of a bucket of time."""
        return self.panel.bucket_s

    def before(self, bucket: int) -> EdgePanel | None:
        """Return the panel before this bucket, the first of a block; `None` if an arm had no data yet."""
        panel = self.panel.before(bucket)
        if panel is None:
            return None
        earlier_rows = self.panel.rows.slot < panel.rows.slots
        above = np.ascontiguousarray(self.above[..., : panel.slots])
        return EdgePanel(panel, self.bounds, above, self.row_above[:, earlier_rows])

    def pair(self, baseline: int, candidate: int) -> Panel:
        """Build a panel whose failures are the observations above a bound: one for each arm, given by its index."""
        rows = self.panel.rows
        failures = np.stack([self.above[baseline, 0], self.above[candidate, 1]])
        row_failures = np.where(rows.arm == 1, self.row_above[candidate], self.row_above[baseline])
        return replace(self.panel, failures=failures, rows=replace(rows, failures=row_failures))

    def shares(self) -> FloatArray:
        """Return the standardised share of observations within each bound, shape (2, bounds)."""
        strata, _ = frame_all_requests(self.panel)
        return np.stack([1 - levels(strata, arm, self.above[:, arm]).level[:, 0] for arm in (0, 1)])


def stack_panels(bounds: FloatArray, panels: list[Panel]) -> EdgePanel:
    """Stack panels that differ only in their failures, which are the observations above each of `bounds`."""
    return EdgePanel(
        panels[0],
        bounds,
        np.stack([panel.failures for panel in panels]),
        np.stack([panel.rows.failures for panel in panels]),
    )


@dataclass(frozen=True, slots=True)
class EdgeEstimate:
    """An estimate, or why there is none."""

    estimate: Estimate | None
    problem: str = ""
    """Why there is no estimate; empty if there is one."""
    unresolved: str = ""
    """Why no amount of data can show it to be within the margin; empty if more data can."""


@dataclass(frozen=True, slots=True)
class _BoundTests:
    """Tests of one quantile between any two bounds, and the values that they share."""

    edges: EdgePanel
    design: Design
    probability: float
    margin: Margin | None
    alpha: float
    shares: FloatArray
    quantiles: tuple[float, float]
    """Quantiles of both arms, interpolated; they are shown and decide nothing."""
    upper: int
    """First bound at or above the baseline's quantile."""
    sd_instance: float
    depth: Depth

    @property
    def relative(self) -> bool:
        """Is the effect a ratio?"""
        return self.margin is None or self.margin.relative

    def ask(self, baseline: int, candidate: int, limit: Limit | None = None) -> Estimate:
        """Compare the shares above two bounds (by their index)."""
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
        """Return this bound plus the margin."""
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
    """Compare a quantile of a histogram; lower is better (method B.7, quantiles of wide buckets).

    Args:
        edges: Observations above each bound.
        design: What is replicated.
        probability: The quantile, 0 to 1.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; `None`: the question is whether there is any harm.
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
        limit: Bounds on the candidate's own quantile.
        depth: What is computed.

    Returns:
        The estimate; or the problem, if the baseline's quantile is above the largest bound, or if it is not above 0 and
        the margin is relative.
    """
    shares = edges.shares()
    reached = np.flatnonzero(shares[0] >= probability)
    if not reached.size:
        largest = edges.bounds[-1] if edges.bounds.size else 0.0
        return EdgeEstimate(None, problem=f"on baseline it is above the largest bound of the histogram, {largest:g}")
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
    """Return the change of the share within a bound per relative change of scale, from the bucket below the bound.

    `bounds` and `shares` have shape (bounds,); `index` is the bound.
    """
    if index == 0 or bounds[index - 1] <= 0:
        return float(shares[index])
    return float((shares[index] - shares[index - 1]) / np.log(bounds[index] / bounds[index - 1]))


def _interpolate(bounds: FloatArray, shares: FloatArray, probability: float) -> float:
    """Interpolate as Prometheus does: evenly within the bucket; at most the largest bound."""
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
    # "Worse" is tested at the first bound that is at least the margin above the bound at the baseline's quantile,
    # "within" at the last bound that is at most the margin above the bound below this quantile.
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
    # Nothing is shown if there is no such bound, or if the candidate's own quantile is on the other side of it.
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
    """The interval of changes that the bounds do not exclude: its ends are ratios (or differences) of bounds."""
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
    """The last index up to `last` for which `holds` is true, if it is true up to some index and false after it."""
    first = 0
    if not holds(first):
        return None
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if holds(middle) else (first, middle - 1)
    return first


def _find_detectable(tests: _BoundTests, at_all: Estimate) -> float:
    """Slowdown that would be detected at the bound, from the baseline's own (interpolated) distribution."""
    detectable_share = float(at_all.detectable[0])
    share_before = float(tests.shares[0][tests.upper]) - detectable_share
    if not np.isfinite(detectable_share) or share_before <= 0:
        return np.nan
    bound = float(tests.edges.bounds[tests.upper])
    before = _interpolate(tests.edges.bounds, tests.shares[0], share_before)
    return _change(tests, bound, before) if before > 0 else np.nan


def _limits(tests: _BoundTests, limit: Limit) -> tuple[GroupAnswers, ...]:
    """Test absolute limits at the bounds next to them: "beyond" at the one outside, "within" at the one inside."""
    bounds, by_limit = tests.edges.bounds, []
    share = Limit(max=1 - tests.probability)
    for sign, bound in limit.bounds:
        below, above = bounds[bounds <= bound * (1 + SAME)].size - 1, int(np.sum(bounds < bound * (1 - SAME)))
        inner, outer = (below, above) if sign > 0 else (above, below)
        p_values = []
        for at, beyond in ((outer, True), (inner, False)):
            # p-value of "the candidate's quantile is above this bound", or of "it is below".
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
    """Explain which bounds could show it to be within the margin."""
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
        f"it is between the bounds {low:g} and {high:g} of the histogram, which are further apart than the margin: "
        f"add bounds such as {suggested_bounds}, or judge the share of observations below {high:g} (histogram_share)"
    )
