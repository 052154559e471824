"""What all figure data share: how many points there may be, and how numbers become plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

MOST_POINTS = 200
MOST_UNITS = 40
SIGNIFICANT_DIGITS = 5


def round_value(value: float | None) -> float | None:
    """Round a number to five significant digits; None, NaN and infinities become `None`, since JSON has no others."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def round_values(values: Iterable[float]) -> list[float | None]:
    """Round each number as `round_value` does."""
    return [round_value(float(value)) for value in values]


def choose_evenly(count: int, max_count: int) -> npt.NDArray[np.int64]:
    """Choose at most `max_count` (2 or more) of the indexes 0 to `count` - 1, evenly spaced, with the first and last.

    >>> choose_evenly(10, 3).tolist(), choose_evenly(2, 5).tolist()
    ([0, 4, 9], [0, 1])
    """
    if not count:
        return np.zeros(0, np.int64)
    return np.unique(np.linspace(0, count - 1, min(count, max_count)).astype(np.int64))
