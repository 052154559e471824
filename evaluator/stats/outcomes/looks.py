"""Outcomes that are judged again when there are more of them: what each look costs (method B.4, in units).

A release's outcomes are imported again and again while its test runs, and judged each time. Every verdict on other data
than before is a look. What it may say is paid for by the number of units that it saw, never by how many commands were
typed: the same data judged again is the same look.

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
"""Part of alpha for all looks after one that had taken all of it: what nobody planned adds at most a tenth."""
FURTHEST = 8.0
"""Boundary on Z from which on no number tells an ordinary level from 0."""
SAME = 1e-9
"""Relative difference up to which two sums are of the same units: the order of adding moves the last digits."""


@dataclass(frozen=True, slots=True)
class LookPrice:
    """What one look at outcomes may say.

    `kind`: how it is paid for. `share`: part of alpha that is left for it and all later looks. `earlier`: looks before
    it. `refused`: why it may say nothing; empty where it may.
    """

    kind: Kind
    units: int
    earlier: tuple[OutcomeLook, ...] = ()
    share: float = 1.0
    max_units: int | None = None
    refused: str = ""

    @property
    def paid(self) -> str:
        """How it is paid for, as the store keeps it: another plan is another price."""
        return f"{self.kind}:{self.max_units}" if self.kind == "group_sequential" else self.kind

    def pay(self, p_value: float, claim: Claim) -> float:
        """Sequential p-value: the level over all looks at which this one would have crossed. NaN stays NaN."""
        from scipy.special import ndtri

        if self.kind == "fixed" or math.isnan(p_value):
            return p_value
        levels, edges = self._edges(claim)
        z = min(float(-ndtri(min(max(p_value, 1e-300), 1.0))), NEVER - 1)
        if z <= edges[-1]:
            return 1.0
        return min(1.0, float(np.exp(np.interp(-z, -edges, np.log(levels)))) / self.share)

    def level(self, alpha: float, claim: Claim) -> float:
        """The ordinary level at which this look decides: the interval of this level is the dual of the decision.

        0 where it may not decide at all.
        """
        from scipy.special import ndtr

        if self.kind == "fixed":
            return alpha
        levels, edges = self._edges(claim)
        z = float(np.interp(np.log(alpha * self.share), np.log(levels), edges))
        return float(ndtr(-z)) if z < FURTHEST else 0.0

    def _edges(self, claim: Claim) -> tuple[FloatArray, FloatArray]:
        """Levels over all looks, rising, and the boundary on Z of this look at each."""
        if self.kind == "anytime":
            levels = ALPHAS[ALPHAS < HALF]
            first = self.earlier[0].units if self.earlier else self.units
            return levels, np.asarray(anytime_z(levels, self.units, first, 0.0))
        # Parts of the planned units; a look that brought no more than one before it is not a look again.
        rising: list[float] = []
        for units in (*(look.units for look in self.earlier), self.units):
            part = min(units / (self.max_units or 1), 1.0)
            if not rising or part > rising[-1]:
                rising.append(part)
        return ALPHAS, np.array(_planned_edges(tuple(rising), claim))


@lru_cache(maxsize=64)
def _planned_edges(fractions: tuple[float, ...], claim: Claim) -> tuple[float, ...]:
    """Boundary of the last of these looks at each of `ALPHAS`; "worse" spends α·t, "within" keeps nearly all."""
    parts = np.array(fractions)
    kind: Literal["linear", "obrien_fleming"] = "linear" if claim == "worse" else "obrien_fleming"
    edges = [float(boundaries(parts / parts[-1], spent(kind, float(alpha), parts))[-1]) for alpha in ALPHAS]
    return tuple(np.minimum.accumulate(edges).tolist())


def find_price(outcomes: Outcomes, arm: int, monitoring: Monitoring) -> LookPrice:
    """What this look at candidate `arm` (a place in `outcomes.arms`) costs: by data, policy and recorded looks only.

    `auto`: one look takes all of alpha, as nobody knows that there will be others; looks after it are paid for by a
    confidence sequence with a tenth of alpha. With `max_units` looks are group-sequential.
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
        refused = f"all that may be spent by {units:,} units was spent when {most:,} units were judged"
    return replace(price, share=share, refused=refused)


def find_dearest(outcomes: Outcomes, monitoring: Monitoring) -> LookPrice:
    """The price of the candidate that was looked at most often before."""
    arms = range(1, len(outcomes.arms))
    prices = [find_price(outcomes, arm, monitoring) for arm in arms] or [LookPrice("fixed", 0)]
    return max(prices, key=lambda price: (bool(price.refused), len(price.earlier)))


def find_earlier_looks(outcomes: Outcomes, arm: int) -> tuple[OutcomeLook, ...]:
    """Earlier looks at other data of baseline and this candidate, the oldest first; the same data are the same look."""
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
    """Have these arms the same units with the same values in both, in every variable that both know?"""
    for arm in arms:
        sums, earlier_sums = look.sums[arm], earlier.sums.get(arm, {})
        shared = sums.keys() & earlier_sums.keys()
        if len(shared) < 2:  # `rows` alone says nothing of values
            return False
        if not all(np.allclose(sums[name], earlier_sums[name], rtol=SAME, atol=0.0) for name in shared):
            return False
    return True
