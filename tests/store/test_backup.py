"""Backups of a store that is in use, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import duckdb
import pytest
from stored import edit_decisions

from evaluator.errors import StoreError
from evaluator.sources.access_logs.tail_state import TailedRun, TailJournal, TailState
from evaluator.store import Store, backup
from evaluator.store.backup import DATA, DECISIONS, JOURNAL, MANIFEST, ROWS, make_backup
from evaluator.store.journal import Journal, find_journal
from evaluator.store.locks import CLAIM, claimed
from evaluator.store.restore import read_manifest, restore_backup


@pytest.fixture
def filled(store, new_run, rows, write):
    """A store with a run of two landed segments, one that has not landed, and a verdict."""
    run = new_run()
    folder = store.data.segment_folder(run)
    write(folder, [rows(100, seed=1), rows(100, seed=2)])
    store.data.land_segments(run.id)
    write(folder, [rows(50, seed=3)], worker="late")
    store.control.save_verdict("cart@2", json.dumps({"release": "cart@2"}), datetime.now(UTC), "go")
    return store


def back_up(store, target, **options):
    return make_backup(store, target, find_journal(store.path), **options)


def count_rows(store) -> int:
    return store.data.query("SELECT count(*) AS n FROM requests").to_pylist()[0]["n"]


def list_left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# ------------------------------------------------------------------ what a backup has


def test_a_backup_has_all_files_with_their_checksums_for_the_owner_only(filled, tmp_path):
    report = back_up(filled, tmp_path / "b")
    manifest = read_manifest(tmp_path / "b")
    assert manifest == report.manifest
    assert {DATA, DECISIONS} <= set(manifest.files)
    assert sum(name.startswith(f"{ROWS}/cart@2/run-1/seg-") for name in manifest.files) == 3
    assert manifest.audit_head == filled.control.verify_audit()
    assert (manifest.changed_by_hand, report.missing) == ("", ())
    for path in (tmp_path / "b", *(tmp_path / "b").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0
    assert list_left(tmp_path) == []


def test_a_restored_store_is_the_same_also_under_another_name(filled, tmp_path):
    filled.control.note("ann", "note", "cart@2", "slow disk")
    back_up(filled, tmp_path / "b")
    for path in (tmp_path / "one" / "evaluator.duckdb", tmp_path / "other" / "shop.duckdb"):
        path.parent.mkdir()
        restore_backup(tmp_path / "b", path, "ann")
        restored = Store.open(path)
        assert count_rows(restored) == 200
        assert restored.control.verdicts("cart@2") == filled.control.verdicts("cart@2")
        assert restored.data.content_hash(["run-1"]) == filled.data.content_hash(["run-1"])
        assert [row.event for row in restored.control.audit()] == ["judged", "note", "restored"]
        restored.control.verify_audit()
        assert restored.data.land_segments("run-1").rows == 50
        assert count_rows(restored) == 250


def test_what_was_changed_by_hand_and_what_is_missing_is_said(filled, tmp_path):
    edit_decisions(filled, "UPDATE verdicts SET word = 'no_go'")
    [gone, *_] = sorted(filled.file.folder.rglob("seg-w-*"))
    gone.unlink()
    report = back_up(filled, tmp_path / "b")
    assert "is not what was written" in report.manifest.changed_by_hand
    assert report.missing == ("cart@2/run-1/seg-w-000000.parquet",)
    restored = restore_backup(tmp_path / "b", tmp_path / "r.duckdb", "ann")
    assert restored.manifest.changed_by_hand


def test_an_import_that_has_not_landed_is_no_recording_afterwards(filled, tmp_path, rows, write):
    unfinished = filled.file.folder / "cart@2" / "run-of-an-import"
    with claimed(unfinished):
        write(unfinished, [rows(10)])
        back_up(filled, tmp_path / "b")
    # One that has landed, and whose claim is about to be deleted, is complete.
    (filled.file.folder / "cart@2" / "run-1" / CLAIM).touch()
    back_up(filled, tmp_path / "c")
    assert not [name for name in read_manifest(tmp_path / "b").files if "run-of-an-import" in name]
    names = [name for name in read_manifest(tmp_path / "c").files if "run-1" in name]
    assert len(names) == 3
    assert not any(CLAIM in name for name in names)


def test_links_are_followed_and_what_is_no_file_is_left_out(filled, tmp_path):
    run_folder = filled.file.folder / "cart@2" / "run-1"
    (tmp_path / "disk").mkdir()
    run_folder.rename(tmp_path / "disk" / "run-1")
    run_folder.symlink_to(tmp_path / "disk" / "run-1")
    (run_folder / "back").symlink_to(filled.file.folder)  # leads around in a circle
    os.mkfifo(run_folder / "pipe")
    (run_folder / "seg-x-000000.parquet.1.tmp").touch()
    names = back_up(filled, tmp_path / "b").manifest.files
    assert sum("run-1/seg-" in name for name in names) == 3
    assert not [name for name in names if name.endswith((".tmp", "pipe"))]
    assert not [path for path in (tmp_path / "b").rglob("*") if path.is_symlink()]


def test_the_newest_copy_of_the_journal_is_in_it(filled, tmp_path):
    older, newer = Journal((tmp_path / "older",)), Journal((tmp_path / "newer",))
    for journal, at in ((older, "2026-01-01"), (newer, "2026-01-02")):
        journal.make()
        journal.append({"kind": "closed", "at": at, "intents": []})
    make_backup(filled, tmp_path / "b", Journal((*older.paths, tmp_path / "gone", *newer.paths)))
    assert (tmp_path / "b" / JOURNAL).read_bytes() == (tmp_path / "newer").read_bytes()
    restore_backup(tmp_path / "b", tmp_path / "r.duckdb", "ann")
    assert Journal((tmp_path / "r.journal",)).read() == newer.read()


# ------------------------------------------------------------------ while the store is used

WORK = """
import importlib.util, json, sys, time
sys.path[:0] = [sys.argv[3], sys.argv[3] + "/store"]
from datetime import UTC, datetime
from pathlib import Path
spec = importlib.util.spec_from_file_location("rows", sys.argv[3] + "/store/conftest.py")
rows = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rows)
make_rows = rows.make_rows
from evaluator.records import Release, Run
from evaluator.records.intents import Person
from evaluator.segments import SegmentWriter
from evaluator.sources.access_logs.tail_state import TailedRun, TailJournal, TailState
from evaluator.store import Store
from test_control_file import draft

store, kind = Store.open(Path(sys.argv[1])), sys.argv[2]
release = f"{kind}@1"
run = Run(f"{kind}-run", release, kind, "locust", started=datetime(2026, 10, 1, 12, tzinfo=UTC))
if kind == "land":
    store.data.register_run(Release(release), run)
    writer = SegmentWriter(store.data.segment_folder(run), "w")
    while True:
        writer.write(make_rows(50, seed=writer.rows))
        store.data.land_segments(run.id)
        facts = {"release": release, "data_hash": store.data.content_hash([run.id])}
        store.control.save_verdict(release, json.dumps(facts), datetime.now(UTC), "go")
        print("ready", flush=True)
        time.sleep(0.05)
elif kind == "tail":
    with TailJournal(store.file.folder / release) as journal:
        state = TailState("g", 0.0, runs=(TailedRun("tail-run"),))
        while True:
            state = journal.commit(state, {"tail-run": [make_rows(10, seed=1)]})
            print("ready", flush=True)
            time.sleep(0.05)
else:
    store.control.add_release(Release(release))
    while True:
        intent = store.control.request(draft(release=release, verdict_hash=str(time.time()), approvals_needed=1))
        store.control.approve(intent.id, Person("bob", ("bob",)))
        print("ready", flush=True)
        time.sleep(0.05)
"""


def test_a_backup_under_load_is_of_one_moment(store, tmp_path, request):
    tests = str(request.config.rootpath / "tests")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORK, str(store.path), kind, tests], stdout=subprocess.PIPE, text=True)
        for kind in ("land", "tail", "ask")
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        time.sleep(0.5)
        for number in range(2):
            report = back_up(store, tmp_path / f"b{number}")
            assert report.paused_s < 5
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    for number in range(2):
        folder = tmp_path / f"b{number}"
        assert read_manifest(folder).changed_by_hand == ""
        path = tmp_path / f"r{number}" / "evaluator.duckdb"
        path.parent.mkdir()
        restore_backup(folder, path, "ann")
        restored = Store.open(path)
        restored.control.verify_audit()
        # The data of the newest verdict have landed, and with at most the one landing that followed it.
        verdicts = restored.control.verdicts("land@1")
        hashes = restored.data.query("SELECT replicate, sha256 FROM segments JOIN runs ON runs.id = run").to_pylist()
        assert len(hashes) - len(verdicts) in (0, 1)
        if len(hashes) == len(verdicts):
            assert json.loads(verdicts[-1].json)["data_hash"] == restored.data.content_hash(["land-run"])
        assert {intent.state for intent in restored.control.intents()} == {"unknown"}
        # Up to the position of the log, each row is there once.
        [run] = json.loads((restored.file.folder / "tail@1" / "tail.json").read_text())["runs"]
        segments = (restored.file.folder / "tail@1" / "tail-run").glob("seg-*")
        assert len({path.name.removesuffix(".staged") for path in segments}) == run["next_segment"]


def test_decisions_and_readers_are_not_stopped_by_a_backup_and_deleting_is(filled, tmp_path, monkeypatch):
    seen = []
    copy_database = backup.copy_database

    def use_it_meanwhile(*arguments):
        code = "import duckdb, sys; duckdb.connect(sys.argv[1])"
        writer = subprocess.run([sys.executable, "-c", code, str(filled.path)], capture_output=True, check=False)
        assert b"Could not set lock" in writer.stderr  # nothing lands
        filled.control.note("ann", "note", "cart@2", "meanwhile")
        seen.append(Store.open(filled.path).releases()[0].release.id)
        copy_database(*arguments)

    monkeypatch.setattr(backup, "copy_database", use_it_meanwhile)
    back_up(filled, tmp_path / "b")
    assert seen == ["cart@2"]
    restore_backup(tmp_path / "b", tmp_path / "r.duckdb", "ann")
    # What was decided after the moment of the backup is not in it.
    assert [row.event for row in Store.open(tmp_path / "r.duckdb").control.audit()] == ["judged", "restored"]

    hash_files = backup._choose_files

    def purge_meanwhile(*arguments):
        code = "import sys; from pathlib import Path; from evaluator.store import Store; "
        code += "Store.open(Path(sys.argv[1]), wait_s=0.2).data.purge('cart@2')"
        process = subprocess.run([sys.executable, "-c", code, str(filled.path)], capture_output=True, check=False)
        assert b"request rows of the store" in process.stderr
        return hash_files(*arguments)

    monkeypatch.setattr(backup, "_choose_files", purge_meanwhile)
    back_up(filled, tmp_path / "c")


def test_a_file_that_is_replaced_meanwhile_begins_it_again(filled, tmp_path, monkeypatch):
    [path, *_] = sorted(filled.file.folder.rglob("seg-w-*"))
    choose_files, times = backup._choose_files, []

    def replace_once(*arguments):
        if not times:
            other = path.with_name("other")
            other.write_bytes(path.read_bytes())
            other.replace(path)
        times.append(1)
        return choose_files(*arguments)

    monkeypatch.setattr(backup, "_choose_files", replace_once)
    back_up(filled, tmp_path / "b")
    assert len(times) == 2
    assert list_left(tmp_path) == []


def test_rows_of_a_log_that_come_after_its_position_are_left_out(filled, tmp_path, rows, monkeypatch):
    release = filled.file.folder / "tail@1"
    with TailJournal(release) as journal:
        state = journal.commit(TailState("g", 0.0, runs=(TailedRun("t"),)), {"t": [rows(10)]})
        read_texts = backup._read_texts

        def follow_on(root):
            texts = read_texts(root)
            journal.commit(state, {"t": [rows(20)]})
            return texts

        monkeypatch.setattr(backup, "_read_texts", follow_on)
        back_up(filled, tmp_path / "b")
    restore_backup(tmp_path / "b", tmp_path / "r.duckdb", "ann")
    [position] = json.loads((tmp_path / "r.data" / "tail@1" / "tail.json").read_text())["runs"]
    assert position["rows"] == 10
    assert [path.name for path in (tmp_path / "r.data" / "tail@1" / "t").iterdir()] == ["seg-tail-000000.parquet"]


def test_a_segment_that_gets_its_name_meanwhile_is_there(filled, tmp_path, rows, monkeypatch):
    release = filled.file.folder / "tail@1"
    with TailJournal(release) as journal:
        journal.commit(TailState("g", 0.0, runs=(TailedRun("t"),)), {"t": [rows(10)]})
    published = release / "t" / "seg-tail-000000.parquet"
    staged = published.with_name(published.name + ".staged")
    for attempt, moment in enumerate(("_read_texts", "_list_files", "_choose_files")):
        published.rename(staged)
        operation = getattr(backup, moment)

        def publish_then(*arguments, operation=operation):
            result = operation(*arguments)
            result = list(result) if moment == "_list_files" else result  # noqa: B023 - called in this turn
            if staged.exists():
                staged.rename(published)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(backup, moment, publish_then)
            back_up(filled, tmp_path / f"b{attempt}")
        (tmp_path / str(attempt)).mkdir()
        restore_backup(tmp_path / f"b{attempt}", tmp_path / str(attempt) / "r.duckdb", "ann")
        with TailJournal(tmp_path / str(attempt) / "r.data" / "tail@1") as journal:
            journal.load()
        restored = tmp_path / str(attempt) / "r.data" / "tail@1" / "t"
        assert [path.name for path in restored.iterdir()] == [published.name]


# ------------------------------------------------------------------ refused, and cut off


def test_a_target_that_cannot_be_meant_is_refused(filled, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(filled.file.folder)
    before = sorted(tmp_path.rglob("*"))
    for target, says in (
        (tmp_path / "there", "exists already"),
        (tmp_path / "dangling", "exists already"),
        (filled.path, "exists already"),
        (tmp_path / "not" / "there", "there is no folder"),
        (filled.file.folder / "b", "which is part of the store"),
        (filled.file.folder / "cart@2" / "b", "which is part of the store"),
        (tmp_path / "link" / "b", "which is part of the store"),
    ):
        with pytest.raises(StoreError, match=says) as caught:
            back_up(filled, target)
        assert "nothing was written" in caught.value.message
    assert sorted(tmp_path.rglob("*")) == before


RUN = """
import signal, sys, time
from pathlib import Path
from evaluator.errors import EvaluatorError
from evaluator.store import Store, backup
from evaluator.store.journal import find_journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.open(Path(sys.argv[1]))
if sys.argv[3] == "wait":
    backup._choose_files = lambda *_: (print("copying", flush=True), time.sleep(60))
try:
    backup.make_backup(store, Path(sys.argv[2]), find_journal(store.path))
except EvaluatorError as error:
    print(error.message)
"""


def test_a_killed_backup_leaves_nothing_that_looks_like_one(filled, tmp_path):
    target = tmp_path / "b"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(filled.path), str(target), "wait"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "copying\n"
    [unfinished] = list_left(tmp_path)
    # A second one does not take the folder of the first, which lives, for left behind.
    back_up(filled, tmp_path / "c")
    assert list_left(tmp_path) == [unfinished]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    with pytest.raises(StoreError, match=r"is not a backup: it has no manifest\.json"):
        restore_backup(tmp_path / unfinished, tmp_path / "r.duckdb", "ann")
    back_up(filled, target)
    assert list_left(tmp_path) == []


def test_a_full_disk_ends_a_backup_with_a_sentence_and_leaves_nothing(filled, tmp_path):
    limit = filled.path.stat().st_size // 2
    process = subprocess.run(
        [sys.executable, "-c", RUN, str(filled.path), str(tmp_path / "b"), "go"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert "cannot be" in process.stdout
    assert "File too large" in process.stdout
    assert not (tmp_path / "b").exists()
    assert list_left(tmp_path) == []


def test_a_copy_that_stops_others_for_too_long_is_given_up(filled, tmp_path):
    with pytest.raises(StoreError, match="takes too long: nothing can land meanwhile") as caught:
        back_up(filled, tmp_path / "b", pause_s=-1.0)
    assert "--pause" in caught.value.hint
    assert list_left(tmp_path) == []


# ------------------------------------------------------------------ an older evaluator


def test_a_newer_store_is_left_alone_by_every_part(filled, monkeypatch):
    edit_decisions(filled, "PRAGMA user_version = 99")
    edit_decisions(filled, "PRAGMA wal_checkpoint(TRUNCATE)")
    files = [filled.path, filled.control.file.path]
    before = [path.read_bytes() for path in files]
    for use in (
        lambda: Store.open(filled.path),
        lambda: Store.open(filled.path, create=True),
        lambda: Store.open(filled.path, decisions_only=True),
        lambda: filled.control.note("ann", "note", "cart@2", "x"),
        lambda: filled.control.expire(datetime.now(UTC)),
    ):
        with pytest.raises(StoreError, match=r"newer evaluator \(schema 99, this one knows") as caught:
            use()
        assert "upgrade the evaluator" in caught.value.hint
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, r"newer evaluator 9\.9\.9 \(format 2, this one knows 1\)"),
        ({"schemas": {"data": 999, "decisions": 1}}, r"newer evaluator 9\.9\.9 \(schema 999 of the data, this one"),
        ({"schemas": {"data": 1, "decisions": 999}}, r"schema 999 of the decisions, this one knows"),
    ],
)
def test_a_backup_of_a_newer_evaluator_is_not_restored(filled, tmp_path, change, says):
    back_up(filled, tmp_path / "b")
    path = tmp_path / "b" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluator": "9.9.9"} | change))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=says):
        restore_backup(tmp_path / "b", tmp_path / "r.duckdb", "ann")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_backup_of_an_older_evaluator_is_brought_up_to_date(filled, tmp_path, monkeypatch):
    from evaluator.store import migrations, restore

    back_up(filled, tmp_path / "b")
    steps = (*migrations.MIGRATIONS, ("CREATE TABLE store.later (x INTEGER)",))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", len(steps))
    monkeypatch.setattr(restore, "SCHEMA_VERSION", len(steps))
    restore_backup(tmp_path / "b", tmp_path / "r.duckdb", "ann")
    with duckdb.connect(tmp_path / "r.duckdb", read_only=True) as engine:
        assert engine.execute("SELECT count(*) FROM later").fetchall() == [(0,)]
