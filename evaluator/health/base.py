"""The input of a health check, and the form of its findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from evaluator.records import (
    ArmRows,
    Cells,
    Comparison,
    EvidenceKind,
    FailureCount,
    Finding,
    Level,
    Outcomes,
    ReadingCells,
    Role,
    Rulebook,
    Run,
)
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.outcomes.looks import LookPrice
from evaluator.stats.shaping.failures import count_kinds, rank_kinds
from evaluator.stats.shaping.in_flight import Settled
from evaluator.stats.shaping.instance_load import InstanceLoad
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import ReadingView, RunInterval
from evaluator.stats.shaping.silence import measure_clusters
from evaluator.stats.shaping.window import WarmUp
from evaluator.stats.variance.uncertainty import Design
from evaluator.wording import list_kinds

TOLERATED = 0.02
"""Share of the time for which an arm may be silent without a finding."""

END_STEPS = 2.5
"""Scrape intervals without a sample that scraping itself explains: one is late, and one failed."""

LOPSIDED = 2.0
"""Up to this multiple of the other arm's share, a share may have a cause that affects both arms."""

NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The input of every check, for any kind of evidence."""

    kind: ClassVar[EvidenceKind]
    release: str
    rulebook: Rulebook
    runs: tuple[Run, ...] = ()
    calendar: Calendar
    comparisons: tuple[Comparison, ...] = ()
    """Those of this kind of evidence; empty before they are measured."""
    covered_s: float = 0.0
    """Seconds from the start to the end of the time that is judged; 0 for outcomes, which have no clock."""

    def with_comparisons(self, comparisons: tuple[Comparison, ...]) -> Self:
        """The same context with its comparisons."""
        return replace(self, comparisons=comparisons)


@dataclass(frozen=True, slots=True)
class JudgedFailures:
    """How often the judged requests of an arm failed."""

    requests: int = 0
    failures: int = 0
    burst_size: float = 1.0
    """Mean size of a burst of failures: such a burst is as much evidence as one failure alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext(Context):
    """The input of the checks of requests."""

    kind = EvidenceKind.REQUESTS
    cells: Cells
    """The judged requests and those of the warm-up, with the requests in flight that count as failed."""
    warm_up: WarmUp
    panels: Mapping[str, Panel]
    """By candidate. A candidate without requests, or without time in common with the baseline, has none."""
    designs: Mapping[str, Design]
    rows: tuple[ArmRows, ...]
    """Rows read, judged and left out of every arm, in the order of the arms."""
    settled: Settled
    """How requests in flight at the end were counted."""
    names_per_arm: Mapping[str, int]
    """Arms whose instance names do not distinguish instances, with the number of names."""
    instance_loads: Mapping[str, InstanceLoad] = field(default_factory=dict)
    """Candidate → load of its instances and of the baseline's; without candidates of which it is not known."""

    @property
    def is_live(self) -> bool:
        """Are these requests of production, and not of a load?"""
        return self.kind is EvidenceKind.LIVE

    @property
    def traffic_is_routed(self) -> bool:
        """Did a router choose the arm of each request, so that arms have no users of their own?"""
        return self.is_live or any(run.shares or run.is_routed for run in self.runs)

    @property
    def looks_paid(self) -> bool:
        """Does the calendar plan looks before the planned end, at one false-alarm rate?"""
        return self.calendar.kind != "fixed"

    @property
    def may_go_early(self) -> bool:
        """May a GO be given before the planned end? Only if the policy sets `early_go` and looks are planned."""
        return self.looks_paid and self.rulebook.monitoring.early_go

    def list_known(self, fact: str) -> list[float]:
        """List the values of one field of `RunFacts`, without the runs that did not record it."""
        return [value for run in self.runs if (value := getattr(run.facts, fact)) is not None]

    def list_kinds(self, arm: str) -> str:
        """List the kinds of failures of an arm in its whole runs, as text: `: 5 × 503`; empty if none is recorded."""
        counted = count_kinds(self.cells, self.cells.arms.index(arm))
        kinds, other_kinds, _ = rank_kinds(counted, sum(counted.values()))
        text = list_kinds(FailureCount(arm, None, None, 0, 0, kinds, other_kinds))
        return f": {text}" if text else ""

    def count_baseline_failures(self, candidate: str) -> JudgedFailures:
        """Count the baseline's judged requests and failures in its comparison with a candidate; 0 without a panel."""
        panel = self.panels.get(candidate)
        if panel is None:
            return JudgedFailures()
        requests, failures = panel.n[0], panel.failures[0]  # 0 is the baseline: shape (endpoints, slots)
        # The mean size of a burst is that of a cluster in the failures over time.
        failures_by_slot = failures.sum(axis=0)
        burst_sizes, _ = measure_clusters(failures_by_slot[None, :])
        return JudgedFailures(int(requests.sum()), int(failures_by_slot.sum()), float(burst_sizes[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingContext(Context):
    """The input of the checks of readings."""

    kind = EvidenceKind.READINGS
    readings: ReadingCells
    """All that was collected."""
    view: ReadingView
    """The part of them in the time that is judged."""
    intervals: tuple[RunInterval, ...] = ()
    """The judged time of each run of the load; empty: there was no load."""
    client: tuple[Comparison, ...] = ()
    """The comparisons of that load's requests."""
    targets: ReadingCells | None = None
    """Whether each target of the arms answered its scrapes (`up`); `None`: it was not collected."""
    shared_instances: tuple[str, ...] = ()
    """Instances that counted both arms, each in its own series: proxies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeContext(Context):
    """The input of the checks of outcomes."""

    kind = EvidenceKind.OUTCOMES
    outcomes: Outcomes
    price: LookPrice
    """Price of a look, for the candidate with the most earlier looks."""


Check = Callable[[Any], Iterable[Finding]]
"""A check takes the context of its kind of evidence and yields findings; none when it does not apply."""


def ok(check: str, text: str) -> Finding:
    """A finding that a check is in order."""
    return Finding(check, Level.OK, text)


def fail(check: str, text: str, remedy: str = "", *, void: bool = False) -> Finding:
    """A finding that forbids a GO. `void`: the comparison is not valid, so a NO-GO is forbidden as well."""
    return Finding(check, Level.FAIL, text, void, remedy)


def grade(check: str, text: str, remedy: str = "", *, fails: bool) -> Finding:
    """A finding that forbids a GO if `fails`, else a warning."""
    return Finding(check, Level.FAIL if fails else Level.WARN, text, remedy=remedy)


def warn(check: str, text: str, remedy: str = "") -> Finding:
    """A finding that is worth knowing and forbids no verdict."""
    return Finding(check, Level.WARN, text, remedy=remedy)


DEFAULT_MARGIN = 0.001
"""Margin of failures if the policy has no gate of failures with a margin in percentage points."""


def find_failure_margin(rulebook: Rulebook) -> float:
    """Find by how much the share of failures may be higher: the smallest absolute margin of a gate of failures."""
    margins = [
        rule.margin.value
        for rule in rulebook.rules
        if rule.role is Role.GATE and rule.metric.is_failure_rate and rule.margin and not rule.margin.relative
    ]
    return min(margins, default=DEFAULT_MARGIN)


def name_some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    further = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + further


def show_period(start_ms: float, end_ms: float) -> str:
    """Write the options that restrict a command to a time (ms since the epoch): `--from 2026-…Z --to 2026-…Z`."""
    start, end = datetime.fromtimestamp(start_ms // 1000, UTC), datetime.fromtimestamp(end_ms // 1000, UTC)
    return f"--from {start:%Y-%m-%dT%H:%M:%SZ} --to {end:%Y-%m-%dT%H:%M:%SZ}"


def show_clock(ms: float) -> str:
    """Write a moment (ms since the epoch) as people read it: `2026-03-02 10:09:00 UTC`."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
