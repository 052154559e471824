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
FARTHEST = 35.0


def find_power(shift: float, se: float, df: float, critical: float, *, null_se: float | None = None) -> float:
    """Probability that the estimate lies more than `critical` standard errors above the bound.

    `shift`: distance of the truth beyond the bound. `null_se`: standard error that the test uses, if it is not that of
    the estimate (a score test takes the one at the bound). Raises UsageError without statsmodels.

    >>> round(find_power(0.1, 0.04, 6, 1.9432), 3)
    0.713
    """
    from scipy.special import ndtr

    with explain_missing_package("planning needs", "stats"):
        from statsmodels.stats.power import ttest_power
    if not se > 0:
        return float(shift > 0)
    factor = 1.0 if null_se is None else null_se / se
    if df >= NORMAL_FROM:
        return float(ndtr(shift / se - critical * factor))
    away = float(np.clip(shift / se, -FARTHEST, FARTHEST))
    level = float(t_below(-critical * factor, df))
    return float(np.clip(ttest_power(away, 1, level, df=df, alternative="larger"), 0.0, 1.0))


@lru_cache(maxsize=512)
def worst_z(level: float, between_instance: float) -> tuple[float, ...]:
    """Boundaries on Z that show a release to be worse, at each `GRID`th of the duration.

    `between_instance`: share of the final variance that time does not shrink.
    """
    share = float(PERSISTENT_SHARES[np.argmin(np.abs(PERSISTENT_SHARES - between_instance))])
    fraction = np.arange(1, GRID + 1) / GRID
    return tuple(boundaries(information(fraction, share), spent("linear", level, fraction)))


def find_criticals(
    calendar: Calendar, at_s: FloatArray, level: float, df: FloatArray, between_instance: FloatArray
) -> FloatArray:
    """How many standard errors each look needs to show a release to be worse at `level`, shape (looks,).

    `at_s`: seconds of data, the last one at the planned end; `df`: degrees of freedom of the standard error;
    `between_instance`: share of its variance that time does not shrink. All have shape (looks,).
    """
    if calendar.kind == "fixed":
        return np.asarray(t_quantile(1 - level, df))
    if calendar.kind == "group_sequential":
        steps = np.clip(np.floor(at_s / at_s[-1] * GRID + 1e-9).astype(int), 1, GRID) - 1
        reach = np.array(worst_z(level, float(between_instance[-1])))[steps].tolist()
    else:
        looks = zip(at_s.tolist(), between_instance.tolist(), strict=True)
        reach = [float(anytime_z(level, s, TUNE_AT_S, share)) for s, share in looks]
    return np.array([critical_value(z, d) for z, d in zip(reach, df.tolist(), strict=True)])
