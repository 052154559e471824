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
        """Harm (0.1 = 10 % or 0.1 in the unit) on the scale of the test."""
        if not self.relative:
            return harm
        if self.rule.direction is Direction.HIGHER:
            return -math.log1p(-min(harm, 1 - 1e-12))
        return math.log1p(harm)

    def from_scale(self, shift: float) -> float:
        """The harm (as in `to_scale`) of a shift on the scale of the test."""
        if not self.relative:
            return shift
        return -math.expm1(-shift) if self.rule.direction is Direction.HIGHER else math.expm1(min(shift, 700.0))


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


def forecast(
    precision: Precision, seconds: float, instances: tuple[int, int], *, noise: float = 1.0
) -> PlannedPrecision:
    """Precision after `seconds` with this many instances of baseline and candidate.

    `noise`: factor on the moving part, for uneven traffic or arms that do not run together. If the run is too short,
    the standard error is infinite.
    """
    buckets = int(seconds // choose_bucket_s(seconds))
    if buckets < MIN_BUCKETS:
        return PlannedPrecision(math.inf, 1.0, 0.0)
    moving = precision.moving * precision.reference_s / seconds * noise
    several = [count >= 2 for count in instances]
    between = sum(
        precision.between / count if enough else max(precision.prior, precision.between)
        for count, enough in zip(instances, several, strict=True)
    )
    inst, own = between + precision.within * moving, (1 - precision.within) * moving
    df_inst = float(sum(instances) - 2) if all(several) else PRIOR_DF
    variance = between + moving
    spread = inst**2 / df_inst + own**2 / _time_df(buckets)
    df = variance**2 / spread if spread > 0 else _time_df(buckets)
    return PlannedPrecision(math.sqrt(variance), df, between / variance if variance > 0 else 0.0)


def _time_df(buckets: int) -> float:
    return float(BATCHES - 1 if buckets < BATCH_BELOW else cosine_count(buckets))


def learn_precisions(stored: Sequence[tuple[Cells, tuple[Run, ...]]], rulebook: Rulebook) -> History:
    """Split the variance of stored comparisons into its parts; `stored`: cells and runs of run groups.

    Variances are averaged over comparisons, each converted to one second and one instance.
    """
    groups = [
        _GroupComparisons.of(assess(cells, runs, _ask_of(rulebook, cells)).comparisons, cells) for cells, runs in stored
    ]
    gates = [rule for rule in rulebook.rules if rule.role is Role.GATE]
    by_gate = {rule.name: [c for s in groups for c in s.by_rule.get(rule.name, [])] for rule in gates}
    precisions = [_pool(rule, by_gate[rule.name], rulebook) for rule in gates if by_gate[rule.name]]
    used = [s for s in groups if any(rule.name in s.by_rule for rule in gates)]
    return History(
        precisions=tuple(precisions),
        missing=tuple(rule.name for rule in gates if not by_gate[rule.name]),
        rate_per_s=float(np.mean([s.rate_per_s for s in used])) if used else 0.0,
        instances=max((s.instances for s in used), default=0),
        comparisons=len(used),
        unpaired=float(np.mean([s.unpaired for s in used])) if used else 1.0,
    )


def _ask_of(rulebook: Rulebook, cells: Cells) -> Rulebook:
    """The rules that these cells can answer, judged once, at their end."""
    rules, scan = rulebook.on_requests(cells.endpoints), replace(rulebook.scan, enabled=False)
    return replace(rulebook, rules=rules, monitoring=Monitoring(mode="fixed"), scan=scan)


_TimedComparison = tuple[Comparison, float]
"""A comparison and the seconds of its data."""


@dataclass(frozen=True, slots=True)
class _GroupComparisons:
    """One group's comparisons."""

    by_rule: Mapping[str, list[_TimedComparison]]
    rate_per_s: float
    instances: int
    unpaired: float

    @classmethod
    def of(cls, comparisons: Sequence[Comparison], cells: Cells) -> _GroupComparisons:
        moments = cells.moments
        buckets = np.unique(np.stack([moments.run, moments.bucket]), axis=1).shape[1] if moments.run.size else 0
        seconds = int(buckets) * cells.bucket_s
        by_rule: dict[str, list[_TimedComparison]] = {}
        for c in comparisons:
            if not c.no_data and c.se and c.df and math.isfinite(c.se):
                by_rule.setdefault(c.rule.name, []).append((c, float(seconds)))
        fewest = [min(c.instances) for timed in by_rule.values() for c, _ in timed]
        requests = min((int(moments.n[moments.arm == a].sum()) for a in range(len(cells.arms))), default=0)
        return cls(by_rule, requests / max(seconds, 1), max(fewest, default=0), _compare_unpaired(cells))


def _compare_unpaired(cells: Cells) -> float:
    """Variance of the difference of two arms that do not run together, divided by that of two that do.

    It comes from the drift of the arms' mean response times over the run: a shared drift no longer cancels.
    """
    moments = cells.moments
    if not moments.run.size or len(cells.arms) < 2:
        return 1.0
    _, slot = np.unique(np.stack([moments.run, moments.bucket]), axis=1, return_inverse=True)
    sums = np.zeros((2, int(slot.max()) + 1))
    counts = np.zeros_like(sums)
    pair = moments.arm < 2
    np.add.at(sums, (moments.arm[pair], slot[pair]), moments.sum_us[pair])
    np.add.at(counts, (moments.arm[pair], slot[pair]), (moments.n - moments.failures)[pair])
    both = (counts > 0).all(axis=0) & (sums > 0).all(axis=0)
    if both.sum() < MIN_BUCKETS:
        return 1.0
    logs = np.log(sums[:, both] / counts[:, both])
    together = float(np.var(logs[1] - logs[0]))
    return max(1.0, float(logs.var(axis=1).sum()) / together) if together > 0 else 1.0


def _pool(rule: Rule, timed: Sequence[_TimedComparison], rulebook: Rulebook) -> Precision:
    """One precision from all comparisons of a gate."""
    parts = [_take_apart(c, lasted) for c, lasted in timed]
    seconds = float(np.mean([lasted for _, lasted in timed]))
    baseline = float(np.mean([c.baseline.value or 0.0 for c, _ in timed]))
    moving = float(np.mean([part[0] * lasted for part, (_, lasted) in zip(parts, timed, strict=True)])) / seconds
    return Precision(
        rule=rule,
        unit=timed[-1][0].unit,
        baseline=baseline,
        moving=moving,
        reference_s=seconds,
        between=float(np.mean([part[1] for part in parts])),
        prior=_assume_prior(rule, baseline, rulebook),
        within=float(np.mean([part[2] for part in parts])),
    )


def _take_apart(c: Comparison, seconds: float) -> tuple[float, float, float]:
    """Moving variance, variance of one instance, and the share of the moving part that is within instances."""
    variance = (c.se or 0.0) ** 2
    from_instances = min(c.persistent_share, 1.0) * variance
    moving = variance - from_instances
    units = [max(count, 1) for count in c.instances]
    between = from_instances / (1 / units[0] + 1 / units[1])
    df_inst = float(sum(units) - 2) if min(units) >= 2 else PRIOR_DF
    df_time = _time_df(max(int(seconds // choose_bucket_s(seconds)), MIN_BUCKETS))
    shares = np.linspace(0, 1, 101)
    spread = (from_instances + shares * moving) ** 2 / df_inst + ((1 - shares) * moving) ** 2 / df_time
    implied = variance**2 / np.maximum(spread, 1e-300)
    within = float(shares[np.argmin(np.abs(implied - min(c.df or df_time, 1e9)))])
    return moving, between, within


def _assume_prior(rule: Rule, baseline: float, rulebook: Rulebook) -> float:
    """Variance assumed for a single instance, as the judge does (method B.3a)."""
    if not rule.metric.is_failure_rate:
        return rulebook.prior.sd_latency**2
    sd = max(baseline / 2, rulebook.prior.sd_failures)
    relative = rule.margin is not None and rule.margin.relative
    return (sd / max(baseline, 1e-12)) ** 2 if relative else sd**2


def assume_history(rulebook: Rulebook, *, rate_per_s: float, instances: int, seed: int = 1) -> History:
    """A history of simulated releases: the default service of `Scenario` at this rate, whose instances differ by 1 %.

    Rules for single endpoints are measured over all endpoints, as an assumed service has other ones.
    """
    anywhere = tuple(replace(rule, slice=replace(rule.slice, endpoint=None)) for rule in rulebook.rules)
    scenario = Scenario(duration_s=SIMULATED_S, rate_per_s=rate_per_s, instances=(max(instances, 2),))
    run = (Run("assumed", "assumed", "assumed", "import", state=RunState.COMPLETE),)
    stored = [(simulate_cells(scenario, seed * 1000 + k), run) for k in range(SIMULATED)]
    history = learn_precisions(stored, replace(rulebook, rules=anywhere))
    return replace(history, assumed=True, comparisons=0, rate_per_s=rate_per_s, instances=instances)
