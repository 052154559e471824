"""Gauges: their mean, the mean of each minute's largest sample, and their trend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evaluator.metrics.base import Pair, answer, no_data
from evaluator.metrics.reading_base import (
    NOTHING,
    ReadingMetric,
    ReadingPair,
    check_length,
    check_series,
    no_readings,
    show_unit,
)
from evaluator.records import Comparison, Query, QueryKind, Rule
from evaluator.stats.differences import compare_differences
from evaluator.stats.estimate import Estimate, Trend
from evaluator.stats.means import compare_means
from evaluator.stats.panel import Panel
from evaluator.stats.reading_panels import ReadingView, build_gauge_panel, build_peak_panel, build_trend_panel

__all__ = ["GAUGE_MAX", "GAUGE_MEAN", "GAUGE_SLOPE"]

FITTED = 2
"""What a trend takes from its own residuals: a level and a line."""

Build = Callable[[ReadingView, str, Query, float, str | None], Panel | None]


def compare_gauge_mean(pair: ReadingPair, rule: Rule) -> Comparison:
    """Mean over time and instances."""
    return _compare_levels(pair, rule, GAUGE_MEAN, build_gauge_panel)


def compare_gauge_max(pair: ReadingPair, rule: Rule) -> Comparison:
    """Mean over minutes of each instance's largest sample."""
    return _compare_levels(pair, rule, GAUGE_MAX, build_peak_panel)


def _compare_levels(pair: ReadingPair, rule: Rule, metric: ReadingMetric, build: Build) -> Comparison:
    unit = show_unit(rule, metric)
    why = check_series(pair, rule, metric)
    key = (build.__name__, *rule.queries, rule.scale, rule.slice.endpoint)
    panel = None if why else pair.lay(key, lambda: _build(pair.view, pair, rule, build))
    why = why or check_length(pair, panel)
    if why or panel is None:
        return no_readings(rule, pair.arm, unit, why or NOTHING)
    both = pair.of(panel)
    method, n = f"paired mean, {both.design.kind}", (both.requests(0), both.requests(1))
    relative, positive = rule.margin is None or rule.margin.relative, _is_positive(panel)
    if rule.margin is not None and relative and not positive:
        why = "some of its values are 0 or negative, so there is no ratio: give it an absolute margin"
        return no_data(both, rule, unit, why)
    if relative and positive:
        return answer(both, rule, _compare_relative(both, rule), unit=unit, method=method, n=n)
    estimate = _compare_absolute(both, rule, _assume(both), rule.margin.value if rule.margin else 0.0)
    return _as_difference(answer(both, rule, estimate, unit=unit, method=method, n=n))


def _build(view: ReadingView, pair: ReadingPair, rule: Rule, build: Build) -> Panel | None:
    return build(view, pair.arm, rule.queries[0], rule.scale, rule.slice.endpoint)


def _is_positive(panel: Panel) -> bool:
    """Is every instance above 0 in every block? Only then is the logarithm of a level what its influences say."""
    rows = panel.rows
    return bool((rows.totals["value"][rows.n > 0] > 0).all())


def _assume(both: Pair) -> float:
    """Spread assumed of a single instance: a share of the level."""
    level = np.abs(both.panel.totals["value"].sum(axis=(1, 2)) / both.panel.n.sum(axis=(1, 2)))
    return both.prior.sd_latency * float(level.max())


def _compare_relative(both: Pair, rule: Rule) -> Estimate:
    return compare_means(
        both.panel,
        both.design,
        alpha=both.alpha,
        margin=rule.margin,
        sd_instance=both.prior.sd_latency,
        direction=rule.direction,
        limit=rule.limit,
        depth=both.depth,
        of="value",
    )


def _compare_absolute(both: Pair, rule: Rule, sd_instance: float, margin: float, fitted: int = 0) -> Estimate:
    return compare_differences(
        both.panel,
        both.design,
        alpha=both.alpha,
        margin=margin,
        sd_instance=sd_instance,
        direction=rule.direction,
        limit=rule.limit,
        fitted=fitted,
    )


def compare_gauge_slope(pair: ReadingPair, rule: Rule) -> Comparison:
    """Difference of the trends per hour, by least squares around each instance's own mean."""
    unit = show_unit(rule, GAUGE_SLOPE)
    why = check_series(pair, rule, GAUGE_SLOPE)
    # Means of instances change with every look, so nothing is kept of the one before.
    view = pair.seen()
    panel = None if why else _build(view, pair, rule, build_trend_panel)
    why = why or check_length(pair, panel)
    if why or panel is None:
        return no_readings(rule, pair.arm, unit, why or NOTHING)
    both = pair.of(panel)
    if rule.margin is not None and rule.margin.relative:
        return no_data(both, rule, unit, f"a trend may be 0, so there is no ratio: give it a margin in {unit}")
    slopes = panel.totals["value"].sum(axis=(1, 2)) / panel.n.sum(axis=(1, 2))
    margin = rule.margin.value if rule.margin else 0.0
    estimate = _compare_absolute(both, rule, float(np.abs(slopes).max()), margin, fitted=FITTED)
    # A trend of the trend is not asked for.
    beyond = estimate.against_margin.beyond
    estimate = replace(estimate, trend=Trend(beyond, np.full(1, np.nan), beyond))
    method = f"least squares, {both.design.kind}"
    return _as_difference(answer(both, rule, estimate, unit=unit, method=method, n=_count(view, pair, rule)))


def _count(view: ReadingView, pair: ReadingPair, rule: Rule) -> tuple[int, int]:
    """Samples of both arms."""
    rows = view.find(rule.queries[0], 0, rule.slice.endpoint)
    baseline, candidate = (int(view.readings.n[rows][view.readings.arm[rows] == arm].sum()) for arm in pair.arms)
    return baseline, candidate


def _as_difference(comparison: Comparison) -> Comparison:
    """The effect named as what it is, also where no margin says so."""
    effect = comparison.effect
    return replace(comparison, effect=replace(effect, kind="absolute")) if effect else comparison


GAUGE_MEAN = ReadingMetric((QueryKind.GAUGE,), compare_gauge_mean)
GAUGE_MAX = ReadingMetric((QueryKind.GAUGE,), compare_gauge_max)
GAUGE_SLOPE = ReadingMetric((QueryKind.GAUGE,), compare_gauge_slope, per="/h")
