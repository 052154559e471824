"""The endpoint scan: every endpoint by itself, to find a regression that an average hides (method B.5).

It can only prevent a GO: NO-GO beyond the scan's margins, no GO beyond what is tolerated for a single endpoint.
Endpoints with too few requests are judged together as `other endpoints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def scan_endpoints(pair: Pair, scan: Scan, rules: Sequence[Rule] = ()) -> Measured:
    """Compare response time and failure rate of every endpoint, each against the scan's own margin.

    `rules`: those of the policy. Their gates set what is tolerated for an endpoint, if the scan itself does not.
    """
    if not scan.enabled or pair.panel.slots < MIN_BUCKETS:
        return Measured()
    failures = _build_scan_rule(FailureRate(), Margin(scan.failure_margin, relative=False))
    groups = _group(pair, pair.panel.n, MIN_FOR_FAILURES)
    tolerated = _find_tolerance(groups.names, scan.failure_tolerance, scan.failure_margin, failures, rules)
    rows = _rows(pair, failures, groups, _estimate(pair, failures, groups, tolerated)) if groups.names else ()
    return _with_unjudged(pair, (*_compare_times(pair, scan, rules), *rows))


@dataclass(frozen=True, slots=True)
class _ScanRule:
    """The rule for every endpoint: one metric against the margin of the scan."""

    metric: EndpointMetric
    rule: Rule


def _build_scan_rule(metric: EndpointMetric, margin: Margin) -> _ScanRule:
    return _ScanRule(metric, Rule(metric.type, metric, Role.GATE, margin))


@dataclass(frozen=True, slots=True)
class _EndpointGroups:
    """Endpoints with enough requests, each by itself, and the rest together if they have enough."""

    names: tuple[str, ...]
    members: Groups

    def pick(self, chosen: BoolArray) -> _EndpointGroups:
        """Some of them."""
        names = tuple(name for name, yes in zip(self.names, chosen, strict=True) if yes)
        return _EndpointGroups(names, self.members.pick(chosen))


def _group(pair: Pair, requests: FloatArray, least: int) -> _EndpointGroups:
    count = requests.sum(axis=2).min(axis=0)
    enough = count >= least
    names = [name for name, yes in zip(pair.panel.endpoints, enough, strict=True) if yes]
    of = np.where(enough, np.cumsum(enough) - 1, -1)
    if count[~enough].sum() >= least:
        if OTHER_ENDPOINTS not in names:
            names.append(OTHER_ENDPOINTS)
        of[~enough] = names.index(OTHER_ENDPOINTS)
    return _EndpointGroups(tuple(names), group_by(of))


def _find_tolerance(
    names: Sequence[str], share: float | None, most: float, scan_rule: _ScanRule, rules: Sequence[Rule]
) -> Tolerance:
    """What is tolerated for each endpoint: the scan's tolerance, else the widest margin of the gates on such metrics.

    Gates of an endpoint count for it alone, those of all traffic for the other endpoints. If no gate has a margin, the
    margins of holds count. If no hold has one either, the scan's own margin is tolerated.
    """
    absolute = scan_rule.metric.is_failure_rate
    if share is not None:
        shares = np.full(len(names), share)
        return Tolerance(
            np.zeros_like(shares) if absolute else shares, shares if absolute else np.zeros_like(shares), most
        )
    margins: dict[str | None, list[Margin]] = {}
    for role in (Role.GATE, Role.HOLD):
        stated: dict[str | None, list[Margin]] = {}
        for rule in rules:
            alike = rule.metric.is_failure_rate if absolute else rule.metric.is_response_time
            if rule.role is role and alike and rule.evidence is scan_rule.rule.evidence and rule.margin is not None:
                stated.setdefault(rule.slice.endpoint, []).append(rule.margin)
        margins = {**stated, **margins}
    of_all = margins.get(None)
    widest = [_widest(margins.get(name, of_all), most, absolute=absolute) for name in names]
    relative, absolute_of = np.array(widest, float).reshape(-1, 2).T
    return Tolerance(relative, absolute_of, most)


def _widest(margins: Iterable[Margin] | None, most: float, *, absolute: bool) -> tuple[float, float]:
    """The widest relative and the widest absolute margin; without any, the scan's own."""
    if margins is None:
        return (0.0, most) if absolute else (most, 0.0)
    listed = [*margins]
    relative, in_unit = (max((m.value for m in listed if m.relative is kind), default=0.0) for kind in (True, False))
    return relative, in_unit


def _compare_times(pair: Pair, scan: Scan, rules: Sequence[Rule]) -> tuple[Comparison, ...]:
    """Compare by the typical time, or by the mean if it rose by more than half of the margin and shows more harm."""
    typical, mean = (_build_scan_rule(metric, Margin(scan.margin)) for metric in (TypicalTime(), LatencyMean()))
    groups = _group(pair, pair.panel.ok, MIN_FOR_TIME)
    if not groups.names:
        return ()
    times_ms, ok = pair.panel.totals["time_ms"], pair.panel.ok
    sums, counts = (groups.members.sum_totals(part.sum(axis=2)) for part in (times_ms, ok))
    mean_rose = sums[1] / counts[1] > (1 + scan.margin / 2) * sums[0] / counts[0]
    tolerated = _find_tolerance(groups.names, scan.tolerance, scan.margin, typical, rules)
    rows, typical_rank = _ask_twice(pair, typical, groups, tolerated)
    tolerated_of_means = Tolerance(tolerated.relative[mean_rose], tolerated.absolute[mean_rose], tolerated.most)
    means, mean_ranks = _ask_twice(pair, mean, groups.pick(mean_rose), tolerated_of_means)
    for row, mean_rank, index in zip(means, mean_ranks, np.flatnonzero(mean_rose), strict=True):
        if mean_rank < typical_rank[index]:
            rows[index] = row
    return tuple(rows)


def _ask_twice(
    pair: Pair, scan_rule: _ScanRule, groups: _EndpointGroups, tolerated: Tolerance
) -> tuple[list[Comparison], FloatArray]:
    """One of two answers on each group's response time, and its rank: the caller takes the answer with the lower rank.

    The typical time shows that all requests became slower, the mean that a few of them now hang. As two metrics are
    compared, p-values are doubled. An answer beyond the margin ranks before one that is not; of two that are not, the
    one with the smaller p-value of more than is tolerated.
    """
    if not groups.names:
        return [], np.ones(0)
    estimate = _estimate(pair, scan_rule, groups, tolerated)
    margin, tolerance = estimate.against_margin, estimate.against_tolerance or estimate.against_zero
    is_finite = np.isfinite(estimate.baseline + margin.p_worse + margin.p_within + tolerance.p_worse)
    doubled = replace(
        estimate,
        against_margin=_double(margin),
        against_zero=_double(estimate.against_zero),
        against_tolerance=_double(tolerance),
    )
    harm_rank = np.where(margin.p_worse < PLAUSIBLE, margin.p_worse, PLAUSIBLE + tolerance.p_worse)
    return [*_rows(pair, scan_rule, groups, doubled)], np.where(is_finite, harm_rank, 1 + PLAUSIBLE)


def _double(answers: GroupAnswers) -> GroupAnswers:
    return replace(answers, p_worse=np.minimum(2 * answers.p_worse, 1.0))


def _estimate(pair: Pair, scan_rule: _ScanRule, groups: _EndpointGroups, tolerated: Tolerance) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        return scan_rule.metric.estimate(replace(pair, groups=groups.members, tolerance=tolerated), scan_rule.rule)


def _rows(pair: Pair, scan_rule: _ScanRule, groups: _EndpointGroups, estimate: Estimate) -> tuple[Comparison, ...]:
    """One comparison for each group."""
    counted = groups.members.sum_totals(scan_rule.metric.counted(pair.panel).sum(axis=2)).T.astype(int).tolist()
    method = f"endpoint scan, {pair.design.kind}"
    return tuple(
        answer(
            pair,
            replace(scan_rule.rule, slice=Slice(name)),
            estimate,
            method=method,
            n=(counted[group][0], counted[group][1]),
            group=group,
            scan=True,
        )
        for group, name in enumerate(groups.names)
    )


def _with_unjudged(pair: Pair, rows: tuple[Comparison, ...]) -> Measured:
    """Keep rows with data; name the endpoints whose response time could not be judged, and their share of traffic."""
    answered = [row.rule for row in rows if not row.no_data]
    judged = {rule.slice.endpoint for rule in answered if rule.metric.is_response_time}
    failing = {rule.slice.endpoint for rule in answered if rule.metric.is_failure_rate}
    small = pair.panel.ok.sum(axis=2).min(axis=0) < MIN_FOR_TIME
    totals = pair.panel.n.sum(axis=(0, 2))
    unjudged = [
        (name, total)
        for name, total, pooled in zip(pair.panel.endpoints, totals, small, strict=True)
        if (OTHER_ENDPOINTS if pooled else name) not in judged and name not in failing
    ]
    share = sum(total for _, total in unjudged) / max(totals.sum(), 1)
    return Measured(tuple(row for row in rows if not row.no_data), float(share), tuple(name for name, _ in unjudged))
