"""What a health check sees, and the one shape of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from evaluator.records import (
    ArmRows,
    Cells,
    Comparison,
    EvidenceKind,
    Finding,
    Level,
    Outcomes,
    ReadingCells,
    Rulebook,
    Run,
)
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.outcomes.looks import LookPrice
from evaluator.stats.shaping.in_flight import Settled
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import ReadingView, RunInterval
from evaluator.stats.shaping.silence import measure_clusters
from evaluator.stats.shaping.window import WarmUp
from evaluator.stats.variance.uncertainty import Design

TOLERATED = 0.02
"""Share of the time for which an arm may be silent without a word."""

END_STEPS = 2.5
"""Scrape intervals after the last sample that the scraping itself explains: one that is late, and one that failed."""

NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every check sees, whatever kind of evidence it is of."""

    kind: ClassVar[EvidenceKind]
    release: str
    rulebook: Rulebook
    runs: tuple[Run, ...] = ()
    calendar: Calendar
    comparisons: tuple[Comparison, ...] = ()
    """Of this kind of evidence; empty before it was measured."""
    covered_s: float = 0.0
    """From the start to the end of the time that is judged; 0 where there is no clock."""

    def with_comparisons(self, comparisons: tuple[Comparison, ...]) -> Self:
        """The same after it was measured."""
        return replace(self, comparisons=comparisons)


@dataclass(frozen=True, slots=True)
class JudgedFailures:
    """How often the judged requests of an arm failed."""

    requests: int = 0
    failures: int = 0
    together: float = 1.0
    """How many failures come together: in bursts, as many say as much as one that comes alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext(Context):
    """What the checks of requests see."""

    kind = EvidenceKind.REQUESTS
    cells: Cells
    """What is judged and its warm-up, with the requests in flight that count as failed."""
    warm_up: WarmUp
    panels: Mapping[str, Panel]
    """By candidate; one without a panel is missing, or has no time in common with the baseline."""
    designs: Mapping[str, Design]
    rows: tuple[ArmRows, ...]
    """The account of every arm, in the order of the arms."""
    settled: Settled
    """What became of requests in flight."""
    names_per_arm: Mapping[str, int]
    """Arms whose names of instances do not tell instances apart, with the number of names."""

    @property
    def looks_paid(self) -> bool:
        """Are looks before the planned end paid for?"""
        return self.calendar.kind != "fixed"

    @property
    def may_go_early(self) -> bool:
        """May a GO be said before the planned end? Its looks pay for it where the policy asks for one."""
        return self.looks_paid and self.rulebook.monitoring.early_go

    def list_known(self, fact: str) -> list[float]:
        """The values of one fact in the runs that know it."""
        return [value for run in self.runs if (value := getattr(run.facts, fact)) is not None]

    def count_failures(self, arm: str) -> JudgedFailures:
        """How often the baseline's requests failed in the comparison with a candidate."""
        panel = self.panels.get(arm)
        if panel is None:
            return JudgedFailures()
        over_time = panel.failures[0].sum(axis=0)
        together, _ = measure_clusters(over_time[None, :])
        return JudgedFailures(int(panel.n[0].sum()), int(over_time.sum()), float(together[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingContext(Context):
    """What the checks of readings see."""

    kind = EvidenceKind.READINGS
    readings: ReadingCells
    """All that was collected."""
    view: ReadingView
    """The part in the time that is judged."""
    intervals: tuple[RunInterval, ...] = ()
    """When each run of the load was judged; empty: there was no load."""
    client: tuple[Comparison, ...] = ()
    """What that load saw."""
    targets: ReadingCells | None = None
    """Whether each target of the arms answered its scrapes (`up`); `None`: that was not asked."""
    shared_instances: tuple[str, ...] = ()
    """Instances that counted both arms, though in series of their own: proxies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeContext(Context):
    """What the checks of outcomes see."""

    kind = EvidenceKind.OUTCOMES
    outcomes: Outcomes
    price: LookPrice
    """What a look costs, of the candidate that was looked at most often before."""


Check = Callable[[Any], Iterable[Finding]]
"""A check takes the context of its kind, or any, and yields what it saw; nothing when it does not apply."""


def ok(check: str, text: str) -> Finding:
    """Looked at and in order."""
    return Finding(check, Level.OK, text)


def fail(check: str, text: str, remedy: str = "", *, void: bool = False) -> Finding:
    """Forbids a GO; `void`: the comparison itself means nothing, so it forbids a NO-GO as well."""
    return Finding(check, Level.FAIL, text, void, remedy)


def grade(check: str, text: str, remedy: str = "", *, fails: bool) -> Finding:
    """`fail` or, where it is less, `warn`."""
    return Finding(check, Level.FAIL if fails else Level.WARN, text, remedy=remedy)


def warn(check: str, text: str, remedy: str = "") -> Finding:
    """Worth knowing; does not forbid a verdict."""
    return Finding(check, Level.WARN, text, remedy=remedy)


def name_some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    further = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + further


def show_period(start_ms: float, end_ms: float) -> str:
    """The options of a command that take this time only."""
    start, end = (f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" for ms in (start_ms, end_ms))
    return f"--from {start} --to {end}"


def show_clock(ms: float) -> str:
    """A moment (ms) as people read it."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
