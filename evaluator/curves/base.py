"""What all curves share: how many points there may be, and how numbers become plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluator.metrics.base import Pair
from evaluator.metrics.measure import Pairs
from evaluator.records import Comparison, EvidenceKind, Role
from evaluator.stats.calendar import Calendar
from evaluator.stats.window import WarmUp

__all__ = ["MOST_POINTS", "MOST_UNITS", "Scope", "identify", "is_drawn", "plain", "round_all", "spread"]

MOST_POINTS = 200
MOST_UNITS = 40
DIGITS = 5


@dataclass(frozen=True, slots=True)
class Scope:
    """What was judged, laid out as the judge had it."""

    pairs: Pairs
    warm_up: WarmUp
    calendar: Calendar

    def whole(self, arm: str, endpoint: str | None, before_bucket: int | None = None) -> Pair | None:
        """Both arms of a candidate and endpoint, before this bucket, with every interval asked for."""
        pair = self.pairs.at(arm, endpoint, before_bucket)
        return None if pair is None else replace(pair, depth="full")


def is_drawn(row: Comparison) -> bool:
    """Has this comparison curves of its own? Gates and holds on requests, where there is data."""
    asked = row.rule.role is not Role.WATCH and not row.scan and row.rule.evidence is EvidenceKind.REQUESTS
    return asked and row.effect is not None


def identify(row: Comparison) -> dict[str, Any]:
    """Name a comparison, as the verdict's JSON does."""
    return {"name": row.rule.name, "arm": row.arm, "endpoint": row.rule.slice.endpoint}


def plain(value: float | None) -> float | None:
    """A number with five significant digits; nothing where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def round_all(values: Iterable[float]) -> list[float | None]:
    """Numbers with five significant digits; nothing where one is not finite."""
    return [plain(float(value)) for value in values]


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of `count` things, evenly, the last among them.

    >>> spread(10, 3).tolist(), spread(2, 5).tolist()
    ([0, 4, 9], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.zeros(0, np.int64)
