"""When the judge looks: it depends on the time of the data and the policy, not on who asks (method B.4).

Looks have fixed distances from the start of the judged data, so the same data always have the same looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluator.records import BLOCK_BUCKETS, Monitoring
from evaluator.stats.inference.sequential import GRID

Kind = Literal["fixed", "group_sequential", "anytime"]

EVERY_S = 60
BURN_IN_S = 600
BURN_IN_BUCKETS = 40
SHORTEST_S = 300
"""A shorter run is judged at its end only: no one could act on an earlier look."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """The looks of a run. Times are seconds of judged data."""

    kind: Kind
    interim: tuple[int, ...]
    """Looks before the last one that are already due."""
    planned_s: float
    """When the last look is due."""
    final: bool
    """Is the last look due?"""
    next_s: float = math.inf
    """When the next look is due; infinite after the last one."""


def plan_looks(monitoring: Monitoring, *, bucket_s: int, covered_s: float, planned_s: float | None) -> Calendar:
    """Plan the looks of a run (method B.4).

    The mode `auto` means: group-sequential if an end is planned and the run is long enough to act before it; fixed if
    the planned run is too short; anytime without a planned end.

    Args:
        monitoring: What the policy sets.
        bucket_s: Width of a bucket.
        covered_s: Seconds of judged data until now.
        planned_s: Seconds of judged data that the source plans (after warm-up); `None`: no end is planned.
    """
    kind: Kind = "anytime" if planned_s is None else "group_sequential" if planned_s >= SHORTEST_S else "fixed"
    kind = kind if monitoring.mode == "auto" else monitoring.mode
    end = monitoring.max_duration_s if planned_s is None else planned_s
    final = covered_s >= end - bucket_s
    if kind == "fixed":
        return Calendar(kind, (), end, final, math.inf if final else end)
    burn_in = monitoring.burn_in_s
    if burn_in is None:
        burn_in = min(BURN_IN_S, BURN_IN_BUCKETS * bucket_s)
    # A minute, or more if the calendar would have more looks than the table of boundaries; whole blocks.
    block, longest = bucket_s * BLOCK_BUCKETS, end if kind == "group_sequential" else EVERY_S * GRID
    step = int(-(-max(EVERY_S, longest / GRID) // block) * block)
    looks = np.arange(step, min(covered_s, end - step / 2) + 1e-6, step)
    interim = tuple(int(look) for look in looks[looks >= burn_in])
    if kind == "group_sequential" and not interim and final:
        return Calendar("fixed", (), end, final)
    following = (max(covered_s // step + 1, -(-burn_in // step))) * step
    if kind == "group_sequential" and following > end - step / 2:
        following = math.inf if final else end
    return Calendar(kind, interim, end, final, following)
