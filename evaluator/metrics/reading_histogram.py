"""Histograms: the mean of what was observed, the share within a bound, and quantiles."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from evaluator.fields import Amount, QueryText
from evaluator.metrics.base import answer, no_data
from evaluator.metrics.options import QuantileMetric
from evaluator.metrics.reading_base import QueryMetric, ReadingPair
from evaluator.quantities import Quantity
from evaluator.records import Comparison, Direction, Limit, Margin, QueryKind, Rule
from evaluator.stats.estimators.edges import EdgePanel, compare_edges, spread_of_share, stack_panels
from evaluator.stats.estimators.estimate import Estimate, GroupAnswers
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import (
    ReadingView,
    build_mean_panel,
    build_share_panel,
    find_bounds,
    name_of,
)

SAME = 1e-9
BUCKETED = {"classic", "native"}
NO_BOUNDS = "its series have no bucket bound in common"


class HistogramMetric(QueryMetric):
    """A metric of a histogram."""

    kind: ClassVar[QueryKind] = QueryKind.HISTOGRAM
    default_unit: ClassVar[str] = "s"
    noun: ClassVar[str] = "observations"

    query: QueryText = Field(
        description="The histogram that Prometheus is asked for, without _bucket, _sum or _count, with $selector for "
        "the arm.",
        examples=["http_request_duration_seconds{$selector}"],
    )


class HistogramMean(HistogramMetric):
    """Mean of the observations: the increase of their sum per observation."""

    type: ClassVar[str] = "histogram_mean"
    is_response_time: ClassVar[bool] = True

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of observations."""
        return build_mean_panel(view, arm, self.queries[0], self.scale, endpoint)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough."""
        both = pair.of(panel, history=True)
        if not (panel.totals["value"].sum(axis=(1, 2)) > 0).all():
            return both.no_data(rule, "the sum of its observations did not grow, so there is no ratio")
        return answer(both, rule, both.compare_means(rule, of="value"), method=f"paired mean, {both.design.kind}")


class EdgeMetric(HistogramMetric):
    """A metric that is decided at the bounds of the histogram's buckets."""

    def check(self, pair: ReadingPair, rule: Rule) -> str | None:
        """A quantile or a share needs buckets with bounds."""
        if why := super().check(pair, rule):
            return why
        readings, query, name = pair.readings, self.queries[0], name_of(self.queries[0])
        arms = [readings.arms[arm] for arm in pair.arms]
        forms = {f.arm: f.form for f in readings.facts if f.query == query and f.arm in arms and f.form}
        odd = {arm: form for arm, form in forms.items() if form not in BUCKETED}
        if odd:
            listed = " and ".join(f"{form} on {arm}" for arm, form in odd.items())
            return (
                f"{name} is {listed}, which has no buckets with bounds `le`: compare its mean (histogram_mean), or let "
                "the service record a histogram"
            )
        if len(set(forms.values())) > 1 and not find_bounds(pair.view, query, pair.arms).size:
            listed = ", ".join(f"{form} on {arm}" for arm, form in forms.items())
            return f"{name} is {listed}, and these have no bucket bound in common"
        return None

    def find_panel(self, pair: ReadingPair, endpoint: str | None) -> Panel | None:
        """Build the panel of all observations."""
        edges = self.find_edges(pair, endpoint)
        return edges.panel if edges else None

    def find_edges(self, pair: ReadingPair, endpoint: str | None) -> EdgePanel | None:
        """Build the panels of all bounds, once for every look, quantile and bound of a histogram."""
        (query,) = self.queries

        def make() -> EdgePanel | None:
            bounds = find_bounds(pair.view, query, pair.arms)
            panels = [build_share_panel(pair.view, pair.arm, query, le, endpoint) for le in bounds]
            usable = [(le * self.scale, panel) for le, panel in zip(bounds, panels, strict=True) if panel is not None]
            if not usable:
                return None
            # A bound that was not scraped whenever the others were cannot stand beside them.
            usual = usable[0][1]
            shape = usual.n.shape, usual.rows.n.size
            usable = [part for part in usable if (part[1].n.shape, part[1].rows.n.size) == shape]
            return stack_panels(np.array([bound for bound, _ in usable]), [panel for _, panel in usable])

        return pair.find_or_build(("edges", query, self.scale, endpoint), make)


# ------------------------------------------------------------------ share within a bound


class HistogramShare(EdgeMetric):
    """Share of observations within a bound; more is better. A relative margin is one of the baseline's share."""

    type: ClassVar[str] = "histogram_share"
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"
    direction: ClassVar[Direction] = Direction.HIGHER

    below: Amount = Field(description="The bound that observations keep, such as 250ms.", examples=["250ms"])

    @field_validator("below")
    @classmethod
    def _plain_or_time(cls, value: Quantity) -> Quantity:
        if value.unit not in ("", "ms"):
            raise ValueError(f"must be an amount such as 250ms, not {value}")
        return value

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough. The bound must be one of the histogram's."""
        del panel
        edges, below = self.find_edges(pair, rule.slice.endpoint), float(self.below.value)
        if edges is None or not edges.bounds.size:
            return no_data(rule, pair.arm, NO_BOUNDS)
        bounds, unit = edges.bounds, self.scaled_unit
        if not np.isclose(bounds, below, rtol=SAME, atol=0).any():
            lower, upper = bounds[bounds < below][-1:], bounds[bounds > below][:1]
            nearest = " and ".join(f"{bound:g} {unit}".strip() for bound in (*lower, *upper))
            why = f"{below:g} {unit} is no bound of the histogram; the nearest are {nearest}"
            return no_data(rule, pair.arm, why)
        index = int(np.argmin(np.abs(bounds - below)))
        both = pair.of(edges.pair(index, index))
        baseline = edges.shares()[0]
        # What margin and limit mean for the observations beyond the bound.
        harm = rule.margin.value if rule.margin else 0.0
        if rule.margin and rule.margin.relative:
            harm *= float(baseline[index])
        limit = rule.limit
        beyond = Limit(
            min=None if limit.max is None else 1 - limit.max, max=None if limit.min is None else 1 - limit.min
        )
        estimate = both.compare_failures(
            replace(rule, margin=Margin(harm, relative=False), limit=beyond),
            sd_instance=pair.prior.sd_latency * spread_of_share(bounds, baseline, index),
            sd_share=0.0,
        )
        within = _count_within(estimate, rule, baseline[index])
        return answer(both, rule, within, method=f"score test, {both.design.kind}")


def _count_within(estimate: Estimate, rule: Rule, share: float) -> Estimate:
    """The estimate in shares within the bound instead of beyond it: values and effect turn, harm stays harm."""
    unit = share if rule.margin is None or rule.margin.relative else 1.0
    answers: tuple[GroupAnswers, ...] = estimate.against_limit
    return replace(
        estimate,
        baseline=1 - estimate.baseline,
        candidate=1 - estimate.candidate,
        effect=-estimate.effect / unit,
        lower=-estimate.upper / unit,
        upper=-estimate.lower / unit,
        detectable=estimate.detectable / unit,
        se=estimate.se / unit,
        against_limit=answers[::-1],
    )


# ------------------------------------------------------------------ quantiles


class HistogramQuantile(QuantileMetric, EdgeMetric):
    """A quantile, decided at the bounds of the histogram."""

    type: ClassVar[str] = "histogram_quantile"
    is_response_time: ClassVar[bool] = True

    def check(self, pair: ReadingPair, rule: Rule) -> str | None:
        """Why its queries cannot be compared, or `None`."""
        if rule.direction is Direction.HIGHER:
            return "a quantile of which more is better is not compared"
        return super().check(pair, rule)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough."""
        edges, both = self.find_edges(pair, rule.slice.endpoint), pair.of(panel)
        smaller = min(both.requests(0), both.requests(1))
        if smaller < self.least:
            why = f"only {smaller} observations in the smaller arm, at least {self.least} are needed for this quantile"
            return both.no_data(rule, why)
        if edges is None or not edges.bounds.size:
            return both.no_data(rule, NO_BOUNDS)
        result = compare_edges(
            edges,
            both.design,
            self.quantile,
            alpha=pair.alpha,
            margin=rule.margin,
            sd_instance=pair.prior.sd_latency,
            limit=rule.limit,
            depth=pair.depth,
        )
        if result.estimate is None:
            return both.no_data(rule, result.problem)
        method = f"shares at bucket bounds, value interpolated, {both.design.kind}"
        return replace(answer(both, rule, result.estimate, method=method), unresolved=result.unresolved)
