"""Since when: the change point of a fault, as a minute or a range; from the start; or a slow growth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from evaluator.records.arrays import FloatArray
from evaluator.records.faults import OnsetKind

TOLERANCE_S = 60.0
"""The time that is named is the one within so many seconds of which the onset lies most probably."""
LEAST_NEAR = 0.5
"""Least probability of that, for a time to be named; else the range alone is."""
LEAST_AT_START = 0.9
"""Least probability of an onset so near the start, for "from the start"."""
CHANCE_OF_START = 0.2
"""Probability of the very start before the data are seen: many faults of a version are there from its start."""
LEAST_LEAD = 1.0
"""Log odds by which a step must explain a fault better than a slow growth."""
LEAST_OF_RANGE = 0.98
"""Probability of the range of an onset."""
WIDEST_RANGE = 0.5
"""Share of the run; an onset with a wider range (and one of more than two minutes) is not known."""


@dataclass(frozen=True, slots=True)
class Onset:
    """When a fault began; times are seconds since the first judged slot of each run."""

    kind: OnsetKind
    elapsed_s: float | None = None
    """Only of a step, as the others."""
    earliest_s: float | None = None
    latest_s: float | None = None
    """Its range."""
    is_near: bool = True
    """Is it probable that the onset is within a minute of `elapsed_s`?"""


NOT_KNOWN = Onset("not_known")


def find_onset(steps: FloatArray, growth: float, cell_s: float, chance_of_growth: float) -> Onset:
    """Find the onset from the log likelihoods of a step in each cell of the run, shape (cells,), and of a slow growth.

    Both are means over what is not known of the fault, such as its size. `cell_s`: length of a cell. Before the data
    are seen, a growth has the probability `chance_of_growth`, and all times of a step are as likely, but the start.
    """
    end_s = steps.size * cell_s
    log_odds = np.append(
        steps - math.log(steps.size) + math.log(1 - CHANCE_OF_START), steps[0] + math.log(CHANCE_OF_START)
    )
    evidence = float(logsumexp(log_odds))
    *chances, of_start = np.exp(log_odds - evidence).tolist()
    edges_s, cumulated = np.arange(steps.size + 1) * cell_s, np.cumsum([of_start, *chances])

    def find_chance(until_s: FloatArray | float) -> FloatArray:
        """Return the probability of an onset before a time."""
        return np.asarray(np.interp(until_s, edges_s, cumulated, left=0.0))

    def find_quantile(chance: float) -> float:
        """Return the time before which the onset lies with this probability."""
        return float(np.interp(chance, cumulated, edges_s))

    lead_of_growth = growth + math.log(chance_of_growth / (1 - chance_of_growth)) - evidence
    at_start = float(find_chance(max(TOLERANCE_S, cell_s)))
    if at_start >= LEAST_AT_START and of_start >= at_start / 2:
        return Onset("start") if lead_of_growth < 0 else Onset("growth")
    if lead_of_growth > -LEAST_LEAD:
        return Onset("growth") if lead_of_growth >= 0 else NOT_KNOWN
    earliest_s = find_quantile((1 - LEAST_OF_RANGE) / 2)
    latest_s = find_quantile((1 + LEAST_OF_RANGE) / 2)
    if latest_s - earliest_s > max(WIDEST_RANGE * end_s, 2 * TOLERANCE_S):
        return NOT_KNOWN
    # The likeliest two minutes; of equally likely ones those around the median.
    median_s = find_quantile(0.5)
    middles_s = np.concatenate([[median_s], edges_s, edges_s + TOLERANCE_S, edges_s - TOLERANCE_S])
    near = find_chance(middles_s + TOLERANCE_S) - find_chance(middles_s - TOLERANCE_S)
    as_likely = np.flatnonzero(near >= near.max() - 0.005)
    best = as_likely[np.argmin(np.abs(middles_s[as_likely] - median_s))]
    elapsed_s = min(max(float(middles_s[best]), earliest_s), latest_s)
    return Onset("step", elapsed_s, earliest_s, latest_s, is_near=bool(near[best] >= LEAST_NEAR))
