"""Faults of a known place and onset, put into simulated requests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.simulate.requests import Requests


@dataclass(frozen=True, slots=True)
class SimulatedFault:
    """What is wrong with some endpoints on some instances of an arm from some time on."""

    what: Literal["failures", "response_time"]
    size: float
    """Added to the share of requests that fail, or the factor on response times."""
    onset_s: float = 0.0
    """Seconds from the start of each run."""
    endpoints: Collection[str] | None = None
    """Names of the endpoints; `None`: all."""
    instances: Collection[str] | None = None
    """Names of the instances; `None`: all of the arm."""
    arm: str = "canary"
    grows: bool = False
    """Does it grow evenly over each run, from nothing at the start to its size at the end?"""
    status: int = 503


def find_affected(requests: Requests, fault: SimulatedFault) -> BoolArray:
    """Return which requests are of the place and the time of a fault, shape (requests,)."""
    affected = requests.arm == requests.arms.index(fault.arm)
    for names, codes, listed in (
        (requests.endpoints, requests.endpoint, fault.endpoints),
        (requests.instances, requests.instance, fault.instances),
    ):
        if listed is not None:
            affected &= np.array([name in listed for name in names], dtype=bool)[codes]
    return np.asarray(affected & (_count_elapsed_us(requests) >= fault.onset_s * 1e6))


def add_fault(requests: Requests, fault: SimulatedFault, seed: int) -> Requests:
    """Return the requests with a fault in them; `seed` decides which requests fail."""
    affected = find_affected(requests, fault)
    sizes: FloatArray = np.ones(len(requests))  # share of the full size at the time of each request
    if fault.grows:
        elapsed_us = _count_elapsed_us(requests)
        sizes = elapsed_us / max(float(elapsed_us.max()), 1.0)
    if fault.what == "response_time":
        factor = np.where(affected, 1 + (fault.size - 1) * sizes, 1.0)
        return replace(requests, response_us=np.rint(requests.response_us * factor).astype(np.int64))
    fails = affected & (np.random.default_rng(seed).random(len(requests)) < fault.size * sizes)
    exception = f"HTTP {fault.status}"
    exceptions = requests.exceptions if exception in requests.exceptions else (*requests.exceptions, exception)
    return replace(
        requests,
        exceptions=exceptions,
        failed=requests.failed | fails,
        status=np.where(fails, fault.status, requests.status),
        exception=np.where(fails, exceptions.index(exception), requests.exception),
    )


def _count_elapsed_us(requests: Requests) -> IntArray:
    """Count the time of each request since the start of its run, µs."""
    starts_us = np.full(len(requests.runs), np.iinfo(np.int64).max)
    np.minimum.at(starts_us, requests.run, requests.ts_us)
    return np.asarray(requests.ts_us - starts_us[requests.run])
