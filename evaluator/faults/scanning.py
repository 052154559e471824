"""The scan: every endpoint, every instance, every pair of both and all together, each since every slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray

LEAST_GAIN = 5.0
"""Log likelihood ratio, after allowing for all places and times that were looked at, from which a fault is shown."""
TRIED = 12
"""Best scopes of each kind that are tried with their own dispersion."""
FEWEST_SLOTS = 4
LEAST_AGE_S = 30.0
"""Slots and seconds that a fault must have lasted: shorter ones are disturbances that may pass."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where and since when: endpoints × instances × slots from `slot` on."""

    endpoints: BoolArray
    instances: BoolArray
    slot: int
    gain: float = 0.0
    """Log likelihood ratio of a fault here, after allowing for the number of scopes."""

    def pick(self, values: FloatArray) -> FloatArray:
        """Pick the endpoints and instances of the scope from values of shape (endpoints, instances, slots)."""
        return values[np.ix_(self.endpoints, self.instances)]

    def widen(self, over: str) -> Scope:
        """Return the scope with all `endpoints` or all `instances`."""
        if over == "endpoints":
            return replace(self, endpoints=np.ones_like(self.endpoints))
        return replace(self, instances=np.ones_like(self.instances))


def sum_from_end(values: FloatArray) -> FloatArray:
    """Sum the values of each slot and all later slots (the last axis)."""
    return np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]


def choose_scope(
    gains: Sequence[FloatArray], find_dispersion: Callable[[Scope], float], *, slot_s: float, given: bool
) -> Scope | None:
    """Choose the scope with the largest gain, after allowing for the number of scopes and for their dispersion.

    Args:
        gains: Log likelihood ratios of the pairs (endpoints, instances, slots), of the endpoints (endpoints, 1, slots),
            of the instances (1, instances, slots) and of everything (1, 1, slots), each since each slot.
        slot_s: Length of a slot.
        given: Is it known that there is a fault, because the verdict says so? Then the best scope is returned.
        find_dispersion: By how much the evidence of a scope is to be divided, because it comes in clusters.

    Returns:
        The scope; `None` if none gains as much as `LEAST_GAIN`, unless a fault is `given`.
    """
    endpoints, instances, slots = gains[0].shape
    last = max(slots - max(FEWEST_SLOTS, math.ceil(LEAST_AGE_S / slot_s)), 0) + 1
    # A change at one slot and one at the next are hardly different: about two for each doubling of the time.
    times = math.log(1 + 2 * math.log2(max(slots, 2)))
    best: Scope | None = None
    least = -math.inf if given else LEAST_GAIN
    for gain in gains:
        usable = gain[..., :last]
        penalty = math.log(usable.shape[0] * usable.shape[1]) + times
        # The best slot of each place, then the best places.
        slot_of_place = usable.argmax(axis=-1)
        gain_of_place = np.take_along_axis(usable, slot_of_place[..., None], axis=-1)[..., 0]
        order = np.argsort(gain_of_place, axis=None)[::-1][:TRIED]
        for place in order.tolist():
            endpoint, instance = divmod(place, usable.shape[1])
            if gain_of_place[endpoint, instance] - penalty < (least if best is None else best.gain):
                break
            scope = Scope(
                endpoints=_choose(endpoint, usable.shape[0], endpoints),
                instances=_choose(instance, usable.shape[1], instances),
                slot=int(slot_of_place[endpoint, instance]),
            )
            net = float(gain_of_place[endpoint, instance]) / find_dispersion(scope) - penalty
            if net >= least and (best is None or net > best.gain):
                best = replace(scope, gain=net)
    return best


def _choose(number: int, places: int, units: int) -> BoolArray:
    """Return which of `units` a place stands for: one of them, or all of them if there is one place only."""
    if places == 1:
        return np.ones(units, dtype=bool)
    return np.asarray(np.arange(units) == number)
