"""Histograms: the mean of what was observed, the share within a bound, and quantiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evaluator.metrics.base import answer, is_higher_better, no_data
from evaluator.metrics.reading_base import (
    NOTHING,
    ReadingMetric,
    ReadingPair,
    check_length,
    check_series,
    find_forms,
    no_readings,
    show_unit,
)
from evaluator.records import Comparison, Limit, Margin, QueryKind, Rule
from evaluator.stats.edges import EdgePanel, compare_edges, spread_of_share, stack_panels
from evaluator.stats.estimate import Asked, Estimate
from evaluator.stats.failures import compare_failures
from evaluator.stats.means import compare_means
from evaluator.stats.panel import Panel
from evaluator.stats.reading_panels import build_mean_panel, build_share_panel, find_bounds, name_of

__all__ = ["HISTOGRAM_MEAN", "HISTOGRAM_QUANTILE", "HISTOGRAM_SHARE"]

FloatArray = npt.NDArray[np.float64]

MIN_BEYOND = 5
SAME = 1e-9
BUCKETED = {"classic", "native"}
NO_BOUNDS = "its series have no bucket bound in common"


def compare_histogram_mean(pair: ReadingPair, rule: Rule) -> Comparison:
    """Mean of the observations: the increase of their sum per observation."""
    unit = show_unit(rule, HISTOGRAM_MEAN)
    why = check_series(pair, rule, HISTOGRAM_MEAN)
    key = ("mean", *rule.queries, rule.scale, rule.slice.endpoint)
    panel = None if why else pair.lay(key, lambda: _build_mean(pair, rule))
    why = why or check_length(pair, panel, "observations")
    if why or panel is None:
        return no_readings(rule, pair.arm, unit, why or NOTHING)
    both = pair.of(panel, history=True)
    if not (panel.totals["value"].sum(axis=(1, 2)) > 0).all():
        return no_data(both, rule, unit, "the sum of its observations did not grow, so there is no ratio")
    estimate = compare_means(
        panel,
        both.design,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_latency,
        direction=rule.direction,
        limit=rule.limit,
        depth=pair.depth,
        of="value",
    )
    n = both.requests(0), both.requests(1)
    return answer(both, rule, estimate, unit=unit, method=f"paired mean, {both.design.kind}", n=n)


def _build_mean(pair: ReadingPair, rule: Rule) -> Panel | None:
    return build_mean_panel(pair.view, pair.arm, rule.queries[0], rule.scale, rule.slice.endpoint)


# ------------------------------------------------------------------ share within a bound


def compare_histogram_share(pair: ReadingPair, rule: Rule) -> Comparison:
    """Share of observations within a bound; more is better. A relative margin is one of the baseline's share."""
    why = check_series(pair, rule, HISTOGRAM_SHARE) or _check_form(pair, rule)
    edges = None if why else _build_edges(pair, rule)
    why = why or check_length(pair, edges.panel if edges else None, "observations") or _check_bound(edges, rule)
    if why or edges is None or rule.below is None:
        return no_readings(rule, pair.arm, "fraction", why or NOTHING)
    place = int(np.argmin(np.abs(edges.bounds - rule.below)))
    both = pair.of(edges.pair(place, place))
    baseline = edges.shares()[0]
    limit = rule.limit
    estimate = compare_failures(
        both.panel,
        both.design,
        alpha=pair.alpha,
        margin=_as_difference(rule.margin, float(baseline[place])),
        sd_instance=pair.prior.sd_latency * spread_of_share(edges.bounds, baseline, place),
        sd_share=0.0,
        limit=Limit(min=None if limit.max is None else 1 - limit.max, max=None if limit.min is None else 1 - limit.min),
        depth=pair.depth,
    )
    n = both.requests(0), both.requests(1)
    method = f"score test, {both.design.kind}"
    return answer(both, rule, _count_within(estimate, rule, baseline[place]), unit="fraction", method=method, n=n)


def _check_form(pair: ReadingPair, rule: Rule) -> str | None:
    """A quantile or a share needs buckets with bounds."""
    forms = find_forms(pair, rule.queries[0])
    odd = {arm: form for arm, form in forms.items() if form not in BUCKETED}
    if odd:
        said = " and ".join(f"{form} on {arm}" for arm, form in odd.items())
        return (
            f"{name_of(rule.queries[0])} is {said}, which has no buckets with bounds `le`: compare its mean "
            "(histogram_mean), or let the service record a histogram"
        )
    if len(set(forms.values())) > 1 and not find_bounds(pair.view, rule.queries[0], pair.arms).size:
        said = ", ".join(f"{form} on {arm}" for arm, form in forms.items())
        return f"{name_of(rule.queries[0])} is {said}, and these have no bucket bound in common"
    return None


def _check_bound(edges: EdgePanel | None, rule: Rule) -> str | None:
    """The bound must be one of the histogram's."""
    if edges is None or not edges.bounds.size:
        return NO_BOUNDS
    if rule.below is None:
        return "the policy names no bound"
    if np.isclose(edges.bounds, rule.below, rtol=SAME, atol=0).any():
        return None
    lower, upper = edges.bounds[edges.bounds < rule.below][-1:], edges.bounds[edges.bounds > rule.below][:1]
    nearest = " and ".join(f"{bound:g} {rule.unit}".strip() for bound in (*lower, *upper))
    return f"{rule.below:g} {rule.unit} is no bound of the histogram; the nearest are {nearest}"


def _as_difference(margin: Margin | None, share: float) -> Margin:
    """What a margin means for the observations beyond the bound."""
    if margin is None:
        return Margin(0.0, relative=False)
    return Margin(margin.value * share if margin.relative else margin.value, relative=False)


def _count_within(estimate: Estimate, rule: Rule, share: float) -> Estimate:
    """The estimate in shares within the bound instead of beyond it: values and effect turn, harm stays harm."""
    unit = share if rule.margin is None or rule.margin.relative else 1.0
    asked: tuple[Asked, ...] = estimate.against_limit
    return replace(
        estimate,
        baseline=1 - estimate.baseline,
        candidate=1 - estimate.candidate,
        effect=-estimate.effect / unit,
        lower=-estimate.upper / unit,
        upper=-estimate.lower / unit,
        detectable=estimate.detectable / unit,
        se=estimate.se / unit,
        against_limit=asked[::-1],
    )


# ------------------------------------------------------------------ quantiles


def compare_histogram_quantile(pair: ReadingPair, rule: Rule) -> Comparison:
    """A quantile, decided at the bounds of the histogram."""
    unit = show_unit(rule, HISTOGRAM_QUANTILE)
    probability = rule.quantile if rule.quantile is not None else 0.5
    why = "a quantile of which more is better is not compared" if is_higher_better(rule) else None
    why = why or check_series(pair, rule, HISTOGRAM_QUANTILE) or _check_form(pair, rule)
    edges = None if why else _build_edges(pair, rule)
    why = why or check_length(pair, edges.panel if edges else None, "observations")
    if why or edges is None:
        return no_readings(rule, pair.arm, unit, why or NOTHING)
    both = pair.of(edges.panel)
    n = both.requests(0), both.requests(1)
    why = _too_few_beyond(n, probability) or (None if edges.bounds.size else NO_BOUNDS)
    if why:
        return no_data(both, rule, unit, why)
    found = compare_edges(
        edges,
        both.design,
        probability,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_latency,
        limit=rule.limit,
        depth=pair.depth,
    )
    if found.estimate is None:
        return no_data(both, rule, unit, found.problem)
    method = f"shares at bucket bounds, value interpolated, {both.design.kind}"
    comparison = answer(both, rule, found.estimate, unit=unit, method=method, n=n)
    return replace(comparison, unresolved=found.unresolved)


def _too_few_beyond(n: tuple[int, int], probability: float) -> str | None:
    needed = round(MIN_BEYOND / min(1 - probability, probability))
    if min(n) >= needed:
        return None
    return f"only {min(n)} observations in the smaller arm, at least {needed} are needed for this quantile"


def _build_edges(pair: ReadingPair, rule: Rule) -> EdgePanel | None:
    """Built once for every look, quantile and bound of a histogram."""
    query, endpoint = rule.queries[0], rule.slice.endpoint

    def make() -> EdgePanel | None:
        bounds = find_bounds(pair.view, query, pair.arms)
        panels = [build_share_panel(pair.view, pair.arm, query, le, endpoint) for le in bounds]
        usable = [(le * rule.scale, panel) for le, panel in zip(bounds, panels, strict=True) if panel is not None]
        if not usable:
            return None
        # A bound that was not scraped whenever the others were cannot stand beside them.
        usual = usable[0][1]
        usable = [(bound, panel) for bound, panel in usable if _is_alike(panel, usual)]
        return stack_panels(np.array([bound for bound, _ in usable]), [panel for _, panel in usable])

    return pair.lay(("edges", query, rule.scale, endpoint), make)


def _is_alike(one: Panel, other: Panel) -> bool:
    return one.n.shape == other.n.shape and one.rows.n.size == other.rows.n.size


HISTOGRAM_MEAN = ReadingMetric((QueryKind.HISTOGRAM,), compare_histogram_mean)
HISTOGRAM_SHARE = ReadingMetric((QueryKind.HISTOGRAM,), compare_histogram_share, unit="fraction")
HISTOGRAM_QUANTILE = ReadingMetric((QueryKind.HISTOGRAM,), compare_histogram_quantile)
