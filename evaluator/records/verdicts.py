"""Evidence and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from evaluator.records.faults import FailureCount, Fault
from evaluator.records.iterations import Iteration
from evaluator.records.releases import Release
from evaluator.records.rows import LeftOut
from evaluator.records.rules import Rule
from evaluator.records.words import EvidenceKind, Level, MetricStatus, Role, VerdictWord


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
    """One bound that a comparison is tested against: is the candidate beyond `bound`?

    `p_worse`: p-value against "not worse than the bound" (small: shown to be worse).
    `p_within`: p-value against "at or beyond the bound" (small: shown to be within).
    Only rows of the endpoint scan have the kind `tolerance`: harm beyond it stops a GO.
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
    """Result of one look for a comparison's margin and limits, in the order of its questions."""

    at_s: float
    """Seconds of judged data at this look."""
    p_worse: tuple[float, ...]
    """Sequential p-values: the lowest alpha at which this or an earlier look would have shown the candidate worse."""
    loadings: tuple[float, ...] = field(default=(), repr=False)
    """As `Comparison.loadings`, at this look."""
    p_within: tuple[float, ...] = ()
    """The lowest alpha, spent as for an early GO, at which this look by itself shows the candidate to be within."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How the change itself drifted during the run (a leak), on the scale of the effect; positive is worse."""

    last_third: float
    """Point estimate over the last third of the run."""
    p_worsening: float
    """One-sided p-value of a worsening trend."""
    at_end: float
    """The trend's own estimate of the change at the end of the run."""


@dataclass(frozen=True, slots=True)
class ArmValue:
    """The value of one arm and the number of requests it is based on."""

    value: float | None
    n: int


@dataclass(frozen=True, slots=True)
class View:
    """Probabilities shown next to a comparison for people. They decide nothing."""

    p_beyond: float
    """Probability that the harm is beyond the margin (beyond 0 without a margin), from a sceptical prior."""
    p_better: float
    """Probability that the candidate is better than baseline."""
    expected_loss: float
    """Mean harm of choosing the candidate, in the metric's unit."""
    p_best: float | None = None
    """Probability of being the best of all arms; only with several candidates."""
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
    """Instances (or replicates) of baseline and candidate."""
    effect: Effect | None = None
    questions: tuple[Question, ...] = ()
    drift: Drift | None = None
    detectable_effect: float | None = None
    """Smallest harm that would be detected with 80 % power, on the scale of the effect."""
    needed_time: float | None = None
    """Multiple of the present duration after which an unchanged estimate would be shown to be within the margin."""
    loadings: tuple[float, ...] = field(default=(), repr=False)
    """Parts of the estimate's error; their dot product with another comparison's is the correlation of both."""
    persistent_share: float = 0.0
    """Share of the variance that only more instances or replicates shrink, not more minutes."""
    se: float | None = None
    """Standard error: of the log ratio where the effect is relative, else in the effect's own unit."""
    df: float | None = None
    """Degrees of freedom of the standard error."""
    looks: tuple[Look, ...] = ()
    """Looks before the last one."""
    decided_at_s: float | None = None
    """Seconds of judged data after which this was shown to be worse than allowed."""
    no_data: str | None = None
    """Why there is no result; `None` if there is one."""
    unresolved: str = ""
    """Why no amount of data can show it to be within its margin, and what could; empty if more data can."""
    too_coarse: bool = False
    """Are the times recorded in steps too coarse for the margin? Then neither "worse" nor "within" its margin is shown,
    also not at earlier looks; limits still decide."""
    load_differs: bool = False
    """Do the instances of the arms get so different numbers of requests that times differ without any release? Then
    neither "worse" nor "within" is shown."""
    evidence: EvidenceKind | None = None
    """The kind of evidence, if it is not that of the metric: rules on requests are also asked of those of production.
    `kind` is never `None`."""
    scan: bool = False
    """True for a row of the endpoint scan (not a metric of the policy)."""
    status: MetricStatus = MetricStatus.INCONCLUSIVE
    p_value: float | None = None
    p_value_adjusted: float | None = None
    reason: str = ""
    view: View | None = None

    @property
    def kind(self) -> EvidenceKind:
        """The kind of evidence that was compared."""
        return self.evidence or self.rule.evidence

    @property
    def deciding(self) -> list[Question]:
        """The questions on margin and limits; without any, all questions (whether it changed)."""
        return [question for question in self.questions if question.decides] or list(self.questions)

    @property
    def must_be_within(self) -> bool:
        """Must this be within its bounds for a GO? True for gates and holds, not for rows of the endpoint scan."""
        return self.rule.role is not Role.WATCH and not self.scan


@dataclass(frozen=True, slots=True)
class Finding:
    """What a health check found."""

    check: str
    level: Level
    text: str
    void: bool = False
    """Is the comparison meaningless? Then neither GO nor NO-GO is possible."""
    remedy: str = ""
    """What to do about it, with a command if there is one."""
    evidence: EvidenceKind | None = None
    """If there are requests of a load and of production: which of them it is about. `None`: there is one kind only, or
    it is about other evidence."""


@dataclass(frozen=True, slots=True)
class ProductionSummary:
    """The production requests of one arm, next to those of a load."""

    requests: int
    """Requests that are judged."""
    instances: int
    runs: int
    read: int = 0
    """Rows that were read, judged or left out."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that were read and are not judged, by kind."""


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm in numbers."""

    name: str
    role: Literal["baseline", "candidate"]
    requests: int
    """Requests that are judged; with readings alone, the count of the busiest counter or histogram of the policy."""
    instances: int
    runs: int
    units: int = 0
    """Units whose outcomes were compared."""
    read: int = 0
    """Rows of requests (without any: of outcomes) that were read, judged or left out."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that were read and are not judged, by kind."""
    production: ProductionSummary | None = None
    """Its requests of production, if there are requests of a load as well; else they are the arm's only requests."""


@dataclass(frozen=True, slots=True)
class Period:
    """The time that the user wants to judge: from `start` on and before `end`; `None`: no limit on that side."""

    start: datetime | None = None
    end: datetime | None = None


WHOLE = Period()
"""All data that have landed."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time of the data that were judged (UTC), after warm-up; `seconds` counts only time with data."""

    start: datetime | None = None
    end: datetime | None = None
    seconds: float = 0.0


_NO_WINDOW = Window()


@dataclass(frozen=True, slots=True)
class Progress:
    """Position in the calendar of looks, in seconds of judged data."""

    covered_s: float
    planned_s: float
    next_s: float
    """When the next look is due; infinite after the last look."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about a release before it is judged."""

    comparisons: tuple[Comparison, ...] = ()
    findings: tuple[Finding, ...] = ()
    arms: tuple[ArmSummary, ...] = ()
    window: Window = _NO_WINDOW
    production: Window = _NO_WINDOW
    """The judged time of production requests; without a load it is the same as `window`."""
    unjudged_share: float = 0.0
    """Share of traffic on endpoints that the scan could not judge."""
    unjudged_endpoints: tuple[str, ...] = ()
    incomplete: bool = False
    """Did a run end too early?"""
    monitoring: Literal["fixed", "group_sequential", "anytime"] = "fixed"
    final: bool = True
    """False before the last look of the calendar: then NO-GO is possible, and GO is not."""
    imported: bool = False
    """Were all requests imported from files? Then more come by another import only."""
    collected: bool = False
    """Are there readings of a metrics server only? Then more come with time."""
    progress: Progress | None = None
    """Position in the calendar of looks; `None` without requests."""
    outcomes_run: str = ""
    """Run whose outcomes were judged; empty if none were, or if there is no result for them."""
    outcomes_paid: str = ""
    """How the look at them spends alpha, as `OutcomeLook.paid`."""

    @property
    def is_production_alone(self) -> bool:
        """Are the requests those of production, without any of a load?"""
        return self.production.seconds > 0 and not any(arm.production for arm in self.arms)


ReasonCode = Literal[
    "regression",
    "endpoint_regression",
    "limit",
    "not_shown",
    "no_data",
    "health",
    "hold_breached",
    "endpoint_worse",
    "unjudged_endpoints",
    "not_final",
    "incomplete",
    "no_gate",
    "deadline",
    "within_margins",
    "best_arm",
]
"""Kind of a reason, for programs: the same as in the verdict's schema, and in the table of docs/verdicts.md."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the verdict is what it is: a code for machines and a sentence with numbers for people."""

    code: ReasonCode
    text: str
    metric: str | None = None
    arm: str | None = None
    slice: str | None = None
    evidence: EvidenceKind | None = None
    """As `Comparison.evidence` of the comparison that it is about: set only for requests of production."""


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
    """File of the policy, if there are several and the release's service chose it."""
    data_hash: str = ""
    evaluator_version: str = ""
    period: Period = WHOLE
    """The period that the user requested."""
    step: str = ""
    """Step of a rollout whose runs were judged; empty: none of them belongs to a step."""
    environment: str = ""
    """Where the step took place, such as production; empty: it was not judged by a rollout."""
    only_step: bool = False
    """Did the user ask for this step alone? Then it is no verdict on the release."""
    other_steps: tuple[str, ...] = ()
    """Steps of the release that were not judged."""
    judged_at: datetime | None = None
    override: Mapping[str, Any] | None = None
    faults: tuple[Fault, ...] | None = None
    """Where faults of the candidates are, as far as it is shown; empty if no place and no time stands out. `None`: none
    were looked for, because the verdict is GO, has no requests or a comparison that means nothing, or is of an older
    evaluator."""
    failures: tuple[FailureCount, ...] | None = None
    """Failures of each arm with their kinds: of all requests, by endpoint, by instance, and by both; bounded. Failures
    of the warm-up are among them. `None`: there were no requests, or the verdict is of an older evaluator."""
    iteration: Iteration | None = None
    """What became of the harms of the candidate that was rejected before; `None`: none was."""
    figures: Mapping[str, Any] | None = None
    """Data for the figures of a report, if they were requested."""
