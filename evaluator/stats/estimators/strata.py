"""Levels standardised over endpoints and time, and each bucket's influence on them (method B.2, standardised levels).

A stratum is an endpoint × time block. Both arms have the same weights v = n_c·n_b / (n_c + n_b) (Mantel & Haenszel
1959; Cochran 1954), so neither another mix of endpoints nor a traffic ramp changes the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.stats.shaping.groups import Groups, all_together
from evaluator.stats.shaping.panel import Panel


@dataclass(frozen=True, slots=True)
class Strata:
    """Weights for one denominator (all requests, or successes), on each slot of the panel."""

    panel: Panel
    total: FloatArray
    """n: the denominator, summed over the block, shape (2, endpoints, slots)."""
    weight: FloatArray
    """v, shape (endpoints, slots); 0 if an arm is empty."""
    share: FloatArray
    """Share of the slot in the requests of its block, shape (endpoints, slots)."""
    each: FloatArray
    """v / n: weight of one request of the slot, shape (2, endpoints, slots); 0 if the arm is empty."""
    lean: FloatArray | None
    """Weight of the slot by the requests of both arms, minus its weight by those of its own arm, shape (2, endpoints,
    slots); `None` if each block is a single slot, because it is then 0."""
    groups: Groups
    """Which endpoints are compared together."""
    mass: FloatArray
    """Part of the slot in V, shape (groups, slots)."""
    volume: FloatArray
    """V = Σ v, shape (groups,)."""
    effective: FloatArray
    """n* = V² / Σ(v²/n): binomial sample size with the variance of the weighted level, shape (2, groups)."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The standardised level of one arm and the influence of each slot on it (with mean 0 over slots).

    `level` has shape (..., groups), `influence` (..., groups, slots), both in the unit of the numerator.
    """

    level: FloatArray
    influence: FloatArray


def build_strata(panel: Panel, n: FloatArray, groups: Groups | None = None) -> Strata:
    """Compute the weights of the denominator `n` (2, endpoints, slots); `groups=None`: all endpoints in one group."""
    if groups is None:
        groups = all_together(n.shape[1])
    total = panel.block_sum(n)
    # Denominators are counts; if one is 0, its numerator is 0 too.
    both = np.maximum(total[0] + total[1], 1e-300)
    weight = total[0] * total[1] / both
    share = (n[0] + n[1]) / both
    each = weight / np.maximum(total, 1e-300)
    part = weight * share
    mass = groups.sum(part)
    volume = mass.sum(axis=1)
    spread = groups.sum_totals((each * part).sum(axis=2))
    effective = np.divide(volume**2, spread, out=np.zeros_like(spread), where=spread > 0)
    lean = None if panel.has_fine_blocks else part - each * n
    return Strata(panel, total, weight, share, each, lean, groups, mass, volume, effective)


def levels(strata: Strata, arm: int, numerator: FloatArray) -> Levels:
    """Return the standardised level of one arm: `numerator` (..., endpoints, slots) per count of the denominator."""
    parts = strata.each[arm] * numerator
    if strata.lean is not None:
        parts += strata.lean[arm] * _block_means(strata, arm, numerator)
    added = strata.groups.sum(parts)
    volume = np.where(strata.volume > 0, strata.volume, np.nan)
    level = added.sum(axis=-1) / volume
    influence = (strata.panel.slots / volume)[:, None] * (added - level[..., None] * strata.mass)
    return Levels(level, influence)


def run_levels(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    """Return the standardised level of one arm in each run separately, shape (groups, runs); NaN without requests."""
    weighted = strata.groups.sum(_block_means(strata, arm, numerator) * strata.weight * strata.share)
    starts = np.flatnonzero(np.diff(strata.panel.run, prepend=-1))
    volume = np.add.reduceat(strata.mass, starts, axis=-1)
    sums = np.add.reduceat(weighted, starts, axis=-1)
    return np.divide(sums, volume, out=np.full_like(sums, np.nan), where=volume > 0)


def _block_means(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    total = strata.total[arm]
    sums = strata.panel.block_sum(numerator)
    return np.asarray(np.divide(sums, total, out=np.zeros_like(sums), where=total > 0))
