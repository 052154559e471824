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
"""Differences of increases up to this size are rounding errors of the server."""


class CounterRatio(ReadingMetric):
    """Failures per request, as a fraction of 1, by a score test."""

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
        """Answer a rule from a panel that is long enough: compare failures per request by a score test."""
        # Of baseline and candidate, shape (2,).
        failures, requests = panel.failures.sum(axis=(1, 2)), panel.n.sum(axis=(1, 2))
        why = "its failures grew by more than its requests, so they do not count a part of the requests"
        not_a_part = no_data(rule, pair.arm, f"{why}: compare each as a counter_rate")
        if (failures > requests * (1 + ROUNDING)).any():
            return not_a_part
        # Earlier loads of the service showed how much failures differ between instances.
        request_pair = pair.as_request_pair(panel, history=True)
        estimate = request_pair.compare_failures(rule)
        # Also of the times that both arms have in common: a share above 1 has a negative variance, which would pass.
        if (np.concatenate([estimate.baseline, estimate.candidate]) > 1 + ROUNDING).any():
            return not_a_part
        return answer(request_pair, rule, estimate, method=f"score test, {request_pair.design.kind}")


class CounterRate(QueryMetric):
    """Increase per second of an instance, over all its series; instances are weighted by the time of their readings."""

    type: ClassVar[str] = "counter_rate"
    any_direction: ClassVar[bool] = True
    kind: ClassVar[QueryKind] = QueryKind.COUNTER
    per: ClassVar[str] = "/s"

    query: QueryText = Field(
        description="The counter, with $selector for the labels of the arm.",
        examples=["process_cpu_seconds_total{$selector}"],
    )

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of increases per second of an instance."""
        return build_rate_panel(view, arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough: by difference for an absolute margin, else by ratio.

        In the panel, `totals["value"]` is the increase in the metric's unit, and `n` the instance-seconds: seconds with
        readings, added up over instances. If the counter counts events, the variance of an increase is taken to be at
        least that of chance (Poisson), because few readings may show less.
        """
        request_pair = pair.as_request_pair(panel)
        # Of baseline and candidate, shape (2,). The increase is in the query's own unit, that of the least variance.
        increase = panel.totals["value"].sum(axis=(1, 2)) / self.scale
        seconds = panel.n.sum(axis=(1, 2))
        if rule.margin is not None and not rule.margin.relative:
            rate = float(panel.totals["value"].sum() / seconds.sum())
            # The least variance of an increase becomes that of a rate, in the metric's unit.
            least_variance = self._find_least_variance(panel) * (self.scale / seconds) ** 2
            least_of_baseline, least_of_candidate = least_variance.tolist()
            # Instances are assumed to differ by as large a share as in latency.
            sd_instance = request_pair.prior.sd_latency * abs(rate)
            floor = least_of_baseline, least_of_candidate
            estimate = request_pair.compare_differences(rule, sd_instance, floor=floor)
        elif (increase > 0).all():
            least_relative_variance = self._find_least_variance(panel) / increase**2
            estimate = request_pair.compare_means(rule, of="value", floor=least_relative_variance[:, None])
        else:
            arm = "baseline" if increase[0] <= 0 else pair.arm
            return request_pair.no_data(rule, f"it did not grow on {arm}, so there is no ratio; set an absolute margin")
        n = round(panel.n[0].sum()), round(panel.n[1].sum())
        return answer(request_pair, rule, estimate, method=f"paired rate, {request_pair.design.kind}", n=n)

    def _find_least_variance(self, panel: Panel) -> FloatArray:
        """Find the least variance of the increase of each arm, shape (2,), in the query's own unit (squared).

        A number of events varies by chance: its variance is about the number itself (Poisson), and half an event more,
        so that 0 events are not certain. A counter without whole numbers (seconds of CPU) counts no events, so its
        least variance is 0.
        """
        increases = panel.totals["value"] / self.scale
        counts_events = np.abs(increases - np.rint(increases)).max() < ROUNDING
        return np.asarray(increases.sum(axis=(1, 2)) + 0.5 if counts_events else np.zeros(2))
