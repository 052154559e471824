"""Outcomes of units: those of every candidate and the baseline, their evidence, and the values that must be read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from evaluator.assess.base import answer_nothing, find_rules
from evaluator.errors import UnknownName
from evaluator.health import OutcomeContext, warn
from evaluator.metrics.outcome_base import Compared, Needs, OutcomeMetric, OutcomePair
from evaluator.metrics.scan import Measured
from evaluator.records import (
    ArmRows,
    ArmSummary,
    Direction,
    Effect,
    Evidence,
    EvidenceKind,
    Finding,
    Outcomes,
    Role,
    Rule,
    Rulebook,
)
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.outcomes.joint import find_loadings
from evaluator.stats.outcomes.looks import LookPrice, find_dearest, find_price

ONE_LOOK = Calendar("fixed", (), 0.0, final=True)


class OutcomePairs(OutcomeContext):
    """Outcomes of the units of all arms, and the price of a look at them.

    They are final when they are imported, and have no clock: the price of a look replaces the calendar.
    """

    __slots__ = ()

    def measure(self, at_s: int | None = None) -> Measured:
        """Compare every candidate by every rule."""
        del at_s
        outcomes, rules = self.outcomes, find_rules(self.rulebook, self.kind)
        if len(outcomes.arms) < 2:
            return Measured(answer_nothing(self.rulebook, self.kind, f"only {outcomes.arms[0]} has outcomes"))
        compared = []
        for arm in range(1, len(outcomes.arms)):
            price = find_price(outcomes, arm, self.rulebook.monitoring)
            pair = OutcomePair(outcomes, arm, self.rulebook.alpha)
            compared += [_compare(pair, metric, rule, price) for metric, rule in OutcomeMetric.among(rules)]
        columns = {outcomes.variables.index(name): arms for name, arms in outcomes.values.items()}
        loadings = find_loadings([result.errors for result in compared], outcomes.moments, columns)
        return Measured(
            tuple(replace(result.comparison, loadings=row) for result, row in zip(compared, loadings, strict=True))
        )

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """The evidence of outcomes. If no comparison has data, this does not count as a look."""
        accounts = {rows.arm: rows for rows in self.outcomes.facts.account()}
        arms = []
        for code, (arm, part) in enumerate(zip(self.outcomes.arms, self.outcomes.moments, strict=True)):
            rows = accounts.get(arm, ArmRows(arm, 0, 0))
            role: Literal["baseline", "candidate"] = "candidate" if code else "baseline"
            arms.append(ArmSummary(arm, role, 0, 0, runs=1, units=part.n, read=rows.read, left_out=rows.left_out))
        answered = any(comparison.questions for comparison in measured.comparisons)
        return Evidence(
            comparisons=measured.comparisons,
            findings=findings,
            arms=tuple(arms),
            monitoring=self.price.kind,
            outcomes_run=self.outcomes.run if answered else "",
            outcomes_paid=self.price.paid if answered else "",
        )


def pair_outcomes(outcomes: Outcomes | None, rulebook: Rulebook, release: str) -> OutcomePairs | Evidence:
    """Prepare outcomes. Returns evidence without comparisons if there are no outcomes or no rule on them."""
    if outcomes is None:
        return Evidence(answer_nothing(rulebook, EvidenceKind.OUTCOMES, "no outcomes were imported"))
    if not find_rules(rulebook, EvidenceKind.OUTCOMES):
        ignored = warn("outcomes", "outcomes were imported, but the policy has no metric of them")
        return Evidence(findings=(ignored,))
    price = find_dearest(outcomes, rulebook.monitoring)
    return OutcomePairs(release=release, rulebook=rulebook, calendar=ONE_LOOK, outcomes=outcomes, price=price)


def _compare(pair: OutcomePair, metric: OutcomeMetric, rule: Rule, price: LookPrice) -> Compared:
    """Answer one rule at the levels of this look: p-values over all looks, and the interval that is their dual."""

    def ask(level: float) -> Compared:
        return metric.compare(replace(pair, alpha=level or pair.alpha), rule)

    worse, within = price.level(pair.alpha, "worse"), price.level(pair.alpha, "within")
    result = ask(worse)
    comparison = result.comparison
    if comparison.effect is None or (price.kind == "fixed" and not price.refused):
        return result
    if price.refused:
        return Compared(replace(comparison, no_data=price.refused, questions=(), effect=None, detectable_effect=None))
    for_within = result.comparison if within == worse else ask(within).comparison
    paid = replace(
        comparison,
        questions=tuple(
            replace(q, p_worse=price.pay(q.p_worse, "worse"), p_within=price.pay(q.p_within, "within"))
            for q in comparison.questions
        ),
        effect=_join_ends(comparison.effect, for_within.effect or comparison.effect, rule.direction, (worse, within)),
        needed_time=for_within.needed_time,
    )
    return replace(result, comparison=paid)


def _join_ends(worse: Effect, within: Effect, direction: Direction, levels: tuple[float, float]) -> Effect:
    """One interval of two: the end towards harm decides "within", the other one "worse"; at level 0 it is infinite."""
    lower, upper = (worse, within) if direction is Direction.LOWER else (within, worse)
    low, high = levels if direction is Direction.LOWER else levels[::-1]
    return replace(worse, lower=lower.lower if low else -math.inf, upper=upper.upper if high else math.inf)


# ------------------------------------------------------------------ values that must be read


def find_needs(outcomes: Outcomes, rulebook: Rulebook) -> Needs:
    """The values that the rules need in addition to the sums. Raises UnknownName for a column that was not imported.

    If a gate needs values of units, those of the other gates are read as well: sums do not show how gates are
    correlated.
    """
    needs, of_gates = Needs(), Needs()
    metrics = OutcomeMetric.among(rulebook.rules)
    covariates = [column.name for column in outcomes.columns]
    imported = [column.name for column in outcomes.columns if column.role == "outcome"]
    for metric, rule in metrics:
        named = ("outcome", metric.outcomes, imported), ("covariate", metric.covariate_names, covariates)
        for noun, name, columns in ((noun, name, columns) for noun, names, columns in named for name in names):
            if name not in columns:
                raise UnknownName(noun, name, columns, hint=f"metric '{rule.name}' of the policy needs it")
        own = metric.needs(outcomes)
        needs |= own
        of_gates |= own if rule.role is Role.GATE else Needs()
    gates = [metric for metric, rule in metrics if rule.role is Role.GATE]
    if of_gates == Needs() or len(gates) < 2:
        return needs
    names = {name for metric in gates for name in (*metric.variables, *metric.covariate_names)}
    return needs | Needs(frozenset(names & set(outcomes.variables)))
