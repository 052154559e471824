"""Counters: failures per request, and increase per second of an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from evaluator.fields import QueryText
from evaluator.metrics.base import answer, no_data
from evaluator.metrics.reading_base import QueryMetric, ReadingMetric, ReadingPair
from evaluator.records import Comparison, Query, QueryKind, Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import ReadingView, build_rate_panel, build_ratio_panel

ROUNDING = 1e-6


class CounterRatio(ReadingMetric):
    """Failures per request, as a fraction of 1, by score."""

    type: ClassVar[str] = "counter_ratio"
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"
    kind: ClassVar[QueryKind] = QueryKind.COUNTER
    noun: ClassVar[str] = "requests"
    optional: ClassVar[int] = 1
    refused: ClassVar[Mapping[str, str]] = {"query": "is not taken by counter_ratio; give failures and requests"}

    failures: QueryText = Field(
        description="The counter of failures.", examples=['http_requests_total{$selector,code=~"5.."}']
    )
    requests: QueryText = Field(description="The counter of all requests.", examples=["http_requests_total{$selector}"])

    @property
    def queries(self) -> tuple[Query, Query]:
        """Failures and requests."""
        return Query(self.failures, self.kind), Query(self.requests, self.kind)

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of failures and requests."""
        return build_ratio_panel(view, arm, *self.queries, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough."""
        if (panel.failures.sum(axis=(1, 2)) > panel.n.sum(axis=(1, 2)) * (1 + ROUNDING)).any():
            why = "its failures grew by more than its requests, so they are no part of them"
            return no_data(rule, pair.arm, f"{why}: compare each as a counter_rate")
        both = pair.of(panel, history=True)
        return answer(both, rule, both.compare_failures(rule), method=f"score test, {both.design.kind}")


class CounterRate(QueryMetric):
    """Increase per second of an instance, over all its series; instances are weighted by how long they were seen."""

    type: ClassVar[str] = "counter_rate"
    any_direction: ClassVar[bool] = True
    kind: ClassVar[QueryKind] = QueryKind.COUNTER
    per: ClassVar[str] = "/s"

    query: QueryText = Field(
        description="The counter that Prometheus is asked for, with $selector for the arm.",
        examples=["process_cpu_seconds_total{$selector}"],
    )

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of increases per second of an instance."""
        return build_rate_panel(view, arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough."""
        both = pair.of(panel)
        grown = panel.totals["value"].sum(axis=(1, 2)) / self.scale
        if rule.margin is not None and not rule.margin.relative:
            seconds = panel.n.sum(axis=(1, 2))
            level = float(panel.totals["value"].sum() / seconds.sum())
            baseline, candidate = (self._chance(panel) * (self.scale / seconds) ** 2).tolist()
            sd_instance = both.prior.sd_latency * abs(level)
            estimate = both.compare_differences(rule, sd_instance, floor=(baseline, candidate))
        elif (grown > 0).all():
            estimate = both.compare_means(rule, of="value", floor=(self._chance(panel) / grown**2)[:, None])
        else:
            arm = "baseline" if grown[0] <= 0 else pair.arm
            return both.no_data(rule, f"it did not grow on {arm}, so there is no ratio: give it an absolute margin")
        n = round(panel.n[0].sum()), round(panel.n[1].sum())
        return answer(both, rule, estimate, method=f"paired rate, {both.design.kind}", n=n)

    def _chance(self, panel: Panel) -> FloatArray:
        """Least variance of what was counted on each arm: events vary as Poisson's do, also where none was seen.

        A counter that is not whole counts no events (seconds of CPU); nothing is known of it beforehand.
        """
        grown = panel.totals["value"] / self.scale
        is_count = np.abs(grown - np.rint(grown)).max() < ROUNDING
        return np.asarray(grown.sum(axis=(1, 2)) + 0.5 if is_count else np.zeros(2))
