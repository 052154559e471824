import math
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.records import Limit, Margin, Rule
from evaluator.reports import FORMATS, Page, to_human, to_json
from evaluator.reports.base import (
    _three_digits,
    format_duration,
    format_margin,
    name_metric,
    plain_text,
)

GOLDEN = Path(__file__).parent / "golden"
KINDS = ["go", "no_go", "inconclusive", "no_data", "hostile", "three_arms"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", KINDS)
def test_it_looks_as_agreed(verdicts, kind, width):
    assert to_human(verdicts[kind], width=width) + "\n" == (GOLDEN / f"{kind}-{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_wider_than_the_page(verdicts, kind, width):
    assert max(map(len, to_human(verdicts[kind], width=width).splitlines())) <= width


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_numbers_keep_their_units_and_intervals(verdicts, kind, width):
    for line in to_human(verdicts[kind], width=width).splitlines():
        assert not re.search(r"[\d∞] ?[(…]$|[(…]$", line), line
        assert not re.match(r"\s*(%|ms|pp|/s)( |$)", line), line


def test_the_verdict_the_reason_and_what_next_come_first(verdicts):
    lines = to_human(verdicts["no_go"], width=120).splitlines()
    assert lines[0].startswith("NO-GO ✗  cart@1.5.0 against 1.4.1")
    assert "84,112 + 84,590 requests" in lines[0]
    assert lines[1] == "  " + verdicts["no_go"].reasons[0].text
    assert lines[3].startswith("  next: ")


def test_colour_only_adds(verdicts):
    plain = to_human(verdicts["no_go"])
    painted = to_human(verdicts["no_go"], color=True)
    assert "\x1b[31m" in painted
    assert [line.rstrip() for line in re.sub(r"\x1b\[\d+m", "", painted).splitlines()] == plain.splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_without_unicode_is_ascii(verdicts, kind):
    text = to_human(verdicts[kind], unicode=False)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_can_move_the_cursor(verdicts, kind):
    for character in to_human(verdicts[kind]):
        assert character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")


def test_only_endpoints_that_stand_out_are_shown(verdicts):
    text = to_human(verdicts["no_go"])
    assert "POST /orders" in text
    assert "GET /slow" in text
    assert "GET /3" not in text
    assert "+17 more endpoints" in text
    assert "17 endpoints within margin" in to_human(verdicts["go"])


def test_no_data_says_why(verdicts):
    lines = to_human(verdicts["no_data"]).splitlines()
    row = next(i for i, line in enumerate(lines) if "∅ no data" in line)
    assert "only 12 requests on baseline" in lines[row + 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00012, "0.000120"), (0.0999, "0.0999"), (9.999, "10.0"), (31.24, "31.2"), (118.4, "118")],
)
def test_three_digits(value, text):
    assert _three_digits(value) == text


@pytest.mark.parametrize(("value", "text"), [(12345.0, "12,300"), (-1.5, "−1.50"), (999.9, "1,000")])
def test_three_digits_of_large_and_negative_numbers(value, text):
    assert _three_digits(value) == text


@given(st.floats(1e-6, 1e9))
def test_three_digits_are_within_half_a_percent(value):
    assert math.isclose(float(_three_digits(value).replace(",", "")), value, rel_tol=0.0051, abs_tol=6e-7)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45, "45 s"), (119, "119 s"), (300, "5 min"), (840, "14 min"), (7500, "2 h 5 min"), (7200, "2 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("rule", "unit", "text"),
    [
        (
            Rule("m", "failure_rate", margin=Margin(0.001, relative=False), limit=Limit(max=0.01)),
            "fraction",
            "0.1 pp, ≤ 1 %",
        ),
        (Rule("m", "latency_mean", margin=Margin(0.1)), "ms", "10 %"),
        (
            Rule("m", "latency_mean", margin=Margin(20.0, relative=False), limit=Limit(max=400.0)),
            "ms",
            "20 ms, ≤ 400 ms",
        ),
        (Rule("m", "throughput", limit=Limit(min=20.0)), "/s", "≥ 20 /s"),
        (Rule("m", "latency_mean"), "ms", "–"),
    ],
    ids=["failures", "relative", "absolute", "limit", "none"],
)
def test_margins(rule, unit, text):
    assert format_margin(rule, unit) == text


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (Rule("failure_rate", "failure_rate"), "failures"),
        (Rule("latency_mean", "latency_mean"), "mean"),
        (Rule("latency_p99.9", "latency_quantile", quantile=0.999), "p99.9"),
        (Rule("latency_p95", "latency_quantile", quantile=0.5), "latency_p95"),
        (Rule("checkout", "latency_mean"), "checkout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names(rule, name):
    assert name_metric(rule) == name


@given(st.text())
def test_plain_text_is_plain(text):
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in plain_text(text))


def test_the_table_of_formats_renders(verdicts):
    page = Page(width=100, color=False, unicode=True)
    assert FORMATS["human"](verdicts["go"], page) == to_human(verdicts["go"], width=100)
    assert FORMATS["json"](verdicts["go"], page) == to_json(verdicts["go"])
