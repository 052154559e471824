"""The change as it was known at each look, with the interval that may be looked at so often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evaluator.curves.base import Scope, plain, spread
from evaluator.looks import judged_buckets, repeat_interval
from evaluator.metrics.base import RequestMetric
from evaluator.records import BLOCK_BUCKETS, Comparison, Effect
from evaluator.stats.longrun import MIN_BUCKETS

__all__ = ["trace_over_time"]

MOST_LOOKS = 24


def trace_over_time(scope: Scope, row: Comparison) -> dict[str, Any] | None:
    """Estimate and interval after each of some looks, the last one as judged; `None` where several runs were judged.

    With a calendar, these are looks of the calendar, and the end of the interval towards "worse" is the one that
    decides; its other end counts at the last look only. Without, the run was judged at its end, and what is shown
    before is no decision.
    """
    cells = scope.pairs.cells
    if row.effect is None or len(set(cells.moments.run.tolist())) != 1:
        return None
    start, end = judged_buckets(cells, scope.warm_up)
    covered_s = (end - start) * cells.bucket_s
    points = [(at_s, _at(scope, row, start, at_s)) for at_s in _moments(scope, row, covered_s)]
    known = [(at_s, effect) for at_s, effect in points if effect is not None] + [(covered_s, row.effect)]
    return {
        "kind": scope.calendar.kind,
        "seconds": [at_s for at_s, _ in known],
        "estimate": [plain(effect.estimate) for _, effect in known],
        "lower": [plain(effect.lower) for _, effect in known],
        "upper": [plain(effect.upper) for _, effect in known],
        "decided_at_s": row.decided_at_s,
    }


def _moments(scope: Scope, row: Comparison, covered_s: int) -> list[int]:
    """Seconds of judged data at which to look back."""
    step = scope.pairs.cells.bucket_s * BLOCK_BUCKETS
    looks = list(scope.calendar.interim) or list(range(-(-MIN_BUCKETS // BLOCK_BUCKETS) * step, covered_s, step))
    chosen = {looks[place] for place in spread(len(looks), MOST_LOOKS)}
    chosen |= {look for look in looks if row.decided_at_s == look}
    return sorted(look for look in chosen if look < covered_s)


def _at(scope: Scope, row: Comparison, start: int, at_s: int) -> Effect | None:
    """The effect as it was known at one moment."""
    bucket = start + at_s // scope.pairs.cells.bucket_s
    pair = scope.whole(row.arm, row.rule.slice.endpoint, bucket)
    metric = row.rule.metric
    if pair is None or not isinstance(metric, RequestMetric):
        return None
    then = metric.compare(pair, row.rule)
    if scope.calendar.kind != "fixed":
        then = repeat_interval(then, replace(scope.calendar, final=False), float(at_s), scope.pairs.rulebook)
    return then.effect
