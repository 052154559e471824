"""What a check of readings sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from evaluator.records import Comparison, Finding, ReadingCells, Rulebook
from evaluator.stats.reading_panels import ReadingView, Stretch

__all__ = ["END_STEPS", "TOLERATED", "ReadingCheck", "ReadingScene", "name_some", "show_clock", "show_command"]

NAMED = 3

TOLERATED = 0.02
"""Share of the time for which an arm may be silent without a word."""

END_STEPS = 2.5
"""Scrape intervals after the last sample that the scraping itself explains: one that is late, and one that failed."""


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


def show_command(scene: ReadingScene, start_ms: float, end_ms: float) -> str:
    """The command that collects this time only."""
    times = (f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" for ms in (start_ms, end_ms))
    return "evaluator collect {} --from {} --to {}".format(scene.release, *times)


def show_clock(ms: float) -> str:
    """A moment (ms) as people read it."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
