"""Small simulated releases: every design, and what is odd about requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from judging import SMALL, timed_requests

from evaluator.records import Cells
from evaluator.simulate import Bursts, Change, Requests, Scenario, simulate, to_cells
from evaluator.stats.shaping.panel import Panel, build_panel

BUCKET_S = 5
LIGHT = replace(SMALL, duration_s=240.0, rate_per_s=12.0, endpoints=3, bucket_s=BUCKET_S)
WORSE = Change(latency=0.08, failures_added=0.02)
FAILING = replace(LIGHT, failure_rate=0.02, changes=(WORSE,))
NEVER = Bursts(0.0, 30.0, 0.0, 0.0)
FAULTLESS: Mapping[str, Any] = {"failure_rate": 0.0, "shared_failures": NEVER, "instance_failures": NEVER}
ONE_INSTANCE = replace(FAILING, instances=(1,))
RUNS = replace(ONE_INSTANCE, duration_s=60.0, rate_per_s=20.0)


def keep(requests: Requests, chosen: np.ndarray) -> Requests:
    columns = {
        field.name: getattr(requests, field.name)[chosen]
        for field in fields(requests)
        if isinstance(getattr(requests, field.name), np.ndarray)
    }
    return replace(requests, **columns)


def _apart(design: Scenario) -> Requests:
    """The candidate of each run starts when its baseline has ended, and has run half as long."""
    requests = simulate(design, 5)
    later = np.where(requests.arm == 1, int(design.duration_s * 0.75) * 1_000_000, 0)
    first = np.array([requests.ts_us[requests.run == run].min() for run in range(len(requests.runs))])[requests.run]
    late = requests.ts_us - first > design.duration_s * 0.5 * 1e6
    return keep(replace(requests, ts_us=requests.ts_us + later), (requests.arm == 0) | late)


def _failed(design: Scenario, arms: tuple[int, ...]) -> Requests:
    requests = simulate(design, 5)
    return replace(requests, failed=requests.failed | np.isin(requests.arm, arms))


def _without_endpoint() -> Requests:
    """The candidate has no request of the last endpoint, the baseline none of the first."""
    requests = simulate(FAILING, 5)
    return keep(
        requests, ~((requests.arm == 1) & (requests.endpoint == 2)) & ~((requests.arm == 0) & (requests.endpoint == 0))
    )


def _in_steps(
    steps_us: tuple[int, int], median_us: float = 20_000.0, sd_us: float = 6000.0, **changes: Any
) -> Requests:
    """Times of each arm in steps of its own."""

    def draw(step: int, slower: float) -> Callable[[np.random.Generator, int], np.ndarray]:
        return lambda random, n: np.maximum(np.rint(random.normal(median_us * slower, sd_us, n) / step), 1) * step

    few = {"rate_per_s": 12.0, "duration_s": 240.0, "instances": (2,), "endpoints": 2, **changes}
    return timed_requests(draw(steps_us[0], 1.0), draw(steps_us[1], 1.05), **few)


REQUESTS: Mapping[str, Callable[[], Requests]] = {
    "instances": lambda: simulate(FAILING, 5),
    "unlike arms": lambda: simulate(replace(FAILING, instances=(2, 6), split=(0.25,)), 5),
    "one a side": lambda: simulate(ONE_INSTANCE, 5),
    "one against three": lambda: simulate(replace(ONE_INSTANCE, instances=(1, 3)), 5),
    "short lives": lambda: simulate(replace(FAILING, lifetime_s=(60.0, 100.0)), 5),
    "replicates": lambda: simulate(replace(RUNS, replicates=4), 5),
    "two replicates": lambda: simulate(replace(RUNS, replicates=2), 5),
    "three runs of instances": lambda: simulate(replace(RUNS, replicates=3, instances=(3,)), 5),
    "apart": lambda: _apart(ONE_INSTANCE),
    "replicates apart": lambda: _apart(replace(RUNS, replicates=3)),
    "two blocks": lambda: simulate(replace(FAILING, duration_s=38.0, rate_per_s=20.0), 5),
    "three blocks": lambda: simulate(replace(FAILING, duration_s=58.0, rate_per_s=20.0), 5),
    "short": lambda: simulate(replace(FAILING, duration_s=30.0, rate_per_s=20.0), 5),
    "29 buckets": lambda: simulate(replace(FAILING, duration_s=144.0), 5),
    "30 buckets": lambda: simulate(replace(FAILING, duration_s=149.0), 5),
    "rare": lambda: simulate(replace(FAILING, rate_per_s=0.7, duration_s=600.0), 5),
    "no failures": lambda: simulate(replace(LIGHT, **FAULTLESS), 5),
    "all failed": lambda: _failed(FAILING, (0, 1)),
    "candidate failed": lambda: _failed(replace(LIGHT, **FAULTLESS), (1,)),
    "baseline failed": lambda: _failed(replace(LIGHT, **FAULTLESS), (0,)),
    "endpoints of one arm": _without_endpoint,
    "faster": lambda: simulate(replace(LIGHT, changes=(Change(latency=-0.2, bytes=0.1),)), 5),
    "steps of 1 ms": lambda: _in_steps((1000, 1000)),
    "steps of 10 ms": lambda: _in_steps((10_000, 10_000)),
    "steps of 10 and 1 ms": lambda: _in_steps((10_000, 1000)),
    "steps of 1 and 10 ms": lambda: _in_steps((1000, 10_000), instances=(1,)),
    "steps of 1 µs and 1 ms": lambda: _in_steps((1, 1000), 3000.0, 300.0, rate_per_s=30.0),
    "within one bin": lambda: _in_steps((1, 1), 20_000.0, 20.0),
    "constant": lambda: _in_steps((20_000, 1), 20_000.0, 2000.0),
    "both constant": lambda: _in_steps((20_000, 20_000), 20_000.0, 100.0),
    "several candidates": lambda: simulate(replace(LIGHT, changes=(Change(), WORSE)), 5),
}


@lru_cache(maxsize=64)
def cells_of(name: str) -> Cells:
    return to_cells(REQUESTS[name](), BUCKET_S)


@lru_cache(maxsize=64)
def panel_of(name: str, arm: str = "canary") -> Panel:
    panel = build_panel(cells_of(name), arm)
    assert panel is not None
    return panel
