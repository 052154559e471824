"""An assumed difference between instances that is wider than the distribution of times (method B.3a).

With one instance on each arm, the instances are assumed to differ by some percent. Usually this is converted to a share
of requests by the slope of the distribution. If all times lie within a few percent, the slope is so steep that the
assumed difference becomes as large as all requests, and no harm could be shown, however large. Then the difference is
kept as a shift of times: harm is shown if it is shown at a bound that is moved by a shift that is rarely exceeded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.stats.inference.student import t_quantile
from evaluator.stats.variance.history import add_between_arms, convert_history
from evaluator.stats.variance.uncertainty import PRIOR_DF, Design

SHARE_OF_SHIFT = 0.9
"""Share of the error rate for a shift that is larger than assumed; the rest is for the test at the moved bound. Most of
the uncertainty is in the shift, because the distribution is narrow."""
LARGEST_SHIFT = 25.0
LOWEST_LEVEL, HIGHEST_LEVEL, LEVELS = 1e-4, 0.5, 26


@dataclass(frozen=True, slots=True)
class AssumedShift:
    """The assumed difference of log times between instances: Student's t with `df` degrees of freedom, times `sd`."""

    sd: float
    df: float

    def at(self, levels: FloatArray | float) -> FloatArray:
        """Return the shift of log time that is exceeded with the shift's part of the probability `levels`.

        It is at most `LARGEST_SHIFT`: no recorded time, only a failed request, is beyond a bound that is moved so far.
        """
        shift = self.sd * t_quantile(1 - SHARE_OF_SHIFT * np.asarray(levels), self.df)
        return np.asarray(np.minimum(shift, LARGEST_SHIFT))

    def hides(self, slope: float, largest_share: float, alpha: float) -> bool:
        """Is the shift as large as all requests, so that its conversion to a share leaves nothing to show?

        Args:
            slope: Change of the share of requests done with the logarithm of time.
            largest_share: Largest difference of shares: of all requests up to the quantile, or beyond it.
            alpha: One-sided level.
        """
        return bool(self.sd * slope * t_quantile(1 - alpha, self.df) >= largest_share)


def assume_shift(design: Design, sd_instance: float, arms: tuple[int, ...] = (0, 1)) -> AssumedShift | None:
    """Return the assumed difference of log times, of both arms together or of one; `None` if instances are measured.

    `sd_instance` is the assumed relative standard deviation of one instance; `arms` are those of the estimate.
    """
    if design.kind != "single" or max(design.instances) > 1:
        return None
    by_arm = design.assume_variance(np.array([sd_instance]))  # shape (2, 1)
    variance, df = by_arm[list(arms)].sum(axis=0), np.array([PRIOR_DF])
    history = convert_history(design.latency, np.ones(1))
    if history is not None:
        variance, df, _ = add_between_arms(variance, df, history, arms=len(arms))
    return AssumedShift(float(np.sqrt(variance[0])), float(df[0]))


def list_levels(alpha: float) -> FloatArray:
    """List the levels at which claims are tested, rising: a p-value is rounded up to one of them.

    One of them is just below `alpha`, so that the answer at this level agrees with the interval.
    """
    return np.union1d(np.geomspace(LOWEST_LEVEL, HIGHEST_LEVEL, LEVELS), [alpha * (1 - 1e-9)])


def find_p_value(p_at_moved_bounds: FloatArray, levels: FloatArray) -> float:
    """Return the p-value of a claim from the p-values of its test at the bounds moved by `AssumedShift.at(levels)`.

    A claim holds at a level if its test at the moved bound has a p-value of at most the test's part of the level. It is
    wrong only if the shift is exceeded or the test is wrong, so with at most the sum of both parts. Returns the lowest
    level at which it holds, or 1.
    """
    holds = p_at_moved_bounds <= (1 - SHARE_OF_SHIFT) * levels
    return float(levels[np.argmax(holds)]) if holds.any() else 1.0
