"""The looks before the last: each metric's p-values when there were fewer data, at one false-alarm rate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from evaluator.assess.base import Pairs
from evaluator.records import Comparison, Direction, Effect, Look, Monitoring, Role, Rulebook
from evaluator.records.arrays import FloatArray
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.inference.sequential import TUNE_AT_S, anytime_p, anytime_z, boundary_z, sequential_p
from evaluator.stats.inference.student import critical_value, t_quantile

Key = tuple[str, str, str | None, bool]
"""Name of the rule (for the scan: unit), candidate, endpoint (`None`: all), and whether it belongs to the scan."""


def look_back(pairs: Pairs, last: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
    """Add the earlier looks to each comparison of `last`, the last look, and turn its p-values into sequential ones.

    With one look only, nothing changes, but for the intervals if NO-GO is decided at a level of its own.
    """
    calendar, covered_s, rulebook = pairs.calendar, pairs.covered_s, pairs.rulebook
    if calendar.kind == "fixed":
        if rulebook.alpha_no_go is None:
            return last
        return tuple(repeat_interval(comparison, calendar, covered_s, rulebook) for comparison in last)
    looks_by_key: dict[Key, list[Look]] = {}  # the earlier looks at a comparison, in the order of time
    for at_s in calendar.interim:
        for comparison in pairs.measure(at_s).comparisons:
            looks = looks_by_key.setdefault(_make_key(comparison), [])
            looks.append(_make_look(looks, comparison, calendar, at_s, rulebook.monitoring))
    out = []
    for comparison in last:
        looks = looks_by_key.get(_make_key(comparison), [])
        sequential = _finish(comparison, looks, calendar, covered_s, rulebook.monitoring)
        out.append(repeat_interval(sequential, calendar, covered_s, rulebook) if sequential.looks else sequential)
    return tuple(out)


def _make_key(comparison: Comparison) -> Key:
    """Make the key that comparisons share whose looks belong together.

    The scan compares an endpoint's time by one of two metrics, which may change between looks: both have one unit.
    """
    subject = comparison.unit if comparison.scan else comparison.rule.name
    return subject, comparison.arm, comparison.rule.slice.endpoint, comparison.scan


def _make_look(
    earlier_looks: list[Look], comparison: Comparison, calendar: Calendar, at_s: float, monitoring: Monitoring
) -> Look:
    """Turn a comparison at one moment into a look, whose p-values hold over all looks.

    p-values of "worse" are at most those of the look before, because a level that was crossed stays crossed.

    Args:
        earlier_looks: The looks before, in the order of time.
        comparison: The comparison of the first `at_s` seconds of judged data, with ordinary p-values.
        calendar: All looks.
        at_s: The moment of this look.
        monitoring: Whether an early GO is possible; then p-values of "within" are computed as well.
    """
    p_worse_before = earlier_looks[-1].p_worse if earlier_looks else ()  # of each deciding question
    questions = comparison.deciding
    if not questions:  # no data at this moment: what was crossed before stays so
        return Look(float(at_s), p_worse_before)
    # The arrays have an element for each deciding question.
    persistent = np.full(len(questions), comparison.persistent_share)  # share of the variance that time does not shrink
    fraction = min(at_s / max(calendar.planned_s, 1.0), 1.0)  # of the planned data
    ordinary_p = np.array([question.p_worse for question in questions])
    if calendar.kind == "anytime":
        p_worse = anytime_p(ordinary_p, persistent, at_s, TUNE_AT_S)  # narrowest after TUNE_AT_S seconds of data
    else:
        p_worse = sequential_p(ordinary_p, fraction, persistent)
    if p_worse_before:
        p_worse = np.minimum(p_worse, p_worse_before)
    p_within: FloatArray | tuple[()] = ()
    if monitoring.early_go:
        # "within" has an error rate of its own. It is spent as O'Brien and Fleming do: almost all of it at late looks.
        ordinary_p_within = np.array([question.p_within for question in questions])
        p_within = sequential_p(ordinary_p_within, fraction, persistent, "obrien_fleming")
    return Look(
        at_s=float(at_s),
        p_worse=tuple(float(p) for p in p_worse),
        loadings=comparison.loadings,
        p_within=tuple(float(p) for p in p_within),
    )


def _finish(
    comparison: Comparison, earlier_looks: list[Look], calendar: Calendar, covered_s: float, monitoring: Monitoring
) -> Comparison:
    """Set the sequential p-values of a comparison, and its earlier looks.

    At the last look its own p-values count. Before that, those of the latest planned look count: data since then count
    at the next look, because otherwise each request for a verdict would add a look.
    """
    deciding = comparison.deciding
    if comparison.too_coarse:
        # The recorded times are too coarse for the margin, so earlier looks do not count for it either.
        earlier_looks = [replace(look, p_worse=_without_margins(comparison, look.p_worse)) for look in earlier_looks]
    if calendar.final:
        at_s = covered_s if calendar.kind == "anytime" else calendar.planned_s
        p_worse = _make_look(earlier_looks, comparison, calendar, at_s, monitoring).p_worse
    else:
        latest_p_worse = earlier_looks[-1].p_worse if earlier_looks else ()
        p_worse = latest_p_worse or (1.0,) * len(deciding)  # no planned look, or no data at it: nothing is shown
    remaining_p = iter(p_worse)  # in the order of the deciding questions
    questions = tuple(
        replace(question, p_worse=next(remaining_p)) if question in deciding else question
        for question in comparison.questions
    )
    return replace(comparison, questions=questions, looks=tuple(earlier_looks))


def _without_margins(comparison: Comparison, p_worse: tuple[float, ...]) -> tuple[float, ...]:
    """Replace the p-value of the margin by 1; `p_worse`: of each deciding question, or empty without data."""
    is_margin = [question.kind == "margin" for question in comparison.deciding]
    return tuple(1.0 if margin else p for margin, p in zip(is_margin, p_worse, strict=False))


def repeat_interval(comparison: Comparison, calendar: Calendar, covered_s: float, rulebook: Rulebook) -> Comparison:
    """Widen the interval so that it agrees with the decision at every look (a repeated confidence interval).

    The end towards better values decides "worse", which is tested at every look. The other end decides "within the
    margin", which is tested once, unless the policy sets `early_go`. `covered_s`: seconds of judged data until now.
    NO-GO may be decided at a lower level than GO: then the interval covers more than its level says.
    """
    effect, df = comparison.effect, comparison.df
    if effect is None or not df:  # the factors below are those of a t distribution with `df` degrees of freedom
        return comparison
    monitoring, persistent = rulebook.monitoring, comparison.persistent_share
    # The bound that a standardised (normal) estimate must pass at this look, so that all looks share one error rate.
    decides_no_go = comparison.scan or comparison.rule.role is Role.GATE
    level = rulebook.no_go_level if decides_no_go else rulebook.alpha
    if calendar.kind == "fixed" and level == rulebook.alpha:
        return comparison
    if calendar.kind == "anytime":
        z_worse = float(anytime_z(level, covered_s, TUNE_AT_S, persistent))
    elif calendar.kind == "fixed":
        z_worse = float(t_quantile(1 - level, math.inf))
    else:
        fraction = 1.0 if calendar.final else min(covered_s / max(calendar.planned_s, 1.0), 1.0)  # of the planned data
        z_worse = boundary_z(level, fraction, persistent)
    # By these factors the distance between the estimate and an end of the interval grows, from that of a single look.
    # `critical_value` turns the bound of a normal estimate into that of a t statistic.
    critical_of_one_look = float(t_quantile(1 - rulebook.alpha, df))
    factor_of_worse = critical_value(z_worse, df) / critical_of_one_look
    factor_of_within = 1.0
    if monitoring.early_go:
        # The bound of the last look, at all of the planned data.
        z_within = boundary_z(rulebook.alpha, 1.0, persistent, "obrien_fleming")
        factor_of_within = critical_value(z_within, df) / critical_of_one_look
    lower_factor, upper_factor = factor_of_worse, factor_of_within
    if comparison.rule.direction is Direction.HIGHER:
        lower_factor, upper_factor = factor_of_within, factor_of_worse
    lower, upper = _move_end(effect, effect.lower, lower_factor), _move_end(effect, effect.upper, upper_factor)
    return replace(comparison, effect=replace(effect, lower=lower, upper=upper))


def _move_end(effect: Effect, end: float, factor: float) -> float:
    """Multiply the distance of an end of the interval from the estimate by `factor`; on the log scale if relative.

    Returns the new end. An end that is infinite, or has no logarithm (−100 %), is not moved.
    """
    if not np.isfinite([end, effect.estimate]).all():
        return end
    if effect.kind == "absolute":
        return effect.estimate + (end - effect.estimate) * factor
    if min(end, effect.estimate) <= -1:
        return end
    return float(np.expm1(np.log1p(effect.estimate) + (np.log1p(end) - np.log1p(effect.estimate)) * factor))
