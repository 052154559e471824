"""Counters: failures per request, and increase per second of an instance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
from evaluator.records import Comparison, QueryKind, Rule
from evaluator.stats.differences import compare_differences
from evaluator.stats.estimate import Estimate
from evaluator.stats.failures import compare_failures
from evaluator.stats.means import compare_means
from evaluator.stats.panel import Panel
from evaluator.stats.reading_panels import build_rate_panel, build_ratio_panel

__all__ = ["COUNTER_RATE", "COUNTER_RATIO"]

WHOLE = 1e-6


def compare_counter_ratio(pair: ReadingPair, rule: Rule) -> Comparison:
    """Failures per request, as a fraction of 1, by score."""
    why = check_series(pair, rule, COUNTER_RATIO)
    panel = None if why else pair.lay(("ratio", *rule.queries, rule.slice.endpoint), lambda: _build_ratio(pair, rule))
    why = why or check_length(pair, panel, "requests") or _check_parts(panel)
    if why or panel is None:
        return no_readings(rule, pair.arm, "fraction", why or NOTHING)
    both = pair.of(panel, history=True)
    estimate = compare_failures(
        panel,
        both.design,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_failures,
        limit=rule.limit,
        depth=pair.depth,
    )
    n = both.requests(0), both.requests(1)
    return answer(both, rule, estimate, unit="fraction", method=f"score test, {both.design.kind}", n=n)


def _build_ratio(pair: ReadingPair, rule: Rule) -> Panel | None:
    failures, requests = rule.queries
    return build_ratio_panel(pair.view, pair.arm, failures, requests, rule.slice.endpoint)


def _check_parts(panel: Panel | None) -> str | None:
    """Failures must be some of the requests."""
    if panel is None or (panel.failures.sum(axis=(1, 2)) <= panel.n.sum(axis=(1, 2)) * (1 + WHOLE)).all():
        return None
    return "its failures grew by more than its requests, so they are no part of them: compare each as a counter_rate"


def compare_counter_rate(pair: ReadingPair, rule: Rule) -> Comparison:
    """Increase per second of an instance, over all its series; instances are weighted by how long they were seen."""
    why = check_series(pair, rule, COUNTER_RATE)
    panel = None if why else pair.lay(("rate", *rule.queries, rule.slice.endpoint), lambda: _build_rate(pair, rule))
    why = why or check_length(pair, panel)
    if why or panel is None:
        return no_readings(rule, pair.arm, show_unit(rule, COUNTER_RATE), why or NOTHING)
    both = pair.of(panel)
    unit, n = show_unit(rule, COUNTER_RATE), (round(panel.n[0].sum()), round(panel.n[1].sum()))
    grown = panel.totals["value"].sum(axis=(1, 2)) / rule.scale
    if rule.margin is not None and not rule.margin.relative:
        estimate = _compare_absolute(pair, both, rule)
    elif (grown > 0).all():
        estimate = _compare_relative(pair, both, rule)
    else:
        arm = "baseline" if grown[0] <= 0 else pair.arm
        return no_data(both, rule, unit, f"it did not grow on {arm}, so there is no ratio: give it an absolute margin")
    return answer(both, rule, estimate, unit=unit, method=f"paired rate, {both.design.kind}", n=n)


def _compare_relative(pair: ReadingPair, both: Pair, rule: Rule) -> Estimate:
    grown = both.panel.totals["value"].sum(axis=(1, 2)) / rule.scale
    return compare_means(
        both.panel,
        both.design,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_latency,
        direction=rule.direction,
        limit=rule.limit,
        depth=pair.depth,
        of="value",
        floor=(_chance(both.panel, rule) / grown**2)[:, None],
    )


def _compare_absolute(pair: ReadingPair, both: Pair, rule: Rule) -> Estimate:
    seconds = both.panel.n.sum(axis=(1, 2))
    level = float(both.panel.totals["value"].sum() / seconds.sum())
    variance = _chance(both.panel, rule) * (rule.scale / seconds) ** 2
    return compare_differences(
        both.panel,
        both.design,
        alpha=pair.alpha,
        margin=rule.margin.value if rule.margin else 0.0,
        sd_instance=pair.prior.sd_latency * abs(level),
        direction=rule.direction,
        limit=rule.limit,
        floor=(float(variance[0]), float(variance[1])),
    )


def _build_rate(pair: ReadingPair, rule: Rule) -> Panel | None:
    return build_rate_panel(pair.view, pair.arm, rule.queries[0], rule.scale, rule.slice.endpoint)


def _chance(panel: Panel, rule: Rule) -> npt.NDArray[np.float64]:
    """Least variance of what was counted on each arm: events vary as Poisson's do, also where none was seen.

    A counter that is not whole counts no events (seconds of CPU); nothing is known of it beforehand.
    """
    grown = panel.totals["value"] / rule.scale
    whole = np.abs(grown - np.rint(grown)).max() < WHOLE
    return np.asarray(grown.sum(axis=(1, 2)) + 0.5 if whole else np.zeros(2))


COUNTER_RATIO = ReadingMetric(
    (QueryKind.COUNTER, QueryKind.COUNTER), compare_counter_ratio, unit="fraction", optional=1
)
COUNTER_RATE = ReadingMetric((QueryKind.COUNTER,), compare_counter_rate, per="/s")
