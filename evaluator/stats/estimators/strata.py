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
    """Weight of the slot: its share of the weights v of its blocks, shape (groups, slots)."""
    volume: FloatArray
    """V = Σ v over all blocks, shape (groups,)."""
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
    """Compute the weights of strata from the denominator `n` (requests, or successes), shape (2, endpoints, slots).

    A stratum is an endpoint × time block. Both arms get the same weight in each stratum, so that neither another mix of
    endpoints nor a traffic ramp looks like a change. `groups=None`: all endpoints in one group.
    """
    if groups is None:
        groups = all_together(n.shape[1])
    # Each slot has the total of its block, and the weight v of this stratum: n_b · n_c / (n_b + n_c).
    total = panel.block_sum(n)
    # Denominators are counts; if one is 0, its numerator is 0 too.
    total_of_both = np.maximum(total[0] + total[1], 1e-300)
    weight = total[0] * total[1] / total_of_both
    # The slot's share of its block, and the weight of one request.
    share = (n[0] + n[1]) / total_of_both
    each = weight / np.maximum(total, 1e-300)
    # A block's weight, divided among its slots: summed over slots, it is the weight of all strata.
    slot_weight = weight * share
    mass = groups.sum(slot_weight)
    volume = mass.sum(axis=1)
    # Σ v²/n over all strata of a group, for each arm.
    sum_of_squares = groups.sum_totals((each * slot_weight).sum(axis=2))
    return Strata(
        panel=panel,
        total=total,
        weight=weight,
        share=share,
        each=each,
        lean=None if panel.has_fine_blocks else slot_weight - each * n,
        groups=groups,
        mass=mass,
        volume=volume,
        effective=np.divide(volume**2, sum_of_squares, out=np.zeros_like(sum_of_squares), where=sum_of_squares > 0),
    )


def standardise_levels(strata: Strata, arm: int, numerator: FloatArray) -> Levels:
    """Compute the standardised level of one arm (0 baseline, 1 candidate) and the influence of each slot on it.

    The level is the mean of `numerator` (..., endpoints, slots) per count of the denominator in each stratum, weighted
    by the strata. It is NaN for a group without a stratum that both arms have.
    """
    slot_parts = strata.each[arm] * numerator
    if strata.lean is not None:
        # Within a block, a slot counts by the requests of both arms: this changes influences, not the level.
        slot_parts += strata.lean[arm] * _find_block_means(strata, arm, numerator)
    group_parts = strata.groups.sum(slot_parts)
    volume = np.where(strata.volume > 0, strata.volume, np.nan)
    level = group_parts.sum(axis=-1) / volume
    # What a slot adds to the level, beyond what its weight alone would add at this level; scaled to a mean over slots.
    influence = (strata.panel.slots / volume)[:, None] * (group_parts - level[..., None] * strata.mass)
    return Levels(level, influence)


def standardise_levels_by_run(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    """Return the standardised level of one arm in each run separately, shape (groups, runs); NaN without requests.

    `numerator` has the shape (endpoints, slots).
    """
    weighted = strata.groups.sum(_find_block_means(strata, arm, numerator) * strata.weight * strata.share)
    # The first slot of each run; slots are in the order of runs.
    starts = np.flatnonzero(np.diff(strata.panel.run, prepend=-1))
    volume = np.add.reduceat(strata.mass, starts, axis=-1)
    sums = np.add.reduceat(weighted, starts, axis=-1)
    return np.divide(sums, volume, out=np.full_like(sums, np.nan), where=volume > 0)


def _find_block_means(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    """Return the arm's mean of `numerator` per count in the block of each slot, same shape; 0 without counts."""
    total = strata.total[arm]
    sums = strata.panel.block_sum(numerator)
    return np.asarray(np.divide(sums, total, out=np.zeros_like(sums), where=total > 0))
