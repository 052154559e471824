"""Evidence and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from evaluator.records.releases import Release
from evaluator.records.rows import LeftOut
from evaluator.records.rules import Rule
from evaluator.records.words import Level, MetricStatus, Role, VerdictWord


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
    `tolerance` is asked of rows of the endpoint scan only: harm beyond it stops a GO.
    """

    kind: Literal["margin", "limit", "zero", "tolerance"]
    bound: float
    p_worse: float
    p_within: float

    @property
    def decides(self) -> bool:
        """Is this a bound that a metric must keep?"""
        return self.kind in ("margin", "limit")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the data so far said of a comparison's margin and limits, in the order of its questions."""

    at_s: float
    """Seconds of judged data."""
    p_worse: tuple[float, ...]
    """Sequential p-values: the least level at which this or an earlier look would have crossed."""
    loadings: tuple[float, ...] = field(default=(), repr=False)
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
    loadings: tuple[float, ...] = field(default=(), repr=False)
    """What the estimate's error is made of; products with another comparison's are their correlation."""
    persistent_share: float = 0.0
    """Share of the variance that only more instances or replicates shrink, not more minutes."""
    se: float | None = None
    """Standard error: of the log ratio where the effect is relative, else in the effect's own unit."""
    df: float | None = None
    """Its degrees of freedom."""
    looks: tuple[Look, ...] = ()
    """Looks before the last, where monitoring has any."""
    decided_at_s: float | None = None
    """Seconds of judged data after which this was shown to be worse than it may be."""
    no_data: str | None = None
    """Why nothing can be said; `None` when something can."""
    unresolved: str = ""
    """Why no amount of data could show it to be within its margin, and what would; empty where it could."""
    too_coarse: bool = False
    """Is the recorded step of the times too coarse for the margin? Then neither "worse" nor "within" is shown of it,
    also at earlier looks; limits still decide."""
    scan: bool = False
    """True for a row of the endpoint scan (not a metric of the policy)."""
    status: MetricStatus = MetricStatus.INCONCLUSIVE
    p_value: float | None = None
    p_value_adjusted: float | None = None
    reason: str = ""
    view: View | None = None

    @property
    def deciding(self) -> list[Question]:
        """Margin and limits; where there are none, whether it changed at all."""
        return [question for question in self.questions if question.decides] or list(self.questions)

    @property
    def must_be_within(self) -> bool:
        """Must this be within for a GO? Gates and holds must, but not rows of the endpoint scan."""
        return self.rule.role is not Role.WATCH and not self.scan


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
    """Requests that are judged; of readings alone, what the busiest counter or histogram of the policy saw."""
    instances: int
    runs: int
    units: int = 0
    """Units whose outcomes were compared."""
    read: int = 0
    """Rows of requests, or else of outcomes, that were read: those judged and those of `left_out`."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that were read and are not judged, by kind."""


@dataclass(frozen=True, slots=True)
class Period:
    """The time that the user asked to judge, from `start` on and before `end`; `None`: no limit on that side."""

    start: datetime | None = None
    end: datetime | None = None


WHOLE = Period()
"""All that has landed."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time of the data that were judged (UTC), after warm-up; `seconds` is what was really covered."""

    start: datetime | None = None
    end: datetime | None = None
    seconds: float = 0.0


_NO_WINDOW = Window()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the calendar of looks stands, in seconds of judged data."""

    covered_s: float
    planned_s: float
    next_s: float
    """When the next look is due; infinite where none is to come."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a release before judging."""

    comparisons: tuple[Comparison, ...] = ()
    findings: tuple[Finding, ...] = ()
    arms: tuple[ArmSummary, ...] = ()
    window: Window = _NO_WINDOW
    unjudged_share: float = 0.0
    """Share of traffic on endpoints that the scan could not judge."""
    unjudged_endpoints: tuple[str, ...] = ()
    incomplete: bool = False
    monitoring: Literal["fixed", "group_sequential", "anytime"] = "fixed"
    final: bool = True
    """False before the last look of the calendar: a NO-GO can be shown, a GO cannot."""
    imported: bool = False
    """The requests were recorded by another tool: more of them come by another import."""
    collected: bool = False
    """There are readings of a metrics server only: more of them come with time."""
    progress: Progress | None = None
    """How far the calendar of looks has come; `None` where there are no requests."""
    outcomes_run: str = ""
    """Run whose outcomes were looked at; empty where none were, or nothing could be said of them."""
    outcomes_paid: str = ""
    """How the look at them was paid for, as `OutcomeLook.paid`."""


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
    policy_path: str = ""
    """File of the policy, where it was chosen by the release's service among several."""
    data_hash: str = ""
    evaluator_version: str = ""
    period: Period = WHOLE
    """The part of the data that was asked for."""
    judged_at: datetime | None = None
    override: Mapping[str, Any] | None = None
    figures: Mapping[str, Any] | None = None
    """What the figures of a report need, where it was asked for."""
