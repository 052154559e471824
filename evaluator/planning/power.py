"""Power: the probability that a test rejects, given a true shift.

Source: a shift divided by its standard error of `df` degrees of freedom is noncentral t (Johnson, Kotz & Balakrishnan
1995, Continuous Univariate Distributions 2, chapter 31). statsmodels computes the power.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from evaluator.extensions import explain_missing_package
from evaluator.records.arrays import FloatArray
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.inference.sequential import (
    GRID,
    PERSISTENT_SHARES,
    TUNE_AT_S,
    anytime_z,
    boundaries,
    information,
    spent,
)
from evaluator.stats.inference.student import critical_value, t_below, t_quantile

NORMAL_FROM = 1e4
"""Degrees of freedom from which the normal distribution is used."""
FARTHEST = 35.0
"""Largest noncentrality: beyond it the power is 0 or 1."""


def find_power(shift: float, se: float, df: float, critical: float, *, null_se: float | None = None) -> float:
    """Return the power: the probability that the estimate lies more than `critical` standard errors above the bound.

    Args:
        shift: Distance of the truth beyond the bound.
        se: Standard error of the estimate.
        df: Its degrees of freedom.
        critical: Standard errors that the test requires.
        null_se: Standard error that the test uses, if it is not that of the estimate: a score test takes the standard
            error at the bound.

    Raises UsageError without statsmodels.

    >>> round(find_power(0.1, 0.04, 6, 1.9432), 3)
    0.713
    """
    from scipy.special import ndtr

    with explain_missing_package("planning needs", "stats"):
        from statsmodels.stats.power import ttest_power
    if not se > 0:  # without error the answer is certain
        return float(shift > 0)
    critical_in_se = critical if null_se is None else critical * (null_se / se)  # in standard errors of the estimate
    if df >= NORMAL_FROM:
        return float(ndtr(shift / se - critical_in_se))
    noncentrality = float(np.clip(shift / se, -FARTHEST, FARTHEST))
    level = float(t_below(-critical_in_se, df))  # of the test whose critical value this is
    # With one observation, the effect size of statsmodels is the noncentrality.
    return float(np.clip(ttest_power(noncentrality, 1, level, df=df, alternative="larger"), 0.0, 1.0))


@lru_cache(maxsize=512)
def worst_z(level: float, between_instance: float) -> tuple[float, ...]:
    """Return the boundaries on Z that show a release to be worse, at each `GRID`th of the duration, shape (`GRID`,).

    `level`: error rate of all looks together. `between_instance`: share of the final variance that time does not
    shrink; rounded to a share with a stored table.
    """
    # `information`: 1 / variance of an estimate after each fraction of the duration, relative to that at the end.
    # `spent`: how much of the error rate the looks until then may use, here in proportion to time ("linear").
    share = float(PERSISTENT_SHARES[np.argmin(np.abs(PERSISTENT_SHARES - between_instance))])
    fraction = np.arange(1, GRID + 1) / GRID
    return tuple(boundaries(information(fraction, share), spent("linear", level, fraction)))


def find_criticals(
    calendar: Calendar, at_s: FloatArray, level: float, df: FloatArray, between_instance: FloatArray
) -> FloatArray:
    """Return how many standard errors each look needs to show a release to be worse at `level`, shape (looks,).

    `level`: error rate of all looks together. `at_s`: seconds of data, the last one at the planned end; `df`: degrees
    of freedom of the standard error; `between_instance`: share of its variance that time does not shrink. All have
    shape (looks,).
    """
    if calendar.kind == "fixed":
        return np.asarray(t_quantile(1 - level, df))
    if calendar.kind == "group_sequential":
        # The last step of the grid before each look; 1e-9 for rounding errors.
        steps = np.clip(np.floor(at_s / at_s[-1] * GRID + 1e-9).astype(int), 1, GRID) - 1
        boundaries_z = np.array(worst_z(level, float(between_instance[-1])))[steps].tolist()
    else:  # "anytime": a boundary that holds at any time, by the seconds of data
        looks = zip(at_s.tolist(), between_instance.tolist(), strict=True)
        boundaries_z = [float(anytime_z(level, seconds, TUNE_AT_S, share)) for seconds, share in looks]
    # Boundaries are for normal errors: with few degrees of freedom more standard errors are needed.
    return np.array([critical_value(z, df_of_look) for z, df_of_look in zip(boundaries_z, df.tolist(), strict=True)])
