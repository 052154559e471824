"""Numbers of changes: as precise as their margin needs, and never on the other side of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean
from evaluator.records import ArmValue, Comparison, Effect, Margin, Rule
from evaluator.wording import clip_interval, format_arm_value, format_change, format_interval

CHANGES = st.floats(min_value=-5, max_value=5, allow_nan=False)


def compare_failures(change, margin=0.005, *, lower=-0.01, upper=0.01, baseline=0.2):
    rule = Rule("failures", FailureRate(), margin=None if margin is None else Margin(margin, relative=False))
    sides = ArmValue(baseline, 100), ArmValue(baseline, 100)
    return Comparison(rule, "canary", "fraction", *sides, "test", effect=Effect("absolute", change, lower, upper))


def compare_times(change, margin=0.1, *, lower=-0.01, upper=0.01):
    rule = Rule("mean", LatencyMean(), margin=None if margin is None else Margin(margin))
    sides = ArmValue(100.0, 100), ArmValue(100.0, 100)
    return Comparison(rule, "canary", "ms", *sides, "test", effect=Effect("relative", change, lower, upper))


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (compare_failures(0.000000881), "±0.00 pp"),
        (compare_failures(-0.000286), "−0.03 pp"),
        (compare_failures(0.0), "0 pp"),
        (compare_times(0.528), "+52.8 %"),
        (compare_times(-0.000286), "±0.0 %"),
        (compare_times(-0.000286, None), "−0.03 %"),
        (compare_times(12.34), "+1,230 %"),
        (compare_times(math.inf), "+∞ %"),
        (compare_times(math.nan), "? %"),
    ],
)
def test_changes_have_no_digits_below_a_hundredth_of_the_margin(comparison, text):
    assert format_change(comparison) == text


@given(change=CHANGES, margin=st.sampled_from([0.001, 0.02, 0.05, 0.1, 0.25, 0.3, 1.0]))
def test_rounding_moves_a_change_by_less_than_a_hundredth_of_the_margin_and_never_onto_it(change, margin):
    number = format_change(compare_times(change, margin)).removesuffix(" %").replace("−", "-").replace(",", "")
    shown = float(number.replace("±", ""))
    significant = 0.005 * abs(100 * change)  # of three digits
    assert abs(shown - 100 * change) <= max(margin, significant) + 1e-9
    if abs(abs(change) - margin) > margin * 1e-5:
        assert abs(shown) != 100 * margin
    assert number[0] in "+-±" or not change


def test_a_change_just_beyond_the_margin_is_not_written_like_the_margin():
    assert format_change(compare_times(0.0502, 0.05)) == "+5.02 %"
    assert format_change(compare_times(0.04996, 0.05)) == "+4.996 %"
    assert format_change(compare_times(0.05, 0.05)) == "+5 %"
    assert format_interval(compare_times(0.06, 0.05, lower=0.05001, upper=0.08)) == "+5.001 … +8"


def test_an_interval_of_a_rate_ends_where_rates_end():
    wild = compare_failures(0.089, lower=-0.194, upper=0.384, baseline=0.001)
    assert clip_interval(wild) == (-0.001, 0.384)
    assert format_interval(wild) == "−0.1 … +38.4"
    assert format_interval(wild, mark_clips=True) == "min −0.1 … +38.4"
    full = compare_failures(-0.1, lower=-0.2, upper=0.3, baseline=0.9)
    assert format_interval(full, mark_clips=True) == "−20 … max +10"
    assert format_interval(compare_failures(0.0, lower=-0.01, upper=0.01), mark_clips=True) == "−1 … +1"


@given(change=CHANGES, reach=st.floats(0, 3), baseline=st.floats(0, 1))
def test_a_clipped_interval_holds_its_estimate_and_is_never_wider(change, reach, baseline):
    lower, upper = clip_interval(
        compare_failures(change, lower=change - reach, upper=change + reach, baseline=baseline)
    )
    assert change - reach <= lower <= change <= upper <= change + reach


def test_an_interval_that_is_not_known_stays_so():
    endless = compare_failures(0.1, lower=math.nan, upper=math.inf)
    assert format_interval(endless, mark_clips=True) == "? … max +80"
    assert format_interval(compare_times(0.1, lower=math.nan, upper=math.nan), mark_clips=True) == "? … ?"


def test_rates_are_as_precise_as_their_changes():
    comparison = compare_failures(0.0)
    assert [format_arm_value(comparison, value) for value in (0.0, 0.0000123, 0.000123, 0.0123, None)] == [
        "0 %", "< 0.01 %", "0.01 %", "1.23 %", "–"
    ]  # fmt: skip
