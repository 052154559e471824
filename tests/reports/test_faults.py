"""A fault as a sentence, in every report and in the JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator
from reporting import find_verdict

from evaluator.records import NO_RESPONSE, FailureCount, FailureKind, Fault, FaultOnset, FaultPlace, Slice
from evaluator.reports import FORMATS, Page, from_json, to_json
from evaluator.reports.failures import describe_kinds, list_failure_rows
from evaluator.reports.faults import NOTHING_SHOWN, list_faults, list_parts, name_minute, write_fault
from evaluator.reports.html import to_html
from evaluator.reports.human import to_human

SINCE = datetime(2026, 11, 25, 16, 18, tzinfo=UTC)
STEP = FaultOnset("step", 480.0, SINCE, 450.0, 510.0, SINCE, SINCE)
RANGE = FaultOnset("step", earliest_s=480.0, latest_s=840.0, earliest=SINCE, latest=SINCE + timedelta(minutes=6))
FAULT = Fault(
    "canary",
    "failures",
    endpoints=FaultPlace("some", ("POST /cart/checkout",), 5, others_fine=True),
    instances=FaultPlace("some", ("canary-3",), 4, others_fine=True),
    onset=STEP,
    requests=812,
    baseline=0.001,
    candidate=0.0507,
    kinds=(FailureKind(503, "HTTP 503", 41),),
)
ALL, NONE = FaultPlace("all", (), 4), FaultPlace("not_known", (), 4)
SLOW = replace(FAULT, what="response_time", baseline=None, candidate=2.04, kinds=())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            FAULT,
            (
                "POST /cart/checkout fails more often on canary-3 since 2026-11-25 16:18 UTC (minute 8): 5.07 % of 812"
                " requests failed (baseline: 0.1 %), most with 503. Other endpoints and instances"
                " are as on the baseline"
            ),
        ),
        (
            SLOW,
            (
                "POST /cart/checkout takes 2.04 times as long as before on canary-3 since 2026-11-25 16:18 UTC"
                " (minute 8): 812 requests. Other endpoints and instances are as on the baseline"
            ),
        ),
        (
            replace(SLOW, endpoints=replace(ALL, count=5), instances=ALL, onset=FaultOnset("start"), candidate=1.18),
            (
                "All 5 endpoints take 18 % longer than on the baseline on all 4 instances of canary from the start:"
                " 812 requests"
            ),
        ),
        (
            replace(SLOW, instances=NONE, onset=FaultOnset("growth"), requests=0),
            (
                "POST /cart/checkout takes 2.04 times as long as on the baseline on canary, more"
                " and more from the start."
                " Not known: on which instances. Other endpoints are as on the baseline"
            ),
        ),
        (
            replace(FAULT, endpoints=NONE, instances=NONE, onset=FaultOnset("not_known"), kinds=()),
            (
                "Requests fail more often on canary: 5.07 % of 812 requests failed (baseline: 0.1 %)."
                " Not known: at which endpoints, on which instances and since when"
            ),
        ),
        (
            replace(
                FAULT,
                endpoints=FaultPlace("some", ("GET /a", "GET /b", "GET /c"), 5),
                instances=FaultPlace("all", ("pod",), 1),
                onset=replace(STEP, since=None, earliest_s=300.0, latest_s=700.0),
                kinds=(FailureKind(-1, "ConnectionError('refused')", 30), FailureKind(502, "bad gateway", 11)),
            ),
            (
                "GET /a, GET /b and GET /c fail more often on the only instance of canary since"
                " about minute 8 of each run,"
                " between minute 5 and minute 12: 5.07 % of 812 requests failed (baseline: 0.1 %), most with"
                " ConnectionError('refused') and 502 (bad gateway)"
            ),
        ),
        (
            replace(FAULT, onset=RANGE),
            (
                "POST /cart/checkout fails more often on canary-3, beginning between 2026-11-25 16:18 UTC and"
                " 2026-11-25 16:24 UTC (minute 8 to minute 14): 5.07 % of 812 requests failed"
                " (baseline: 0.1 %), most with 503. Other endpoints and instances are as on the baseline"
            ),
        ),
        (
            replace(FAULT, onset=replace(RANGE, earliest=None, latest=None)),
            (
                "POST /cart/checkout fails more often on canary-3, beginning between minute 8 and minute 14 of each"
                " run: 5.07 % of 812 requests failed (baseline: 0.1 %), most with 503."
                " Other endpoints and instances are as on the baseline"
            ),
        ),
        (
            Fault("canary", "not_known", endpoints=NONE, instances=NONE, onset=FaultOnset("not_known")),
            "What is worse on canary is not seen in its failures or response times: where and since when is not known",
        ),
        (
            replace(FAULT, instances=FaultPlace("some", ("pod-1", "pod-2"), 2, others_fine=True)),
            (
                "POST /cart/checkout fails more often on pod-1 and pod-2 of canary since 2026-11-25"
                " 16:18 UTC (minute 8):"
                " 5.07 % of 812 requests failed (baseline: 0.1 %), most with 503. Other endpoints"
                " are as on the baseline"
            ),
        ),
        (
            replace(FAULT, onset=replace(STEP, elapsed_s=45.0)),
            (
                "POST /cart/checkout fails more often on canary-3 since 2026-11-25 16:18:00 UTC"
                " (second 45): 5.07 % of 812"
                " requests failed (baseline: 0.1 %), most with 503. Other endpoints and instances"
                " are as on the baseline"
            ),
        ),
    ],
)
def test_the_sentence_says_what_is_shown(fault, sentence):
    assert write_fault(fault) == sentence


def test_a_minute_is_rounded_as_its_axis_counts_it():
    assert [name_minute(99.0), name_minute(100.0), name_minute(485.0), name_minute(485.0, up=True)] == [
        "second 99",
        "minute 1",
        "minute 8",
        "minute 9",
    ]


def test_parts_name_what_they_are_about():
    parts = {part.about: part for part in list_parts(FAULT) if part.about}
    assert {about: part.text for about, part in parts.items()} == {
        "endpoint": "POST /cart/checkout",
        "instance": "canary-3",
        "time": "2026-11-25 16:18 UTC",
        "onset": "minute 8",
        "kinds": "503",
    }
    assert parts["time"].at == SINCE


@pytest.mark.parametrize("name", ["human", "markdown", "github", "junit", "html", "json"])
def test_every_report_has_the_sentence(name):
    verdict = replace(find_verdict("no_go"), faults=(FAULT, SLOW))
    shown = " ".join(FORMATS[name](verdict, Page(width=400)).split())
    for words in ("canary-3", "minute 8", "2.04 times as long"):
        assert words in shown


def test_a_go_has_no_card_and_an_open_verdict_says_that_nothing_stands_out():
    verdict = find_verdict("no_go")
    without, nothing = replace(verdict, faults=None), replace(verdict, faults=())
    assert (list_faults(without), list_faults(nothing)) == ([], [NOTHING_SHOWN])
    assert "where:" not in to_human(without)
    assert "Where and since when" not in to_html(without)
    assert NOTHING_SHOWN in to_html(nothing)
    assert "where: In failures and response times no endpoint" in to_human(nothing)
    assert "faults" not in json.loads(to_json(without))
    assert json.loads(to_json(nothing))["faults"] == []


def test_parts_of_the_html_report_are_links_to_sections_that_it_has():
    page = to_html(replace(find_verdict("no_go"), faults=(FAULT,))).replace("<wbr>", "")
    assert '<a href="#endpoints">POST /cart/checkout</a>' in page
    assert '<a href="#panels">canary-3</a>' in page
    assert '<a href="#timeline">minute 8</a>' in page
    bare = to_html(replace(find_verdict("bare"), faults=(FAULT,)))
    assert "canary-3" in bare
    assert '<a href="#panels">' not in bare


@pytest.mark.parametrize(
    "onset", [STEP, RANGE, FaultOnset("start"), FaultOnset("not_known"), replace(STEP, since=None)]
)
def test_a_fault_is_read_back_from_its_json(onset):
    verdict = replace(find_verdict("no_go"), faults=(replace(FAULT, onset=onset), SLOW))
    text = to_json(verdict)
    assert from_json(text).faults == verdict.faults
    assert to_json(from_json(text)) == text


def test_a_verdict_of_an_older_version_is_read():
    plain = json.loads(to_json(find_verdict("no_go")))
    del plain["faults"], plain["failures"]
    old = from_json(json.dumps(plain))
    assert (old.faults, old.failures) == (None, None)
    assert "where:" not in to_human(old)
    assert "failures:" not in to_human(old)


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m"
COUNTS = (
    FailureCount("baseline", None, None, 10_620, 12, (FailureKind(500, "", 12),)),
    FailureCount("canary", None, None, 10_569, 57, (FailureKind(503, "HTTP 503", 50), FailureKind(-1, HOSTILE, 4)), 3),
    FailureCount("canary", None, "canary-3", 2_600, 41, not_recorded=41),
    FailureCount("canary", "POST /cart", None, 2_600, 50, (FailureKind(503, "", 41),), 2, not_recorded=7),
    FailureCount("canary", "POST /cart", "canary-3", 812, 41, (FailureKind(503, "HTTP 503", 41),)),
)
FAILING = replace(find_verdict("no_go"), faults=(FAULT,), failures=COUNTS)


def test_failures_of_each_arm_are_written_with_their_kinds_below_the_card():
    shown = to_human(FAILING, width=400)
    assert "failures: baseline 12 of 10,620 (12 × 500); canary 57 of 10,569 (50 × 503, 4 × <img" in shown
    assert "3 of other kinds)" in shown
    assert shown.index("where:") < shown.index("failures: baseline")
    assert "\x1b" not in shown
    quiet = replace(FAILING, failures=(replace(COUNTS[0], failures=0, kinds=()),))
    assert "failures:" not in to_human(quiet, width=400)
    assert "failures:" not in to_human(replace(FAILING, faults=None), width=400)  # as with a GO


def test_a_share_of_which_no_failure_is_expected_is_none():
    few = replace(FAULT, requests=900, baseline=0.0005)
    assert "(baseline: 0 %)" in write_fault(few)
    assert "(baseline: 0.05 %)" in write_fault(replace(few, requests=1000))


def test_a_failure_of_which_nothing_is_recorded_is_not_called_one_without_a_response():
    unknown = FailureKind(NO_RESPONSE, "", 12)
    assert "(12 × no status recorded)" in to_human(
        replace(FAILING, failures=(replace(COUNTS[0], kinds=(unknown,)),)), width=400
    )


def test_kinds_of_one_name_are_one():
    kinds = (FailureKind(500, "HTTP 500 at a", 9), FailureKind(503, "", 7), FailureKind(500, "HTTP 500 at b", 4))
    counts = (replace(COUNTS[0], failures=20, kinds=kinds),)
    shown = to_human(replace(FAILING, failures=counts, faults=(replace(FAULT, kinds=(kinds[0], kinds[2])),)), width=400)
    assert "(13 × 500, 7 × 503)" in shown
    assert "500 and 500" not in shown


def test_kinds_that_were_not_recorded_are_not_zero():
    shown, folded = list_failure_rows(FAILING)
    assert shown[-1] == ("canary", "POST /cart", "canary-3", "41 of 812 (5.05 %)", "41 × 503")
    assert [row[3:] for row in folded] == [
        ("41 of 2,600 (1.58 %)", "kinds not recorded"),
        ("50 of 2,600 (1.92 %)", "41 × 503, 2 of other kinds, 7 of kinds not recorded"),
    ]
    assert list_failure_rows(replace(FAILING, failures=None)) == ([], [])


def test_kinds_stand_with_the_failures_of_all_endpoints_and_of_one():
    row = next(row for row in FAILING.evidence.comparisons if row.rule.metric.is_failure_rate and not row.scan)
    whole = replace(row, rule=replace(row.rule, slice=Slice(None)))
    assert describe_kinds(whole, COUNTS).startswith("canary: 50 × 503, 4 × <img")
    assert describe_kinds(whole, COUNTS).endswith("3 of other kinds; baseline: 12 × 500")
    one = replace(row, rule=replace(row.rule, slice=Slice("POST /cart")))
    assert describe_kinds(one, COUNTS) == "canary: 41 × 503, 2 of other kinds, 7 of kinds not recorded"
    assert describe_kinds(one, None) == ""


def test_the_html_report_has_a_table_of_failures_and_the_card_links_to_it():
    page = to_html(FAILING).replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ")
    assert '<a href="#failures">503</a>' in page
    assert '<h2 id="failures">Failures</h2>' in page
    assert "41 of 812 (5.05 %)" in page
    assert "2 more places with failures" in page
    assert "<img src=x" not in page
    assert 'id="failures"' not in to_html(replace(FAILING, failures=None))


def test_failures_are_read_back_from_their_json_and_follow_the_schema():
    text = to_json(FAILING)
    assert from_json(text).failures == COUNTS
    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(json.loads(text))
    assert json.loads(text)["failures"][1]["kinds"][1]["status"] is None


def test_found_faults_follow_the_schema():
    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    verdict = find_verdict("no_go")
    assert verdict.faults
    Draft202012Validator(schema).validate(json.loads(to_json(verdict)))
    assert "All 5 endpoints take" in write_fault(verdict.faults[0])
