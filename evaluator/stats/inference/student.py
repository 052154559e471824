"""Student's t, loaded late: `scipy.special` costs more than everything else on the way to a verdict."""

from __future__ import annotations

from importlib import import_module
from threading import Thread

import numpy as np

from evaluator.records.arrays import FloatArray


def load_early() -> None:
    """Load what the quantiles come from, in a thread, while something else is waited for."""
    Thread(target=import_module, args=("scipy.special",), daemon=True).start()


def t_below(t: FloatArray | float, df: FloatArray | float) -> FloatArray:
    """P(T ≤ t) with `df` degrees of freedom; infinite df is the normal distribution. NaN stays NaN.

    >>> round(float(t_below(2.353363, 3)), 4)
    0.95
    """
    from scipy.special import stdtr

    return np.asarray(stdtr(np.minimum(np.asarray(df, float), 1e9), np.asarray(t, float)))


def t_quantile(probability: FloatArray | float, df: FloatArray | float) -> FloatArray:
    """The value that T stays below with this probability.

    >>> round(float(t_quantile(0.95, 3)), 4)
    2.3534
    """
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.minimum(np.asarray(df, float), 1e9), np.asarray(probability, float)))


def critical_value(z: float, df: float) -> float:
    """The boundary `z` of a normal statistic for one that is t with `df` degrees of freedom."""
    from scipy.special import ndtr

    return -float(t_quantile(float(ndtr(-z)), df))
