"""Compaction moves rows: at any point of it, also for readers and after a kill, each row exists once."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evaluator.errors import StoreBusy
from evaluator.pipeline import loading
from evaluator.pipeline.judging import judge_release
from evaluator.policy import load_policy
from evaluator.records import RunFacts, RunState
from evaluator.reports import to_json
from evaluator.segments import SegmentWriter, segment_paths
from evaluator.sources.load import RunOutcome
from evaluator.store import Store, data, maintenance
from evaluator.store.data import StoredData
from evaluator.store.locks import shared
from evaluator.store.maintenance import open_snapshot

NOW = datetime(2026, 10, 2, tzinfo=UTC)
COUNT = "SELECT count(*) AS n FROM requests"

STOP_AT = """
import sys
from pathlib import Path
from evaluator.store import Store, file, maintenance

def stop_before(name):
    module = file if name == "transaction" else maintenance
    go_on = getattr(module, name)
    def stop(*args, **kwargs):
        print("here", flush=True)
        sys.stdin.readline()
        return go_on(*args, **kwargs)
    setattr(module, name, stop)

stop_before(sys.argv[3])
Store.open(Path(sys.argv[1])).data.compact(sys.argv[2])
"""


@pytest.fixture
def hourly(monkeypatch):
    """Let every landed segment of a running run be an hour old."""
    monkeypatch.setattr(data, "COMPACT_AFTER", timedelta(0))


def count(store):
    return store.data.query(COUNT).to_pylist()[0]["n"]


def land(store, run):
    """Land what is new, and an hour later compact it."""
    landed = store.data.land_segments(run.id)
    store.data.land_segments(run.id)
    return landed


def files(store, run):
    return sorted(path.relative_to(store.data.segment_folder(run)).as_posix() for path in _parquet(store, run))


def _parquet(store, run):
    return store.data.segment_folder(run).rglob("*.parquet")


def test_a_running_run_is_left_alone_for_an_hour(store, new_run, rows, write):
    run = new_run()
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(3)])
    store.data.land_segments(run.id)
    store.data.land_segments(run.id)
    assert len(segment_paths(store.data.segment_folder(run))) == 3


def test_a_running_run_is_compacted_again_and_again(store, new_run, rows, write, hourly):
    run = new_run()
    for hour in range(3):
        write(store.data.segment_folder(run), [rows(100, seed=10 * hour + k) for k in range(4)], worker=f"w{hour}")
        landed = land(store, run)
        assert (landed.rows, landed.already) == (400, 4 * hour)
        assert [Path(name).parent.name for name in files(store, run)] == ["merged"]
        assert count(store) == 400 * (hour + 1)
    assert store.data.read_cells([run.id]).moments.n.sum() == 1200
    assert store.data.query("SELECT count(DISTINCT sha256) AS n FROM segments").to_pylist() == [{"n": 12}]


def test_large_files_are_not_merged_again(store, new_run, rows, write, hourly, monkeypatch):
    run = new_run()
    for hour in range(2):
        paths = write(
            store.data.segment_folder(run), [rows(100, seed=9 * hour + k) for k in range(9)], worker=f"w{hour}"
        )
        monkeypatch.setattr(maintenance, "MERGED_BYTES", max(path.stat().st_size for path in paths) + 1)
        land(store, run)
    assert len(files(store, run)) == 2
    assert count(store) == 1800


def test_compaction_changes_no_byte_of_the_verdict(store, new_run, rows, write, monkeypatch):
    run = new_run()
    write(store.data.segment_folder(run), [rows(2000, seed=k) for k in range(4)])
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=run.planned_end, facts=RunFacts())

    def judge():
        return to_json(judge_release(store, "cart@2", load_policy(None), judged_at=NOW))

    with monkeypatch.context() as patch:
        patch.setattr(StoredData, "compact", lambda *_: 0)
        before, hashed = judge(), store.data.content_hash([run.id])
        assert len(files(store, run)) == 4
    assert judge() == before
    assert len(files(store, run)) == 1
    assert store.data.content_hash([run.id]) == hashed


@pytest.mark.parametrize("step", ["transaction", "_remove_replaced", "_delete"])
def test_killed_at_any_step_loses_nothing_and_doubles_nothing(store, new_run, rows, write, step):
    run = new_run()
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(4)])
    store.data.land_segments(run.id)
    before = store.data.content_hash([run.id])
    command = [sys.executable, "-c", STOP_AT, str(store.path), run.id, step]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    if step == "_remove_replaced":
        assert store.data.compact(run.id) == 0  # the other one is at it
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(files(store, run)) == 5
    assert count(store) == 400
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=run.planned_end, facts=RunFacts())
    assert store.data.land_segments(run.id).rows == 0
    assert len(files(store, run)) == 1
    assert count(store) == 400
    assert store.data.content_hash([run.id]) == before


def test_a_file_with_other_content_is_not_deleted(store, new_run, rows, write):
    run = new_run()
    [first, _] = write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(2)])
    store.data.land_segments(run.id)
    store.data.compact(run.id)
    [again] = write(first.parent / "elsewhere", [rows(7)])
    again.rename(first)
    store.data.compact(run.id)
    assert first.exists()


def test_a_half_written_merged_file_goes(store, new_run, rows, write):
    run = new_run()
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(2)])
    store.data.land_segments(run.id)
    half = store.data.segment_folder(run) / "merged" / "seg-merged-000000.parquet.tmp"
    half.parent.mkdir()
    half.write_bytes(b"half")
    assert store.data.compact(run.id) == 2
    assert not half.exists()


def test_a_reader_in_the_middle_sees_every_row(store, new_run, rows, write, hourly):
    run = new_run()
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(4)])
    with open_snapshot(store.file, COUNT) as reader:
        store.data.land_segments(run.id)
        assert reader.execute(COUNT).fetchall() == [(0,)]
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(4, 8)])
    with open_snapshot(store.file, COUNT) as reader:
        land(store, run)
        assert count(store) == 800
        assert reader.execute(COUNT).fetchall() == [(400,)]
        assert len(files(store, run)) == 9
        store.data.land_segments(run.id)
        assert reader.execute(COUNT).fetchall() == [(400,)]
    store.data.land_segments(run.id)
    assert len(files(store, run)) == 1
    assert count(store) == 800


def test_purge_waits_for_readers_and_leaves_no_file(store, new_run, rows, write, hourly):
    run = new_run()
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(4)])
    with shared(store.file.empty_segment):
        land(store, run)
        assert len(files(store, run)) == 5
        with pytest.raises(StoreBusy, match="request rows"):
            Store.open(store.path, wait_s=0.1).data.purge("cart@2")
        assert count(store) == 400
    assert store.data.purge("cart@2") == 400
    assert files(store, run) == []
    assert store.data.land_segments(run.id).rows == 0


def test_unreadable_segments_are_not_taken_for_replaced(store, new_run, rows, write, hourly):
    run = new_run()
    *_, bad = write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(4)])
    bad.write_bytes(b"")
    store.data.land_segments(run.id)
    assert bad.with_name(bad.name + ".unreadable").exists()
    assert count(store) == 300


def test_a_load_lands_and_compacts_while_it_runs(store, new_run, rows, monkeypatch):
    observed = []
    run = new_run()

    def run_locust(plan, run, folder, on_line, why_stop):
        writer = SegmentWriter(folder, "w")
        for k in range(4):
            writer.write(rows(100, seed=k))
        deadline = time.monotonic() + 60
        while segment_paths(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        observed.append((segment_paths(folder), count(store)))
        writer.write(rows(100, seed=4))
        return RunOutcome(RunState.COMPLETE, run.started, run.planned_end, run.planned_end, RunFacts(), 0)

    monkeypatch.setattr(loading, "KEEP_UP_S", 0.3)
    monkeypatch.setattr(loading, "run_locust", run_locust)
    messages = []
    loading._load_once(store, run, None, None, messages.append, None)
    assert observed == [((), 400)]
    assert "landed 400 requests in 4 segments" in messages
    assert count(store) == 500
    assert len(files(store, run)) == 1


def test_a_store_that_is_busy_does_not_end_the_load(store, new_run, monkeypatch):
    def busy(*_):
        raise StoreBusy("the store is kept open")

    messages = []
    monkeypatch.setattr(loading, "KEEP_UP_S", 0.01)
    monkeypatch.setattr(StoredData, "land_segments", busy)
    with loading._landing_hourly(store, new_run(), messages.append):
        while len(messages) < 2:
            time.sleep(0.01)
    assert messages[0] == "not landed yet: the store is kept open"
