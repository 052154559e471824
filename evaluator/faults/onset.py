"""Since when: the change point of a fault, if it is known to a minute or two; from the start; or a slow growth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.records.faults import OnsetKind

TOLERANCE_S = 60.0
"""The time that is named is the one within so many seconds of which the onset lies most probably."""
LEAST_AT_START = 0.9
"""Least probability of an onset so near the start, for "from the start"."""
LEAST_LEAD = 1.0
"""Log likelihood by which a step must explain a fault better than a slow growth."""
START_ODDS = 20.0
"""Prior odds of the very start against any other slot: most faults of a version are there from its start."""


LEAST_OF_RANGE = 0.98
"""Probability of the range of an onset."""
WIDEST_RANGE = 0.25
"""Share of the run; an onset with a wider range (and one of more than two minutes) is not known."""


@dataclass(frozen=True, slots=True)
class Onset:
    """When a fault began; times are seconds since the first judged slot of each run."""

    kind: OnsetKind
    elapsed_s: float | None = None
    """Only of a step, as the other two."""
    earliest_s: float | None = None
    latest_s: float | None = None
    """Its range."""


NOT_KNOWN = Onset("not_known")


def find_onset(gains: FloatArray, growth: float, slot_s: float, steps_s: FloatArray | None = None) -> Onset:
    """Find the onset from the log likelihood ratio of a step at each slot, shape (slots,), and of a slow growth.

    `steps_s`: the time of the step at each slot; `None`: its begin. All slots are as likely before, but the first.
    """
    log_odds = gains.copy()
    log_odds[0] += np.log(START_ODDS)
    chances = np.exp(log_odds - log_odds.max())
    chances /= chances.sum()
    times_s = np.arange(gains.size) * slot_s if steps_s is None else steps_s
    at_start = chances[times_s <= TOLERANCE_S].sum()
    if at_start >= LEAST_AT_START and chances[0] >= at_start / 2:
        return Onset("start") if gains[0] > growth else Onset("growth")
    if growth > gains.max() - LEAST_LEAD:
        return Onset("growth") if growth >= gains.max() else NOT_KNOWN
    order = np.argsort(times_s, kind="stable")
    sorted_s, cumulated = times_s[order], np.cumsum(chances[order])

    def find_quantile(chance: float) -> float:
        """Return the time before which the onset lies with this probability."""
        return float(sorted_s[min(int(np.searchsorted(cumulated, chance)), sorted_s.size - 1)])

    # The likeliest two minutes; of equally likely ones those around the median.
    median_s = find_quantile(0.5)
    middles_s = np.concatenate([[median_s], times_s, times_s + TOLERANCE_S, times_s - TOLERANCE_S])
    first = np.searchsorted(sorted_s, middles_s - TOLERANCE_S - 1e-6)
    after = np.searchsorted(sorted_s, middles_s + TOLERANCE_S + 1e-6)
    before = np.concatenate([[0.0], cumulated])
    near = before[after] - before[first]
    as_likely = np.flatnonzero(near >= near.max() - 0.005)
    best = as_likely[np.argmin(np.abs(middles_s[as_likely] - median_s))]
    earliest_s = find_quantile((1 - LEAST_OF_RANGE) / 2)
    latest_s = find_quantile((1 + LEAST_OF_RANGE) / 2) + slot_s
    if latest_s - earliest_s > max(WIDEST_RANGE * gains.size * slot_s, 2 * TOLERANCE_S):
        return NOT_KNOWN
    elapsed_s = min(max(float(middles_s[best]), 0.0), latest_s)
    # The slot before the earliest may contain a part of the fault.
    return Onset("step", elapsed_s, max(min(earliest_s, elapsed_s) - slot_s, 0.0), latest_s)
