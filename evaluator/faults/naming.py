"""Which of several endpoints (or instances) have a fault: those that differ from the others, and no more than is shown.

A *unit* is an endpoint or an instance. Units with the fault are named if they are shown to have it, and if the others
together are shown to have less than half of it. If the others are shown to have it as well, all have it. Else nothing
is named: a wrong name costs more than none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray

NATS_OF_UNIT = 3.0
"""Log likelihood ratio, above the logarithm of the number of units, by which a unit is shown to have the fault."""
NATS_OF_DOUBT = 1.0
"""The same, by which a unit is doubtful: it is not said to be as the baseline."""
NATS_OF_CONTRAST = 2.0
"""The same, by which the others are shown to have less than half of the fault."""
LEAST_BREADTH = 3.0
"""Standard errors by which the mean of the others must show the fault, before all units are said to have it."""
CLIPPED = 2.0
"""A unit counts in this mean with at most so many standard errors: it is about many units, not about one."""
LEAST_OF_CLIPPED = 0.95
"""Few units cannot reach that: they need this share of the most that they can reach."""
MOST_NAMED = 8
"""More units are not named: a reader would not read them."""


class Profile(Protocol):
    """How much each unit has of a fault."""

    @property
    def roots(self) -> FloatArray:
        """Signed root of twice the log likelihood ratio of each unit, shape (units,): how many standard errors."""

    @property
    def effects(self) -> FloatArray:
        """Estimated size of the fault of each unit, shape (units,)."""

    def find_dispersion(self, units: BoolArray) -> float:
        """Return how much more some units together vary over time than a steady fault does: at least 1."""

    def contrast(self, members: BoolArray) -> float:
        """Return by how many standard errors the other units together have less than half of the fault of `members`."""


@dataclass(frozen=True, slots=True)
class Named:
    """Which units have a fault."""

    scope: Literal["some", "all", "not_known"]
    members: BoolArray
    """The units, shape (units,); all of them if the scope is `all` or not known."""
    others_fine: bool = False
    """Are all other units shown to be as the baseline?"""


def name_units(profile: Profile) -> Named:
    """Decide which units have the fault (see the docstring of the module)."""
    roots, effects = profile.roots, profile.effects
    units = roots.size
    everything = np.ones(units, dtype=bool)
    if units == 1:
        return Named("all", everything)

    def to_root(nats: float) -> float:
        """Return how many standard errors are `nats`, after allowing for the number of units."""
        return math.sqrt(2 * (math.log(units) + nats))

    shown = roots >= to_root(NATS_OF_UNIT)
    if not shown.any():
        return Named("all" if _are_broad(profile, everything) else "not_known", everything)
    # A unit with less than half of the largest fault may be a consequence of it.
    members = shown & (effects >= effects[shown].max() / 2)
    if members.all():
        return Named("all", everything)
    others = ~members
    if profile.contrast(members) >= to_root(NATS_OF_CONTRAST):
        if members.sum() > MOST_NAMED:
            return Named("not_known", everything)
        return Named("some", members, others_fine=not (roots[others] >= to_root(NATS_OF_DOUBT)).any())
    return Named("all" if _are_broad(profile, others) else "not_known", everything)


def _are_broad(profile: Profile, units: BoolArray) -> bool:
    """Do units show the fault as a whole? No unit counts for much, so that it is about all of them."""
    roots = profile.roots[units] / math.sqrt(profile.find_dispersion(units))
    breadth = float(np.minimum(roots, CLIPPED).sum() / math.sqrt(roots.size))
    return breadth >= min(LEAST_BREADTH, LEAST_OF_CLIPPED * CLIPPED * math.sqrt(roots.size))
