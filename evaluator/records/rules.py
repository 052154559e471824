"""What to compare, and how: the policy as records, without YAML."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evaluator.records.metrics import Metric
from evaluator.records.words import Direction, EvidenceKind, Role


@dataclass(frozen=True, slots=True)
class Margin:
    """The largest harm that is tolerated: relative (0.1 = 10 %), or absolute in the metric's own unit."""

    value: float
    relative: bool = True


@dataclass(frozen=True, slots=True)
class Limit:
    """Absolute bounds on the candidate's own value, in the metric's unit."""

    min: float | None = None
    max: float | None = None

    @property
    def count(self) -> int:
        """How many bounds are set."""
        return len(self.bounds)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """The bounds that are set, `max` first, as (sign, bound): 1 if values above it break it, -1 if below."""
        possible = ((1.0, self.max), (-1.0, self.min))
        return tuple((sign, bound) for sign, bound in possible if bound is not None)


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of the traffic that a metric reads."""

    endpoint: str | None = None
    """`None`: all endpoints."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One metric of the policy with its margin, limits, role and endpoint."""

    name: str
    metric: Metric
    """What is compared, with the options of its type."""
    role: Role = Role.GATE
    margin: Margin | None = None
    direction: Direction = Direction.LOWER
    limit: Limit = field(default_factory=Limit)
    slice: Slice = field(default_factory=Slice)

    @property
    def type(self) -> str:
        """Name of the metric's type."""
        return self.metric.type

    @property
    def evidence(self) -> EvidenceKind:
        """What the metric reads."""
        return self.metric.evidence


@dataclass(frozen=True, slots=True)
class Scan:
    """The endpoint scan: it looks for single endpoints that are clearly worse."""

    enabled: bool = True
    margin: float = 0.25
    """Relative change of an endpoint's geometric mean beyond which it is NO-GO."""
    failure_margin: float = 0.01
    """Difference of an endpoint's failure rate beyond which it is NO-GO."""
    tolerance: float | None = None
    """Harm to one endpoint's response time that does not stop a GO; `None`: the widest margin of a latency gate."""
    failure_tolerance: float | None = None
    """The same for its failure rate (difference); `None`: the widest margin of a failure gate."""
    alpha_share: float = 0.2
    """Share of alpha that the scan may spend."""


@dataclass(frozen=True, slots=True)
class InstanceSpread:
    """Spread in earlier runs of the service, for one kind of metric: latency (log ratio) or failures (rate)."""

    sd: float
    """Standard deviation of the level of one instance."""
    comparisons: int
    """Number of comparisons of instances that it is based on."""
    between_arms: float = 0.0
    """Standard deviation of candidate against baseline in identical releases, beyond the uncertainty of one run."""
    between_arms_comparisons: int = 0
    """Number of comparisons of identical releases that it is based on."""


@dataclass(frozen=True, slots=True)
class InstancePrior:
    """How much instances of one version are assumed to differ if a run cannot show it (method B.3a)."""

    sd_latency: float = 0.05
    """Standard deviation of the level of one instance: response time (log ratio)."""
    sd_failures: float = 0.0005
    """The same for the failure rate (a difference)."""
    baseline: int | None = None
    """Instances behind one address of the baseline, if the policy sets it."""
    canary: int | None = None
    """The same for a candidate."""
    latency: InstanceSpread | None = None
    """What earlier runs showed, if there are any; it is combined with `sd_latency`."""
    failures: InstanceSpread | None = None
    turnover_expected: bool = False
    """Are the candidate's instances replaced during a run by design?"""


@dataclass(frozen=True, slots=True)
class Learnt:
    """How much instances and arms of a service differ, learnt from its earlier runs; `None`: not known."""

    sd_latency: float | None
    """Standard deviation of the level of one instance: response time (log ratio)."""
    sd_failures: float | None
    """The same for the failure rate (a difference)."""
    comparisons: int
    """Arms whose instances (or replicates) were compared with each other."""
    runs: int
    """Runs with such comparisons."""
    df: float = 0.0
    """Degrees of freedom of all comparisons together."""
    between_arms_latency: float | None = None
    """Standard deviation (log ratio) of candidate against baseline in identical releases, beyond the uncertainty of one
    run: differences of whole arms that change more slowly than a run."""
    between_arms_failures: float | None = None
    """The same for the failure rate (a difference)."""
    between_arms_comparisons: int = 0
    """Independent comparisons of identical releases that it is based on."""
    between_arms_runs: int = 0
    """Runs of these comparisons."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """When the judge looks (method B.4). It depends on the time of the data and the policy, not on who asks."""

    mode: Literal["auto", "fixed", "group_sequential", "anytime"] = "auto"
    max_duration_s: float = 3600.0
    """Seconds of judged data at the last look, if the source plans no end."""
    burn_in_s: float | None = None
    """Seconds of judged data before the first look; `None`: 10 minutes or 40 buckets, whichever is less."""
    early_go: bool = False
    """May a look before the last one be GO?"""
    max_units: int | None = None
    """Units of all arms with which a test of outcomes ends; `None`: no end is planned."""


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The part of the policy that judging needs. No YAML, no file names."""

    rules: tuple[Rule, ...]
    alpha: float = 0.05
    """Error rate of a GO, and false-alarm rate over all gates together unless `alpha_no_go` is set."""
    alpha_no_go: float | None = None
    """False-alarm rate over all gates together, below alpha; `None`: alpha."""
    scan: Scan = field(default_factory=Scan)
    prior: InstancePrior = field(default_factory=InstancePrior)
    warm_up_s: float | None = None
    """Seconds cut from the start of each run; `None`: until the user count is level."""
    coverage: float = 0.99
    """Smallest share of the rows, as their source counted them, that must have landed for a GO."""
    silence: float = 0.2
    """Largest share of the time without data from an arm that should have sent some; more prevents a GO."""
    max_clock_offset_s: float = 2.0
    """Largest difference of clocks that is accepted."""
    sample_ratio: Mapping[str, float] = field(default_factory=dict)
    """Arm → share of users expected on it; empty: as the run was configured."""
    monitoring: Monitoring = field(default_factory=Monitoring)
    mode: Literal["block", "shadow"] = "block"

    @property
    def no_go_level(self) -> float:
        """False-alarm rate over all gates and the scan together: the level at which they decide NO-GO."""
        return self.alpha if self.alpha_no_go is None else self.alpha_no_go

    def on(self, kind: EvidenceKind) -> tuple[Rule, ...]:
        """Return the rules on one kind of evidence."""
        return tuple(rule for rule in self.rules if rule.evidence is kind)

    def on_requests(self, endpoints: Collection[str]) -> tuple[Rule, ...]:
        """Return the rules on requests that read all endpoints, or one of these."""
        return tuple(rule for rule in self.on(EvidenceKind.REQUESTS) if rule.slice.endpoint in (None, *endpoints))
