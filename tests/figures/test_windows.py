"""The change within each window: when it began, and no window that counts is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reporting import find_verdict

from evaluator.figures import draw_windows, to_svg
from evaluator.records import Direction

P95 = next(row for row in find_verdict("no_go").evidence.comparisons if row.rule.name == "latency_p95")


def make_curve(estimates, *, half_width=0.02):
    count = len(estimates)
    return {
        "begin": [60.0 * number for number in range(count)],
        "end": [60.0 * number + 60 for number in range(count)],
        "estimate": estimates,
        "lower": [None if value is None else value - half_width for value in estimates],
        "upper": [None if value is None else value + half_width for value in estimates],
    }


@pytest.mark.parametrize(
    ("estimates", "title"),
    [
        ([0.2, 0.3, 0.2], "p95: estimated beyond the 10 % allowed in each window of 60 s, from the start on"),
        ([0.0, 0.0, 0.2, 0.3], "p95: estimated beyond the 10 % allowed in each window of 60 s from minute 2 on"),
        (
            [0.2, 0.0, 0.2, 0.3],
            "p95: estimated beyond the 10 % allowed in each window of 60 s from minute 2 on, and in 1 before",
        ),
        (
            [0.0, 0.2, 0.0, 0.3],
            "p95: estimated beyond the 10 % allowed in 2 of 4 windows of 60 s, first from minute 1 on",
        ),
        ([0.0, 0.0, 0.0, 0.3], "p95: estimated beyond the 10 % allowed in 1 of 4 windows of 60 s, from minute 3 on"),
        ([0.0, -0.2, 0.05], "p95 within each 60 s: no estimate beyond the 10 % allowed, at worst +5 %"),
        ([0.0, 0.0, None, None], "p95: estimated beyond the 10 % allowed in each window of 60 s from minute 2 on"),
    ],
)
def test_the_title_says_when_it_began(estimates, title):
    figure = draw_windows(P95, make_curve(estimates), color="#c2570c")
    assert figure.title == title
    assert len(figure.rows) == len(estimates)


def test_a_fall_is_harm_where_higher_is_better():
    row = replace(P95, rule=replace(P95.rule, direction=Direction.HIGHER))
    figure = draw_windows(row, make_curve([0.0, 0.3, -0.2, -0.2]), color="#c2570c")
    assert figure.title == "p95: estimated beyond the 10 % allowed in each window of 60 s from minute 2 on"


def test_a_window_whose_quantile_is_a_failure_is_drawn_and_named():
    figure = draw_windows(P95, make_curve([0.0, 0.01, None]), color="#c2570c")
    assert figure.rows[-1] == ("2–3", "failure", "−∞", "∞")
    assert "2–3: failure" in to_svg(figure, "x")
