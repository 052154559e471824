"""Shares and medians of simulated releases, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import binom, binomtest

__all__ = ["State", "Tally", "Times", "judge_at_least", "judge_at_most", "judge_median", "tally", "worst"]

State = Literal["yes", "no", "no?", "open"]
"""Reached; missed; missed, but chance could explain it; reached until now, with too few releases to be sure."""


@dataclass(frozen=True, slots=True)
class Tally:
    """`hits` of `n` releases."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        """Point estimate; NaN without releases."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        if not self.n:
            return 0.0, 1.0
        found = binomtest(self.hits, self.n).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        if not self.n:
            return "–"
        low, high = self.interval
        return f"{_percent(self.share)} [{_percent(low)}–{_percent(high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def tally(answers: Iterable[bool | None]) -> Tally:
    """Count the answers that are true; `None` is no answer and does not count."""
    given = [answer for answer in answers if answer is not None]
    return Tally(sum(given), len(given))


@dataclass(frozen=True, slots=True)
class Times:
    """Minutes until detection of each release; infinite without detection."""

    minutes: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over all releases, detected or not; infinite if half were not detected."""
        ordered = sorted(self.minutes)
        return ordered[(len(ordered) - 1) // 2] if ordered else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the median between two order statistics."""
        ordered, n = sorted(self.minutes), len(self.minutes)
        if not n:
            return math.inf, math.inf
        low, high = (int(binom.ppf(level, n, 0.5)) for level in (0.025, 0.975))
        return ordered[max(low - 1, 0)], ordered[min(high, n - 1)]

    def __str__(self) -> str:
        if not self.minutes or math.isinf(self.median):
            return "–"
        low, high = (("∞" if math.isinf(end) else f"{end:.0f}") for end in self.interval)
        return f"{self.median:.0f} [{low}–{high}]"


def judge_at_most(found: Tally, limit: float, upper: float | None = None) -> State:
    """Is the share at most `limit`, and the upper end of its interval below `upper`?"""
    low, high = found.interval
    if found.share > limit + 1e-12:
        return "no" if low > limit else "no?"
    return "yes" if upper is None or high < upper else "open"


def judge_at_least(found: Tally, limit: float) -> State:
    """Is the share at least `limit`?"""
    if found.share >= limit - 1e-12:
        return "yes"
    return "no" if found.interval[1] < limit else "no?"


def judge_median(found: Times, limit: float) -> State:
    """Is the median time at most `limit` minutes?"""
    if found.median <= limit:
        return "yes"
    return "no" if found.interval[0] > limit else "no?"


def worst(states: Sequence[State]) -> State:
    """Return the state of a row that sums up other rows: the worst of their states."""
    order: tuple[State, ...] = ("no", "no?", "open", "yes")
    return next((state for state in order if state in states), "open")
