"""Quantiles of time to success compared without a density (method B.2).

The candidate's quantile is worse than the baseline's by more than δ exactly if fewer than a share p of its requests
are done by q_b·(1 + δ). So the test is of D(δ) = p - F_c(q_b(1 + δ)), a difference of proportions, and the interval is
the set of δ that the test does not reject. No density is estimated: that fails on integer milliseconds and on
distributions with two humps.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    standardised_distribution,
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
from evaluator.stats.strata import Levels, Strata, levels
from evaluator.stats.uncertainty import Design, Uncertainty, centre, combine, replicate_uncertainty

__all__ = ["QuantileEstimate", "compare_quantile"]

FloatArray = npt.NDArray[np.float64]
PRIOR_STEP = 0.05
LARGEST_POINT = 0.25
"""Largest share of requests on one grid point for which spreading them evenly around it is trusted."""


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
    direction: Direction = Direction.LOWER,
    limit: Limit | None = None,
    depth: Depth = "full",
) -> QuantileEstimate:
    """Compare the `probability` quantile of time to success, standardised over endpoints and time.

    With less than full `depth` there is no interval.
    """
    work = _Work(panel, design, probability, sd_instance, alpha)
    sign = 1.0 if direction is Direction.LOWER else -1.0
    bound = 0.0 if margin is None else margin.value
    relative = margin is None or margin.relative
    q_b = work.q_b
    if not 0 < q_b < np.inf:
        return QuantileEstimate(None, "failing" if q_b > 0 else "coarse")
    edge = q_b * (1 + sign * bound) if relative else q_b + sign * bound
    if bound != 0.0 and not work.resolves(edge):
        return QuantileEstimate(None, "coarse")
    limit = limit or Limit()
    if depth == "suspects" and sign * float(work.distance(np.array([edge]))[0]) <= 0 and work.keeps(limit):
        return QuantileEstimate(not_worse(np.array([q_b]), np.array([work.q_c]), limit.count))
    full = depth == "full"
    nodes = work.nodes(np.array([edge, work.q_c] if full and np.isfinite(work.q_c) else [edge]))
    ends = work.interval(nodes) if full else (np.nan, np.nan)
    return QuantileEstimate(_estimate(work, nodes, edge, ends, limit, sign=sign, relative=relative))


def _estimate(
    work: _Work,
    nodes: _Nodes,
    edge: float,
    ends: tuple[float, float],
    limit: Limit,
    *,
    sign: float,
    relative: bool,
) -> Estimate:
    """Everything on the scale of the effect; `edge` is the margin and `ends` are the interval, as times."""
    q_b = work.q_b
    effect = np.array([ends[0], work.q_c, ends[1]])
    effect = effect / q_b - 1 if relative else effect - q_b
    at_margin, at_zero = nodes.around(edge), nodes.around(q_b)
    beyond = sign * work.distance(np.array([edge]))
    with np.errstate(divide="ignore", invalid="ignore"):
        deciding = at_margin.binding(work.alpha)
        reach = deciding.critical
        harm = effect[2] - effect[1] if sign > 0 else effect[1] - effect[0]
        seen = harm * (reach + Z_OF_POWER) / reach
        # The quantile's own scale has no density: its standard error is what the interval shows of it.
        width = np.abs(np.log1p(sign * harm / (1 + effect[1]))) if relative else harm
    return Estimate(
        baseline=np.array([q_b]),
        candidate=np.array([work.q_c]),
        effect=effect[1:2],
        lower=effect[0:1],
        upper=effect[2:3],
        against_margin=ask(beyond, at_margin),
        against_zero=ask(sign * work.distance(np.array([q_b])), at_zero),
        trend=trend(sign * nodes.influence[:1], work.panel.position, beyond),
        detectable=np.asarray(seen),
        needed=needed_time(beyond, deciding),
        lasting=lasting_share(deciding),
        se=np.asarray(width / reach),
        df=deciding.df,
        against_limit=work.limits(limit),
        loadings=load(sign * nodes.influence[:1], nodes.scores[:1].T * sign, deciding.variance),
    )


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The test at some thresholds: arrays (thresholds,), but for influence (thresholds, slots) and scores."""

    times_ms: FloatArray
    distance: FloatArray
    uncertainty: Uncertainty
    influence: FloatArray
    scores: FloatArray
    """What instances or replicates add to the error (thresholds, units); none where there is one a side."""

    def around(self, time_ms: float) -> Uncertainty:
        """Uncertainty at a threshold; between nodes by interpolation, beyond them that of the nearest."""
        order = np.argsort(self.times_ms, kind="stable")
        at, known, found = np.log([time_ms]), np.log(self.times_ms[order]), self.uncertainty
        variance, df = (
            np.array([np.interp(at, known, row[order]) for row in rows]) for rows in (found.variance, found.df)
        )
        return Uncertainty(variance, df, np.interp(at, known, found.lasting[order]))

    def merged(self, other: _Nodes) -> _Nodes:
        """Both, in order of threshold."""
        order = np.argsort(np.append(self.times_ms, other.times_ms), kind="stable")
        mine, others = self.uncertainty, other.uncertainty
        together = Uncertainty(
            *(
                np.concatenate([getattr(mine, name), getattr(others, name)], axis=-1)[..., order]
                for name in ("variance", "df", "lasting")
            )
        )
        times, distance, influence, scores = (
            np.concatenate([getattr(self, name), getattr(other, name)])[order]
            for name in ("times_ms", "distance", "influence", "scores")
        )
        return _Nodes(times, distance, together, influence, scores)


class _Work:
    """Everything that the thresholds of one quantile share."""

    def __init__(self, panel: Panel, design: Design, probability: float, sd_instance: float, alpha: float) -> None:
        self.panel, self.design, self.p = panel, design, probability
        self.sd_instance, self.alpha = sd_instance, alpha
        self.strata, self.frame = frame_all_requests(panel)
        self.limits_ms = find_limits_ms(panel)
        self.cells = panel.n.shape[1] * panel.stride
        self.baseline, self.candidate = standardise_both(panel)
        self.q_b = self.baseline.quantile(probability)
        self.q_c = self.candidate.quantile(probability)
        if design.kind == "replicates":
            self._prepare_runs()

    def _prepare_runs(self) -> None:
        """Distributions of every run by itself, and each run's baseline quantile."""
        run = np.unique(self.panel.run, return_inverse=True)[1]
        runs = int(run.max()) + 1
        mass = (self.strata.weight * self.strata.share).sum(axis=0)
        volume = np.bincount(run, weights=mass, minlength=runs)
        row = np.tile(np.append(run, np.zeros(self.panel.stride - run.size, run.dtype)), self.panel.n.shape[1])
        safe = np.where(volume > 0, volume, np.nan)
        by_run = [
            distributions_by_row(
                self.panel.bins[arm], _weights(self.panel, self.strata, arm, 1.0), self.limits_ms, row, runs
            )
            / safe[:, None]
            for arm in (0, 1)
        ]
        self.run_baseline, self.run_candidate = (
            [Distribution(self.limits_ms, curve) for curve in curves] for curves in by_run
        )
        self.run_q_b = np.array([curve.quantile(self.p) for curve in self.run_baseline])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log([curve.quantile(self.p) for curve in self.run_candidate]) - np.log(self.run_q_b)
        # A replicate in which baseline's own quantile is a failure says nothing of this one.
        known = np.isfinite(self.run_q_b) & (self.run_q_b > 0)
        self.q_b = float(np.exp(np.log(self.run_q_b[known]).mean())) if known.any() else float(self.run_q_b.max())
        self.q_c = self.q_b * float(np.exp(logs[known].mean())) if known.any() else float("nan")

    def distance(self, times_ms: FloatArray) -> FloatArray:
        """D at thresholds given as times: shape (thresholds,)."""
        if self.design.kind == "replicates":
            return np.asarray(np.nanmean(self._run_distances(times_ms), axis=0))
        return np.asarray(self.p - self.candidate.at(times_ms))

    def _run_distances(self, times_ms: FloatArray) -> FloatArray:
        """D of each run at thresholds in proportion to its own baseline quantile: (runs, thresholds)."""
        factor = times_ms / self.q_b
        return np.stack(
            [
                self.p - curve.at(q * factor) if np.isfinite(q) else np.full(times_ms.size, np.nan)
                for curve, q in zip(self.run_candidate, self.run_q_b, strict=True)
            ]
        )

    def nodes(self, times_ms: FloatArray) -> _Nodes:
        """The test at these thresholds, in the order given."""
        own, other = levels(self.strata, 1, self._below(1, times_ms)), self._baseline_levels
        influence = -(own.influence[:, 0] - other.influence[:, 0])
        time = time_variance(influence)
        n_b, n_c = self.strata.effective[:, 0]
        binomial = _binomial(own.level[:, 0], n_c) + _binomial(other.level[:, 0], n_b)
        if self.design.kind == "replicates":
            by_run = self._run_distances(times_ms).T
            _, uncertainty = replicate_uncertainty(by_run, time)
            scores = centre(by_run)
        else:
            below = self._rows_below(1, times_ms) + self._baseline_rows
            parts = self.frame.variance(below, own.level - other.level, relative=False).of_group(0)
            uncertainty = combine(time, parts, self._prior(times_ms), history=self._history(times_ms))
            # D falls where an instance is slower, so its sign is that of the influence.
            scores = -parts.scores.T if self.design.kind == "instances" else np.zeros((times_ms.size, 0))
        return _Nodes(times_ms, self.distance(times_ms), uncertainty.also(binomial), influence, scores)

    def _below(self, arm: int, times_ms: FloatArray) -> FloatArray:
        """Requests of one arm done by each threshold: (thresholds, endpoints, slots)."""
        return self.panel.by_cell(counts_below(self.panel.bins[arm], self.limits_ms, times_ms, self.cells))

    def _rows_below(self, arm: int, times_ms: FloatArray) -> FloatArray:
        """The same in each instance row: (thresholds, rows)."""
        rows = self.panel.rows
        below = counts_below(self.panel.row_bins[arm], self.limits_ms, times_ms, rows.histogram_rows)
        return np.take(below, rows.histogram, axis=1)

    @cached_property
    def _baseline_levels(self) -> Levels:
        """Share of the baseline's requests that are done by its own quantile."""
        return levels(self.strata, 0, self._below(0, np.array([self.q_b])))

    @cached_property
    def _baseline_rows(self) -> FloatArray:
        return self._rows_below(0, np.array([self.q_b]))

    def _prior(self, times_ms: FloatArray) -> FloatArray:
        """Assumed variance of D from a speed difference between single instances, (2, thresholds)."""
        sd = self.sd_instance * self._slope
        return np.stack([np.full(times_ms.size, sd**2 / (said or 1)) for said in self.design.declared])

    def _history(self, times_ms: FloatArray) -> InstanceHistory | None:
        """What is on file of speed differences, as differences of D."""
        return on_scale(self.design.latency, np.full(times_ms.size, self._slope))

    @cached_property
    def _slope(self) -> float:
        """How much D changes with the logarithm of speed."""
        step = np.exp(PRIOR_STEP)
        return float(self.baseline.at(self.q_b * step) - self.baseline.at(self.q_b / step)) / (2 * PRIOR_STEP)

    def interval(self, nodes: _Nodes) -> tuple[float, float]:
        """Times (ms) between which the candidate's quantile lies: the thresholds that are not rejected at ±alpha."""
        rough = self._solve(nodes)
        ends = np.array([end for end in rough if np.isfinite(end) and end > 0])
        return self._solve(nodes.merged(self.nodes(ends)) if ends.size else nodes)

    def _solve(self, nodes: _Nodes) -> tuple[float, float]:
        order = np.argsort(nodes.times_ms, kind="stable")
        half_at = nodes.uncertainty.reach(self.alpha)
        grid = np.unique(np.concatenate([self.limits_ms[self.limits_ms > 0], nodes.times_ms]))
        grid = grid[(grid > self.q_b / 100) & (grid < self.q_b * 100)]
        half = np.interp(np.log(grid), np.log(nodes.times_ms[order]), half_at[order])
        distance = self.distance(grid)
        return _first_below(grid, distance - half, 0.0), _last_above(grid, distance + half, float("inf"))

    def resolves(self, edge_ms: float) -> bool:
        """Can the recorded times show a change from the baseline's quantile to `edge_ms`?

        Where both read as one grid point, only the assumption that requests lie evenly around it tells them apart;
        that holds for a wide distribution, of which this point is a small part.
        """
        grid = self.panel.grid_ms
        if not same_grid_value(self.q_b, edge_ms, grid):
            return True
        point = np.floor(self.q_b / grid + 0.5) * grid
        here = self.baseline.at(point + grid / 2) - self.baseline.at(point - grid / 2)
        return bool(here <= LARGEST_POINT)

    def keeps(self, limit: Limit) -> bool:
        """Is the candidate's own quantile within its limits?"""
        below = limit.max is None or self.q_c <= limit.max
        return below and (limit.min is None or self.q_c >= limit.min)

    def limits(self, limit: Limit) -> tuple[Asked, ...]:
        """The candidate's own quantile against `max` and `min` (ms)."""
        bounds = [(1.0, limit.max), (-1.0, limit.min)]
        return tuple(self._limit(sign, bound) for sign, bound in bounds if bound is not None)

    def _limit(self, sign: float, bound: float) -> Asked:
        at = np.array([bound])
        own = levels(self.strata, 1, self._below(1, at))
        time = time_variance(own.influence[:, 0])
        floor = _binomial(own.level[:, 0], self.strata.effective[1, 0])
        if self.design.kind == "replicates":
            by_run = np.stack([self.p - curve.at(at) for curve in self.run_candidate], axis=-1)
            distance, uncertainty = replicate_uncertainty(by_run, time)
            return ask(sign * distance, uncertainty.also(floor))
        below = self._rows_below(1, at) + self._rows_below(0, at)
        parts = self.frame.variance(below, np.zeros((1, 1)), relative=False).of_group(0)
        uncertainty = combine(time, parts, self._prior(at), arms=(1,), history=self._history(at)).also(floor)
        return ask(sign * (self.p - own.level[:, 0]), uncertainty)


@lru_cache(maxsize=4)
def find_limits_ms(panel: Panel) -> FloatArray:
    """Limits of the bins in use."""
    return bin_limits_ms(max(bins.last for bins in panel.bins), panel.grid_ms)


@lru_cache(maxsize=4)
def standardise_both(panel: Panel) -> tuple[Distribution, Distribution]:
    """Standardised distribution of time to success of baseline and candidate, shared by all quantiles."""
    strata = frame_all_requests(panel)[0]
    limits = find_limits_ms(panel)
    baseline, candidate = (
        Distribution(
            limits,
            standardised_distribution(panel.bins[arm], _weights(panel, strata, arm, strata.volume[0]), limits),
        )
        for arm in (0, 1)
    )
    return baseline, candidate


def _weights(panel: Panel, strata: Strata, arm: int, volume: FloatArray | float) -> FloatArray:
    """What one request of each histogram cell adds to the standardised distribution: v / (V n); 0 after the look."""
    each = np.zeros((len(panel.endpoints), panel.stride))
    each[:, : panel.slots] = strata.each[arm]
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
