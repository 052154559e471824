"""What all comparisons over all requests of a panel share, computed once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evaluator.stats.instances import InstanceFrame
from evaluator.stats.panel import Panel
from evaluator.stats.strata import Strata, build_strata

__all__ = ["frame_all_requests", "frame_requests"]

FloatArray = npt.NDArray[np.float64]


def frame_requests(panel: Panel, groups: FloatArray) -> tuple[Strata, InstanceFrame]:
    """Strata and instances with all requests as denominator, for some groups of endpoints."""
    strata = build_strata(panel, panel.n, groups)
    return strata, InstanceFrame(panel.rows, panel.rows.n, strata.groups)


@lru_cache(maxsize=4)
def frame_all_requests(panel: Panel) -> tuple[Strata, InstanceFrame]:
    """The same with all endpoints in one group."""
    return frame_requests(panel, np.ones((1, len(panel.endpoints))))
