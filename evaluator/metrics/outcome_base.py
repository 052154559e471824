"""What a metric of outcomes is: it says what it needs, it is given it, and it answers like every other metric.

Sums of units (`Outcomes.moments`) are always there. Values of single units, or of single rows, are read only for the
metrics that need them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evaluator.records import (
    ArmValue,
    Comparison,
    Direction,
    Effect,
    MetricStatus,
    OutcomeColumn,
    Outcomes,
    Question,
    Role,
    Rule,
    UnitMoments,
    View,
)
from evaluator.stats.outcome_arms import dunnett_p, find_posterior, probabilities_of_best, share_of_baseline
from evaluator.stats.outcome_joint import Errors, from_weights
from evaluator.stats.outcome_quantiles import find_quantile
from evaluator.stats.outcomes import Answers, ArmLevels, OutcomeEstimate, compare_levels, moments_of, trace_harm
from evaluator.wording import format_number

__all__ = [
    "MIN_UNITS",
    "Compared",
    "Needs",
    "OutcomeMetric",
    "OutcomePair",
    "Prepared",
    "answer_levels",
    "answer_outcome",
    "describe_adjustment",
    "find_needed_values",
    "name_unit",
    "no_outcome_data",
    "nothing",
    "prepare",
    "trace_levels",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MIN_UNITS = 30
PRIOR_SHARE = 0.2
"""Standard deviation of the Bayesian view's prior, as a share of the baseline's own value."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Variables whose values of units, and outcomes whose values of rows, a metric reads beside the sums."""

    values: frozenset[str] = frozenset()
    row_values: frozenset[str] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        """Return what either needs."""
        return Needs(self.values | other.values, self.row_values | other.row_values)


@dataclass(frozen=True, slots=True)
class OutcomePair:
    """Baseline and one candidate of some outcomes."""

    outcomes: Outcomes
    arm: int
    alpha: float

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.outcomes.arms[self.arm]

    def column(self, name: str) -> OutcomeColumn:
        """The column of this name, which must be there."""
        return next(column for column in self.outcomes.columns if column.name == name)


@dataclass(frozen=True, slots=True)
class Compared:
    """One answer, and what its error is made of where there is one."""

    comparison: Comparison
    errors: Errors | None = None


@dataclass(frozen=True, slots=True)
class OutcomeMetric:
    """A metric of outcomes: what it needs for a rule, and how it answers one. Never raises for want of data."""

    compare: Callable[[OutcomePair, Rule], Compared]
    needs: Callable[[Outcomes, Rule], Needs] = field(default=lambda _outcomes, _rule: Needs())


def find_needed_values(outcomes: Outcomes, rule: Rule, variables: Sequence[str]) -> Needs:
    """Sums are enough unless values are to be cut, or some units have none and must be left out."""
    missing = any(name.removesuffix("?") in outcomes.facts.missing for name in variables)
    return Needs(frozenset([*variables, *rule.covariates])) if missing or rule.winsorise is not None else Needs()


# ------------------------------------------------------------------ what is compared


@dataclass(frozen=True, slots=True)
class Prepared:
    """Moments of all arms over chosen variables, covariates last; `problem` says why there are none."""

    moments: tuple[UnitMoments, ...] = ()
    covariates: tuple[int, ...] = ()
    cut_at: float | None = None
    problem: str = ""
    columns: tuple[int, ...] = ()
    """Places of the chosen variables among all of them."""
    units: tuple[FloatArray, ...] = ()
    """Values of the units that were kept, by arm; empty where sums were enough."""
    kept: tuple[BoolArray, ...] = ()
    """Which of all units those are, by arm."""


def prepare(outcomes: Outcomes, rule: Rule, variables: Sequence[str]) -> Prepared:
    """Bring the variables of a rule and its covariates together: from sums, or from values where those are needed."""
    lacking = "rows" in variables and outcomes.facts.missing_rows.get(variables[0])
    if lacking:
        return Prepared(problem=f"{lacking} rows have no {variables[0]}; leave them out of the file to compare by rows")
    names = [*variables, *rule.covariates]
    covariates = tuple(range(len(variables), len(names)))
    needed = find_needed_values(outcomes, rule, variables).values
    rows = [outcomes.variables.index(name) for name in names]
    if not needed:
        picked = (UnitMoments(m.n, m.mean[rows], m.products[np.ix_(rows, rows)]) for m in outcomes.moments)
        return Prepared(tuple(picked), covariates, columns=tuple(rows))
    if not needed <= set(outcomes.values):
        return Prepared(problem="it needs the values of single units, and those were purged")
    arms = [np.column_stack([outcomes.values[name][arm] for name in names]) for arm in range(len(outcomes.arms))]
    kept = tuple(np.asarray(~np.isnan(values).any(axis=1)) for values in arms)
    arms = [values[mine] for values, mine in zip(arms, kept, strict=True)]
    cut_at = _cut(arms, rule.winsorise) if rule.winsorise is not None else None
    moments = tuple(moments_of(values) for values in arms)
    return Prepared(moments, covariates, cut_at, columns=tuple(rows), units=tuple(arms), kept=kept)


def _cut(arms: Sequence[FloatArray], probability: float) -> float | None:
    """Cut the first variable in place, at a quantile of the units of all arms together."""
    everyone = np.sort(np.concatenate([values[:, 0] for values in arms]))
    if not everyone.size:
        return None
    cut_at = find_quantile(everyone, probability)
    for values in arms:
        np.minimum(values[:, 0], cut_at, out=values[:, 0])
    return cut_at


def trace_levels(pair: OutcomePair, rule: Rule, prepared: Prepared, levels: ArmLevels) -> Errors:
    """What the error of a comparison of levels is made of: by sums where sums were enough, else by units."""
    weights = trace_harm(levels, pair.arm, margin=rule.margin, direction=rule.direction)
    if prepared.units:
        return from_weights(weights, prepared.units, prepared.kept)
    return Errors(weights @ np.eye(len(pair.outcomes.variables))[list(prepared.columns)])


def describe_adjustment(rule: Rule, prepared: Prepared, levels: ArmLevels | None) -> str:
    """Say what was done to the values: `, adjusted for revenue_pre (variance −41 %), winsorised at 99.9 %`."""
    text = ""
    if rule.covariates and levels is not None:
        text += f", adjusted for {', '.join(rule.covariates)}"
        text += f" (variance {format_number(-100 * levels.explained, sign=True)} %)"
    if rule.winsorise is not None and prepared.cut_at is not None:
        text += f", winsorised at {format_number(rule.winsorise * 100)} % (cut to {format_number(prepared.cut_at)})"
    return text


# ------------------------------------------------------------------ the answer


def name_unit(rule: Rule, *, proportion: bool = False) -> str:
    """Name the unit of a metric's values: `revenue/unit`, `orders/sessions`, `fraction`."""
    if proportion:
        return "fraction"
    if rule.type == "outcome_quantile":
        return str(rule.outcome)
    return f"{rule.outcome}/{rule.per or 'unit'}"


def no_outcome_data(rule: Rule, arm: str, unit: str, why: str, n: tuple[int, int] = (0, 0)) -> Comparison:
    """The answer that there is none, with the reason."""
    return Comparison(
        rule=rule,
        arm=arm,
        unit=unit,
        baseline=ArmValue(None, n[0]),
        candidate=ArmValue(None, n[1]),
        method="none",
        no_data=why,
        status=MetricStatus.NO_DATA,
    )


def nothing(rule: Rule, arm: str, unit: str, why: str, n: tuple[int, int] = (0, 0)) -> Compared:
    """No data, with the reason."""
    return Compared(no_outcome_data(rule, arm, unit, why, n))


def answer_levels(
    pair: OutcomePair, rule: Rule, prepared: Prepared, levels: ArmLevels, *, unit: str, method: str
) -> Compared:
    """Compare the levels of two arms as means are compared."""
    estimate = compare_levels(
        levels, pair.arm, alpha=pair.alpha, margin=rule.margin, direction=rule.direction, limit=rule.limit
    )
    return answer_outcome(
        pair,
        rule,
        estimate,
        unit=unit,
        method=method + describe_adjustment(rule, prepared, levels),
        n=(prepared.moments[0].n, prepared.moments[pair.arm].n),
        trace=lambda: trace_levels(pair, rule, prepared, levels),
        levels=levels,
    )


def answer_outcome(
    pair: OutcomePair,
    rule: Rule,
    estimate: OutcomeEstimate,
    *,
    unit: str,
    method: str,
    n: tuple[int, int],
    trace: Callable[[], Errors],
    levels: ArmLevels | None = None,
) -> Compared:
    """Turn an estimate into a comparison; without finite numbers into the answer that there is none.

    `trace` tells what the error is made of; only gates are asked, as nothing else is a member of the family.
    """
    why = _why_nothing(rule, estimate, n)
    if why:
        return nothing(rule, pair.name, unit, why, n)
    questions = [_question("zero", 0.0, estimate.zero)]
    if rule.margin and estimate.margin:
        questions.append(_question("margin", rule.margin.value, estimate.margin))
    bounds = [bound for bound in (rule.limit.max, rule.limit.min) if bound is not None]
    questions += [_question("limit", bound, asked) for bound, asked in zip(bounds, estimate.limits, strict=True)]
    kind = "relative" if estimate.relative else "absolute"
    made = Comparison(
        rule=rule,
        arm=pair.name,
        unit=unit,
        baseline=ArmValue(estimate.baseline, n[0]),
        candidate=ArmValue(estimate.candidate, n[1]),
        method=method,
        effect=Effect(
            "relative" if kind == "relative" else "absolute", estimate.effect, estimate.lower, estimate.upper
        ),
        questions=tuple(questions),
        detectable_effect=estimate.detectable if math.isfinite(estimate.detectable) else None,
        needed_time=estimate.needed,
        view=_look(pair, rule, estimate, levels),
    )
    return Compared(made, trace() if rule.role is Role.GATE else None)


def _why_nothing(rule: Rule, estimate: OutcomeEstimate, n: tuple[int, int]) -> str:
    if min(n) < MIN_UNITS:
        return f"only {min(n)} units in the smaller arm, at least {MIN_UNITS} are needed"
    if estimate.se == 0 and estimate.df < math.inf:
        return "all units have the same value"
    if rule.margin and rule.margin.relative and estimate.baseline <= 0:
        return "baseline is not above 0, so a relative margin says nothing; set an absolute one"
    asked = [estimate.zero, *([estimate.margin] if estimate.margin else [])]
    if not all(math.isfinite(answers.p_worse) for answers in asked) or not math.isfinite(estimate.effect):
        return "the data give no finite estimate"
    return ""


def _question(kind: str, bound: float, answers: Answers) -> Question:
    named: Mapping[str, Question] = {
        "zero": Question("zero", bound, answers.p_worse, answers.p_within),
        "margin": Question("margin", bound, answers.p_worse, answers.p_within),
        "limit": Question("limit", bound, answers.p_worse, answers.p_within),
    }
    return named[kind]


def _look(pair: OutcomePair, rule: Rule, estimate: OutcomeEstimate, levels: ArmLevels | None) -> View:
    sign = 1.0 if rule.direction is Direction.LOWER else -1.0
    base = abs(estimate.baseline)
    margin = rule.margin.value * (base if rule.margin.relative else 1.0) if rule.margin else 0.0
    harm = sign * (estimate.candidate - estimate.baseline)
    posterior = find_posterior(harm, estimate.se, margin, max(PRIOR_SHARE * base, estimate.se))
    best, dunnett = _among_arms(pair.arm, rule, levels)
    return View(posterior.p_beyond, posterior.p_better, posterior.expected_loss, best, dunnett)


def _among_arms(arm: int, rule: Rule, levels: ArmLevels | None) -> tuple[float | None, float | None]:
    """Probability to be the best, and Dunnett's p-value, where there are several candidates."""
    if levels is None or levels.values.size < 3 or not np.isfinite(levels.values).all() or not (levels.own > 0).all():
        return None, None
    best = probabilities_of_best(levels.values, levels.own, highest=rule.direction is Direction.HIGHER)
    loadings = share_of_baseline(float(levels.own[0]), levels.own[1:])
    t = (levels.values[[arm]] - levels.values[0]) / np.sqrt(levels.own[arm] + levels.own[0])
    return float(best[arm]), float(dunnett_p(t, loadings, float(levels.df.sum()))[0])
