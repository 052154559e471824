"""What each look at outcomes costs, if they are judged several times while they grow (method B.4, outcomes).

While a test runs, its outcomes are imported and judged several times. Each verdict on new data is a look. Its cost
depends on the number of units, not on the number of commands: judging the same data again is the same look.

Sources: as `evaluator.stats.inference.sequential` (Lan & DeMets 1983; Waudby-Smith and others 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from evaluator.records import Monitoring, OutcomeLook, Outcomes
from evaluator.records.arrays import FloatArray
from evaluator.stats.inference.sequential import ALPHAS, HALF, NEVER, anytime_z, boundaries, spent
from evaluator.wording import USERS

Kind = Literal["fixed", "anytime", "group_sequential"]
Claim = Literal["worse", "within"]

UNPLANNED_SHARE = 0.1
"""Share of alpha, in addition, for all unplanned looks after a look that has spent all of alpha."""
FURTHEST = 8.0
"""From this boundary on Z on, the ordinary level counts as 0."""
SAME = 1e-9
"""Largest relative difference of two sums over the same units: the order of adding changes the last digits."""


@dataclass(frozen=True, slots=True)
class LookPrice:
    """The alpha that one look at outcomes may spend."""

    kind: Kind
    """How looks spend alpha."""
    units: int
    """Units of all arms at this look."""
    earlier: tuple[OutcomeLook, ...] = ()
    """Looks before this one, the oldest first."""
    share: float = 1.0
    """Share of alpha for this look and all later ones."""
    max_units: int | None = None
    """Planned units of all arms at the end of the test."""
    refused: str = ""
    """Why this look may decide nothing; empty if it may."""

    @property
    def paid(self) -> str:
        """How the look spends alpha, as the store keeps it; another plan of group-sequential looks has another text."""
        return f"{self.kind}:{self.max_units}" if self.kind == "group_sequential" else self.kind

    def pay(self, p_value: float, claim: Claim) -> float:
        """Turn an ordinary p-value into the sequential one, which pays for repeated looks.

        It is the lowest alpha, over all looks together, at which this look crosses its boundary. `p_value` is the
        ordinary p-value of the claim; NaN stays NaN.
        """
        from scipy.special import ndtri

        if self.kind == "fixed" or math.isnan(p_value):
            return p_value
        levels, boundary_by_level = self._find_boundaries(claim)
        # `NEVER` is the boundary where nothing may be spent. z stays below it, so that no p-value crosses it.
        z = min(float(-ndtri(min(max(p_value, 1e-300), 1.0))), NEVER - 1)
        if z <= boundary_by_level[-1]:
            return 1.0
        # Which level has the boundary z? Boundaries fall with the level; interpolation needs rising values.
        lowest_alpha = float(np.exp(np.interp(-z, -boundary_by_level, np.log(levels))))
        # This look has only a share of alpha.
        return min(1.0, lowest_alpha / self.share)

    def level(self, alpha: float, claim: Claim) -> float:
        """Return the level of an ordinary test that decides as this look does; 0 if the boundary is out of reach.

        `alpha` is the error rate of all looks together. An interval of the returned level agrees with the decision.
        """
        from scipy.special import ndtr

        if self.kind == "fixed":
            return alpha
        levels, boundary_by_level = self._find_boundaries(claim)
        # The boundary at this alpha, and the level of an ordinary test with this boundary.
        z = float(np.interp(np.log(alpha * self.share), np.log(levels), boundary_by_level))
        return float(ndtr(-z)) if z < FURTHEST else 0.0

    def _find_boundaries(self, claim: Claim) -> tuple[FloatArray, FloatArray]:
        """Return levels over all looks, rising, and the boundary on Z of this look for each; both (levels,)."""
        if self.kind == "anytime":
            # The confidence sequence is narrowest at the units of the first look.
            levels = ALPHAS[ALPHAS < HALF]
            units_of_first = self.earlier[0].units if self.earlier else self.units
            return levels, np.asarray(anytime_z(levels, self.units, units_of_first, 0.0))
        # Shares of the planned units at each look; a look without more units than the look before does not count.
        # Without planned units (0 or None) any share is 1.
        fractions: list[float] = []
        for units in (*(look.units for look in self.earlier), self.units):
            fraction = min(units / (self.max_units or 1), 1.0)
            if not fractions or fraction > fractions[-1]:
                fractions.append(fraction)
        return ALPHAS, np.array(_find_planned_boundaries(tuple(fractions), claim))


@lru_cache(maxsize=64)
def _find_planned_boundaries(fractions: tuple[float, ...], claim: Claim) -> tuple[float, ...]:
    """Return the boundary on Z of the last of several looks, for each of `ALPHAS` in rising order.

    `fractions` are the shares of the planned units at each look. The claim "worse" spends α in proportion to them,
    "within" nearly all of it at the end.
    """
    shares = np.array(fractions)
    kind: Literal["linear", "obrien_fleming"] = "linear" if claim == "worse" else "obrien_fleming"
    # Information is in proportion to units; that of the last look is 1.
    information_of_look = shares / shares[-1]
    last_boundaries = [
        float(boundaries(information_of_look, spent(kind, float(alpha), shares))[-1]) for alpha in ALPHAS
    ]
    # Numerical errors must not let a boundary rise with alpha.
    return tuple(np.minimum.accumulate(last_boundaries).tolist())


def find_price(outcomes: Outcomes, arm: int, monitoring: Monitoring) -> LookPrice:
    """Return the alpha that this look at a candidate may spend, by data, policy and recorded looks (method B.4).

    In the mode `auto`, the first look spends all of alpha, because no other looks are planned. Later looks use a
    confidence sequence with a tenth of alpha. With `max_units`, looks are group-sequential.

    Args:
        outcomes: The outcomes, with the looks before this one.
        arm: Index of the candidate in `outcomes.arms`.
        monitoring: What the policy sets.
    """
    earlier = find_earlier_looks(outcomes, arm)
    units = sum(part.n for part in outcomes.moments)
    kind: Kind
    if monitoring.mode in ("fixed", "anytime"):
        kind = monitoring.mode
    elif monitoring.max_units is not None:
        kind = "group_sequential"
    else:
        # Group-sequential looks need the planned units; without these, looks are anytime.
        kind = "anytime" if earlier or monitoring.mode == "group_sequential" else "fixed"
    price = LookPrice(kind, units, earlier, share=1.0, max_units=monitoring.max_units)
    # `paid` says how a look spends alpha. If earlier looks spent it in another way, only the share for unplanned looks
    # is left.
    share = 1.0 if all(look.paid == price.paid for look in earlier) else UNPLANNED_SHARE
    refused = ""  # why the look may decide nothing
    most_units = max((look.units for look in earlier), default=0)
    # Alpha is spent up to the planned units at most, so further units have nothing left to spend.
    if earlier and kind == "fixed":
        refused = "other outcomes of this release were judged before, and monitoring: {mode: fixed} allows one look"
    elif earlier and kind == "group_sequential" and min(units, price.max_units or 0) <= most_units:
        refused = f"the alpha that may be spent at {units:,} {USERS} was already spent at {most_units:,}"
    return replace(price, share=share, refused=refused)


def find_dearest(outcomes: Outcomes, monitoring: Monitoring) -> LookPrice:
    """Return the highest price of all candidates: a look that is refused, else that with most looks before.

    Without a candidate, it is a fixed look at 0 units.
    """
    candidates = range(1, len(outcomes.arms))
    prices = [find_price(outcomes, arm, monitoring) for arm in candidates] or [LookPrice("fixed", units=0)]
    return max(prices, key=lambda price: (bool(price.refused), len(price.earlier)))


def find_earlier_looks(outcomes: Outcomes, arm: int) -> tuple[OutcomeLook, ...]:
    """Return the earlier looks at other data of baseline and candidate `arm`, the oldest first.

    Looks at the same data count once; looks at the present data do not count.
    """
    names = outcomes.arms[0], outcomes.arms[arm]
    # Arm → variable → number of units, mean, and sum of squared deviations: as the store keeps them of each look.
    sums = {
        name: {
            variable: (float(of_arm.n), float(of_arm.mean[k]), float(of_arm.products[k, k]))
            for k, variable in enumerate(outcomes.variables)
        }
        for name, of_arm in zip(outcomes.arms, outcomes.moments, strict=True)
    }
    present_look = OutcomeLook(outcomes.run, sum(of_arm.n for of_arm in outcomes.moments), sums)
    distinct_looks: list[OutcomeLook] = []
    for look in outcomes.looks:
        if not all(name in look.sums for name in names):
            continue
        already_counted = (present_look, *distinct_looks)
        if not any(_has_same_data(look, counted_look, names) for counted_look in already_counted):
            distinct_looks.append(look)
    return tuple(distinct_looks)


def _has_same_data(look: OutcomeLook, other: OutcomeLook, arms: Sequence[str]) -> bool:
    """Are both looks at the same data: do these arms have the same sums for all variables that both looks have?"""
    for arm in arms:
        sums, other_sums = look.sums[arm], other.sums.get(arm, {})
        shared = sums.keys() & other_sums.keys()
        # All looks have the variable `rows`, which only counts. Equal counts alone do not show that data are the same.
        if len(shared) < 2:
            return False
        if not all(np.allclose(sums[name], other_sums[name], rtol=SAME, atol=0.0) for name in shared):
            return False
    return True
