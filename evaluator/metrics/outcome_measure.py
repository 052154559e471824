"""Every rule on outcomes, put to every candidate; and the one list of what has to be read for it."""

from __future__ import annotations

from dataclasses import replace

from evaluator.errors import UnknownName
from evaluator.metrics import OUTCOME_METRICS
from evaluator.metrics.outcome_base import Needs, OutcomePair, name_unit, no_outcome_data
from evaluator.records import Comparison, Outcomes, Role, Rule, Rulebook
from evaluator.stats.outcome_joint import find_loadings

__all__ = ["find_needs", "has_outcome_rules", "measure_outcomes"]

CANDIDATE = "canary"


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
    pairs = [OutcomePair(outcomes, arm, rulebook.alpha) for arm in range(1, len(outcomes.arms))]
    compared = [OUTCOME_METRICS[rule.type].compare(pair, rule) for pair in pairs for rule in rules]
    places = {outcomes.variables.index(name): arms for name, arms in outcomes.values.items()}
    loadings = find_loadings([one.errors for one in compared], outcomes.moments, places)
    return tuple(replace(one.comparison, loadings=row) for one, row in zip(compared, loadings, strict=True))


def _nothing(rule: Rule, why: str) -> Comparison:
    return no_outcome_data(rule, CANDIDATE, name_unit(rule, proportion=rule.type == "outcome_proportion"), why)
