"""What to compare: the policy as the packages below it see it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evaluator.records.metrics import Metric
from evaluator.records.words import Direction, EvidenceKind, Role


@dataclass(frozen=True, slots=True)
class Margin:
    """The largest harm tolerated: relative (0.1 = 10 %) or absolute in the metric's own unit."""

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
        """Those that are set, `max` first: 1 where above it is beyond, -1 where below it is; and the bound."""
        both = ((1.0, self.max), (-1.0, self.min))
        return tuple((sign, bound) for sign, bound in both if bound is not None)


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of the traffic that a metric looks at; `None` means all of it."""

    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One metric of the policy."""

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
    """The endpoint scan: a veto on endpoints that are clearly worse."""

    enabled: bool = True
    margin: float = 0.25
    failure_margin: float = 0.01
    tolerance: float | None = None
    """Harm to one endpoint's response time that does not stop a GO; `None`: the widest margin of a latency gate."""
    failure_tolerance: float | None = None
    """The same of its failure rate (difference); `None`: the widest margin of a failure gate."""
    alpha_share: float = 0.2


@dataclass(frozen=True, slots=True)
class InstanceSpread:
    """What earlier runs of the service say of one kind of metric: latency (log ratio) or failures (rate)."""

    sd: float
    """Standard deviation of the level of one instance."""
    comparisons: int
    """Comparisons of instances that it rests on."""
    between_arms: float = 0.0
    """Standard deviation of candidate against baseline in identical releases, beyond what a run shows by itself."""
    between_arms_comparisons: int = 0


@dataclass(frozen=True, slots=True)
class InstancePrior:
    """What instances differ by where a run cannot tell (method B.3a), and how many stand behind one label."""

    sd_latency: float = 0.05
    sd_failures: float = 0.0005
    baseline: int | None = None
    canary: int | None = None
    latency: InstanceSpread | None = None
    failures: InstanceSpread | None = None
    turnover_expected: bool = False
    """Do the candidate's instances come and go by design?"""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a service's own history says of how much its instances differ; `None`: nothing."""

    sd_latency: float | None
    sd_failures: float | None
    comparisons: int
    """Arms whose instances (or replicates) were compared with each other."""
    runs: int
    df: float = 0.0
    """Degrees of freedom of all comparisons together."""
    between_arms_latency: float | None = None
    """What candidate and baseline of identical releases differ by (log ratio, standard deviation) beyond what a run
    shows of its own uncertainty: differences of whole arms that change more slowly than a run."""
    between_arms_failures: float | None = None
    between_arms_comparisons: int = 0
    """Independent comparisons of identical releases that this rests on."""
    between_arms_runs: int = 0


@dataclass(frozen=True, slots=True)
class Monitoring:
    """When the judge looks (method B.4): a function of data time and policy, never of who asks."""

    mode: Literal["auto", "fixed", "group_sequential", "anytime"] = "auto"
    max_duration_s: float = 3600.0
    """Where the source plans no end: the look at which everything is decided."""
    burn_in_s: float | None = None
    """No look before this; `None`: 10 minutes or 40 buckets, whichever is less."""
    early_go: bool = False
    max_units: int | None = None
    """Units of all arms with which a test of outcomes ends; `None`: nobody planned an end."""


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The policy as the packages below it see it. No YAML, no file names."""

    rules: tuple[Rule, ...]
    alpha: float = 0.05
    scan: Scan = field(default_factory=Scan)
    prior: InstancePrior = field(default_factory=InstancePrior)
    warm_up_s: float | None = None
    """Seconds cut from the start of each run; `None`: until the user count is level."""
    coverage: float = 0.99
    silence: float = 0.2
    """Share of the time for which an arm may be silent while it was to be heard; beyond it there is no GO."""
    max_clock_offset_s: float = 2.0
    sample_ratio: Mapping[str, float] = field(default_factory=dict)
    """Share of users expected on each arm; empty: as the run was configured."""
    monitoring: Monitoring = field(default_factory=Monitoring)
    mode: Literal["block", "shadow"] = "block"

    def on(self, kind: EvidenceKind) -> tuple[Rule, ...]:
        """The rules on one kind of evidence."""
        return tuple(rule for rule in self.rules if rule.evidence is kind)

    def on_requests(self, endpoints: Collection[str]) -> tuple[Rule, ...]:
        """The rules on requests of all endpoints, or of one of these."""
        return tuple(rule for rule in self.on(EvidenceKind.REQUESTS) if rule.slice.endpoint in (None, *endpoints))
