"""What a simulated release is made of: traffic, dependence, defects, and the change of the new version.

The defaults are a service of five endpoints on 4 + 4 instances, 30 requests a second an arm, one hour, in which nothing
is independent: load drifts, everything shares spikes, every instance has its own level and its own slow moods, and
failures come in bursts.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluator.errors import UsageError
from evaluator.records import BASELINE


@dataclass(frozen=True, slots=True)
class AR1:
    """A stationary AR(1) process on the log scale: its standard deviation and its time constant.

    Correlation falls to 1/e after `time_constant_s`.
    """

    sd: float
    time_constant_s: float


@dataclass(frozen=True, slots=True)
class Bursts:
    """Rare spells: how often, how long on average (exponential), and how strong (uniform from `low` to `high`)."""

    per_hour: float
    mean_s: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Expected number of spells under way at any moment."""
        return self.per_hour * self.mean_s / 3600.0

    @property
    def mean_height(self) -> float:
        """Expected strength of a spell."""
        return (self.low + self.high) / 2.0


@dataclass(frozen=True, slots=True)
class Change:
    """What the new version does to its arm. The default does nothing (A/A)."""

    latency: float = 0.0
    """Relative change of every response time: 0.1 = all 10 % slower, negative: faster."""
    tail: float = 1.0
    """Factor on the slowest requests: those slower than `tail_quantile` of baseline's response times."""
    tail_quantile: float = 0.985
    endpoint: float = 0.0
    """Relative change of the response times of one endpoint."""
    endpoint_index: int = -1
    """Which endpoint that is; endpoints are ordered from fast and frequent to slow and rare."""
    leak: float = 0.0
    """Relative change of every response time that grows linearly from 0 to this value over the run."""
    failures: float = 1.0
    """Factor on the steady failure rate (bursts are left alone)."""
    failures_added: float = 0.0
    """Added to the failure rate of every endpoint (0.001 = +0.1 percentage points)."""
    shed: float = 0.0
    """Share of baseline's requests that are slower than a time after which the new version gives up and fails."""
    bytes: float = 0.0
    """Relative change of response sizes."""
    mix: float = 0.0
    """Harmless: traffic shares of the arm are tilted by (median / geometric mean of medians) ** mix."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A release to simulate. Immutable; vary it with `dataclasses.replace`.

    Raises:
        UsageError: when values contradict each other.
    """

    changes: tuple[Change, ...] = (Change(),)
    """One per candidate arm: `canary`, then `canary_b`, `canary_c`, …"""
    duration_s: float = 3600.0
    replicates: int = 1
    """Runs after one another. Each draws new instances."""
    bucket_s: int | None = None
    """Width of the buckets in `simulate_cells`; `None`: by the duration."""

    rate_per_s: float = 30.0
    """Mean requests per second of one arm where traffic is split evenly; all arms together get arms × this."""
    split: tuple[float, ...] = (0.5,)
    """Share of the traffic that each candidate gets against baseline, in phases of equal length: (0.1,) is 1:9."""
    traffic: AR1 = AR1(0.15, 120.0)
    load_trend: float = 0.0
    """Relative growth of traffic over the run, linear."""
    swing: float = 0.0
    """Amplitude of the daily swing of traffic (sine of 24 h), below 1."""
    load_latency: float = 0.5
    """Elasticity of latency to the trend and swing of traffic."""
    users: int | None = None
    """Users of each arm (with an even split); recorded with the requests. `None`: not recorded."""
    wait_s: float | None = None
    """Closed loop: each user waits this long between requests, so pace follows latency; `rate_per_s` is not used."""
    spawn_s: float = 0.0
    """Traffic and users grow linearly from none to all over this time."""

    endpoints: int = 5
    median_ms: tuple[float, float] = (40.0, 250.0)
    """Medians of the fastest and slowest endpoint; the others lie between in equal ratios."""
    zipf: float = 1.0
    """Traffic share of endpoint k (from 1, fast to slow) is proportional to k ** -zipf."""
    sigma: float = 0.45
    """Standard deviation of the log of response times within an endpoint, all else fixed."""
    tail_share: float = 0.015
    tail_index: float = 2.2
    tail_factor: float = 3.5
    """Response times of the tail are multiplied by `tail_factor` × Pareto(`tail_index`), the latter at least 1."""
    cache_hit: float = 0.0
    cache_factor: float = 0.12
    """Share of requests that a cache answers, and the factor on their response time (two modes)."""
    grid_us: int = 1
    """Response times are rounded to multiples of this (1000: integer milliseconds)."""

    common: AR1 = AR1(0.12, 330.0)
    spikes: Bursts = Bursts(3.0, 30.0, 0.3, 0.9)
    """Shared by all arms; strength on the log scale."""
    arm_drift: AR1 = AR1(0.01, 60.0)
    instances: tuple[int, ...] = (4, 4)
    """Instances of baseline and of each candidate; the last number stands for all further arms."""
    labelled: bool = True
    """Whether requests say which instance answered."""
    instance_sd: float = 0.01
    """Standard deviation of the log level of instances that run the same version."""
    instance_drift: AR1 = AR1(0.05, 100.0)
    lifetime_s: tuple[float, float] | None = None
    """Instances are replaced by new ones (new name, new level) after a time uniform between these."""
    restarts: int = 0
    """Instances, chosen at random, that fall silent for 20 s once and come back cold (twice as slow for about 20 s)."""

    failure_rate: float = 0.001
    """Steady failure rate over all endpoints; slower endpoints fail more (square root of the median)."""
    shared_failures: Bursts = Bursts(1.5, 40.0, 0.01, 0.03)
    instance_failures: Bursts = Bursts(0.5, 20.0, 0.05, 0.05)
    """Per instance."""

    start_offset_s: float = 0.0
    """Candidates start this much later than baseline; all arms end together."""
    clock_skew_s: float = 0.0
    """Clocks of the candidates are this much ahead."""
    missing_minutes: int = 0
    """Minutes whose requests are lost, each in one arm chosen at random."""

    def __post_init__(self) -> None:
        checks = (
            (not 1 <= len(self.changes) <= 25, "no candidate, or more than 25"),
            (self.duration_s <= 0 or self.replicates < 1, "no duration or no run"),
            (self.rate_per_s <= 0 or self.endpoints < 1, "no traffic"),
            (not self.split or not all(0 < s < 1 for s in self.split), "a traffic share outside 0 … 1"),
            (not self.instances or min(self.instances) < 1, "an arm without instances"),
            (self.wait_s is not None and not self.users, "closed-loop pacing but no users"),
            (not 0 <= self.swing < 1 or self.load_trend <= -1, "negative traffic"),
            (self.tail_index <= 1, "a tail without a mean"),
            (any(not 0 <= c.shed < 1 for c in self.changes), "a share of requests shed outside 0 … 1"),
            (any(not 0 < c.tail_quantile < 1 or c.tail < 1 for c in self.changes), "a tail that is pulled in"),
            (not 0 <= self.start_offset_s < self.duration_s, "a candidate that starts after the end"),
            (self.grid_us < 1, "a grid below 1 µs"),
        )
        wrong = next((text for failed, text in checks if failed), "")
        if wrong:
            raise UsageError(f"a release with {wrong} cannot be simulated", hint="Change the design.")

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, baseline first."""
        letters = ("", *(f"_{chr(98 + k)}" for k in range(len(self.changes) - 1)))
        return (BASELINE, *(f"canary{letter}" for letter in letters))

    def count_instances(self, arm: int) -> int:
        """Instances of the arm with this number (0: baseline) at any one time."""
        return self.instances[min(arm, len(self.instances) - 1)]
