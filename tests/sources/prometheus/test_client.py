"""What real servers answer is what was scraped: every sample once, at its own time."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from evaluator.errors import SourceError, UsageError
from evaluator.records import Query, QueryKind
from evaluator.sources.prometheus import PrometheusSource, connect
from evaluator.sources.prometheus import client as client_module
from evaluator.sources.prometheus.options import Auth

from .conftest import LONG_S, START, STEP_S, at

COUNTER = Query("http_requests_total{$selector}", QueryKind.COUNTER)
SECONDS = Query("seconds{$selector}", QueryKind.HISTOGRAM)
MEMORY = Query("memory_bytes{$selector}", QueryKind.GAUGE)
LONG = Query("long_gauge{$selector}", QueryKind.GAUGE)
END = START + timedelta(seconds=120 * STEP_S)
ARMS = {"baseline": 'version="baseline"', "canary": '{version="canary"}'}


@pytest.fixture
def options(url):
    return PrometheusSource(url=url, selectors=ARMS, step=STEP_S, endpoint_label="handler")


@pytest.fixture
def source(options):
    with connect(options) as connected:
        yield connected


def test_a_counter_comes_as_it_was_scraped(source):
    answer = source.fetch(COUNTER, "canary", START, END)
    (series,) = answer.series
    assert answer.sent == ('http_requests_total{version="canary"}',)
    assert (series.instance, series.endpoint, series.part) == ("b:1", "/a", "value")
    assert series.labels["code"] == "200"
    np.testing.assert_array_equal(series.ts_ms, [round(at(n) * 1000) for n in range(121)])
    np.testing.assert_array_equal(series.values, [12.0 * (n - 60 if n >= 60 else n) for n in range(121)])
    assert (answer.start, answer.end, answer.step_s, answer.nan, answer.duplicates) == (START, END, STEP_S, 0, 0)


def test_a_missed_scrape_is_missing_and_no_value_is_repeated(source):
    answer = source.fetch(COUNTER, "baseline", START, END)
    by_instance = {series.instance: series for series in answer.series}
    assert by_instance["a:1"].ts_ms.size == 121
    # Its samples lie 0.4 s after the steps, so the last one lies beyond the end.
    np.testing.assert_array_equal(
        by_instance["a:2"].ts_ms, [round((at(n) + 0.4) * 1000) for n in range(120) if not 30 <= n < 40]
    )


def test_a_histogram_is_its_buckets_sum_and_count(source):
    answer = source.fetch(SECONDS, "canary", START, END)
    assert [text.partition("{")[0] for text in answer.sent] == ["seconds_bucket", "seconds_sum", "seconds_count"]
    bounds = sorted(series.le for series in answer.series if series.part == "bucket")
    assert bounds == [0.1, 0.25, float("inf")]
    assert sorted(series.part for series in answer.series) == ["bucket", "bucket", "bucket", "count", "sum"]
    assert all("le" not in series.labels for series in answer.series)


def test_what_is_no_number_is_counted_and_left_out(source, url):
    answer = source.fetch(MEMORY, "canary", START, END)
    (series,) = answer.series
    assert series.ts_ms.size == 120
    assert np.isfinite(series.values).all()


def test_servers_that_run_in_pairs_count_once(source):
    answer = source.fetch(Query("pairs{$selector}", QueryKind.GAUGE), "canary", START, END)
    (series,) = answer.series
    assert (answer.duplicates, series.ts_ms.size) == (1, 20)


def test_windows_are_stitched_without_gap_or_duplicate(source, monkeypatch):
    """More than 11,000 points a series, in windows of all sizes: the same samples as the server has."""
    end = START + timedelta(seconds=LONG_S - 1)
    for points in (client_module.POINTS_AT_A_TIME, 4_999, 701):
        monkeypatch.setattr(client_module, "POINTS_AT_A_TIME", points)
        (series,) = source.fetch(LONG, "canary", START, end).series
        np.testing.assert_array_equal(series.ts_ms, [round(at(n, 1) * 1000) for n in range(LONG_S)])
        np.testing.assert_array_equal(series.values, np.arange(LONG_S) % 97)


def test_an_expression_is_evaluated_at_each_step(options):
    """By a range query, whose windows must not be longer than 11,000 points either."""
    query = Query("long_gauge{$selector} * 2", QueryKind.GAUGE)
    messages = []
    with connect(options.model_copy(update={"step": 1.0})) as source:
        answer = source.fetch(
            query, "canary", START, START + timedelta(seconds=LONG_S - 1), on_progress=messages.append
        )
    (series,) = answer.series
    np.testing.assert_array_equal(series.ts_ms, [round(at(n, 1) * 1000) for n in range(LONG_S)])
    np.testing.assert_array_equal(series.values, 2.0 * (np.arange(LONG_S) % 97))


def test_step_and_window_are_filled_in(source):
    query = Query("avg_over_time(memory_bytes{$selector}[$step])", QueryKind.GAUGE)
    answer = source.fetch(query, "canary", START + timedelta(seconds=60), END)
    assert answer.sent == ('avg_over_time(memory_bytes{version="canary"}[5s])',)
    assert answer.series[0].ts_ms[0] == round(at(12) * 1000)


def test_a_scrape_interval_longer_than_the_step_is_noticed(options):
    with connect(options.model_copy(update={"step": 1.0})) as source:
        assert source.fetch(COUNTER, "canary", START, END).step_s == STEP_S


def test_nothing_is_an_answer_and_can_be_explained(source):
    query = Query('http_requests_total{$selector,code="418"}', QueryKind.COUNTER)
    assert source.fetch(query, "canary", START, END).series == ()
    why = source.explain_nothing(query, "canary", START, END)
    assert 'the server has no series for http_requests_total{version="canary",code="418"}' in why
    assert "code is 200" in why
    gone = source.explain_nothing(Query("nothing_total{$selector}", QueryKind.COUNTER), "canary", START, END)
    assert "there is no metric nothing_total" in gone


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ('code=~"5.."', ""),  # a code like those that are there
        ('code="5xx"', 'no series of http_requests_total ever had code="5xx"; on canary its code is 200'),
        ('status=~"5.."', "no series of http_requests_total on canary has the label status; they have code, handler"),
        ('handler="/b"', 'no series of http_requests_total ever had handler="/b"; on canary its handler is /a'),
        ('handler="/a",code="500"', ""),
    ],
)
def test_a_query_that_could_find_nothing_is_distinguished_from_one_that_found_nothing(source, labels, why):
    query = Query(f"http_requests_total{{$selector,{labels}}}", QueryKind.COUNTER)
    answer = source.fetch(query, "canary", START, END)
    assert answer.series == ()
    assert answer.impossible.startswith(why)
    assert bool(answer.impossible) == bool(why)


def test_a_value_that_the_other_arm_has_could_have_come(source):
    query = Query('jobs_total{$selector,result="failed"}', QueryKind.COUNTER)
    assert source.fetch(query, "canary", START, END).impossible == ""


def test_a_value_that_only_one_arm_has_may_be_a_new_name_of_the_requested_one(source):
    """The candidate calls its failures `error`: it has none that are called `failed`, and that is not 0."""
    query = Query('tasks_total{$selector,result="failed"}', QueryKind.COUNTER)
    assert source.fetch(query, "canary", START, END).impossible == (
        'no series of tasks_total on canary has result="failed"; its result is done, error, and error was never seen '
        "on another arm: it may be its name for failed"
    )


def test_a_label_that_no_series_has_excludes_nothing(source):
    """`status!~"2.."` matches every series that has no status."""
    query = Query('http_requests_total{$selector,status!~"2.."}', QueryKind.COUNTER)
    answer = source.fetch(query, "canary", START, END)
    assert answer.series
    assert "has the label status" in answer.impossible


def test_the_account_of_an_answer_is_complete(source):
    """Where two windows meet a server may send a sample twice."""
    for query in (MEMORY, COUNTER, SECONDS, Query("pairs{$selector}", QueryKind.GAUGE)):
        answer = source.fetch(query, "canary", START, END)
        named = answer.nan + answer.infinite + answer.repeated + answer.outside
        assert answer.read == sum(series.ts_ms.size for series in answer.series) + named
    assert answer.repeated >= 20


def test_malformed_promql_brings_the_servers_own_words(source):
    query = Query("memory_bytes{$selector} +", QueryKind.GAUGE)
    with pytest.raises(SourceError, match=r"the server refused a query \(4\d\d\)") as raised:
        source.fetch(query, "canary", START, END)
    assert "memory_bytes" in raised.value.hint


def test_too_many_series_are_refused(options):
    few = options.model_copy(update={"max_series": 1})
    with connect(few) as source, pytest.raises(SourceError, match="more than the 1 allowed"):
        source.fetch(COUNTER, "baseline", START, END)


def test_times_without_a_zone_are_refused(source):
    with pytest.raises(UsageError, match="has no time zone"):
        source.fetch(COUNTER, "canary", datetime(2026, 10, 1), END)  # noqa: DTZ001


def test_the_description_of_the_source_has_no_secret(options, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_TOKEN", "s3cr3t-value")
    secret = options.model_copy(
        update={"auth": Auth(bearer="${PROMETHEUS_TOKEN}"), "headers": {"X-Key": "${PROMETHEUS_TOKEN}"}}
    )
    with connect(secret) as source:
        assert "s3cr3t" not in repr(source.describe())
        assert abs(source.clock_offset_s) < 2
    assert "s3cr3t" not in repr(secret)
