"""The change within each of some successive windows of a run, each compared by itself: when did it begin?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import round_value
from evaluator.metrics.base import Pair, RequestMetric
from evaluator.records import BLOCK_BUCKETS, Cells, Comparison
from evaluator.stats.shaping.narrow import cut_each_run
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.longrun import MIN_BUCKETS
from evaluator.stats.variance.uncertainty import choose_design

MOST_WINDOWS = 10
LEAST_WINDOWS = 3
"""Fewer windows would show nothing that the whole run does not."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The cells of successive windows of one run, and the pairs of arms that were made of them."""

    requests: RequestPairs
    parts: tuple[tuple[float, float, Cells], ...]
    """Begin and end in seconds of judged data, and the cells; empty if the run is too short, or there are several."""
    pairs: dict[tuple[int, str, str | None], Pair | None] = field(default_factory=dict)
    """By number of the window, candidate and endpoint: several metrics need the same pair."""

    def find_pair(self, number: int, arm: str, endpoint: str | None) -> Pair | None:
        """Find the pair of a candidate and the baseline in a window; `None` if they have no time in common."""
        key = number, arm, endpoint
        if key not in self.pairs:
            requests, cells = self.requests, self.parts[number][2]
            panel = build_panel(cells, arm, endpoint=endpoint, first_bucket=requests.warm_up.first_bucket)
            whole = requests.find_pair(arm)
            if panel is None or whole is None:
                self.pairs[key] = None
            else:
                design = choose_design(panel, whole.prior)
                self.pairs[key] = replace(whole, panel=panel, design=design, recorded=None)
        return self.pairs[key]


def add_endpoints(requests: RequestPairs, comparisons: Sequence[Comparison]) -> RequestPairs:
    """Add the pairs of the endpoints of these comparisons, whose names are among those of the cells."""
    added: dict[tuple[str, str | None], Pair | None] = {}
    for row in comparisons:
        key, whole = (row.arm, row.rule.slice.endpoint), requests.find_pair(row.arm)
        if key in requests.by_endpoint or key in added:
            continue
        panel = build_panel(requests.cells, row.arm, endpoint=key[1], first_bucket=requests.warm_up.first_bucket)
        if panel is None or whole is None:
            added[key] = None
        else:
            design = choose_design(panel, whole.prior)
            added[key] = replace(whole, panel=panel, design=design, recorded=None)
    return replace(requests, by_endpoint={**requests.by_endpoint, **added})


def cut_windows(requests: RequestPairs) -> Windows:
    """Cut the judged requests of one run into at most `MOST_WINDOWS` windows of equal length, in whole blocks."""
    cells = requests.cells
    if len(set(cells.moments.run.tolist())) != 1:
        return Windows(requests, ())
    block_s = cells.bucket_s * BLOCK_BUCKETS
    least_s = math.ceil(MIN_BUCKETS / BLOCK_BUCKETS) * block_s
    count = min(MOST_WINDOWS, requests.covered_s // least_s)
    if count < LEAST_WINDOWS:
        return Windows(requests, ())
    length_s = math.ceil(requests.covered_s / count / block_s) * block_s
    # Cells are cut by the time since the first request of the run; the judged data begin after its warm-up.
    first_block = int(cells.moments.bucket.min()) // BLOCK_BUCKETS
    warm_up_s = (requests.span[0] // BLOCK_BUCKETS - first_block) * block_s
    parts = [
        (float(begin_s), float(end_s), cut_each_run(cells, warm_up_s + begin_s, warm_up_s + end_s))
        for begin_s in range(0, requests.covered_s, length_s)
        if (end_s := min(begin_s + length_s, requests.covered_s)) - begin_s >= least_s
    ]
    return Windows(requests, tuple(parts) if len(parts) >= LEAST_WINDOWS else ())


def trace_windows(windows: Windows, comparison: Comparison) -> dict[str, Any] | None:
    """Repeat a comparison in each window by itself; each interval is valid for its window alone, and decides nothing.

    Returns lists with an entry per window that has a result: `begin` and `end` in seconds of judged data, `estimate`,
    `lower`, `upper` (`None`: infinite; an infinite estimate is a quantile that became a failure); `None` with fewer
    than three of them.
    """
    metric = comparison.rule.metric
    if comparison.effect is None or not isinstance(metric, RequestMetric):
        return None
    found = []
    for number, (begin_s, end_s, _) in enumerate(windows.parts):
        pair = windows.find_pair(number, comparison.arm, comparison.rule.slice.endpoint)
        effect = metric.compare(pair, comparison.rule).effect if pair is not None else None
        if effect is not None and not math.isnan(effect.estimate):
            found.append((begin_s, end_s, effect))
    if len(found) < LEAST_WINDOWS:
        return None
    return {
        "begin": [begin_s for begin_s, _, _ in found],
        "end": [end_s for _, end_s, _ in found],
        "estimate": [round_value(effect.estimate) for _, _, effect in found],
        "lower": [round_value(effect.lower) for _, _, effect in found],
        "upper": [round_value(effect.upper) for _, _, effect in found],
    }
