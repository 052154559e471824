"""Requests of services that differ in everything: the third simulator of `benchmarks/faults.py`.

Each release is of another service: 5 to 60 minutes, 5 to 200 endpoints, 2 to 6 instances a side, 10 to 50 % of the
traffic for the candidate, 30 to 300 requests a second in all. It shares no code with `evaluator.simulate` and
`fault_logs.py`. Traffic is overdispersed and drifts; instances have unequal loads and speeds; times are lognormal, and
slow waves of the load of an instance lengthen them; failures of an endpoint come in episodes, those of an instance and
of both arms in bursts; and the share of requests that a fault makes fail goes up and down.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from evaluator.simulate import Requests

START_US = 1_793_000_000_000_000
EPISODE_S, FAULT_S = 60, 10
"""Seconds for which an endpoint's rate of failures, and the strength of a fault, stay the same."""
BURSTS_PER_HOUR = 1.0
"""Bursts of failures of an instance; half as many hit both arms."""
STATUS = np.array([200, 500, 502, 503])


@dataclass(frozen=True, slots=True)
class Service:
    """The size of a service and of its run."""

    duration_s: float
    rate_per_s: float
    """Of both arms together."""
    endpoints: int
    instances: int
    share: float
    """Part of the traffic that the candidate gets."""


def draw_service(seed: int) -> Service:
    """Draw the size of a service."""
    random = np.random.default_rng([seed, 301])
    return Service(
        duration_s=60.0 * round(math.exp(random.uniform(math.log(5), math.log(60)))),
        rate_per_s=math.exp(random.uniform(math.log(30), math.log(300))),
        endpoints=round(math.exp(random.uniform(math.log(5), math.log(200)))),
        instances=int(random.integers(2, 7)),
        share=float(random.uniform(0.1, 0.5)),
    )


def draw_requests(service: Service, seed: int) -> Requests:
    """Draw the requests of two identical versions of a service."""
    random = np.random.default_rng([seed, 302])
    seconds = int(service.duration_s)
    drift = _draw_waves(random, 1, seconds, tau_s=300.0, sd=0.2)[0]
    traffic = service.rate_per_s * np.exp(drift) * random.gamma(6.0, 1 / 6.0, seconds)
    popularity = np.arange(1, service.endpoints + 1) ** -random.uniform(0.3, 1.1)
    popularity /= popularity.sum()
    median_ms, sigma = random.uniform(5, 400, service.endpoints), random.uniform(0.3, 1.0, service.endpoints)
    failing = 10 ** random.uniform(-5.0, -2.3, service.endpoints)
    common = _draw_waves(random, 1, seconds, tau_s=120.0, sd=0.05)[0]
    shared_bursts = _draw_bursts(random, 1, seconds, BURSTS_PER_HOUR / 2)[0]
    level_sd = random.uniform(0.01, 0.1)
    columns: dict[str, list[np.ndarray]] = {}
    for arm, part in enumerate((1 - service.share, service.share)):
        second = np.repeat(np.arange(seconds), random.poisson(traffic * part))
        endpoint = random.choice(service.endpoints, second.size, p=popularity)
        instance = random.choice(service.instances, second.size, p=random.dirichlet(np.full(service.instances, 15.0)))
        waves = _draw_waves(random, service.instances, seconds, tau_s=random.uniform(20, 200), sd=0.05)
        level = level_sd * random.standard_normal(service.instances)
        log_ms = np.log(median_ms[endpoint]) + sigma[endpoint] * random.standard_normal(second.size)
        log_ms += common[second] + waves[instance, second] + level[instance]
        # The rate of failures of an endpoint is that of an episode: nothing for a while, then many.
        episodes = random.gamma(0.5, 2.0, (service.endpoints, seconds // EPISODE_S + 1))
        chance = failing[endpoint] * episodes[endpoint, second // EPISODE_S]
        status = np.where(random.random(second.size) < chance, 1, 0)
        bursts = np.maximum(_draw_bursts(random, service.instances, seconds, BURSTS_PER_HOUR), shared_bursts)
        status[random.random(second.size) < bursts[instance, second]] = 2
        values = {
            "arm": np.full(second.size, arm),
            "endpoint": endpoint,
            "instance": instance + arm * service.instances,
            "ts_us": START_US + ((second + random.random(second.size)) * 1e6).astype(np.int64),
            "response_us": np.maximum(np.exp(log_ms) * 1000, 1).astype(np.int64),
            "exception": status,
        }
        for name, column in values.items():
            columns.setdefault(name, []).append(column)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Requests(
        runs=("services",),
        arms=("baseline", "canary"),
        endpoints=tuple(f"POST /v2/resource-{number:03}" for number in range(service.endpoints)),
        instances=tuple(f"{arm}-pod-{number}" for arm in ("old", "new") for number in range(service.instances)),
        exceptions=("", "HTTP 500", "HTTP 502", "HTTP 503"),
        run=np.zeros(joined["arm"].size, dtype=np.int64),
        failed=joined["exception"] > 0,
        response_bytes=np.full(joined["arm"].size, 900, dtype=np.int64),
        status=STATUS[joined["exception"]],
        **joined,
    )


def add_uneven_fault(requests: Requests, affected: np.ndarray, what: str, size: float, seed: int) -> Requests:
    """Add a fault to some requests: `size` is the mean of what fails, or the mean factor on their times.

    The strength of a fault has a gamma distribution, drawn anew every few seconds: half as much once, twice then.
    """
    random = np.random.default_rng([seed, 303])
    block = (requests.ts_us - START_US) // (FAULT_S * 1_000_000)
    strength = random.gamma(4.0, 1 / 4.0, int(block.max()) + 1)[block]
    if what == "response_time":
        factor = np.where(affected, 1 + (size - 1) * strength, 1.0)
        return replace(requests, response_us=np.rint(requests.response_us * factor).astype(np.int64))
    fails = affected & (random.random(len(requests)) < np.minimum(size * strength, 1.0))
    kind = len(requests.exceptions) - 1
    return replace(
        requests,
        failed=requests.failed | fails,
        status=np.where(fails, STATUS[kind], requests.status),
        exception=np.where(fails, kind, requests.exception),
    )


def choose_places(requests: Requests, onset_s: float, least: int) -> Collection[tuple[str, str]]:
    """List the endpoints on instances of the candidate that have at least so many requests since an onset."""
    later = (requests.arm == 1) & (requests.ts_us >= START_US + onset_s * 1e6)
    instances = len(requests.instances)
    count = np.bincount(
        requests.endpoint[later] * instances + requests.instance[later], minlength=len(requests.endpoints) * instances
    )
    places = (divmod(int(place), instances) for place in np.flatnonzero(count >= least))
    return [(requests.endpoints[endpoint], requests.instances[instance]) for endpoint, instance in places]


def _draw_waves(random: np.random.Generator, rows: int, seconds: int, *, tau_s: float, sd: float) -> np.ndarray:
    """Draw autocorrelated waves with a time constant and a standard deviation, shape (rows, seconds)."""
    keep = math.exp(-1 / tau_s)
    steps = random.standard_normal((rows, seconds)) * sd * math.sqrt(1 - keep**2)
    waves = np.empty_like(steps)
    value = sd * random.standard_normal(rows)
    for second in range(seconds):
        value = keep * value + steps[:, second]
        waves[:, second] = value
    return waves


def _draw_bursts(random: np.random.Generator, rows: int, seconds: int, per_hour: float) -> np.ndarray:
    """Draw the share of requests that fail in bursts, shape (rows, seconds)."""
    shares = np.zeros((rows, seconds))
    for row in range(rows):
        for begin in random.integers(0, seconds, random.poisson(per_hour * seconds / 3600)):
            shares[row, begin : begin + 1 + int(random.exponential(12.0))] = random.uniform(0.05, 0.6)
    return shares
