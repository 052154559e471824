"""Every rule on outcomes, put to every candidate; and the one list of what has to be read for it."""

from __future__ import annotations

import math
from dataclasses import replace

from evaluator.errors import UnknownName
from evaluator.metrics import OUTCOME_METRICS
from evaluator.metrics.outcome_base import Compared, Needs, OutcomePair, name_unit, no_outcome_data
from evaluator.records import CANDIDATE, Comparison, Direction, Effect, Outcomes, Role, Rule, Rulebook
from evaluator.stats.outcome_joint import find_loadings
from evaluator.stats.outcome_looks import LookPrice, find_price

__all__ = ["find_needs", "has_outcome_rules", "measure_outcomes"]


def has_outcome_rules(rulebook: Rulebook) -> bool:
    """Does the policy ask for outcomes at all?"""
    return any(rule.type in OUTCOME_METRICS for rule in rulebook.rules)


def _rules(rulebook: Rulebook) -> list[Rule]:
    return [rule for rule in rulebook.rules if rule.type in OUTCOME_METRICS]


def find_needs(outcomes: Outcomes, rulebook: Rulebook) -> Needs:
    """All that the rules need beside the sums. Raises UnknownName for a column that was not imported.

    Where a gate is known by its units, the values of the other gates are read as well: sums do not say how the two
    hang together.
    """
    needs, of_gates = Needs(), Needs()
    for rule in _rules(rulebook):
        _check_names(outcomes, rule)
        own = OUTCOME_METRICS[rule.type].needs(outcomes, rule)
        needs |= own
        of_gates |= own if rule.role is Role.GATE else Needs()
    return needs | _companions(outcomes, rulebook) if of_gates != Needs() else needs


def _companions(outcomes: Outcomes, rulebook: Rulebook) -> Needs:
    """Variables of all gates, where there are several."""
    gates = [rule for rule in _rules(rulebook) if rule.role is Role.GATE]
    names = {name for rule in gates for name in _variables(rule)}
    return Needs(frozenset(names & set(outcomes.variables))) if len(gates) > 1 else Needs()


def _variables(rule: Rule) -> tuple[str, ...]:
    happened = rule.type == "outcome_proportion" and not rule.per
    return (f"{rule.outcome}?" if happened else str(rule.outcome), *([rule.per] if rule.per else []), *rule.covariates)


def _check_names(outcomes: Outcomes, rule: Rule) -> None:
    hint = f"metric '{rule.name}' of the policy asks for it"
    known = [column.name for column in outcomes.columns if column.role == "outcome"]
    asked = [rule.outcome, *([rule.per] if rule.per and rule.per != "rows" else [])]
    for name in asked:
        if name not in known:
            raise UnknownName("outcome", str(name), known, hint=hint)
    covariates = [column.name for column in outcomes.columns]
    for name in rule.covariates:
        if name not in covariates:
            raise UnknownName("covariate", name, covariates, hint=hint)


def measure_outcomes(outcomes: Outcomes | None, rulebook: Rulebook) -> tuple[Comparison, ...]:
    """Compare every candidate with the baseline; without outcomes every answer is that there are none."""
    rules = _rules(rulebook)
    if outcomes is None or len(outcomes.arms) < 2:
        why = "no outcomes were imported" if outcomes is None else f"only {outcomes.arms[0]} has outcomes"
        return tuple(_nothing(rule, why) for rule in rules)
    compared = []
    for arm in range(1, len(outcomes.arms)):
        price = find_price(outcomes, arm, rulebook.monitoring)
        compared += [_compare(outcomes, arm, rule, price, rulebook.alpha) for rule in rules]
    places = {outcomes.variables.index(name): arms for name, arms in outcomes.values.items()}
    loadings = find_loadings([one.errors for one in compared], outcomes.moments, places)
    return tuple(replace(one.comparison, loadings=row) for one, row in zip(compared, loadings, strict=True))


def _compare(outcomes: Outcomes, arm: int, rule: Rule, price: LookPrice, alpha: float) -> Compared:
    """Answer one rule at what the look may cost: p-values over all looks, and the interval that is their dual."""

    def ask(level: float) -> Compared:
        return OUTCOME_METRICS[rule.type].compare(OutcomePair(outcomes, arm, level or alpha), rule)

    worse, within = price.level(alpha, "worse"), price.level(alpha, "within")
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


def _nothing(rule: Rule, why: str) -> Comparison:
    return no_outcome_data(rule, CANDIDATE, name_unit(rule, proportion=rule.type == "outcome_proportion"), why)
