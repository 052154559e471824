"""Locate one fault of a candidate: scan, name endpoints and instances, find the onset and the size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from evaluator.faults.failing import FailureModel, growth_gain, step_gains
from evaluator.faults.naming import Named, Profile, name_units
from evaluator.faults.onset import Onset, find_onset
from evaluator.faults.scanning import Scope
from evaluator.faults.slowing import TimeModel
from evaluator.records.arrays import FloatArray

SUDDEN_LEAD = 2.0
"""Failures begin suddenly most often: a growth must explain them better by this log likelihood."""
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

        `slots`: how many there are.
        """
        if onset.kind in {"not_known", "growth"}:
            return self.scope
        return replace(self.scope, slot=min(math.ceil((onset.elapsed_s or 0.0) / slot_s - 0.5), slots - 1))


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


@dataclass(frozen=True, slots=True)
class Course:
    """The requests of a scope over time; arrays of shape (buckets,)."""

    n: FloatArray
    failures: FloatArray
    expected: FloatArray
    """Failures that the baseline lets expect."""
    bucket_s: int

    def since(self, onset: Onset) -> slice:
        """Return the buckets since an onset; all if it is no step."""
        return slice(int((onset.elapsed_s or 0.0) // self.bucket_s), None)


def follow(
    model: FailureModel, scope: Scope, n: FloatArray, failures: FloatArray, slot_s: int, bucket_s: int
) -> Course:
    """Expect the failures of a scope in each bucket: those of a slot are spread over its buckets as the requests are.

    `n` and `failures`: what was counted in each bucket, shape (buckets,).
    """
    expected_of_slot = scope.pick(model.expected).sum(axis=(0, 1))
    n_of_slot = scope.pick(model.n).sum(axis=(0, 1))
    mean_rate = expected_of_slot.sum() / max(n_of_slot.sum(), 1.0)
    rate = np.divide(expected_of_slot, n_of_slot, out=np.full_like(n_of_slot, mean_rate), where=n_of_slot > 0)
    slot = np.minimum(np.arange(n.size) * bucket_s // slot_s, rate.size - 1)
    return Course(n, failures, np.maximum(n * rate[slot], 1e-12), bucket_s)


def find_failure_onset(course: Course, dispersion: float) -> Onset:
    """Find since when more requests fail; `dispersion`: by how much the evidence is to be divided."""
    gains = step_gains(course.failures, course.expected, course.n) / dispersion
    growth = growth_gain(course.failures, course.expected, course.n) / dispersion - SUDDEN_LEAD
    return find_onset(gains, growth, course.bucket_s)


def find_time_onset(model: TimeModel, scope: Scope, slot_s: float) -> Onset:
    """Find since when the times of a scope are longer; within a slot, the share of the rise shows the second."""
    gains, growth = model.find_gains(scope)
    difference, noise, _ = model.series(scope)
    weight = 1 / noise
    starts_s = np.arange(gains.size, dtype=np.float64) * slot_s
    best = int(gains.argmax())
    long_before = slice(0, max(best - 1, 1))
    if 0 < best < gains.size - 1 and weight[long_before].sum() and weight[best + 1 :].sum():
        before = np.average(difference[long_before], weights=weight[long_before])
        rise = np.average(difference[best + 1 :], weights=weight[best + 1 :]) - before
        if rise > 0:
            # A slot has this share of the rise, because so much of it is after the onset.
            shares = np.clip((difference - before) / rise, 0.0, 1.0)
            earlier = shares[best - 1] if best > 1 and weight[best - 1] else 0.0
            later = 1 - shares[best] if weight[best] else 0.0
            starts_s[best] += (later - earlier) * slot_s
    return find_onset(gains, growth, slot_s, starts_s)


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
