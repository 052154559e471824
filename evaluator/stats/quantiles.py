"""Quantiles of time to success compared without a density (method B.2).

The candidate's quantile is worse than the baseline's by more than δ exactly if fewer than a share p of its requests
are done by q_b·(1 + δ). So the test is of D(δ) = p - F_c(q_b(1 + δ)), a difference of proportions, and the interval is
the set of δ that the test does not reject. No density is estimated: that fails on integer milliseconds and on
distributions with two humps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from evaluator.records import Direction, Limit, Margin
from evaluator.stats.bins import bin_limits_ms
from evaluator.stats.distribution import (
    Distribution,
    counts_below,
    distributions_by_row,
    same_grid_value,
    standardised_distributions,
)
from evaluator.stats.estimate import (
    Z_OF_POWER,
    Asked,
    Depth,
    Estimate,
    ask,
    lasting_share,
    load,
    needed_time,
    not_worse,
    trend,
)
from evaluator.stats.frames import frame_all_requests
from evaluator.stats.history import InstanceHistory, on_scale
from evaluator.stats.longrun import time_variance
from evaluator.stats.panel import Panel
from evaluator.stats.strata import Strata, levels
from evaluator.stats.uncertainty import Design, Uncertainty, centre, combine, replicate_uncertainty

__all__ = ["MOST_TOGETHER", "QuantileEstimate", "QuantileQuestion", "compare_quantile", "compare_quantiles"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PRIOR_STEP = 0.05
LARGEST_POINT = 0.25
"""Largest share of requests on one grid point for which spreading them evenly around it is trusted."""

MOST_TOGETHER = 8
"""Quantiles tested in one go, each with two thresholds: their counts take memory, more of them save little time."""


@dataclass(frozen=True, slots=True)
class QuantileQuestion:
    """Which quantile is compared, and with what bounds."""

    probability: float
    margin: Margin | None = None
    direction: Direction = Direction.LOWER
    limit: Limit = field(default_factory=Limit)

    @property
    def sign(self) -> float:
        """1 where higher is worse, else -1."""
        return 1.0 if self.direction is Direction.LOWER else -1.0

    @property
    def relative(self) -> bool:
        """Is the effect a ratio?"""
        return self.margin is None or self.margin.relative

    def edge(self, quantile_ms: float) -> float:
        """As far from the baseline's quantile as the margin allows."""
        bound = self.sign * (0.0 if self.margin is None else self.margin.value)
        return quantile_ms * (1 + bound) if self.relative else quantile_ms + bound


@dataclass(frozen=True, slots=True)
class QuantileEstimate:
    """The estimate, or why there is none: baseline's own quantile is a failure, or times are too coarse."""

    estimate: Estimate | None
    problem: Literal["failing", "coarse"] | None = None


def compare_quantile(
    panel: Panel,
    design: Design,
    probability: float,
    *,
    alpha: float,
    margin: Margin | None,
    sd_instance: float,
    limit: Limit | None = None,
    depth: Depth = "full",
) -> QuantileEstimate:
    """Compare one quantile where lower is better: see `compare_quantiles`."""
    question = QuantileQuestion(probability, margin, limit=limit or Limit())
    return compare_quantiles(panel, design, (question,), alpha=alpha, sd_instance=sd_instance, depth=depth)[0]


def compare_quantiles(
    panel: Panel,
    design: Design,
    questions: Sequence[QuantileQuestion],
    *,
    alpha: float,
    sd_instance: float,
    depth: Depth = "full",
) -> tuple[QuantileEstimate, ...]:
    """Compare quantiles of time to success, standardised over endpoints and time, a few at a time.

    With less than full `depth` there is no interval.
    """
    work = _Work(panel, design, sd_instance, alpha)
    asked = [_Quantile(work, question) for question in questions]
    settled = [one.settle(depth) for one in asked]
    unsettled = [one for one, known in zip(asked, settled, strict=True) if known is None]
    parts = (unsettled[first : first + MOST_TOGETHER] for first in range(0, len(unsettled), MOST_TOGETHER))
    found = (answer for part in parts for answer in _Tests(work, part).estimate(full=depth == "full"))
    return tuple(known or next(found) for known in settled)


class _Work:
    """Everything that the quantiles of a panel share."""

    def __init__(self, panel: Panel, design: Design, sd_instance: float, alpha: float) -> None:
        self.panel, self.design = panel, design
        self.sd_instance, self.alpha = sd_instance, alpha
        self.strata, self.frame = frame_all_requests(panel)
        self.limits_ms = find_limits_ms(panel)
        self.cells = panel.n.shape[1] * panel.stride
        self.baseline, self.candidate = standardise_both(panel)
        self.by_run = self._distribute_runs() if design.kind == "replicates" else None

    def _distribute_runs(self) -> tuple[list[Distribution], list[Distribution]]:
        """Distributions of every run by itself, of baseline and candidate."""
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
        found = [Distribution(self.limits_ms, curve) for curve in curves]
        return found[:runs], found[runs:]

    def below(self, times_ms: FloatArray, arm: int) -> FloatArray:
        """Requests of one arm done by each threshold: (thresholds, endpoints, slots)."""
        below = counts_below(self.panel.bins, self.limits_ms, times_ms, 2 * self.cells)
        return self.panel.by_cell(below)[:, arm]

    def rows_below(self, times_ms: FloatArray) -> FloatArray:
        """The same in each instance row, of both arms: (thresholds, rows)."""
        rows = self.panel.rows
        below = counts_below(self.panel.row_bins, self.limits_ms, times_ms, rows.histogram_rows)
        return below if rows.n.size == rows.histogram_rows else np.take(below, rows.histogram, axis=1)

    def prior(self, slope: FloatArray) -> FloatArray:
        """Assumed variance of D from a speed difference between single instances, (2, thresholds)."""
        sd = self.sd_instance * slope
        return np.stack([sd**2 / (said or 1) for said in self.design.declared])

    def history(self, slope: FloatArray) -> InstanceHistory | None:
        """What is on file of speed differences, as differences of D."""
        return on_scale(self.design.latency, slope)


class _Quantile:
    """One quantile of both arms, and what can be said of it without a variance."""

    def __init__(self, work: _Work, question: QuantileQuestion) -> None:
        self.work, self.question, self.p = work, question, question.probability
        self.q_b = work.baseline.quantile(self.p)
        self.q_c = work.candidate.quantile(self.p)
        if work.by_run:
            self._pool_runs(*work.by_run)
        self.edge = question.edge(self.q_b)

    def _pool_runs(self, baseline: list[Distribution], candidate: list[Distribution]) -> None:
        """Each run's own baseline quantile; their geometric mean, and the mean ratio over the runs."""
        self.run_q_b = np.array([curve.quantile(self.p) for curve in baseline])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log([curve.quantile(self.p) for curve in candidate]) - np.log(self.run_q_b)
        # A replicate in which baseline's own quantile is a failure says nothing of this one.
        known = np.isfinite(self.run_q_b) & (self.run_q_b > 0)
        self.q_b = float(np.exp(np.log(self.run_q_b[known]).mean())) if known.any() else float(self.run_q_b.max())
        self.q_c = self.q_b * float(np.exp(logs[known].mean())) if known.any() else float("nan")

    def settle(self, depth: Depth) -> QuantileEstimate | None:
        """Why there is no estimate, or that there is nothing to suspect; `None` where it takes a test."""
        question = self.question
        if not 0 < self.q_b < np.inf:
            return QuantileEstimate(None, "failing" if self.q_b > 0 else "coarse")
        if self.edge != self.q_b and not self._resolves(self.edge):
            return QuantileEstimate(None, "coarse")
        if (
            depth == "suspects"
            and question.sign * float(self.distance(np.array([self.edge]))[0]) <= 0
            and self._keeps()
        ):
            return QuantileEstimate(not_worse(np.array([self.q_b]), np.array([self.q_c]), question.limit.count))
        return None

    def distance(self, times_ms: FloatArray) -> FloatArray:
        """D at thresholds given as times: shape (thresholds,)."""
        if self.work.by_run:
            return np.asarray(np.nanmean(self.run_distances(times_ms), axis=0))
        return np.asarray(self.p - self.work.candidate.at(times_ms))

    def run_distances(self, times_ms: FloatArray) -> FloatArray:
        """D of each run at thresholds in proportion to its own baseline quantile: (runs, thresholds)."""
        factor = times_ms / self.q_b
        curves = self.work.by_run[1] if self.work.by_run else []
        return np.stack(
            [
                self.p - curve.at(q * factor) if np.isfinite(q) else np.full(times_ms.size, np.nan)
                for curve, q in zip(curves, self.run_q_b, strict=True)
            ]
        )

    @cached_property
    def slope(self) -> float:
        """How much D changes with the logarithm of speed."""
        step = np.exp(PRIOR_STEP)
        faster, slower = self.work.baseline.at(np.array([self.q_b / step, self.q_b * step])).tolist()
        return float(slower - faster) / (2 * PRIOR_STEP)

    def solve(self, times_ms: FloatArray, reach: FloatArray) -> tuple[float, float]:
        """Times (ms) that are not rejected, where `reach` is known at some thresholds and interpolated between them."""
        order = np.argsort(times_ms, kind="stable")
        limits = self.work.limits_ms
        grid = np.sort(np.concatenate([limits[limits > 0], times_ms]))
        grid = grid[(grid > self.q_b / 100) & (grid < self.q_b * 100)]
        half = np.interp(np.log(grid), np.log(times_ms[order]), reach[order])
        distance = self.distance(grid)
        return _first_below(grid, distance - half, 0.0), _last_above(grid, distance + half, float("inf"))

    def _resolves(self, edge_ms: float) -> bool:
        """Can the recorded times show a change from the baseline's quantile to `edge_ms`?

        Where both read as one grid point, only the assumption that requests lie evenly around it tells them apart;
        that holds for a wide distribution, of which this point is a small part.
        """
        grid = self.work.panel.grid_ms
        if not same_grid_value(self.q_b, edge_ms, grid):
            return True
        point = np.floor(self.q_b / grid + 0.5) * grid
        here = self.work.baseline.at(point + grid / 2) - self.work.baseline.at(point - grid / 2)
        return bool(here <= LARGEST_POINT)

    def _keeps(self) -> bool:
        """Is the candidate's own quantile within its limits?"""
        limit = self.question.limit
        below = limit.max is None or self.q_c <= limit.max
        return below and (limit.min is None or self.q_c >= limit.min)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The test at some thresholds: arrays (thresholds,), but for influence (thresholds, slots) and scores."""

    of: IntArray
    """Which quantile each threshold belongs to; rising."""
    times_ms: FloatArray
    uncertainty: Uncertainty
    influence: FloatArray
    scores: FloatArray
    """What instances or replicates add to the error (thresholds, units); none where there is one a side."""

    @property
    def first(self) -> IntArray:
        """The first threshold of each quantile."""
        return np.flatnonzero(np.diff(self.of, prepend=-1))

    def at_first(self) -> Uncertainty:
        """Uncertainty at the first threshold of each quantile."""
        found, first = self.uncertainty, self.first
        return Uncertainty(found.variance[:, first], found.df[:, first], found.lasting[first])

    def around(self, times_ms: FloatArray) -> Uncertainty:
        """Uncertainty at one more threshold of each quantile: interpolated, beyond the nodes that of the nearest."""
        found, logs, at = self.uncertainty, np.log(self.times_ms), np.log(times_ms)
        rows = np.vstack([found.variance, found.df, found.lasting[None, :]])
        out = np.empty((rows.shape[0], times_ms.size))
        for k, here in enumerate(self.of == np.arange(times_ms.size)[:, None]):
            nodes = np.flatnonzero(here)
            nodes = nodes[np.argsort(logs[nodes], kind="stable")]
            out[:, k] = [np.interp(at[k], logs[nodes], row) for row in rows[:, nodes]]
        bounds = found.variance.shape[0]
        return Uncertainty(out[:bounds], out[bounds:-1], out[-1])


class _Tests:
    """The test of several quantiles at as many thresholds as it takes, all of them in one go."""

    def __init__(self, work: _Work, asked: Sequence[_Quantile]) -> None:
        self.work, self.asked = work, asked
        self.q_b = np.array([one.q_b for one in asked])
        self.slope = np.array([one.slope for one in asked])
        self.levels = levels(work.strata, 0, work.below(self.q_b, 0))
        """Share of the baseline's requests that are done by its own quantiles."""

    @cached_property
    def _baseline_rows(self) -> FloatArray:
        return self.work.rows_below(self.q_b)

    def estimate(self, *, full: bool) -> list[QuantileEstimate]:
        """Estimates of all of them, with intervals if `full`."""
        nodes = self._test(
            [np.array([one.edge, one.q_c] if full and np.isfinite(one.q_c) else [one.edge]) for one in self.asked]
        )
        ends = self._intervals(nodes) if full else np.full((2, len(self.asked)), np.nan)
        together = self._put_together(nodes, ends)
        return [
            QuantileEstimate(replace(together.of_group(k), against_limit=self._limits(k)))
            for k in range(len(self.asked))
        ]

    def _test(self, times: Sequence[FloatArray]) -> _Nodes:
        """The test at these thresholds of each quantile."""
        work, strata = self.work, self.work.strata
        of, at = np.repeat(np.arange(len(times)), [one.size for one in times]), np.concatenate(times)
        own, other = levels(strata, 1, work.below(at, 1)), self.levels
        level = other.level[of]
        influence = -(own.influence[:, 0] - other.influence[of, 0])
        time = time_variance(influence)
        n_b, n_c = strata.effective[:, 0]
        binomial = _binomial(own.level[:, 0], n_c) + _binomial(level[:, 0], n_b)
        if work.design.kind == "replicates":
            by_run = np.concatenate([one.run_distances(t) for one, t in zip(self.asked, times, strict=True)], axis=1).T
            _, uncertainty = replicate_uncertainty(by_run, time)
            scores = centre(by_run)
        else:
            below, of_baseline = work.rows_below(at), int(np.searchsorted(work.panel.rows.arm, 1))
            below[:, :of_baseline] = self._baseline_rows[of, :of_baseline]
            parts = work.frame.variance(below, own.level - level, relative=False).of_group(0)
            slope = self.slope[of]
            uncertainty = combine(time, parts, work.prior(slope), history=work.history(slope))
            # D falls where an instance is slower, so its sign is that of the influence.
            scores = -parts.scores.T if work.design.kind == "instances" else np.zeros((at.size, 0))
        return _Nodes(of, at, uncertainty.also(binomial), influence, scores)

    def _put_together(self, nodes: _Nodes, ends: FloatArray) -> Estimate:
        """Everything on the scale of the effect, one group a quantile; `ends` (2, quantiles) are times."""
        asked, alpha, q_b = self.asked, self.work.alpha, self.q_b
        sign = np.array([one.question.sign for one in asked])
        relative = np.array([one.question.relative for one in asked])
        q_c = np.array([one.q_c for one in asked])
        times = np.stack([ends[0], q_c, ends[1]])
        effect = np.where(relative, times / q_b - 1, times - q_b)
        at_margin, at_zero = nodes.at_first(), nodes.around(q_b)
        beyond, from_zero = sign * np.array([one.distance(np.array([one.edge, one.q_b])) for one in asked]).T
        influence = sign[:, None] * nodes.influence[nodes.first]
        scores = sign * nodes.scores[nodes.first].T
        deciding = at_margin.binding(alpha)
        reach = deciding.critical
        with np.errstate(divide="ignore", invalid="ignore"):
            harm = np.where(sign > 0, effect[2] - effect[1], effect[1] - effect[0])
            seen = harm * (reach + Z_OF_POWER) / reach
            # The quantile's own scale has no density: its standard error is what the interval shows of it.
            width = np.where(relative, np.abs(np.log1p(sign * harm / (1 + effect[1]))), harm)
        return Estimate(
            baseline=q_b,
            candidate=q_c,
            effect=effect[1],
            lower=effect[0],
            upper=effect[2],
            against_margin=ask(beyond, at_margin),
            against_zero=ask(from_zero, at_zero),
            trend=trend(influence, self.work.panel.position, beyond),
            detectable=seen,
            needed=needed_time(beyond, deciding),
            lasting=lasting_share(deciding),
            se=width / reach,
            df=deciding.df,
            loadings=load(influence, scores, deciding.variance),
        )

    def _intervals(self, nodes: _Nodes) -> FloatArray:
        """Times (ms) between which each of the candidate's quantiles lies: the thresholds not rejected at ±alpha.

        Shape (2, quantiles).
        """
        rough = self._solve(nodes)
        ends = [pair[np.isfinite(pair) & (pair > 0)] for pair in rough.T]
        return self._solve(nodes, self._test(ends)) if any(end.size for end in ends) else rough

    def _solve(self, *nodes: _Nodes) -> FloatArray:
        of, times = (np.concatenate([getattr(one, name) for one in nodes]) for name in ("of", "times_ms"))
        reach = np.concatenate([one.uncertainty.reach(self.work.alpha) for one in nodes])
        solved = [one.solve(times[of == k], reach[of == k]) for k, one in enumerate(self.asked)]
        return np.array(solved).T

    def _limits(self, k: int) -> tuple[Asked, ...]:
        """The candidate's own quantile against `max` and `min` (ms)."""
        limit = self.asked[k].question.limit
        bounds = [(1.0, limit.max), (-1.0, limit.min)]
        return tuple(self._limit(k, sign, bound) for sign, bound in bounds if bound is not None)

    def _limit(self, k: int, sign: float, bound: float) -> Asked:
        at, one, work = np.array([bound]), self.asked[k], self.work
        own = levels(work.strata, 1, work.below(at, 1))
        time = time_variance(own.influence[:, 0])
        floor = _binomial(own.level[:, 0], work.strata.effective[1, 0])
        if work.by_run:
            by_run = np.stack([one.p - curve.at(at) for curve in work.by_run[1]], axis=-1)
            distance, uncertainty = replicate_uncertainty(by_run, time)
            return ask(sign * distance, uncertainty.also(floor))
        parts = work.frame.variance(work.rows_below(at), np.zeros((1, 1)), relative=False).of_group(0)
        slope = self.slope[[k]]
        uncertainty = combine(time, parts, work.prior(slope), arms=(1,), history=work.history(slope)).also(floor)
        return ask(sign * (one.p - own.level[:, 0]), uncertainty)


@lru_cache(maxsize=4)
def find_limits_ms(panel: Panel) -> FloatArray:
    """Limits of the bins in use."""
    return bin_limits_ms(panel.bins.last, panel.grid_ms)


@lru_cache(maxsize=4)
def standardise_both(panel: Panel) -> tuple[Distribution, Distribution]:
    """Standardised distribution of time to success of baseline and candidate, shared by all quantiles."""
    strata = frame_all_requests(panel)[0]
    limits = find_limits_ms(panel)
    curves = standardised_distributions(panel.bins, _weights(panel, strata, strata.volume[0], np.nan), limits)
    return Distribution(limits, curves[0]), Distribution(limits, curves[1])


def _weights(panel: Panel, strata: Strata, volume: FloatArray | float, after: float) -> FloatArray:
    """What one request of each histogram cell adds to the standardised distribution: v / (V n); `after` the look."""
    each = np.full((2, len(panel.endpoints), panel.stride), after)
    each[..., : panel.slots] = strata.each
    return np.asarray(each.ravel() / volume)


def _binomial(level: FloatArray, effective: FloatArray | float) -> FloatArray:
    """Variance of a share of `effective` requests, never 0."""
    rate = (level * effective + 0.5) / (effective + 1)
    return np.asarray(rate * (1 - rate) / np.maximum(effective, 1e-300))


def _first_below(grid: FloatArray, values: FloatArray, default: float) -> float:
    """First place where `values` is no longer above 0, by linear interpolation."""
    below = np.flatnonzero(values <= 0)
    if not below.size:
        return float(grid[-1])
    k = int(below[0])
    return default if k == 0 else _cross(grid, values, k)


def _last_above(grid: FloatArray, values: FloatArray, default: float) -> float:
    """Last place where `values` is not yet below 0, by linear interpolation."""
    above = np.flatnonzero(values >= 0)
    if not above.size:
        return float(grid[0])
    k = int(above[-1]) + 1
    return default if k == grid.size else _cross(grid, values, k)


def _cross(grid: FloatArray, values: FloatArray, k: int) -> float:
    low, high = values[k - 1], values[k]
    share = low / (low - high) if low != high else 0.5
    return float(grid[k - 1] + share * (grid[k] - grid[k - 1]))
