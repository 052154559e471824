"""What people who review a release are shown: states, heat map, what waits, and the same judgement looked at closer.

Everything is read from cells and stored verdicts by brief copies; nothing here writes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from evaluator.assess import assess_release
from evaluator.judges import JUDGES
from evaluator.pipeline.drawing import trace_figures
from evaluator.pipeline.hindsight import runs_behind
from evaluator.pipeline.judging import choose_runs, read_outcomes, read_readings
from evaluator.policy import parse_policy
from evaluator.records import (
    Cells,
    Comparison,
    Evidence,
    EvidenceKind,
    Margin,
    MetricStatus,
    Outcomes,
    ReadingCells,
    Reason,
    ReleaseSummary,
    Role,
    Rulebook,
    Run,
    RunState,
    Verdict,
    VerdictWord,
)
from evaluator.stats.narrow import cut_each_run, narrow
from evaluator.store import Store
from evaluator.wording import name_metric

__all__ = [
    "Condition",
    "Data",
    "HeatCell",
    "HeatMap",
    "Judged",
    "Waiting",
    "check_promotable",
    "find_waiting",
    "is_live",
    "is_stale",
    "judge_under_margins",
    "lay_heat_map",
    "look_closer",
    "rank_comparisons",
    "read_judged",
    "trace_judged",
]

_BADNESS = (MetricStatus.FAIL, MetricStatus.NO_DATA, MetricStatus.INCONCLUSIVE, MetricStatus.PASS)


# ------------------------------------------------------------------ all releases


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One metric of one release: the worst of its arms."""

    comparison: Comparison
    watched: bool


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Releases (rows, the newest first) by metrics (columns); `None` where a release has no such metric."""

    metrics: tuple[str, ...]
    rows: tuple[tuple[Verdict, tuple[HeatCell | None, ...]], ...]


def lay_heat_map(verdicts: Sequence[Verdict]) -> HeatMap:
    """Lay the latest verdicts out by metric; endpoints of the scan are left to the release's own page."""
    by_release = [(verdict, _worst_by_metric(verdict.evidence.comparisons)) for verdict in verdicts]
    metrics = tuple(dict.fromkeys(name for _, found in by_release for name in found))
    return HeatMap(
        metrics, tuple((verdict, tuple(found.get(name) for name in metrics)) for verdict, found in by_release)
    )


def _worst_by_metric(comparisons: Sequence[Comparison]) -> dict[str, HeatCell]:
    found: dict[str, HeatCell] = {}
    for row in comparisons:
        name = name_metric(row.rule)
        if row.scan or (name in found and _rank(found[name].comparison) <= _rank(row)):
            continue
        found[name] = HeatCell(row, row.rule.role is Role.WATCH)
    return found


def _rank(row: Comparison) -> int:
    return _BADNESS.index(row.status)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A release that asks for a person: what for, and the command that helps, where one does."""

    release: str
    why: str
    command: str = ""
    promotable: bool = False


_ASKS: Mapping[str | None, tuple[str, str]] = {
    None: ("has data and was not judged yet", "evaluator verdict {}"),
    VerdictWord.INCONCLUSIVE: ("is not decided: look at what is missing", "evaluator verdict {}"),
    VerdictWord.NO_GO: ("must not be promoted: look at what became worse", ""),
    VerdictWord.GO: ("is safe to promote", ""),
}


def find_waiting(summaries: Sequence[ReleaseSummary], settled: frozenset[str] = frozenset()) -> tuple[Waiting, ...]:
    """Name the newest release of each service that nobody has acted on. `settled`: those that were acted on."""
    newest: dict[object, ReleaseSummary] = {}
    for summary in summaries:
        service = frozenset(one.name for one in summary.release.services) or summary.release.id
        newest.setdefault(service, summary)
    return tuple(_ask(one) for one in newest.values() if one.release.id not in settled and (one.rows or one.verdict))


def _ask(summary: ReleaseSummary) -> Waiting:
    newer = summary.verdict and summary.last_run and summary.judged_at and summary.last_run > summary.judged_at
    word = None if newer or not summary.verdict else VerdictWord(summary.verdict)
    why, command = _ASKS[word]
    return Waiting(
        release=summary.release.id,
        why="has newer data than its verdict" if newer else why,
        command=command.format(shlex.quote(summary.release.id)),
        promotable=word is VerdictWord.GO,
    )


# ------------------------------------------------------------------ one release


@dataclass(frozen=True, slots=True)
class Data:
    """What a verdict rests on: runs of requests with their cells, outcomes, and readings with the run they are of."""

    runs: tuple[Run, ...]
    cells: Cells
    outcomes: Outcomes | None = None
    readings: ReadingCells | None = None
    collected: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """What a stored verdict judged, read again from its cells and judged again by its own policy."""

    data: Data
    rulebook: Rulebook
    evidence: Evidence
    word: VerdictWord
    reasons: tuple[Reason, ...]
    same_data: bool
    """False where what the verdict judged is not there as it was: the newest runs stand in for it."""


def read_judged(store: Store, verdict: Verdict) -> Judged:
    """Read what a verdict rests on. Raises UnknownName where the release is not there any more."""
    release_id = verdict.release.id
    behind = runs_behind(store, release_id, verdict.data_hash)
    chosen = choose_runs(store.runs(release_id), behind or "latest")
    rulebook = parse_policy(verdict.policy, origin="the stored policy").rulebook
    loads = tuple(run for run in chosen if run.kind is EvidenceKind.REQUESTS)
    readings, collected = read_readings(store, chosen)
    data = Data(
        runs=loads,
        cells=store.read_cells([run.id for run in loads]),
        outcomes=read_outcomes(store, chosen, rulebook),
        readings=readings,
        collected=collected,
    )
    return _judge(data, rulebook, release_id, same_data=behind is not None)


def _judge(data: Data, rulebook: Rulebook, release_id: str, *, same_data: bool) -> Judged:
    evidence = assess_release(data.cells, data.runs, data.outcomes, rulebook, release_id, data.readings, data.collected)
    judgement = JUDGES["native"](evidence, rulebook, release_id)
    evidence = replace(evidence, comparisons=judgement.comparisons)
    return Judged(data, rulebook, evidence, judgement.word, judgement.reasons, same_data)


def trace_judged(store: Store, verdict: Verdict, judged: Judged) -> Mapping[str, Any]:
    """Numbers behind the figures of a verdict."""
    return trace_figures(
        store,
        verdict.release,
        judged.data.runs,
        judged.data.cells,
        judged.rulebook,
        judged.evidence.comparisons,
        judged.data.readings,
    )


def judge_under_margins(judged: Judged, margins: Mapping[str, float], release_id: str) -> Judged:
    """Say what the same data would have been under other margins (0.1 = 10 %, or absolute); nothing is kept."""
    rules = tuple(
        replace(rule, margin=Margin(margins[rule.name], relative=rule.margin.relative))
        if rule.margin and rule.name in margins
        else rule
        for rule in judged.rulebook.rules
    )
    rulebook = replace(judged.rulebook, rules=rules)
    return _judge(judged.data, rulebook, release_id, same_data=judged.same_data)


def rank_comparisons(rows: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Sort by how far beyond the margin, the worst first; what has no margin or no data comes last."""
    return tuple(sorted(rows, key=lambda row: (-_use_of_margin(row), row.rule.role is Role.WATCH)))


def _use_of_margin(row: Comparison) -> float:
    """Share of the allowed harm that the estimate uses; what failed stands above all that did not."""
    effect, margin = row.effect, row.rule.margin
    if row.status is MetricStatus.NO_DATA and row.rule.role is not Role.WATCH:
        return 1e6
    if effect is None or margin is None or margin.value <= 0 or not np.isfinite(effect.estimate):
        return -1e6
    harm = effect.estimate if row.rule.direction.value == "lower_is_better" else -effect.estimate
    return harm / margin.value + (1e3 if row.status is MetricStatus.FAIL else 0.0)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that has to be so before a release is promoted; what is so instead where it is not."""

    text: str
    met: bool
    otherwise: str
    remedy: str = ""

    @property
    def says(self) -> str:
        """What is so."""
        return self.text if self.met else self.otherwise


def check_promotable(
    runs: Sequence[Run], verdict: Verdict | None, policy_hash: str, again: str
) -> tuple[Condition, ...]:
    """Say what speaks for promoting a release now, and what against.

    `policy_hash`: of the policy that applies here; `again`: how to judge by it.
    """
    if verdict is None:
        missing = "it was not judged yet"
        return (Condition("it was judged", met=False, otherwise=missing, remedy="`evaluator verdict RELEASE`"),)
    word, live, stale = verdict.word, is_live(runs), is_stale(runs, verdict.judged_at)
    same, whole = verdict.policy_hash == policy_hash, not verdict.evidence.incomplete
    return (
        Condition("the verdict is GO", word is VerdictWord.GO, f"the verdict is {_WORDS[word]}", verdict.next_action),
        Condition("nothing landed after the verdict", not stale, "data landed after the verdict", again),
        Condition("no run is recorded any more", not live, "a run is still recorded", "wait, then judge again"),
        Condition("the policy is the one that judged", same, "the policy is not the one that judged", again),
        Condition("every run was complete", whole, "a run ended before its time", "load it again"),
    )


_WORDS = {VerdictWord.GO: "GO", VerdictWord.NO_GO: "NO-GO", VerdictWord.INCONCLUSIVE: "INCONCLUSIVE"}


# ------------------------------------------------------------------ a part of a release


def look_closer(
    judged: Judged, release_id: str, *, endpoint: str | None, from_s: float, to_s: float
) -> tuple[Comparison, ...]:
    """Compare one endpoint (`None`: all of them) within a stretch of each run. An exploration, never a verdict."""
    cells = cut_each_run(judged.data.cells, from_s, to_s)
    cells = narrow(cells, endpoints=[endpoint] if endpoint in cells.endpoints else None)
    rules = tuple(
        replace(rule, slice=replace(rule.slice, endpoint=None))
        for rule in judged.rulebook.rules
        if rule.slice.endpoint in (None, endpoint) and not rule.outcome and not rule.queries
    )
    scan = replace(judged.rulebook.scan, enabled=False)
    monitoring = replace(judged.rulebook.monitoring, mode="fixed")
    rulebook = replace(judged.rulebook, rules=rules, scan=scan, warm_up_s=0.0, monitoring=monitoring)
    runs = tuple(replace(run, state=RunState.COMPLETE) for run in judged.data.runs)
    return _judge(Data(runs, cells), rulebook, release_id, same_data=judged.same_data).evidence.comparisons


def is_live(runs: Sequence[Run]) -> bool:
    """Is a run of it still recorded?"""
    return any(run.state is RunState.RUNNING for run in runs)


def is_stale(runs: Sequence[Run], judged_at: datetime | None) -> bool:
    """Did data land after the verdict was given?"""
    return judged_at is not None and any(run.ended is not None and run.ended > judged_at for run in runs)
