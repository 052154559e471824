"""Named scenarios: identical releases with every kind of dependence and defect, and releases with a known change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from evaluator.simulate.design import AR1, Bursts, Change, Scenario

HOUR = Scenario()
"""4 + 4 instances with a standard deviation of 1 %, 30 requests per second on each arm, 60 minutes."""

DAY = replace(HOUR, duration_s=86_400.0, rate_per_s=10.0, swing=0.5)

SHORT = replace(HOUR, duration_s=75.0, rate_per_s=15.0, instances=(1,), instance_sd=0.05)
"""75 seconds, one instance on each arm."""

NO_BURSTS = Bursts(0.0, 30.0, 0.0, 0.0)

RARE: Mapping[str, Any] = {"failure_rate": 0.0002, "shared_failures": NO_BURSTS, "instance_failures": NO_BURSTS}

PRECISE = replace(
    HOUR,
    rate_per_s=100.0,
    sigma=0.2,
    instance_sd=0.002,
    instance_drift=AR1(0.01, 100.0),
    arm_drift=AR1(0.002, 60.0),
)
"""A service with so little variance that a change can be measured to a fraction of a percent."""

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        # Nothing changed.
        "AA": HOUR,
        "AA_inst0": replace(HOUR, instance_sd=0.0),
        "AA_inst3": replace(HOUR, instance_sd=0.03),
        "AA_mix": replace(HOUR, changes=(Change(mix=0.25),)),
        "AA_ramp": replace(HOUR, split=(0.01, 0.05, 0.25, 0.5), load_trend=0.5),
        "AA_integer_ms": replace(HOUR, grid_us=1000, median_ms=(4.0, 25.0)),
        "AA_cache": replace(HOUR, cache_hit=0.55),
        "AA_short_pods": replace(HOUR, lifetime_s=(900.0, 1800.0)),
        "AA_one_nine": replace(HOUR, split=(0.1,)),
        "AA_one_99": replace(HOUR, split=(0.01,)),
        "AA_1+1": replace(HOUR, instances=(1,), instance_sd=0.05),
        "AA_2+2": replace(HOUR, instances=(2,)),
        "AA_10+10": replace(HOUR, instances=(10,)),
        "AA_unlabelled": replace(HOUR, labelled=False),
        "AA_slow_drift": replace(HOUR, arm_drift=AR1(0.015, 480.0)),
        "AA_5s": replace(HOUR, bucket_s=5),
        "AA_60s": replace(HOUR, bucket_s=60),
        "AA_offset": replace(HOUR, start_offset_s=300.0),
        "AA_missing": replace(HOUR, missing_minutes=6),
        "AA_restart": replace(HOUR, restarts=1),
        "AA_skew": replace(HOUR, clock_skew_s=2.0),
        "AA_closed": replace(HOUR, users=60, wait_s=2.0),
        "AA_spawn": replace(HOUR, users=60, wait_s=2.0, spawn_s=120.0),
        "AA_5rps": replace(HOUR, rate_per_s=5.0),
        "AA_500rps": replace(HOUR, rate_per_s=500.0),
        "AA_1_endpoint": replace(HOUR, endpoints=1),
        "AA_200_endpoints": replace(HOUR, endpoints=200),
        "AA_1min": replace(HOUR, duration_s=60.0),
        "AA_5min": replace(HOUR, duration_s=300.0),
        "AA_15min": replace(HOUR, duration_s=900.0),
        "AA_day": DAY,
        "AA_replicates": replace(HOUR, duration_s=300.0, replicates=5, instances=(1,), instance_sd=0.05),
        "AA_three_arms": replace(HOUR, changes=(Change(), Change())),
        "AA_rare": replace(HOUR, **RARE),
        "single_75s": SHORT,
        # Something changed.
        "mean+3%": replace(HOUR, changes=(Change(latency=0.03),)),
        "mean+5%": replace(HOUR, changes=(Change(latency=0.05),)),
        "mean+10%": replace(HOUR, changes=(Change(latency=0.10),)),
        "mean+20%": replace(HOUR, changes=(Change(latency=0.20),)),
        "p99x1.5": replace(HOUR, changes=(Change(tail=1.5),)),
        "errx3": replace(HOUR, changes=(Change(failures=3.0),)),
        "endpoint+30%": replace(HOUR, changes=(Change(endpoint=0.30),)),
        "leak": replace(HOUR, changes=(Change(leak=0.20),)),
        "leak8": replace(HOUR, changes=(Change(leak=0.08),)),
        "improve-10%": replace(HOUR, changes=(Change(latency=-0.10),)),
        "shed": replace(HOUR, changes=(Change(shed=0.005),)),
        "leak_precise": replace(PRECISE, changes=(Change(leak=0.08),)),
        "day+5%": replace(DAY, changes=(Change(latency=0.05),)),
        "single_75s_endpoint+100%": replace(SHORT, changes=(Change(endpoint=1.0, endpoint_index=2),)),
        # Worse by exactly the built-in margin of one gate.
        "margin_p50": replace(HOUR, changes=(Change(latency=0.05),)),
        "margin_p95": replace(HOUR, changes=(Change(tail=1.10, tail_quantile=0.9),)),
        "margin_p99": replace(HOUR, changes=(Change(tail=1.15),)),
        "margin_failures": replace(HOUR, changes=(Change(failures_added=0.001),)),
        "margin_rare_one_99": replace(HOUR, **RARE, split=(0.01,), changes=(Change(failures_added=0.001),)),
    }
)
"""Name → scenario. In `AA…` and `single_75s` the versions are identical (`AA_mix`: with another mix of endpoints)."""
