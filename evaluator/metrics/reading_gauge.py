"""Gauges: their mean, the mean of each minute's largest sample, and their trend."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from evaluator.fields import QueryText
from evaluator.metrics.base import answer
from evaluator.metrics.reading_base import QueryMetric, ReadingPair
from evaluator.records import Comparison, QueryKind, Rule
from evaluator.stats.estimators.estimate import Trend
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import (
    ReadingView,
    build_gauge_panel,
    build_peak_panel,
    build_trend_panel,
)

FITTED = 2
"""What a trend takes from its own residuals: a level and a line."""


class GaugeMetric(QueryMetric):
    """A metric of a gauge."""

    any_direction: ClassVar[bool] = True
    kind: ClassVar[QueryKind] = QueryKind.GAUGE

    query: QueryText = Field(
        description="What Prometheus is asked, with $selector for the arm; functions are allowed.",
        examples=["process_resident_memory_bytes{$selector}"],
    )


class GaugeMean(GaugeMetric):
    """Mean over time and instances: relative, or absolute where a ratio says nothing."""

    type: ClassVar[str] = "gauge_mean"

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of samples."""
        return build_gauge_panel(view, arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough."""
        both = pair.of(panel)
        method = f"paired mean, {both.design.kind}"
        # Only where every instance is above 0 in every block is the logarithm of a level what its influences say.
        positive = bool((panel.rows.totals["value"][panel.rows.n > 0] > 0).all())
        relative = rule.margin is None or rule.margin.relative
        if rule.margin is not None and relative and not positive:
            why = "some of its values are 0 or negative, so there is no ratio: give it an absolute margin"
            return both.no_data(rule, why)
        if relative and positive:
            return answer(both, rule, both.compare_means(rule, of="value"), method=method)
        level = np.abs(panel.totals["value"].sum(axis=(1, 2)) / panel.n.sum(axis=(1, 2)))
        estimate = both.compare_differences(rule, both.prior.sd_latency * float(level.max()))
        return _as_difference(answer(both, rule, estimate, method=method))


class GaugeMax(GaugeMean):
    """Mean over minutes of each instance's largest sample."""

    type: ClassVar[str] = "gauge_max"

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of each minute's largest sample."""
        return build_peak_panel(view, arm, self.queries[0], self.scale, endpoint)


class GaugeSlope(GaugeMetric):
    """Difference of the trends per hour, by least squares around each instance's own mean."""

    type: ClassVar[str] = "gauge_slope"
    per: ClassVar[str] = "/h"

    def find_panel(self, pair: ReadingPair, endpoint: str | None) -> Panel | None:
        """Build the panel of trends. Means of instances change with every look, so none is kept of the one before."""
        return build_trend_panel(pair.view_at_look(), pair.arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough. Counts are those of samples."""
        both = pair.of(panel)
        if rule.margin is not None and rule.margin.relative:
            why = f"a trend may be 0, so there is no ratio: give it a margin in {self.value_unit}"
            return both.no_data(rule, why)
        slopes = panel.totals["value"].sum(axis=(1, 2)) / panel.n.sum(axis=(1, 2))
        estimate = both.compare_differences(rule, float(np.abs(slopes).max()), fitted=FITTED)
        # A trend of the trend is not asked for.
        beyond = estimate.against_margin.beyond
        estimate = replace(estimate, trend=Trend(beyond, np.full(1, np.nan), beyond))
        view = pair.view_at_look()
        rows = view.find(self.queries[0], 0, rule.slice.endpoint)
        counts, arms = view.readings.n[rows], view.readings.arm[rows]
        baseline, candidate = (int(counts[arms == arm].sum()) for arm in pair.arms)
        method = f"least squares, {both.design.kind}"
        return _as_difference(answer(both, rule, estimate, method=method, n=(baseline, candidate)))


def _as_difference(comparison: Comparison) -> Comparison:
    """The effect named as what it is, also where no margin says so."""
    effect = comparison.effect
    return replace(comparison, effect=replace(effect, kind="absolute")) if effect else comparison
