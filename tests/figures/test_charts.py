"""Figures say what they show, in words and in a table, and their colours are those that a dark page knows."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from reporting import HOSTILE, find_verdict

from evaluator.figures import (
    PALETTE,
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


KIND_NAMES = ["forest", "forest_wide", "over_time", "units", "shift", "distribution", "strip0", "strip1", "strip2"]


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
    assert figures["over_time"].title.startswith("p95 rose")


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
    assert len(places) == 4
    for ends in zip(*places, strict=True):
        assert max(ends) - min(ends) <= 1.5


def test_the_title_of_latency_does_not_let_one_moment_speak_for_an_arm():
    """At the end of a load, the last requests are often the slowest of both arms."""
    slots = {"failures": [], "per_s": [], "users": []}
    arms = [{"name": name, "p50_ms": [50.0] * 4, "p95_ms": [ms, ms, ms, 320.0], **slots} for name, ms in P95.items()]
    timeline = {"seconds": [0, 1, 2, 3], "slot_s": 1, "arms": arms, "shaded": [], "events": []}
    titles = [figure.title for figure in draw_timeline(timeline, colors=color_arms(P95))]
    assert titles == [
        "p95 (thin line: median): baseline typically 170 ms, at most 320 ms; canary typically 240 ms, at most 320 ms"
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
        "p99: c-3 of canary: too many requests fail; other instances of canary 531 ms to 531 ms; "
        "baseline 500 ms to 500 ms"
    )
    assert ("c-3", "canary", "too many requests fail", "900") in figure.rows
    svg = to_svg(figure, "x")
    assert "c-3 →" in svg
    assert "c-4" not in svg
    with_kinds = [{**unit, **({"kinds": "41 × 503"} if unit["name"] == "c-1" else {})} for unit in units]
    figure = draw_units(row, {"of": "instance", "units": with_kinds}, colors=color_arms(["canary"]))
    assert figure.head[-1] == "failures in all of the run"
    assert [line[-1] for line in figure.rows] == ["–", "41 × 503", "–", "–"]


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
