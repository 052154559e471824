"""Figures say what they show, in words and in a table, and their colours are those that a dark page knows."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from reporting import HOSTILE, find_verdict

from evaluator.figures import (
    PALETTE,
    TimeOfDay,
    color_arms,
    draw_distribution,
    draw_forest,
    draw_over_time,
    draw_shift,
    draw_timeline,
    draw_units,
    rank_by_margin,
    to_svg,
)
from evaluator.figures.base import SHADE
from evaluator.records import Direction, Effect, MetricStatus


@pytest.fixture(scope="module")
def verdict():
    return find_verdict("no_go")


@pytest.fixture(scope="module")
def figures(verdict):
    """Every kind of figure of one release."""
    return draw_all(verdict)


def draw_all(verdict):
    traced, colors = verdict.figures, color_arms(["baseline", "canary"])
    rows = {row.rule.name: row for row in verdict.evidence.comparisons if not row.scan}
    metric = next(curve for curve in traced["metrics"] if curve["name"] == "latency_p95")
    return {
        "forest": draw_forest(verdict.evidence.comparisons, colors=colors),
        "forest_wide": draw_forest(verdict.evidence.comparisons, colors=colors, width=1000),
        "over_time": draw_over_time(rows["latency_p95"], metric["over_time"], color=colors["canary"]),
        "units": draw_units(rows["latency_p95"], metric["units"], colors=colors),
        "shift": draw_shift(traced["quantiles"][0], color=colors["canary"]),
        "distribution": draw_distribution(traced["distributions"][0], color=colors["canary"]),
        **{f"strip{k}": figure for k, figure in enumerate(draw_timeline(traced["timeline"], colors=colors))},
    }


def test_a_line_at_the_top_of_its_strip_is_not_cut():
    slots = {"p50_ms": [50.0] * 2, "p95_ms": [60.0] * 2, "failures": [0.0] * 2, "per_s": [9.0] * 2}
    arms = [{"name": name, "users": [45.0, 90.0], **slots} for name in ("baseline", "canary")]
    timeline = {"seconds": [0, 1], "slot_s": 1, "shaded": [], "events": [], "arms": arms}
    users = draw_timeline(timeline, colors=color_arms(P95))[-1]
    assert users.title == "Users: baseline at most 90, canary at most 90"
    lines = [
        re.findall(r"[\d.]+", e.get("d")) for e in ET.fromstring(to_svg(users, "x")).iter() if e.get("stroke-dasharray")
    ]
    highest_y = min(float(y) for line in lines for y in line[1::2])
    assert highest_y >= 2  # half of the line's width is above it


def test_quantiles_that_are_hardly_known_neither_stretch_the_axis_nor_make_the_title():
    percent = [10, 50, 80, 95, 99, 99.9]
    curve = {
        "arm": "canary", "percent": percent, "baseline_ms": [1.0] * 6, "candidate_ms": [1.0] * 6,
        "estimate": [0.01, 0.02, 0.06, 0.04, 0.05, 2.6],
        "lower": [0.0, 0.01, 0.03, 0.0, 0.01, 0.1],
        "upper": [0.02, 0.03, 0.09, 0.08, 0.09, None],
    }  # fmt: skip
    figure = draw_shift(curve, color=color_arms(["canary"])["canary"])
    assert figure.title == ("It changed most at p80: +6 %, and +2 % at p50; not known beyond p99")
    assert "p99.9" not in to_svg(figure, "x")
    assert ("p99.9", "1 ms", "1 ms", "+260 %", "+10 %", "∞") in figure.rows


KIND_NAMES = [
    "forest",
    "forest_wide",
    "over_time",
    "units",
    "shift",
    "distribution",
    "strip0",
    "strip1",
    "strip2",
    "strip3",
]


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_figure_has_a_finding_a_text_and_a_table(figures, kind):
    figure = figures[kind]
    assert re.search(r"\d", figure.title), "a finding has numbers"
    assert figure.title in figure.alt
    assert figure.rows
    assert all(len(row) == len(figure.head) for row in figure.rows)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_colour_is_known_to_a_dark_page(figures, kind):
    root = ET.fromstring(to_svg(figures[kind], "x"))
    used = {element.get(key) for element in root.iter() for key in ("fill", "stroke")}
    assert used - {None, "none", "transparent"} <= set(PALETTE)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_figure_on_a_page_has_one_label_and_names_of_its_own(figures, kind):
    root = ET.fromstring(to_svg(figures[kind], "fig-7"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == figures[kind].alt
    assert not [e for e in root.iter() if e is not root and (e.get("role") or e.get("aria-label"))]
    assert all(value.startswith("fig-7-") for e in root.iter() if (value := e.get("id")))
    references = re.findall(r"url\(#([^)]+)\)", ET.tostring(root, encoding="unicode"))
    assert all(name.startswith("fig-7-") for name in references)


def test_the_decision_and_the_margin_are_labelled(figures):
    text = " ".join(node.text or "" for node in ET.fromstring(to_svg(figures["over_time"], "x")).iter())
    assert "10 % allowed" in text
    assert "decided" in text
    assert re.fullmatch(
        r"p95 by all data up to each time: \+[\d.]+ % of 10 % allowed at the end; shown to be worse after .*",
        figures["over_time"].title,
    )


def test_dots_tell_their_numbers(figures):
    svg = to_svg(figures["shift"], "x")
    assert re.search(r"<title>p95: \+[\d.]+ % \(\+[\d.]+ % … \+[\d.]+ %\)</title>", svg)


def test_the_forest_is_ordered_by_how_far_beyond(verdict):
    ranked = rank_by_margin(verdict.evidence.comparisons)
    statuses = [row.status is MetricStatus.FAIL for row in ranked]
    assert statuses == sorted(statuses, reverse=True)
    used = [row.effect.estimate / row.rule.margin.value for row in ranked if row.status is MetricStatus.FAIL]
    assert used == sorted(used, reverse=True)
    assert all(row.rule.margin for row in ranked)


def test_where_higher_is_better_a_fall_is_the_harm(verdict):
    row = next(row for row in verdict.evidence.comparisons if row.rule.name == "latency_p95")
    fell = replace(row, rule=replace(row.rule, direction=Direction.HIGHER), effect=Effect("relative", -0.3, -0.4, -0.2))
    rose = replace(row, effect=Effect("relative", 0.05, 0.01, 0.09), status=MetricStatus.FAIL)
    assert rank_by_margin([rose, fell]) == [fell, rose]


def test_an_interval_without_an_end_is_drawn_as_far_as_the_page_goes(verdict):
    row = next(row for row in verdict.evidence.comparisons if row.rule.name == "latency_p95")
    endless = replace(row, effect=Effect("relative", 0.2, -0.1, float("inf")))
    figure = draw_forest([endless], colors=color_arms(["canary"]))
    assert "+∞" in " ".join(figure.rows[0])
    assert to_svg(figure, "x").startswith("<svg")


def test_nothing_with_a_margin_is_no_forest(verdict):
    watched = [row for row in verdict.evidence.comparisons if row.rule.margin is None]
    assert draw_forest(watched, colors=color_arms(["canary"])) is None


def test_names_cannot_break_out_of_a_figure():
    verdict = find_verdict("hostile")
    scanned = [row for row in verdict.evidence.comparisons if row.scan]
    assert HOSTILE in {row.rule.slice.endpoint for row in scanned}
    svg = to_svg(draw_forest(scanned, colors=color_arms(["canary"]), width=1000), "x")
    assert "<script" not in svg
    assert "<img" not in svg
    assert "\u202e" not in svg
    assert len(svg) < 100_000


P95 = {"baseline": 170.0, "canary": 240.0}


def test_arms_keep_their_colours():
    two, three = color_arms(["baseline", "canary"]), color_arms(["baseline", "canary", "canary_b"])
    assert three.items() >= two.items()
    assert len(set(three.values())) == 3


def test_strips_of_the_timeline_stand_below_each_other():
    """Their plots begin and end at the same places, whatever their labels."""
    timeline = find_verdict("hour").figures["timeline"]
    places = []
    for figure in draw_timeline(timeline, colors=color_arms(["baseline", "canary"]), width=1000):
        root = ET.fromstring(to_svg(figure, "x"))
        shift = next(e.get("transform") for e in root.iter() if (e.get("transform") or "").startswith("translate("))
        warm_up = next(e.get("d") for e in root.iter() if e.get("fill") == SHADE)
        shaded_x = float(re.match(r"translate\(([\d.]+)", shift)[1]) + float(re.match(r"M([\d.]+)", warm_up)[1])
        width = float(re.search(r"h([\d.]+)", warm_up)[1])
        places.append((shaded_x, shaded_x + width))
    assert len(places) == 5
    for ends in zip(*places, strict=True):
        assert max(ends) - min(ends) <= 1.5


def test_the_title_of_latency_does_not_let_one_moment_speak_for_an_arm():
    """At the end of a load, the last requests are often the slowest of both arms."""
    slots = {"failures": [], "per_s": [], "users": []}
    arms = [{"name": name, "p50_ms": [50.0] * 4, "p95_ms": [ms, ms, ms, 320.0], **slots} for name, ms in P95.items()]
    timeline = {"seconds": [0, 1, 2, 3], "slot_s": 1, "arms": arms, "shaded": [], "events": []}
    titles = [figure.title for figure in draw_timeline(timeline, colors=color_arms(P95))]
    assert titles == [
        "Median: baseline typically 50 ms, at most 50 ms; canary typically 50 ms, at most 50 ms",
        "p95: baseline typically 170 ms, at most 320 ms; canary typically 240 ms, at most 320 ms",
    ]


def test_an_instance_of_which_too_many_requests_fail_is_at_the_edge_with_its_name(verdict):
    """It is the one to look at: left out, the arm would look better than it is."""
    row = next(row for row in verdict.evidence.comparisons if row.rule.name == "latency_p99" and not row.scan)
    units = [
        {"arm": "baseline", "name": "b-1", "value": 500.0, "n": 900},
        {"arm": "canary", "name": "c-1", "value": 531.0, "n": 900},
        {"arm": "canary", "name": "c-3", "value": None, "n": 900, "fails": True},
        {"arm": "canary", "name": "c-4", "value": None, "n": 0},
    ]
    figure = draw_units(row, {"of": "instance", "units": units}, colors=color_arms(["canary"]))
    assert figure.title == (
        "p99: c-3 of canary: too many requests fail; other instances of canary 531 ms; baseline 500 ms"
    )
    assert ("c-3", "canary", "too many requests fail", "900") in figure.rows
    svg = to_svg(figure, "x")
    assert "c-3 →" in svg
    assert "c-4" not in svg


def test_ticks_below_one_are_not_in_thousandths():
    timeline = {
        "seconds": [0, 1], "slot_s": 1, "shaded": [], "events": [],
        "arms": [
            {"name": name, "p50_ms": [50.0] * 2, "p95_ms": [60.0] * 2, "failures": [0.0, 0.004],
             "per_s": [2000.0, 3000.0], "users": []} for name in ("baseline", "canary")
        ],
    }  # fmt: skip
    drawn = "".join(to_svg(f, "x") for f in draw_timeline(timeline, colors=color_arms(["baseline", "canary"])))
    labels = re.findall(r">([\d.]+[mk]?)</text>", drawn)
    assert not [label for label in labels if label.endswith("m")]
    assert [label for label in labels if label.endswith("k")]


def test_the_axis_of_time_has_the_time_of_day_of_the_reader_unless_runs_follow_each_other():
    slots = {"p50_ms": [50.0] * 3, "p95_ms": [60.0] * 3, "failures": [0.0] * 3, "per_s": [9.0] * 3, "users": []}
    arms = [{"name": name, **slots} for name in ("baseline", "canary")]
    start_s = 1_767_571_200  # 2026-01-05 00:00 UTC
    timeline = {
        "seconds": [0, 600, 1200], "slot_s": 600, "shaded": [], "events": [], "arms": arms, "start_epoch_s": start_s,
    }  # fmt: skip
    zone = TimeOfDay("Asia/Kolkata", 19_800.0)
    events = [{"at": 900.0, "what": "note: deploy"}]

    def read(runs, **options):
        figures = draw_timeline({**timeline, "runs": runs}, colors=color_arms(P95), events=events, **options)
        return to_svg(figures[0], "x"), to_svg(figures[-1], "x")

    first, last = read(1, clock=zone)
    assert "note: deploy" in first
    assert "05:50" in last
    assert "time of day (Asia/Kolkata)" in last
    assert "00:20" in read(1)[1]
    assert "time of day" not in read(2)[1]


def test_an_instance_that_stands_out_is_named(verdict):
    row = next(row for row in verdict.evidence.comparisons if row.rule.name == "latency_p95" and not row.scan)
    values = {"baseline": [100.0, 104.0, 102.0], "canary": [103.0, 160.0, 101.0]}
    units = [
        {"arm": arm, "name": f"{arm}-{number}", "value": value, "n": 900}
        for arm, numbers in values.items()
        for number, value in enumerate(numbers)
    ]
    figure = draw_units(row, {"of": "instance", "units": units}, colors=color_arms(["canary"]))
    assert figure.title == (
        "p95: canary-1 alone has 160 ms; other instances of canary 101 ms to 103 ms, baseline 100 ms to 104 ms"
    )
    assert ">canary-1<" in to_svg(figure, "x")
    near = [{**unit, "value": 109.0} if unit["value"] == 160.0 else unit for unit in units]
    assert "alone" not in draw_units(row, {"of": "instance", "units": near}, colors=color_arms(["canary"])).title
    better = [{**unit, "value": 20.0} if unit["value"] == 160.0 else unit for unit in units]
    assert "alone" not in draw_units(row, {"of": "instance", "units": better}, colors=color_arms(["canary"])).title
