"""The nouns: frozen, slotted records that rooms hand to each other.

Times are UTC. Durations carry their unit in the name (`_s`, `_ms`, `_us`). Columns of cells are numpy arrays of equal
length; text is stored once in a tuple of names and referred to by integer codes, so that a release of any number of
requests is a few small arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "BASELINE",
    "BLOCK_BUCKETS",
    "Arm",
    "ArmSummary",
    "ArmValue",
    "Bins",
    "Cells",
    "ColumnMap",
    "Comparison",
    "Direction",
    "Drift",
    "Effect",
    "Evidence",
    "FailureKinds",
    "FileLayout",
    "FilePlan",
    "Finding",
    "InstanceBins",
    "InstancePrior",
    "Landed",
    "LandingPlan",
    "Level",
    "Limit",
    "LoadLevels",
    "Look",
    "Margin",
    "MetricStatus",
    "Moments",
    "Monitoring",
    "OutcomeColumn",
    "OutcomeFacts",
    "OutcomeOptions",
    "OutcomePlan",
    "Outcomes",
    "Question",
    "Reason",
    "Release",
    "ReleaseSummary",
    "Role",
    "Rule",
    "Rulebook",
    "Run",
    "RunFacts",
    "RunState",
    "Scan",
    "Service",
    "Slice",
    "SourceColumn",
    "StoredVerdict",
    "UnitMoments",
    "Verdict",
    "VerdictWord",
    "View",
    "Window",
    "bin_edges_us",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BASELINE = "baseline"
"""The name of the arm that every other arm is compared with."""

BLOCK_BUCKETS = 4
"""Buckets in one block of the per-instance histogram."""

BINS_PER_DECADE = 115
"""Bins are logarithmic: bin k holds times t (µs) with k = floor(115·log10(t)); powers of ten are edges.

Below 1 µs: bin 0."""


def bin_edges_us(first: int, last: int) -> FloatArray:
    """Edges (µs) of bins `first`…`last`: shape (last - first + 2,)."""
    return np.power(10.0, np.arange(first, last + 2) / BINS_PER_DECADE)


class Role(StrEnum):
    """What a metric may do to the verdict."""

    GATE = "gate"
    HOLD = "hold"
    WATCH = "watch"


class Direction(StrEnum):
    """Which way is better."""

    LOWER = "lower_is_better"
    HIGHER = "higher_is_better"


class Level(StrEnum):
    """State of a health finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class MetricStatus(StrEnum):
    """What is known of one metric."""

    PASS = "pass"  # noqa: S105 no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"


class VerdictWord(StrEnum):
    """The answer."""

    GO = "go"
    NO_GO = "no_go"
    INCONCLUSIVE = "inconclusive"


class RunState(StrEnum):
    """Life of a run. RUNNING with a dead recorder becomes INCOMPLETE at the next look."""

    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"


# ------------------------------------------------------------------ what is judged


@dataclass(frozen=True, slots=True)
class Service:
    """A service and the two versions that are compared."""

    name: str
    baseline: str = ""
    canary: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """One candidate version of a service against its baseline."""

    id: str
    services: tuple[Service, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """Where the load of one arm goes: one URL per instance, or one address in front of several."""

    name: str
    urls: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a source knows of a run beside its rows. `None` and empty mean: not known, never: fine."""

    workers_expected: int | None = None
    workers_seen: int | None = None
    counted: int | None = None
    """Requests that the load generator itself counted."""
    users: Mapping[str, int] = field(default_factory=dict)
    """Users assigned to each arm at the plateau (what was assigned, not what happened)."""
    cpu_percent: float | None = None
    """Highest CPU share of a load generator process over any 5 s, 100 = one core saturated."""
    loop_lag_ms: float | None = None
    """Highest delay of the load generator's event loop (99th percentile over the run)."""
    clock_offset_s: float | None = None
    """Largest difference between a worker's clock and the store's."""
    pacing: Literal["closed", "open"] | None = None
    target_users: int | None = None
    plateau_start: datetime | None = None
    """From when on all users were running, where the source knows it."""
    skipped_rows: int = 0
    """Rows that could not be read and were skipped because the user asked for it."""
    quarantined: tuple[str, ...] = ()
    """Segments that could not be read, by name."""
    orphaned: bool = False
    stopped_by: str = ""
    """Why the run ended before its time: a signal, a full disk, a lost worker; empty when it did not."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a load test. Runs of one group are replicates of each other."""

    id: str
    release: str
    group: str
    """Id of the run group: one `load`, `import` or `collect`."""
    source: str
    """`locust`, `import`, …"""
    replicate: int = 0
    started: datetime | None = None
    planned_end: datetime | None = None
    ended: datetime | None = None
    state: RunState = RunState.RUNNING
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """What makes two runs comparable: locustfile hash, users, pace, targets, host, cores, git revision, arguments."""
    facts: RunFacts = field(default_factory=RunFacts)
    landed: int = 0
    """Rows in the store."""


# ------------------------------------------------------------------ cells


@dataclass(frozen=True, slots=True)
class Moments:
    """One row per run × arm × endpoint × instance × bucket. All columns have shape (rows,)."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    bucket: IntArray
    """Number of the bucket since the epoch: floor(ts / bucket_s)."""
    n: IntArray
    """All requests."""
    failures: IntArray
    sum_us: FloatArray
    """Σ response time of successes, µs."""
    sum_sq_us: FloatArray
    min_us: FloatArray
    max_us: FloatArray
    bytes: FloatArray
    """Σ response bytes of successes."""
    bytes_sq: FloatArray


@dataclass(frozen=True, slots=True)
class Bins:
    """Successes by run × arm × endpoint × bucket × bin (sparse)."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    bucket: IntArray
    bin: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class InstanceBins:
    """Successes by run × arm × endpoint × instance × block × bin (sparse); block = bucket // BLOCK_BUCKETS."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    block: IntArray
    bin: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class LoadLevels:
    """Highest user count seen in each run × arm × bucket; empty where a source does not record users."""

    run: IntArray
    arm: IntArray
    bucket: IntArray
    users: IntArray


@dataclass(frozen=True, slots=True)
class FailureKinds:
    """Failures by run × arm × endpoint × status code × exception. `status` is -1 where there was none."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    status: IntArray
    exception: tuple[str, ...]
    n: IntArray


@dataclass(frozen=True, slots=True)
class Cells:
    """Everything the judge reads of a release. Additive: cells of two parts of a run merge by addition.

    `arms[0]` is the baseline. Codes in the columns index `runs`, `arms`, `endpoints`, `instances`.
    An instance is identified by its name within its arm.
    """

    runs: tuple[str, ...]
    arms: tuple[str, ...]
    endpoints: tuple[str, ...]
    instances: tuple[str, ...]
    bucket_s: int
    grid_us: int
    """Largest step (µs) of which every recorded time is a multiple; 1 where there is none."""
    moments: Moments
    bins: Bins
    instance_bins: InstanceBins
    loads: LoadLevels
    failure_kinds: FailureKinds


# ------------------------------------------------------------------ landing


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """How one column of the request row is made from columns of a file.

    `kind` says how: `text` (several sources are joined by a space), `integer`, `number` (a time, `unit` s, ms, us or
    ns), `instant` (`unit` s, ms, us, ns since the epoch, or iso), and for `failed`: `true` (true is a failure), `false`
    (true is a success), `status` (400 and above is a failure), `filled` (any text is a failure).
    """

    target: str
    sources: tuple[str, ...]
    kind: Literal["text", "integer", "number", "instant", "true", "false", "status", "filled"]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """What a file of requests looks like and how its columns become those of a request row."""

    format: str
    """locust, jtl, csv or parquet."""
    reader: Literal["csv", "parquet"]
    columns: tuple[ColumnMap, ...]
    delimiter: str = ","
    header: tuple[str, ...] = ()
    """All columns of the file, in its order."""
    summary_rows: tuple[tuple[str, str], ...] = ()
    """Rows that sum up others and are no requests: all of these columns start with these texts ('': are empty)."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of one arm; file k of each arm is replicate k."""

    path: str
    arm: str
    replicate: int
    layout: FileLayout


@dataclass(frozen=True, slots=True)
class LandingPlan:
    """Files to take into the store, with all that is needed to read them."""

    files: tuple[FilePlan, ...]
    skip_bad_rows: bool = False
    service: str = ""


@dataclass(frozen=True, slots=True)
class Landed:
    """What a landing did. `already`: segments or files that had landed before and were left alone."""

    rows: int = 0
    segments: int = 0
    quarantined: tuple[str, ...] = ()
    already: int = 0
    skipped_rows: int = 0
    """Unreadable rows left out because the user asked for it."""
    summary_rows: int = 0
    """Rows that sum up others (JMeter's transaction controllers) and were not counted as requests."""
    runs: tuple[str, ...] = ()
    """Ids of the runs that hold the data, also where they had landed before."""


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """A release in one line of a list."""

    release: Release
    groups: int
    runs: int
    rows: int
    last_run: datetime | None = None
    verdict: str | None = None
    judged_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict as it was saved."""

    release: str
    word: str
    judged_at: datetime
    json: str


# ------------------------------------------------------------------ outcomes of units


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """One column of a file of outcomes: its name and what it holds."""

    name: str
    kind: Literal["number", "truth", "text", "time"]


@dataclass(frozen=True, slots=True)
class OutcomeColumn:
    """One column that is taken from a file of outcomes."""

    name: str
    role: Literal["outcome", "covariate"] = "outcome"
    binary: bool | None = None
    """Only 0 and 1; `None`: told by the values."""


@dataclass(frozen=True, slots=True)
class OutcomeOptions:
    """What the user said of the columns; what is empty is told by their names."""

    unit: str = ""
    arm: str = ""
    baseline: str = ""
    outcomes: tuple[str, ...] = ()
    """`name` or `name:binary`, `name:numeric`."""
    covariates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomePlan:
    """Files of outcomes (one table together, or what a query makes of it) and how their columns are read."""

    paths: tuple[str, ...]
    reader: Literal["csv", "parquet"]
    unit: str
    arm: str
    columns: tuple[OutcomeColumn, ...]
    query: str = ""
    """SQL over the table `outcomes`; empty: all of it."""
    baseline: str = ""
    """Value of the arm column that stands for the baseline; empty: told by the values."""
    skip_bad_rows: bool = False
    header: tuple[str, ...] = ()
    """Columns of a CSV file, in their order."""
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """What was seen when outcomes landed."""

    rows: int = 0
    """Rows of the file that could be read."""
    units: int = 0
    """Units in exactly one arm: those that are compared."""
    duplicates: int = 0
    """Rows that repeat another one in every column."""
    duplicates_dropped: bool = False
    """Left out, as each unit has one row otherwise; in a log of events they may be true and stay."""
    crossed: int = 0
    """Units that were seen in more than one arm; they are left out."""
    skipped_rows: int = 0
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Outcome or covariate → arm → units without any value of it; only where there are some."""


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """Units of one arm summed up: additive, and as many numbers however many units there are."""

    n: int
    mean: FloatArray
    """Shape (variables,)."""
    products: FloatArray
    """Σ of products of deviations from the mean: shape (variables, variables)."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of the units of all arms. `arms[0]` is the baseline.

    Variables of a unit are `rows` (its number of rows), the sum of each outcome over them (`revenue`), whether a binary
    outcome happened at all (`converted?`), and the mean of each covariate.
    """

    run: str
    arms: tuple[str, ...]
    columns: tuple[OutcomeColumn, ...]
    variables: tuple[str, ...]
    moments: tuple[UnitMoments, ...]
    """By arm."""
    skewness: tuple[FloatArray, ...]
    """By arm, of each variable."""
    facts: OutcomeFacts
    values: Mapping[str, tuple[FloatArray, ...]] = field(default_factory=dict)
    """Variable → one value a unit, by arm; only of those that a metric asked for. NaN: no value."""
    row_values: Mapping[str, tuple[tuple[IntArray, FloatArray], ...]] = field(default_factory=dict)
    """Outcome → unit and value of each row, by arm; only of those that a metric asked for."""


# ------------------------------------------------------------------ what to compare


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


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of the traffic that a metric looks at; `None` means all of it."""

    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One metric of the policy."""

    name: str
    type: str
    role: Role = Role.GATE
    margin: Margin | None = None
    direction: Direction = Direction.LOWER
    limit: Limit = field(default_factory=Limit)
    quantile: float | None = None
    slice: Slice = field(default_factory=Slice)
    outcome: str | None = None
    """What is compared by the `outcome_…` types: a column of the outcomes that were imported."""
    per: str | None = None
    """What the outcome is divided by: another outcome, or `rows`; `None`: by units."""
    covariates: tuple[str, ...] = ()
    winsorise: float | None = None
    """Quantile of all units above which values are cut to it; `None`: never."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The endpoint scan: a veto on endpoints that are clearly worse."""

    enabled: bool = True
    margin: float = 0.25
    failure_margin: float = 0.01
    alpha_share: float = 0.2


@dataclass(frozen=True, slots=True)
class InstancePrior:
    """What instances differ by where a run cannot tell (method B.3a), and how many stand behind one label."""

    sd_latency: float = 0.05
    sd_failures: float = 0.0005
    baseline: int | None = None
    canary: int | None = None


@dataclass(frozen=True, slots=True)
class Monitoring:
    """When the judge looks (method B.4): a function of data time and policy, never of who asks."""

    mode: Literal["auto", "fixed", "group_sequential", "anytime"] = "auto"
    max_duration_s: float = 3600.0
    """Where the source plans no end: the look at which everything is decided."""
    burn_in_s: float | None = None
    """No look before this; `None`: 10 minutes or 40 buckets, whichever is less."""
    early_go: bool = False
    tune_at_s: float = 1800.0
    """Where an anytime interval is tightest."""


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The policy as the rooms below it see it. No YAML, no file names."""

    rules: tuple[Rule, ...]
    alpha: float = 0.05
    scan: Scan = field(default_factory=Scan)
    prior: InstancePrior = field(default_factory=InstancePrior)
    warm_up_s: float | None = None
    """Seconds cut from the start of each run; `None`: until the user count is level."""
    coverage: float = 0.99
    max_clock_offset_s: float = 2.0
    sample_ratio: Mapping[str, float] = field(default_factory=dict)
    """Share of users expected on each arm; empty: as the run was configured."""
    monitoring: Monitoring = field(default_factory=Monitoring)
    mode: Literal["block", "shadow"] = "block"


# ------------------------------------------------------------------ evidence and verdict


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimated change with its two-sided 1 - 2·alpha interval.

    `relative`: candidate / baseline - 1. `absolute`: candidate - baseline in the metric's unit.
    `upper` may be infinite (a quantile that became a failure).
    """

    kind: Literal["relative", "absolute"]
    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Question:
    """One question put to a metric: is the candidate beyond `bound`?

    `p_worse`: p-value against "not worse than the bound" (small: shown to be worse).
    `p_within`: p-value against "at or beyond the bound" (small: shown to be within).
    """

    kind: Literal["margin", "limit", "zero"]
    bound: float
    p_worse: float
    p_within: float


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the data so far said of a comparison's margin and limits, in the order of its questions."""

    at_s: float
    """Seconds of judged data."""
    p_worse: tuple[float, ...]
    """Sequential p-values: the least level at which this or an earlier look would have crossed."""
    p_within: tuple[float, ...] = ()
    """The level at which this look by itself shows the candidate to be within, paid for as an early GO."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How the change itself moved during the run (leaks). On the scale of the effect; positive is worse."""

    last_third: float
    """Point estimate over the last third of the run."""
    p_worsening: float
    """One-sided p-value of a worsening trend."""
    at_end: float
    """The trend's own estimate of the change at the end of the run."""


@dataclass(frozen=True, slots=True)
class ArmValue:
    """One arm's own value and the number of requests behind it."""

    value: float | None
    n: int


@dataclass(frozen=True, slots=True)
class View:
    """What else may be said of a comparison. Shown beside it; it decides nothing."""

    p_beyond: float
    """Probability that the harm is beyond the margin (0 where there is none), from a sceptical prior."""
    p_better: float
    expected_loss: float
    """Mean harm of choosing the candidate, in the metric's unit."""
    p_best: float | None = None
    """Probability of being the best of all arms, where there are several candidates."""
    p_dunnett: float | None = None
    """p-value of "differs from baseline", adjusted for all candidates (Dunnett)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one candidate arm against baseline."""

    rule: Rule
    arm: str
    unit: str
    baseline: ArmValue
    candidate: ArmValue
    method: str
    instances: tuple[int, int] = (0, 0)
    """Instances (or replicates) behind baseline and candidate."""
    effect: Effect | None = None
    questions: tuple[Question, ...] = ()
    drift: Drift | None = None
    detectable_effect: float | None = None
    """Smallest harm that would be found with 80 % power, on the scale of the effect."""
    needed_time: float | None = None
    """Multiple of the present duration after which an unchanged estimate would be shown to be within the margin."""
    lasting_share: float = 0.0
    """Share of the variance that only more instances or replicates shrink, not more minutes."""
    looks: tuple[Look, ...] = ()
    """Looks before the last, where monitoring has any."""
    decided_at_s: float | None = None
    """Seconds of judged data after which this was shown to be worse than it may be."""
    no_data: str | None = None
    """Why nothing can be said; `None` when something can."""
    scan: bool = False
    """True for a row of the endpoint scan (not a metric of the policy)."""
    status: MetricStatus = MetricStatus.INCONCLUSIVE
    p_value: float | None = None
    p_value_adjusted: float | None = None
    reason: str = ""
    view: View | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a health check saw. `void`: the comparison itself means nothing, so NO-GO is forbidden as well as GO."""

    check: str
    level: Level
    text: str
    void: bool = False
    remedy: str = ""
    """What to do about it, a command where there is one."""


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm in numbers."""

    name: str
    role: Literal["baseline", "candidate"]
    requests: int
    instances: int
    runs: int
    units: int = 0
    """Units whose outcomes were compared."""


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch of data that was judged (UTC), after warm-up; `seconds` is what was really covered."""

    start: datetime | None
    end: datetime | None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a release before judging."""

    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]
    arms: tuple[ArmSummary, ...]
    window: Window
    unjudged_share: float = 0.0
    """Share of traffic on endpoints that the scan could not judge."""
    unjudged_endpoints: tuple[str, ...] = ()
    incomplete: bool = False
    monitoring: Literal["fixed", "group_sequential", "anytime"] = "fixed"
    final: bool = True
    """False before the last look of the calendar: a NO-GO can be shown, a GO cannot."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the verdict is what it is: a code for machines and a sentence with numbers for people."""

    code: str
    text: str
    metric: str | None = None
    arm: str | None = None
    slice: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer with its evidence, ready to be stored and rendered."""

    release: Release
    word: VerdictWord
    reasons: tuple[Reason, ...]
    next_action: str
    evidence: Evidence
    judge: str
    monitoring: str
    alpha: float
    mode: Literal["block", "shadow"] = "block"
    time_to_decision_s: float | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    queries: tuple[Mapping[str, Any], ...] = ()
    policy_hash: str = ""
    data_hash: str = ""
    evaluator_version: str = ""
    judged_at: datetime | None = None
    override: Mapping[str, Any] | None = None
