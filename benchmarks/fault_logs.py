"""Requests as the log of a real service might show them: the second simulator of `benchmarks/faults.py`.

It shares no code with `evaluator.simulate`, so that what finds faults is not tuned to one picture of the world. Traffic
comes in surges; instances get unequal shares of it, are slow after their start, pause, and one may restart; endpoints
fail at rates that differ by powers of ten; one client's bad requests fail in a row; response times have heavy tails;
and what fails is tried again, often on the same instance.
"""

from __future__ import annotations

import math

import numpy as np

from evaluator.simulate import Requests

START_US = 1_788_000_000_000_000
KINDS = (("", 200), ("bad request", 400), ("HTTP 500", 500), ("ConnectionError('refused')", -1))
CLIENTS_PER_HOUR = 6.0
PAUSES_PER_HOUR = 15.0
RESTART_CHANCE = 0.5
RETRIED = 0.7


def draw_log(
    seed: int,
    *,
    duration_s: float = 3600.0,
    rate_per_s: float = 30.0,
    endpoints: int = 12,
    instances: int = 4,
    share: float = 0.5,
) -> Requests:
    """Draw the log of one run of two identical versions; `share`: part of the traffic that the candidate gets."""
    random = np.random.default_rng([seed, 77])
    seconds = math.ceil(duration_s)
    surge = np.repeat(random.gamma(8.0, 1 / 8.0, seconds // 10 + 1), 10)[:seconds]
    total = 2 * rate_per_s * surge * (1 + 0.3 * np.sin(np.arange(seconds) / 900.0))
    popularity = random.dirichlet(np.full(endpoints, 50.0) * np.arange(1, endpoints + 1) ** -1.2)
    median_ms = np.sort(random.lognormal(math.log(60.0), 0.8, endpoints))
    failure_rate = 10 ** random.uniform(-4.5, -2.5, endpoints)
    down = _draw_restart(random, instances, duration_s)
    parts = [
        _draw_arm(random, arm, total * part, popularity, median_ms, failure_rate, down[arm], instances, duration_s)
        for arm, part in enumerate((1 - share, share))
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    kind = columns["kind"]
    return Requests(
        runs=("log",),
        arms=("baseline", "canary"),
        endpoints=tuple(f"GET /api/{number:03}" for number in range(endpoints)),
        instances=tuple(f"{arm}-{number}" for arm in ("baseline", "canary") for number in range(instances)),
        exceptions=tuple(text for text, _ in KINDS),
        run=np.zeros(kind.size, dtype=np.int64),
        arm=columns["arm"],
        endpoint=columns["endpoint"],
        instance=columns["instance"],
        ts_us=START_US + (columns["at_s"] * 1e6).astype(np.int64),
        response_us=np.maximum((columns["ms"] * 1000).astype(np.int64), 1),
        failed=kind > 0,
        response_bytes=np.full(kind.size, 500, dtype=np.int64),
        status=np.array([status for _, status in KINDS])[kind],
        exception=kind,
    )


def _draw_restart(random: np.random.Generator, instances: int, duration_s: float) -> list[tuple[int, float, float]]:
    """Draw which instance of each arm restarts, when, and for how long; at most one does (else it is at infinity)."""
    down = [(0, math.inf, 0.0), (0, math.inf, 0.0)]
    if random.random() < RESTART_CHANCE and instances > 1:
        at_s, long_s = random.uniform(0.1, 0.9) * duration_s, random.uniform(5.0, 20.0)
        down[random.integers(2)] = (int(random.integers(instances)), at_s, long_s)
    return down


def _draw_arm(
    random: np.random.Generator,
    arm: int,
    rate: np.ndarray,
    popularity: np.ndarray,
    median_ms: np.ndarray,
    failure_rate: np.ndarray,
    down: tuple[int, float, float],
    instances: int,
    duration_s: float,
) -> dict[str, np.ndarray]:
    """Draw the requests of an arm, whose traffic in each second has the mean `rate`."""
    count = random.poisson(rate)
    at_s = np.sort(np.repeat(np.arange(rate.size), count) + random.random(count.sum()))
    at_s = at_s[at_s < duration_s]
    n = at_s.size
    endpoint = random.choice(popularity.size, n, p=popularity)
    instance = random.choice(instances, n, p=random.dirichlet(np.full(instances, 40.0)))
    level = np.exp(0.01 * random.standard_normal(instances))
    ms = median_ms[endpoint] * np.exp(0.55 * random.standard_normal(n)) * level[instance]
    ms *= np.where(random.random(n) < 0.03, 2 * (1 + random.pareto(1.6, n)), 1.0)
    ms *= 1 + 1.5 * np.exp(-at_s / 20.0)  # caches are empty at first
    kind = np.where(random.random(n) < failure_rate[endpoint], 2, 0)
    # One client sends requests that cannot succeed, one after another.
    for _ in range(random.poisson(CLIENTS_PER_HOUR * duration_s / 3600)):
        first = random.integers(n)
        same = np.flatnonzero((endpoint == endpoint[first]) & (at_s >= at_s[first]) & (at_s < at_s[first] + 20))
        kind[same[: random.integers(2, 8)]] = 1
    # Pauses: what arrives meanwhile waits for their end.
    for number in range(instances):
        for begin_s in random.uniform(0, duration_s, random.poisson(PAUSES_PER_HOUR * duration_s / 3600)):
            end_s = begin_s + random.exponential(0.8)
            waits = (instance == number) & (at_s >= begin_s) & (at_s < end_s)
            ms[waits] += (end_s - at_s[waits]) * 1000
    number, begin_s, long_s = down
    if math.isfinite(begin_s):
        meanwhile = (instance == number) & (at_s >= begin_s) & (at_s < begin_s + long_s)
        kind[meanwhile & (at_s < begin_s + 2)] = 3
        away = meanwhile & (at_s >= begin_s + 2)  # it is taken out of the balancing
        instance[away] = (number + 1 + random.integers(instances - 1, size=int(away.sum()))) % instances
        cold = (instance == number) & (at_s >= begin_s + long_s)
        ms[cold] *= 1 + 2 * np.exp(-(at_s[cold] - begin_s - long_s) / 15.0)
    ms[kind > 0] *= 0.3
    columns = {"at_s": at_s, "endpoint": endpoint, "instance": instance + arm * instances, "ms": ms, "kind": kind}
    return columns | {"arm": np.full(n, arm, dtype=np.int64)}


def add_retries(requests: Requests, affected: np.ndarray, share: float, seed: int) -> Requests:
    """Try again what failed, after up to 2 s; half of it on the same instance. In the order of rows, retries come last.

    `affected`: the requests of the place and time of a fault, of which a `share` fails; so does it of their retries on
    the same instance. Other retries fail like other requests, but those of a client's bad requests, which fail again.
    """
    random = np.random.default_rng([seed, 78])
    rows = np.flatnonzero(requests.failed & (random.random(len(requests)) < RETRIED))
    same = random.random(rows.size) < 0.5
    per_arm = len(requests.instances) // 2
    elsewhere = requests.arm[rows] * per_arm + random.integers(per_arm, size=rows.size)
    is_bad = requests.status[rows] == 400
    chance = np.where(affected[rows] & same, share, np.where(is_bad, 0.9, 0.02))
    fails = random.random(rows.size) < chance

    def extend(column: np.ndarray, added: np.ndarray) -> np.ndarray:
        return np.concatenate([column, added])

    return Requests(
        runs=requests.runs,
        arms=requests.arms,
        endpoints=requests.endpoints,
        instances=requests.instances,
        exceptions=requests.exceptions,
        run=extend(requests.run, requests.run[rows]),
        arm=extend(requests.arm, requests.arm[rows]),
        endpoint=extend(requests.endpoint, requests.endpoint[rows]),
        instance=extend(requests.instance, np.where(same, requests.instance[rows], elsewhere)),
        ts_us=extend(requests.ts_us, requests.ts_us[rows] + random.integers(200_000, 2_000_000, rows.size)),
        response_us=extend(requests.response_us, requests.response_us[rows]),
        failed=extend(requests.failed, fails),
        response_bytes=extend(requests.response_bytes, requests.response_bytes[rows]),
        status=extend(requests.status, np.where(fails, requests.status[rows], 200)),
        exception=extend(requests.exception, np.where(fails, requests.exception[rows], 0)),
    )
