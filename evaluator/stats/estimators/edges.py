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
from evaluator.stats.estimators.strata import standardise_levels
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
        """Return the panel before `bucket`, the first bucket of a block; `None` if an arm had no data before it."""
        panel = self.panel.before(bucket)
        if panel is None:
            return None
        earlier_rows = self.panel.rows.slot < panel.rows.slots  # `slots`: block slots of the earlier panel
        above = np.ascontiguousarray(self.above[..., : panel.slots])
        return EdgePanel(panel, self.bounds, above, self.row_above[:, earlier_rows])

    def pair(self, baseline: int, candidate: int) -> Panel:
        """Build a panel whose failures are observations above a bound.

        `baseline` and `candidate` are the indices (in `bounds`) of the bound of each arm.
        """
        rows = self.panel.rows
        failures = np.stack([self.above[baseline, 0], self.above[candidate, 1]])
        row_failures = np.where(rows.arm == 1, self.row_above[candidate], self.row_above[baseline])
        return replace(self.panel, failures=failures, rows=replace(rows, failures=row_failures))

    def shares(self) -> FloatArray:
        """Return the standardised share of observations within each bound, shape (2, bounds)."""
        strata, _ = frame_all_requests(self.panel)
        return np.stack([1 - standardise_levels(strata, arm, self.above[:, arm]).level[:, 0] for arm in (0, 1)])


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

    def compare_shares(self, baseline: int, candidate: int, limit: Limit | None = None) -> Estimate:
        """Compare the candidate's share of observations above a bound with the baseline's share above another.

        `baseline` and `candidate` are the indices of these bounds; `limit` is for the candidate's share. Observations
        above a bound are compared as failures, without a margin: the margin is in the choice of the bounds. The
        interval of the shares is never needed.
        """
        return compare_failures(
            self.edges.pair(baseline, candidate),
            self.design,
            alpha=self.alpha,
            margin=None,
            sd_instance=self.sd_instance,
            sd_share=0.0,  # `sd_instance` is already that of a share
            limit=limit,
            depth="answers" if self.depth == "full" else self.depth,
            shared=frame_all_requests(self.edges.panel),
        )

    def add_margin(self, bound: float) -> float:
        """Return this bound plus the margin, in the metric's unit."""
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
        design: What is replicated: whole runs, instances within runs, or nothing.
        probability: The quantile, 0 to 1.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; `None`: the question is whether there is any harm.
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
        limit: Bounds on the candidate's own quantile.
        depth: What is computed: all (`full`), all but intervals (`answers`), or tests only if a level is beyond its
            bound (`suspects`).

    Returns:
        The estimate; or the problem, if the baseline's quantile is above the largest bound, or if it is not above 0 and
        the margin is relative.
    """
    shares = edges.shares()
    # Bounds at or above the baseline's quantile.
    at_or_above = np.flatnonzero(shares[0] >= probability)
    if not at_or_above.size:
        largest = edges.bounds[-1] if edges.bounds.size else 0.0
        return EdgeEstimate(None, problem=f"on baseline it is above the largest bound of the histogram, {largest:g}")
    upper = int(at_or_above[0])  # the first of them
    if edges.bounds[upper] <= 0 and (margin is None or margin.relative):
        return EdgeEstimate(
            None, problem="on baseline it is 0 or negative, so there is no ratio: give it an absolute margin"
        )
    quantiles = (
        _interpolate_quantile(edges.bounds, shares[0], probability),
        _interpolate_quantile(edges.bounds, shares[1], probability),
    )
    tests = _BoundTests(
        edges,
        design,
        probability=probability,
        margin=margin,
        alpha=alpha,
        shares=shares,
        quantiles=quantiles,
        upper=upper,
        sd_instance=sd_instance * slope_of_share(edges.bounds, shares[0], upper),  # of times, converted to shares
        depth=depth,
    )
    return _test_quantile(tests, limit)


def slope_of_share(bounds: FloatArray, shares: FloatArray, index: int) -> float:
    """Return by how much the share of observations within a bound rises if all of them become faster by a small factor.

    It is the rise for a factor of 1 + x, divided by x: the share in the bucket below the bound, divided by the bucket's
    width on the log scale. The first bucket, which begins at 0 or below, has no finite width on
    this scale, and counts as one unit wide.

    Args:
        bounds: Upper bounds of the histogram, shape (bounds,).
        shares: Share of observations within each bound, shape (bounds,).
        index: Index of the bound.
    """
    if index == 0 or bounds[index - 1] <= 0:
        return float(shares[index])
    return float((shares[index] - shares[index - 1]) / np.log(bounds[index] / bounds[index - 1]))


def _interpolate_quantile(bounds: FloatArray, shares: FloatArray, probability: float) -> float:
    """Interpolate a quantile as Prometheus does: evenly within its bucket; at most the largest bound.

    `shares` are the shares of observations within each of `bounds`, both of shape (bounds,). The first bucket begins
    at 0.
    """
    index = int(np.searchsorted(shares, probability))
    if index >= bounds.size:
        return float(bounds[-1])
    if index == 0 and bounds[index] <= 0:
        return float(bounds[index])
    lower_bound = float(bounds[index - 1]) if index else 0.0
    share_below = float(shares[index - 1]) if index else 0.0
    position = (probability - share_below) / max(float(shares[index]) - share_below, 1e-300)
    return lower_bound + (float(bounds[index]) - lower_bound) * min(max(position, 0.0), 1.0)


def _test_quantile(tests: _BoundTests, limit: Limit) -> EdgeEstimate:
    """Test the candidate's quantile against the margin, zero and the limits, at bounds of the histogram.

    Where observations are between two bounds is unknown. So the candidate is shown to be worse at a bound that is
    certainly the margin above the baseline's quantile, and to be within the margin at a bound that is certainly no more
    than the margin above it. The estimate has one group.
    """
    bounds, upper = tests.edges.bounds, tests.upper
    # The baseline's quantile is between the bounds `upper - 1` and `upper` (indices). "Worse" is tested at the first
    # bound that is at least the margin above `upper`, "within" at the last bound that is at most the margin above
    # `upper - 1`. Bounds that differ by rounding only (`SAME`) are equal.
    least_worse = tests.add_margin(float(bounds[upper]))
    worse_bounds = np.flatnonzero(bounds >= least_worse - SAME * abs(least_worse))
    within_bound = upper - 1
    if upper:
        most_within = tests.add_margin(float(bounds[upper - 1]))
        within_bound = int(np.flatnonzero(bounds <= most_within + SAME * abs(most_within))[-1])
    # Without another bound than `upper - 1` itself, which is below the baseline's quantile, "within" cannot be shown.
    can_show_within = within_bound > upper - 1
    any_harm = tests.compare_shares(upper, upper)
    worse = None
    if worse_bounds.size:
        worse = any_harm if worse_bounds[0] == upper else tests.compare_shares(upper, int(worse_bounds[0]))
    within = tests.compare_shares(upper - 1, within_bound) if can_show_within else None
    # The estimate has the variance and trend of one of these tests.
    shown = within or worse or any_harm
    # Nothing is shown (p = 1) without such a bound, or if the candidate's own quantile is not above the bound of
    # "worse", or is above the bound of "within".
    p_worse = p_within = np.ones(1)
    if worse and tests.shares[1][worse_bounds[0]] < tests.probability:
        p_worse = worse.against_zero.p_worse
    if within and tests.shares[1][within_bound] >= tests.probability:
        p_within = within.against_zero.p_within
    against_margin = GroupAnswers(shown.against_zero.beyond, p_worse, p_within)
    baseline, candidate = tests.quantiles  # interpolated, only to show
    effect = candidate / baseline - 1 if tests.relative else candidate - baseline
    effect_lower, effect_upper = _find_interval(tests, effect) if tests.depth == "full" else (np.nan, np.nan)
    one_group = np.ones(1)
    return EdgeEstimate(
        replace(
            shown,
            baseline=baseline * one_group,
            candidate=candidate * one_group,
            effect=effect * one_group,
            lower=effect_lower * one_group,
            upper=effect_upper * one_group,
            against_margin=against_margin if tests.margin else any_harm.against_zero,
            against_zero=any_harm.against_zero,
            detectable=_find_detectable(tests, any_harm) * one_group,
            se=np.nan * one_group,  # unknown on the scale of the effect
            against_limit=_answer_limits(tests, limit),
            loadings=(worse or any_harm).loadings,
        ),
        unresolved=_explain_unresolved(tests) if tests.margin and not can_show_within else "",
    )


def _find_interval(tests: _BoundTests, effect: float) -> tuple[float, float]:
    """Find the lowest and the highest effect that no test at a bound rejects; `effect` itself is always between them.

    The lower end comes from the last bound that the candidate's quantile is shown to exceed, the upper end from the
    first bound that it is shown not to exceed. Without such a bound, an end is that of all possible effects.
    """
    bounds, upper, alpha = tests.edges.bounds, tests.upper, tests.alpha
    last_bound = bounds.size - 1

    def is_exceeded(bound: int) -> bool:
        """Is the candidate's quantile shown to be above the bound with this index?"""
        return float(tests.compare_shares(upper, bound).against_zero.p_worse[0]) < alpha

    def is_not_exceeded(bound: int) -> bool:
        """Is it shown to be no higher than the bound with this index?"""
        return float(tests.compare_shares(upper - 1, bound).against_zero.p_within[0]) < alpha

    lower = -1.0 if tests.relative else -float(bounds[upper])
    exceeded = _find_last(is_exceeded, last_bound)
    if exceeded is not None:
        lower = _express_change(tests, bounds[exceeded], bounds[upper])
    higher = np.inf
    if upper > 0:
        # The first bound that is not exceeded is the last in reverse order.
        reverse_index = _find_last(lambda k: is_not_exceeded(last_bound - k), last_bound)
        if reverse_index is not None:
            higher = _express_change(tests, bounds[last_bound - reverse_index], bounds[upper - 1])
    return min(lower, effect), max(higher, effect)


def _express_change(tests: _BoundTests, value: float, reference: float) -> float:
    """Express the change from `reference` to `value` as the effect is shown: relative, or as a difference."""
    if not tests.relative:
        return float(value - reference)
    return float(value / reference - 1) if reference > 0 else np.inf


def _find_last(holds: Callable[[int], bool], last: int) -> int | None:
    """Find the last of the indices 0 … `last` for which `holds` is true, by bisection; `None` if there is none.

    `holds` must be true up to some index and false after it.
    """
    if not holds(0):
        return None
    low, high = 0, last
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _find_detectable(tests: _BoundTests, any_harm: Estimate) -> float:
    """Find the smallest slowdown that is detected at the bound above the baseline's quantile; NaN if none is.

    `any_harm` compares the shares above this bound, so it detects a change of this share. In the baseline's own
    (interpolated) distribution, a slowdown that lifts so many more observations above the bound is the result: the
    change from the time that is lifted to the bound, to the bound.
    """
    detectable_share = float(any_harm.detectable[0])
    share_before = float(tests.shares[0][tests.upper]) - detectable_share
    if not np.isfinite(detectable_share) or share_before <= 0:
        return np.nan
    bound = float(tests.edges.bounds[tests.upper])
    lifted_to_bound = _interpolate_quantile(tests.edges.bounds, tests.shares[0], share_before)
    return _express_change(tests, bound, lifted_to_bound) if lifted_to_bound > 0 else np.nan


def _answer_limits(tests: _BoundTests, limit: Limit) -> tuple[GroupAnswers, ...]:
    """Test the candidate's own quantile against `max` and `min`, at the bounds of the histogram next to each limit.

    It is shown to be beyond a limit at the next bound outside, and within at the next bound inside.
    """
    bounds = tests.edges.bounds
    answers = []
    # The sign is 1 for `max`, -1 for `min`.
    for sign, limit_value in limit.bounds:
        # Indices of the bounds next to the limit, both of the same bound if the limit is a bound.
        last_below = int(np.sum(bounds <= limit_value * (1 + SAME))) - 1
        first_above = int(np.sum(bounds < limit_value * (1 - SAME)))
        if sign > 0:
            p_worse = _test_against_bound(tests, first_above, above=True)
            p_within = _test_against_bound(tests, last_below, above=False)
        else:
            p_worse = _test_against_bound(tests, last_below, above=False)
            p_within = _test_against_bound(tests, first_above, above=True)
        answers.append(GroupAnswers(np.zeros(1), p_worse, p_within))
    return tuple(answers)


def _test_against_bound(tests: _BoundTests, index: int, *, above: bool) -> FloatArray:
    """Return the p-value, shape (1,), of a claim about the candidate's quantile and the bound with this index.

    If `above`, the claim is that the quantile is above the bound, else that it is at most the bound. The p-value is 1,
    so that nothing is shown, if the histogram has no bound with this index.
    """
    if not 0 <= index < tests.edges.bounds.size:
        return np.ones(1)
    # A quantile (of 0.95) is above a bound if more than 1 - 0.95 of all observations are.
    share_above = Limit(max=1 - tests.probability)
    answers = tests.compare_shares(index, index, share_above).against_limit[0]
    return answers.p_worse if above else answers.p_within


def _explain_unresolved(tests: _BoundTests) -> str:
    """Explain to a user which bounds of the histogram could show the quantile to be within the margin."""
    bounds, margin = tests.edges.bounds, tests.margin
    quantile = tests.quantiles[0]  # of the baseline; it is between the bounds `low` and `high`
    high = float(bounds[tests.upper])
    low = float(bounds[tests.upper - 1]) if tests.upper else 0.0
    allowed = margin.value if margin else 0.0
    # Two bounds around the baseline's quantile that are the margin apart; the first may be a bound that exists.
    if tests.relative:
        start = max(low, quantile / (1 + allowed))
        end = start * (1 + allowed)
    else:
        start = max(low, quantile - allowed)
        end = start + allowed
    suggested_bounds = f"{start:.3g} and {end:.3g}" if start > low else f"{end:.3g}"
    return (
        f"it is between the bounds {low:g} and {high:g} of the histogram, which are further apart than the margin: "
        f"add bounds such as {suggested_bounds}, or judge the share of observations below {high:g} (histogram_share)"
    )
