"""Outcomes of units: those of every candidate and the baseline, their evidence, and the values that must be read."""

from __future__ import annotations

import math
from dataclasses import replace

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
        """Compare every candidate by every rule; `at_s` is not used, as outcomes have no clock."""
        del at_s
        outcomes, rules = self.outcomes, find_rules(self.rulebook, self.kind)
        if len(outcomes.arms) < 2:
            return Measured(answer_nothing(self.rulebook, self.kind, f"only {outcomes.arms[0]} has outcomes"))
        compared = []  # answers of all rules, those of gates with the components of their errors
        for arm in range(1, len(outcomes.arms)):
            price = find_price(outcomes, arm, self.rulebook.monitoring)
            pair = OutcomePair(outcomes, arm, self.rulebook.alpha)
            level = self.rulebook.no_go_level
            compared += [_compare(pair, metric, rule, price, level) for metric, rule in OutcomeMetric.among(rules)]
        # Loadings: the components of an estimate's error, from which the judge computes how comparisons are correlated.
        # `values`: position of a variable → for each arm, the values of its units.
        values = {outcomes.variables.index(name): by_arm for name, by_arm in outcomes.values.items()}
        loadings = find_loadings([result.errors for result in compared], outcomes.moments, values)
        comparisons = [
            replace(result.comparison, loadings=components)
            for result, components in zip(compared, loadings, strict=True)
        ]
        return Measured(tuple(comparisons))

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """Sum up the comparisons, the health findings and the arms as evidence.

        Outcomes have units instead of requests and instances, and each import of them is one run.
        """
        accounts = {rows.arm: rows for rows in self.outcomes.facts.account()}
        arms = []
        for arm_code, (arm, moments) in enumerate(zip(self.outcomes.arms, self.outcomes.moments, strict=True)):
            rows = accounts.get(arm, ArmRows(arm, 0, 0))
            arms.append(
                ArmSummary(
                    name=arm,
                    role="candidate" if arm_code else "baseline",
                    requests=0,
                    instances=0,
                    runs=1,
                    units=moments.n,
                    read=rows.read,
                    left_out=rows.left_out,
                )
            )
        # Each look at outcomes spends a part of alpha, its price. `outcomes_run` and `outcomes_paid` (how alpha is
        # spent) let later verdicts count this verdict as a look at that run; without an answer it is none.
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
    """Prepare outcomes for comparison; without outcomes, or without a rule on them, return evidence that says so.

    Every look at outcomes spends a part of the error rate alpha (its price), which the pairs contain.
    """
    if outcomes is None:
        return Evidence(answer_nothing(rulebook, EvidenceKind.OUTCOMES, "no outcomes were imported"))
    if not find_rules(rulebook, EvidenceKind.OUTCOMES):
        ignored = warn("outcomes", "outcomes were imported, but the policy has no metric of them")
        return Evidence(findings=(ignored,))
    # The price differs by candidate, as each has its own units; evidence states the highest.
    price = find_dearest(outcomes, rulebook.monitoring)
    return OutcomePairs(release=release, rulebook=rulebook, calendar=ONE_LOOK, outcomes=outcomes, price=price)


def _compare(pair: OutcomePair, metric: OutcomeMetric, rule: Rule, price: LookPrice, no_go_level: float) -> Compared:
    """Answer one rule at this look, so that p-values hold over all looks, and the interval agrees with them.

    Every look takes a part of the error rate alpha. `price` gives the levels at which this look decides "worse" and
    "within"; 0: nothing is left, so it may not decide that. A refused look gives a comparison without data.
    `no_go_level`: alpha of "worse".
    """
    worse_level, within_level = price.level(no_go_level, "worse"), price.level(pair.alpha, "within")
    # At level 0 the interval is not needed, so any level will do.
    result = metric.compare(replace(pair, alpha=worse_level or pair.alpha), rule)
    comparison = result.comparison
    is_only_look = price.kind == "fixed" and not price.refused and worse_level == within_level
    if comparison.effect is None or is_only_look:
        return result  # no data, or the only look, which has all of alpha
    if price.refused:
        return Compared(replace(comparison, no_data=price.refused, questions=(), effect=None, detectable_effect=None))
    at_within_level = comparison  # the same with the interval of the level of "within"
    if within_level != worse_level:
        at_within_level = metric.compare(replace(pair, alpha=within_level or pair.alpha), rule).comparison
    effect_of_within = at_within_level.effect or comparison.effect
    paid = replace(
        comparison,
        questions=tuple(
            replace(q, p_worse=price.pay(q.p_worse, "worse"), p_within=price.pay(q.p_within, "within"))
            for q in comparison.questions
        ),
        effect=_join_ends(comparison.effect, effect_of_within, rule.direction, worse_level, within_level),
        needed_time=at_within_level.needed_time,
    )
    return replace(result, comparison=paid)


def _join_ends(worse: Effect, within: Effect, direction: Direction, worse_level: float, within_level: float) -> Effect:
    """Make one interval of two: the end towards harm decides "within", the other end "worse".

    `worse`, `within`: the effect with the interval of the level at which each is decided; at level 0 the end is
    infinite.
    """
    if direction is Direction.LOWER:  # harm is upwards
        lower = worse.lower if worse_level else -math.inf
        upper = within.upper if within_level else math.inf
    else:
        lower = within.lower if within_level else -math.inf
        upper = worse.upper if worse_level else math.inf
    return replace(worse, lower=lower, upper=upper)


# ------------------------------------------------------------------ values that must be read


def find_needs(outcomes: Outcomes, rulebook: Rulebook) -> Needs:
    """Find the values that the rules need in addition to the sums. Raises UnknownName for a column that is missing.

    If a gate needs values of units, those of the other gates are read as well: sums do not show how gates are
    correlated.
    """
    needs, needs_of_gates = Needs(), Needs()
    metrics = OutcomeMetric.among(rulebook.rules)
    columns = [column.name for column in outcomes.columns]  # any of them may be a covariate
    outcome_columns = [column.name for column in outcomes.columns if column.role == "outcome"]
    for metric, rule in metrics:
        hint = f"metric '{rule.name}' of the policy needs it"
        for name in metric.outcomes:
            if name not in outcome_columns:
                raise UnknownName("outcome", name, outcome_columns, hint=hint)
        for name in metric.covariate_names:
            if name not in columns:
                raise UnknownName("covariate", name, columns, hint=hint)
        needs |= metric.needs(outcomes)
        if rule.role is Role.GATE:
            needs_of_gates |= metric.needs(outcomes)
    gates = [metric for metric, rule in metrics if rule.role is Role.GATE]
    if needs_of_gates == Needs() or len(gates) < 2:  # sums are enough, or no correlation is needed
        return needs
    names = {name for metric in gates for name in (*metric.variables, *metric.covariate_names)}
    return needs | Needs(frozenset(names & set(outcomes.variables)))
