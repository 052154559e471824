"""The change as it was known at each look, with an interval that is valid for that many looks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from evaluator.assess.looks import repeat_interval
from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import choose_evenly, round_value
from evaluator.metrics.base import RequestMetric
from evaluator.records import BLOCK_BUCKETS, Comparison, Effect
from evaluator.stats.variance.longrun import MIN_BUCKETS

MOST_LOOKS = 24


def trace_over_time(requests: RequestPairs, comparison: Comparison) -> dict[str, Any] | None:
    """Repeat a comparison on the data of some earlier looks; the last point is the comparison as it was judged.

    A look is a verdict while data are still recorded. With a calendar of looks, points are some of them: the end of
    the interval that decides "worse" (for a latency the lower end) is valid at each, the other end only at the last.
    Without a calendar, points are evenly spaced, and decide nothing.

    Returns `None` without an effect, and if several runs were judged: they have no common time. Otherwise lists with an
    entry per point: `seconds` of judged data, `estimate`, `lower` and `upper` (`None`: infinite); `kind` of the
    calendar; and `decided_at_s`, when the metric was first shown to be worse (`None`: it was not).
    """
    is_one_run = len(set(requests.cells.moments.run.tolist())) == 1
    if comparison.effect is None or not is_one_run:
        return None
    covered_s, block_s = requests.covered_s, requests.cells.bucket_s * BLOCK_BUCKETS
    looks_s = list(requests.calendar.interim)  # ends of earlier looks, in seconds of judged data
    if not looks_s:
        # At the end of each block, from the first that has enough buckets for an interval.
        first_look_s = math.ceil(MIN_BUCKETS / BLOCK_BUCKETS) * block_s
        looks_s = list(range(first_look_s, covered_s, block_s))
    chosen_s = {looks_s[index] for index in choose_evenly(len(looks_s), MOST_LOOKS)}
    # The look that decided is always among them.
    chosen_s |= {look_s for look_s in looks_s if comparison.decided_at_s == look_s}
    effects: list[tuple[int, Effect]] = []
    metric = comparison.rule.metric
    for at_s in sorted(look_s for look_s in chosen_s if look_s < covered_s):
        pair = requests.find_pair(comparison.arm, comparison.rule.slice.endpoint, at_s)
        if pair is None or not isinstance(metric, RequestMetric):
            continue
        # An early look of the judge skips intervals that it does not need: `full` asks for them.
        repeated = metric.compare(replace(pair, depth="full"), comparison.rule)
        if requests.calendar.kind != "fixed":
            # The interval is then wider, so that it is valid at each of several looks.
            early_calendar = replace(requests.calendar, final=False)
            repeated = repeat_interval(repeated, early_calendar, float(at_s), requests.rulebook)
        if repeated.effect is not None:
            effects.append((at_s, repeated.effect))
    effects.append((covered_s, comparison.effect))
    return {
        "kind": requests.calendar.kind,
        "seconds": [at_s for at_s, _ in effects],
        "estimate": [round_value(effect.estimate) for _, effect in effects],
        "lower": [round_value(effect.lower) for _, effect in effects],
        "upper": [round_value(effect.upper) for _, effect in effects],
        "decided_at_s": comparison.decided_at_s,
    }
