"""Weights and instances that all comparisons over all requests of a panel share, computed once."""

from __future__ import annotations

from functools import lru_cache

from evaluator.stats.estimators.strata import Strata, build_strata
from evaluator.stats.shaping.groups import Groups, all_together
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.instances import InstanceFrame


def frame_requests(panel: Panel, groups: Groups) -> tuple[Strata, InstanceFrame]:
    """Build strata and instances with all requests as denominator, for these groups of endpoints."""
    strata = build_strata(panel, panel.n, groups)
    return strata, InstanceFrame(panel.rows, panel.rows.n, strata.groups)


@lru_cache(maxsize=4)
def frame_all_requests(panel: Panel) -> tuple[Strata, InstanceFrame]:
    """Build strata and instances with all requests as denominator, for all endpoints in one group."""
    return frame_requests(panel, all_together(len(panel.endpoints)))
