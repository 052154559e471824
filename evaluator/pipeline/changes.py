"""Compare the changes that two verdicts found: how much more did one candidate change each metric than another?

Each change is against a baseline under the same load at the same time. So what differed between the two tests (machine,
day, traffic) changed both arms of each, and largely cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluator.errors import UsageError
from evaluator.pipeline.comparing import Difference, Side, differences
from evaluator.pipeline.runs import choose_runs
from evaluator.records import Comparison, Effect, EvidenceKind, ReleaseSummary, Verdict
from evaluator.stats.inference.differences import Interval, subtract, to_log_ratio
from evaluator.store import Store
from evaluator.wording import quote_command


@dataclass(frozen=True, slots=True)
class ChangePair:
    """One metric in both verdicts."""

    first: Comparison
    second: Comparison
    difference: Effect | None
    """How much further the second changed than the first; None: that is not known."""
    why: str = ""
    """Why the difference is not known."""


def find_previous(summaries: Sequence[ReleaseSummary], release_id: str) -> str | None:
    """Find the candidate of the same service that was judged last before a release; None: it is the first one.

    `summaries`: of all releases. A release that was not judged has none after it: every other one came before it.
    """
    by_id = {summary.release.id: summary for summary in summaries}
    own = by_id[release_id]
    services = {service.name for service in own.release.services}
    earlier = [
        (summary.judged_at, summary.release.id)
        for summary in summaries
        if summary.release.id != release_id
        and summary.judged_at is not None
        and (own.judged_at is None or summary.judged_at < own.judged_at)
        and services & {service.name for service in summary.release.services}
    ]
    return max(earlier)[1] if earlier else None


def find_side_of_verdict(store: Store, verdict: Verdict, arm: str) -> Side:
    """Find the runs whose fingerprints say by which test a verdict came about; it has none without requests."""
    release = store.control.release(verdict.release.id)
    kinds = (EvidenceKind.REQUESTS, EvidenceKind.LIVE)
    runs = tuple(run for run in choose_runs(store.data.runs(release.id), "latest") if run.kind in kinds)
    services = frozenset(service.name for service in release.services)
    return Side(release.id, release.id, services=services, runs=runs, arm=arm)


def list_differences(store: Store, first: Verdict, second: Verdict, arms: tuple[str, str]) -> tuple[Difference, ...]:
    """Compare services and fingerprints of the tests of two verdicts, as `differences`; `arms`: one of each."""
    sides = [find_side_of_verdict(store, verdict, arm) for verdict, arm in zip((first, second), arms, strict=True)]
    return differences(sides[0], sides[1])


def compare_changes(first: Verdict, second: Verdict, arms: tuple[str, str]) -> tuple[ChangePair, ...]:
    """Pair the metrics that both verdicts compared, by name; the scan of all endpoints is left out.

    `arms`: the candidate of each. Raises UsageError if they have no metric in common.
    """
    by_name = {row.rule.name: row for row in first.evidence.comparisons if row.arm == arms[0] and not row.scan}
    pairs = [
        _pair(by_name[row.rule.name], row, first.alpha, second.alpha)
        for row in second.evidence.comparisons
        if row.arm == arms[1] and not row.scan and row.rule.name in by_name
    ]
    if not pairs:
        raise UsageError(
            f"{first.release.id} and {second.release.id} have no metric in common",
            hint=f"judge both by one policy: `{quote_command('verdict', second.release.id)}`",
        )
    return tuple(pairs)


def _pair(first: Comparison, second: Comparison, first_alpha: float, second_alpha: float) -> ChangePair:
    """Pair one metric, and subtract the changes where both are known."""
    if first.effect is None or second.effect is None:
        return ChangePair(first, second, None, "one of them has no data")
    if first.effect.kind != second.effect.kind or first.unit != second.unit or first.rule.metric != second.rule.metric:
        return ChangePair(first, second, None, "it was measured in another way")
    if first_alpha != second_alpha:
        return ChangePair(first, second, None, "their intervals have different levels")
    is_relative = second.effect.kind == "relative"
    parts = [
        Interval(
            *(to_log_ratio(number) if is_relative else number for number in (part.estimate, part.lower, part.upper))
        )
        for part in (first.effect, second.effect)
    ]
    difference = subtract(parts[1], parts[0])
    if not math.isfinite(difference.estimate):
        return ChangePair(first, second, None, "one of them is not a number")
    ends = [math.expm1(number) if is_relative else number for number in difference]
    return ChangePair(first, second, Effect(second.effect.kind, *ends))
