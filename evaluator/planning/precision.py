"""The parts of a comparison's variance, and what they would be with another duration and other instances.

The moving part (requests, drifting load) shrinks with time. The persistent part is the difference between instances of
one version; only more instances shrink it. More instances do not shrink the moving part: the load stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluator.assess import assess
from evaluator.records import (
    Cells,
    Comparison,
    Direction,
    Monitoring,
    Role,
    Rule,
    Rulebook,
    Run,
    RunState,
    choose_bucket_s,
)
from evaluator.simulate import Scenario, simulate_cells
from evaluator.stats.variance.longrun import BATCH_BELOW, BATCHES, MIN_BUCKETS, cosine_count
from evaluator.stats.variance.uncertainty import PRIOR_DF

SIMULATED = 5
SIMULATED_S = 3600.0


@dataclass(frozen=True, slots=True)
class Precision:
    """The variance of one gate by its parts; on the log scale if the margin is relative."""

    rule: Rule
    unit: str
    baseline: float
    """The metric's own value."""
    moving: float
    """Variance of the part that time shrinks, after `reference_s` seconds."""
    reference_s: float
    between: float
    """Variance between instances (or replicates) of one arm."""
    prior: float
    """The same if an arm has only one instance: assumed."""
    within: float
    """Share of the moving part that is within instances; it reduces the degrees of freedom."""

    @property
    def relative(self) -> bool:
        """Is the margin relative?"""
        return self.rule.margin is None or self.rule.margin.relative

    @property
    def bound(self) -> float:
        """The margin on the scale of the test; positive is worse."""
        margin = self.rule.margin.value if self.rule.margin else 0.0
        return self.to_scale(margin)

    def to_scale(self, harm: float) -> float:
        """Convert harm (0.1: 10 %, or 0.1 in the unit) to the scale of the test: log ratios for relative margins."""
        if not self.relative:
            return harm
        if self.rule.direction is Direction.HIGHER:  # harm is a fall, by less than 100 %
            return -math.log1p(-min(harm, 1 - 1e-12))
        return math.log1p(harm)

    def from_scale(self, shift: float) -> float:
        """Convert a shift on the scale of the test (log ratio if the margin is relative) back to harm (0.1: 10 %).

        A positive shift is worse, in the direction of the metric. The inverse of `to_scale`.
        """
        if not self.relative:
            return shift
        if self.rule.direction is Direction.HIGHER:
            return -math.expm1(-shift)
        return math.expm1(min(shift, 700.0))  # a larger number would overflow


@dataclass(frozen=True, slots=True)
class PlannedPrecision:
    """Standard error of a planned comparison and its degrees of freedom."""

    se: float
    df: float
    between_instance: float
    """Share of the variance that time does not shrink."""


@dataclass(frozen=True, slots=True)
class History:
    """The data of a plan."""

    precisions: tuple[Precision, ...]
    """One for each gate with data."""
    missing: tuple[str, ...]
    """Gates without data."""
    rate_per_s: float
    """Requests per second of one arm."""
    instances: int
    """Instances of the smaller arm; replicates, if those were compared."""
    comparisons: int
    unpaired: float = 1.0
    """Factor on the moving part if the arms do not run at the same time."""
    assumed: bool = False
    """Simulated: nothing was measured."""
    of_another_source: int = 0
    """Stored comparisons that are not used, because their data are from another source: imported, not loaded …"""


def forecast(
    precision: Precision, seconds: float, instances: tuple[int, int], *, noise: float = 1.0
) -> PlannedPrecision:
    """Forecast the precision after `seconds` with this many instances of baseline and candidate.

    The variance has a moving part, which shrinks with time, and a part between instances, which only more instances
    shrink. `noise`: factor on the moving part, for uneven traffic or arms that do not run together. If the run is too
    short, the standard error is infinite.
    """
    buckets = int(seconds // choose_bucket_s(seconds))
    if buckets < MIN_BUCKETS:
        return PlannedPrecision(math.inf, 1.0, 0.0)
    moving = precision.moving * precision.reference_s / seconds * noise
    # A single instance shows no variance between instances, so it is assumed.
    between = sum(
        precision.between / count if count >= 2 else max(precision.prior, precision.between) for count in instances
    )
    variance = between + moving
    # The variance that is estimated from instances, and the other, which is estimated over time.
    by_instances, by_time = between + precision.within * moving, (1 - precision.within) * moving
    df_of_instances = float(sum(instances) - 2) if min(instances) >= 2 else PRIOR_DF
    df_of_time = _find_time_df(buckets)
    # Degrees of freedom of a sum of variances that are known with unequal precision (Welch and Satterthwaite).
    sum_of_squares = by_instances**2 / df_of_instances + by_time**2 / df_of_time
    df = variance**2 / sum_of_squares if sum_of_squares > 0 else df_of_time
    return PlannedPrecision(math.sqrt(variance), df, between / variance if variance > 0 else 0.0)


def _find_time_df(buckets: int) -> float:
    """Degrees of freedom of a variance over time: in a short run it is that of a few batches, else of cosines."""
    return float(BATCHES - 1 if buckets < BATCH_BELOW else cosine_count(buckets))


def learn_precisions(stored: Sequence[tuple[Cells, tuple[Run, ...]]], rulebook: Rulebook) -> History:
    """Learn the precision of each gate from stored data; `stored`: cells and runs of each run group.

    Every run group is compared by the gates that its data can answer. The variance of each comparison is split into
    its parts. These are averaged over comparisons, each converted to one second and one instance.
    """
    groups = []
    for cells, runs in stored:
        evidence = assess(cells, runs, _reduce_rulebook(rulebook, cells))
        groups.append(_GroupComparisons.of(evidence.comparisons, cells))
    gates = [rule for rule in rulebook.rules if rule.role is Role.GATE]
    # Name of a gate → its comparisons in all groups.
    by_gate = {rule.name: [timed for group in groups for timed in group.by_rule.get(rule.name, [])] for rule in gates}
    precisions = [_pool(rule, by_gate[rule.name], rulebook) for rule in gates if by_gate[rule.name]]
    # Run groups with data of at least one gate.
    used = [group for group in groups if any(rule.name in group.by_rule for rule in gates)]
    return History(
        precisions=tuple(precisions),
        missing=tuple(rule.name for rule in gates if not by_gate[rule.name]),
        rate_per_s=float(np.mean([group.rate_per_s for group in used])) if used else 0.0,
        instances=max((group.instances for group in used), default=0),
        comparisons=len(used),
        unpaired=float(np.mean([group.unpaired for group in used])) if used else 1.0,
    )


def _reduce_rulebook(rulebook: Rulebook, cells: Cells) -> Rulebook:
    """Reduce the policy to the rules that these cells can answer, judged once at their end, without endpoint scan."""
    rules, scan = rulebook.on_requests(cells.endpoints), replace(rulebook.scan, enabled=False)
    return replace(rulebook, rules=rules, monitoring=Monitoring(mode="fixed"), scan=scan)


_TimedComparison = tuple[Comparison, float]
"""A comparison and the seconds of its data."""


@dataclass(frozen=True, slots=True)
class _GroupComparisons:
    """The comparisons of one run group."""

    by_rule: Mapping[str, list[_TimedComparison]]
    rate_per_s: float
    """Requests per second of the arm with fewer of them."""
    instances: int
    """Instances of the smaller arm; replicates, if those were compared."""
    unpaired: float
    """Factor on the variance if the arms do not run at the same time."""

    @classmethod
    def of(cls, comparisons: Sequence[Comparison], cells: Cells) -> _GroupComparisons:
        """Collect the comparisons with data and a standard error; request rate and drift are read from the cells."""
        moments = cells.moments
        # Distinct pairs of run and bucket.
        buckets = np.unique(np.stack([moments.run, moments.bucket]), axis=1).shape[1] if moments.run.size else 0
        seconds = int(buckets) * cells.bucket_s
        by_rule: dict[str, list[_TimedComparison]] = {}
        for c in comparisons:
            if not c.no_data and c.se and c.df and math.isfinite(c.se):
                by_rule.setdefault(c.rule.name, []).append((c, float(seconds)))
        instances = [min(c.instances) for timed in by_rule.values() for c, _ in timed]  # of the smaller arm
        requests_by_arm = [int(moments.n[moments.arm == arm_code].sum()) for arm_code in range(len(cells.arms))]
        requests = min(requests_by_arm, default=0)
        return cls(
            by_rule=by_rule,
            rate_per_s=requests / max(seconds, 1),
            instances=max(instances, default=0),
            unpaired=_compare_unpaired(cells),
        )


def _compare_unpaired(cells: Cells) -> float:
    """Return how much more the difference of two arms varies if they do not run at the same time: a factor.

    It is applied to the variance. It comes from the drift of the arms' mean response times over the run: a shared drift
    no longer cancels. At least 1; 1 also without enough data.
    """
    moments = cells.moments
    if not moments.run.size or len(cells.arms) < 2:
        return 1.0
    # A slot is a bucket of a run. Times and successes of baseline and first candidate have the shape (2, slots).
    _, slot = np.unique(np.stack([moments.run, moments.bucket]), axis=1, return_inverse=True)
    sums = np.zeros((2, int(slot.max()) + 1))
    successes = np.zeros_like(sums)
    of_pair = moments.arm < 2  # baseline and first candidate
    np.add.at(sums, (moments.arm[of_pair], slot[of_pair]), moments.sum_time[of_pair])
    np.add.at(successes, (moments.arm[of_pair], slot[of_pair]), (moments.n - moments.failures)[of_pair])
    on_both = (successes > 0).all(axis=0) & (sums > 0).all(axis=0)
    if on_both.sum() < MIN_BUCKETS:
        return 1.0
    log_means = np.log(sums[:, on_both] / successes[:, on_both])  # of the response times of each arm and slot
    paired_variance = float(np.var(log_means[1] - log_means[0]))
    unpaired_variance = float(log_means.var(axis=1).sum())
    return max(1.0, unpaired_variance / paired_variance) if paired_variance > 0 else 1.0


def _pool(rule: Rule, timed: Sequence[_TimedComparison], rulebook: Rulebook) -> Precision:
    """Pool all comparisons of a gate into one precision: the mean of each part of their variances.

    `timed`: each comparison with the seconds of its data.
    """
    comparisons, seconds = [c for c, _ in timed], [lasted_s for _, lasted_s in timed]
    parts = [_take_apart(c, lasted_s) for c, lasted_s in timed]
    reference_s = float(np.mean(seconds))  # the duration to which the pooled variance refers
    baseline = float(np.mean([c.baseline.value or 0.0 for c in comparisons]))
    # The moving part falls with time, so it is averaged for one second.
    moving_of_1_s = [part.moving * lasted_s for part, lasted_s in zip(parts, seconds, strict=True)]
    return Precision(
        rule=rule,
        unit=comparisons[-1].unit,
        baseline=baseline,
        moving=float(np.mean(moving_of_1_s)) / reference_s,
        reference_s=reference_s,
        between=float(np.mean([part.between for part in parts])),
        prior=_assume_prior(rule, baseline, rulebook),
        within=float(np.mean([part.within for part in parts])),
    )


@dataclass(frozen=True, slots=True)
class _VarianceParts:
    """The parts of the variance of one comparison."""

    moving: float
    """What time shrinks."""
    between: float
    """Variance of one instance."""
    within: float
    """Share of the moving part that is within instances."""


def _take_apart(c: Comparison, seconds: float) -> _VarianceParts:
    """Split the variance of a comparison into its parts; `seconds`: how much data it has.

    The share of the moving part that is within instances is not stored. But the degrees of freedom, which are, depend
    on it (formula of Welch and Satterthwaite, as in `forecast`): so the share that explains them best is searched.
    """
    variance = (c.se or 0.0) ** 2
    persistent = min(c.persistent_share, 1.0) * variance
    moving = variance - persistent
    baseline_instances, candidate_instances = (max(count, 1) for count in c.instances)
    between = persistent / (1 / baseline_instances + 1 / candidate_instances)
    # An arm with one instance has an assumed variance.
    has_several = min(baseline_instances, candidate_instances) >= 2
    df_of_instances = float(baseline_instances + candidate_instances - 2) if has_several else PRIOR_DF
    df_of_time = _find_time_df(max(int(seconds // choose_bucket_s(seconds)), MIN_BUCKETS))
    shares = np.linspace(0, 1, 101)  # that are tried
    sum_of_squares = (persistent + shares * moving) ** 2 / df_of_instances + ((1 - shares) * moving) ** 2 / df_of_time
    implied_df = variance**2 / np.maximum(sum_of_squares, 1e-300)
    stored_df = min(c.df or df_of_time, 1e9)
    within = float(shares[np.argmin(np.abs(implied_df - stored_df))])
    return _VarianceParts(moving, between, within)


def _assume_prior(rule: Rule, baseline: float, rulebook: Rulebook) -> float:
    """Variance between instances that is assumed if an arm has only one, as the judge does (docs/method.md, B.3a).

    Of the metric's log if the margin is relative. `baseline`: mean failure rate; without effect for other metrics.
    """
    if not rule.metric.is_failure_rate:
        return rulebook.prior.sd_latency**2
    sd = max(baseline / 2, rulebook.prior.sd_failures)
    relative = rule.margin is not None and rule.margin.relative
    return (sd / max(baseline, 1e-12)) ** 2 if relative else sd**2


def assume_history(rulebook: Rulebook, *, rate_per_s: float, instances: int, seed: int = 1) -> History:
    """Make a history of simulated releases, for a plan without stored runs.

    Simulated is the default service of `Scenario`, whose instances differ by 1 %. `rate_per_s`: requests per second of
    one arm; `instances`: of each arm. Rules for single endpoints are measured over all endpoints, as the simulated
    service has other endpoints.
    """
    all_endpoints = tuple(replace(rule, slice=replace(rule.slice, endpoint=None)) for rule in rulebook.rules)
    # Differences between instances show with two or more.
    scenario = Scenario(duration_s=SIMULATED_S, rate_per_s=rate_per_s, instances=(max(instances, 2),))
    run = (Run("assumed", "assumed", "assumed", "import", state=RunState.COMPLETE),)
    stored = [(simulate_cells(scenario, seed * 1000 + number), run) for number in range(SIMULATED)]
    history = learn_precisions(stored, replace(rulebook, rules=all_endpoints))
    return replace(history, assumed=True, comparisons=0, rate_per_s=rate_per_s, instances=instances)
