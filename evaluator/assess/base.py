"""What the kinds of evidence have in common: each pairs its candidates with the baseline and answers its own rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from evaluator.health import Context
from evaluator.metrics.base import no_data
from evaluator.metrics.scan import Measured
from evaluator.records import (
    BASELINE,
    CANDIDATE,
    Comparison,
    Evidence,
    EvidenceKind,
    Finding,
    Monitoring,
    Role,
    Rule,
    Rulebook,
    Run,
    RunState,
    is_imported,
)
from evaluator.stats.estimators.estimate import Depth
from evaluator.stats.inference.calendar import Calendar, plan_looks


class Pairs(Protocol):
    """One kind of evidence: the data of every candidate next to those of the baseline, prepared once for all looks."""

    @property
    def kind(self) -> EvidenceKind:
        """Which of the health checks apply."""

    @property
    def rulebook(self) -> Rulebook:
        """The policy."""

    @property
    def calendar(self) -> Calendar:
        """The looks at these data."""

    @property
    def covered_s(self) -> float:
        """Seconds of judged data."""

    def measure(self, at_s: int | None = None) -> Measured:
        """Compare every candidate with the baseline.

        `at_s`: an earlier look, at the first seconds of judged data only. It answers what can decide the verdict
        before its time: gates, and holds where a GO may fall early.
        """

    def with_comparisons(self, comparisons: tuple[Comparison, ...]) -> Context:
        """What the health checks of this kind see."""

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """The evidence: arms, window and calendar together with the comparisons and findings."""


def find_rules(rulebook: Rulebook, kind: EvidenceKind, *, early: bool = False) -> tuple[Rule, ...]:
    """The policy's rules on one kind of evidence; `early`: those that a look before the last one answers."""
    roles = {Role.GATE, Role.HOLD} if rulebook.monitoring.early_go else {Role.GATE}
    return tuple(rule for rule in rulebook.on(kind) if not early or rule.role in roles)


def answer_nothing(
    rulebook: Rulebook, kind: EvidenceKind, why: str, arms: Sequence[str] = ()
) -> tuple[Comparison, ...]:
    """The answer of every rule on one kind of evidence that there are no data, for each candidate."""
    rules = find_rules(rulebook, kind)
    return tuple(no_data(rule, arm, why) for arm in arms or (CANDIDATE,) for rule in rules)


def find_depth(rulebook: Rulebook, *, early: bool) -> Depth:
    """How much of an estimate is computed: all of it at the last look, before it what can decide."""
    if not early:
        return "full"
    return "answers" if rulebook.monitoring.early_go else "suspects"


def complete_arms(arms: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Arms with the baseline first and a candidate, and by how much their codes move: a missing arm has no data."""
    shift = int(not arms or arms[0] != BASELINE)
    names = (BASELINE, *arms) if shift else (*arms,)
    return (names if len(names) > 1 else (*names, CANDIDATE)), shift


def plan_runs(runs: tuple[Run, ...], monitoring: Monitoring, *, bucket_s: int, start: int, end: int) -> Calendar:
    """The calendar of looks at runs that are judged from bucket `start` to before bucket `end`.

    Several runs are judged when all are there, and so are imported files unless the policy says otherwise.
    """
    covered = (end - start) * bucket_s
    unwatched = monitoring.mode == "auto" and is_imported(runs)
    ended = all(run.state is not RunState.RUNNING for run in runs)
    if len(runs) != 1 or end == start or (unwatched and ended):
        return Calendar("fixed", (), float(covered), final=True)
    run = runs[0]
    planned = float(covered)
    if run.planned_end is not None:
        planned = max(run.planned_end.timestamp() - start * bucket_s, bucket_s)
    elif run.state is RunState.RUNNING:
        return plan_looks(monitoring, bucket_s=bucket_s, covered_s=covered, planned_s=None)
    calendar = plan_looks(monitoring, bucket_s=bucket_s, covered_s=covered, planned_s=planned)
    # A run that has ended gives no more data, whatever was planned.
    return calendar if run.state is RunState.RUNNING else replace(calendar, final=True)
