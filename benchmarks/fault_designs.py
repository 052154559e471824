"""Kinds of releases with a known fault, and the releases that are drawn of them, by three simulators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from fault_logs import add_retries, draw_log
from fault_services import add_uneven_fault, choose_places, draw_requests, draw_service

from evaluator.simulate import AR1, Change, Requests, Scenario, simulate
from evaluator.simulate.faults import SimulatedFault, add_fault, find_affected

LEAST_REQUESTS = 200
"""Requests that a place needs from the onset on."""
HOUR = Scenario()
UNEQUAL = replace(HOUR, instance_sd=0.2)


@dataclass(frozen=True, slots=True)
class Design:
    """A kind of release and its fault."""

    name: str
    scenario: Scenario = HOUR
    what: Literal["failures", "response_time", ""] = ""
    """Empty: there is no fault."""
    size: float = 0.0
    """Of the fault; 0: +5 points of failures, or twice the time."""
    endpoints: int | None = 1
    """How many endpoints have it; `None`: all."""
    instances: int | None = 1
    at_start: bool = False
    grows: bool = False
    arm: str = "canary"
    promised: bool = True
    """Must the card name all of it?"""
    times: int = 1
    """How many times as many releases are drawn as of other designs."""
    least_requests: int = LEAST_REQUESTS
    """The place of the fault has at least so many requests since its onset."""
    source: Literal["simulate", "log", "services"] = "simulate"
    """The simulator: `evaluator.simulate`, `benchmarks/fault_logs.py` or `benchmarks/fault_services.py`."""


THREE_ARMS = replace(HOUR, changes=(Change(), Change()))
ALONE = replace(HOUR, instances=(1,), instance_sd=0.05)
MANY = replace(HOUR, endpoints=200)
PRODUCTION = replace(HOUR, duration_s=7200.0, bucket_s=15, split=(0.1,))
LOG = Scenario(endpoints=12)
LOG_2_MIN = replace(LOG, duration_s=120.0, rate_per_s=200.0)
LOG_10 = replace(LOG, duration_s=7200.0, split=(0.1,))
FAILS: Literal["failures"] = "failures"
SLOW: Literal["response_time"] = "response_time"
DESIGNS = (
    Design("one endpoint on one instance, +5 points of failures", HOUR, FAILS, times=25),
    Design("one endpoint on one instance, twice the time", HOUR, SLOW),
    Design("the same from the start, failures", HOUR, FAILS, at_start=True),
    Design("the same from the start, time", HOUR, SLOW, at_start=True),
    Design("all endpoints on one instance, failures", HOUR, FAILS, endpoints=None),
    Design("all endpoints on one instance, time", HOUR, SLOW, endpoints=None),
    Design("one endpoint on all instances, failures", HOUR, FAILS, instances=None),
    Design("one endpoint on all instances, time", HOUR, SLOW, instances=None),
    Design("two endpoints on all instances, time", HOUR, SLOW, endpoints=2, instances=None),
    Design("all endpoints on two instances, failures", HOUR, FAILS, endpoints=None, instances=2),
    Design("everything from the start, +1 point of failures", HOUR, FAILS, 0.01, None, None, at_start=True),
    Design("everything from the start, +20 % time", HOUR, SLOW, 1.2, None, None, at_start=True, promised=False),
    Design("everything, +20 % time", HOUR, SLOW, 1.2, None, None, promised=False),
    Design("leak: everything, up to +40 % time", HOUR, SLOW, 1.4, None, None, grows=True, promised=False),
    Design("leak of one endpoint on one instance, up to twice the time", HOUR, SLOW, grows=True),
    Design("A/B/C, one bad candidate, failures", THREE_ARMS, FAILS, arm="canary_b"),
    Design("A/B/C, one bad candidate, time", THREE_ARMS, SLOW, arm="canary_b"),
    Design("200 endpoints at 60/s, failures", replace(MANY, rate_per_s=60.0), FAILS, promised=False, times=8),
    Design("200 endpoints at 60/s, places from 50 requests on, failures", replace(MANY, rate_per_s=60.0), FAILS,
           promised=False, times=4, least_requests=50),
    Design("200 endpoints at 60/s, time", replace(MANY, rate_per_s=60.0), SLOW, promised=False),
    Design("200 endpoints, everything +1 point of failures", MANY, FAILS, 0.01, None, None, at_start=True),
    Design("1 + 1 instances, failures", ALONE, FAILS),
    Design("1 + 1 instances, time", ALONE, SLOW),
    Design("2 + 2 instances, failures", replace(HOUR, instances=(2,)), FAILS),
    Design("2 + 2 instances, time", replace(HOUR, instances=(2,)), SLOW),
    Design("instances of unequal speed (sd 20 %), time", UNEQUAL, SLOW),
    Design("3 runs of 15 min, failures", replace(HOUR, replicates=3, duration_s=900.0), FAILS),
    Design("3 runs of 15 min, time", replace(HOUR, replicates=3, duration_s=900.0), SLOW),
    Design("2 min at 200/s, failures", replace(HOUR, duration_s=120.0, rate_per_s=200.0), FAILS, times=25),
    Design("2 min at 200/s, time", replace(HOUR, duration_s=120.0, rate_per_s=200.0), SLOW, times=5),
    Design("6 h at 20/s, failures", replace(HOUR, duration_s=21_600.0, rate_per_s=20.0), FAILS, promised=False),
    Design("6 h at 20/s, time", replace(HOUR, duration_s=21_600.0, rate_per_s=20.0), SLOW),
    Design("production: 2 h, 10 % of the traffic, failures", PRODUCTION, FAILS, promised=False, times=8),
    Design("production: 2 h, 10 % of the traffic, time", PRODUCTION, SLOW, promised=False),
    Design("log: one endpoint on one instance, failures", LOG, FAILS, promised=False, source="log", times=25),
    Design("log: one endpoint on one instance, time", LOG, SLOW, source="log"),
    Design("log: all endpoints on one instance, failures", LOG, FAILS, endpoints=None, source="log"),
    Design("log: one endpoint on all instances, failures", LOG, FAILS, instances=None, source="log"),
    Design("log: leak of one endpoint on one instance, time", LOG, SLOW, grows=True, source="log"),
    Design("log: 2 min at 200/s, failures", LOG_2_MIN, FAILS, source="log", times=7),
    Design("log: 10 % of the traffic for 2 h, failures", LOG_10, FAILS, promised=False, source="log", times=5),
    Design("log: no fault", LOG, source="log"),
    Design("log: no fault, 2 min at 200/s", LOG_2_MIN, source="log", times=7),
    Design("services: one endpoint on one instance, failures", HOUR, FAILS, promised=False, source="services",
           times=25),
    Design("services: one endpoint on one instance, time", HOUR, SLOW, promised=False, source="services", times=8),
    Design("services: no fault", source="services", times=25),
    Design("no fault"),
    Design("no fault, instances of unequal speed (sd 20 %)", UNEQUAL),
    Design("no fault, 2 + 2 of unequal speed", replace(UNEQUAL, instances=(2,))),
    Design("no fault, slow drift of whole arms", replace(HOUR, arm_drift=AR1(0.015, 480.0))),
    Design("no fault, an instance restarts", replace(HOUR, restarts=1)),
    Design("no fault, 2 min at 100/s", replace(HOUR, duration_s=120.0, rate_per_s=100.0), times=25),
)  # fmt: skip

ONE_OF_LOG, ONE_OF_SERVICES = (
    next(design for design in DESIGNS if design.source == source) for source in ("log", "services")
)
ON_CURVE = tuple(
    design
    for design in DESIGNS
    if design.what == "failures" and design.endpoints == design.instances == 1 and not (design.at_start or design.grows)
)
"""Designs with failures at one endpoint on one instance since a time: from them, the curve by requests is drawn."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The fault of a release; names are empty if there is none."""

    fault: SimulatedFault | None
    endpoints: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()
    requests: int = 0
    """Requests there since the onset."""
    tried: int = 0
    """How many places were drawn until one had enough requests."""
    duration_s: float = 0.0
    """Of a run."""


def draw(design: Design, seed: int) -> tuple[Requests, Truth]:
    """Draw a release, and put its fault at a place with enough requests."""
    if design.source == "services":
        return draw_from_services(design, seed)
    random = np.random.default_rng(1_000_000 + seed)
    scenario = design.scenario
    if design.source == "log":
        requests = draw_log(
            seed,
            duration_s=scenario.duration_s,
            rate_per_s=scenario.rate_per_s,
            endpoints=scenario.endpoints,
            instances=scenario.instances[0],
            share=scenario.split[0],
        )
    else:
        requests = simulate(scenario, seed)
    if not design.what:
        if design.source == "log":
            requests = add_retries(requests, np.zeros(len(requests), dtype=bool), 0.0, seed)
        return requests, Truth(None, duration_s=scenario.duration_s)
    arm_code = requests.arms.index(design.arm)
    of_arm = [requests.instances[code] for code in np.unique(requests.instance[requests.arm == arm_code])]
    onset_s = 0.0 if design.at_start or design.grows else float(random.uniform(0.15, 0.75)) * design.scenario.duration_s
    size = design.size or (0.05 if design.what == "failures" else 2.0)
    for tried in range(1, 1001):
        endpoints = _choose(random, requests.endpoints, design.endpoints)
        instances = _choose(random, of_arm, design.instances)
        fault = SimulatedFault(design.what, size, onset_s, endpoints, instances, arm=design.arm, grows=design.grows)
        affected = find_affected(requests, fault)
        if affected.sum() >= design.least_requests:
            failing = add_fault(requests, fault, seed)
            if design.source == "log":
                failing = add_retries(failing, affected, size if design.what == "failures" else 0.0, seed)
            truth = Truth(
                fault,
                frozenset(endpoints),
                frozenset(instances),
                int(affected.sum()),
                tried,
                scenario.duration_s,
            )
            return failing, truth
    raise SystemExit(f"{design.name}: no place has {design.least_requests} requests")


def draw_from_services(design: Design, seed: int) -> tuple[Requests, Truth]:
    """Draw a release of the third simulator; another service is drawn where no place has enough requests."""
    for number in itertools.count(1000 * seed):
        service = draw_service(number)
        requests = draw_requests(service, number)
        if not design.what:
            return requests, Truth(None, duration_s=service.duration_s)
        random = np.random.default_rng([number, 304])
        onset_s = float(random.uniform(0.15, 0.75)) * service.duration_s
        places = choose_places(requests, onset_s, design.least_requests)
        if places:
            endpoint, instance = places[random.integers(len(places))]
            size = 0.05 if design.what == "failures" else 2.0
            fault = SimulatedFault(design.what, size, onset_s, [endpoint], [instance])
            affected = find_affected(requests, fault)
            truth = Truth(
                fault, frozenset([endpoint]), frozenset([instance]), int(affected.sum()), 1, service.duration_s
            )
            return add_uneven_fault(requests, affected, design.what, size, number), truth
    raise AssertionError


def _choose(random: np.random.Generator, names: Sequence[str], count: int | None) -> list[str]:
    """Choose so many of the names; `None`: all."""
    return list(names) if count is None else random.choice(list(names), min(count, len(names)), replace=False).tolist()
