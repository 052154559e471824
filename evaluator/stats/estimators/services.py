"""Compare several services together: one question over all of them, at one error rate (method B.9).

A shared library that makes each of ten services 3 % slower may be seen in none of them, and in all of them together:
the error of the mean change is a third of that of one service. Services that are released at the same time also share
what happens at that time, such as a slow database. So their errors are added bucket by bucket before their variance
over time is estimated: what moves them together then counts as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import Spread
from evaluator.stats.estimators.typical import TypicalTimes, measure_typical_times
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import LEAST_COMPARISONS, InstanceHistory
from evaluator.stats.variance.longrun import MIN_BUCKETS, time_variance
from evaluator.stats.variance.uncertainty import PRIOR_DF, Design, InstancePart, Uncertainty, add_time, find_instance_df


@dataclass(frozen=True, slots=True)
class JointChange:
    """Mean relative change of the geometric means of several services, each of which counts the same."""

    effect: float
    """0.03: the services are 3 % slower in the (geometric) mean."""
    lower: float
    upper: float
    """Ends of the interval that leaves out alpha on each side."""
    p_worse: float
    """Small: it is shown to be beyond the margin."""
    p_within: float
    """Small: it is shown to be within the margin."""
    by_service: Mapping[str, float]
    """Change of each service."""
    se: float
    """Standard error of the log ratio."""


@dataclass(frozen=True, slots=True)
class ServicePanel:
    """The requests of one service: baseline and candidate, in one run."""

    panel: Panel
    design: Design
    sd_instance: float
    """Relative standard deviation assumed for an arm with a single instance."""


def explain_missing(service: str, part: ServicePanel | None) -> str | None:
    """Say why a service cannot be compared together with others; `None`: it can."""
    if part is None:
        return f"{service} has no requests that can be compared"
    if part.design.kind == "replicates" or part.panel.runs.size != 1:
        return f"{service} was recorded in several runs"
    if part.panel.slots < MIN_BUCKETS:
        return f"{service} has only {part.panel.slots * part.panel.bucket_s} s of usable data"
    if not (part.panel.ok.sum(axis=(1, 2)) > 0).all():
        return f"{service} has no successes on one side"
    return None


def compare_services(services: Mapping[str, ServicePanel], *, alpha: float, margin: float) -> JointChange:
    """Compare the geometric means of several services together.

    Their changes have the same weight, however many requests a service has: the question is whether the release made
    services slower, not whether the busiest one did. Instances of different services are independent; what they share
    in time is measured.

    Args:
        services: Name → its requests; for each, `explain_missing` has returned `None`.
        alpha: One-sided level of the interval.
        margin: Largest relative harm that is tolerated, such as 0.01.
    """
    measured = {name: _measure(part) for name, part in services.items()}
    count = len(measured)
    changes = {name: float(times.log_ratio.value[0]) for name, times in measured.items()}
    theta = np.array([sum(changes.values()) / count])
    doubt = sum(float(times.find_doubt()[0]) for times in measured.values()) / count
    uncertainty = _find_uncertainty(measured)
    bound = math.log1p(margin)
    p_worse, _ = uncertainty.p_values(theta - bound - doubt)
    _, p_within = uncertainty.p_values(theta - bound + doubt)
    widest = uncertainty.find_widest(alpha)
    half_width = float(widest.half_width[0]) + doubt
    is_coarse = doubt > 0 and doubt >= bound > 0  # rounding alone may be as large as the margin
    return JointChange(
        effect=math.expm1(theta[0]),
        lower=math.expm1(theta[0] - half_width),
        upper=math.expm1(theta[0] + half_width),
        p_worse=1.0 if is_coarse else float(p_worse[0]),
        p_within=1.0 if is_coarse else float(p_within[0]),
        by_service={name: math.expm1(change) for name, change in changes.items()},
        se=float(widest.se[0]),
    )


def _measure(part: ServicePanel) -> TypicalTimes:
    """Measure the geometric means of a service, over all its endpoints."""
    groups = all_together(len(part.panel.endpoints))
    return measure_typical_times(part.panel, part.design, sd_instance=part.sd_instance, groups=groups)


def _find_uncertainty(measured: Mapping[str, TypicalTimes]) -> Uncertainty:
    """Find the uncertainty of the mean change: shared over time, independent between the instances of services."""
    time = time_variance(_add_influences([*measured.values()])[None, :])
    spreads = [times.find_spread() for times in measured.values()]
    uncertainty = add_time(time, _join_instances(spreads), _join_histories(spreads))
    # Slow drift makes the variance over time too small, which the quantile of few degrees of freedom makes up for. The
    # instances of many services would make it look certain: it has at most the degrees of freedom of a single one.
    alone = [times.find_spread().find_uncertainty(times.log_ratio)[1] for times in measured.values()]
    most = np.max([single.df for single in alone], axis=0)
    return replace(uncertainty, df=np.minimum(uncertainty.df, most))


def _add_influences(measured: list[TypicalTimes]) -> FloatArray:
    """Add the influences of all services on their mean, in the buckets that they share: shape (buckets,).

    Services with finer buckets than others are added up to the coarsest.
    """
    bucket_s = max(times.strata.panel.bucket_s for times in measured)
    buckets, errors = [], []
    for times in measured:
        panel = times.strata.panel
        start_s = (panel.origin + panel.offset) * panel.bucket_s
        buckets.append(start_s // bucket_s)
        errors.append(times.log_ratio.influence[0] / panel.slots)  # they sum to the error of the service
    present, place = np.unique(np.concatenate(buckets), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate(errors), minlength=present.size)
    return np.asarray(total * present.size / len(measured))


def _join_instances(spreads: list[Spread]) -> InstancePart:
    """Find what the instances of all services add to the variance of the mean change.

    Those of different services are independent, so their variances are added, with degrees of freedom by Satterthwaite
    (1946). One assumption stands behind all variances that are assumed for a single instance, so these are wrong
    together: their sum has the degrees of freedom of one.
    """
    assumed: list[tuple[float, float]] = []  # pairs of a variance and its degrees of freedom
    terms: list[tuple[float, float]] = []
    within = 0.0
    for spread in spreads:
        instances, prior = spread.instances, spread.prior
        if instances is None or prior is None:
            raise ValueError("runs are replicated, not instances")
        is_measured = np.isfinite(instances.variance)
        by_arm = np.where(is_measured, instances.variance, prior)
        df = float(find_instance_df(by_arm, is_measured, instances.effective)[0])
        (terms if is_measured.all() else assumed).append((float(by_arm.sum()), df))
        within += float(np.where(is_measured, instances.within, 0.0).sum())
    if assumed:
        terms.append((sum(variance for variance, _ in assumed), min(df for _, df in assumed)))
    total = sum(variance for variance, _ in terms)
    denominator = sum(variance**2 / df for variance, df in terms)
    df = total**2 / denominator if denominator > 0 else PRIOR_DF
    squared_count = len(spreads) ** 2
    return InstancePart(np.array([total / squared_count]), np.array([within / squared_count]), np.array([df]))


def _join_histories(spreads: list[Spread]) -> InstanceHistory | None:
    """Join what earlier runs showed of whole arms, which one run does not show.

    It may be shared by all services, such as newer machines for all candidates, so it is not averaged away. Services
    without such a history add nothing, as when they are judged alone.
    """
    deviations, comparisons = [], []
    for spread in spreads:
        history = spread.history
        if history is None or history.between_arms is None or history.between_arms_count < LEAST_COMPARISONS:
            continue
        deviations.append(math.sqrt(float(history.between_arms[0])))
        comparisons.append(history.between_arms_count)
    if not deviations:
        return None
    between = np.array([(sum(deviations) / len(spreads)) ** 2])
    return InstanceHistory(np.zeros(1), count=0, between_arms=between, between_arms_count=min(comparisons))
