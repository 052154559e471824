"""Student's t. `scipy.special` is imported late, because it takes longer than everything else before a verdict."""

from __future__ import annotations

from importlib import import_module
from threading import Thread

import numpy as np

from evaluator.records.arrays import FloatArray


def load_early() -> None:
    """Import `scipy.special` in a thread while the process waits for something else."""
    Thread(target=import_module, args=("scipy.special",), daemon=True).start()


def t_below(t: FloatArray | float, df: FloatArray | float) -> FloatArray:
    """Return P(T ≤ t) with `df` degrees of freedom; infinite `df` is the normal distribution. NaN stays NaN.

    >>> round(float(t_below(2.353363, 3)), 4)
    0.95
    """
    from scipy.special import stdtr

    # With 1e9 degrees of freedom, t is the normal distribution; scipy needs a finite number.
    return np.asarray(stdtr(np.minimum(np.asarray(df, float), 1e9), np.asarray(t, float)))


def t_quantile(probability: FloatArray | float, df: FloatArray | float) -> FloatArray:
    """Return the value that T does not exceed with this probability, with `df` degrees of freedom.

    Infinite `df` is the normal distribution.

    >>> round(float(t_quantile(0.95, 3)), 4)
    2.3534
    """
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.minimum(np.asarray(df, float), 1e9), np.asarray(probability, float)))


def critical_value(z: float, df: float) -> float:
    """Return the value that a t statistic exceeds as often as a normal variable exceeds `z`.

    The t statistic has `df` degrees of freedom.
    """
    from scipy.special import ndtr

    return -float(t_quantile(float(ndtr(-z)), df))
