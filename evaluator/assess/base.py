"""Common parts of the kinds of evidence: each pairs its candidates with the baseline and answers its own rules."""

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
        """The kind of evidence; it selects the health checks."""

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

        `at_s`: an earlier look, at the first `at_s` seconds of judged data. It answers only rules that can decide
        the verdict early: gates, and holds if the policy allows an early GO.
        """

    def with_comparisons(self, comparisons: tuple[Comparison, ...]) -> Context:
        """The input of the health checks of this kind."""

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """The evidence: arms, window and calendar together with the comparisons and findings."""


def find_rules(rulebook: Rulebook, kind: EvidenceKind, *, early: bool = False) -> tuple[Rule, ...]:
    """The policy's rules on one kind of evidence; `early`: only those that a look before the last one answers."""
    roles = {Role.GATE, Role.HOLD} if rulebook.monitoring.early_go else {Role.GATE}
    return tuple(rule for rule in rulebook.on(kind) if not early or rule.role in roles)


def answer_nothing(
    rulebook: Rulebook, kind: EvidenceKind, why: str, arms: Sequence[str] = ()
) -> tuple[Comparison, ...]:
    """For each candidate and every rule on one kind of evidence, a comparison without data and the reason `why`."""
    rules = find_rules(rulebook, kind)
    return tuple(no_data(rule, arm, why) for arm in arms or (CANDIDATE,) for rule in rules)


def find_depth(rulebook: Rulebook, *, early: bool) -> Depth:
    """How much of an estimate is computed: all of it at the last look, before it only what can decide."""
    if not early:
        return "full"
    return "answers" if rulebook.monitoring.early_go else "suspects"


def complete_arms(arms: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The arms with the baseline first and at least one candidate, and the number by which codes of arms move.

    An arm that is added has no data.
    """
    shift = int(not arms or arms[0] != BASELINE)
    names = (BASELINE, *arms) if shift else (*arms,)
    return (names if len(names) > 1 else (*names, CANDIDATE)), shift


def plan_runs(runs: tuple[Run, ...], monitoring: Monitoring, *, bucket_s: int, start: int, end: int) -> Calendar:
    """The calendar of looks at runs that are judged from bucket `start` to before bucket `end`.

    Several runs are judged once, when all of them are there. So are imported files, unless the policy sets a mode.
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
    # A run that has ended gets no more data, whatever was planned.
    return calendar if run.state is RunState.RUNNING else replace(calendar, final=True)
