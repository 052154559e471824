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
    block_n: FloatArray
    """n: the denominator, summed over the block, shape (2, endpoints, slots)."""
    block_weight: FloatArray
    """v, shape (endpoints, slots); 0 if an arm is empty."""
    slot_share: FloatArray
    """Share of the slot in the requests of its block, shape (endpoints, slots)."""
    request_weight: FloatArray
    """v / n: weight of one request of the slot, shape (2, endpoints, slots); 0 if the arm is empty."""
    weight_shift: FloatArray | None
    """Weight of the slot by the requests of both arms, minus its weight by those of its own arm, shape (2, endpoints,
    slots); `None` if each block is a single slot, because it is then 0."""
    groups: Groups
    """Which endpoints are compared together."""
    slot_weight: FloatArray
    """Weight of the slot: its share of the weights v of its blocks, shape (groups, slots)."""
    total_weight: FloatArray
    """V = Σ v over all blocks, shape (groups,)."""
    effective_n: FloatArray
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
    block_n = panel.block_sum(n)
    # Denominators are counts; if one is 0, its numerator is 0 too.
    block_n_of_both = np.maximum(block_n[0] + block_n[1], 1e-300)
    block_weight = block_n[0] * block_n[1] / block_n_of_both
    # The slot's share of its block, and the weight of one request in the level of its arm.
    slot_share = (n[0] + n[1]) / block_n_of_both
    request_weight = block_weight / np.maximum(block_n, 1e-300)
    # A block's weight, divided among its slots: summed over slots, it is the weight of all strata.
    weight_by_endpoint = block_weight * slot_share  # shape (endpoints, slots)
    slot_weight = groups.sum(weight_by_endpoint)
    total_weight = slot_weight.sum(axis=1)
    # The slot's weight, minus its weight if only the requests of its own arm counted; 0 if each block is one slot.
    weight_shift = None if panel.has_fine_blocks else weight_by_endpoint - request_weight * n
    # Σ v²/n over all strata of a group, for each arm.
    sum_of_squares = groups.sum_totals((request_weight * weight_by_endpoint).sum(axis=2))
    return Strata(
        panel=panel,
        block_n=block_n,
        block_weight=block_weight,
        slot_share=slot_share,
        request_weight=request_weight,
        weight_shift=weight_shift,
        groups=groups,
        slot_weight=slot_weight,
        total_weight=total_weight,
        effective_n=np.divide(
            total_weight**2, sum_of_squares, out=np.zeros_like(sum_of_squares), where=sum_of_squares > 0
        ),
    )


def standardise_levels(strata: Strata, arm: int, numerator: FloatArray) -> Levels:
    """Compute the standardised level of one arm (0 baseline, 1 candidate) and the influence of each slot on it.

    The level is the mean of `numerator` (..., endpoints, slots) per count of the denominator in each stratum, weighted
    by the strata. It is NaN for a group without a stratum that both arms have.
    """
    slot_parts = strata.request_weight[arm] * numerator
    if strata.weight_shift is not None:
        # Within a block, a slot counts by the requests of both arms, not only of its own arm: `weight_shift` is the
        # difference. It sums to 0 over a block, so it changes influences, not the level.
        slot_parts += strata.weight_shift[arm] * _find_block_means(strata, arm, numerator)
    group_parts = strata.groups.sum(slot_parts)
    total_weight = np.where(strata.total_weight > 0, strata.total_weight, np.nan)
    level = group_parts.sum(axis=-1) / total_weight
    # What a slot adds to the level, beyond what its weight alone would add at this level; scaled to a mean over slots.
    influence = (strata.panel.slots / total_weight)[:, None] * (group_parts - level[..., None] * strata.slot_weight)
    return Levels(level, influence)


def standardise_levels_by_run(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    """Return the standardised level of one arm in each run separately, shape (groups, runs); NaN without requests.

    `numerator` has the shape (endpoints, slots).
    """
    # The mean of each block, times the block's weight, of which each slot gets its share.
    weighted = strata.groups.sum(_find_block_means(strata, arm, numerator) * strata.block_weight * strata.slot_share)
    # The first slot of each run; slots are in the order of runs.
    starts = np.flatnonzero(np.diff(strata.panel.run, prepend=-1))
    weight_of_run = np.add.reduceat(strata.slot_weight, starts, axis=-1)
    sums = np.add.reduceat(weighted, starts, axis=-1)
    return np.divide(sums, weight_of_run, out=np.full_like(sums, np.nan), where=weight_of_run > 0)


def _find_block_means(strata: Strata, arm: int, numerator: FloatArray) -> FloatArray:
    """Return the arm's mean of `numerator` per count in the block of each slot, same shape; 0 without counts."""
    counts = strata.block_n[arm]
    sums = strata.panel.block_sum(numerator)
    return np.asarray(np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0))
