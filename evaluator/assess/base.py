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
    """The policy's rules on one kind of evidence; `early`: only those that a look before the last one answers.

    Requests of production are compared by the rules on requests.
    An early look can show harm, which gates decide, or with `early_go` that all gates and holds are within.
    """
    roles = {Role.GATE, Role.HOLD} if rulebook.monitoring.early_go else {Role.GATE}
    kind = EvidenceKind.REQUESTS if kind is EvidenceKind.LIVE else kind
    return tuple(rule for rule in rulebook.on(kind) if not early or rule.role in roles)


def answer_nothing(
    rulebook: Rulebook, kind: EvidenceKind, why: str, arms: Sequence[str] = ()
) -> tuple[Comparison, ...]:
    """Make a comparison without data for each candidate and every rule on one kind of evidence; `why`: the reason.

    `arms`: the candidates; without any, the default name of a candidate is taken.
    """
    rules = find_rules(rulebook, kind)
    return tuple(no_data(rule, arm, why) for arm in arms or (CANDIDATE,) for rule in rules)


def find_depth(rulebook: Rulebook, *, early: bool) -> Depth:
    """Choose how much of an estimate is computed: all of it at the last look, before it only what can decide.

    An early look decides NO-GO by what may be worse (`suspects`), and with `early_go` also GO (`answers`).
    """
    if not early:
        return "full"
    return "answers" if rulebook.monitoring.early_go else "suspects"


def complete_arms(arms: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Complete the arms, so that the baseline comes first and there is a candidate; an arm that is added has no data.

    Returns the names, and what is to be added to the codes of arms (positions in the names): 1 if the baseline was
    added, else 0.
    """
    names, code_shift = tuple(arms), 0
    if not names or names[0] != BASELINE:
        names, code_shift = (BASELINE, *names), 1
    if len(names) == 1:
        names = (*names, CANDIDATE)
    return names, code_shift


def plan_runs(runs: tuple[Run, ...], monitoring: Monitoring, *, bucket_s: int, start: int, end: int) -> Calendar:
    """Plan the looks (verdicts on growing data) at runs that are judged from bucket `start` to before bucket `end`.

    Several runs are judged once, when all of them are there. So are imported files, unless the policy sets a mode.
    """
    covered_s = (end - start) * bucket_s  # judged time until now
    import_is_judged_once = monitoring.mode == "auto" and is_imported(runs)
    ended = all(run.state is not RunState.RUNNING for run in runs)
    if len(runs) != 1 or end == start or (import_is_judged_once and ended):
        return Calendar("fixed", (), float(covered_s), final=True)
    run = runs[0]
    planned_s: float | None = float(covered_s)  # a run without a plan lasts as long as it did
    if run.planned_end is not None:
        planned_s = max(run.planned_end.timestamp() - start * bucket_s, bucket_s)  # at least one bucket
    elif run.state is RunState.RUNNING or (run.kind is EvidenceKind.LIVE and not run.is_imported):
        # Not known yet; nor afterwards of a log that was followed, at which one may have looked meanwhile.
        planned_s = None
    calendar = plan_looks(monitoring, bucket_s=bucket_s, covered_s=covered_s, planned_s=planned_s)
    # A run that has ended gets no more data, whatever was planned.
    return calendar if run.state is RunState.RUNNING else replace(calendar, final=True)
