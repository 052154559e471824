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
class ScanCount:
    """How many endpoints of a release the scan compared, and how many of them are worse."""

    failed: int
    compared: int


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One release in the table."""

    verdict: Verdict
    comparisons: tuple[Comparison | None, ...]
    """One for each metric: of the arm that the verdict is about, or, where it is about several, of the one with the
    worst status; `None`: the release does not have the metric."""
    endpoints: ScanCount | None
    """`None`: no endpoint was compared."""

    @property
    def is_of_several(self) -> bool:
        """Are its cells of several candidates, none of which the verdict chose? Then each has to name its candidate."""
        return not find_chosen_arm(self.verdict) and len({row.arm for row in self.verdict.evidence.comparisons}) > 1


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A table with a row per release, the newest first, and a column per metric."""

    metrics: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[HeatRow, ...]


def build_heat_map(verdicts: Sequence[Verdict]) -> HeatMap:
    """Arrange the latest verdicts of releases in a table by metric; endpoints of the scan are counted.

    `verdicts`: one per release, the newest first. With several candidates, a cell has the one that the verdict chose,
    so that a GO has no cell of a candidate that is not the one; without a chosen one, that of the worst status.
    """
    cells = [_find_cells(verdict) for verdict in verdicts]
    metrics = tuple(dict.fromkeys(name for row in cells for name in row))  # each name once
    rows = (
        HeatRow(verdict, tuple(row.get(name) for name in metrics), _count_endpoints(verdict))
        for verdict, row in zip(verdicts, cells, strict=True)
    )
    return HeatMap(metrics, tuple(rows))


def find_chosen_arm(verdict: Verdict) -> str:
    """Find the candidate that a GO on several is about; empty if the verdict chose none."""
    return next((reason.arm or "" for reason in verdict.reasons if reason.code == "best_arm"), "")


def _list_chosen(verdict: Verdict) -> list[Comparison]:
    """List the comparisons of the candidate that a verdict chose; all of them if it chose none."""
    chosen_arm = find_chosen_arm(verdict)
    return [row for row in verdict.evidence.comparisons if chosen_arm in ("", row.arm)]


def _find_cells(verdict: Verdict) -> dict[str, Comparison]:
    """Find the comparison of each metric of a verdict, by the name of the metric."""
    worst_by_metric: dict[str, Comparison] = {}
    for row in _list_chosen(verdict):
        name = name_metric(row.rule)
        worst = worst_by_metric.get(name)
        if row.scan or (worst is not None and _is_shown_without_data(row)):
            continue
        if (
            worst is None
            or _is_shown_without_data(worst)
            or _WORST_FIRST.index(row.status) < _WORST_FIRST.index(worst.status)
        ):
            worst_by_metric[name] = row
    return worst_by_metric


def _count_endpoints(verdict: Verdict) -> ScanCount | None:
    """Count the endpoints that the scan of a verdict compared; `None` if it compared none."""
    failed_by_endpoint: dict[str, bool] = {}
    for row in _list_chosen(verdict):
        if row.scan:
            endpoint = row.rule.slice.endpoint or ""
            failed_by_endpoint[endpoint] = failed_by_endpoint.get(endpoint, False) or row.status is MetricStatus.FAIL
    return ScanCount(sum(failed_by_endpoint.values()), len(failed_by_endpoint)) if failed_by_endpoint else None


def _is_shown_without_data(row: Comparison) -> bool:
    """Is it a metric that is only shown, and has no data? Throughput of production never has any: a load may have."""
    return row.status is MetricStatus.NO_DATA and row.rule.role is Role.WATCH
