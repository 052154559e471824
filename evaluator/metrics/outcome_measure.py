"""Every rule on outcomes, put to every candidate; and the one list of what has to be read for it."""

from __future__ import annotations

from evaluator.errors import UnknownName
from evaluator.metrics import OUTCOME_METRICS
from evaluator.metrics.outcome_base import Needs, OutcomePair, name_unit, no_outcome_data
from evaluator.records import Comparison, Outcomes, Rule, Rulebook

__all__ = ["find_needs", "has_outcome_rules", "measure_outcomes"]

CANDIDATE = "canary"


def has_outcome_rules(rulebook: Rulebook) -> bool:
    """Does the policy ask for outcomes at all?"""
    return any(rule.type in OUTCOME_METRICS for rule in rulebook.rules)


def _rules(rulebook: Rulebook) -> list[Rule]:
    return [rule for rule in rulebook.rules if rule.type in OUTCOME_METRICS]


def find_needs(outcomes: Outcomes, rulebook: Rulebook) -> Needs:
    """All that the rules need beside the sums. Raises UnknownName for a column that was not imported."""
    needs = Needs()
    for rule in _rules(rulebook):
        _check_names(outcomes, rule)
        needs |= OUTCOME_METRICS[rule.type].needs(outcomes, rule)
    return needs


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
    pairs = [OutcomePair(outcomes, arm, rulebook.alpha) for arm in range(1, len(outcomes.arms))]
    return tuple(OUTCOME_METRICS[rule.type].compare(pair, rule) for pair in pairs for rule in rules)


def _nothing(rule: Rule, why: str) -> Comparison:
    return no_outcome_data(rule, CANDIDATE, name_unit(rule, proportion=rule.type == "outcome_proportion"), why)
