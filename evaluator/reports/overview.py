"""Many comparisons in the order in which they matter, and many verdicts on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluator.records import Comparison, Direction, MetricStatus, Role, Verdict
from evaluator.wording import name_metric

_BADNESS = (MetricStatus.FAIL, MetricStatus.NO_DATA, MetricStatus.INCONCLUSIVE, MetricStatus.PASS)


def rank_comparisons(rows: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Sort by how far beyond the margin, the worst first; what has no margin or no data comes last."""

    def use_of_margin(row: Comparison) -> float:
        """Share of the allowed harm that the estimate uses; failed metrics come before all others."""
        effect, margin = row.effect, row.rule.margin
        if row.status is MetricStatus.NO_DATA and row.rule.role is not Role.WATCH:
            return 1e6
        if effect is None or margin is None or margin.value <= 0 or not math.isfinite(effect.estimate):
            return -1e6
        harm = effect.estimate if row.rule.direction is Direction.LOWER else -effect.estimate
        return harm / margin.value + (1e3 if row.status is MetricStatus.FAIL else 0.0)

    return tuple(sorted(rows, key=lambda row: (-use_of_margin(row), row.rule.role is Role.WATCH)))


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Releases (rows, the newest first) by metrics (columns): the worst arm; `None` where there is no such metric."""

    metrics: tuple[str, ...]
    rows: tuple[tuple[Verdict, tuple[Comparison | None, ...]], ...]


def build_heat_map(verdicts: Sequence[Verdict]) -> HeatMap:
    """Arrange the latest verdicts by metric; endpoints of the scan are only on the release's own page."""
    by_release: list[tuple[Verdict, dict[str, Comparison]]] = []
    for verdict in verdicts:
        worst: dict[str, Comparison] = {}
        for row in verdict.evidence.comparisons:
            name = name_metric(row.rule)
            if not row.scan and (name not in worst or _BADNESS.index(row.status) < _BADNESS.index(worst[name].status)):
                worst[name] = row
        by_release.append((verdict, worst))
    metrics = tuple(dict.fromkeys(name for _, worst in by_release for name in worst))
    return HeatMap(metrics, tuple((verdict, tuple(map(worst.get, metrics))) for verdict, worst in by_release))
