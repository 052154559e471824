"""The endpoint scan: every endpoint by itself, to find the one that an average hides (method B.5).

It can only veto. Endpoints with too few requests are judged together as `other`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluator.metrics.base import Pair, answer
from evaluator.records import Comparison, Direction, Margin, Role, Rule, Scan, Slice
from evaluator.stats.estimate import Asked, Estimate
from evaluator.stats.failures import compare_failures
from evaluator.stats.longrun import MIN_BUCKETS
from evaluator.stats.means import compare_means
from evaluator.stats.typical import compare_typical_times

__all__ = ["OTHER", "Scanned", "scan_endpoints"]

FloatArray = npt.NDArray[np.float64]

OTHER = "other endpoints"
TYPICAL = "latency_typical"
"""Type of the rows that compare geometric means of response times."""
MIN_FOR_TIME = 60
MIN_FOR_FAILURES = 20
Compute = Callable[..., Estimate]
"""`compare_means` and its like: they take the same questions."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """Rows of the scan, and what it could not judge."""

    comparisons: tuple[Comparison, ...] = ()
    unjudged_share: float = 0.0
    unjudged: tuple[str, ...] = ()


def scan_endpoints(pair: Pair, scan: Scan) -> Scanned:
    """Response time and failure rate of every endpoint, each against the scan's own margin."""
    if not scan.enabled or pair.panel.slots < MIN_BUCKETS:
        return Scanned()
    failures = Rule(
        "failure_rate", "failure_rate", Role.GATE, Margin(scan.failure_margin, relative=False), Direction.LOWER
    )
    of_failures = _group(pair, pair.panel.n, MIN_FOR_FAILURES)
    return _with_unjudged(pair, (*_compare_times(pair, scan), *_compare(pair, failures, of_failures, compare_failures)))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Endpoints with enough requests, each by itself, and the rest together if they have enough."""

    names: tuple[str, ...]
    members: FloatArray
    """(groups, endpoints) of 0 and 1."""

    def pick(self, chosen: npt.NDArray[np.bool_]) -> _Groups:
        """Some of them."""
        return _Groups(tuple(name for name, yes in zip(self.names, chosen, strict=True) if yes), self.members[chosen])


def _group(pair: Pair, requests: FloatArray, least: int) -> _Groups:
    count = requests.sum(axis=2).min(axis=0)
    enough = count >= least
    names = [name for name, yes in zip(pair.panel.endpoints, enough, strict=True) if yes]
    members = np.eye(enough.size)[enough]
    if count[~enough].sum() >= least:
        members = np.vstack([members, (~enough).astype(float)])
        names.append(OTHER)
    return _Groups(tuple(names), members)


def _compare_times(pair: Pair, scan: Scan) -> tuple[Comparison, ...]:
    """By the typical time, or by the mean where that rose by more than half of the margin and is surer."""
    typical, mean = (
        Rule(name, name, Role.GATE, Margin(scan.margin), Direction.LOWER) for name in (TYPICAL, "latency_mean")
    )
    groups = _group(pair, pair.panel.ok, MIN_FOR_TIME)
    total = pair.panel.sum_ms.sum(axis=2) @ groups.members.T / (pair.panel.ok.sum(axis=2) @ groups.members.T)
    rose = total[1] > (1 + scan.margin / 2) * total[0]
    rows, surely = _ask_twice(pair, typical, groups, compare_typical_times)
    means, mean_surely = _ask_twice(pair, mean, groups.pick(rose), compare_means)
    for row, p_mean, place in zip(means, mean_surely, np.flatnonzero(rose), strict=True):
        if p_mean < surely[place]:
            rows[place] = row
    return tuple(rows)


def _ask_twice(pair: Pair, rule: Rule, groups: _Groups, compute: Compute) -> tuple[list[Comparison], FloatArray]:
    """One of two answers on each group's response time, and its p-value: the surer of "worse" is the one to take.

    The typical time shows that all requests became slower, the mean that a few of them now hang. Two are asked, so
    the p-values of the answers are doubled.
    """
    if not groups.names:
        return [], np.ones(0)
    estimate = _estimate(pair, rule, groups, compute)
    margin, zero = estimate.against_margin, estimate.against_zero
    known = np.isfinite(estimate.baseline + margin.p_worse + margin.p_within)
    doubled = replace(estimate, against_margin=_double(margin), against_zero=_double(zero))
    return [*_rows(pair, rule, groups, doubled)], np.where(known, margin.p_worse, 1.0)


def _double(asked: Asked) -> Asked:
    return replace(asked, p_worse=np.minimum(2 * asked.p_worse, 1.0))


def _compare(pair: Pair, rule: Rule, groups: _Groups, compute: Compute) -> tuple[Comparison, ...]:
    """One comparison for each group."""
    return _rows(pair, rule, groups, _estimate(pair, rule, groups, compute)) if groups.names else ()


def _estimate(pair: Pair, rule: Rule, groups: _Groups, compute: Compute) -> Estimate:
    of_failures = rule.type == "failure_rate"
    with np.errstate(divide="ignore", invalid="ignore"):
        return compute(
            pair.panel,
            pair.design,
            alpha=pair.alpha,
            margin=rule.margin,
            sd_instance=pair.prior.sd_failures if of_failures else pair.prior.sd_latency,
            groups=groups.members,
            depth=pair.depth,
        )


def _rows(pair: Pair, rule: Rule, groups: _Groups, estimate: Estimate) -> tuple[Comparison, ...]:
    of_failures = rule.type == "failure_rate"
    per_arm = (pair.panel.n if of_failures else pair.panel.ok).sum(axis=2) @ groups.members.T
    counts = per_arm.T.astype(int).tolist()
    unit = "fraction" if of_failures else "ms"
    return tuple(
        _row(pair, rule, estimate, unit, name, (counts[g][0], counts[g][1]), g) for g, name in enumerate(groups.names)
    )


def _row(
    pair: Pair, rule: Rule, estimate: Estimate, unit: str, name: str, n: tuple[int, int], group: int
) -> Comparison:
    sliced = Rule(rule.name, rule.type, rule.role, rule.margin, rule.direction, rule.limit, None, Slice(name))
    method = f"endpoint scan, {pair.design.kind}"
    return answer(pair, sliced, estimate, unit=unit, method=method, n=n, group=group, scan=True)


def _with_unjudged(pair: Pair, rows: tuple[Comparison, ...]) -> Scanned:
    """Keep what could be judged; name the endpoints whose response time could not, and their share of traffic."""
    judged = {row.rule.slice.endpoint for row in rows if row.unit == "ms" and not row.no_data}
    failing = {row.rule.slice.endpoint for row in rows if row.rule.type == "failure_rate" and not row.no_data}
    small = _pooled(pair)
    totals = pair.panel.n.sum(axis=(0, 2))
    unjudged = [
        (name, total)
        for name, total, pooled in zip(pair.panel.endpoints, totals, small, strict=True)
        if (OTHER if pooled else name) not in judged and name not in failing
    ]
    share = sum(total for _, total in unjudged) / max(totals.sum(), 1)
    return Scanned(tuple(row for row in rows if not row.no_data), float(share), tuple(name for name, _ in unjudged))


def _pooled(pair: Pair) -> npt.NDArray[np.bool_]:
    """Which endpoints have too few successes to be judged by themselves."""
    return np.asarray(pair.panel.ok.sum(axis=2).min(axis=0) < MIN_FOR_TIME)
