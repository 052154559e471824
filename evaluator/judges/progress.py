"""What an undecided verdict waits for."""

from __future__ import annotations

import math

from evaluator.records import Comparison, EvidenceKind, MetricStatus, Verdict
from evaluator.wording import format_duration, name_evidence

LONGEST_WAIT = 48 * 3600
"""Longest duration that is advised, s."""
SHORTEST_REPEAT = 1.25
"""Shortest duration that is advised, as a multiple of the present one."""


def find_needed_s(comparison: Comparison, judged_s: float) -> float:
    """Find how long to measure in all until an unchanged estimate is shown to be within its margin, s.

    `judged_s`: seconds of the data that it is based on. Infinite if no duration up to LONGEST_WAIT is known to do.
    """
    if comparison.needed_time is None or comparison.kind is EvidenceKind.OUTCOMES:
        return math.inf
    needed_s = max(comparison.needed_time, SHORTEST_REPEAT) * judged_s
    return needed_s if 0 < needed_s <= LONGEST_WAIT else math.inf


MOST_TIMES = 100
"""Largest multiple of the present units that is advised."""


def find_more_units(comparison: Comparison) -> int:
    """Find how many more units an unchanged estimate needs to be shown to be within its margin; 0: it is not known."""
    multiple, units = comparison.needed_time, comparison.baseline.n + comparison.candidate.n
    if multiple is None or not 1 < multiple <= MOST_TIMES:
        return 0
    return math.ceil(multiple * units) - units


def describe_missing(verdict: Verdict) -> str:
    """Say what a verdict waits for: the gate or hold that needs longest and how much longer, or the first reason."""
    undecided = {MetricStatus.INCONCLUSIVE, MetricStatus.NO_DATA}
    waiting = [c for c in verdict.evidence.comparisons if c.status in undecided and c.must_be_within]
    if not waiting:
        # The reader knows that the run goes on, so any other reason comes first.
        texts = [reason.text for reason in verdict.reasons]
        other_texts = [text for text in texts if not text.startswith("complete: ")]
        return next(iter([*other_texts, *texts]), "nothing is shown yet")
    # Of those without a known time (None), or without data, nothing is known, so they count as slowest.
    slowest = max(waiting, key=lambda c: c.needed_time or math.inf)
    # Multiple of the present duration until it would be shown to be within its margin; inf: never.
    needed_multiple = slowest.needed_time
    remaining = ""
    if slowest.no_data:
        remaining = f" ({slowest.no_data})"
    elif needed_multiple is not None and slowest.kind is not EvidenceKind.OUTCOMES:
        is_live = slowest.kind is EvidenceKind.LIVE
        window = verdict.evidence.production if is_live else verdict.evidence.window
        more_s = (needed_multiple - 1) * window.seconds
        remaining = " (more time alone will not show it to be within its margin)"
        if math.isfinite(more_s):
            remaining = f" (about {format_duration(round(max(more_s, 1.0)))} more, if the change stays as it is)"
    name = slowest.rule.name + name_evidence(slowest.evidence)
    if len(waiting) > 1:
        name += f" and {len(waiting) - 1} more"
    return f"open: {name}{remaining}"
