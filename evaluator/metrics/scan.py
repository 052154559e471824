"""The endpoint scan: every endpoint by itself, to find a regression that an average hides (method B.5).

It can only prevent a GO: NO-GO beyond the scan's margins, no GO beyond what is tolerated for a single endpoint.
Endpoints with too few requests are judged together as `other endpoints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluator.metrics.base import EndpointMetric, Pair, answer
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, TypicalTime
from evaluator.records import Comparison, Margin, Role, Rule, Scan, Slice
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.estimate import Estimate, GroupAnswers, Tolerance
from evaluator.stats.shaping.groups import Groups, group_by
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS
from evaluator.stats.variance.longrun import MIN_BUCKETS

MIN_FOR_TIME = 60
MIN_FOR_FAILURES = 20
PLAUSIBLE = 0.5
"""Below this p-value the estimate lies beyond its bound."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Comparisons, and the endpoints that the endpoint scan could not judge."""

    comparisons: tuple[Comparison, ...] = ()
    """In the order of arms, the policy's rules and the scan's rows."""
    unjudged_share: float = 0.0
    """Largest share of traffic of any candidate on endpoints that the scan could not judge."""
    unjudged: tuple[str, ...] = ()


def scan_endpoints(pair: Pair, scan: Scan, rules: Sequence[Rule] = (), answers: Sequence[Comparison] = ()) -> Measured:
    """Compare response time and failure rate of every endpoint, each against the scan's own margin.

    `rules`: those of the policy. Their gates set what is tolerated for an endpoint, if the scan itself does not.
    `answers`: the comparisons by these rules. Nothing is compared if the scan is off or the data are too short.
    """
    if not scan.enabled or pair.panel.slots < MIN_BUCKETS:
        return Measured()
    times = _compare_times(pair, scan, rules)
    failures = _compare_failures(pair, scan, rules)
    measured = _find_unjudged(pair, (*times, *failures))
    return replace(measured, unjudged_share=0.0, unjudged=()) if _is_judged_by_gate(pair, answers) else measured


def _is_judged_by_gate(pair: Pair, answers: Sequence[Comparison]) -> bool:
    """Is there a single endpoint whose response time a gate or hold of the policy judges?

    Few runs of a benchmark have too few requests for the scan. The gate sees all of them, so the scan is not missed.
    """
    return len(pair.panel.endpoints) == 1 and any(
        answer.must_be_within and answer.rule.metric.is_response_time and not answer.no_data for answer in answers
    )


def _compare_failures(pair: Pair, scan: Scan, rules: Sequence[Rule]) -> tuple[Comparison, ...]:
    """Compare the failure rate of every endpoint with enough requests; the other endpoints together."""
    scan_rule = _build_scan_rule(FailureRate(), Margin(scan.failure_margin, relative=False))
    groups = _group_endpoints(pair, pair.panel.n, MIN_FOR_FAILURES)
    if not groups.names:
        return ()
    tolerated = _find_tolerance(groups.names, scan.failure_tolerance, scan.failure_margin, scan_rule, rules)
    return _answer_groups(pair, scan_rule, groups, _estimate(pair, scan_rule, groups, tolerated))


@dataclass(frozen=True, slots=True)
class _ScanRule:
    """The rule for every endpoint: one metric against the margin of the scan."""

    metric: EndpointMetric
    rule: Rule


def _build_scan_rule(metric: EndpointMetric, margin: Margin) -> _ScanRule:
    """Build the rule of a metric for every endpoint; it is a gate against the scan's margin."""
    return _ScanRule(metric, Rule(metric.type, metric, Role.GATE, margin))


@dataclass(frozen=True, slots=True)
class _EndpointGroups:
    """Endpoints with enough requests, each by itself, and the others together if they have enough."""

    names: tuple[str, ...]
    """Name of each group: an endpoint, or `OTHER_ENDPOINTS`."""
    members: Groups

    def pick(self, chosen: BoolArray) -> _EndpointGroups:
        """Keep the groups where `chosen` (groups,) is true."""
        names = tuple(name for name, is_chosen in zip(self.names, chosen, strict=True) if is_chosen)
        return _EndpointGroups(names, self.members.pick(chosen))


def _group_endpoints(pair: Pair, requests: FloatArray, least: int) -> _EndpointGroups:
    """Group the endpoints: each with at least `least` requests on both arms by itself, the others together.

    The others are left out if they are too few even together. `requests`: those that are counted, shape (2, endpoints,
    slots).
    """
    fewest = requests.sum(axis=2).min(axis=0)  # of each endpoint, on the arm with fewer of them
    has_enough = fewest >= least
    names = [name for name, is_enough in zip(pair.panel.endpoints, has_enough, strict=True) if is_enough]
    # Number of the group of each endpoint: endpoints with enough requests are numbered 0, 1, …; -1: in no group.
    group_numbers = np.where(has_enough, np.cumsum(has_enough) - 1, -1)
    if fewest[~has_enough].sum() >= least:
        # The panel may have this endpoint already, from rare endpoints that were pooled before.
        if OTHER_ENDPOINTS not in names:
            names.append(OTHER_ENDPOINTS)
        group_numbers[~has_enough] = names.index(OTHER_ENDPOINTS)
    return _EndpointGroups(tuple(names), group_by(group_numbers))


def _find_tolerance(
    names: Sequence[str], share: float | None, most: float, scan_rule: _ScanRule, rules: Sequence[Rule]
) -> Tolerance:
    """Find what is tolerated: the scan's tolerance, else the widest margin of the gates on such metrics.

    Gates of an endpoint count for it alone, those of all traffic for the other endpoints. Where no gate has a margin
    (for an endpoint, or for all traffic), the margins of holds count; without any, the scan's own margin is tolerated.

    Args:
        names: The groups, endpoints or `OTHER_ENDPOINTS`.
        share: The scan's tolerance; `None`: the scan sets none.
        most: The scan's margin, which is also the largest tolerance.
        scan_rule: The rule for every endpoint; absolute tolerances for failure rates, relative ones for times.
        rules: Those of the policy.
    """
    absolute = scan_rule.metric.is_failure_rate
    if share is not None:
        shares, zeros = np.full(len(names), share), np.zeros(len(names))
        return Tolerance(zeros, shares, most) if absolute else Tolerance(shares, zeros, most)
    margins: dict[str | None, list[Margin]] = {}  # by endpoint; `None`: all traffic
    for role in (Role.GATE, Role.HOLD):
        margins_of_role: dict[str | None, list[Margin]] = {}
        for rule in rules:
            same_kind = rule.metric.is_failure_rate if absolute else rule.metric.is_response_time
            same_evidence = rule.evidence is scan_rule.rule.evidence
            if rule.role is role and same_kind and same_evidence and rule.margin is not None:
                margins_of_role.setdefault(rule.slice.endpoint, []).append(rule.margin)
        margins = {**margins_of_role, **margins}  # margins of gates replace those of holds
    default = [Margin(most, relative=not absolute)]
    margins_by_group = [margins.get(name, margins.get(None, default)) for name in names]
    return Tolerance(
        relative=np.array([_find_widest(listed, relative=True) for listed in margins_by_group], float),
        absolute=np.array([_find_widest(listed, relative=False) for listed in margins_by_group], float),
        most=most,
    )


def _find_widest(margins: Sequence[Margin], *, relative: bool) -> float:
    """The widest of the relative margins, or of the absolute ones; 0 if there is none of that kind."""
    return max((margin.value for margin in margins if margin.relative is relative), default=0.0)


def _compare_times(pair: Pair, scan: Scan, rules: Sequence[Rule]) -> tuple[Comparison, ...]:
    """Compare the response time of every endpoint with enough successes; the other endpoints together.

    It is compared by the geometric mean, or by the mean if that rose by more than half of the margin and shows more
    harm.
    """
    typical_rule = _build_scan_rule(TypicalTime(), Margin(scan.margin))
    mean_rule = _build_scan_rule(LatencyMean(), Margin(scan.margin))
    groups = _group_endpoints(pair, pair.panel.ok, MIN_FOR_TIME)
    if not groups.names:
        return ()
    sums_ms = groups.members.sum_totals(pair.panel.totals["time_ms"].sum(axis=2))  # shape (2, groups)
    successes = groups.members.sum_totals(pair.panel.ok.sum(axis=2))
    # Shape (groups,): did the mean of the candidate rise by more than half of the margin?
    mean_rose = sums_ms[1] / successes[1] > (1 + scan.margin / 2) * sums_ms[0] / successes[0]
    tolerated = _find_tolerance(groups.names, scan.tolerance, scan.margin, typical_rule, rules)
    comparisons, typical_ranks = _compare_with_rank(pair, typical_rule, groups, tolerated)
    # The same for the groups whose mean rose; `index` is the number of such a group among all groups.
    tolerated_of_means = Tolerance(tolerated.relative[mean_rose], tolerated.absolute[mean_rose], tolerated.most)
    by_mean, mean_ranks = _compare_with_rank(pair, mean_rule, groups.pick(mean_rose), tolerated_of_means)
    for comparison, mean_rank, index in zip(by_mean, mean_ranks, np.flatnonzero(mean_rose), strict=True):
        if mean_rank < typical_ranks[index]:  # a lower rank is more harm
            comparisons[index] = comparison
    return tuple(comparisons)


def _compare_with_rank(
    pair: Pair, scan_rule: _ScanRule, groups: _EndpointGroups, tolerated: Tolerance
) -> tuple[list[Comparison], FloatArray]:
    """Compare the response time of each group by one of two metrics. Returns the comparisons and their ranks (groups,).

    `scan_rule` has the metric: the geometric mean or the mean. The geometric mean shows that all requests became
    slower, the mean that a few of them now hang; the caller takes the comparison with the lower rank. As two metrics
    are compared, p-values of harm are doubled. An estimate beyond the margin ranks before one that is not; of two that
    are not, that with the smaller p-value of "worse than is tolerated" ranks first. An estimate that is not finite
    ranks last.
    """
    if not groups.names:
        return [], np.ones(0)
    estimate = _estimate(pair, scan_rule, groups, tolerated)
    margin = estimate.against_margin
    tolerance = estimate.against_tolerance or estimate.against_zero  # never None here, as `tolerated` was given
    is_finite = np.isfinite(estimate.baseline + margin.p_worse + margin.p_within + tolerance.p_worse)
    doubled = replace(
        estimate,
        against_margin=_double(margin),
        against_zero=_double(estimate.against_zero),
        against_tolerance=_double(tolerance),
    )
    # p-values are between 0 and 1, and PLAUSIBLE is the p-value of an estimate exactly at its bound.
    harm_rank = np.where(margin.p_worse < PLAUSIBLE, margin.p_worse, PLAUSIBLE + tolerance.p_worse)
    # Ranks of finite estimates are below 1 + PLAUSIBLE.
    return [*_answer_groups(pair, scan_rule, groups, doubled)], np.where(is_finite, harm_rank, 1 + PLAUSIBLE)


def _double(answers: GroupAnswers) -> GroupAnswers:
    """The answers with doubled p-values of harm: Bonferroni's correction for two metrics."""
    return replace(answers, p_worse=np.minimum(2 * answers.p_worse, 1.0))


def _estimate(pair: Pair, scan_rule: _ScanRule, groups: _EndpointGroups, tolerated: Tolerance) -> Estimate:
    """Estimate the metric of all groups at once; groups without enough data have results that are not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return scan_rule.metric.estimate(replace(pair, groups=groups.members, tolerance=tolerated), scan_rule.rule)


def _answer_groups(
    pair: Pair, scan_rule: _ScanRule, groups: _EndpointGroups, estimate: Estimate
) -> tuple[Comparison, ...]:
    """Turn the estimate into a comparison for each group, in the order of the groups."""
    counted = groups.members.sum_totals(scan_rule.metric.counted(pair.panel).sum(axis=2))  # shape (2, groups)
    baseline, candidate = counted.astype(int).tolist()
    method = f"endpoint scan, {pair.design.kind}"
    return tuple(
        answer(
            pair,
            replace(scan_rule.rule, slice=Slice(name)),
            estimate,
            method=method,
            n=(baseline[group], candidate[group]),
            group=group,
            scan=True,
        )
        for group, name in enumerate(groups.names)
    )


def _find_unjudged(pair: Pair, comparisons: tuple[Comparison, ...]) -> Measured:
    """Find the endpoints that the scan could not judge, and their share of traffic; keep only comparisons with data.

    An endpoint is judged by its response time (its own or that of the other endpoints together), or by its own failure
    rate.
    """
    with_data = tuple(comparison for comparison in comparisons if not comparison.no_data)
    rules = [comparison.rule for comparison in with_data]
    judged_by_time = {rule.slice.endpoint for rule in rules if rule.metric.is_response_time}
    judged_by_failures = {rule.slice.endpoint for rule in rules if rule.metric.is_failure_rate}
    too_few = pair.panel.ok.sum(axis=2).min(axis=0) < MIN_FOR_TIME  # these endpoints are judged together
    requests = pair.panel.n.sum(axis=(0, 2))
    # Name and requests of both arms.
    unjudged = [
        (name, total)
        for name, total, is_together in zip(pair.panel.endpoints, requests, too_few, strict=True)
        if (OTHER_ENDPOINTS if is_together else name) not in judged_by_time and name not in judged_by_failures
    ]
    share = sum(total for _, total in unjudged) / max(requests.sum(), 1)
    return Measured(with_data, float(share), tuple(name for name, _ in unjudged))
