"""Bursts of failures, which are over: a fault that lasts is looked for in the rest of the time."""

from __future__ import annotations

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray

LONGEST = 4
"""Slots of the longest burst."""
AROUND = 8
"""Slots before a burst, and after it, with which it is compared."""
FEWEST_AFTER = 2
"""So many slots must follow a burst: else it is not known whether it is over."""
LEAST_RATIO = 3.0
"""A burst has so many times as many failures as the slots around it let expect."""
NATS_OF_BURST = 6.0
"""Log likelihood ratio by which it must have more."""


def find_bursts(n: FloatArray, failures: FloatArray) -> BoolArray:
    """Find the slots in which an instance, or all of them, have many failures for a short time.

    Args:
        n: Requests, shape (endpoints, instances, slots).
        failures: Those of them that failed.

    Returns:
        Which slots of each instance are part of a burst, shape (1, instances, slots).
    """
    n, failures = n.sum(axis=0, keepdims=True), failures.sum(axis=0, keepdims=True)
    of_single = _find_in_series(n, failures)
    of_all = ((values * ~of_single).sum(axis=1, keepdims=True) for values in (n, failures))
    return of_single | _find_in_series(*of_all)


def _find_in_series(n: FloatArray, count: FloatArray) -> BoolArray:
    """Find the slots of bursts in each series; all of shape (…, slots)."""
    slots = n.shape[-1]
    found = np.zeros(n.shape, dtype=bool)
    sums_of_n, sums = (
        np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
        for values in (n, count)
    )
    for length in range(1, LONGEST + 1):
        first = np.arange(slots - length - FEWEST_AFTER + 1)
        if not first.size:
            break
        after = first + length
        here, of = sums[..., after] - sums[..., first], sums_of_n[..., after] - sums_of_n[..., first]
        usual = np.zeros_like(here)
        for begin, end in ((np.maximum(first - AROUND, 0), first), (after, np.minimum(after + AROUND, slots))):
            side, of_side = sums[..., end] - sums[..., begin], sums_of_n[..., end] - sums_of_n[..., begin]
            usual = np.maximum(usual, (side + 1) / np.maximum(of_side, 1) * of * (end > begin))
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(here > 0, here * np.log(here / usual), 0.0) - here + usual
        is_burst = (here >= LEAST_RATIO * usual) & (gain >= NATS_OF_BURST) & (here > 0)
        # A slot next to a burst is no part of it: each slot of one has too many failures by itself.
        rate = LEAST_RATIO * usual / np.maximum(of, 1)
        for slot in (first + later for later in range(length)):
            found[..., slot] |= is_burst & (count[..., slot] > rate * n[..., slot])
    return found
