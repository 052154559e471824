"""Numbers behind the figures of a report: how a verdict came about, in time, over the distribution and by instance.

Pure functions of the judged requests and of the verdict's comparisons. They return plain JSON, bounded in size whatever
the size of the release: at most `MOST_POINTS` points per line and `MOST_UNITS` instances per arm. The forest of all
metrics and the ranking of endpoints need only the comparisons of the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import MOST_POINTS, MOST_UNITS
from evaluator.figure_data.over_time import trace_over_time
from evaluator.figure_data.readings import trace_readings
from evaluator.figure_data.shape import trace_distribution, trace_quantiles
from evaluator.figure_data.timeline import Axis, build_axis, trace_timeline
from evaluator.figure_data.units import trace_units
from evaluator.metrics.reading_base import ReadingMetric
from evaluator.records import Comparison, EvidenceKind, ReadingCells, Rulebook

__all__ = ["MOST_POINTS", "MOST_UNITS", "trace_release"]

MOST_METRICS = 60
"""Comparisons with curves of their own, over all candidates."""
FIGURES_VERSION = 1


def trace_release(
    requests: RequestPairs | None,
    rulebook: Rulebook,
    comparisons: Sequence[Comparison],
    readings: ReadingCells | None = None,
) -> dict[str, Any]:
    """Trace what all figures of a release are drawn from.

    Args:
        requests: The requests as they were judged; `None`: there are none.
        rulebook: The policy.
        comparisons: As judged under it.
        readings: All that was collected.
    """
    traced: dict[str, Any] = {
        "version": FIGURES_VERSION,
        "metrics": [],
        "quantiles": [],
        "distributions": [],
        "timeline": None,
    }
    axis: Axis | None = None
    if requests is not None and requests.cells.moments.run.size:
        axis = build_axis(requests.cells)
        # Gates and holds on requests have curves of their own, where there are data.
        of_requests = [row for row in comparisons if row.rule.evidence is EvidenceKind.REQUESTS]
        drawn = [row for row in of_requests if row.must_be_within and row.effect is not None][:MOST_METRICS]
        arms = list(dict.fromkeys(row.arm for row in drawn))
        traced["metrics"] = [
            {
                "name": row.rule.name,
                "arm": row.arm,
                "endpoint": row.rule.slice.endpoint,
                "over_time": trace_over_time(requests, row),
                "units": trace_units(requests, row),
            }
            for row in drawn
        ]
        traced["quantiles"] = [curve for arm in arms if (curve := trace_quantiles(requests, arm))]
        traced["distributions"] = [curve for arm in arms if (curve := trace_distribution(requests, arm))]
        decided = min((row.decided_at_s for row in drawn if row.decided_at_s is not None), default=None)
        traced["timeline"] = trace_timeline(requests, axis, decided)
    reading_rules = reversed(ReadingMetric.among(rulebook.rules))
    metrics = {query.text: (metric, rule.name) for metric, rule in reading_rules for query in metric.queries}
    traced["readings"] = [] if readings is None else trace_readings(readings, axis, metrics)
    return traced
