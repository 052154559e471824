"""Compare a candidate with the one that was rejected before: what is still there, what is new, what is fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from evaluator.records import Comparison, HarmChange, HarmState, Iteration, Level, MetricStatus, Role, Rule, Verdict
from evaluator.wording import format_change, name_metric, write_check_name

_Subject = tuple[str, str, str | None]
"""Arm (empty if there is one candidate only), name of the rule, and endpoint. The scan asks for response times by two
metrics and has a row of one of them: they are one subject."""


@dataclass(frozen=True, slots=True)
class _State:
    """What one verdict says of a metric, of a load and of production together."""

    rows: tuple[Comparison, ...]

    @property
    def is_worse(self) -> bool:
        """Is it shown to be worse than allowed?"""
        return any(row.status is MetricStatus.FAIL for row in self.rows)

    @property
    def is_within(self) -> bool:
        """Is it shown to be within what is allowed, by all evidence?"""
        return bool(self.rows) and all(row.status is MetricStatus.PASS for row in self.rows)

    @property
    def decisive(self) -> Comparison | None:
        """The row to show: the one that failed, else one that is open, else the first."""
        ranks = (MetricStatus.FAIL, MetricStatus.INCONCLUSIVE)
        return min(self.rows, key=lambda row: ranks.index(row.status) if row.status in ranks else 2, default=None)


def compare_with_rejected(now: Verdict, rejected: Verdict) -> Iteration:
    """Say of each metric and endpoint that is worse than allowed in either verdict what became of it.

    A harm counts as fixed only if this verdict shows the metric to be within a margin that is not wider, with no health
    check failed: whatever else is not known.
    """
    states_before, states_now = _read_states(rejected), _read_states(now)
    failed_check = next((finding for finding in now.evidence.findings if finding.level is Level.FAIL), None)
    doubt = f"the health check {write_check_name(failed_check.check)} failed" if failed_check else ""
    harms = []
    for subject in dict.fromkeys((*states_before, *states_now)):
        before, after = states_before.get(subject, _State(())), states_now.get(subject, _State(()))
        if not (before.is_worse or after.is_worse):
            continue
        state, why = _find_state(before, after, doubt)
        row = next(iter((*after.rows, *before.rows)))  # one of them has rows, because one is worse
        harms.append(
            HarmChange(
                metric=name_metric(row.rule),
                endpoint=row.rule.slice.endpoint,
                arm=row.arm,
                state=state,
                before=_write_change(before),
                now=_write_change(after),
                why=why,
            )
        )
    order = get_args(HarmState)
    harms.sort(key=lambda harm: (order.index(harm.state), harm.endpoint is not None))
    return Iteration(rejected.release.id, rejected.judged_at, tuple(harms), _have_other_baselines(now, rejected))


def _read_states(verdict: Verdict) -> Mapping[_Subject, _State]:
    """Group the comparisons of a verdict by what they are about; metrics that decide nothing are left out."""
    rows = [row for row in verdict.evidence.comparisons if row.rule.role is not Role.WATCH]
    is_single = len({row.arm for row in rows}) == 1
    by_subject: dict[_Subject, list[Comparison]] = {}
    for row in rows:
        name = row.rule.name
        if row.scan:
            name = "scan of failures" if row.rule.metric.is_failure_rate else "scan of response times"
        by_subject.setdefault(("" if is_single else row.arm, name, row.rule.slice.endpoint), []).append(row)
    return {subject: _State(tuple(found)) for subject, found in by_subject.items()}


def _find_state(before: _State, after: _State, doubt: str) -> tuple[HarmState, str]:
    """Find what became of a harm, and why that is not known; `doubt`: why nothing is shown to be within now."""
    if after.is_worse:
        if before.is_worse:
            return "still", ""
        return ("new", "") if before.is_within else ("shown_first", "")
    if not after.rows:
        return "not_known", "it was not compared"
    if not after.is_within:
        row = after.decisive
        return "not_known", "it has no data" if row is not None and row.no_data else ""
    if doubt:
        return "not_known", doubt
    return _find_fixed(before.rows, after.rows)


def _find_fixed(before: Sequence[Comparison], after: Iterable[Comparison]) -> tuple[HarmState, str]:
    """Say whether being within now is a repair: not if it is measured in another way, or more is allowed now."""
    for row in after:
        for earlier in before:
            if not row.scan and row.rule.metric != earlier.rule.metric:
                return "not_known", "it is measured in another way now"
            if _allows_more(row.rule, earlier.rule):
                return "not_known", "more is allowed now than before"
    return "fixed", ""


def _allows_more(now: Rule, before: Rule) -> bool:
    """Does a rule allow more harm than an earlier one, or harm of another kind?"""
    if before.margin is not None:
        if now.margin is None or now.margin.relative != before.margin.relative:
            return True
        if now.margin.value > before.margin.value:
            return True
    highest, lowest = (now.limit.max, before.limit.max), (now.limit.min, before.limit.min)
    if highest[1] is not None and (highest[0] is None or highest[0] > highest[1]):
        return True
    return lowest[1] is not None and (lowest[0] is None or lowest[0] < lowest[1])


def _write_change(state: _State) -> str:
    """Write the change of a metric in one verdict; a dash if there is none."""
    return format_change(state.decisive) if state.decisive else "–"


def _have_other_baselines(now: Verdict, rejected: Verdict) -> bool:
    """Were both compared with baselines whose versions are known and differ?"""
    versions = {service.name: service.baseline for service in rejected.release.services if service.baseline}
    return any(
        service.baseline and versions.get(service.name, service.baseline) != service.baseline
        for service in now.release.services
    )
