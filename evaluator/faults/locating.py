"""Locate one fault of a candidate: scan, name endpoints and instances, find the onset and the size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from evaluator.faults.naming import Named, Profile, name_units
from evaluator.faults.onset import Onset, find_onset
from evaluator.faults.scanning import FEWEST_SLOTS, Scope
from evaluator.faults.slowing import TimeModel

CHANCE_OF_GROWTH = 0.25
"""Probability that times grow slowly, before the data are seen: a leak is a usual cause, a sudden change more so."""
LAST_PART = 1 / 3
"""Share of the run at whose end a slow growth is measured."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault is: the scope in which it is measured, and what of it is shown."""

    scope: Scope
    endpoints: Named
    instances: Named

    def is_same(self, other: Place) -> bool:
        """Are the endpoints and instances of both scopes the same?"""
        return np.array_equal(self.scope.endpoints, other.scope.endpoints) and np.array_equal(
            self.scope.instances, other.scope.instances
        )

    def since(self, onset: Onset, slot_s: int, slots: int) -> Scope:
        """Return the scope since an onset, or since the slot that the scan found if the onset is no step.

        `slots`: how many there are. The scope has as many of them as a fault must have lasted for.
        """
        if onset.kind in {"not_known", "growth"}:
            return self.scope
        last = max(slots - FEWEST_SLOTS, 0)
        return replace(self.scope, slot=min(math.ceil((onset.elapsed_s or 0.0) / slot_s - 0.5), last))


class Model(Protocol):
    """Failures or response times, as a fault is looked for in them."""

    def find_scope(self, *, given: bool) -> Scope | None:
        """Find where and since when a fault is most likely; `None` if none is shown."""

    def profile(self, scope: Scope, *, over: Literal["endpoints", "instances"]) -> Profile:
        """Compare the endpoints (on the instances of the scope) or the instances (at its endpoints)."""


def locate(model: Model, *, given: bool) -> Place | None:
    """Find the place of the fault that a model shows best; `None` if it shows none.

    `given`: does the verdict say that there is a fault?
    """
    scope = model.find_scope(given=given)
    return None if scope is None else name_place(model, scope)


def name_place(model: Model, scope: Scope) -> Place:
    """Name the endpoints and instances that have the fault since the slot of a scope.

    At first the scope is the place. Then each of its sides is decided by what the other has shown.
    """
    endpoints = name_units(model.profile(scope, over="endpoints"))
    scope = replace(scope, endpoints=endpoints.members)
    instances = name_units(model.profile(scope, over="instances"))
    if not np.array_equal(instances.members, scope.instances):
        scope = replace(scope, instances=instances.members)
        endpoints = name_units(model.profile(scope, over="endpoints"))
        scope = replace(scope, endpoints=endpoints.members)
    return Place(scope, endpoints, instances)


def find_time_onset(model: TimeModel, scope: Scope, slot_s: float) -> Onset:
    """Find since when the times of a scope are longer."""
    steps, growth = model.weigh_onsets(scope)
    return find_onset(steps, growth, slot_s * model.slots / steps.size, CHANCE_OF_GROWTH)


def measure_slowing(model: TimeModel, scope: Scope, onset: Onset, slot_s: float) -> float | None:
    """Return how many times as long the times of a scope are since a step as before; else as on the baseline.

    Of a slow growth it is the mean near the end of the run. `None` if there is no time with responses of both arms.
    """
    difference, noise, _ = model.series(scope)
    weight = 1 / noise
    first, before = 0, 0.0
    if onset.kind == "growth":
        first = int(difference.size * (1 - LAST_PART))
    elif onset.kind == "not_known":
        first = scope.slot
    elif onset.elapsed_s is not None:
        first = min(math.ceil(onset.elapsed_s / slot_s), difference.size - 1)
        earlier = slice(int(onset.elapsed_s // slot_s))
        if weight[earlier].sum():
            before = float(np.average(difference[earlier], weights=weight[earlier]))
    if not weight[first:].sum():
        return None
    return float(np.exp(np.average(difference[first:], weights=weight[first:]) - before))
