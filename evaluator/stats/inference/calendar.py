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
"""Least time between two looks."""
BURN_IN_S = 600
BURN_IN_BUCKETS = 40
"""Unless the policy sets it, the first look is after this time or this number of buckets, whichever is shorter."""
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
    """Plan the looks of a run: the times at which it is judged (method B.4).

    `fixed`: only at the end. `group_sequential`: also before the planned end, and all looks share alpha. `anytime`: at
    any time, without a planned end. The mode `auto` means: group-sequential if an end is planned and the run is long
    enough to act before it; fixed if the planned run is too short; anytime without a planned end.

    Args:
        monitoring: What the policy sets.
        bucket_s: Width of a bucket.
        covered_s: Seconds of judged data until now.
        planned_s: Seconds of judged data that the source plans (after warm-up); `None`: no end is planned, and
            the last look is at `monitoring.max_duration_s`.

    Returns:
        The looks before the last one that are due by now, whether the last one is due, and when the next one is.
    """
    kind: Kind
    if monitoring.mode != "auto":
        kind = monitoring.mode
    elif planned_s is None:
        kind = "anytime"
    else:
        kind = "group_sequential" if planned_s >= SHORTEST_S else "fixed"
    end_s = monitoring.max_duration_s if planned_s is None else planned_s
    final = covered_s >= end_s - bucket_s  # the last bucket may be incomplete
    if kind == "fixed":
        return Calendar(kind, interim=(), planned_s=end_s, final=final, next_s=math.inf if final else end_s)
    burn_in_s = monitoring.burn_in_s  # no look is earlier
    if burn_in_s is None:
        burn_in_s = min(BURN_IN_S, BURN_IN_BUCKETS * bucket_s)
    # A minute, or more if the calendar would have more looks than the table of boundaries; in whole blocks.
    least_step_s = max(EVERY_S, end_s / GRID) if kind == "group_sequential" else EVERY_S
    step_s = _round_up(least_step_s, bucket_s * BLOCK_BUCKETS)
    # No look shortly before the last look.
    last_interim_s = end_s - step_s / 2
    # `arange` leaves out its end: 1e-6 more, so that a look exactly at the end is included.
    looks = np.arange(step_s, min(covered_s, last_interim_s) + 1e-6, step_s)
    interim = tuple(int(look) for look in looks[looks >= burn_in_s])
    if kind == "group_sequential" and not interim and final:
        # The only look is the last one, as in the fixed mode.
        return Calendar("fixed", interim=(), planned_s=end_s, final=final)
    # The next step after now, but not before the burn-in; if that is too near to the end, the last look is the next.
    next_s: float = max(covered_s // step_s * step_s + step_s, _round_up(burn_in_s, step_s))
    if kind == "group_sequential" and next_s > last_interim_s:
        next_s = math.inf if final else end_s
    return Calendar(kind, interim=interim, planned_s=end_s, final=final, next_s=next_s)


def _round_up(time_s: float, unit_s: int) -> int:
    """Round a time up to a multiple of `unit_s`."""
    # `//` rounds down; of the negative time, it rounds up.
    return int(-(-time_s // unit_s)) * unit_s
