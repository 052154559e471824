import re
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean
from evaluator.metrics.throughput import Throughput
from evaluator.records import ArmValue, Comparison, Finding, Level, Limit, Margin, MetricStatus, Rule, Slice
from evaluator.reports import FORMATS, Page, to_human, to_json
from evaluator.reports.base import format_allowed, plain_text
from evaluator.reports.markdown import to_markdown

GOLDEN = Path(__file__).parent / "golden"
ALL_BOUNDS = "20 ms, ≥ 1 ms, ≤ 400 ms"
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


def test_rows_that_would_look_the_same_show_their_difference(verdicts):
    class Slow(LatencyMean):
        short = "slow"
        beyond_ms: float

        @property
        def note(self):
            return f" (beyond {self.beyond_ms:g} ms)"

        def name(self, chosen):
            return "slow"

    row = verdicts["go"].evidence.comparisons[0]
    rows = tuple(replace(row, rule=Rule(f"slow {ms}", Slow(beyond_ms=ms))) for ms in (150, 300))
    for shown in (rows, rows[:1]):
        verdict = replace(verdicts["go"], evidence=replace(verdicts["go"].evidence, comparisons=shown))
        lines = [line.split("  ")[1] for line in to_human(verdict, width=120).splitlines() if line.startswith("  slow")]
        assert lines == (["slow (beyond 150 ms)", "slow (beyond 300 ms)"] if len(shown) == 2 else ["slow"])


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
    ("rule", "unit", "text"),
    [
        (Rule("m", FailureRate(), margin=Margin(0.001, relative=False)), "fraction", "0.1 pp"),
        (Rule("m", FailureRate(), margin=Margin(0.1), limit=Limit(max=0.01)), "fraction", "10 %, ≤ 1 %"),
        (Rule("m", LatencyMean(), margin=Margin(20.0, relative=False), limit=Limit(1.0, 400.0)), "ms", ALL_BOUNDS),
        (Rule("m", Throughput(), limit=Limit(min=20.0)), "/s", "≥ 20 /s"),
        (Rule("m", LatencyMean()), "ms", "–"),
    ],
    ids=["points", "relative", "absolute", "limit", "none"],
)
def test_margins(rule, unit, text):
    assert format_allowed(Comparison(rule, "canary", unit, ArmValue(1.0, 9), ArmValue(1.0, 9), "none")) == text


@given(st.text())
def test_plain_text_is_plain(text):
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in plain_text(text))


def test_the_table_of_formats_renders(verdicts):
    page = Page(width=100, color=False, unicode=True)
    assert FORMATS["human"](verdicts["go"], page) == to_human(verdicts["go"], width=100)
    assert FORMATS["json"](verdicts["go"], page) == to_json(verdicts["go"])


@pytest.mark.parametrize("unicode", [True, False])
def test_a_name_of_100_kb_neither_hides_the_page_nor_takes_long(verdicts, unicode):
    verdict, endpoint = verdicts["no_go"], "GET /" + "x" * 100_000
    row = verdict.evidence.comparisons[0]
    named = replace(row, rule=replace(row.rule, slice=Slice(endpoint)))
    reason = replace(verdict.reasons[0], text=f"mean of {endpoint} rose 50 %")
    evidence = replace(verdict.evidence, comparisons=(named, *verdict.evidence.comparisons[1:]))
    started = time.process_time()
    text = to_human(replace(verdict, evidence=evidence, reasons=(reason,)), width=80, unicode=unicode)
    assert time.process_time() - started < 2
    assert max(map(len, text.splitlines())) <= 310
    assert "rose 50 %" in text


def test_a_reason_of_several_metrics_is_shown_once(verdicts):
    rows = verdicts["no_data"].evidence.comparisons
    alike = tuple(replace(row, no_data="canary has no requests") for row in rows)
    verdict = replace(
        verdicts["no_data"], evidence=replace(verdicts["no_data"].evidence, comparisons=alike), reasons=()
    )
    assert to_human(verdict, width=80).count("canary has no requests") == 1


def test_a_row_whose_interval_lies_beyond_says_why_it_is_open(verdicts):
    verdict = verdicts["no_go"]
    row = next(row for row in verdict.evidence.comparisons if row.rule.name == "latency_p95")
    beyond = replace(row, status=MetricStatus.INCONCLUSIVE, p_value=0.028, p_value_adjusted=0.23)
    shown = replace(verdict, evidence=replace(verdict.evidence, comparisons=(beyond,)))
    assert "beyond 10 % by itself, but not after allowing for the other gates (p 0.028," in to_human(shown, width=120)


def test_a_check_that_passed_for_each_candidate_is_listed_once(verdicts):
    verdict = verdicts["three_arms"]
    overlaps = [Finding("overlap", Level.OK, f"{arm} and baseline ran together") for arm in ("canary", "canary_b")]
    verdict = replace(verdict, evidence=replace(verdict.evidence, findings=tuple(overlaps)))
    assert to_human(verdict, width=400).count("overlap") == 1
    assert to_markdown(verdict).count("overlap") == 1
