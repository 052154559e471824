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
        """How it spends alpha, as the store keeps it; another plan has another text."""
        return f"{self.kind}:{self.max_units}" if self.kind == "group_sequential" else self.kind

    def pay(self, p_value: float, claim: Claim) -> float:
        """Return the sequential p-value: the lowest alpha over all looks at which this look crosses its boundary.

        `p_value` is the ordinary p-value of the claim; NaN stays NaN.
        """
        from scipy.special import ndtri

        if self.kind == "fixed" or math.isnan(p_value):
            return p_value
        levels, edges = self._edges(claim)
        z = min(float(-ndtri(min(max(p_value, 1e-300), 1.0))), NEVER - 1)
        if z <= edges[-1]:
            return 1.0
        return min(1.0, float(np.exp(np.interp(-z, -edges, np.log(levels)))) / self.share)

    def level(self, alpha: float, claim: Claim) -> float:
        """Return the ordinary level at which this look decides; 0 if it may not decide.

        The interval of this level agrees with the decision.
        """
        from scipy.special import ndtr

        if self.kind == "fixed":
            return alpha
        levels, edges = self._edges(claim)
        z = float(np.interp(np.log(alpha * self.share), np.log(levels), edges))
        return float(ndtr(-z)) if z < FURTHEST else 0.0

    def _edges(self, claim: Claim) -> tuple[FloatArray, FloatArray]:
        """Increasing levels over all looks, and the boundary on Z of this look for each."""
        if self.kind == "anytime":
            levels = ALPHAS[ALPHAS < HALF]
            first = self.earlier[0].units if self.earlier else self.units
            return levels, np.asarray(anytime_z(levels, self.units, first, 0.0))
        # Shares of the planned units; a look without more units than one before does not count.
        rising: list[float] = []
        for units in (*(look.units for look in self.earlier), self.units):
            part = min(units / (self.max_units or 1), 1.0)
            if not rising or part > rising[-1]:
                rising.append(part)
        return ALPHAS, np.array(_planned_edges(tuple(rising), claim))


@lru_cache(maxsize=64)
def _planned_edges(fractions: tuple[float, ...], claim: Claim) -> tuple[float, ...]:
    """Boundary of the last of these looks for each of `ALPHAS`: "worse" spends α·t, "within" nearly all at the end."""
    parts = np.array(fractions)
    kind: Literal["linear", "obrien_fleming"] = "linear" if claim == "worse" else "obrien_fleming"
    edges = [float(boundaries(parts / parts[-1], spent(kind, float(alpha), parts))[-1]) for alpha in ALPHAS]
    return tuple(np.minimum.accumulate(edges).tolist())


def find_price(outcomes: Outcomes, arm: int, monitoring: Monitoring) -> LookPrice:
    """Return what this look at a candidate costs. It depends on data, policy and recorded looks only (method B.4).

    In the mode `auto`, the first look spends all of alpha, because no other looks are planned. Later looks use a
    confidence sequence with a tenth of alpha. With `max_units`, looks are group-sequential.

    Args:
        outcomes: The outcomes, with the looks before this one.
        arm: Index of the candidate in `outcomes.arms`.
        monitoring: What the policy sets.
    """
    earlier = find_earlier_looks(outcomes, arm)
    units = sum(part.n for part in outcomes.moments)
    kind: Kind = "anytime" if earlier or monitoring.mode == "group_sequential" else "fixed"
    if monitoring.mode in ("fixed", "anytime"):
        kind = monitoring.mode
    elif monitoring.max_units is not None:
        kind = "group_sequential"
    price = LookPrice(kind, units, earlier, 1.0, monitoring.max_units)
    share = 1.0 if all(look.paid == price.paid for look in earlier) else UNPLANNED_SHARE
    refused, most = "", max((look.units for look in earlier), default=0)
    if earlier and kind == "fixed":
        refused = "other outcomes of this release were judged before, and monitoring: {mode: fixed} allows one look"
    elif earlier and kind == "group_sequential" and min(units, price.max_units or 0) <= most:
        refused = f"the alpha that may be spent at {units:,} units was already spent at {most:,} units"
    return replace(price, share=share, refused=refused)


def find_dearest(outcomes: Outcomes, monitoring: Monitoring) -> LookPrice:
    """Return the price of the candidate with most looks before; a refused one comes first."""
    arms = range(1, len(outcomes.arms))
    prices = [find_price(outcomes, arm, monitoring) for arm in arms] or [LookPrice("fixed", 0)]
    return max(prices, key=lambda price: (bool(price.refused), len(price.earlier)))


def find_earlier_looks(outcomes: Outcomes, arm: int) -> tuple[OutcomeLook, ...]:
    """Return the earlier looks at other data of baseline and candidate `arm`, the oldest first.

    Looks at the same data count once; looks at the present data do not count.
    """
    names = outcomes.arms[0], outcomes.arms[arm]
    sums = {
        name: {
            variable: (float(part.n), float(part.mean[k]), float(part.products[k, k]))
            for k, variable in enumerate(outcomes.variables)
        }
        for name, part in zip(outcomes.arms, outcomes.moments, strict=True)
    }
    own = OutcomeLook(outcomes.run, sum(part.n for part in outcomes.moments), sums)
    out: list[OutcomeLook] = []
    for look in outcomes.looks:
        if all(name in look.sums for name in names) and not any(
            _is_same(look, judged, names) for judged in (own, *out)
        ):
            out.append(look)
    return tuple(out)


def _is_same(look: OutcomeLook, earlier: OutcomeLook, arms: Sequence[str]) -> bool:
    """Do these arms have the same units with the same values in both looks, for all variables of both?"""
    for arm in arms:
        sums, earlier_sums = look.sums[arm], earlier.sums.get(arm, {})
        shared = sums.keys() & earlier_sums.keys()
        if len(shared) < 2:  # `rows` alone does not show values
            return False
        if not all(np.allclose(sums[name], earlier_sums[name], rtol=SAME, atol=0.0) for name in shared):
            return False
    return True
