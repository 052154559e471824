"""Every rule on readings, put to every candidate arm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from evaluator.metrics.base import no_data
from evaluator.metrics.reading_base import ReadingMetric, ReadingPair
from evaluator.records import CANDIDATE, Comparison, EvidenceKind, Role, Rulebook
from evaluator.stats.estimate import Depth
from evaluator.stats.reading_panels import ReadingView

__all__ = ["ReadingPairs", "has_reading_rules", "measure_readings", "without_readings"]


@dataclass(frozen=True, slots=True)
class ReadingPairs:
    """The readings that count, and what has been laid out of them so far."""

    view: ReadingView
    rulebook: Rulebook
    laid: dict[Any, Any] = field(default_factory=dict)

    def at(self, arm: str, before_s: float | None) -> ReadingPair:
        """Baseline and one candidate as they were before this moment (all of it: `None`)."""
        depth: Depth = "full"
        if before_s is not None:
            depth = "answers" if self.rulebook.monitoring.early_go else "suspects"
        book = self.rulebook
        return ReadingPair(self.view, arm, book.alpha, book.prior, self.laid, before_s, depth)


def has_reading_rules(rulebook: Rulebook) -> bool:
    """Does the policy ask a metrics server at all?"""
    return bool(rulebook.on(EvidenceKind.READINGS))


def measure_readings(pairs: ReadingPairs, *, before_s: float | None = None) -> tuple[Comparison, ...]:
    """Compare every candidate with the baseline. `before_s`: an earlier look, which asks gates (and holds) only."""
    rules = pairs.rulebook.rules
    if before_s is not None:
        roles = {Role.GATE, Role.HOLD} if pairs.rulebook.monitoring.early_go else {Role.GATE}
        rules = tuple(rule for rule in rules if rule.role in roles)
    arms = pairs.view.readings.arms[1:]
    asked = ReadingMetric.among(rules)
    compared = [metric.compare(pairs.at(arm, before_s), rule) for arm in arms for metric, rule in asked]
    return _share_errors(compared)


def _share_errors(compared: list[Comparison]) -> tuple[Comparison, ...]:
    """Keep the loadings of comparisons of the same instances over the same buckets: only these are alike in place.

    Candidates of an A/B/n test are taken for independent, which asks more of each than what they share would.
    """
    alike: dict[tuple[str, tuple[int, int], int], int] = {}
    for comparison in compared:
        if comparison.loadings:
            key = _likeness(comparison)
            alike[key] = alike.get(key, 0) + 1
    most = max(alike, key=alike.__getitem__, default=None)
    return tuple(c if _likeness(c) == most else replace(c, loadings=()) for c in compared)


def _likeness(comparison: Comparison) -> tuple[str, tuple[int, int], int]:
    return comparison.arm, comparison.instances, len(comparison.loadings)


def without_readings(rulebook: Rulebook, release: str, arms: tuple[str, ...], why: str = "") -> tuple[Comparison, ...]:
    """The answers where there are no readings at all."""
    cause = why or f"no readings were collected: `evaluator collect {release}`"
    rules = rulebook.on(EvidenceKind.READINGS)
    return tuple(no_data(rule, arm, cause) for arm in arms or (CANDIDATE,) for rule in rules)
