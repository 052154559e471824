"""Cases of readings: answers summed up, their panels, and what is compared of counters, gauges and histograms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from answers_of import ARMS, COUNTER, GAUGE, HISTOGRAM, STEP, answer, series
from judging import simulate_readings

from evaluator.records import Answer, Direction, Limit, Margin, Query, QueryKind, ReadingCells
from evaluator.simulate import Scrapes
from evaluator.simulate.readings import DURATION, FAILURES
from evaluator.simulate.readings import REQUESTS as REQUEST_COUNTER
from evaluator.stats.estimators.differences import compare_differences
from evaluator.stats.estimators.edges import EdgePanel, compare_edges, slope_of_share, stack_panels
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.shaping.counted import Counted
from evaluator.stats.shaping.narrow import cut_readings
from evaluator.stats.shaping.panel import Panel, build_counted_panel
from evaluator.stats.shaping.reading_panels import (
    ReadingView,
    RunInterval,
    build_gauge_panel,
    build_mean_panel,
    build_peak_panel,
    build_rate_panel,
    build_ratio_panel,
    build_share_panel,
    build_trend_panel,
    cut,
    find_bounds,
    measures_the_same,
    name_of,
)
from evaluator.stats.shaping.readings import choose_reading_bucket_s, sum_up
from evaluator.stats.variance.uncertainty import choose_design
from numbers_of.releases import REQUESTS

OPTIONS: Mapping[str, Any] = {"alpha": 0.05, "sd_instance": 0.05}
COARSE = (0.025, 0.075, 0.25)
FINE = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
FAILED = Query('requests_total{$selector,code="500"}', QueryKind.COUNTER)


@lru_cache(maxsize=16)
def _scraped(name: str, bounds: tuple[float, ...] = FINE) -> ReadingCells:
    scrapes = Scrapes(step_s=STEP, bounds_s=bounds, restarts=2, missing=0.05)
    return simulate_readings(REQUESTS[name](), scrapes, 3)


@lru_cache(maxsize=16)
def _view(name: str, bounds: tuple[float, ...] = FINE) -> ReadingView:
    readings = _scraped(name, bounds)
    if len(REQUESTS[name]().runs) == 1:
        return cut(readings, None)
    requests = REQUESTS[name]()
    ends = [requests.ts_us[requests.run == run] / 1e6 for run in range(len(requests.runs))]
    return cut(readings, [RunInterval(f"r{k}", float(at.min()), float(at.max()) + STEP) for k, at in enumerate(ends)])


def _shape(panel: Panel | None) -> Any:
    if panel is None:
        return "nothing"
    rows = panel.rows
    return {
        "n": panel.n,
        "failures": panel.failures,
        "totals": panel.totals,
        "widths": panel.widths,
        "offset": panel.offset,
        "run": panel.run,
        "rows": [rows.n, rows.failures, *rows.totals.values(), rows.instance, rows.slot, rows.stratum],
        "names": [len(panel.endpoints), len(rows.names), panel.bucket_s],
    }


def _edges(name: str, bounds: tuple[float, ...]) -> EdgePanel:
    view = _view(name, bounds)
    found = find_bounds(view, DURATION, (0, 1))
    panels = [build_share_panel(view, "canary", DURATION, le, None) for le in found]
    return stack_panels(found * 1000, [panel for panel in panels if panel is not None])


def _quantiles(name: str, bounds: tuple[float, ...]) -> Any:
    edges = _edges(name, bounds)
    design = choose_design(edges.panel)
    out: dict[str, Any] = {"shares": edges.shares(), "bounds": edges.bounds}
    for by, margin in (
        ("", None),
        ("relative", Margin(0.35)),
        ("absolute", Margin(20.0, relative=False)),
        ("narrow", Margin(0.02)),
    ):
        for p in (0.1, 0.5, 0.9, 0.9999) if by == "relative" else (0.3, 0.5):
            limit = Limit(min=30.0, max=90.0) if p == 0.5 else Limit(max=5.0) if p == 0.1 else Limit(max=1e6)
            for depth in ("full", "suspects") if by == "relative" else ("full",):
                out[f"{by} {p} {depth}"] = compare_edges(
                    edges, design, p, margin=margin, limit=limit, depth=depth, **OPTIONS
                )
    return out | {
        "spread": [slope_of_share(edges.bounds, out["shares"][0], index) for index in range(edges.bounds.size)]
    }


def _inner(edges: EdgePanel) -> tuple[float, ...]:
    """A probability that the baseline reaches at the second of two bounds."""
    return (float(edges.shares()[0].mean()),) if edges.bounds.size else ()


def _odd_bounds() -> Any:
    """Bounds that are 0 or negative; none at all; a look at an earlier moment."""
    edges = _edges("instances", FINE)
    design = choose_design(edges.panel)
    moved = {
        "below 0": replace(edges, bounds=edges.bounds - 70.0),
        "at 0": replace(edges, bounds=edges.bounds - 10.0),
        "few": EdgePanel(edges.panel, edges.bounds[:2], edges.above[:2], edges.row_above[:2]),
        "none": EdgePanel(edges.panel, edges.bounds[:0], edges.above[:0], edges.row_above[:0]),
    }
    out: dict[str, Any] = {}
    for name, part in moved.items():
        for by, margin in (("", None), ("absolute", Margin(30.0, relative=False)), ("relative", Margin(0.5))):
            for p in (0.0001, 0.05, 0.3, 0.9) if part.bounds.size > 2 else _inner(part):
                out[f"{name} {by} {p:.3g}"] = compare_edges(
                    part, design, p, margin=margin, limit=Limit(max=0.0), depth="full", **OPTIONS
                )
        out[f"{name} spread"] = [
            slope_of_share(part.bounds, np.linspace(0.2, 1, part.bounds.size), index)
            for index in range(part.bounds.size)
        ]
    start = edges.panel.origin + int(edges.panel.offset[0])
    for buckets in (0, 9, 16):
        part = edges.before(start + buckets)
        out[f"earlier {buckets}"] = part and [part.above, part.row_above, part.shares(), part.bucket_s]
    pair = edges.pair(3, 5)
    return out | {"pair": [pair.failures, pair.rows.failures]}


def _counters() -> Any:
    out: dict[str, Any] = {}
    for name in ("instances", "replicates", "apart"):
        view = _view(name)
        endpoint = view.readings.endpoints[0]
        panels = {
            "ratio": build_ratio_panel(view, "canary", FAILURES, REQUEST_COUNTER, None),
            "ratio of one": build_ratio_panel(view, "canary", FAILURES, REQUEST_COUNTER, endpoint),
            "mean": build_mean_panel(view, "canary", DURATION, 1000.0, None),
            "share": build_share_panel(view, "canary", DURATION, 0.1, endpoint),
            "rate": build_rate_panel(view, "canary", REQUEST_COUNTER, 2.0, None),
            "rate of one": build_rate_panel(view, "canary", REQUEST_COUNTER, 1.0, endpoint),
            "other endpoint": build_rate_panel(view, "canary", REQUEST_COUNTER, 1.0, "nowhere"),
            "other query": build_rate_panel(view, "canary", GAUGE, 1.0, None),
        }
        out |= {f"{name}, {kind}": _shape(panel) for kind, panel in panels.items()}
        for kind in ("rate", "mean"):
            panel = panels[kind]
            assert panel is not None
            design = choose_design(panel)
            out[f"{name}, compare {kind}"] = compare_differences(
                panel, design, margin=0.2, limit=Limit(max=12.0, min=1.0), floor=(1e-4, 4e-4), **OPTIONS
            )
            out[f"{name}, {kind} as ratio"] = compare_means(
                panel, design, margin=Margin(0.1), of="value", floor=np.array([[1e-5], [1e-4]]), **OPTIONS
            )
        share = panels["share"]
        assert share is not None
        out[f"{name}, compare share"] = compare_failures(share, choose_design(share), margin=None, **OPTIONS)
    return out


def _gauges() -> Any:
    random = np.random.default_rng(2)
    out: dict[str, Any] = {}
    for name, shape in {"few": (1, 12), "usual": (2, 40), "three": (3, 40)}.items():
        answers = []
        for arm, own in enumerate(ARMS):
            levels = []
            for instance in range(shape[0]):
                values = (
                    100 + 5 * arm + instance + 0.1 * arm * np.arange(shape[1]) + random.normal(0, 1, shape[1])
                ).tolist()
                values[5 + instance] = None
                levels.append(series(values, f"{own}{instance}"))
            answers.append(answer(*levels, query=GAUGE, arm=own, start=-STEP))
        view = cut(sum_up(answers, ARMS, 20), None)
        panels = {
            "gauge": build_gauge_panel(view, "canary", GAUGE, 2.0, None),
            "peak": build_peak_panel(view, "canary", GAUGE, 1.0, None),
            "trend": build_trend_panel(view, "canary", GAUGE, 1.0, None),
        }
        for kind, panel in panels.items():
            assert panel is not None
            design, fitted = choose_design(panel), 2 if kind == "trend" else 0
            out[f"{name} {kind}"] = _shape(panel)
            if panel.slots >= 8:
                for direction in Direction:
                    out[f"{name} {kind} {direction.value}"] = compare_differences(
                        panel, design, margin=1.0, direction=direction, fitted=fitted, limit=Limit(max=300.0), **OPTIONS
                    )
        out[f"{name} none"] = build_trend_panel(view, "canary", COUNTER, 1.0, None)
        out[f"{name} before"] = view.before(view.span[0] + 3).span
    return out | {"no span": cut(sum_up([], ARMS, 10), None).span}


def _views() -> Any:
    readings = _scraped("instances")
    first = int(readings.bucket.min()) * readings.bucket_s
    intervals = [
        RunInterval("a", first, first + 60.0),
        RunInterval("b", first + 45.0, first + 131.0),
        RunInterval("c", 0.0, 9.0),
    ]
    view = cut(readings, intervals)
    start, end = (datetime.fromtimestamp(first + after, UTC) for after in (21, 99))
    cuts = {
        f"cut {index}": cut_readings(readings, from_time, other).bucket
        for index, (from_time, other) in enumerate(((None, None), (start, None), (None, end), (start, end)))
    }
    texts = ("a_total{x='1'}", " b:c [5m]", "sum(rate(x[1m]))", "a_total", "9a")
    queries = [Query(text, QueryKind.COUNTER) for text in texts]
    return cuts | {
        "runs": [view.run, view.readings.bucket, view.span],
        "bounds": [find_bounds(view, DURATION, arms) for arms in ((0,), (0, 1))],
        "no bounds": find_bounds(view, REQUEST_COUNTER, (0, 1)),
        "names": [name_of(query) for query in queries],
        "same": [measures_the_same(queries[0], other) for other in queries],
        "buckets": [
            choose_reading_bucket_s(*case)
            for case in ((3600, 1), (3600, 10), (60, 10), (600, 2), (3600, 7), (None, 0.4), (60, 3))
        ],
    }


def _answers() -> list[Answer]:
    """Resets, falls, holes, counters that come late, answers that adjoin or overlap, a histogram that restarts."""
    counters = [
        series([100, 110, 130, 20, 25, None, None, 60, 61], "a"),
        series([4000, 4010, 3990, 4020, 4030, 4040, 4050, 4060, 4070], "b", code="200"),
        series([1, 3, 3, 4], "b", first=30, code="500"),
        series([7000, 7004, 7010], "c", first=50),
        series([5, 6], "a", first=40, code="500"),
    ]
    histogram = [
        series([100, 110, 30, 31, 40], part="count"),
        series([5, 6, 20, 20, 24], part="bucket", le=0.1),
        series([100, 110, 30, 31, 40], part="bucket", le=float("inf")),
        series([50.0, 55.0, 60.0, 61.0, 59.0], part="sum"),
        series([1000, 1010, 1005, 1015, 1020], "b", part="count"),
        series([500, 505, 506, 511, 512], "b", part="bucket", le=0.1),
        series([9.0, 8.0, 9.5, 9.0, 12.0], "b", part="sum"),
    ]
    return [
        answer(*counters, nan=2, infinite=1, warnings=("partial",)),
        answer(series([61, 70, 75], "a", first=80), start=80),
        answer(series([70, 74], "a", first=90), start=90, end=115, read=9, form="classic"),
        answer(series([900, 905], "a", first=400), start=400),
        answer(series([0, 2, 4, 4, 9], "z"), counters[1], arm="canary", start=-30),
        answer(series([4, 1, None, 2], "b"), query=FAILED, start=-STEP),
        answer(*histogram, query=HISTOGRAM),
        answer(*histogram[:4], query=HISTOGRAM, arm="canary", impossible="no such label"),
        answer(series([9, 1, 5, -3]), series([2.5, None, 2.0, 2.0], "b"), query=GAUGE),
        answer(series([9, 1, 5, -3]), query=GAUGE, arm="canary", notes=("odd",), start=-5),
        answer(query=GAUGE, start=300, end=360),
        replace(answer(query=COUNTER, start=900, end=960), series=(series([None, None], "a"),)),
    ]


def _sums(bucket_s: int) -> Any:
    cells = sum_up(_answers(), ARMS, bucket_s)
    columns = ("query", "arm", "instance", "endpoint", "bucket", "part", "le", "n", "seconds", "total", "peak")
    facts = {
        f"{index}": [
            [fact.series, fact.nan, fact.duplicates, fact.resets, fact.read, fact.infinite, fact.repeated],
            [
                fact.outside,
                fact.falls,
                fact.shared,
                fact.expected,
                fact.missing,
                fact.start_ms,
                fact.end_ms,
                fact.step_ms,
            ],
            fact.used,
            fact.spans,
            dict(fact.lives),
            [*fact.warnings, *fact.notes, fact.impossible, fact.form, *fact.sent],
        ]
        for index, fact in enumerate(cells.facts)
    }
    return {name: getattr(cells, name) for name in columns} | facts


def _overlaps() -> Any:
    """When arms overlap in time: just enough, just not, seldom seen, one inside the other."""
    out: dict[str, Any] = {}
    spans = {
        "half": (range(40), range(20, 60)),
        "less than half": (range(40), range(21, 61)),
        "inside": (range(90), range(70, 80)),
        "seldom": (range(0, 60, 7), range(3, 60, 11)),
        "gone by then": (range(10), range(10, 20)),
        "one run alone": (range(30), ()),
        "alternating": (range(0, 40, 2), range(1, 41, 2)),
    }
    for name, buckets in spans.items():
        rows = [(0, arm, bucket) for arm, own in enumerate(buckets) for bucket in own]
        rows += [(1, arm, 500 + bucket) for arm in (0, 1) for bucket in range(5)] if name == "one run alone" else []
        run, arm, bucket = np.array(rows, dtype=np.int64).T
        n = 1.0 + bucket % 3
        counted = Counted(
            ("a", "b"), ARMS, ("",), ("x", "y"), 15, run, arm, 0 * run, arm, bucket + 1000, n, 0 * n, {"value": n * n}
        )
        panel = build_counted_panel(counted, "canary")
        out[name] = _shape(panel) | {"paired": panel.paired, "position": panel.position} if panel else "nothing"
        of_whole_runs = build_counted_panel(counted, "canary", whole_runs=True)
        out[f"{name}, whole"] = of_whole_runs.widths if of_whole_runs else "nothing"
    return out


def _still() -> Any:
    """Where nothing varies at all the answer is exact."""
    answers = [
        answer(*(series([value] * 41, f"{arm}{k}") for k in range(2)), query=GAUGE, arm=arm, start=-STEP)
        for arm, value in zip(ARMS, (5.0, 6.0), strict=True)
    ]
    panel = build_gauge_panel(cut(sum_up(answers, ARMS, 10), None), "canary", GAUGE, 1.0, None)
    assert panel is not None
    return {
        str(margin): compare_differences(panel, choose_design(panel), margin=margin, limit=Limit(max=5.5), **OPTIONS)
        for margin in (0.0, 1.0, 2.0)
    }


CASES: Mapping[str, Callable[[], Any]] = {
    "readings: 10 s": lambda: _sums(10),
    "readings: 30 s": lambda: _sums(30),
    "readings: nothing": lambda: sum_up([], ARMS, 10).n,
    "readings: views": _views,
    "readings: counters": _counters,
    "readings: gauges": _gauges,
    "readings: still": _still,
    "readings: overlap": _overlaps,
    **{
        f"bounds: {name}, {len(bounds)}": lambda name=name, bounds=bounds: _quantiles(name, bounds)
        for name, bounds in (("instances", COARSE), ("instances", FINE), ("one a side", COARSE), ("replicates", FINE))
    },
    "bounds: odd": _odd_bounds,
}
