"""Numbers behind the figures of a report: how a verdict came about, in time, over the distribution and by instance.

Pure functions of the judged requests and of the verdict's comparisons. They return plain JSON, bounded in size whatever
the size of the release: at most `MOST_POINTS` points per line and `MOST_UNITS` instances per arm. The forest of all
metrics and the ranking of endpoints need only the comparisons of the verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import MOST_POINTS, MOST_UNITS
from evaluator.figure_data.over_time import trace_over_time
from evaluator.figure_data.readings import trace_readings
from evaluator.figure_data.shape import trace_distribution, trace_quantiles
from evaluator.figure_data.timeline import Axis, build_axis, trace_timeline
from evaluator.figure_data.units import trace_units
from evaluator.figure_data.windows import add_endpoints, cut_windows, trace_windows
from evaluator.metrics.reading_base import ReadingMetric
from evaluator.records import Comparison, EvidenceKind, MetricStatus, ReadingCells, Rulebook

__all__ = ["MOST_POINTS", "MOST_UNITS", "trace_release"]

MOST_ENDPOINTS = 6
"""Failing endpoints of the scan with curves of their own."""
MOST_METRICS = 60
"""Comparisons with curves of their own, over all candidates."""
FIGURES_VERSION = 1
LOAD_DRAWN = (
    "These figures show the requests of the load; the metrics of production requests are in the table of metrics."
)


def trace_release(
    requests: RequestPairs | None,
    rulebook: Rulebook,
    comparisons: Sequence[Comparison],
    readings: ReadingCells | None = None,
) -> dict[str, Any]:
    """Compute the data of all figures of a release, as plain JSON.

    Args:
        requests: The requests as they were judged; `None`: there are none.
        rulebook: The policy.
        comparisons: Judged by this policy.
        readings: All readings that were collected; `None`: there are none.

    Returns:
        `metrics`: the change over time and within windows, and the values of units, for each gate and hold on
        requests, and for the endpoints of the scan that fail. `quantiles` and
        `distributions`: a curve per candidate. `timeline`: `None` without requests. `readings`: an entry per query.
        `evidence`: `live` if production requests are drawn. `note`: a sentence, if there are some that are not drawn.
    """
    figures: dict[str, Any] = {
        "version": FIGURES_VERSION,
        "metrics": [],
        "quantiles": [],
        "distributions": [],
        "timeline": None,
    }
    axis: Axis | None = None
    if requests is not None and requests.cells.moments.run.size:
        axis = build_axis(requests.cells)
        # Only gates and holds that have an effect are drawn one by one.
        on_requests = [comparison for comparison in comparisons if comparison.kind is requests.kind]
        if requests.is_live:
            figures["evidence"] = EvidenceKind.LIVE.value
        elif any(comparison.kind is EvidenceKind.LIVE for comparison in comparisons):
            figures["note"] = LOAD_DRAWN
        drawn = [
            comparison for comparison in on_requests if comparison.must_be_within and comparison.effect is not None
        ][:MOST_METRICS]
        failing = _pick_failing(on_requests, requests.cells.endpoints)
        requests = add_endpoints(requests, failing)
        windows = cut_windows(requests)
        candidates = list(dict.fromkeys(comparison.arm for comparison in drawn))
        figures["metrics"] = [
            {
                "name": comparison.rule.name,
                "arm": comparison.arm,
                "endpoint": comparison.rule.slice.endpoint,
                "over_time": trace_over_time(requests, comparison),
                "windows": trace_windows(windows, comparison),
                "units": trace_units(requests, comparison),
            }
            for comparison in (*drawn, *failing)
        ]
        figures["quantiles"] = [curve for arm in candidates if (curve := trace_quantiles(requests, arm))]
        figures["distributions"] = [curve for arm in candidates if (curve := trace_distribution(requests, arm))]
        first_decided_at_s = min(
            (comparison.decided_at_s for comparison in drawn if comparison.decided_at_s is not None), default=None
        )
        figures["timeline"] = trace_timeline(requests, axis, first_decided_at_s)
    # Text of a query → the metric that uses it, and the name of its rule. Reversed, so that of several metrics with the
    # same query the first in the policy remains.
    reading_rules = reversed(ReadingMetric.among(rulebook.rules))
    metric_by_query = {query.text: (metric, rule.name) for metric, rule in reading_rules for query in metric.queries}
    figures["readings"] = [] if readings is None else trace_readings(readings, axis, metric_by_query)
    return figures


def _pick_failing(comparisons: Sequence[Comparison], endpoints: Collection[str]) -> list[Comparison]:
    """Pick the comparisons of the scan that fail, of `endpoints`: the largest harm, in margins, first."""
    failing = [
        row
        for row in comparisons
        if row.scan and row.status is MetricStatus.FAIL and row.rule.slice.endpoint in endpoints
    ]
    # The scan compares times and failures, of which a rise is harm.
    failing.sort(key=lambda row: -row.effect.estimate / row.rule.margin.value if row.effect and row.rule.margin else 0)
    return failing[:MOST_ENDPOINTS]
