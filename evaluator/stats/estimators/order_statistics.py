"""Compare a quantile of few independent runs by order statistics, exactly (method B.2, few measurements).

The k-th smallest of n independent values is above their quantile `p` only if fewer than k values are at or below the
quantile: a probability of the binomial distribution, whatever the distribution of the values (Thompson 1936; David and
Nagaraja 2003, section 7.1). If the i-th smallest value x is above the j-th smallest value y, although the quantile of
x is not above that of y, then one of the two is on the wrong side of its own quantile. So this happens with at most the
sum of both probabilities. No normal approximation is needed, and nothing about the shapes of the two distributions: the
result holds for heavy tails, ties, and values that depend on each other between the arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.estimators.distribution import find_limits_ms
from evaluator.stats.estimators.estimate import Estimate, GroupAnswers, Trend, decide_nothing
from evaluator.stats.estimators.quantile_pairs import SLACK, QuantileEstimate, QuantileQuestion
from evaluator.stats.estimators.resolution import step_of_arms_ms
from evaluator.stats.shaping.panel import Panel

MOST_RUNS = 100_000
"""More runs are not needed for any quantile that can be written in a policy with five decimals."""


@dataclass(frozen=True, slots=True)
class RunTimes:
    """One time to success (ms) of each run and arm, shape (2, runs), baseline first; a failure is infinite.

    It is that of the run's only request, or the median of the run's requests. Times are recorded in steps, so it is
    known to lie between `low` and `high`.
    """

    low: FloatArray
    high: FloatArray
    lone: bool
    """Has each run a single request on each arm? Then these times are a sample of the requests, else of medians."""

    @property
    def runs(self) -> int:
        """Number of runs."""
        return int(self.low.shape[1])

    @property
    def middle(self) -> FloatArray:
        """The middle between the two ends, shape (2, runs)."""
        return (self.low + self.high) / 2


def take_run_times(panel: Panel) -> RunTimes | None:
    """Take one time of each run and arm from a panel; `None` if it has several endpoints, or a run lacks an arm.

    Several endpoints have different times, and one time of a run cannot show all of them.
    """
    runs, run = np.unique(panel.run, return_inverse=True)  # `run`: number (0, 1, …) of the run of each slot
    requests = np.zeros((2, runs.size))
    for arm in (0, 1):
        requests[arm] = np.bincount(run, weights=panel.n[arm].sum(axis=0), minlength=runs.size)
    if len(panel.endpoints) != 1 or not (requests > 0).all():
        return None
    low, high, owner = _list_times(panel, run, runs.size)
    times = np.empty((2, 2, runs.size))  # low and high ends, of each arm and run
    for arm in (0, 1):
        for k in range(runs.size):
            of_run = owner == arm * runs.size + k
            times[:, arm, k] = _find_median(low[of_run]), _find_median(high[of_run])
    return RunTimes(times[0], times[1], lone=bool((requests == 1).all()))


def _list_times(panel: Panel, run: IntArray, runs: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """List the requests of a panel of one endpoint: the ends of their times (ms), and the owner of each.

    The owner is arm · `runs` + run. The time of a slot's only success is known from its sum. Of several successes in
    a slot, the bins of the histogram are known; their limits include half a step of the finest run already, so half of
    the unit of coarser runs is added. `run` is that of each slot.
    """
    bins, limits, steps_ms = panel.bins, find_limits_ms(panel), step_of_arms_ms(panel)
    arm, slot = np.divmod(bins.cell, panel.stride)
    bin_of_row = np.repeat(np.arange(bins.sizes.size), bins.sizes)
    is_judged = slot < panel.slots  # a panel that was cut to an earlier time has later slots in its histogram
    arm, slot, bin_of_row, n = arm[is_judged], slot[is_judged], bin_of_row[is_judged], bins.n[is_judged].astype(int)
    is_alone = panel.ok[:, 0][arm, slot] == 1
    time_ms, half_step = panel.totals["time_ms"][:, 0][arm, slot], steps_ms[arm] / 2
    half_unit = panel.mixed_unit_ms / 2
    low = np.maximum(np.where(is_alone, time_ms - half_step, limits[bin_of_row] - half_unit), 0.0)
    high = np.where(is_alone, time_ms + half_step, limits[bin_of_row + 1] + half_unit)
    failures = panel.failures[:, 0].astype(int)  # shape (2, slots)
    failed_arm, failed_slot = np.nonzero(failures)
    owner = np.concatenate(
        [
            np.repeat(arm * runs + run[slot], n),
            np.repeat(failed_arm * runs + run[failed_slot], failures[failed_arm, failed_slot]),
        ]
    )
    never = np.full(int(failures.sum()), np.inf)
    return np.append(np.repeat(low, n), never), np.append(np.repeat(high, n), never), owner


def _find_median(values: FloatArray) -> float:
    """Return the median: the middle value, or the mean of both middle values. Infinite values count as the largest."""
    return find_sample_quantile(values, 0.5)


def find_sample_quantile(values: FloatArray, probability: float) -> float:
    """Return the sample quantile of `values` (n,): the value of rank n · probability, rounded up.

    If n · probability is a whole number, it is the mean of the values of this rank and the next, as for a median.
    """
    rising = np.sort(values)
    position = values.size * probability
    rank = int(np.ceil(position - 1e-9))
    if abs(position - rank) < 1e-9 and rank < values.size:
        return float(rising[rank - 1] + rising[rank]) / 2
    return float(rising[min(max(rank, 1), values.size) - 1])


# ------------------------------------------------------------------ exact probabilities


@dataclass(frozen=True, slots=True)
class RankPairs:
    """Pairs of ranks for the claim "the quantile of x is above that of y", from the most to the least certain.

    The claim is made if the value of rank `of_x` of x is above that of rank `of_y` of y. `of_x` never falls and `of_y`
    never rises, so a later pair is met whenever an earlier one is. Arrays have shape (pairs,), ranks begin at 1.
    """

    of_x: IntArray
    of_y: IntArray
    error: FloatArray
    """Largest probability of the claim if it is wrong."""

    def count_within(self, alpha: float) -> int:
        """Count the pairs whose error is at most `alpha`: the last of them decides at this level; 0: none does."""
        return int(np.searchsorted(self.error, alpha * (1 + 1e-12), side="right"))


@lru_cache(maxsize=64)
def find_rank_pairs(n: int, probability: float) -> RankPairs:
    """Find pairs of ranks of two samples of `n` values, for the quantile of this probability.

    The first pair is the smallest x and the largest y. From pair to pair, the rank is moved whose error then is the
    smaller of both, as long as the sum of errors is below 1. The order depends on nothing in the data, as it must.

    >>> pairs = find_rank_pairs(10, 0.5)
    >>> [(int(i), int(j), round(float(error), 4)) for i, j, error in zip(pairs.of_x, pairs.of_y, pairs.error)][:4]
    [(1, 10, 0.002), (2, 10, 0.0117), (2, 9, 0.0215), (3, 9, 0.0654)]
    """
    from scipy.special import bdtr, bdtrc

    ranks = np.arange(1, n + 1)
    # P(the value of this rank is above the quantile), and P(it is below), for each rank.
    above, below = bdtr(ranks - 1, n, probability), bdtrc(ranks - 1, n, probability)
    of_x, of_y = 1, n
    pairs = [(of_x, of_y, float(above[0] + below[n - 1]))]
    while of_x < n or of_y > 1:
        if of_y == 1 or (of_x < n and above[of_x] <= below[of_y - 2]):
            of_x += 1
        else:
            of_y -= 1
        error = float(above[of_x - 1] + below[of_y - 1])
        if error >= 1:
            break
        pairs.append((of_x, of_y, error))
    x, y, error_of_pair = zip(*pairs, strict=True)
    return RankPairs(np.array(x), np.array(y), np.array(error_of_pair))


def find_p_above(x: FloatArray, y: FloatArray, probability: float) -> float:
    """Return the p-value of the claim that the quantile of `x` is above that of `y`, both of shape (n,); at most 1."""
    pairs = find_rank_pairs(x.size, probability)
    is_met = np.sort(x)[pairs.of_x - 1] > np.sort(y)[pairs.of_y - 1]
    return float(pairs.error[np.argmax(is_met)]) if is_met.any() else 1.0


def count_needed(probability: float, alpha: float) -> int:
    """Return the smallest number of values of each sample with which a quantile can be decided at level `alpha`.

    It is the smallest n with p^n + (1 - p)^n ≤ alpha, at most `MOST_RUNS`. The surest claim is that the smallest value
    of one sample is above the largest of the other, and that sum is its error. With fewer values, even samples that do
    not overlap decide nothing.

    >>> [count_needed(probability, 0.05) for probability in (0.5, 0.9, 0.95, 0.99)]
    [6, 29, 59, 299]
    """
    larger = max(probability, 1 - probability)
    n = max(int(np.floor(np.log(alpha) / np.log(larger))), 1)
    while larger**n + (1 - larger) ** n > alpha and n < MOST_RUNS:
        n += 1
    return n


# ------------------------------------------------------------------ the comparison


def compare_run_times(times: RunTimes, question: QuantileQuestion, panel: Panel, alpha: float) -> QuantileEstimate:
    """Compare a quantile over runs exactly, under its margin and limits (method B.2, few measurements).

    If the runs have several requests each, their medians are compared, so the quantile must be that of ½. A failed run
    has an infinite time, so a quantile may be infinite; nothing can be compared with such a baseline.

    Args:
        times: One time of each run and arm.
        question: The quantile, its margin and its limits.
        panel: The panel from which the times were taken, for the steps of its times.
        alpha: One-sided level of the interval.
    """
    probability = question.probability
    baseline, candidate = (find_sample_quantile(middle, probability) for middle in times.middle)
    if not 0 < baseline < np.inf:
        return QuantileEstimate(None, "failing" if baseline > 0 else "zero")
    change = candidate / baseline - 1 if question.relative else candidate - baseline
    allowed = question.add_margin(baseline)
    # A step that is wider than the margin cannot show whether times are within it.
    coarse = 0 < abs(allowed - baseline) * (1 + SLACK) < float(step_of_arms_ms(panel).max())
    # Harm beyond the margin, and beyond no change, as shares of the baseline.
    beyond, beyond_zero = (question.sign * (candidate - time_ms) / baseline for time_ms in (allowed, baseline))
    against_margin = _answer_margin(times, question, beyond)
    against_zero = _answer_margin(times, QuantileQuestion(probability, None, question.direction), beyond_zero)
    lower, upper = _find_interval(times, question, alpha)
    unknown = np.full(1, np.nan)
    estimate = Estimate(
        baseline=np.array([baseline]),
        candidate=np.array([candidate]),
        effect=np.array([change]),
        lower=np.array([lower]),
        upper=np.array([upper]),
        against_margin=decide_nothing(against_margin, np.array([coarse])),
        against_zero=decide_nothing(against_zero, np.array([coarse])),
        # The order of the runs says nothing about a drift within them.
        trend=Trend(last_third=np.array([beyond]), p_worsening=unknown, at_end=np.array([beyond])),
        detectable=unknown,
        needed=np.full(1, np.inf),  # longer runs do not help
        persistent=np.ones(1),
        se=unknown,
        df=np.full(1, np.inf),
        against_limit=tuple(_answer_limit(times, sign, bound, probability) for sign, bound in question.limit.bounds),
        coarse=np.array([coarse]),
    )
    return QuantileEstimate(estimate)


def _answer_margin(times: RunTimes, question: QuantileQuestion, beyond: float) -> GroupAnswers:
    """Test the candidate's quantile against that of the baseline and the margin; rounding counts against each claim.

    `beyond`: harm beyond the margin as a share of the baseline, to show with the answers.
    """
    add_margin = np.vectorize(question.add_margin, otypes=[float])
    (baseline_low, candidate_low), (baseline_high, candidate_high) = times.low, times.high
    p_above = find_p_above(candidate_low, add_margin(baseline_high), question.probability)
    p_below = find_p_above(add_margin(baseline_low), candidate_high, question.probability)
    p_worse, p_within = (p_above, p_below) if question.sign > 0 else (p_below, p_above)
    return GroupAnswers(np.array([beyond]), np.array([p_worse]), np.array([p_within]))


def _find_interval(times: RunTimes, question: QuantileQuestion, alpha: float) -> tuple[float, float]:
    """Find the changes of the quantile that are not rejected at level `alpha` on each side; in the unit of the effect.

    Each run's time is known to lie between its `low` and `high` end, and is infinite for a failed request. An end of
    the interval is infinite (a ratio's lower end: -1, a fall by 100 %) if there are too few runs to show one.
    """
    baseline_low, candidate_low = np.sort(times.low, axis=1)
    baseline_high, candidate_high = np.sort(times.high, axis=1)
    pairs = find_rank_pairs(times.runs, question.probability)
    least_change, largest_change = (-1.0 if question.relative else -np.inf), np.inf
    last = pairs.count_within(alpha) - 1
    if last < 0:
        return least_change, largest_change
    # Indices of the ranks: in the arm whose quantile is claimed to be above that of the other, and in that other arm.
    x, y = pairs.of_x[last] - 1, pairs.of_y[last] - 1

    def find_change(candidate: float, baseline: float, unknown: float) -> float:
        """Return the change from the baseline; `unknown` between two failed requests."""
        if np.isinf(candidate) and np.isinf(baseline):
            return unknown
        if not question.relative:
            return candidate - baseline
        return candidate / baseline - 1 if baseline > 0 else largest_change

    # Claimed is that the candidate is above the baseline, and for the other end that the baseline is above.
    lower = find_change(candidate_low[x], baseline_high[y], unknown=least_change)
    upper = find_change(candidate_high[y], baseline_low[x], unknown=largest_change)
    return lower, upper


def _answer_limit(times: RunTimes, sign: float, bound_ms: float, probability: float) -> GroupAnswers:
    """Test the candidate's own quantile against a limit (ms) by the binomial distribution.

    `sign` is 1 for a maximum, -1 for a minimum.
    """
    from scipy.special import bdtr, bdtrc

    low, high = times.low[1], times.high[1]
    p_above = float(bdtr(_count(low <= bound_ms), times.runs, probability))
    count_below = _count(high < bound_ms)
    p_below = float(bdtrc(count_below - 1, times.runs, probability)) if count_below else 1.0
    p_worse, p_within = (p_above, p_below) if sign > 0 else (p_below, p_above)
    beyond = sign * (find_sample_quantile(times.middle[1], probability) - bound_ms)
    return GroupAnswers(np.array([beyond]), np.array([p_worse]), np.array([p_within]))


def _count(condition: BoolArray) -> int:
    """Count the true elements."""
    return int(np.count_nonzero(condition))
