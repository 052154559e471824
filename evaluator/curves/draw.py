"""Everything that the figures of one release need, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evaluator.assess import plan_calendar, with_both_arms
from evaluator.curves.base import Scope, identify, is_drawn
from evaluator.curves.over_time import trace_over_time
from evaluator.curves.readings import trace_readings
from evaluator.curves.shape import trace_distribution, trace_quantiles
from evaluator.curves.timeline import Axis, lay_axis, offset_of_judged, trace_timeline
from evaluator.curves.units import trace_units
from evaluator.looks import judged_buckets
from evaluator.metrics.measure import pair_up
from evaluator.metrics.reading_base import ReadingMetric
from evaluator.records import Cells, Comparison, EvidenceKind, ReadingCells, Rulebook, Run
from evaluator.stats.window import find_warm_up

__all__ = ["trace_release"]

MOST_METRICS = 60
"""Comparisons with curves of their own, over all candidates."""
FIGURES_VERSION = 1


def trace_release(
    cells: Cells,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    comparisons: Sequence[Comparison],
    readings: ReadingCells | None = None,
) -> dict[str, Any]:
    """Plain JSON that all figures of a release are drawn from. `comparisons`: as judged under `rulebook`."""
    if not cells.moments.run.size:
        return _nothing(readings, rulebook)
    scope = _look_again(cells, runs, rulebook)
    drawn = [row for row in comparisons if is_drawn(row)][:MOST_METRICS]
    arms = list(dict.fromkeys(row.arm for row in drawn))
    return {
        "version": FIGURES_VERSION,
        "metrics": [
            {**identify(row), "over_time": trace_over_time(scope, row), "units": trace_units(scope, row)}
            for row in drawn
        ],
        "quantiles": [found for arm in arms if (found := trace_quantiles(scope, arm))],
        "distributions": [found for arm in arms if (found := trace_distribution(scope, arm))],
        "timeline": _with_decision(scope, trace_timeline(scope, runs), drawn),
        "readings": _add_readings(lay_axis(scope.pairs.cells), rulebook, readings),
    }


def _nothing(readings: ReadingCells | None, rulebook: Rulebook) -> dict[str, Any]:
    """What there is of a release without requests."""
    return {
        "version": FIGURES_VERSION,
        "metrics": [],
        "quantiles": [],
        "distributions": [],
        "timeline": None,
        "readings": _add_readings(None, rulebook, readings),
    }


def _look_again(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook) -> Scope:
    """Lay the data out as the judge had them."""
    cells = with_both_arms(cells)
    rules = rulebook.on(EvidenceKind.REQUESTS)
    warm_up = find_warm_up(cells, rulebook.warm_up_s)
    pairs = pair_up(cells, replace(rulebook, rules=rules), warm_up)
    return Scope(pairs, warm_up, plan_calendar(cells, runs, rulebook, warm_up))


def _with_decision(scope: Scope, timeline: dict[str, Any] | None, drawn: Sequence[Comparison]) -> dict[str, Any] | None:
    """Mark the moment at which the first gate was shown to be worse."""
    decided = min((row.decided_at_s for row in drawn if row.decided_at_s is not None), default=None)
    if timeline is None or decided is None:
        return timeline
    start, _ = judged_buckets(scope.pairs.cells, scope.warm_up)
    offset = offset_of_judged(lay_axis(scope.pairs.cells), start)
    if offset is not None:
        timeline["events"].append({"at": offset + decided, "what": "shown to be worse"})
    return timeline


def _add_readings(axis: Axis | None, rulebook: Rulebook, readings: ReadingCells | None) -> list[dict[str, Any]]:
    if readings is None:
        return []
    asked = reversed(ReadingMetric.among(rulebook.rules))
    metrics = {query.text: (metric, rule.name) for metric, rule in asked for query in metric.queries}
    return trace_readings(readings, axis, metrics)
