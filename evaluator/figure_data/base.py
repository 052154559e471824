"""What all figure data share: how many points there may be, and how numbers become plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

MOST_POINTS = 200
MOST_UNITS = 40
DIGITS = 5


def plain(value: float | None) -> float | None:
    """A number with five significant digits; `None` where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def round_all(values: Iterable[float]) -> list[float | None]:
    """Numbers with five significant digits; `None` where one is not finite."""
    return [plain(float(value)) for value in values]


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of `count` things, evenly, the last among them.

    >>> spread(10, 3).tolist(), spread(2, 5).tolist()
    ([0, 4, 9], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.zeros(0, np.int64)
