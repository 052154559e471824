"""The table of metrics: where its intervals are drawn, and what it says next to its numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reporting import find_verdict

from evaluator.figures.base import BASE
from evaluator.records import ArmValue, Direction, Effect, Limit, Margin, MetricStatus, Reason, Role
from evaluator.reports.metric_rows import explain_row
from evaluator.ui.metric_table import (
    MIN_LINE,
    _draw_axis,
    draw_interval,
    find_common_axis,
    make_metrics_table,
    make_verdict_table,
)

P95 = next(row for row in find_verdict("no_go").evidence.comparisons if row.rule.name == "latency_p95")
FINITE = st.floats(-20, 20)
COLORS = {"baseline": BASE, "canary": "#c2570c", "canary_b": "#0f7b7e"}


def change_row(estimate, lower, upper, *, margin=0.1, direction=Direction.LOWER, **fields):
    rule = replace(P95.rule, margin=None if margin is None else Margin(margin), direction=direction)
    return replace(P95, rule=rule, effect=Effect("relative", estimate, lower, upper), **fields)


def at_endpoint(row, endpoint):
    return replace(row, rule=replace(row.rule, slice=replace(row.rule.slice, endpoint=endpoint)))


def read_parts(drawn):
    """Read where the parts are: class → left and right end, in percent of the width."""
    return {
        name: (float(left), float(left) + float(width or 0))
        for name, left, width in re.findall(r'<i class="(\w+)" style="left:([\d.]+)%(?:;width:([\d.]+)%)?"', drawn)
    }


@given(
    rows=st.lists(
        st.tuples(
            FINITE, st.floats(0, 5), st.floats(0, 5), st.sampled_from([0.02, 0.1, 1.0]), st.sampled_from(Direction)
        ),
        min_size=1,
        max_size=4,
    ),
    endless=st.booleans(),
)
def test_all_intervals_have_one_axis_and_lie_on_it(rows, endless):
    comparisons = [
        change_row(
            estimate, estimate - down, math.inf if endless else estimate + up, margin=margin, direction=direction
        )
        for estimate, down, up, margin, direction in rows
    ]
    axis = find_common_axis(comparisons)
    drawn = [read_parts(draw_interval(row, "#000", axis)) for row in comparisons]
    assert len({(parts["zero"], parts["edge"], parts["band"]) for parts in drawn}) == 1
    for row, parts in zip(comparisons, drawn, strict=True):
        assert all(0 <= left <= right <= 100.01 for left, right in parts.values())
        (start, end), (dot, _), (edge, _), (zero, _) = (parts[name] for name in ("whisker", "dot", "edge", "zero"))
        assert start - 0.02 <= max(dot, MIN_LINE)
        assert min(dot, 100 - MIN_LINE) <= end + 0.02
        assert zero < edge
        sign = 1 if row.rule.direction is Direction.LOWER else -1
        harm = sign * row.effect.estimate / row.rule.margin.value
        if abs(harm - 1) > 1e-3:
            assert (dot > edge) == (harm > 1)


@given(estimate=st.floats(-3, 3), reach=st.floats(0, 30))
def test_an_arrow_marks_an_interval_that_goes_on_beyond_six_margins_only(estimate, reach):
    row = change_row(estimate, estimate - reach, estimate + reach)
    drawn = draw_interval(row, "#000", find_common_axis([row]))
    beyond = 6 * 0.1 * 1.1  # the axis has some room at its ends
    assert ('class="more"' in drawn) <= (row.effect.upper > 0.6)
    assert ('class="less"' in drawn) <= (row.effect.lower < -0.6)
    assert ('class="more"' in drawn) >= (row.effect.upper > beyond + 0.2)


def test_an_estimate_beyond_the_axis_keeps_its_dot_at_the_end():
    row = change_row(5.0, 4.0, 6.0)
    drawn = draw_interval(row, "#000", find_common_axis([row]))
    assert read_parts(drawn)["dot"] == (100.0, 100.0)
    assert 'class="more"' in drawn


def test_harm_is_at_the_right_whichever_way_is_worse():
    for direction, harm in ((Direction.LOWER, 0.2), (Direction.HIGHER, -0.2)):
        row = change_row(harm, harm - 0.01, harm + 0.01, direction=direction)
        parts = read_parts(draw_interval(row, "#000", find_common_axis([row])))
        assert parts["dot"][0] > parts["edge"][0] > parts["zero"][0]


def test_without_a_margin_nothing_is_drawn_and_with_one_of_zero_its_edge_is_no_change():
    assert not draw_interval(change_row(0.1, 0.0, 0.2, margin=None), "#000", (-1.3, 1.3))
    for values in ((math.nan,) * 3, (0.0, 0.0, 0.0)):
        assert not draw_interval(change_row(*values, margin=0.0), "#000", (-1.3, 1.3))
    row = change_row(0.1, 0.05, 0.2, margin=0.0)
    parts = read_parts(draw_interval(row, "#000", find_common_axis([row])))
    assert parts["zero"] == parts["edge"] == parts["band"]
    assert parts["whisker"][0] > parts["edge"][0]


def test_the_end_of_a_rate_is_a_bar():
    row = next(row for row in find_verdict("no_go").evidence.comparisons if row.rule.name == "failure_rate")
    rule = replace(row.rule, margin=Margin(0.1, relative=False))
    wild = replace(
        row, rule=rule, baseline=ArmValue(0.001, 900), effect=Effect("absolute", 0.089, -0.194, 0.384), unit="fraction"
    )
    drawn = draw_interval(wild, "#000", find_common_axis([wild]))
    assert read_parts(drawn)["clip"][0] == pytest.approx(read_parts(drawn)["whisker"][0])
    assert "min −0.1" in drawn
    assert 'class="clip"' not in draw_interval(replace(wild, unit="ms"), "#000", find_common_axis([wild]))


SHOWN_BEYOND = {"status": MetricStatus.INCONCLUSIVE, "p_value": 0.028, "p_value_adjusted": 0.23, "reason": "R"}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (change_row(0.5, 0.4, 0.6, status=MetricStatus.FAIL, reason="R"), ""),
        (change_row(0.0, -0.1, 0.05, status=MetricStatus.PASS, reason="R"), ""),
        (change_row(0.1, 0.05, 0.2, status=MetricStatus.INCONCLUSIVE, reason="R"), ""),
        (
            change_row(0.1, 0.0585, 0.141, margin=0.05, **SHOWN_BEYOND),
            "beyond 5 % by itself, but not after allowing for the other gates (p 0.028, adjusted 0.23)",
        ),
        (
            change_row(0.5, 0.4, 0.6, margin=0.25, scan=True, **SHOWN_BEYOND),
            "beyond 25 % by itself, but not after allowing for the other endpoints (p 0.028, adjusted 0.23)",
        ),
        (change_row(0.0, -0.1, 0.05, status=MetricStatus.INCONCLUSIVE, reason="gets worse"), "gets worse"),
        (change_row(0.05, 0.0, 0.2, status=MetricStatus.FAIL, reason="at a look before"), "at a look before"),
        (change_row(0.1, 0.05, 0.2, status=MetricStatus.INCONCLUSIVE, unresolved="steps of 1 ms"), "steps of 1 ms"),
        (change_row(0.1, 0.05, 0.2, margin=None, status=MetricStatus.FAIL, reason="at most 1 %"), "at most 1 %"),
        (replace(P95, effect=None, no_data="no requests"), "no requests"),
        (replace(change_row(0.5, 0.4, 0.6, reason="R"), rule=replace(P95.rule, role=Role.WATCH)), ""),
    ],
)
def test_a_row_says_only_what_its_columns_do_not(row, text):
    assert explain_row(row) == text


def test_an_open_limit_is_explained():
    row = change_row(0.1, 0.05, 0.2, status=MetricStatus.INCONCLUSIVE, reason="not shown to keep to its limit")
    assert explain_row(replace(row, rule=replace(row.rule, limit=Limit(max=400.0)))) == "not shown to keep to its limit"


def test_failing_endpoints_stand_among_the_metrics():
    verdict = find_verdict("no_go")
    rows = [replace(row, status=MetricStatus.PASS) for row in verdict.evidence.comparisons if not row.scan]
    scanned = next(row for row in verdict.evidence.comparisons if row.scan)
    endpoints = [replace(at_endpoint(scanned, f"GET /{n}"), status=MetricStatus.FAIL) for n in range(8)]
    doubtful = replace(at_endpoint(scanned, "GET /doubt"), status=MetricStatus.INCONCLUSIVE)
    evidence = replace(verdict.evidence, comparisons=(*rows, *endpoints, doubtful))
    table = make_verdict_table(replace(verdict, evidence=evidence), COLORS)
    first = table.split("</table>")[0]
    assert first.count("✗ fail") == 6
    assert "✓ pass" not in first
    assert "2 more endpoints fail" in table
    assert re.search(r"<summary>\d gates", table)
    assert "GET /doubt" not in table
    reason = Reason("endpoint_worse", "is worse", "x", "canary", "GET /doubt")
    few = replace(evidence, comparisons=(*rows, doubtful))
    assert (
        "GET /doubt"
        in make_verdict_table(replace(verdict, evidence=few, reasons=(reason,)), COLORS).split("</table>")[0]
    )


def test_with_a_chosen_candidate_the_others_are_folded():
    """A GO has no failing row of a candidate that was not chosen among those that decide."""
    verdict = find_verdict("no_go")
    good = [
        replace(row, status=MetricStatus.PASS, arm="canary_b") for row in verdict.evidence.comparisons if not row.scan
    ]
    rows = (*verdict.evidence.comparisons, *good)
    choice = Reason("best_arm", "canary_b: fine", arm="canary_b")
    chosen = replace(verdict, evidence=replace(verdict.evidence, comparisons=rows), reasons=(choice,))
    table = make_verdict_table(chosen, COLORS)
    assert "✗ fail" not in table.split("</table>")[0]
    assert re.search(r"<summary>not chosen: canary, \d worse", table)
    together = make_verdict_table(replace(chosen, reasons=()), COLORS)
    assert "not chosen" not in together
    assert "✗ fail" in together.split("</table>")[0]


def test_names_in_the_table_are_text():
    row = replace(at_endpoint(P95, "<img src=x>"), no_data="<b>", effect=None)
    assert "<img" not in make_metrics_table([row], "<i>@1", COLORS)
    assert "<b>" not in make_metrics_table([row], "<i>@1", COLORS)


@pytest.mark.parametrize("low", [-6.2, -1.5])
@pytest.mark.parametrize("high", [1.5, 3.0, 6.2])
def test_the_names_of_the_axis_never_cover_each_other(low, high):
    column_px, name_px, zero_px = 255, 52, 9
    head = _draw_axis((low, high))
    zero = float(re.search(r'class="none" style="left:([\d.]+)%', head)[1]) / 100 * column_px

    def find_ends(name):
        """Find the ends of a name, px."""
        side, place = re.search(rf'class="{name}" style="(left|right):([\d.]+)', head).groups()
        begin = float(place) / 100 * column_px
        return (begin, begin + name_px) if side == "left" else (column_px - begin - name_px, column_px - begin)

    begin, end = find_ends("worse")
    assert end < zero - zero_px or zero + zero_px < begin
    begin, end = find_ends("allowed")  # in a line of its own
    assert begin >= 0
    assert end <= column_px
