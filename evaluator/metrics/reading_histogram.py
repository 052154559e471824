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
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.edges import EdgePanel, compare_edges, slope_of_share, stack_panels
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
"""Relative difference up to which two bounds are the same."""
BUCKETED = {"classic", "native"}
"""Forms of histograms that have buckets with bounds."""
NO_BOUNDS = "its series have no bucket bound in common"
CONTRADICTORY = "a bucket of it grew by more than the count of all observations: its series do not belong together"
ROUNDING = 1e-6
"""Differences of shares up to this size are rounding errors of the server."""


class HistogramMetric(QueryMetric):
    """A metric of a histogram."""

    kind: ClassVar[QueryKind] = QueryKind.HISTOGRAM
    default_unit: ClassVar[str] = "s"
    noun: ClassVar[str] = "observations"

    query: QueryText = Field(
        description="The histogram without _bucket, _sum or _count, with $selector for the labels of the arm.",
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
        """Answer a rule from a panel that is long enough: compare means by their ratio."""
        # Earlier loads of the service showed how much response times differ between instances.
        request_pair = pair.as_request_pair(panel, history=True)
        sums = panel.totals["value"].sum(axis=(1, 2))  # of the observations of each arm, shape (2,)
        if not (sums > 0).all():
            return request_pair.no_data(rule, "the sum of its observations did not grow, so there is no ratio")
        estimate = request_pair.compare_means(rule, of="value")
        return answer(request_pair, rule, estimate, method=f"paired mean, {request_pair.design.kind}")


class EdgeMetric(HistogramMetric):
    """A metric that is decided at the bucket bounds of the histogram."""

    def check(self, pair: ReadingPair, rule: Rule) -> str | None:
        """Say why it cannot be compared, or `None`: a quantile or a share needs buckets with bounds, on both arms."""
        if why := super().check(pair, rule):
            return why
        readings, query, name = pair.readings, self.queries[0], name_of(self.queries[0])
        arms = [readings.arms[arm] for arm in pair.arms]
        # How each arm records the query: `classic` or `native` histograms, or for example a summary.
        forms = {
            fact.arm: fact.form for fact in readings.facts if fact.query == query and fact.arm in arms and fact.form
        }
        without_bounds = {arm: form for arm, form in forms.items() if form not in BUCKETED}
        if without_bounds:
            listed = " and ".join(f"{form} on {arm}" for arm, form in without_bounds.items())
            return (
                f"{name} is {listed}, which has no buckets with bounds `le`: compare its mean (histogram_mean), or let "
                "the service record a histogram"
            )
        if len(set(forms.values())) > 1 and not find_bounds(pair.view, query, pair.arms).size:
            listed = ", ".join(f"{form} on {arm}" for arm, form in forms.items())
            return f"{name} is {listed}, and these have no bucket bound in common"
        return None

    def find_panel(self, pair: ReadingPair, endpoint: str | None) -> Panel | None:
        """Find the panel of all observations; `endpoint=None`: of all endpoints."""
        edges = self.find_edges(pair, endpoint)
        return edges.panel if edges else None

    def find_edges(self, pair: ReadingPair, endpoint: str | None) -> EdgePanel | None:
        """Find the panels of all bounds, built once for all looks and metrics; `None`: no bound has a panel."""
        query = self.queries[0]

        def build() -> EdgePanel | None:
            """Stack a panel for each bound `le` of the histogram: the share of observations up to it."""
            bounds: list[float] = []  # in the metric's unit
            panels: list[Panel] = []
            for le in find_bounds(pair.view, query, pair.arms):
                panel = build_share_panel(pair.view, pair.arm, query, le, endpoint)
                if panel is None:
                    continue
                # Panels are stacked, so they must have the same slots (`n`) and rows of instances (`rows`). A bound
                # that was not scraped at the same times as the first bound has others, and is left out.
                is_alike = not panels or (
                    panel.n.shape == panels[0].n.shape and panel.rows.n.size == panels[0].rows.n.size
                )
                if is_alike:
                    bounds.append(le * self.scale)
                    panels.append(panel)
            return stack_panels(np.array(bounds), panels) if panels else None

        return pair.find_or_build(("edges", query, self.scale, endpoint), build)


def is_contradictory(shares: FloatArray) -> bool:
    """Is one of the shares of observations within a bound impossible, so that its variance would be negative?"""
    return bool(((shares > 1 + ROUNDING) | (shares < -ROUNDING)).any())


# ------------------------------------------------------------------ share within a bound


class HistogramShare(EdgeMetric):
    """Share of observations within a bound; more is better. A relative margin is one of the baseline's share."""

    type: ClassVar[str] = "histogram_share"
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"
    direction: ClassVar[Direction] = Direction.HIGHER

    below: Amount = Field(description="Observations up to this bound count, such as 250ms.", examples=["250ms"])

    @field_validator("below")
    @classmethod
    def _check_below(cls, value: Quantity) -> Quantity:
        """Refuse an amount of another unit than a time or a plain number."""
        if value.unit not in ("", "ms"):
            raise ValueError(f"must be an amount such as 250ms, not {value}")
        return value

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule, whose bound must be one of the histogram's; `panel` is not used.

        Observations beyond the bound are compared as failures are, then the result is turned into shares within it.
        """
        del panel
        edges, below = self.find_edges(pair, rule.slice.endpoint), float(self.below.value)
        if edges is None or not edges.bounds.size:
            return no_data(rule, pair.arm, NO_BOUNDS)
        bounds, unit = edges.bounds, self.scaled_unit
        if not np.isclose(bounds, below, rtol=SAME, atol=0).any():
            lower, upper = bounds[bounds < below][-1:], bounds[bounds > below][:1]  # each one bound, or none
            nearest = " and ".join(f"{bound:g} {unit}".strip() for bound in (*lower, *upper))
            why = f"{below:g} {unit} is not a bound of the histogram; the nearest are {nearest}"
            return no_data(rule, pair.arm, why)
        index = int(np.argmin(np.abs(bounds - below)))
        if is_contradictory(edges.shares()[:, index]):
            return no_data(rule, pair.arm, CONTRADICTORY)
        # A panel whose failures are the observations beyond the bound, which is the same on both arms.
        request_pair = pair.as_request_pair(edges.pair(index, index))
        baseline_shares = edges.shares()[0]  # within each bound
        # Margin and limits, as absolute ones of the share beyond the bound (1 - share within it).
        margin = rule.margin.value if rule.margin else 0.0
        if rule.margin and rule.margin.relative:
            margin *= float(baseline_shares[index])
        limit = rule.limit
        limit_beyond = Limit(
            min=None if limit.max is None else 1 - limit.max, max=None if limit.min is None else 1 - limit.min
        )
        beyond = request_pair.compare_failures(
            replace(rule, margin=Margin(margin, relative=False), limit=limit_beyond),
            # How much the share differs between instances follows from how much their latency does. So the spread that
            # is assumed for failures (`sd_share`) does not apply.
            sd_instance=pair.prior.sd_latency * slope_of_share(bounds, baseline_shares, index),
            sd_share=0.0,
        )
        within = _turn_into_shares_within(beyond, rule, baseline_shares[index])
        return answer(request_pair, rule, within, method=f"score test, {request_pair.design.kind}")


def _turn_into_shares_within(estimate: Estimate, rule: Rule, baseline_share: float) -> Estimate:
    """Turn an estimate of shares beyond a bound into shares within it: the effect changes its sign, harm does not.

    So the p-values stay as they are. With a relative margin, or none, the effect is relative: it is divided by
    `baseline_share`, the baseline's share within the bound.
    """
    unit = baseline_share if rule.margin is None or rule.margin.relative else 1.0  # of the effect
    # The limit `max` of shares beyond the bound is the limit `min` of those within, so the order of the limits turns.
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
            return "a quantile with direction: higher_is_better is not supported"
        return super().check(pair, rule)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel of all observations that is long enough."""
        edges = self.find_edges(pair, rule.slice.endpoint)
        request_pair = pair.as_request_pair(panel)
        smaller = min(request_pair.requests(0), request_pair.requests(1))
        if smaller < self.least:
            why = f"only {smaller} observations in the smaller arm, at least {self.least} are needed for this quantile"
            return request_pair.no_data(rule, why)
        if edges is None or not edges.bounds.size:
            return request_pair.no_data(rule, NO_BOUNDS)
        # A native histogram gets a bound when something is observed near it, so its share may be too large by chance.
        is_native = any(fact.query == self.queries[0] and fact.form == "native" for fact in pair.readings.facts)
        if not is_native and is_contradictory(edges.shares()):
            return request_pair.no_data(rule, CONTRADICTORY)
        result = compare_edges(
            edges,
            request_pair.design,
            self.quantile,
            alpha=pair.alpha,
            margin=rule.margin,
            sd_instance=pair.prior.sd_latency,
            limit=rule.limit,
            depth=pair.depth,
        )
        if result.estimate is None:
            return request_pair.no_data(rule, result.problem)
        method = f"shares at bucket bounds, value interpolated, {request_pair.design.kind}"
        comparison = answer(request_pair, rule, result.estimate, method=method)
        return replace(comparison, unresolved=result.unresolved)
