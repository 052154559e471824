"""The parameters of a simulated release: traffic, dependence, defects, and the change of the new version.

The default is a service with five endpoints on 4 + 4 instances, with 30 requests per second on each arm, for one hour.
Nothing in it is independent: load drifts, all arms share spikes, each instance has its own level and its own slow
drift, and failures come in bursts.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluator.errors import UsageError
from evaluator.records import BASELINE


@dataclass(frozen=True, slots=True)
class AR1:
    """A stationary AR(1) process on the log scale: its standard deviation and its time constant.

    The correlation falls to 1/e after `time_constant_s`.
    """

    sd: float
    time_constant_s: float


@dataclass(frozen=True, slots=True)
class Bursts:
    """Rare bursts: how often, for how long (exponential, mean `mean_s`), how strong (uniform, `low` to `high`)."""

    per_hour: float
    mean_s: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Expected number of bursts that are active at any time."""
        return self.per_hour * self.mean_s / 3600.0

    @property
    def mean_height(self) -> float:
        """Expected strength of a burst."""
        return (self.low + self.high) / 2.0


@dataclass(frozen=True, slots=True)
class Change:
    """How the new version differs from the old one. The default is no difference (A/A)."""

    latency: float = 0.0
    """Relative change of every response time: 0.1 = all 10 % slower; negative = faster."""
    tail: float = 1.0
    """Factor on the slowest requests: those slower than `tail_quantile` of baseline's response times."""
    tail_quantile: float = 0.985
    endpoint: float = 0.0
    """Relative change of the response times of one endpoint."""
    endpoint_index: int = -1
    """Index of this endpoint; endpoints are ordered from fast and frequent to slow and rare."""
    leak: float = 0.0
    """Relative change of every response time at the end of the run; it grows linearly from 0 at the start."""
    failures: float = 1.0
    """Factor on the steady failure rate (bursts do not change)."""
    failures_added: float = 0.0
    """Added to the failure rate of every endpoint (0.001 = +0.1 percentage points)."""
    shed: float = 0.0
    """The new version gives up requests after a timeout: this share of baseline's requests is slower than it."""
    bytes: float = 0.0
    """Relative change of response sizes."""
    mix: float = 0.0
    """Change of the mix of endpoints, no harm: shares × (median / geometric mean of medians) ** mix."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A release to simulate. Immutable: make variants with `dataclasses.replace`.

    Raises:
        UsageError: if values contradict each other.
    """

    changes: tuple[Change, ...] = (Change(),)
    """One for each candidate arm: `canary`, then `canary_b`, `canary_c`, …"""
    duration_s: float = 3600.0
    """Duration of each run."""
    replicates: int = 1
    """Runs, one after the other. Each draws new instances."""
    bucket_s: int | None = None
    """Width of the buckets in `simulate_cells`; `None`: chosen from the duration."""

    rate_per_s: float = 30.0
    """Mean requests per second of one arm if traffic is split evenly; all arms together get arms × this."""
    split: tuple[float, ...] = (0.5,)
    """Share of the traffic that each candidate gets against baseline, in phases of equal length; (0.1,) is 1:9."""
    traffic: AR1 = AR1(0.15, 120.0)
    load_trend: float = 0.0
    """Relative linear growth of traffic over the run."""
    swing: float = 0.0
    """Relative amplitude of the daily swing of traffic (sine with a period of 24 h), below 1."""
    load_latency: float = 0.5
    """Elasticity of latency to the trend and swing of traffic."""
    users: int | None = None
    """Users of each arm (with an even split); they are recorded with the requests. `None`: not recorded."""
    wait_s: float | None = None
    """Closed loop: each user waits this time after a response, so the pace depends on latency, not on `rate_per_s`."""
    spawn_s: float = 0.0
    """Traffic and users grow linearly from none to all over this time."""

    endpoints: int = 5
    median_ms: tuple[float, float] = (40.0, 250.0)
    """Median response times of the fastest and the slowest endpoint; those between have equal ratios."""
    zipf: float = 1.0
    """Traffic share of endpoint k (from 1, fast to slow) is proportional to k ** -zipf."""
    sigma: float = 0.45
    """Standard deviation of the log of response times within an endpoint, with everything else constant."""
    tail_share: float = 0.015
    """Share of requests in the tail."""
    tail_index: float = 2.2
    tail_factor: float = 3.5
    """Response times in the tail are multiplied by `tail_factor` × Pareto(`tail_index`), whose minimum is 1."""
    cache_hit: float = 0.0
    """Share of requests that a cache answers."""
    cache_factor: float = 0.12
    """Factor on the response time of these requests (the distribution then has two modes)."""
    grid_us: int = 1
    """Response times are rounded to multiples of this (1000: integer milliseconds)."""

    common: AR1 = AR1(0.12, 330.0)
    """Drift of latency that all arms share."""
    spikes: Bursts = Bursts(3.0, 30.0, 0.3, 0.9)
    """Spikes of latency that all arms share; strength on the log scale."""
    arm_drift: AR1 = AR1(0.01, 60.0)
    """Drift of latency of each arm by itself."""
    instances: tuple[int, ...] = (4, 4)
    """Instances of baseline and of each candidate; the last number is used for all further arms."""
    labelled: bool = True
    """Do requests name the instance that answered?"""
    instance_sd: float = 0.01
    """Standard deviation of the log level of instances that run the same version."""
    instance_drift: AR1 = AR1(0.05, 100.0)
    """Drift of latency of each instance by itself."""
    lifetime_s: tuple[float, float] | None = None
    """Instances are replaced by new ones (new name, new level) after a time that is uniform between these two."""
    restarts: int = 0
    """Instances, chosen at random, that fall silent once for 20 s and are then twice as slow for about 20 s."""

    failure_rate: float = 0.001
    """Steady failure rate over all endpoints; slower endpoints fail more (in proportion to the root of the median)."""
    shared_failures: Bursts = Bursts(1.5, 40.0, 0.01, 0.03)
    """Bursts of failures that all arms share; strength is added to the failure rate."""
    instance_failures: Bursts = Bursts(0.5, 20.0, 0.05, 0.05)
    """Bursts of failures of each instance by itself."""

    start_offset_s: float = 0.0
    """Delay of the candidates' start after baseline's start; all arms end together."""
    clock_skew_s: float = 0.0
    """How far the clocks of the candidates are ahead."""
    missing_minutes: int = 0
    """Number of minutes whose requests are lost, each in one arm chosen at random."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other. Raises UsageError."""
        checks = (  # pairs: whether it is wrong, and what is wrong ("a release with …")
            (not 1 <= len(self.changes) <= 25, "no candidate, or more than 25"),
            (self.duration_s <= 0 or self.replicates < 1, "no duration or no run"),
            (self.rate_per_s <= 0 or self.endpoints < 1, "no traffic"),
            (not self.split or not all(0 < s < 1 for s in self.split), "a traffic share outside 0 … 1"),
            (not self.instances or min(self.instances) < 1, "an arm without instances"),
            (self.wait_s is not None and not self.users, "closed-loop pacing but no users"),
            (not 0 <= self.swing < 1 or self.load_trend <= -1, "negative traffic"),
            (self.tail_index <= 1, "a tail without a mean"),
            (any(not 0 <= c.shed < 1 for c in self.changes), "a share of requests shed outside 0 … 1"),
            (
                any(not 0 < c.tail_quantile < 1 or c.tail < 1 for c in self.changes),
                "a tail factor below 1, or a tail quantile outside 0 … 1",
            ),
            (not 0 <= self.start_offset_s < self.duration_s, "a candidate that starts after the end"),
            (self.grid_us < 1, "a grid below 1 µs"),
        )
        problem = next((text for is_wrong, text in checks if is_wrong), "")
        if problem:
            raise UsageError(f"a release with {problem} cannot be simulated", hint="change the scenario")

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, baseline first; candidates are canary, canary_b, canary_c and so on."""
        endings = ("", *(f"_{chr(ord('b') + number)}" for number in range(len(self.changes) - 1)))
        return (BASELINE, *(f"canary{ending}" for ending in endings))

    def count_instances(self, arm: int) -> int:
        """Return how many instances the arm with this number (0: baseline) has at the same time."""
        return self.instances[min(arm, len(self.instances) - 1)]
