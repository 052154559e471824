"""Small figures of all metrics: one scale, none that counts is left out, links that keep the choice."""

from __future__ import annotations

import re

from reporting import find_verdict

from evaluator.figures.base import BASE
from evaluator.ui.small_multiples import make_small_multiples

COLORS = {"baseline": BASE, "canary": "#c2570c"}


def make_tiles(estimates_by_name):
    verdict = find_verdict("no_go")
    rows = {row.rule.name: row for row in verdict.evidence.comparisons if not row.scan}
    count = max(map(len, estimates_by_name.values()))
    times = {"begin": [60.0 * n for n in range(count)], "end": [60.0 * n + 60 for n in range(count)]}
    drawable = [
        (name, {"windows": {**times, "estimate": estimates}, "over_time": None, "units": None}, rows[name])
        for name, estimates in estimates_by_name.items()
    ]
    return make_small_multiples(drawable, "cart@<b>", COLORS, with_arms=False)


def read_heights(tile, css_class):
    return [float(bottom) for bottom in re.findall(rf'class="{css_class}"[^>]*bottom:([\d.]+)%', tile)]


def test_all_metrics_have_one_scale_and_a_failure_is_at_its_end():
    tiles = make_tiles({"latency_p50": [0.0, 0.05, None], "latency_p95": [0.0, 0.1, -0.1]})
    p50, p95 = tiles.split('<div class="ev-tile">')[1:]
    assert read_heights(p50, "edge") == read_heights(p95, "edge")
    (edge,) = read_heights(p50, "edge")
    (zero,) = read_heights(p50, "zero")
    assert read_heights(p50, "stroke") == [zero, edge, 97.0]  # 5 % and 10 % are one margin each
    assert read_heights(p95, "stroke")[1] == edge
    assert read_heights(p95, "stroke")[2] < zero
    assert "metric=latency_p50&amp;arm=canary#metric" in p50
    assert "<b>" not in tiles


def test_a_single_metric_needs_no_overview():
    assert not make_tiles({"latency_p50": [0.0, 0.05]})
