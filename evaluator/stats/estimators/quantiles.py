"""Compare quantiles of time to success without a density (method B.2; Woodruff 1952, JASA 47, 635-646).

The candidate's quantile is worse than the baseline's by more than δ exactly if less than a share p of its requests is
done by q_b·(1 + δ). So D(δ) = p - F_c(q_b(1 + δ)) is tested, a difference of proportions, and the interval is the set
of δ that the test does not reject. No density is estimated: this fails for integer milliseconds and for distributions
with two modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from evaluator.records import Direction, Limit, Margin
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.contrast import Estimand, Spread, conclude
from evaluator.stats.estimators.distribution import (
    Distribution,
    count_done,
    count_done_by_row,
    distributions_by_row,
    find_limits_ms,
    standardised_distributions,
)
from evaluator.stats.estimators.estimate import (
    Z_OF_POWER,
    Depth,
    Estimate,
    GroupAnswers,
    ask,
    decide_nothing,
    load,
    not_worse,
)
from evaluator.stats.estimators.frames import frame_all_requests
from evaluator.stats.estimators.resolution import find_quantile_doubt_ms, step_of_arms_ms
from evaluator.stats.estimators.strata import Strata, levels
from evaluator.stats.inference.score import share_variance
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import on_scale
from evaluator.stats.variance.uncertainty import Design, Uncertainty

PRIOR_STEP = 0.05
NEGLIGIBLE = 1e-4
"""Rounding below this share of a quantile is ignored."""
SLACK = 1e-9
"""A step counts as wider than the margin only if the relative difference is larger."""

MOST_TOGETHER = 8
"""Quantiles that are tested together, each with two thresholds: more of them need more memory and save little time."""


@dataclass(frozen=True, slots=True)
class QuantileQuestion:
    """Which quantile is compared, and with which margin and limits."""

    probability: float
    margin: Margin | None = None
    direction: Direction = Direction.LOWER
    limit: Limit = field(default_factory=Limit)

    @property
    def sign(self) -> float:
        """1 if higher is worse, else -1."""
        return 1.0 if self.direction is Direction.LOWER else -1.0

    @property
    def relative(self) -> bool:
        """Is the effect a ratio?"""
        return self.margin is None or self.margin.relative

    def edge(self, quantile_ms: float) -> float:
        """Return the baseline's quantile plus the margin (ms)."""
        bound = self.sign * (0.0 if self.margin is None else self.margin.value)
        return quantile_ms * (1 + bound) if self.relative else quantile_ms + bound


@dataclass(frozen=True, slots=True)
class QuantileEstimate:
    """The estimate, or why there is none: the baseline's own quantile is a failure, or a time of 0."""

    estimate: Estimate | None
    problem: Literal["failing", "zero"] | None = None


def compare_quantiles(
    panel: Panel,
    design: Design,
    questions: Sequence[QuantileQuestion],
    *,
    alpha: float,
    sd_instance: float,
    depth: Depth = "full",
) -> tuple[QuantileEstimate, ...]:
    """Compare quantiles of time to success, standardised over endpoints and time (method B.2; Woodruff 1952).

    If a step of the recorded times is wider than the margin, the estimate is `coarse`: then margin and zero decide
    nothing, and limits still do.

    Args:
        panel: Baseline and candidate.
        design: What is replicated.
        questions: Quantiles with their margins and limits.
        alpha: One-sided level of the interval.
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
        depth: What is computed; unless `full`, there is no interval.

    Returns:
        One result for each question.
    """
    work = _Work(panel, design, sd_instance, alpha)
    quantiles = [_Quantile(work, question) for question in questions]
    settled = [quantile.settle(depth) for quantile in quantiles]
    unsettled = [quantile for quantile, without_test in zip(quantiles, settled, strict=True) if without_test is None]
    parts = (unsettled[first : first + MOST_TOGETHER] for first in range(0, len(unsettled), MOST_TOGETHER))
    tested = (answer for part in parts for answer in _Tests(work, part).estimate(full=depth == "full"))
    return tuple(without_test or next(tested) for without_test in settled)


class _Work:
    """What all quantiles of a panel share."""

    def __init__(self, panel: Panel, design: Design, sd_instance: float, alpha: float) -> None:
        self.panel, self.design = panel, design
        self.sd_instance, self.alpha = sd_instance, alpha
        self.strata, self.frame = frame_all_requests(panel)
        self.limits_ms = find_limits_ms(panel)
        self.baseline, self.candidate = standardise_both(panel)
        self.by_run = self._distribute_runs() if design.kind == "replicates" else None
        self.steps_ms = step_of_arms_ms(panel)

    def _distribute_runs(self) -> tuple[list[Distribution], list[Distribution]]:
        """Distributions of each run by itself, of baseline and candidate."""
        run = np.unique(self.panel.run, return_inverse=True)[1]
        runs = int(run.max()) + 1
        mass = (self.strata.weight * self.strata.share).sum(axis=0)
        volume = np.bincount(run, weights=mass, minlength=runs)
        row = np.tile(np.append(run, np.zeros(self.panel.stride - run.size, run.dtype)), self.panel.n.shape[1])
        safe = np.where(volume > 0, volume, np.nan)
        weights = _weights(self.panel, self.strata, 1.0, 0.0)
        owner = np.concatenate([row, row + runs])
        curves = distributions_by_row(self.panel.bins, weights, self.limits_ms, owner, 2 * runs)
        curves /= np.tile(safe, 2)[:, None]
        by_run = [Distribution(self.limits_ms, curve) for curve in curves]
        return by_run[:runs], by_run[runs:]

    def spread(self, below: FloatArray, difference: FloatArray, slope: FloatArray) -> Spread:
        """Variance of D between instances at some thresholds, shape (2, thresholds).

        `below` (thresholds, rows): requests done by each threshold; `difference` (thresholds, 1): effect that is
        removed before instances are compared; `slope` (thresholds,): change of D with the logarithm of speed.
        """
        parts = self.frame.variance(below, difference, relative=False).of_group(0)
        prior = self.design.assume_variance(self.sd_instance * slope)
        return Spread(self.design, parts, prior, on_scale(self.design.latency, slope))


class _Quantile:
    """One quantile of both arms, and all that needs no variance."""

    def __init__(self, work: _Work, question: QuantileQuestion) -> None:
        self.work, self.question, self.p = work, question, question.probability
        self.q_b = work.baseline.quantile(self.p)
        self.q_c = work.candidate.quantile(self.p)
        if work.by_run:
            self._pool_runs(*work.by_run)
        self.edge = question.edge(self.q_b)
        allowance, step = abs(self.edge - self.q_b), float(work.steps_ms.max())
        self.coarse = 0 < allowance * (1 + SLACK) < step
        self.doubt = step
        """How much (ms) rounding to steps, or to bins, may have moved the difference."""
        if not self.coarse:
            of_baseline, of_candidate = work.steps_ms.tolist()
            baseline_doubt = find_quantile_doubt_ms(work.baseline, self.q_b, of_baseline)
            candidate_doubt = find_quantile_doubt_ms(work.candidate, self.q_c, of_candidate)
            unequal_steps = max(of_baseline, of_candidate) / 2 if of_baseline != of_candidate else 0.0
            doubt = baseline_doubt + candidate_doubt + unequal_steps
            self.doubt = doubt if doubt > NEGLIGIBLE * self.q_b else 0.0

    def _pool_runs(self, baseline: list[Distribution], candidate: list[Distribution]) -> None:
        """Set the baseline quantile of each run, their geometric mean, and the mean ratio over the runs."""
        self.run_q_b = np.array([curve.quantile(self.p) for curve in baseline])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log([curve.quantile(self.p) for curve in candidate]) - np.log(self.run_q_b)
        # A replicate in which the baseline's own quantile is a failure is not used.
        usable = np.isfinite(self.run_q_b) & (self.run_q_b > 0)
        self.q_b = float(np.exp(np.log(self.run_q_b[usable]).mean())) if usable.any() else float(self.run_q_b.max())
        self.q_c = self.q_b * float(np.exp(logs[usable].mean())) if usable.any() else float("nan")

    def settle(self, depth: Depth) -> QuantileEstimate | None:
        """Return the result if it needs no test (no estimate is possible, or nothing is suspect), else `None`."""
        question = self.question
        if not 0 < self.q_b < np.inf:
            return QuantileEstimate(None, "failing" if self.q_b > 0 else "zero")
        harmless = self.coarse or question.sign * float(self.distance(np.array([self.edge]))[0]) <= 0
        harmless &= all(sign * (self.q_c - bound) <= 0 for sign, bound in question.limit.bounds)
        if depth == "suspects" and harmless:
            return QuantileEstimate(not_worse(np.array([self.q_b]), np.array([self.q_c]), question.limit.count))
        return None

    def distance(self, times_ms: FloatArray) -> FloatArray:
        """Return D at these times, shape (thresholds,)."""
        if self.work.by_run:
            return np.asarray(np.nanmean(self.run_distances(times_ms), axis=0))
        return np.asarray(self.p - self.work.candidate.at(times_ms))

    def run_distances(self, times_ms: FloatArray) -> FloatArray:
        """Return D of each run, at times in proportion to its own baseline quantile: shape (runs, thresholds)."""
        factor = times_ms / self.q_b
        curves = self.work.by_run[1] if self.work.by_run else []
        return np.stack(
            [
                self.p - curve.at(q * factor) if np.isfinite(q) else np.full(times_ms.size, np.nan)
                for curve, q in zip(curves, self.run_q_b, strict=True)
            ]
        )

    def solve(self, times_ms: FloatArray, reach: FloatArray) -> tuple[float, float]:
        """Return the lowest and highest time (ms) that is not rejected; `reach` is interpolated between thresholds."""
        order = np.argsort(times_ms, kind="stable")
        limits = self.work.limits_ms
        grid = np.sort(np.concatenate([limits[limits > 0], times_ms]))
        grid = grid[(grid > self.q_b / 100) & (grid < self.q_b * 100)]
        half = np.interp(np.log(grid), np.log(times_ms[order]), reach[order])
        distance = self.distance(grid)
        # The last place where D + half is not below 0 is the first one from above.
        last = _first_below(grid[::-1], -(distance + half)[::-1], float("inf"))
        return _first_below(grid, distance - half, 0.0), last

    def around(self, time_ms: float) -> tuple[float, float]:
        """The times (ms) at which "worse" and "within" are tested for a bound, moved by the doubt from rounding."""
        hidden = self.question.sign * self.doubt
        return max(time_ms + hidden, time_ms / 100), max(time_ms - hidden, time_ms / 100)

    def nodes(self, *, full: bool) -> FloatArray:
        """Thresholds (ms) to test, the one of the margin first."""
        thresholds = [self.edge] if not self.doubt else [self.edge, *self.around(self.edge), *self.around(self.q_b)]
        return np.array([*thresholds, self.q_c] if full and np.isfinite(self.q_c) else thresholds)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The test at some thresholds. Arrays have shape (thresholds,) unless stated otherwise."""

    of: IntArray
    """Index of the quantile of each threshold; increasing."""
    times_ms: FloatArray
    uncertainty: Uncertainty
    influence: FloatArray
    """Shape (thresholds, slots)."""
    scores: FloatArray
    """Contributions of instances or replicates to the error, shape (thresholds, units); no units in a single design."""

    @property
    def first(self) -> IntArray:
        """The first threshold of each quantile."""
        return np.flatnonzero(np.diff(self.of, prepend=-1))

    def around(self, times_ms: FloatArray) -> Uncertainty:
        """Uncertainty at one more threshold of each quantile: interpolated; outside the nodes, that of the nearest."""
        at_nodes, logs, at = self.uncertainty, np.log(self.times_ms), np.log(times_ms)
        rows = np.vstack([at_nodes.variance, at_nodes.df, at_nodes.persistent[None, :]])
        out = np.empty((rows.shape[0], times_ms.size))
        for k, of_quantile in enumerate(self.of == np.arange(times_ms.size)[:, None]):
            nodes = np.flatnonzero(of_quantile)
            nodes = nodes[np.argsort(logs[nodes], kind="stable")]
            out[:, k] = [np.interp(at[k], logs[nodes], row) for row in rows[:, nodes]]
        bounds = at_nodes.variance.shape[0]
        return Uncertainty(out[:bounds], out[bounds:-1], out[-1])


class _Tests:
    """The tests of several quantiles at all their thresholds, computed together."""

    def __init__(self, work: _Work, quantiles: Sequence[_Quantile]) -> None:
        self.work, self.quantiles = work, quantiles
        self.q_b = np.array([quantile.q_b for quantile in quantiles])
        step = np.exp(PRIOR_STEP)
        faster, slower = (work.baseline.at(quantile) for quantile in (self.q_b / step, self.q_b * step))
        self.slope = (slower - faster) / (2 * PRIOR_STEP)
        """Change of D with the logarithm of speed."""
        self.levels = levels(work.strata, 0, count_done(work.panel, self.q_b)[:, 0])
        """Share of the baseline's requests done by its own quantiles."""
        self.rows_below = None if work.by_run else count_done_by_row(work.panel, self.q_b)

    def estimate(self, *, full: bool) -> list[QuantileEstimate]:
        """Return the estimate of each quantile, with intervals if `full`."""
        nodes = self._test([quantile.nodes(full=full) for quantile in self.quantiles])
        ends = np.full((2, len(self.quantiles)), np.nan)
        if full:
            # The interval (ms) of each of the candidate's quantiles: thresholds that are not rejected at ±alpha.
            ends = self._solve(nodes)
            time_pairs = [pair[np.isfinite(pair) & (pair > 0)] for pair in ends.T]
            if any(pair.size for pair in time_pairs):
                ends = self._solve(nodes, self._test(time_pairs))
        together = self._put_together(nodes, ends)
        return [
            QuantileEstimate(replace(together.of_group(k), against_limit=self._limits(k)))
            for k in range(len(self.quantiles))
        ]

    def _test(self, times: Sequence[FloatArray]) -> _Nodes:
        """Test each quantile at these thresholds (ms)."""
        work, strata = self.work, self.work.strata
        of, at = np.repeat(np.arange(len(times)), [thresholds.size for thresholds in times]), np.concatenate(times)
        candidate_levels, baseline_levels = levels(strata, 1, count_done(work.panel, at)[:, 1]), self.levels
        level = baseline_levels.level[of]
        missing = Estimand(
            level[:, 0] - candidate_levels.level[:, 0],
            -(candidate_levels.influence[:, 0] - baseline_levels.influence[of, 0]),
        )
        n_b, n_c = strata.effective[:, 0]
        binomial = share_variance(candidate_levels.level[:, 0], n_c) + share_variance(level[:, 0], n_b)
        if self.rows_below is None:
            distances = [quantile.run_distances(t) for quantile, t in zip(self.quantiles, times, strict=True)]
            by_run = np.concatenate(distances, axis=1).T
            missing, spread = replace(missing, by_run=by_run), Spread()
        else:
            below, of_baseline = count_done_by_row(work.panel, at), int(np.searchsorted(work.panel.rows.arm, 1))
            below[:, :of_baseline] = self.rows_below[of, :of_baseline]
            spread = work.spread(below, candidate_levels.level - level, self.slope[of])
        _, uncertainty = spread.find_uncertainty(missing)
        # `below` falls if an instance is slower, so its scores get the opposite sign.
        scores = spread.find_scores(missing, sign=1.0 if work.by_run else -1.0)
        node_scores = np.zeros((at.size, 0)) if scores is None else scores.T
        return _Nodes(of, at, uncertainty.also(binomial), missing.influence, node_scores)

    def _put_together(self, nodes: _Nodes, ends: FloatArray) -> Estimate:
        """Put everything on the scale of the effect, one group for each quantile; `ends` (2, quantiles) are times."""
        quantiles, alpha, q_b = self.quantiles, self.work.alpha, self.q_b
        sign = np.array([quantile.question.sign for quantile in quantiles])
        relative = np.array([quantile.question.relative for quantile in quantiles])
        q_c = np.array([quantile.q_c for quantile in quantiles])
        doubt = np.array([quantile.doubt for quantile in quantiles])
        times = np.stack([np.maximum(ends[0] - doubt, 0.0), q_c, ends[1] + doubt])
        effect = np.where(relative, times / q_b - 1, times - q_b)
        at_nodes, first = nodes.uncertainty, nodes.first
        at_margin = Uncertainty(at_nodes.variance[:, first], at_nodes.df[:, first], at_nodes.persistent[first])
        edges = [quantile.edge for quantile in quantiles]
        beyond = self._distances(edges)
        coarse = np.array([quantile.coarse for quantile in quantiles])
        if doubt.any():
            against_margin, against_zero = (self._ask_around(nodes, at) for at in (edges, q_b))
        else:
            against_margin, against_zero = ask(beyond, at_margin), ask(self._distances(q_b), nodes.around(q_b))
        influence = sign[:, None] * nodes.influence[first]
        scores = sign * nodes.scores[first].T
        deciding = at_margin.binding(alpha)
        reach = deciding.critical
        with np.errstate(divide="ignore", invalid="ignore"):
            harm = np.where(sign > 0, effect[2] - effect[1], effect[1] - effect[0])
            detectable = harm * (reach + Z_OF_POWER) / reach
            # No density is estimated, so the standard error of the quantile is derived from the interval.
            width = np.where(relative, np.abs(np.log1p(sign * harm / (1 + effect[1]))), harm)
        estimate = conclude(
            (q_b, q_c),
            effect[[1, 0, 2]],
            decide_nothing(against_margin, coarse),
            decide_nothing(against_zero, coarse),
            deciding,
            harm=influence,
            position=self.work.panel.position,
            beyond=beyond,
            detectable=detectable,
            se=width / reach,
            coarse=coarse,
            loadings=load(influence, scores, deciding.variance),
        )
        return replace(estimate, needed=np.where(coarse, np.inf, estimate.needed))

    def _distances(self, times_ms: Sequence[float] | FloatArray) -> FloatArray:
        """Distance of each quantile beyond its threshold; positive is worse."""
        return np.array(
            [
                quantile.question.sign * float(quantile.distance(np.array([time]))[0])
                for quantile, time in zip(self.quantiles, times_ms, strict=True)
            ]
        )

    def _ask_around(self, nodes: _Nodes, times_ms: Sequence[float] | FloatArray) -> GroupAnswers:
        """Test each quantile against its threshold, with the doubt from rounding in each direction."""
        shifted = [quantile.around(float(time)) for quantile, time in zip(self.quantiles, times_ms, strict=True)]
        (worse, within) = (ask(self._distances(at), nodes.around(np.array(at))) for at in zip(*shifted, strict=True))
        return GroupAnswers(self._distances(times_ms), worse.p_worse, within.p_within)

    def _solve(self, *nodes: _Nodes) -> FloatArray:
        of, times = (np.concatenate([getattr(part, name) for part in nodes]) for name in ("of", "times_ms"))
        reach = np.concatenate([part.uncertainty.reach(self.work.alpha) for part in nodes])
        solved = [quantile.solve(times[of == k], reach[of == k]) for k, quantile in enumerate(self.quantiles)]
        return np.array(solved).T

    def _limits(self, k: int) -> tuple[GroupAnswers, ...]:
        """Test the candidate's own quantile against `max` and `min` (ms)."""
        work, p = self.work, self.quantiles[k].p
        answers = []
        for sign, bound in self.quantiles[k].question.limit.bounds:
            at = np.array([bound])
            own = levels(work.strata, 1, count_done(work.panel, at)[:, 1])
            missing, spread = Estimand(p - own.level[:, 0], own.influence[:, 0]), Spread()
            if work.by_run:
                by_run = np.stack([p - curve.at(at) for curve in work.by_run[1]], axis=-1)
                missing = replace(missing, by_run=by_run)
            else:
                spread = work.spread(count_done_by_row(work.panel, at), np.zeros((1, 1)), self.slope[[k]])
            distance, uncertainty = spread.find_uncertainty(missing, arms=(1,))
            floor = share_variance(own.level[:, 0], work.strata.effective[1, 0])
            answers.append(ask(sign * distance, uncertainty.also(floor)))
        return tuple(answers)


@lru_cache(maxsize=4)
def standardise_both(panel: Panel) -> tuple[Distribution, Distribution]:
    """Return the standardised distributions of time to success of baseline and candidate, for all quantiles."""
    strata = frame_all_requests(panel)[0]
    limits = find_limits_ms(panel)
    curves = standardised_distributions(panel.bins, _weights(panel, strata, strata.volume[0], np.nan), limits)
    return Distribution(limits, curves[0]), Distribution(limits, curves[1])


def _weights(panel: Panel, strata: Strata, volume: FloatArray | float, after: float) -> FloatArray:
    """Contribution of one request of each histogram cell to the standardised distribution, v / (V n).

    Cells after the look get the value `after`.
    """
    each = np.full((2, len(panel.endpoints), panel.stride), after)
    each[..., : panel.slots] = strata.each
    return np.asarray(each.ravel() / volume)


def _first_below(grid: FloatArray, values: FloatArray, default: float) -> float:
    """First place where `values` is no longer above 0, by linear interpolation; `default` if it never was above.

    >>> _first_below(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, -1.0]), 0.0)
    2.5
    """
    below = np.flatnonzero(values <= 0)
    if not below.size:
        return float(grid[-1])
    k = int(below[0])
    if k == 0:
        return default
    low, high = values[k - 1], values[k]
    share = low / (low - high) if low != high else 0.5
    return float(grid[k - 1] + share * (grid[k] - grid[k - 1]))
