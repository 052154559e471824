"""The looks before the last: what each metric's p-value was when less data was there, at one false-alarm rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evaluator.metrics.measure import Pairs, measure
from evaluator.records import (
    BLOCK_BUCKETS,
    Cells,
    Comparison,
    Direction,
    Effect,
    Look,
    Monitoring,
    Question,
    Rulebook,
)
from evaluator.records.arrays import FloatArray
from evaluator.stats.calendar import Calendar
from evaluator.stats.sequential import anytime_p, anytime_z, boundary_z, sequential_p
from evaluator.stats.student import critical_value, t_quantile
from evaluator.stats.window import WarmUp

__all__ = ["judged_buckets", "look_back", "look_back_with", "repeat_interval"]

Key = tuple[str, str, str | None, bool]


def judged_buckets(cells: Cells, warm_up: WarmUp) -> tuple[int, int]:
    """First bucket that is judged, at the start of its block, and the bucket after the last."""
    moments = cells.moments
    if not moments.bucket.size:
        return 0, 0
    first = min(warm_up.first_bucket.values())
    return first // BLOCK_BUCKETS * BLOCK_BUCKETS, int(moments.bucket.max()) + 1


def look_back(
    pairs: Pairs, warm_up: WarmUp, calendar: Calendar, last: tuple[Comparison, ...]
) -> tuple[Comparison, ...]:
    """Give each comparison its earlier looks, and turn its p-values into sequential ones."""
    cells = pairs.cells
    start, end = judged_buckets(cells, warm_up)

    def measure_at(at_s: int) -> tuple[Comparison, ...]:
        return measure(pairs, before_bucket=start + at_s // cells.bucket_s).comparisons

    return look_back_with(measure_at, calendar, (end - start) * cells.bucket_s, pairs.rulebook, last)


def look_back_with(
    measure_at: Callable[[int], tuple[Comparison, ...]],
    calendar: Calendar,
    covered_s: float,
    rulebook: Rulebook,
    last: tuple[Comparison, ...],
) -> tuple[Comparison, ...]:
    """The same for whatever can be measured as it was after so many seconds of judged data."""
    if calendar.kind == "fixed":
        return last
    monitoring = rulebook.monitoring
    paths: dict[Key, list[Look]] = {}
    for at_s in calendar.interim:
        for comparison in measure_at(at_s):
            path = paths.setdefault(_key(comparison), [])
            path.append(_look(path, comparison, calendar, at_s, monitoring))
    finished = (_finish(c, paths.get(_key(c), []), calendar, covered_s, monitoring) for c in last)
    return tuple(repeat_interval(c, calendar, covered_s, rulebook) if c.looks else c for c in finished)


def _key(comparison: Comparison) -> Key:
    """Whose looks belong together. The scan may ask for an endpoint's mean at one look, its typical time at another."""
    asked = comparison.unit if comparison.scan else comparison.rule.name
    return asked, comparison.arm, comparison.rule.slice.endpoint, comparison.scan


def _bounds(comparison: Comparison) -> list[Question]:
    """The questions that can stop a release."""
    return [question for question in comparison.questions if question.decides] or list(comparison.questions)


def _look(path: list[Look], comparison: Comparison, calendar: Calendar, at_s: float, monitoring: Monitoring) -> Look:
    """One look, with everything crossed before it: a level that was crossed stays crossed."""
    bounds = _bounds(comparison)
    lasting = np.full(len(bounds), comparison.lasting_share)
    worse = _sequential(np.array([q.p_worse for q in bounds]), lasting, calendar, at_s, monitoring.tune_at_s)
    early: FloatArray | tuple[()] = ()
    if monitoring.early_go:
        within = np.array([q.p_within for q in bounds])
        early = sequential_p(within, min(at_s / max(calendar.planned_s, 1.0), 1.0), lasting, "obrien_fleming")
    before = path[-1].p_worse if path else ()
    if not bounds:  # no data at this moment: what was crossed before stays so
        return Look(float(at_s), before)
    return Look(
        float(at_s),
        tuple(float(p) for p in (np.minimum(worse, before) if before else worse)),
        comparison.loadings,
        tuple(float(p) for p in early),
    )


def _sequential(
    p_values: FloatArray, lasting: FloatArray, calendar: Calendar, at_s: float, tune_at_s: float
) -> FloatArray:
    """What ordinary p-values at this moment are worth, given that there are other looks."""
    if calendar.kind == "anytime":
        return anytime_p(p_values, lasting, at_s, tune_at_s)
    return sequential_p(p_values, min(at_s / max(calendar.planned_s, 1.0), 1.0), lasting)


def _finish(
    comparison: Comparison, path: list[Look], calendar: Calendar, covered_s: float, monitoring: Monitoring
) -> Comparison:
    """The last look's own p-values, made sequential; before it, those of the look that came last.

    Data that arrived since that look count at the next one: else whoever asks in between would add a look of his own.
    """
    bounded = _bounds(comparison)
    if comparison.too_coarse:
        path = [_forget_margin(look, bounded) for look in path]
    if calendar.final:
        at_s = covered_s if calendar.kind == "anytime" else calendar.planned_s
        p_values = _look(path, comparison, calendar, at_s, monitoring).p_worse
    else:
        p_values = path[-1].p_worse if path and path[-1].p_worse else (1.0,) * len(bounded)
    last = iter(p_values)
    questions = tuple(
        replace(question, p_worse=next(last)) if question in bounded else question for question in comparison.questions
    )
    return replace(comparison, questions=questions, looks=tuple(path))


def _forget_margin(look: Look, bounded: list[Question]) -> Look:
    """The look without what it said of a margin for which the recorded times turned out to be too coarse."""
    known = zip(bounded, look.p_worse, strict=False)
    return replace(look, p_worse=tuple(1.0 if question.kind == "margin" else p for question, p in known))


def repeat_interval(comparison: Comparison, calendar: Calendar, covered_s: float, rulebook: Rulebook) -> Comparison:
    """The interval as the dual of the decision: its end towards "worse" may be looked at as often as the calendar does.

    The other end decides GO, which is asked once, unless the policy sets `early_go`.
    """
    effect, df = comparison.effect, comparison.df
    if effect is None or not df:
        return comparison
    once = float(t_quantile(1 - rulebook.alpha, df))
    worse = critical_value(_last_z(comparison, calendar, covered_s, rulebook), df) / once
    within = 1.0
    if rulebook.monitoring.early_go:
        z = boundary_z(rulebook.alpha, 1.0, comparison.lasting_share, "obrien_fleming")
        within = critical_value(z, df) / once
    down, up = (worse, within) if comparison.rule.direction is Direction.LOWER else (within, worse)
    return replace(
        comparison,
        effect=replace(effect, lower=_stretch(effect, effect.lower, down), upper=_stretch(effect, effect.upper, up)),
    )


def _last_z(comparison: Comparison, calendar: Calendar, covered_s: float, rulebook: Rulebook) -> float:
    if calendar.kind == "anytime":
        tune_at_s = rulebook.monitoring.tune_at_s
        return float(anytime_z(rulebook.alpha, covered_s, tune_at_s, comparison.lasting_share))
    fraction = 1.0 if calendar.final else min(covered_s / max(calendar.planned_s, 1.0), 1.0)
    return boundary_z(rulebook.alpha, fraction, comparison.lasting_share)


def _stretch(effect: Effect, end: float, factor: float) -> float:
    """An end of the interval, moved away from the estimate by this factor: of the logarithm where it is relative."""
    if not np.isfinite([end, effect.estimate]).all():
        return end
    if effect.kind == "absolute":
        return effect.estimate + (end - effect.estimate) * factor
    if min(end, effect.estimate) <= -1:
        return end
    return float(np.expm1(np.log1p(effect.estimate) + (np.log1p(end) - np.log1p(effect.estimate)) * factor))
