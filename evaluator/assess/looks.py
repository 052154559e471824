"""The looks before the last: each metric's p-values when there were fewer data, at one false-alarm rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluator.assess.base import Pairs
from evaluator.records import Comparison, Direction, Effect, Look, Monitoring, Rulebook
from evaluator.records.arrays import FloatArray
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.inference.sequential import TUNE_AT_S, anytime_p, anytime_z, boundary_z, sequential_p
from evaluator.stats.inference.student import critical_value, t_quantile

Key = tuple[str, str, str | None, bool]


def look_back(pairs: Pairs, last: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
    """Add the earlier looks to each comparison, and turn its p-values into sequential ones."""
    calendar, covered_s, rulebook = pairs.calendar, pairs.covered_s, pairs.rulebook
    if calendar.kind == "fixed":
        return last
    paths: dict[Key, list[Look]] = {}
    for at_s in calendar.interim:
        for comparison in pairs.measure(at_s).comparisons:
            path = paths.setdefault(_key(comparison), [])
            path.append(_look(path, comparison, calendar, at_s, rulebook.monitoring))
    finished = (_finish(c, paths.get(_key(c), []), calendar, covered_s, rulebook.monitoring) for c in last)
    return tuple(repeat_interval(c, calendar, covered_s, rulebook) if c.looks else c for c in finished)


def _key(comparison: Comparison) -> Key:
    """Key of comparisons whose looks belong together. The scan's metric of an endpoint may change between looks."""
    subject = comparison.unit if comparison.scan else comparison.rule.name
    return subject, comparison.arm, comparison.rule.slice.endpoint, comparison.scan


def _look(path: list[Look], comparison: Comparison, calendar: Calendar, at_s: float, monitoring: Monitoring) -> Look:
    """One look. Its p-values are at most those of the look before: a level that was crossed stays crossed."""
    before = path[-1].p_worse if path else ()
    bounds = comparison.deciding
    if not bounds:  # no data at this moment: what was crossed before stays so
        return Look(float(at_s), before)
    persistent = np.full(len(bounds), comparison.persistent_share)
    fraction = min(at_s / max(calendar.planned_s, 1.0), 1.0)
    p_values = np.array([question.p_worse for question in bounds])
    # Ordinary p-values of this moment become p-values over all looks.
    if calendar.kind == "anytime":
        worse = anytime_p(p_values, persistent, at_s, TUNE_AT_S)
    else:
        worse = sequential_p(p_values, fraction, persistent)
    early: FloatArray | tuple[()] = ()
    if monitoring.early_go:
        within = np.array([question.p_within for question in bounds])
        early = sequential_p(within, fraction, persistent, "obrien_fleming")
    return Look(
        float(at_s),
        tuple(float(p) for p in (np.minimum(worse, before) if before else worse)),
        comparison.loadings,
        tuple(float(p) for p in early),
    )


def _finish(
    comparison: Comparison, path: list[Look], calendar: Calendar, covered_s: float, monitoring: Monitoring
) -> Comparison:
    """Set the sequential p-values of the last look; before the last look, those of the latest one.

    Data since the latest look count at the next one: otherwise each request for a verdict would add a look.
    """
    bounds = comparison.deciding
    if comparison.too_coarse:
        # The recorded times are too coarse for the margin, so earlier looks do not count for it either.
        margins = [question.kind == "margin" for question in bounds]
        path = [
            replace(
                look,
                p_worse=tuple(1.0 if margin else p for margin, p in zip(margins, look.p_worse, strict=False)),
            )
            for look in path
        ]
    if calendar.final:
        at_s = covered_s if calendar.kind == "anytime" else calendar.planned_s
        p_values = _look(path, comparison, calendar, at_s, monitoring).p_worse
    else:
        p_values = path[-1].p_worse if path and path[-1].p_worse else (1.0,) * len(bounds)
    last = iter(p_values)
    questions = tuple(
        replace(question, p_worse=next(last)) if question in bounds else question for question in comparison.questions
    )
    return replace(comparison, questions=questions, looks=tuple(path))


def repeat_interval(comparison: Comparison, calendar: Calendar, covered_s: float, rulebook: Rulebook) -> Comparison:
    """The interval as the dual of the decision: its end towards "worse" is valid at every look of the calendar.

    The other end decides GO, which is tested once, unless the policy sets `early_go`.
    """
    effect, df = comparison.effect, comparison.df
    if effect is None or not df:
        return comparison
    monitoring, persistent = rulebook.monitoring, comparison.persistent_share
    if calendar.kind == "anytime":
        z = float(anytime_z(rulebook.alpha, covered_s, TUNE_AT_S, persistent))
    else:
        fraction = 1.0 if calendar.final else min(covered_s / max(calendar.planned_s, 1.0), 1.0)
        z = boundary_z(rulebook.alpha, fraction, persistent)
    once = float(t_quantile(1 - rulebook.alpha, df))
    worse, within = critical_value(z, df) / once, 1.0
    if monitoring.early_go:
        within = critical_value(boundary_z(rulebook.alpha, 1.0, persistent, "obrien_fleming"), df) / once
    down, up = (worse, within) if comparison.rule.direction is Direction.LOWER else (within, worse)
    return replace(
        comparison,
        effect=replace(effect, lower=_move_end(effect, effect.lower, down), upper=_move_end(effect, effect.upper, up)),
    )


def _move_end(effect: Effect, end: float, factor: float) -> float:
    """An end of the interval with its distance from the estimate multiplied; on the log scale for relative effects."""
    if not np.isfinite([end, effect.estimate]).all():
        return end
    if effect.kind == "absolute":
        return effect.estimate + (end - effect.estimate) * factor
    if min(end, effect.estimate) <= -1:
        return end
    return float(np.expm1(np.log1p(effect.estimate) + (np.log1p(end) - np.log1p(effect.estimate)) * factor))
