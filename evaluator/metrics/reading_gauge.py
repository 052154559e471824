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
    VALUE,
    ReadingView,
    build_gauge_panel,
    build_peak_panel,
    build_trend_panel,
)

FITTED = 2
"""Parameters that a trend fits to each instance: a level and a slope."""


class GaugeMetric(QueryMetric):
    """A metric of a gauge."""

    any_direction: ClassVar[bool] = True
    kind: ClassVar[QueryKind] = QueryKind.GAUGE

    query: QueryText = Field(
        description="The gauge, with $selector for the labels of the arm; PromQL functions are allowed.",
        examples=["process_resident_memory_bytes{$selector}"],
    )


class GaugeMean(GaugeMetric):
    """Mean over time and instances; compared by ratio, or by difference if values are 0 or negative."""

    type: ClassVar[str] = "gauge_mean"

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of samples."""
        return build_gauge_panel(view, arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough: by ratio, or by difference if values are not above 0."""
        request_pair = pair.as_request_pair(panel)
        method = f"paired mean, {request_pair.design.kind}"
        # A ratio is compared by logarithms, which need values above 0 of every instance in every block.
        is_positive = bool((panel.rows.totals["value"][panel.rows.n > 0] > 0).all())
        relative = rule.margin is None or rule.margin.relative
        if rule.margin is not None and relative and not is_positive:
            why = "some of its values are 0 or negative, so there is no ratio; set an absolute margin"
            return request_pair.no_data(rule, why)
        if relative and is_positive:
            return answer(request_pair, rule, request_pair.compare_means(rule, of="value"), method=method)
        # Absolute mean of baseline and candidate, shape (2,).
        means = np.abs(panel.totals["value"].sum(axis=(1, 2)) / panel.n.sum(axis=(1, 2)))
        # Instances are assumed to differ by as large a share as in latency.
        estimate = request_pair.compare_differences(rule, request_pair.prior.sd_latency * float(means.max()))
        return _as_difference(answer(request_pair, rule, estimate, method=method))


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
        """Build the panel of trends for each look: it depends on the means of instances up to that look."""
        return build_trend_panel(pair.view_at_look(), pair.arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough: compare trends by their difference.

        `panel` holds the terms of a least-squares fit: the sum of its `value`, divided by the sum of its `n`, is the
        slope of an arm (change per hour). The comparison counts samples of the gauge instead of this `n`.
        """
        request_pair = pair.as_request_pair(panel)
        if rule.margin is not None and rule.margin.relative:
            why = f"a trend may be 0, so there is no ratio; set a margin in {self.value_unit}"
            return request_pair.no_data(rule, why)
        # Of baseline and candidate, shape (2,).
        slopes = panel.totals["value"].sum(axis=(1, 2)) / panel.n.sum(axis=(1, 2))
        # Instances are assumed to differ by as much as the larger slope.
        estimate = request_pair.compare_differences(rule, float(np.abs(slopes).max()), fitted=FITTED)
        # A slope is a trend already. Whether it changes within the run is not tested (the p-value is NaN): its distance
        # beyond the margin in the last third and at the end of the run is taken to be that of the whole run.
        beyond = estimate.against_margin.beyond
        trend = Trend(last_third=beyond, p_worsening=np.full(1, np.nan), at_end=beyond)
        estimate = replace(estimate, trend=trend)
        view = pair.view_at_look()
        rows = view.find(self.queries[0], VALUE, rule.slice.endpoint)
        counts, arms = view.readings.n[rows], view.readings.arm[rows]
        baseline, candidate = (int(counts[arms == arm].sum()) for arm in pair.arms)
        method = f"least squares, {request_pair.design.kind}"
        return _as_difference(answer(request_pair, rule, estimate, method=method, n=(baseline, candidate)))


def _as_difference(comparison: Comparison) -> Comparison:
    """The comparison with its effect marked as absolute: `answer` takes it for relative if the rule has no margin."""
    effect = comparison.effect
    return replace(comparison, effect=replace(effect, kind="absolute")) if effect else comparison
