"""Levels standardised over endpoints and time, and each bucket's influence on them (method B.2).

A stratum is an endpoint × time block. Both arms are weighted by the same Mantel-Haenszel weights
v = n_c·n_b / (n_c + n_b), so neither another endpoint mix nor a traffic ramp moves the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.stats.shaping.groups import Groups, all_together
from evaluator.stats.shaping.panel import Panel


@dataclass(frozen=True, slots=True)
class Strata:
    """Weights of one denominator (all requests, or successes), on every slot of the panel."""

    panel: Panel
    total: FloatArray
    """n, the denominator, over the block, (2, endpoints, slots)"""
    weight: FloatArray
    """v, (endpoints, slots); 0 where an arm is empty"""
    share: FloatArray
    """the slot's share of its block's requests, (endpoints, slots)"""
    each: FloatArray
    """v / n: what one request of the slot weighs, (2, endpoints, slots); 0 where the arm is empty"""
    lean: FloatArray | None
    """What the slot weighs by both arms' requests beyond what it weighs by its own arm's, (2, endpoints, slots); `None`
    where every slot is a block of its own: nothing."""
    groups: Groups
    """Which endpoints are compared together."""
    mass: FloatArray
    """the slot's part of V, (groups, slots)"""
    volume: FloatArray
    """V = Σ v, (groups,)"""
    effective: FloatArray
    """n* = V² / Σ(v²/n): the binomial sample size that the weighted level is worth, (2, groups)"""


@dataclass(frozen=True, slots=True)
class Levels:
    """One arm's standardised level and the influence of every slot on it (mean 0 over slots).

    `level` has shape (..., groups), `influence` (..., groups, slots), both in the unit of the numerator.
    """

    level: FloatArray
    influence: FloatArray


def build_strata(panel: Panel, n: FloatArray, groups: Groups | None = None) -> Strata:
    """Weigh the denominator `n` (2, endpoints, slots); one group of all endpoints unless `groups` says otherwise."""
    if groups is None:
        groups = all_together(n.shape[1])
    total = panel.block_sum(n)
    # What is divided by is a count; where it is 0, so is what is divided.
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
    """Standardised level of `numerator` (..., endpoints, slots) per request of one arm."""
    parts = strata.each[arm] * numerator
    if strata.lean is not None:
        parts += strata.lean[arm] * _block_means(strata, arm, numerator)
    added = strata.groups.sum(parts)
    volume = np.where(strata.volume > 0, strata.volume, np.nan)
    level = added.sum(axis=-1) / volume
    influence = (strata.panel.slots / volume)[:, None] * (added - level[..., None] * strata.mass)
    return Levels(level, influence)


def run_levels(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    """Standardised level of one arm in each run apart: shape (groups, runs)."""
    weighted = strata.groups.sum(_block_means(strata, arm, numerator) * strata.weight * strata.share)
    starts = np.flatnonzero(np.diff(strata.panel.run, prepend=-1))
    volume = np.add.reduceat(strata.mass, starts, axis=-1)
    sums = np.add.reduceat(weighted, starts, axis=-1)
    return np.divide(sums, volume, out=np.full_like(sums, np.nan), where=volume > 0)


def _block_means(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    total = strata.total[arm]
    sums = strata.panel.block_sum(numerator)
    return np.asarray(np.divide(sums, total, out=np.zeros_like(sums), where=total > 0))
