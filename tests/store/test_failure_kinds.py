"""Kinds of failures (HTTP status, exception) by arm, endpoint and instance, and that their number is bounded."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import duckdb
import numpy as np
import pytest
from store.conftest import START, make_rows

from evaluator.records import NO_RESPONSE, OTHER_KINDS
from evaluator.stats.shaping.failures import list_failures
from evaluator.store import Store, rollup
from evaluator.store.rollup import LONGEST_TEXT, MOST_KINDS, MOST_TEXTS, OTHER_TEXTS


def make_failures(exceptions: list[str | None], **columns):
    """A failed request with each of these exceptions, one after another, then one that succeeds."""
    count = len(exceptions) + 1
    rows = {
        "arm": "canary",
        "instance": "pod-1",
        "endpoint": "GET /",
        "ts": [START + timedelta(milliseconds=k) for k in range(count)],
        "status_code": [503] * count,
        "failed": [*[True] * len(exceptions), False],
        "exception": [*exceptions, None],
    }
    return make_rows(count, **{**rows, **columns})


def count_kinds(cells) -> Counter:
    """Failures by arm, endpoint, instance, status and exception, by name."""
    kinds, counted = cells.failure_kinds, Counter()
    for row, n in enumerate(kinds.n.tolist()):
        instance = cells.instances[kinds.instance[row]] if kinds.instance[row] >= 0 else None
        key = cells.arms[kinds.arm[row]], cells.endpoints[kinds.endpoint[row]], instance
        counted[*key, int(kinds.status[row]), kinds.exception[row]] += n
    return counted


def test_kinds_are_counted_by_arm_endpoint_and_instance(store, new_run, rows, write):
    run, table = new_run(), rows(3000)
    write(store.data.segment_folder(run), [table.slice(0, 1000), table.slice(1000)])
    store.data.land_segments(run.id)
    expected = Counter(
        (row["arm"], row["endpoint"], row["instance"] or row["arm"], row["status_code"], row["exception"])
        for row in table.to_pylist()
        if row["failed"]
    )
    assert count_kinds(store.data.read_cells([run.id])) == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("HTTP 503", "HTTP 503"),
        ("order 4711 is gone, port 8080", "order 4711 is gone, port 8080"),
        ("request 123e4567-e89b-12d3-a456-426614174000 failed", "request … failed"),
        ("<Connection object at 0x7f3a2b1c4d50>: refused", "<Connection object at …>: refused"),
        ("trace 4bf92f3577b34da6a3ce929d0e0e4736", "trace …"),
        ("order 1234567 failed at 1764460800", "order … failed at …"),
        ("broken\npipe", "broken\npipe"),
        ("é" * 500, "é" * LONGEST_TEXT),
        (
            "HTTPError('500 Server Error: Internal Server Error for url: /cart/7?u=1')",
            "HTTPError('500 Server Error: Internal Server Error …')",
        ),
        ("Max retries exceeded with url: /cart (Caused by X)", "Max retries exceeded … (Caused by X)"),
        (None, ""),
    ],
)
def test_what_differs_each_time_is_replaced_and_long_texts_are_cut(store, new_run, write, text, kept):
    run = new_run()
    write(store.data.segment_folder(run), [make_failures([text])])
    store.data.land_segments(run.id)
    assert set(store.data.read_cells([run.id]).failure_kinds.exception) == {kept}


def count_texts(store: Store) -> int:
    with duckdb.connect(store.path, read_only=True) as engine:
        return int(engine.execute("SELECT count(*) FROM names WHERE kind = 'exception'").fetchall()[0][0])


@pytest.mark.parametrize("many_failures", [1_000_000, 100])
def test_many_different_texts_become_one_kind_also_over_several_landings(
    store, new_run, write, monkeypatch, many_failures
):
    monkeypatch.setattr(rollup, "_MANY_FAILURES", many_failures)
    run, folder = new_run(), None
    for landing in range(3):
        texts = ["refused"] * 40 + [f"error {landing}-{k}" for k in range(2 * MOST_TEXTS)]
        folder = store.data.segment_folder(run)
        write(folder, [make_failures(texts)])
        store.data.land_segments(run.id)
        assert count_texts(store) <= MOST_TEXTS + 2  # and "" for the rarest kinds
    counted = count_kinds(store.data.read_cells([run.id]))
    assert sum(counted.values()) == 3 * (40 + 2 * MOST_TEXTS)
    assert counted["canary", "GET /", "pod-1", 503, "refused"] == 120
    assert counted["canary", "GET /", "pod-1", 503, OTHER_TEXTS] > 2 * MOST_TEXTS
    assert len(counted) <= 3 * (MOST_KINDS + 1)


def test_the_rarest_kinds_of_a_place_are_counted_together(store, new_run, write):
    run = new_run()
    statuses = np.array([400 + k for k in range(2 * MOST_KINDS) for _ in range(k + 1)] + [200])
    table = make_failures([None] * (len(statuses) - 1), status_code=statuses)
    write(store.data.segment_folder(run), [table])
    store.data.land_segments(run.id)
    counted = count_kinds(store.data.read_cells([run.id]))
    assert len(counted) == MOST_KINDS + 1
    assert counted["canary", "GET /", "pod-1", OTHER_KINDS, ""] == sum(range(1, MOST_KINDS + 1))
    assert counted["canary", "GET /", "pod-1", 400 + 2 * MOST_KINDS - 1, ""] == 2 * MOST_KINDS
    [of_arm] = [count for count in list_failures(store.data.read_cells([run.id])) if count.arm == "canary"][:1]
    assert [kind.status for kind in of_arm.kinds] == [439, 438, 437]
    assert (of_arm.failures, of_arm.not_recorded) == (len(statuses) - 1, 0)
    assert of_arm.other_kinds == of_arm.failures - sum(kind.n for kind in of_arm.kinds)


def test_a_failure_without_a_response_has_no_status(store, new_run, write):
    run = new_run()
    write(store.data.segment_folder(run), [make_failures(["refused"], status_code=[None, 200])])
    store.data.land_segments(run.id)
    assert count_kinds(store.data.read_cells([run.id])) == {("canary", "GET /", "pod-1", NO_RESPONSE, "refused"): 1}


def test_kinds_of_an_older_store_are_not_recorded_by_instance_and_never_zero(store, new_run, rows, write):
    run, table = new_run(), rows(3000)
    write(store.data.segment_folder(run), [table.slice(0, 2000)])
    store.data.land_segments(run.id)
    with duckdb.connect(store.path) as engine:
        engine.execute("ALTER TABLE failure_kinds DROP COLUMN instance")
        engine.execute("UPDATE meta SET schema_version = schema_version - 1")
    upgraded = Store.open(store.path)
    before = list_failures(upgraded.data.read_cells([run.id]))
    write(upgraded.data.segment_folder(run), [table.slice(2000)])  # the run goes on with the new evaluator
    upgraded.data.land_segments(run.id)
    after = list_failures(upgraded.data.read_cells([run.id]))
    assert before
    for counts, share in ((before, 1.0), (after, 2 / 3)):
        for count in counts:
            recorded = sum(kind.n for kind in count.kinds) + count.other_kinds
            assert recorded + count.not_recorded == count.failures
            if count.instance is None:
                assert count.not_recorded == 0
            else:
                assert count.not_recorded > 0
                assert (count.not_recorded == count.failures) is (share == 1.0)
