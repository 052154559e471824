"""Exports, queries of a snapshot, and purging."""

import pyarrow.parquet as pq
import pytest

from evaluator.errors import StoreError, UsageError
from evaluator.store.maintenance import EXPORTED


@pytest.fixture
def filled(store, new_run, rows, write):
    """Two releases with 40 and 25 requests that have landed."""
    for name, count in (("a", 40), ("b", 25)):
        run = new_run(f"run-{name}", release=f"{name}@1")
        write(store.data.segment_folder(run), [rows(count, run=run.id)])
        store.data.land_segments(run.id)
    return store


def test_an_export_holds_what_is_stored_of_one_release(filled, tmp_path):
    paths = filled.data.export("a@1", tmp_path / "out")
    assert [path.stem for path in paths] == list(EXPORTED)
    requests, runs, moments = (
        pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("requests", "runs", "moments")
    )
    assert requests.num_rows == 40
    assert set(requests.column("run").to_pylist()) == {"run-a"}
    assert runs.column("id").to_pylist() == ["run-a"]
    assert sum(moments.column("n").to_pylist()) == 40
    assert set(moments.column("arm").to_pylist()) == {"baseline", "canary"}


def test_an_export_overwrites_nothing(filled, tmp_path):
    filled.data.export("a@1", tmp_path / "out")
    with pytest.raises(UsageError, match="exists already; nothing was exported") as caught:
        filled.data.export("b@1", tmp_path / "out")
    assert caught.value.hint == "give another folder with --to"
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        filled.data.export("b@1", tmp_path / "file" / "out")


def test_a_query_reads_tables_and_requests_of_all_releases(filled):
    table = filled.data.query("SELECT run, count(*) AS n FROM requests WHERE run <> ? GROUP BY run", ["run-b"])
    assert table.to_pylist() == [{"run": "run-a", "n": 40}]
    assert filled.data.query("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 2}]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELEC 1", "the query cannot be run: Parser Error"),
        ("SELECT * FROM nothing", "the query cannot be run: Catalog Error"),
        ("CREATE TABLE x (a INTEGER)", "cannot be run|has no result"),
    ],
)
def test_what_cannot_be_run_is_reported_in_a_line(filled, sql, says):
    for ask in (filled.data.query, filled.data.relate, filled.data.render):
        with pytest.raises(UsageError, match=says) as caught:
            ask(sql)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_what_fails_only_when_it_is_drawn_is_reported_too(filled):
    with pytest.raises(UsageError, match="the query cannot be run"):
        filled.data.render("SELECT CAST(arm AS INTEGER) FROM requests")


def test_a_drawn_query_shows_as_many_rows_as_requested(filled):
    drawn = filled.data.render("SELECT range AS k FROM range(100, 200)", rows=3)
    assert [k for k in range(100, 200) if str(k) in drawn] == [100, 101, 102]


def test_a_relation_is_of_one_release_where_it_is_named_and_outlives_its_copy(filled):
    count = "SELECT count(*) AS n, min(run) AS run FROM requests"
    alone = filled.data.relate(count, release="b@1")
    everything = filled.data.relate(count)
    assert alone.fetchall() == [(25, "run-b")]
    assert everything.fetchall() == [(65, "run-a")]
    filled.data.purge("b@1")  # nobody is kept out by a relation


def test_purging_deletes_the_rows_of_one_release_and_says_how_many(filled):
    folder = filled.file.folder
    before = {path for path in folder.rglob("*.parquet") if path != filled.file.empty_segment}
    assert filled.data.purge("a@1") == 40
    remaining = {path for path in folder.rglob("*.parquet") if path != filled.file.empty_segment}
    assert {path.parent.name for path in before - remaining} == {"run-a"}
    assert remaining
    assert filled.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 25}]
    assert filled.data.purge("a@1") == 0
