"""Compare quantiles of time to success without a density (method B.2; Woodruff 1952, JASA 47, 635-646).

The candidate's quantile is worse than the baseline's by more than δ exactly if less than a share p of its requests is
done by q_b·(1 + δ). So D(δ) = p - F_c(q_b(1 + δ)) is tested, a difference of proportions, and the interval is the set
of δ that the test does not reject. No density is estimated: this fails for integer milliseconds and for distributions
with two modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.assumed_shift import (
    LARGEST_SHIFT,
    SHARE_OF_SHIFT,
    AssumedShift,
    assume_shift,
    find_p_value,
    list_levels,
)
from evaluator.stats.estimators.contrast import Estimand, Spread, build_estimate
from evaluator.stats.estimators.distribution import count_done, count_done_by_row
from evaluator.stats.estimators.estimate import (
    Z_OF_POWER,
    Depth,
    Estimate,
    GroupAnswers,
    compute_answers,
    compute_loadings,
    decide_nothing,
)
from evaluator.stats.estimators.quantile_pairs import PanelCurves, QuantileEstimate, QuantilePair, QuantileQuestion
from evaluator.stats.estimators.strata import standardise_levels
from evaluator.stats.inference.score import share_variance
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.uncertainty import Design, Uncertainty

PRIOR_STEP = 0.05
"""Change of the logarithm of a time over which the slope of the baseline's distribution is measured."""
MOST_TOGETHER = 8
"""Quantiles that are tested together, each with two thresholds: more of them need more memory and save little time."""


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
        design: What is replicated: whole runs, instances within runs, or nothing.
        questions: Quantiles with their margins and limits.
        alpha: One-sided level of the interval.
        sd_instance: Relative standard deviation assumed for an arm with a single instance.
        depth: What is computed; unless `full`, there is no interval.

    Returns:
        One result for each question.
    """
    curves = PanelCurves(panel, design, sd_instance, alpha)
    quantiles = [QuantilePair(curves, question) for question in questions]
    results = [quantile.settle_without_test(depth) for quantile in quantiles]
    needs_test = [k for k, result in enumerate(results) if result is None]
    # These are tested together, a few at a time to save memory.
    for first in range(0, len(needs_test), MOST_TOGETHER):
        tested_together = needs_test[first : first + MOST_TOGETHER]
        estimates = _Tests(curves, [quantiles[k] for k in tested_together]).estimate(full=depth == "full")
        for k, estimate in zip(tested_together, estimates, strict=True):
            results[k] = estimate
    return tuple(result for result in results if result is not None)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The tests of several quantiles, each at several thresholds. Arrays have shape (thresholds,) unless stated."""

    quantile: IntArray
    """Index of the quantile of each threshold; increasing."""
    times_ms: FloatArray
    """The thresholds."""
    uncertainty: Uncertainty
    """Uncertainty of D at each threshold."""
    influence: FloatArray
    """Influence of each slot on D, shape (thresholds, slots)."""
    scores: FloatArray
    """Contributions of instances or replicates to the error, shape (thresholds, units); no units in a single design."""

    @property
    def first_thresholds(self) -> IntArray:
        """Index of the first threshold of each quantile, that of its margin: shape (quantiles,)."""
        return np.flatnonzero(np.diff(self.quantile, prepend=-1))

    def interpolate(self, times_ms: FloatArray) -> Uncertainty:
        """Return the uncertainty of the test at one more time of each quantile, `times_ms` (quantiles,).

        It is interpolated between the thresholds of the quantile, over the logarithm of time. Outside them, it is that
        of the nearest threshold.
        """
        at_thresholds, log_thresholds, log_times = self.uncertainty, np.log(self.times_ms), np.log(times_ms)
        # All numbers of an uncertainty as rows, all interpolated alike: variances, degrees of freedom, persistent part.
        rows = np.vstack([at_thresholds.variance, at_thresholds.df, at_thresholds.persistent[None, :]])
        interpolated = np.empty((rows.shape[0], times_ms.size))
        for k in range(times_ms.size):
            of_quantile = np.flatnonzero(self.quantile == k)
            rising = of_quantile[np.argsort(log_thresholds[of_quantile], kind="stable")]
            interpolated[:, k] = [np.interp(log_times[k], log_thresholds[rising], row) for row in rows[:, rising]]
        variances = at_thresholds.variance.shape[0]
        return Uncertainty(interpolated[:variances], interpolated[variances:-1], interpolated[-1])


class _Tests:
    """The tests of several quantiles at all their thresholds, computed together."""

    def __init__(self, curves: PanelCurves, quantiles: Sequence[QuantilePair]) -> None:
        """Count what the baseline has done by its own quantiles, and how steep its distribution is there.

        All tests need both, at any threshold.
        """
        self.curves, self.quantiles = curves, quantiles
        self.q_b = np.array([quantile.q_b for quantile in quantiles])
        step = np.exp(PRIOR_STEP)
        self.slope = (curves.baseline.at(self.q_b * step) - curves.baseline.at(self.q_b / step)) / (2 * PRIOR_STEP)
        """Change of the baseline's share of requests done with the logarithm of time, shape (quantiles,)."""
        self.baseline_levels = standardise_levels(curves.strata, 0, count_done(curves.panel, self.q_b)[:, 0])
        """Share of the baseline's requests done by its own quantiles, shape (quantiles, 1)."""
        self.rows_below = None if curves.by_run else count_done_by_row(curves.panel, self.q_b)
        """Requests done by these quantiles in each row of the instances, (quantiles, rows); `None` if runs are
        replicates."""

    def estimate(self, *, full: bool) -> list[QuantileEstimate]:
        """Return the estimate of each quantile, with intervals if `full` (else the ends are NaN).

        With one instance on each arm, instances are assumed to differ. Where this difference, as a share of requests,
        would hide any harm, it is kept as a shift of times (method B.3a), and such a quantile is tested in another way.
        """
        # The variance of the test of each quantile is computed at a few thresholds (nodes) and interpolated between.
        nodes = self._test_thresholds([quantile.choose_thresholds(full=full) for quantile in self.quantiles])
        interval_ms = np.full((2, len(self.quantiles)), np.nan)  # lower and upper end of each quantile's interval
        shifts = [self._find_hiding_shift(k) for k in range(len(self.quantiles))]
        if full:
            # The variance at the ends of the intervals is interpolated at first. So the ends become thresholds as well,
            # and the intervals are computed again with them.
            interval_ms = self._find_intervals(nodes)
            ends_to_test = [ends[np.isfinite(ends) & (ends > 0)] for ends in interval_ms.T]
            if any(ends.size for ends in ends_to_test):
                interval_ms = self._find_intervals(nodes, self._test_thresholds(ends_to_test))
            for k, shift in enumerate(shifts):
                if shift is not None:
                    interval_ms[:, k] = self._find_shifted_interval(k, shift)
        estimate = self._put_together(nodes, interval_ms)
        estimates = []
        for k, shift in enumerate(shifts):
            of_quantile = replace(estimate.of_group(k), against_limit=self._answer_limits(k))
            # A quantile whose times have steps wider than the margin decides nothing, in either way.
            if shift is not None and not self.quantiles[k].coarse:
                of_quantile = replace(
                    of_quantile,
                    against_margin=self._answer_with_shift(k, shift, self.quantiles[k].allowed_ms),
                    against_zero=self._answer_with_shift(k, shift, float(self.q_b[k])),
                )
            estimates.append(QuantileEstimate(of_quantile))
        return estimates

    def _find_hiding_shift(self, k: int, arms: tuple[int, ...] = (0, 1)) -> AssumedShift | None:
        """Return the assumed shift of times between single instances if as a share of requests it hides all harm.

        `k`: index of the quantile; `arms`: those of the estimate. `None`: the usual test can show harm.
        """
        shift = assume_shift(self.curves.design, self.curves.sd_instance, arms)
        if shift is None:
            return None
        probability = self.quantiles[k].probability
        largest_share = max(probability, 1 - probability)
        return shift if shift.hides(float(self.slope[k]), largest_share, self.curves.alpha) else None

    def _answer_with_shift(self, k: int, shift: AssumedShift, bound_ms: float) -> GroupAnswers:
        """Test a quantile (index `k`) against `bound_ms` (ms), moved against each claim.

        It is moved by what rounding may hide (`doubt_ms`), and by the assumed shift, which takes the place of the
        difference between instances. The lower the level, the larger is the shift that it has to allow for. So each
        claim is tested at several levels, with the shift of each; its p-value is the lowest level at which it holds.
        """
        quantile = self.quantiles[k]
        levels, sign = list_levels(self.curves.alpha), quantile.question.sign
        moves = np.exp(sign * shift.at(levels))
        worse_ms, within_ms = quantile.shift_by_doubt(bound_ms) if quantile.doubt_ms else (bound_ms, bound_ms)
        p_worse, p_within = (
            self._test_without_instances(k, times_ms, sign)[side]
            for side, times_ms in enumerate((worse_ms * moves, within_ms / moves))
        )
        beyond = sign * quantile.find_distance(np.array([bound_ms]))
        return GroupAnswers(
            beyond, np.array([find_p_value(p_worse, levels)]), np.array([find_p_value(p_within, levels)])
        )

    def _test_without_instances(self, k: int, times_ms: FloatArray, sign: float) -> tuple[FloatArray, FloatArray]:
        """Test a quantile (index `k`) at several times by its variation over time: p-values of worse and within."""
        nodes = self._test_thresholds([times_ms], quantiles=[k], with_instances=False)
        return nodes.uncertainty.p_values(sign * self.quantiles[k].find_distance(times_ms))

    def _find_shifted_interval(self, k: int, shift: AssumedShift) -> tuple[float, float]:
        """Find the interval (ms) of a quantile (index `k`) by its variation over time, widened by the assumed shift."""
        alpha, quantile = self.curves.alpha, self.quantiles[k]
        times_ms = self.q_b[k] * np.exp(np.linspace(-0.2, 0.2, 9))
        if np.isfinite(quantile.q_c):
            times_ms = np.append(times_ms, quantile.q_c * np.exp(np.linspace(-0.2, 0.2, 9)))
        nodes = self._test_thresholds([times_ms], quantiles=[k], with_instances=False)
        half_widths = nodes.uncertainty.half_width((1 - SHARE_OF_SHIFT) * alpha)
        lowest, highest = quantile.find_interval(times_ms, half_widths)
        widest = float(shift.at(alpha))
        # A shift of `LARGEST_SHIFT` is cut off there, and may be larger.
        return (lowest / np.exp(widest), highest * np.exp(widest)) if widest < LARGEST_SHIFT else (0.0, np.inf)

    def _test_thresholds(
        self,
        thresholds_ms: Sequence[FloatArray],
        quantiles: Sequence[int] | None = None,
        *,
        with_instances: bool = True,
    ) -> _Nodes:
        """Find how uncertain the test of each quantile is at its thresholds.

        What is tested is D, the baseline's share of requests done by its own quantile, minus the candidate's share done
        by the threshold. `thresholds_ms` has the thresholds of each of the `quantiles` (indices; `None`: of all). In
        the result, all thresholds are in one list, in the order of the quantiles: each is a node, between which the
        variance is interpolated. `with_instances=False`: only variation over time counts, not that between instances
        or runs.
        """
        curves, strata = self.curves, self.curves.strata
        quantile_index = np.repeat(
            np.arange(len(self.quantiles)) if quantiles is None else np.array(quantiles),
            [thresholds.size for thresholds in thresholds_ms],
        )
        times_ms = np.concatenate(thresholds_ms)
        done = count_done(curves.panel, times_ms)  # shape (thresholds, arms, endpoints, slots)
        candidate_levels = standardise_levels(strata, 1, done[:, 1])
        baseline_level = self.baseline_levels.level[quantile_index]
        baseline_influence = self.baseline_levels.influence[quantile_index]
        # D: the share that the candidate lacks, shape (thresholds,), and the influence of each slot on it, (thresholds,
        # slots). All endpoints are one group (the index 0).
        missing = Estimand(
            baseline_level[:, 0] - candidate_levels.level[:, 0],
            baseline_influence[:, 0] - candidate_levels.influence[:, 0],
        )
        n_b, n_c = strata.effective_n[:, 0]
        # The variance of independent requests, which is the smallest possible.
        binomial = share_variance(candidate_levels.level[:, 0], n_c) + share_variance(baseline_level[:, 0], n_b)
        if not with_instances:
            spread = Spread()
        elif self.rows_below is None:  # runs are replicates: D of the single runs shows the variance
            missing_by_run = [
                quantile.find_missing_by_run(times)
                for quantile, times in zip(self.quantiles, thresholds_ms, strict=True)
            ]
            missing, spread = replace(missing, by_run=np.concatenate(missing_by_run, axis=1).T), Spread()
        else:
            # How much the shares differ between instances. Rows of the baseline come first; what counts in them are the
            # requests done by the baseline's quantile, not by the threshold.
            below = count_done_by_row(curves.panel, times_ms)
            baseline_rows = int(np.searchsorted(curves.panel.rows.arm, 1))
            below[:, :baseline_rows] = self.rows_below[quantile_index, :baseline_rows]
            # What is compared are shares of requests done, so their difference is candidate minus baseline.
            difference = candidate_levels.level - baseline_level
            spread = curves.find_spread(below, difference, self.slope[quantile_index])
        _, uncertainty = spread.find_uncertainty(missing)
        # Contributions of replicates or instances to the error of D, which give the correlation of tests. `below` falls
        # if an instance is slower while D rises, so scores of instances get the opposite sign.
        scores = spread.find_scores(missing, sign=1.0 if curves.by_run else -1.0)
        node_scores = np.zeros((times_ms.size, 0)) if scores is None else scores.T
        return _Nodes(quantile_index, times_ms, uncertainty.also(binomial), missing.influence, node_scores)

    def _put_together(self, nodes: _Nodes, interval_ms: FloatArray) -> Estimate:
        """Build an estimate with one group for each quantile, on the scale of the effect (a ratio or ms).

        Args:
            nodes: The tests; the first threshold of each quantile is that of its margin.
            interval_ms: Lower and upper end of the interval of the candidate's quantile, shape (2, quantiles).
        """
        # Arrays have an element for each quantile. `q_b` and `q_c` are the quantiles (ms) of baseline and candidate;
        # times `sign`, a change is positive if it is harm.
        quantiles, alpha, q_b = self.quantiles, self.curves.alpha, self.q_b
        sign = np.array([quantile.question.sign for quantile in quantiles])
        relative = np.array([quantile.question.relative for quantile in quantiles])
        q_c = np.array([quantile.q_c for quantile in quantiles])
        # How much rounding may have moved the difference of the quantiles.
        doubt_ms = np.array([quantile.doubt_ms for quantile in quantiles])
        coarse = np.array([quantile.coarse for quantile in quantiles])
        lower_ms, upper_ms = np.maximum(interval_ms[0] - doubt_ms, 0.0), interval_ms[1] + doubt_ms
        # Times of the candidate's quantile as changes from the baseline's: relative, or in ms.
        lower, effect, upper = (np.where(relative, times / q_b - 1, times - q_b) for times in (lower_ms, q_c, upper_ms))
        at_nodes, first = nodes.uncertainty, nodes.first_thresholds
        at_margin = Uncertainty(at_nodes.variance[:, first], at_nodes.df[:, first], at_nodes.persistent[first])
        allowed_ms = np.array([quantile.allowed_ms for quantile in quantiles])
        beyond = self._find_distances(allowed_ms)
        if doubt_ms.any():
            against_margin = self._answer_with_doubt(nodes, allowed_ms)
            against_zero = self._answer_with_doubt(nodes, q_b)
        else:
            against_margin = compute_answers(beyond, at_margin)
            against_zero = compute_answers(self._find_distances(q_b), nodes.interpolate(q_b))
        # By how much each slot, and each instance or replicate, moves the distance beyond the margin.
        harm_influence = sign[:, None] * nodes.influence[first]
        scores = sign * nodes.scores[first].T
        deciding = at_margin.find_widest(alpha)
        critical = deciding.critical
        with np.errstate(divide="ignore", invalid="ignore"):
            # From the effect to the end of the interval in the direction of harm: `critical` standard errors.
            half_width = np.where(sign > 0, upper - effect, effect - lower)
            detectable = half_width * (critical + Z_OF_POWER) / critical
            # No density is estimated, so the standard error (of the log ratio, or in ms) is derived from the interval.
            half_width_of_log = np.abs(np.log1p(sign * half_width / (1 + effect)))
            se = np.where(relative, half_width_of_log, half_width) / critical
        estimate = build_estimate(
            (q_b, q_c),
            np.stack([effect, lower, upper]),
            decide_nothing(against_margin, coarse),
            decide_nothing(against_zero, coarse),
            deciding,
            harm=harm_influence,
            position=self.curves.panel.position,
            beyond=beyond,
            detectable=detectable,
            se=se,
            coarse=coarse,
            loadings=compute_loadings(harm_influence, scores, deciding.variance),
        )
        # Where a step of the recorded times is wider than the margin, no amount of data is enough.
        return replace(estimate, needed=np.where(coarse, np.inf, estimate.needed))

    def _find_distances(self, times_ms: FloatArray) -> FloatArray:
        """Return how much worse the candidate is at the time of each quantile, both of shape (quantiles,).

        It is D, the missing share of requests (`QuantilePair.find_distance`), with the sign that positive is worse.
        """
        return np.array(
            [
                quantile.question.sign * float(quantile.find_distance(np.array([time]))[0])
                for quantile, time in zip(self.quantiles, times_ms, strict=True)
            ]
        )

    def _answer_with_doubt(self, nodes: _Nodes, times_ms: FloatArray) -> GroupAnswers:
        """Test each quantile against its own time (quantiles,), with the doubt from rounding against each claim."""
        pairs = zip(self.quantiles, times_ms.tolist(), strict=True)
        worse_times, within_times = np.array([quantile.shift_by_doubt(time) for quantile, time in pairs]).T
        worse = compute_answers(self._find_distances(worse_times), nodes.interpolate(worse_times))
        within = compute_answers(self._find_distances(within_times), nodes.interpolate(within_times))
        return GroupAnswers(self._find_distances(times_ms), worse.p_worse, within.p_within)

    def _find_intervals(self, *all_nodes: _Nodes) -> FloatArray:
        """Return the lower and upper end (ms) of the interval of each quantile: shape (2, quantiles).

        Several `_Nodes` are used together: each has some of the thresholds of each quantile.
        """
        quantile_index = np.concatenate([nodes.quantile for nodes in all_nodes])
        times_ms = np.concatenate([nodes.times_ms for nodes in all_nodes])
        half_widths = np.concatenate([nodes.uncertainty.half_width(self.curves.alpha) for nodes in all_nodes])
        intervals = []
        for k, quantile in enumerate(self.quantiles):
            of_quantile = quantile_index == k
            intervals.append(quantile.find_interval(times_ms[of_quantile], half_widths[of_quantile]))
        return np.array(intervals).T

    def _answer_limits(self, k: int) -> tuple[GroupAnswers, ...]:
        """Test the candidate's own quantile (the one with index `k`) against its limits: an answer for each limit."""
        curves, probability = self.curves, self.quantiles[k].probability
        answers = []
        # The sign is 1 for a maximum, -1 for a minimum, so that positive distances are beyond the limit.
        for sign, bound_ms in self.quantiles[k].question.limit.bounds:
            # As in `_test_thresholds`, but the quantile's probability itself takes the place of the baseline's share.
            shift = self._find_hiding_shift(k, arms=(1,))
            if shift is not None:
                answers.append(self._answer_limit_with_shift(k, shift, sign, bound_ms))
                continue
            times_ms = np.array([bound_ms])
            done = standardise_levels(curves.strata, 1, count_done(curves.panel, times_ms)[:, 1])
            missing, spread = Estimand(probability - done.level[:, 0], -done.influence[:, 0]), Spread()
            if curves.by_run:
                # The distributions of the candidate, one for each run.
                by_run = np.stack([probability - curve.at(times_ms) for curve in curves.by_run[1]], axis=-1)
                missing = replace(missing, by_run=by_run)
            else:
                # Only the candidate is tested: there is no difference to remove.
                no_difference = np.zeros((1, 1))
                spread = curves.find_spread(count_done_by_row(curves.panel, times_ms), no_difference, self.slope[[k]])
            distance, uncertainty = spread.find_uncertainty(missing, arms=(1,))
            binomial = share_variance(done.level[:, 0], curves.strata.effective_n[1, 0])
            answers.append(compute_answers(sign * distance, uncertainty.also(binomial)))
        return tuple(answers)

    def _answer_limit_with_shift(self, k: int, shift: AssumedShift, sign: float, bound_ms: float) -> GroupAnswers:
        """Test the candidate's own quantile (index `k`) against a limit that is moved by the assumed shift.

        As in `_answer_with_shift`: for each level by the shift of this level, against each claim. `sign` is 1 for a
        maximum, -1 for a minimum.
        """
        curves, probability = self.curves, self.quantiles[k].probability
        levels = list_levels(curves.alpha)
        moves = np.exp(sign * shift.at(levels))
        # The limit itself, and moved: for "worse" (beyond it) at each level, then for "within" at each level.
        times_ms = np.concatenate([[bound_ms], bound_ms * moves, bound_ms / moves])
        for_worse, for_within = slice(1, 1 + moves.size), slice(1 + moves.size, None)
        done = standardise_levels(curves.strata, 1, count_done(curves.panel, times_ms)[:, 1])
        # An empty `Spread`: the shift takes the place of the difference between instances.
        distance, uncertainty = Spread().find_uncertainty(
            Estimand(probability - done.level[:, 0], -done.influence[:, 0]), arms=(1,)
        )
        binomial = share_variance(done.level[:, 0], curves.strata.effective_n[1, 0])
        p_worse, p_within = uncertainty.also(binomial).p_values(sign * distance)
        worse = find_p_value(p_worse[for_worse], levels)
        within = find_p_value(p_within[for_within], levels)
        return GroupAnswers(sign * distance[:1], np.array([worse]), np.array([within]))
