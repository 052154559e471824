"""Long-run variance of a time series of influence values (method B.3, time).

Requests in adjacent buckets are not independent, so the variance of a mean over time is not Var/n. The equal-weighted
cosine estimator projects the series on a few slow cosines and averages the squares. The average is close to χ² with as
many degrees of freedom as cosines, so that the t quantile is right in short runs too.

Source: Lazarus, Lewis, Stock, Watson (2018), "HAR Inference: Recommendations for Practice", JBES 36(4), section 3.
The number of cosines is .3·G^(2/3) instead of their .4, because load tests drift slowly. It is at least seven, the
degrees of freedom of the eight batches of shorter series. With four, which the formula gives for 40 buckets, a test at
1 % rejected 0.2 % of identical simulated releases after ten minutes; with seven, 0.3 to 1.0 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluator.records.arrays import FloatArray

MIN_BUCKETS = 8
"""With fewer usable buckets, the variation over time is unknown."""

BATCH_BELOW = 30
"""With fewer buckets, eight batch means with 7 degrees of freedom replace the cosines."""

BATCHES = 8


@dataclass(frozen=True, slots=True)
class TimeVariance:
    """Variance of the mean of each series (in the shape of the leading axes) and its degrees of freedom."""

    variance: FloatArray
    df: float
    independent: FloatArray
    """The variance if the buckets were independent: a lower bound, estimated from all of them."""
    buckets: int
    """Length of the series."""


def cosine_count(buckets: int) -> int:
    """Return the number of cosines for a series of `buckets` values: 0.3 · buckets^(2/3), at least seven."""
    return max(BATCHES - 1, round(0.3 * float(buckets ** (2 / 3))))


@lru_cache(maxsize=64)
def cosines(buckets: int, count: int) -> FloatArray:
    """Return orthonormal cosines with 1 … `count` half-waves over the series, shape (count, buckets)."""
    time = (np.arange(buckets) + 0.5) / buckets
    half_waves = np.arange(1, count + 1)[:, None]
    return np.asarray(np.sqrt(2 / buckets) * np.cos(np.pi * half_waves * time))


def time_variance(influence: FloatArray) -> TimeVariance:
    """Estimate the variance of the mean of `influence` over its last axis, with dependence in time.

    `influence` has shape (..., buckets) and mean 0 up to rounding. With fewer than `MIN_BUCKETS` values the variance
    is NaN.

    >>> import numpy as np
    >>> white = np.random.default_rng(1).normal(size=(2000, 240))
    >>> round(float(time_variance(white).variance.mean() * 240), 2)
    1.0
    """
    buckets = influence.shape[-1]
    if buckets < MIN_BUCKETS:
        unknown = np.full(influence.shape[:-1], np.nan)
        return TimeVariance(variance=unknown, df=1.0, independent=unknown, buckets=buckets)
    scores = time_scores(influence)
    # `scores` are those of cosines, or of batches in a short series. Batches have one degree of freedom less than there
    # are batches, because their mean is subtracted.
    df = BATCHES - 1 if buckets < BATCH_BELOW else scores.shape[-1]
    independent = influence.var(axis=-1, ddof=1) / buckets  # as if buckets were independent
    variance = (scores**2).sum(axis=-1)
    return TimeVariance(variance, float(df), independent, buckets)


def time_scores(influence: FloatArray) -> FloatArray:
    """Split the error of a mean over time into contributions of cosines, or of batches if there are few buckets.

    Neighbouring buckets are alike, so they are no independent observations; slow cosines and long batches nearly are.
    `influence` has the shape (..., buckets). Returns shape (..., cosines): the sum of squares is the variance of the
    mean.
    """
    buckets = influence.shape[-1]
    if buckets < BATCH_BELOW:
        starts = np.arange(BATCHES) * buckets // BATCHES
        sizes = np.diff(np.append(starts, buckets))
        means = np.add.reduceat(influence, starts, axis=-1) / sizes
        deviations = means - influence.mean(axis=-1, keepdims=True)
        # The factor corrects the variance for the mean that is subtracted.
        return np.asarray(sizes / buckets * deviations * np.sqrt(BATCHES / (BATCHES - 1)))
    count = cosine_count(buckets)
    return np.asarray(influence @ cosines(buckets, count).T / np.sqrt(count * buckets))
