"""Every rule on outcomes, put to every candidate; and the one list of what has to be read for it."""

from __future__ import annotations

import math
from dataclasses import replace

from evaluator.errors import UnknownName
from evaluator.metrics.base import no_data
from evaluator.metrics.outcome_base import Compared, Needs, OutcomeMetric, OutcomePair
from evaluator.records import CANDIDATE, Comparison, Direction, Effect, EvidenceKind, Outcomes, Role, Rule, Rulebook
from evaluator.stats.outcome_joint import find_loadings
from evaluator.stats.outcome_looks import LookPrice, find_price

__all__ = ["find_needs", "has_outcome_rules", "measure_outcomes"]


def has_outcome_rules(rulebook: Rulebook) -> bool:
    """Does the policy ask for outcomes at all?"""
    return bool(rulebook.on(EvidenceKind.OUTCOMES))


def find_needs(outcomes: Outcomes, rulebook: Rulebook) -> Needs:
    """All that the rules need beside the sums. Raises UnknownName for a column that was not imported.

    Where a gate is known by its units, the values of the other gates are read as well: sums do not say how the two
    hang together.
    """
    needs, of_gates = Needs(), Needs()
    asked = OutcomeMetric.among(rulebook.rules)
    for metric, rule in asked:
        _check_names(outcomes, metric, rule)
        own = metric.needs(outcomes)
        needs |= own
        of_gates |= own if rule.role is Role.GATE else Needs()
    gates = [metric for metric, rule in asked if rule.role is Role.GATE]
    if of_gates == Needs() or len(gates) < 2:
        return needs
    names = {name for metric in gates for name in (*metric.variables, *metric.covariate_names)}
    return needs | Needs(frozenset(names & set(outcomes.variables)))


def _check_names(outcomes: Outcomes, metric: OutcomeMetric, rule: Rule) -> None:
    hint = f"metric '{rule.name}' of the policy asks for it"
    known = [column.name for column in outcomes.columns if column.role == "outcome"]
    for name in metric.outcomes:
        if name not in known:
            raise UnknownName("outcome", name, known, hint=hint)
    covariates = [column.name for column in outcomes.columns]
    for name in metric.covariate_names:
        if name not in covariates:
            raise UnknownName("covariate", name, covariates, hint=hint)


def measure_outcomes(outcomes: Outcomes | None, rulebook: Rulebook) -> tuple[Comparison, ...]:
    """Compare every candidate with the baseline; without outcomes every answer is that there are none."""
    asked = OutcomeMetric.among(rulebook.rules)
    if outcomes is None or len(outcomes.arms) < 2:
        why = "no outcomes were imported" if outcomes is None else f"only {outcomes.arms[0]} has outcomes"
        return tuple(no_data(rule, CANDIDATE, why) for _, rule in asked)
    compared = []
    for arm in range(1, len(outcomes.arms)):
        price = find_price(outcomes, arm, rulebook.monitoring)
        compared += [_compare(OutcomePair(outcomes, arm, rulebook.alpha), *one, price) for one in asked]
    places = {outcomes.variables.index(name): arms for name, arms in outcomes.values.items()}
    loadings = find_loadings([one.errors for one in compared], outcomes.moments, places)
    return tuple(replace(one.comparison, loadings=row) for one, row in zip(compared, loadings, strict=True))


def _compare(pair: OutcomePair, metric: OutcomeMetric, rule: Rule, price: LookPrice) -> Compared:
    """Answer one rule at what the look may cost: p-values over all looks, and the interval that is their dual."""

    def ask(level: float) -> Compared:
        return metric.compare(replace(pair, alpha=level or pair.alpha), rule)

    worse, within = price.level(pair.alpha, "worse"), price.level(pair.alpha, "within")
    found = ask(worse)
    made = found.comparison
    if made.effect is None or (price.kind == "fixed" and not price.refused):
        return found
    if price.refused:
        return Compared(replace(made, no_data=price.refused, questions=(), effect=None, detectable_effect=None))
    other = found.comparison if within == worse else ask(within).comparison
    paid = replace(
        made,
        questions=tuple(
            replace(q, p_worse=price.pay(q.p_worse, "worse"), p_within=price.pay(q.p_within, "within"))
            for q in made.questions
        ),
        effect=_join_ends(made.effect, other.effect or made.effect, rule.direction, (worse, within)),
        needed_time=other.needed_time,
    )
    return replace(found, comparison=paid)


def _join_ends(worse: Effect, within: Effect, direction: Direction, levels: tuple[float, float]) -> Effect:
    """One interval of two: its end on the side of harm decides "within", the other one "worse"; level 0 has no end."""
    lower, upper = (worse, within) if direction is Direction.LOWER else (within, worse)
    low, high = levels if direction is Direction.LOWER else levels[::-1]
    return replace(worse, lower=lower.lower if low else -math.inf, upper=upper.upper if high else math.inf)
