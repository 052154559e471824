"""What a check of readings sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluator.records import Comparison, Finding, ReadingCells, Rulebook
from evaluator.stats.reading_panels import ReadingView, Stretch

__all__ = ["ReadingCheck", "ReadingScene", "name_some"]

NAMED = 3


@dataclass(frozen=True, slots=True)
class ReadingScene:
    """Everything around a comparison of readings."""

    release: str
    readings: ReadingCells
    """All that was collected."""
    view: ReadingView
    """The part in the time that is judged."""
    rulebook: Rulebook
    seconds: float
    """Length of that time."""
    comparisons: tuple[Comparison, ...]
    client: tuple[Comparison, ...] = ()
    """What the load beside it saw."""
    targets: ReadingCells | None = None
    """Whether each target of the arms answered its scrapes (`up`); `None`: nobody asked."""
    shared_instances: tuple[str, ...] = ()
    """Instances that counted both arms, though in series of their own: proxies."""
    stretches: tuple[Stretch, ...] = ()
    """When the load beside it was judged; empty: there was none."""


ReadingCheck = Callable[[ReadingScene], Iterable[Finding]]
"""A check yields what it saw; nothing when it does not apply."""


def name_some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
