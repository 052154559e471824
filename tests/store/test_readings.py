"""Readings of a metrics server are stored next to the requests, and are summed up from all polls of their run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from evaluator.errors import StoreError
from evaluator.records import Answer, Query, QueryKind, Release, Run, Series
from evaluator.stats.shaping.readings import sum_up
from evaluator.store.readings import read_answers, write_answers

START = datetime(2026, 10, 1, 12, tzinfo=UTC)
COUNTER = Query("http_requests_total{$selector}", QueryKind.COUNTER)
SECONDS = Query("http_request_duration_seconds{$selector}", QueryKind.HISTOGRAM)
MEMORY = Query("process_resident_memory_bytes{$selector}", QueryKind.GAUGE)
STEP_S = 5
SOURCES = {"url": "http://127.0.0.1:9090", "step_s": STEP_S}


def series(first: int, last: int, values, *, instance="a:1", part="value", le=float("nan"), **labels) -> Series:
    """Samples number `first` to `last`, both included, of a function of the number."""
    numbers = np.arange(first, last + 1)
    ts = (int(START.timestamp()) + numbers * STEP_S) * 1000
    plain = {"instance": instance, **labels}
    return Series(
        plain, instance, labels.get("handler", ""), part, le, ts, np.array([values(n) for n in numbers], float)
    )


def answer(query: Query, arm: str, first: int, last: int, series_of, **options) -> Answer:
    at = [START + timedelta(seconds=STEP_S * number) for number in (first, last)]
    return Answer(query, arm, (f"{query.text} of {arm}",), at[0], at[1], float(STEP_S), tuple(series_of), **options)


def poll(first: int, last: int, **options) -> list[Answer]:
    """Answers of a server with samples `first` to `last`: counters, a histogram and a gauge of two arms."""
    out = []
    for arm, rate in (("baseline", 10), ("canary", 12)):
        instance = f"{arm}:1"
        counters = [
            series(first, last, lambda n, r=rate: r * n, instance=instance, code="200", handler="/a"),
            series(first, last, lambda n: n if n < 15 else n - 15, instance=instance, code="500", handler="/a"),
        ]
        parts = [
            series(first, last, lambda n, r=rate: r * n * 0.9, instance=instance, part="bucket", le=0.25),
            series(first, last, lambda n, r=rate: r * n, instance=instance, part="bucket", le=float("inf")),
            series(first, last, lambda n, r=rate: r * n * 0.1, instance=instance, part="sum"),
            series(first, last, lambda n, r=rate: r * n, instance=instance, part="count"),
        ]
        gauge = [series(first, last, lambda n: 1e6 + n, instance=instance)]
        out += [answer(COUNTER, arm, first, last, counters, **options)]
        out += [answer(SECONDS, arm, first, last, parts), answer(MEMORY, arm, first, last, gauge)]
    return out


@pytest.fixture
def run(store) -> Run:
    run = Run("p-1", "cart@2", "p-1", "prometheus", started=START, planned_end=START + timedelta(minutes=5))
    store.data.register_run(Release("cart@2"), run, bucket_s=15)
    return run


def totals(cells) -> dict[tuple[str, str, int], float]:
    """What each query of each arm adds up to, by part."""
    keys = zip(cells.query, cells.arm, cells.part, cells.total, strict=True)
    out: dict[tuple[str, str, int], float] = {}
    for query, arm, part, total in keys:
        key = cells.queries[query].text, cells.arms[arm], int(part)
        out[key] = out.get(key, 0.0) + float(total)
    return out


COLUMNS = ("query", "arm", "instance", "endpoint", "part", "le", "bucket", "n", "seconds", "total", "peak")


def in_order(cells):
    """Columns of cells, whatever the order of their rows."""
    order = np.lexsort([getattr(cells, name) for name in reversed(COLUMNS)])
    return {name: getattr(cells, name)[order] for name in COLUMNS}


def assert_equal_cells(first, second):
    for name, column in in_order(first).items():
        np.testing.assert_array_equal(column, in_order(second)[name], err_msg=name)
    assert (first.queries, first.arms, first.instances, first.endpoints) == (
        second.queries,
        second.arms,
        second.instances,
        second.endpoints,
    )
    assert first.facts == second.facts


def test_answers_come_back_from_their_file_as_they_were(tmp_path):
    answers = poll(0, 20, warnings=("partial",), nan=2, duplicates=1)
    stored, sources = read_answers([write_answers(tmp_path, "p-1", answers, SOURCES)])
    assert sources == SOURCES
    assert [replace(item, series=()) for item in stored] == [replace(item, series=()) for item in answers]
    for written, read in zip(answers, stored, strict=True):
        key = {(s.instance, s.endpoint, s.part, str(s.le), tuple(sorted(s.labels.items()))): s for s in read.series}
        assert len(key) == len(written.series)
        for item in written.series:
            same = key[item.instance, item.endpoint, item.part, str(item.le), tuple(sorted(item.labels.items()))]
            np.testing.assert_array_equal(item.ts_ms, same.ts_ms)
            np.testing.assert_array_equal(item.values, same.values)


def test_what_was_kept_is_read_as_cells(store, run):
    landed = store.data.keep_answers(run, poll(0, 40), SOURCES)
    assert (landed.rows, landed.segments) == (2 * 7 * 41, 1)
    cells = store.data.read_readings(run)
    assert cells.sources == SOURCES
    assert cells.arms == ("baseline", "canary")
    assert cells.bucket_s == 15
    sums = totals(cells)
    # 200s grow by 400, 500s by 14 up to the restart, then from 0 to 25.
    assert sums[COUNTER.text, "baseline", 0] == 400 + 14 + 25
    assert sums[SECONDS.text, "canary", 3] == 480
    assert {facts.resets for facts in cells.facts if facts.query == COUNTER} == {1}
    assert_equal_cells(cells, replace(sum_up(poll(0, 40), ("baseline", "canary"), 15), sources=SOURCES))


def test_two_polls_are_one_interval(store, run, tmp_path):
    """The restart lies between the polls, and the increase from one poll to the next is counted."""
    store.data.keep_answers(run, poll(0, 14), SOURCES)
    store.data.keep_answers(run, poll(15, 40), SOURCES)
    joined = replace(sum_up(poll(0, 40), ("baseline", "canary"), 15), sources=SOURCES)
    stored = store.data.read_readings(run)
    assert totals(stored) == pytest.approx(totals(joined))
    assert [(facts.resets, facts.missing, facts.expected) for facts in stored.facts] == [
        (facts.resets, facts.missing, facts.expected) for facts in joined.facts
    ]
    assert store.data.collected_until(run) == START + timedelta(seconds=40 * STEP_S)


def test_landing_twice_changes_nothing(store, run):
    store.data.keep_answers(run, poll(0, 20), SOURCES)
    before, hashed = store.data.read_readings(run), store.data.content_hash([run.id])
    again = store.data.land_readings(run)
    assert (again.rows, again.already) == (0, 1)
    assert_equal_cells(before, store.data.read_readings(run))
    assert store.data.content_hash([run.id]) == hashed


def test_a_file_that_was_written_but_not_landed_lands_later(store, run):
    """As it is when the collector is killed in between."""
    write_answers(store.data.segment_folder(run), run.id, poll(0, 20), SOURCES)
    assert store.data.read_readings(run) is None
    assert store.data.land_readings(run).rows == 2 * 7 * 21
    assert totals(store.data.read_readings(run))[SECONDS.text, "baseline", 3] == 200


def test_readings_can_be_queried_and_are_no_requests(store, run):
    store.data.keep_answers(run, poll(0, 20), SOURCES)
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 0}]
    rows = store.data.query(
        "SELECT arm, max(value) AS memory FROM readings WHERE query LIKE 'process%' GROUP BY arm ORDER BY arm"
    ).to_pylist()
    assert rows == [{"arm": "baseline", "memory": 1_000_020.0}, {"arm": "canary", "memory": 1_000_020.0}]
    assert [s.id for s in store.data.runs("cart@2")] == ["p-1"]


def test_purged_readings_keep_their_cells_and_take_no_more(store, run):
    store.data.keep_answers(run, poll(0, 20), SOURCES)
    before = store.data.read_readings(run)
    assert store.data.purge("cart@2") == 2 * 7 * 21
    assert not list(store.data.segment_folder(run).glob("*.readings"))
    assert_equal_cells(before, store.data.read_readings(run))
    with pytest.raises(StoreError, match="purged"):
        store.data.keep_answers(run, poll(21, 30), SOURCES)


def test_a_run_without_readings(store, run):
    assert store.data.read_readings(run) is None
    assert store.data.collected_until(run) is None


def test_a_damaged_file_is_named(store, run):
    path = write_answers(store.data.segment_folder(run), run.id, poll(0, 20), SOURCES)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StoreError, match="poll-"):
        store.data.land_readings(run)
