"""Words for outcomes: they know which way is better, and say "not known" where nothing is shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.records import ArmValue, Comparison, Direction, Effect, Margin, Rule, View
from evaluator.reports.outcomes import describe_outcome, find_chances, format_chance, is_better


def change_row(estimate, lower, upper, *, arm="b", direction=Direction.HIGHER, margin=0.005, view=None):
    rule = Rule(
        "conversion",
        OutcomeProportion(outcome="converted"),
        margin=None if margin is None else Margin(margin, relative=False),
        direction=direction,
    )
    sides = ArmValue(0.1, 900), ArmValue(0.1 + estimate, 900)
    effect = Effect("absolute", estimate, lower, upper)
    return Comparison(rule, arm, "fraction", *sides, "test", effect=effect, view=view)


def view(p_better=0.5, p_best=None, p_dunnett=None):
    return View(p_beyond=0.0, p_better=p_better, expected_loss=0.0, p_best=p_best, p_dunnett=p_dunnett)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (change_row(0.0137, 0.007, 0.0205), "improved by 1.37 pp; a drop of up to 0.5 pp was allowed"),
        (change_row(-0.0141, -0.0202, -0.0079), "worse by 1.41 pp; a drop of up to 0.5 pp was allowed"),
        (
            change_row(0.0137, 0.007, 0.0205, direction=Direction.LOWER),
            "worse by 1.37 pp; a rise of up to 0.5 pp was allowed",
        ),
        (change_row(0.0137, 0.007, 0.0205, margin=0.0), "improved by 1.37 pp; no drop was allowed"),
        (
            change_row(0.001, -0.003, 0.005),
            "could be better or worse: −0.3 … +0.5 pp; a drop of up to 0.5 pp was allowed",
        ),
        (change_row(0.001, -0.003, 0.005, margin=None), "could be better or worse: −0.3 … +0.5 pp"),
    ],
)
def test_a_change_is_described_by_its_direction(row, text):
    assert describe_outcome(row, 0.05) == text


def test_nothing_is_better_that_is_not_shown_for_all_candidates_together():
    assert is_better(change_row(0.01, 0.001, 0.02), 0.05) is True
    assert is_better(change_row(0.01, 0.001, 0.02, view=view(p_dunnett=0.2)), 0.05) is None
    assert is_better(change_row(0.01, 0.001, 0.02, view=view(p_dunnett=0.01)), 0.05) is True
    assert is_better(change_row(0.01, 0.001, 0.02, view=view(p_dunnett=math.nan)), 0.05) is None
    assert is_better(change_row(0.01, math.nan, 0.02), 0.05) is None
    assert is_better(change_row(0.01, 0.0, 0.02), 0.05) is None


def test_chances_add_up_and_are_never_made_up():
    rows = [
        change_row(0.01, 0.0, 0.02, arm="b", view=view(p_best=0.7)),
        change_row(0.0, -0.01, 0.01, arm="c", view=view(p_best=0.2)),
    ]
    assert find_chances(rows) == pytest.approx({"b": 0.7, "c": 0.2, "baseline": 0.1})
    assert find_chances([rows[0], change_row(0.0, -0.01, 0.01, arm="c")]) == {"b": 0.7}
    assert find_chances([change_row(0.01, 0.0, 0.02, view=view(p_better=0.9))]) == pytest.approx(
        {"b": 0.9, "baseline": 0.1}
    )
    assert find_chances([change_row(0.01, 0.0, 0.02, view=view(p_better=math.nan))]) == {}


@given(st.floats(0, 1))
def test_no_chance_is_written_as_certain(chance):
    text = format_chance(chance)
    assert text not in ("0.0 %", "100.0 %")
    assert text in ("> 99.9 %", "< 0.1 %") or abs(float(text.removesuffix(" %")) - 100 * chance) <= 0.05 + 1e-9


def test_an_unknown_chance_is_a_dash():
    assert format_chance(None) == format_chance(math.nan) == "–"
