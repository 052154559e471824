"""The base of metrics of requests, and how an estimate becomes the answer of any metric: a `Comparison`."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from evaluator.metrics.options import MetricModel
from evaluator.records import (
    ArmValue,
    Comparison,
    Drift,
    Effect,
    EvidenceKind,
    InstancePrior,
    MetricStatus,
    Question,
    Rule,
)
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.differences import compare_differences
from evaluator.stats.estimators.estimate import Answers, Depth, Estimate, Tolerance
from evaluator.stats.estimators.failures import SD_SHARE, compare_failures
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.estimators.resolution import steps_of
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.longrun import MIN_BUCKETS
from evaluator.stats.variance.uncertainty import Design
from evaluator.wording import describe_steps, explain_coarse, find_finer_times, format_count, format_time

MIN_REQUESTS = 30
CONSTANT_BELOW = 200
ALIKE_STEP = 0.02
"""Times that are stored as one number count as equal only if the store's unit is at most this share of them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Baseline and one candidate arm, prepared: the input of a metric."""

    panel: Panel
    """Requests of both arms, by endpoint and slot (a bucket of a run)."""
    design: Design
    """What is replicated: runs, instances, or nothing."""
    arm: str
    """Name of the candidate."""
    alpha: float
    prior: InstancePrior
    """How much instances are assumed to differ, if the data name a single one."""
    users: tuple[float, float] | None = None
    """Mean users of baseline and candidate; `None`: not recorded."""
    depth: Depth = "full"
    """Less than full at a look before the last."""
    groups: Groups | None = None
    """Subsets of the endpoints that are compared at once, each by itself; `None`: all requests together."""
    tolerance: Tolerance | None = None
    """An additional bound against which each of these groups is tested."""
    recorded: tuple[int, int] | None = None
    """Requests of baseline and candidate after the warm-up, with a partner or not (see `explain_few`). `None`: unknown,
    they count as those of the panel."""

    def requests(self, arm: int) -> int:
        """Count the requests of baseline (`arm` 0) or candidate (1)."""
        return int(self.panel.n[arm].sum())

    def successes(self, arm: int) -> int:
        """Count the successful requests of baseline (`arm` 0) or candidate (1)."""
        return int(self.panel.ok[arm].sum())

    def name(self, arm: int) -> str:
        """Return the name of baseline (`arm` 0) or candidate (1)."""
        return self.arm if arm else "baseline"

    def no_data(self, rule: Rule, why: str) -> Comparison:
        """Make a comparison without data, with the reason `why`."""
        n = self.requests(0), self.requests(1)
        return no_data(rule, self.arm, why, n=n, instances=self.design.replicate_counts)

    def compare_means(
        self,
        rule: Rule,
        *,
        sd_instance: float | None = None,
        of: Literal["time_ms", "bytes", "value"] = "time_ms",
        floor: FloatArray | None = None,
    ) -> Estimate:
        """Compare means by their ratio, under the margin and limits of a rule, by `stats.estimators.means`.

        `of`: response time (ms), response size (bytes), or the value of a reading. `sd_instance`: how much instances
        are assumed to differ, as a share; `None`: as they do in latency. `floor`: the relative variance of the mean of
        each arm counts as at least this, shape (2, groups); `None`: without such a bound.
        """
        return compare_means(
            self.panel,
            self.design,
            alpha=self.alpha,
            margin=rule.margin,
            sd_instance=self.prior.sd_latency if sd_instance is None else sd_instance,
            direction=rule.direction,
            limit=rule.limit,
            groups=self.groups,
            depth=self.depth,
            of=of,
            floor=floor,
            tolerance=self.tolerance,
        )

    def compare_differences(
        self, rule: Rule, sd_instance: float, *, floor: tuple[float, float] = (0.0, 0.0), fitted: int = 0
    ) -> Estimate:
        """Compare levels (means) by their difference, by `stats.estimators.differences`.

        Args:
            rule: Gives margin, limits and direction.
            sd_instance: How much instances are assumed to differ, in the unit of the levels.
            floor: Least variance of the level (mean) of baseline and candidate.
            fitted: Parameters that are fitted to the values of each instance, which cost degrees of freedom.
        """
        return compare_differences(
            self.panel,
            self.design,
            alpha=self.alpha,
            margin=rule.margin.value if rule.margin else 0.0,
            sd_instance=sd_instance,
            direction=rule.direction,
            limit=rule.limit,
            floor=floor,
            fitted=fitted,
        )

    def compare_failures(self, rule: Rule, *, sd_instance: float | None = None, sd_share: float = SD_SHARE) -> Estimate:
        """Compare failure rates under the margin and limits of a rule, by `stats.estimators.failures`.

        If an arm has a single instance, instances are assumed to differ by a standard deviation of `sd_instance` (a
        rate; `None`: as they do in failures), or by the share `sd_share` of the failure rate if that is more.
        """
        return compare_failures(
            self.panel,
            self.design,
            alpha=self.alpha,
            margin=rule.margin,
            sd_instance=self.prior.sd_failures if sd_instance is None else sd_instance,
            sd_share=sd_share,
            limit=rule.limit,
            groups=self.groups,
            depth=self.depth,
            tolerance=self.tolerance,
        )


@dataclass(frozen=True, slots=True)
class UnitTotals:
    """Sums of each instance or run, for figures: all arrays have shape (units,)."""

    n: FloatArray
    failures: FloatArray
    sum_ms: FloatArray
    sum_bytes: FloatArray
    quantiles: Callable[[float], FloatArray]
    """A quantile of the time to success (ms) of each unit."""
    done: Callable[[float], FloatArray]
    """How many requests of each unit succeeded within a time (ms)."""


class RequestMetric(MetricModel):
    """A metric of requests."""

    evidence: ClassVar[EvidenceKind] = EvidenceKind.REQUESTS

    @abstractmethod
    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer the metric's rule. Without enough data it returns `Pair.no_data` instead of raising."""

    def applies(self, pair: Pair | None, rule: Rule) -> bool:
        """Is it compared at all? If not, the verdict has no row for it. `pair` None: the arms cannot be compared."""
        del pair, rule
        return True

    @classmethod
    def compare_all(cls, pair: Pair, rules: Sequence[tuple[Self, Rule]]) -> tuple[Comparison, ...]:
        """Answer several rules of this type, which may share their work; in the order of the rules."""
        return tuple(metric.compare(pair, rule) for metric, rule in rules)

    def of_units(self, units: UnitTotals) -> FloatArray | None:
        """The metric's value for each instance or run, shape (units,); `None` for a metric without such values."""
        del units
        return None


class EndpointMetric(RequestMetric):
    """A metric of requests that can be compared endpoint by endpoint as well, as the endpoint scan does."""

    method: ClassVar[str]
    """Name of the statistical method, as a verdict shows it."""

    @property
    def of_successes(self) -> bool:
        """Does the metric count successful requests only?"""
        return True

    @abstractmethod
    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Compare all requests, or each of the pair's groups of endpoints."""

    def check(self, pair: Pair) -> str | None:
        """Why the pair cannot be compared, or `None`."""
        return check_enough(pair, successes=self.of_successes)

    def counted(self, panel: Panel) -> FloatArray:
        """The numbers of requests that the metric counts, in the shape of `Panel.n`."""
        return panel.ok if self.of_successes else panel.n

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer the metric's rule; without enough data, by a comparison without data."""
        why = self.check(pair)
        if why:
            return pair.no_data(rule, why)
        baseline, candidate = self.counted(pair.panel)  # requests by endpoint and slot
        n = int(baseline.sum()), int(candidate.sum())
        method = f"{self.method}, {pair.design.kind}"
        return answer(pair, rule, self.estimate(pair, rule), method=method, n=n)


def check_enough(pair: Pair, *, successes: bool, on_both_arms: bool = True) -> str | None:
    """Say why a comparison cannot be made: too little time, or too few requests; `None`: it can be made.

    `successes`: the metric reads successes, so there must be enough of them; if they are few, not all may have the same
    time. `on_both_arms=False`: a candidate may have few, as for a quantile that counts failures as infinitely slow.
    """
    return find_shortage(pair, successes=successes, on_both_arms=on_both_arms) or (
        find_equal_times(pair) if successes else None
    )


def find_shortage(pair: Pair, *, successes: bool, on_both_arms: bool = True) -> str | None:
    """Say what there is too little of for tests by normal approximations: time, requests, or successes; else `None`.

    The arguments are those of `check_enough`.
    """
    if pair.panel.slots < MIN_BUCKETS:
        seconds = pair.panel.slots * pair.panel.bucket_s
        return f"only {seconds} s of usable data, at least {MIN_BUCKETS * pair.panel.bucket_s} s are needed"
    if min(pair.requests(0), pair.requests(1)) < MIN_REQUESTS:
        return explain_few(pair, MIN_REQUESTS)
    for arm in (0, 1):
        if successes and (on_both_arms or arm == 0) and pair.successes(arm) < MIN_REQUESTS:
            return f"only {pair.successes(arm)} successes on {pair.name(arm)}, at least {MIN_REQUESTS} are needed"
    return None


def explain_few(pair: Pair, needed: int, purpose: str = "") -> str:
    """Name the arm that is short of requests, how many it has, and how many are `needed` (for a `purpose`).

    A request has a partner, and is counted, if the other arm has requests in the same run, in the time that both arms
    share. If both arms have enough requests, but too few with a partner, this is said.
    """
    counted = pair.requests(0), pair.requests(1)
    recorded = pair.recorded or counted
    short = 0 if (recorded[0], counted[0]) < (recorded[1], counted[1]) else 1  # the arm with fewer requests
    other = 1 - short
    partnered = [f"{format_count(counted[arm])} of {format_count(recorded[arm])}" for arm in (0, 1)]
    if recorded[short] < needed:
        text = f"only {format_count(recorded[short])} requests on {pair.name(short)}"
        if recorded[other] < needed:
            as_many = recorded[other] == recorded[short]
            text += f" and {'as many' if as_many else format_count(recorded[other])} on {pair.name(other)}"
        elif counted[other] < recorded[other]:
            text += f", so only {partnered[other]} on {pair.name(other)} have a partner"
    else:
        text = (
            f"only {partnered[short]} requests on {pair.name(short)} and {partnered[other]} on {pair.name(other)} have "
            "a partner"
        )
    explanation = ""
    if "partner" in text:
        explanation = "; a request has a partner if the other arm has requests in the same run, in the time both share"
    return f"{text}, at least {needed} are needed{purpose}{explanation}"


def find_equal_times(pair: Pair) -> str | None:
    """Say so if all times of an arm are equal, and too few to show their spread; else `None`."""
    for arm in (0, 1):
        if pair.panel.constant[arm] and pair.successes(arm) < CONSTANT_BELOW:
            # If the store's unit is a small share of the time, they are truly equal; else rounding may have made
            # different times equal.
            all_times = f"all {pair.successes(arm)} times on {pair.name(arm)} are"
            level_ms = float(pair.panel.totals["time_ms"][arm].sum()) / pair.successes(arm)
            unit_ms = max(1 / pair.panel.units_per_ms, pair.panel.mixed_unit_ms)
            if level_ms * ALIKE_STEP >= unit_ms:
                return f"{all_times} equal"
            units_per_ms, mixed_unit_ms = pair.panel.units_per_ms, pair.panel.mixed_unit_ms
            names = (pair.name(0), pair.name(1))
            kept = describe_steps((unit_ms, unit_ms), names, units_per_ms, mixed_unit_ms=mixed_unit_ms)
            remedy = find_finer_times(unit_ms, units_per_ms, mixed_unit_ms=mixed_unit_ms)
            return f"{all_times} stored as {format_time(level_ms)}: {kept}, too coarse to distinguish them; {remedy}"
    return None


def no_data(
    rule: Rule, arm: str, why: str, *, n: tuple[int, int] = (0, 0), instances: tuple[int, int] = (0, 0)
) -> Comparison:
    """Make a comparison without data; `why`: the reason; `n`: requests, observations or units of both arms."""
    return Comparison(
        rule=rule,
        arm=arm,
        unit=rule.metric.value_unit,
        baseline=ArmValue(None, n[0]),
        candidate=ArmValue(None, n[1]),
        method="none",
        instances=instances,
        no_data=why,
        status=MetricStatus.NO_DATA,
    )


def answer(
    pair: Pair,
    rule: Rule,
    estimate: Estimate,
    *,
    method: str,
    n: tuple[int, int] | None = None,
    group: int = 0,
    scan: bool = False,
) -> Comparison:
    """Turn one group of an estimate into a comparison; without finite numbers, into a comparison without data.

    Args:
        pair: The pair that was compared.
        rule: The rule to answer.
        estimate: Its arrays have an element for each group of endpoints.
        method: Name of the statistical method.
        n: Requests (or other units) of baseline and candidate; `None`: all requests of the pair.
        group: Index of the group; 0 if all requests were compared together.
        scan: Whether the comparison belongs to the endpoint scan, where the tolerance is a question as well.
    """
    g = group
    n = n or (pair.requests(0), pair.requests(1))
    numbers = (estimate.baseline[g], estimate.against_margin.p_worse[g], estimate.against_margin.p_within[g])
    if not all(math.isfinite(number) for number in numbers):
        return pair.no_data(rule, "the data give no finite estimate")
    unit = rule.metric.value_unit
    # Without a margin shares are compared as a difference, all other metrics as a ratio.
    relative = unit != "fraction" if rule.margin is None else rule.margin.relative
    candidate = float(estimate.candidate[g])  # not finite: a quantile that became a failed request
    trend = estimate.trend
    too_coarse = estimate.coarse is not None and bool(estimate.coarse[g])
    return Comparison(
        rule=rule,
        arm=pair.arm,
        unit=unit,
        baseline=ArmValue(float(estimate.baseline[g]), n[0]),
        candidate=ArmValue(candidate if math.isfinite(candidate) else float("inf"), n[1]),
        method=method,
        instances=pair.design.replicate_counts,  # of baseline and candidate
        effect=Effect(
            "relative" if relative else "absolute",
            float(estimate.effect[g]),
            float(estimate.lower[g]),
            float(estimate.upper[g]),
        ),
        questions=tuple(_list_group_questions(rule, estimate, g, scan=scan)),
        drift=Drift(float(trend.last_third[g]), float(trend.p_worsening[g]), float(trend.at_end[g])),
        detectable_effect=_finite(estimate.detectable[g]),
        needed_time=float(estimate.needed[g]),
        persistent_share=float(estimate.persistent[g]),
        loadings=() if estimate.loadings is None else tuple(estimate.loadings[g].tolist()),
        se=_finite(estimate.se[g]),
        df=float(estimate.df[g]),
        unresolved=_explain_step(pair, rule, float(estimate.baseline[g])) if too_coarse else "",
        too_coarse=too_coarse,
        scan=scan,
    )


def _list_group_questions(rule: Rule, estimate: Estimate, group: int, *, scan: bool) -> list[Question]:
    """List the questions of a rule with the answers of one group of an estimate (its index).

    `scan`: the group is an endpoint of the scan, for which the tolerance of a GO is a question as well.
    """
    limits = [answers.of_group(group) for answers in estimate.against_limit]
    zero, margin = estimate.against_zero.of_group(group), estimate.against_margin.of_group(group)
    questions = list_questions(rule, zero, margin, limits)
    if scan and estimate.against_tolerance is not None and estimate.tolerance is not None:
        answers = estimate.against_tolerance.of_group(group)
        questions.append(Question("tolerance", float(estimate.tolerance[group]), answers.p_worse, answers.p_within))
    return questions


def _explain_step(pair: Pair, rule: Rule, level_ms: float) -> str:
    """Say why the recorded times are too coarse for the rule's margin; empty without margin.

    `level_ms`: the baseline's value of the metric.
    """
    if not rule.margin:
        return ""
    panel, names = pair.panel, (pair.name(0), pair.name(1))
    steps = steps_of(panel, rule.slice.endpoint)
    return explain_coarse(steps, names, panel.units_per_ms, level_ms, rule.margin, mixed_unit_ms=panel.mixed_unit_ms)


def list_questions(rule: Rule, zero: Answers, margin: Answers, limits: Sequence[Answers]) -> list[Question]:
    """List the questions of a rule with their answers: against no change, the margin if it has one, and each limit.

    `zero`, `margin`, `limits`: the p-values of these questions; `limits` in the order of `rule.limit.bounds`.
    """
    questions = [Question("zero", 0.0, zero.p_worse, zero.p_within)]
    if rule.margin:
        questions.append(Question("margin", rule.margin.value, margin.p_worse, margin.p_within))
    for (_, bound), answers in zip(rule.limit.bounds, limits, strict=True):
        questions.append(Question("limit", bound, answers.p_worse, answers.p_within))
    return questions


def _finite(value: float) -> float | None:
    """Return a number as a plain float; `None` if it is not finite."""
    return float(value) if math.isfinite(value) else None
