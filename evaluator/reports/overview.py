"""Many comparisons in the order in which they matter, and many verdicts on one page."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from evaluator.records import Comparison, Direction, MetricStatus, Role, Verdict
from evaluator.wording import count_of, name_metric

_WORST_FIRST = (MetricStatus.FAIL, MetricStatus.NO_DATA, MetricStatus.INCONCLUSIVE, MetricStatus.PASS)


def rank_comparisons(rows: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Sort comparisons, the most important first: gates and holds without data, failed metrics, then the others.

    Failed and other metrics are each sorted by the share of their margin that the estimated harm uses up, the largest
    share first. Those without a margin or a finite estimate come last; among equals, watched metrics come last.
    """

    def find_importance(row: Comparison) -> float:
        """Return the share of the margin that is used up; large constants keep the groups apart.

        First come gates and holds without data, then failed metrics; last, what has no such share.
        """
        effect, margin = row.effect, row.rule.margin
        if row.status is MetricStatus.NO_DATA and row.rule.role is not Role.WATCH:
            return 1e6
        if effect is None or margin is None or margin.value <= 0 or not math.isfinite(effect.estimate):
            return -1e6
        harm = effect.estimate if row.rule.direction is Direction.LOWER else -effect.estimate
        return harm / margin.value + (1e3 if row.status is MetricStatus.FAIL else 0.0)

    return tuple(sorted(rows, key=lambda row: (-find_importance(row), row.rule.role is Role.WATCH)))


MOST_ENDPOINTS_AMONG_METRICS = 6
"""Endpoints of the scan that stand among the metrics because they decide."""


@dataclass(frozen=True, slots=True)
class MetricGroups:
    """The rows of a table of metrics, in groups; each has the most important first."""

    deciding: tuple[Comparison, ...]
    """Gates and holds that fail, have no data, or are not decided, with the endpoints of the scan that fail."""
    passing: tuple[Comparison, ...]
    """Gates and holds that pass."""
    watched: tuple[Comparison, ...]
    """Metrics that are only shown."""
    more_endpoints: int
    """Failing endpoints that `deciding` has no room for."""


def group_metrics(rows: Sequence[Comparison], doubtful_endpoints: Collection[tuple[str, str | None]]) -> MetricGroups:
    """Group comparisons by what they mean for the verdict: what fails comes first, endpoints of the scan included.

    `doubtful_endpoints`: arms and endpoints that forbid a GO, although they do not fail.
    """
    ranked = rank_comparisons(rows)
    scanned = [
        row
        for row in ranked
        if row.scan
        and (row.status is MetricStatus.FAIL or (row.arm, row.rule.slice.endpoint) in doubtful_endpoints)
        and row.status is not MetricStatus.PASS
    ]
    watched = tuple(row for row in ranked if row.rule.role is Role.WATCH and not row.scan)
    gates = [row for row in ranked if row.must_be_within]
    open_rows = [row for row in gates if row.status is not MetricStatus.PASS]
    deciding = {id(row) for row in (*open_rows, *scanned[:MOST_ENDPOINTS_AMONG_METRICS])}
    return MetricGroups(
        # Sorting keeps the order among rows of equal status.
        deciding=tuple(
            sorted((row for row in ranked if id(row) in deciding), key=lambda row: _WORST_FIRST.index(row.status))
        ),
        passing=tuple(row for row in gates if row.status is MetricStatus.PASS),
        watched=watched,
        more_endpoints=max(len(scanned) - MOST_ENDPOINTS_AMONG_METRICS, 0),
    )


def count_metrics(rows: Sequence[Comparison]) -> str:
    """Count metrics by their role: `3 gates`, `1 gate and 1 hold`; empty without gates and holds."""
    counts = [
        count_of(count, role.value)
        for role in (Role.GATE, Role.HOLD)
        if (count := sum(row.rule.role is role for row in rows))
    ]
    return " and ".join(counts)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A table with a row per release, the newest first, and a column per metric."""

    metrics: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[Verdict, tuple[Comparison | None, ...]], ...]
    """The verdict of each release with a comparison per metric, of the arm with the worst status; `None`: the release
    does not have the metric."""


def build_heat_map(verdicts: Sequence[Verdict]) -> HeatMap:
    """Arrange the latest verdicts of releases in a table by metric, without rows of the endpoint scan.

    `verdicts`: one per release, the newest first. With several candidates, a cell has the one of the worst status.
    """
    cells_by_verdict: list[dict[str, Comparison]] = []  # for each verdict: name of the metric → comparison
    for verdict in verdicts:
        worst_by_metric: dict[str, Comparison] = {}
        for row in verdict.evidence.comparisons:
            if row.scan:
                continue
            name = name_metric(row.rule)
            worst = worst_by_metric.get(name)
            if worst is not None and _is_shown_without_data(row):
                continue
            if (
                worst is None
                or _is_shown_without_data(worst)
                or _WORST_FIRST.index(row.status) < _WORST_FIRST.index(worst.status)
            ):
                worst_by_metric[name] = row
        cells_by_verdict.append(worst_by_metric)
    metrics = tuple(dict.fromkeys(name for cells in cells_by_verdict for name in cells))  # each name once
    rows = tuple(
        (verdict, tuple(cells.get(name) for name in metrics))
        for verdict, cells in zip(verdicts, cells_by_verdict, strict=True)
    )
    return HeatMap(metrics, rows)


def _is_shown_without_data(row: Comparison) -> bool:
    """Is it a metric that is only shown, and has no data? Throughput of production never has any: a load may have."""
    return row.status is MetricStatus.NO_DATA and row.rule.role is Role.WATCH
