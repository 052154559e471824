"""Failures of each arm with their kinds, as a sentence and as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evaluator.records import BASELINE, Comparison, FailureCount, Verdict
from evaluator.wording import format_count, format_number, list_kinds

HEAD = ("arm", "endpoint", "instance", "failures", "kinds")
ALL = "all"
MOST_SHOWN = 10
"""Places with failures that are shown at first; the others are folded."""


def describe_failures(verdict: Verdict) -> str:
    """Say how many requests of each arm fail, and with which kinds; empty if none fails, or it is not known.

    `failures: baseline 12 of 10,620 (12 × 500); canary 57 of 10,569 (50 × 503, 7 × 500)`
    """
    counts = [count for count in verdict.failures or () if count.endpoint is None and count.instance is None]
    if not any(count.failures for count in counts):
        return ""
    return "failures: " + "; ".join(f"{count.arm} {_write_count(count)}" for count in counts)


def _write_count(count: FailureCount) -> str:
    """Write how many requests fail, and with which kinds: `57 of 10,569 (50 × 503, 7 × 500)`."""
    text = f"{format_count(count.failures)} of {format_count(count.requests)}"
    return f"{text} ({list_kinds(count)})" if count.failures else text


def describe_kinds(row: Comparison, failures: Sequence[FailureCount] | None) -> str:
    """Say with which kinds the requests of a comparison of failures fail: `canary: 50 × 503; baseline: 7 × 500`.

    Empty for other metrics, and where no failure is listed.
    """
    if not row.rule.metric.is_failure_rate:
        return ""
    by_arm = {
        count.arm: list_kinds(count)
        for count in failures or ()
        if count.endpoint == row.rule.slice.endpoint and count.instance is None and count.failures
    }
    return "; ".join(f"{arm}: {by_arm[arm]}" for arm in (row.arm, BASELINE) if arm in by_arm)


def list_failure_rows(verdict: Verdict) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """List the rows of the table of failures: those that are shown at first, and all others.

    Shown are all arms, and the endpoints on single instances that have the most failures. Both lists are empty if no
    request failed, or it is not known.
    """
    counts = verdict.failures or ()
    arms = [count for count in counts if count.endpoint is None and count.instance is None]
    if not any(count.failures for count in arms):
        return [], []
    pairs = [count for count in counts if count.endpoint is not None and count.instance is not None]
    pairs.sort(key=lambda count: -count.failures)
    others = [count for count in counts if (count.endpoint is None) != (count.instance is None)]
    shown, folded = [*arms, *pairs[:MOST_SHOWN]], [*others, *pairs[MOST_SHOWN:]]
    return _write_rows(shown), _write_rows(folded)


def _write_rows(counts: Iterable[FailureCount]) -> list[tuple[str, ...]]:
    """Write the rows of some places."""
    rows: list[tuple[str, ...]] = []
    for count in counts:
        percent = format_number(100 * count.failures / max(count.requests, 1))
        share = f"{format_count(count.failures)} of {format_count(count.requests)} ({percent} %)"
        rows.append((count.arm, count.endpoint or ALL, count.instance or ALL, share, list_kinds(count) or "–"))
    return rows
