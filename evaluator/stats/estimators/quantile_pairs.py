"""One quantile of time to success in both arms, and all of its comparison that needs no variance (method B.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from evaluator.records import Direction, Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import Spread
from evaluator.stats.estimators.distribution import (
    Distribution,
    distributions_by_set,
    find_limits_ms,
    standardised_distributions,
)
from evaluator.stats.estimators.estimate import Depth, Estimate, build_untested
from evaluator.stats.estimators.frames import frame_all_requests
from evaluator.stats.estimators.resolution import find_quantile_doubt_ms, step_of_arms_ms
from evaluator.stats.estimators.strata import Strata
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import convert_history
from evaluator.stats.variance.uncertainty import Design

NEGLIGIBLE = 1e-4
"""Rounding below this share of a quantile is ignored."""
SLACK = 1e-9
"""A step counts as wider than the margin only if the relative difference is larger."""


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

    def add_margin(self, quantile_ms: float) -> float:
        """Return the time (ms) that the candidate's quantile may reach: the baseline's quantile and the margin."""
        change = self.sign * (0.0 if self.margin is None else self.margin.value)
        return quantile_ms * (1 + change) if self.relative else quantile_ms + change


@dataclass(frozen=True, slots=True)
class QuantileEstimate:
    """The estimate, or why there is none: the baseline's own quantile is a failure, or a time of 0."""

    estimate: Estimate | None
    problem: Literal["failing", "zero"] | None = None


class PanelCurves:
    """What all quantiles of a panel share."""

    def __init__(self, panel: Panel, design: Design, sd_instance: float, alpha: float) -> None:
        """Compute the weights and the distributions of both arms.

        `sd_instance`: relative standard deviation assumed for an arm with a single instance; `alpha`: one-sided level
        of intervals. `by_run` has the distributions of each run by itself, of baseline and candidate, if runs are
        replicates, else `None`.
        """
        self.panel, self.design = panel, design
        self.sd_instance, self.alpha = sd_instance, alpha
        self.strata, self.frame = frame_all_requests(panel)
        self.limits_ms = find_limits_ms(panel)
        self.baseline, self.candidate = standardise_both(panel)
        self.by_run = self._distribute_runs() if design.kind == "replicates" else None
        self.steps_ms = step_of_arms_ms(panel)

    def _distribute_runs(self) -> tuple[list[Distribution], list[Distribution]]:
        """Return the standardised distributions of each run by itself, first of the baseline, then of the candidate.

        They are NaN for a run without requests that can be compared.
        """
        # Runs are numbered from 0: `run` is that of each slot.
        _, run = np.unique(self.panel.run, return_inverse=True)
        runs = int(run.max()) + 1
        slot_weight = (self.strata.block_weight * self.strata.slot_share).sum(axis=0)
        weight_of_run = np.bincount(run, weights=slot_weight, minlength=runs)  # sum of the weights of each run
        # The run of each cell (endpoint × slot) of the histograms of one arm. The histograms have `stride` slots: those
        # after the last slot of the panel have weight 0, so any run may be given for them.
        run_of_all_slots = np.append(run, np.zeros(self.panel.stride - run.size, run.dtype))
        run_of_cell = np.tile(run_of_all_slots, self.panel.n.shape[1])
        arm_and_run = np.concatenate([run_of_cell, run_of_cell + runs])  # runs of the candidate follow the baseline's
        weights = _weigh_cells(self.panel, self.strata, total_weight=1.0, later=0.0)
        curves = distributions_by_set(self.panel.bins, weights, self.limits_ms, arm_and_run, 2 * runs)
        curves /= np.tile(np.where(weight_of_run > 0, weight_of_run, np.nan), 2)[:, None]
        distributions = [Distribution(self.limits_ms, curve) for curve in curves]
        return distributions[:runs], distributions[runs:]

    def find_spread(self, below: FloatArray, difference: FloatArray, slope: FloatArray) -> Spread:
        """Find how much the share of requests done by a threshold varies between instances.

        Each threshold is a group of the result.

        Args:
            below: Requests done by each threshold in each row of the instances, shape (thresholds, rows).
            difference: Difference of both arms, which is removed before instances are compared, shape (thresholds, 1).
            slope: Change of the share with the logarithm of time at each threshold, shape (thresholds,).
        """
        # The frame has one group, of all requests. Without its axis, that of the thresholds is the axis of the groups.
        instances = self.frame.variance(below, difference, relative=False).of_group(0)
        # What is assumed, or known from earlier runs, is of log times; times the slope it is of the share.
        prior = self.design.assume_variance(self.sd_instance * slope)
        history = convert_history(self.design.latency, slope)
        return Spread(self.design, instances, prior, history)


class QuantilePair:
    """One quantile of baseline and candidate (`q_b`, `q_c`, in ms), and all that needs no variance.

    It is tested by shares of requests: D at a time is the probability of the quantile (0.95 for p95) minus the
    candidate's share of requests done by that time. D is positive if the candidate's quantile is later.
    """

    def __init__(self, curves: PanelCurves, question: QuantileQuestion) -> None:
        """Find both quantiles, the time that the margin allows (`allowed_ms`), and the doubt from rounding.

        `q_b` and `q_c` are the quantiles (ms) of baseline and candidate; if runs are replicates, means over the runs.
        """
        self.curves, self.question, self.probability = curves, question, question.probability
        self.q_b = curves.baseline.quantile(self.probability)
        self.q_c = curves.candidate.quantile(self.probability)
        if curves.by_run:
            self._pool_runs(*curves.by_run)
        self.allowed_ms = question.add_margin(self.q_b)
        allowance, largest_step = abs(self.allowed_ms - self.q_b), float(curves.steps_ms.max())
        # Times are recorded in steps. Nothing is decided about a margin that is smaller than a step.
        self.coarse = 0 < allowance * (1 + SLACK) < largest_step
        self.doubt_ms = largest_step
        """How much (ms) rounding to steps, or to bins, may have moved the difference; a whole step if `coarse`."""
        if not self.coarse:
            baseline_step, candidate_step = curves.steps_ms.tolist()
            baseline_doubt = find_quantile_doubt_ms(curves.baseline, self.q_b, baseline_step)
            candidate_doubt = find_quantile_doubt_ms(curves.candidate, self.q_c, candidate_step)
            # A tool may round or cut off, so equal times may be recorded half a step apart.
            unequal_steps = largest_step / 2 if baseline_step != candidate_step else 0.0
            # Runs in a coarser unit than others may move the quantile of each arm by half of that unit.
            doubt = max(baseline_doubt + candidate_doubt, curves.panel.mixed_unit_ms) + unequal_steps
            self.doubt_ms = doubt if doubt > NEGLIGIBLE * self.q_b else 0.0

    def _pool_runs(self, baseline: list[Distribution], candidate: list[Distribution]) -> None:
        """Replace the quantiles by means over runs: `q_b` by the geometric mean, `q_c` by the mean ratio times `q_b`.

        `baseline` and `candidate` are the distributions of each run. `q_b_by_run` keeps the baseline's quantile of each
        run. A run in which this quantile is a failure (infinite) or 0 is not used.
        """
        self.q_b_by_run = np.array([curve.quantile(self.probability) for curve in baseline])
        usable = np.isfinite(self.q_b_by_run) & (self.q_b_by_run > 0)
        if not usable.any():
            # The quantile is infinite or 0, so no estimate is possible (see `settle_without_test`).
            self.q_b, self.q_c = float(self.q_b_by_run.max()), float("nan")
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            log_ratios = np.log([curve.quantile(self.probability) for curve in candidate]) - np.log(self.q_b_by_run)
        self.q_b = float(np.exp(np.log(self.q_b_by_run[usable]).mean()))
        self.q_c = self.q_b * float(np.exp(log_ratios[usable].mean()))

    def settle_without_test(self, depth: Depth) -> QuantileEstimate | None:
        """Return the result if it needs no test, else `None`.

        It needs none if no estimate is possible, or if only suspects are tested and nothing is beyond its bound.
        """
        question = self.question
        if not 0 < self.q_b < np.inf:
            # Infinite: so many requests fail that the quantile is a failure.
            return QuantileEstimate(None, "failing" if self.q_b > 0 else "zero")
        # With a coarse step, the margin decides nothing anyway.
        within_margin = self.coarse or question.sign * float(self.find_distance(np.array([self.allowed_ms]))[0]) <= 0
        # The sign of a limit is 1 for a maximum, -1 for a minimum.
        within_limits = all(sign * (self.q_c - bound) <= 0 for sign, bound in question.limit.bounds)
        if depth == "suspects" and within_margin and within_limits:
            return QuantileEstimate(build_untested(np.array([self.q_b]), np.array([self.q_c]), question.limit.count))
        return None

    def find_distance(self, times_ms: FloatArray) -> FloatArray:
        """Return D, the quantile's probability minus the candidate's share of requests done by each time, (times,).

        It is positive if the candidate's quantile is above the time. With replicates, it is the mean over the runs.
        """
        if self.curves.by_run:
            return np.asarray(np.nanmean(self.find_missing_by_run(times_ms), axis=0))
        return np.asarray(self.probability - self.curves.candidate.at(times_ms))

    def find_missing_by_run(self, times_ms: FloatArray) -> FloatArray:
        """Return D in each run at each time, shape (runs, times): a share of requests.

        `times_ms` refer to the mean quantile of the baseline. In each run, they are moved in proportion to the
        baseline's quantile of that run. Runs in which this quantile is a failure have NaN.
        """
        factors = times_ms / self.q_b
        candidate_curves = self.curves.by_run[1] if self.curves.by_run else []
        # For each run, the baseline's quantile of this run (`q_b`) takes the place of the mean quantile.
        return np.stack(
            [
                self.probability - curve.at(q_b * factors) if np.isfinite(q_b) else np.full(times_ms.size, np.nan)
                for curve, q_b in zip(candidate_curves, self.q_b_by_run, strict=True)
            ]
        )

    def find_interval(self, times_ms: FloatArray, half_widths: FloatArray) -> tuple[float, float]:
        """Find the interval of the candidate's quantile: its lowest and highest time (ms).

        A time belongs to it if D at that time (`find_distance`: the quantile's probability minus the share of requests
        done) does not differ from 0 by more than its half-width. Half-widths are known at the tested thresholds
        `times_ms`, both of shape (thresholds,); between these they are interpolated. The highest time is infinite if D
        is too high there at all times.
        """
        order = np.argsort(times_ms, kind="stable")
        limits = self.curves.limits_ms
        # Times (ms) at which D is compared with its half-width: D is linear between the limits of bins. A quantile more
        # than 100 times as large or small as the baseline's is not searched for.
        all_times = np.sort(np.concatenate([limits[limits > 0], times_ms]))
        grid = all_times[(all_times > self.q_b / 100) & (all_times < self.q_b * 100)]
        half_width = np.interp(np.log(grid), np.log(times_ms[order]), half_widths[order])
        distance = self.find_distance(grid)
        # D falls with time. The interval begins where D - half_width is no longer above 0, and ends where
        # D + half_width becomes negative: in reverse order of time, where -(D + half_width) is no longer above 0.
        lowest = _find_first_below(grid, distance - half_width, default=0.0)
        highest = _find_first_below(grid[::-1], -(distance + half_width)[::-1], default=float("inf"))
        return lowest, highest

    def shift_by_doubt(self, time_ms: float) -> tuple[float, float]:
        """Return the times (ms) at which "worse" and "within" are tested for a bound at `time_ms`.

        Each is moved by the doubt from rounding in the direction that makes its claim harder to show.
        """
        shift = self.question.sign * self.doubt_ms
        # Times stay positive, because their logarithms are used.
        return max(time_ms + shift, time_ms / 100), max(time_ms - shift, time_ms / 100)

    def choose_thresholds(self, *, full: bool) -> FloatArray:
        """Return the thresholds (ms) to test, that of the margin first; with `full`, also the candidate's quantile."""
        thresholds = [self.allowed_ms]
        if self.doubt_ms:
            # Margin and zero are tested at times that are moved by the doubt.
            thresholds += [*self.shift_by_doubt(self.allowed_ms), *self.shift_by_doubt(self.q_b)]
        if full and np.isfinite(self.q_c):
            # The interval is around this time, so the variance must be known there.
            thresholds.append(self.q_c)
        return np.array(thresholds)


@lru_cache(maxsize=4)
def standardise_both(panel: Panel) -> tuple[Distribution, Distribution]:
    """Return the standardised distributions of time to success of baseline and candidate, for all quantiles."""
    strata, _ = frame_all_requests(panel)
    limits = find_limits_ms(panel)
    # Cells with the weight NaN are left out of the distributions.
    weights = _weigh_cells(panel, strata, total_weight=strata.total_weight[0], later=np.nan)
    curves = standardised_distributions(panel.bins, weights, limits)
    return Distribution(limits, curves[0]), Distribution(limits, curves[1])


def _weigh_cells(panel: Panel, strata: Strata, *, total_weight: FloatArray | float, later: float) -> FloatArray:
    """Return what one request of each histogram cell adds to the standardised distribution: shape (cells,).

    It is the weight of one request in its stratum, divided by `total_weight`, the sum of all weights. At an earlier
    look, the histogram has later slots than the panel: their cells get the weight `later`.
    """
    weights = np.full((2, len(panel.endpoints), panel.stride), later)
    weights[..., : panel.slots] = strata.request_weight
    with np.errstate(divide="ignore", invalid="ignore"):  # no weight at all: NaN, which becomes "no data"
        return np.asarray(weights.ravel() / total_weight)


def _find_first_below(grid: FloatArray, values: FloatArray, default: float) -> float:
    """Find the first place of `grid` where `values` are no longer above 0, by linear interpolation.

    It is `default` if the first value is not above 0, and the last place if all values are above 0.

    >>> _find_first_below(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, -1.0]), 0.0)
    2.5
    """
    is_not_above = values <= 0
    if not is_not_above.any():
        return float(grid[-1])
    first = int(np.argmax(is_not_above))  # the first true element
    if first == 0:
        return default
    value_before, value = values[first - 1], values[first]
    position = value_before / (value_before - value) if value_before != value else 0.5
    return float(grid[first - 1] + position * (grid[first] - grid[first - 1]))
