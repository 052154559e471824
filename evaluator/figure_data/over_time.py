"""The change as it was known at each look, with an interval that is valid for that many looks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evaluator.assess.looks import repeat_interval
from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import plain, spread
from evaluator.metrics.base import RequestMetric
from evaluator.records import BLOCK_BUCKETS, Comparison, Effect
from evaluator.stats.variance.longrun import MIN_BUCKETS

MOST_LOOKS = 24


def trace_over_time(requests: RequestPairs, row: Comparison) -> dict[str, Any] | None:
    """Estimate and interval after each of some looks, the last one as judged; `None` where several runs were judged.

    With a calendar, these are looks of the calendar, and the end of the interval towards "worse" is the one that
    decides; its other end counts at the last look only. Without one, the run was judged at its end, and the
    earlier points decide nothing.
    """
    if row.effect is None or len(set(requests.cells.moments.run.tolist())) != 1:
        return None
    covered_s, step = requests.covered_s, requests.cells.bucket_s * BLOCK_BUCKETS
    looks = list(requests.calendar.interim) or list(range(-(-MIN_BUCKETS // BLOCK_BUCKETS) * step, covered_s, step))
    chosen = {looks[index] for index in spread(len(looks), MOST_LOOKS)}
    chosen |= {look for look in looks if row.decided_at_s == look}
    effects: list[tuple[int, Effect]] = []
    metric = row.rule.metric
    for at_s in sorted(look for look in chosen if look < covered_s):
        pair = requests.find_pair(row.arm, row.rule.slice.endpoint, at_s)
        if pair is None or not isinstance(metric, RequestMetric):
            continue
        then = metric.compare(replace(pair, depth="full"), row.rule)
        if requests.calendar.kind != "fixed":
            then = repeat_interval(then, replace(requests.calendar, final=False), float(at_s), requests.rulebook)
        if then.effect is not None:
            effects.append((at_s, then.effect))
    effects.append((covered_s, row.effect))
    return {
        "kind": requests.calendar.kind,
        "seconds": [at_s for at_s, _ in effects],
        "estimate": [plain(effect.estimate) for _, effect in effects],
        "lower": [plain(effect.lower) for _, effect in effects],
        "upper": [plain(effect.upper) for _, effect in effects],
        "decided_at_s": row.decided_at_s,
    }
