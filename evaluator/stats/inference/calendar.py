"""When the judge looks: a function of data time and policy, never of who asks (method B.4).

Looks lie at fixed distances from the start of the judged data, so every judging of the same data sees the same looks.
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
"""Nobody can act on a look inside a shorter run: it is judged at its end only."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """How a run is monitored.

    `interim`: seconds of judged data at each look before the last. `planned_s`: when the last look is due.
    """

    kind: Kind
    interim: tuple[int, ...]
    planned_s: float
    final: bool
    """Has the last look come?"""
    next_s: float = math.inf
    """Seconds of judged data at which the next look is due; infinite where none is to come."""


def plan_looks(monitoring: Monitoring, *, bucket_s: int, covered_s: float, planned_s: float | None) -> Calendar:
    """Looks at `covered_s` seconds of data, of a run that its source plans to last `planned_s` (after warm-up).

    `auto`: group-sequential where the end is planned and far enough away to act before it, else a fixed horizon at
    the end of what there is; anytime where a run without a planned end goes on.
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
    # A minute, or more so that the calendar has no more looks than the table; whole blocks.
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
