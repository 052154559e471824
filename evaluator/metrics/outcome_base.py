"""The base of metrics of outcomes: each declares the values that it needs, gets them, and answers its rule.

Sums of units (`Outcomes.moments`) are always there. Values of single units, or of single rows, are read only for
metrics that need them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from evaluator.fields import Name
from evaluator.metrics.base import list_questions, no_data
from evaluator.metrics.options import Covariates, MetricModel, Winsorise
from evaluator.records import (
    ArmValue,
    Comparison,
    Direction,
    Effect,
    EvidenceKind,
    Outcomes,
    Role,
    Rule,
    UnitMoments,
    View,
)
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.outcomes.arms import dunnett_p, find_posterior, probabilities_of_best, share_of_baseline
from evaluator.stats.outcomes.joint import Errors, split_by_units
from evaluator.stats.outcomes.levels import (
    ArmLevels,
    OutcomeEstimate,
    adjust_levels,
    compare_levels,
    linear_mean,
    linear_ratio,
    moments_of,
    trace_harm,
)
from evaluator.stats.outcomes.quantiles import find_quantile
from evaluator.wording import USERS, format_number

MIN_UNITS = 30
PRIOR_SHARE = 0.2
"""Standard deviation of the Bayesian view's prior, as a share of the baseline's own value."""


ROWS = "rows"
"""The variable by which an outcome is divided to compare rows: the number of rows of a unit."""
RATIO_METHOD = "ratio of sums, delta method, clustered by unit"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a metric reads in addition to the sums over units."""

    values: frozenset[str] = frozenset()
    """Variables and covariates whose values of single units it reads."""
    row_values: frozenset[str] = frozenset()
    """Outcomes whose values of single rows it reads."""

    def __or__(self, other: Needs) -> Needs:
        """Return what at least one of both needs."""
        return Needs(self.values | other.values, self.row_values | other.row_values)


@dataclass(frozen=True, slots=True)
class OutcomePair:
    """Outcomes of the baseline and one candidate."""

    outcomes: Outcomes
    arm: int
    """Index of the candidate among the arms."""
    alpha: float

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.outcomes.arms[self.arm]


@dataclass(frozen=True, slots=True)
class Compared:
    """One answer, and the components of its error."""

    comparison: Comparison
    errors: Errors | None = None
    """`None`: it is not a gate, or has no data."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Moments of all arms over the chosen variables, covariates last; `problem`: why there are none."""

    moments: tuple[UnitMoments, ...] = ()
    """By arm."""
    covariates: tuple[str, ...] = ()
    note: str = ""
    """How the values were changed, to be added to the name of the method."""
    problem: str = ""
    columns: tuple[int, ...] = ()
    """Positions of the chosen variables among all variables."""
    units: tuple[FloatArray, ...] = ()
    """By arm: values of the units that were kept, shape (units kept, variables); empty if sums were enough."""
    complete: tuple[BoolArray, ...] = ()
    """By arm: which of all units were kept, because no value of them is missing, shape (units,)."""

    def find_levels(self) -> ArmLevels:
        """Find the level of each arm (the value that is compared), adjusted for the covariates.

        With one variable it is the mean over units, with two the ratio of their sums.
        """
        variables = len(self.columns) - len(self.covariates)  # the covariates are the last columns
        # A level as a linear function of the means of the variables (by their columns), which the adjustment needs.
        if variables == 2:
            linear = [linear_ratio(of_arm, 0, 1) for of_arm in self.moments]
        else:
            linear = [linear_mean(of_arm, 0) for of_arm in self.moments]
        return adjust_levels(linear, self.moments, range(variables, len(self.columns)))

    def count(self, arm: int) -> tuple[int, int]:
        """Count the units of the baseline and of one arm (its position among the arms)."""
        return self.moments[0].n, self.moments[arm].n


class OutcomeMetric(MetricModel):
    """A metric of outcomes. Without enough data its answer is a comparison without data, never an error."""

    evidence: ClassVar[EvidenceKind] = EvidenceKind.OUTCOMES
    direction: ClassVar[Direction] = Direction.HIGHER
    any_direction: ClassVar[bool] = True

    outcome: Name = Field(description="The column of the imported outcomes.", examples=["revenue"])

    @abstractmethod
    def compare(self, pair: OutcomePair, rule: Rule) -> Compared:
        """Answer a rule."""

    def needs(self, outcomes: Outcomes) -> Needs:
        """Find what it reads in addition to the sums over units, which are enough unless values are cut or missing."""
        # The variable `x?` tells whether `x` happened: it has no values where `x` has none.
        has_missing = any(name.removesuffix("?") in outcomes.facts.missing for name in self.variables)
        # An outcome that is not binary has no variable `x?`; its comparison says so, and needs no values.
        are_imported = set(self.variables) <= set(outcomes.variables)
        if are_imported and (has_missing or self.cut_above is not None):
            return Needs(frozenset([*self.variables, *self.covariate_names]))
        return Needs()

    def prepare(self, outcomes: Outcomes) -> Prepared:
        """Select the metric's variables and covariates: from sums over units, or from values of units if it needs them.

        The sums of an arm are its moments: number of units, mean of each variable, and products of deviations. Units
        without a value of one of them are left out, and large values are cut if the metric says so.
        """
        variables, covariates = self.variables, self.covariate_names
        # A mean over rows divides by the number of rows, which must then all have a value.
        missing_rows = outcomes.facts.missing_rows.get(self.outcome, 0) if ROWS in variables else 0
        if missing_rows:
            why = f"{missing_rows} rows have no {self.outcome}; leave them out of the file to compare by rows"
            return Prepared(problem=why)
        names = [*variables, *covariates]  # of the columns of all arrays below
        positions = [outcomes.variables.index(name) for name in names]
        needed_values = self.needs(outcomes).values  # variables whose values of single units are needed; empty: none
        if not needed_values:
            moments = tuple(
                UnitMoments(of_arm.n, of_arm.mean[positions], of_arm.products[np.ix_(positions, positions)])
                for of_arm in outcomes.moments
            )
            return Prepared(moments, covariates, columns=tuple(positions))
        if not needed_values <= set(outcomes.values):
            return Prepared(problem=f"it needs the values of single {USERS}, which were purged")
        # By arm: values of all units, shape (units, variables).
        values_by_arm = [
            np.column_stack([outcomes.values[name][arm] for name in names]) for arm in range(len(outcomes.arms))
        ]
        # By arm: which units have all values, shape (units,); the others are left out.
        complete = tuple(np.asarray(~np.isnan(values).any(axis=1)) for values in values_by_arm)
        kept = [values[is_complete] for values, is_complete in zip(values_by_arm, complete, strict=True)]
        note = self._winsorise(kept)
        moments = tuple(moments_of(values) for values in kept)
        return Prepared(moments, covariates, note, columns=tuple(positions), units=tuple(kept), complete=complete)

    def _winsorise(self, values_by_arm: list[FloatArray]) -> str:
        """Cut large values of the outcome, the first column, in place; returns a note on it, empty if nothing is cut.

        They are cut to the quantile `cut_above` of the units of all arms together. `values_by_arm`: for each arm an
        array of shape (units, variables).
        """
        if self.cut_above is None or not any(values.size for values in values_by_arm):
            return ""
        cut_at = find_quantile(np.sort(np.concatenate([values[:, 0] for values in values_by_arm])), self.cut_above)
        for values in values_by_arm:
            np.minimum(values[:, 0], cut_at, out=values[:, 0])
        return f", winsorised at {format_number(self.cut_above * 100)} % (cut to {format_number(cut_at)})"

    @property
    def cut_above(self) -> float | None:
        """Quantile of all units above which values of its outcome are cut to it."""
        return None

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Outcomes that it reads, as they were imported."""
        return (self.outcome,)

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables of the outcomes that it compares."""
        return (self.outcome,)


class RowsMetric(OutcomeMetric):
    """A metric of units, or with `per: rows` of their rows."""

    per: Name | None = Field(None, description="rows: compare rows, clustered by unit.")

    @field_validator("per")
    @classmethod
    def _check_per(cls, value: str | None) -> str | None:
        """Refuse another value than `rows`; `None`: units are compared."""
        if value not in (None, ROWS):
            raise ValueError(f"of {cls.type} can only be rows, not '{value}'")
        return value


class AdjustedMetric(OutcomeMetric):
    """A metric that can be adjusted for covariates: values of units that were known before the test."""

    covariates: Covariates = None

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Columns known before the test that it is adjusted for."""
        return self.covariates or ()


class MeanMetric(AdjustedMetric):
    """A mean of units, or a ratio of sums, adjusted for covariates where there are any."""

    method: ClassVar[str]
    """Name of the statistical method, as a verdict shows it."""

    winsorise: Winsorise = None

    @property
    def note(self) -> str:
        """At which quantile its values are cut, for its name."""
        return "" if self.winsorise is None else f" (winsorised at {format_number(self.winsorise * 100)} %)"

    @property
    def uncut_mean(self) -> str:
        """Its outcome; empty if values are cut."""
        return "" if self.winsorise else self.outcome

    @property
    def cut_above(self) -> float | None:
        """Quantile of all units above which values of its outcome are cut to it."""
        return self.winsorise

    def compare(self, pair: OutcomePair, rule: Rule) -> Compared:
        """Answer a rule by comparing the levels of the arms."""
        return answer_levels(pair, rule, self.prepare(pair.outcomes), self.method)


def trace_levels(pair: OutcomePair, rule: Rule, prepared: Prepared, levels: ArmLevels) -> Errors:
    """Trace the error of a comparison of levels: to the means of variables if sums were enough, else to units.

    Errors of several comparisons of the same units are correlated; the components of the errors tell how. A weight says
    how much the compared harm grows with the mean of one variable on one arm.
    """
    weights = trace_harm(levels, pair.arm, margin=rule.margin, direction=rule.direction)  # (arms, chosen variables)
    if prepared.units:
        return split_by_units(weights, prepared.units, prepared.complete)
    # Move the weights to the positions of the chosen variables among all variables; the others get 0.
    chosen_to_all = np.eye(len(pair.outcomes.variables))[list(prepared.columns)]  # (chosen variables, all variables)
    return Errors(weights @ chosen_to_all)


# ------------------------------------------------------------------ the answer


def answer_levels(pair: OutcomePair, rule: Rule, prepared: Prepared, method: str) -> Compared:
    """Answer a rule by comparing the levels of baseline and candidate; `method`: its name, for the verdict.

    With covariates the levels are adjusted by regression with slopes of each arm.
    """
    if prepared.problem:
        return Compared(no_data(rule, pair.name, prepared.problem))
    levels = prepared.find_levels()
    estimate = compare_levels(
        levels, pair.arm, alpha=pair.alpha, margin=rule.margin, direction=rule.direction, limit=rule.limit
    )
    if prepared.covariates:
        explained = format_number(-100 * levels.explained, sign=True)  # change of the variance by the adjustment, %
        method += f", adjusted for {', '.join(prepared.covariates)} (variance {explained} %)"
    return answer_outcome(
        pair,
        rule,
        estimate,
        method=method + prepared.note,
        n=prepared.count(pair.arm),
        trace=lambda: trace_levels(pair, rule, prepared, levels),
        levels=levels,
    )


def answer_outcome(
    pair: OutcomePair,
    rule: Rule,
    estimate: OutcomeEstimate,
    *,
    method: str,
    n: tuple[int, int],
    trace: Callable[[], Errors],
    levels: ArmLevels | None = None,
) -> Compared:
    """Turn an estimate into a comparison; without finite numbers, into a comparison without data.

    Args:
        pair: The pair that was compared.
        rule: The rule to answer.
        estimate: The estimate of its difference.
        method: Name of the statistical method.
        n: Units of baseline and candidate.
        trace: Returns the components of the error. Called for gates only, because only gates share a false-alarm rate.
        levels: Levels of all arms, for the Bayesian view of several candidates; `None`: there are none.
    """
    why = _explain_no_answer(rule, estimate, n)
    if why:
        return Compared(no_data(rule, pair.name, why, n=n))
    questions = list_questions(rule, estimate.against_zero, estimate.against_margin, estimate.against_limit)
    comparison = Comparison(
        rule=rule,
        arm=pair.name,
        unit=rule.metric.value_unit,
        baseline=ArmValue(estimate.baseline, n[0]),
        candidate=ArmValue(estimate.candidate, n[1]),
        method=method,
        effect=Effect("relative" if estimate.relative else "absolute", estimate.effect, estimate.lower, estimate.upper),
        questions=tuple(questions),
        detectable_effect=estimate.detectable if math.isfinite(estimate.detectable) else None,
        needed_time=estimate.needed,
        view=_find_view(pair, rule, estimate, levels),
    )
    return Compared(comparison, trace() if rule.role is Role.GATE else None)


def _explain_no_answer(rule: Rule, estimate: OutcomeEstimate, n: tuple[int, int]) -> str:
    """Say why an estimate gives no answer; empty: it gives an answer. `n`: units of baseline and candidate."""
    if min(n) < MIN_UNITS:
        return f"only {min(n)} {USERS} in the smaller arm, at least {MIN_UNITS} are needed"
    # Without variation a t-test has no answer. A score test has one: the variance follows from the proportions. Its
    # degrees of freedom are infinite.
    if estimate.se == 0 and estimate.df < math.inf:
        return f"all {USERS} have the same value"
    if rule.margin and rule.margin.relative and estimate.baseline <= 0:
        return "baseline is not above 0, so there is no ratio; set an absolute margin"
    numbers = (estimate.effect, estimate.against_zero.p_worse, estimate.against_margin.p_worse)
    if not all(math.isfinite(number) for number in numbers):
        return "the data give no finite estimate"
    return ""


def _find_view(pair: OutcomePair, rule: Rule, estimate: OutcomeEstimate, levels: ArmLevels | None) -> View:
    """Find the Bayesian view of a comparison; with several candidates also the probability that this one is the best.

    The view is only shown: it decides nothing. Before the test, the harm (change for the worse, in the outcome's unit)
    is assumed to be normal around 0; the posterior is that assumption corrected by the estimate.

    Args:
        pair: Baseline and candidate.
        rule: Gives margin and direction.
        estimate: The estimate of their difference.
        levels: Levels of all arms; `None`: there are none, and the view is of this candidate alone.
    """
    harm_sign = 1.0 if rule.direction is Direction.LOWER else -1.0
    baseline = abs(estimate.baseline)
    margin = 0.0  # in the unit of the outcome
    if rule.margin:
        margin = rule.margin.value * baseline if rule.margin.relative else rule.margin.value
    harm = harm_sign * (estimate.candidate - estimate.baseline)
    prior_sd = max(PRIOR_SHARE * baseline, estimate.se)  # not narrower than the estimate, or it would outweigh the data
    posterior = find_posterior(harm, estimate.se, margin, prior_sd)
    view = View(posterior.p_beyond, posterior.p_better, posterior.expected_loss)
    # `levels.own`: the variance of the level of each arm.
    if levels is None or levels.values.size < 3 or not np.isfinite(levels.values).all() or not (levels.own > 0).all():
        return view
    # At least two candidates: the probability of being the best, and Dunnett's p-value, which is adjusted for comparing
    # several candidates with one baseline. Their estimates are correlated through the baseline, as `loadings` say.
    p_best = probabilities_of_best(levels.values, levels.own, highest=rule.direction is Direction.HIGHER)
    loadings = share_of_baseline(float(levels.own[0]), levels.own[1:])
    t = (levels.values[[pair.arm]] - levels.values[0]) / np.sqrt(levels.own[pair.arm] + levels.own[0])  # shape (1,)
    p_dunnett = dunnett_p(t, loadings, float(levels.df.sum()))  # two-sided
    return replace(view, p_best=float(p_best[pair.arm]), p_dunnett=float(p_dunnett[0]))
