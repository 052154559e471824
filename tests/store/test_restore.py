"""Restoring a store: what is refused, what an interrupted restore leaves, and that nothing is executed by itself."""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stored import edit_decisions

from evaluator.errors import StoreError, UsageError
from evaluator.records import Release, Run, Service
from evaluator.records.intents import Action, Delivery, HookOutcome, Intent, IntentState, Person
from evaluator.store import Store
from evaluator.store.backup import DATA, DECISIONS, MANIFEST, make_backup
from evaluator.store.control_file import control_path
from evaluator.store.journal import find_journal
from evaluator.store.new_decisions import begin_decisions
from evaluator.store.restore import restore_backup

NOW = datetime.now(UTC)


def draft(**changes):
    fields = {
        "id": "", "key": "", "release": "cart@2", "action": Action.PROMOTE, "requester": "ann", "reason": "why",
        "verdict_hash": "", "data_hash": "", "policy_hash": "", "requested_at": datetime.now(UTC),
        "expires_at": datetime.now(UTC) + timedelta(hours=1), "approvals_needed": 0, "distinct": False,
    }  # fmt: skip
    return Intent(**fields | changes)


@pytest.fixture
def backup(store, new_run, tmp_path) -> Path:
    """A backup of a store with one run, and requests in all states before the end."""
    new_run()
    control = store.control
    waits = control.request(draft(approvals_needed=2, verdict_hash="a"))
    control.approve(waits.id, Person("bob", ("bob",)))
    control.request(draft(verdict_hash="b"))
    begun = control.request(draft(verdict_hash="c"))
    control.claim(begun, "worker of the past")
    for position, state in enumerate((IntentState.ACKNOWLEDGED, IntentState.SENT)):
        outcome = HookOutcome(state, "", json.dumps({"weights": 1}))
        control.deliver(Delivery(begun.id, position, "haproxy", 1, outcome, NOW, "promote", "{}"), "cart@2", "w")
    make_backup(store, tmp_path / "backup", find_journal(store.path))
    return tmp_path / "backup"


def list_all(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


# ------------------------------------------------------------------ nothing is executed by itself


def test_what_waited_is_unknown_afterwards_and_no_worker_takes_it(backup, tmp_path):
    path = tmp_path / "r.duckdb"
    restored = restore_backup(backup, path, "ann")
    assert [intent.state for intent in restored.suspended] == ["requested", "approved", "sent"]
    control = Store.open(path).control
    assert [intent.state for intent in control.intents()] == ["unknown"] * 3
    assert control.waiting() == ()
    assert [delivery.outcome.state for delivery in control.deliveries("i3")] == ["acknowledged", "unknown"]
    assert control.deliveries("i3")[1].outcome.undo  # a rollback can still undo it
    with pytest.raises(UsageError, match="i1 is unknown, so there is nothing to approve"):
        control.approve("i1", Person("cem", ("cem",)))
    events = [(row.event, row.intent) for row in control.audit()][-4:]
    assert events == [("restored", ""), ("unknown", "i1"), ("unknown", "i2"), ("unknown", "i3")]
    control.verify_audit()
    control.verify_release("cart@2")


def test_numbers_and_keys_that_may_have_been_given_are_not_given_again(store, backup, tmp_path):
    lost = store.control.request(draft(verdict_hash="d"))
    restore_backup(backup, tmp_path / "r.duckdb", "ann")
    control = Store.open(tmp_path / "r.duckdb").control
    new = control.request(draft(verdict_hash="d"))
    assert lost.id == "i4"
    assert int(new.id.removeprefix("i")) > 1000
    assert new.key != lost.key
    next_one = control.request(draft(verdict_hash="e"))
    assert int(next_one.id.removeprefix("i")) == int(new.id.removeprefix("i")) + 1


def test_numbers_of_a_store_that_is_replaced_are_not_given_again(store, backup):
    edit_decisions(store, "UPDATE intents SET number = 1700, id = 'i1700' WHERE id = 'i3'")
    restore_backup(backup, store.path, "ann", replace=True)
    assert int(Store.open(store.path).control.request(draft(verdict_hash="d")).id.removeprefix("i")) > 2700


def test_a_restart_that_was_edited_is_found(backup, tmp_path):
    restore_backup(backup, tmp_path / "r.duckdb", "ann")
    store = Store.open(tmp_path / "r.duckdb")
    assert store.control.restarted_at() is not None
    edit_decisions(store, "DELETE FROM restarts")
    with pytest.raises(StoreError, match=r"recorded \(restored\) is gone"):
        store.control.verify_audit()


# ------------------------------------------------------------------ what is there is kept


def test_a_store_that_is_there_is_moved_and_never_deleted(store, backup):
    store.control.note("ann", "note", "cart@2", "after the backup")
    (store.file.folder / "cart@2").mkdir(exist_ok=True)
    (store.file.folder / "cart@2" / "something").write_text("x")
    before = list_all(store.path.parent)
    with pytest.raises(StoreError, match=r"evaluator\.duckdb exists already; nothing was restored") as caught:
        restore_backup(backup, store.path, "ann")
    assert "--replace" in caught.value.hint
    assert list_all(store.path.parent) == before
    restored = restore_backup(backup, store.path, "ann", replace=True)
    moved = list_all(restored.aside)
    assert moved == {name: content for name, content in before.items() if name.startswith("evaluator.")}
    assert "after the backup" not in [row.text for row in Store.open(store.path).control.audit()]
    old = Store.open(restored.aside / "evaluator.duckdb")
    assert old.control.audit()[-1].text == "after the backup"
    again = restore_backup(backup, store.path, "ann", replace=True)
    assert again.aside != restored.aside


@pytest.mark.parametrize("part", ["evaluator.duckdb", "evaluator.control.sqlite", "evaluator.data"])
def test_a_part_of_a_store_is_not_overwritten_either(store, backup, tmp_path, part):
    (tmp_path / "r").mkdir()
    if part == "evaluator.data":
        (tmp_path / "r" / part).mkdir()
        restore_backup(backup, tmp_path / "r" / "evaluator.duckdb", "ann")  # an empty folder is nothing
        shutil.rmtree(tmp_path / "r")
        (tmp_path / "r" / part).mkdir(parents=True)
        (tmp_path / "r" / part / "x").touch()
    else:
        shutil.copy(store.path.parent / part, tmp_path / "r" / part)
    with pytest.raises(StoreError, match=f"{part} exists already"):
        restore_backup(backup, tmp_path / "r" / "evaluator.duckdb", "ann")


def test_a_journal_that_is_there_knows_more_and_stays(store, backup):
    journal = find_journal(store.path)
    journal.make()
    journal.append({"kind": "closed", "at": "2026", "intents": ["i9"]})
    restored = restore_backup(backup, store.path, "ann", replace=True)
    assert restored.kept_journal == store.path.with_suffix(".journal")
    assert journal.read()[-1]["intents"] == ["i9"]


def test_a_log_of_the_old_file_is_not_applied_to_the_new_one(store, backup):
    log = store.path.with_name(store.path.name + ".wal")
    log.write_bytes(b"changes of another file")
    restored = restore_backup(backup, store.path, "ann", replace=True)
    assert not log.exists()
    assert (restored.aside / log.name).read_bytes() == b"changes of another file"
    Store.open(store.path).releases()


# ------------------------------------------------------------------ refused


def test_a_store_that_is_in_use_is_not_replaced(store, backup, tmp_path):
    folder = store.file.folder / "cart@2" / "run-1"
    folder.mkdir(parents=True, exist_ok=True)

    def refuses(says: str) -> None:
        before = list_all(store.path.parent)
        with pytest.raises(StoreError, match=says) as caught:
            restore_backup(backup, store.path, "ann", replace=True)
        assert "is in use" in caught.value.message
        assert list_all(store.path.parent) == before

    reader = subprocess.Popen(
        [sys.executable, "-c", "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print(); input()",
         str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    reader.stdout.readline()
    refuses("another process has it open")
    reader.communicate("\n")
    with closing(sqlite3.connect(control_path(store.path), isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        refuses("another process writes to .*control.sqlite")
    with store.control.alone(["cart"]) as is_locked:
        assert is_locked
        refuses("an action is being executed")
    for lock in (folder / "landing.lock", folder.parent / "tail.lock"):
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            refuses("data are being read into")
        lock.unlink()
    facts = folder / "facts-w.json"
    facts.write_text('{"closed": false}')
    refuses("requests are being recorded into")
    facts.write_text('{"closed": true}')
    restore_backup(backup, store.path, "ann", replace=True)


@pytest.mark.parametrize(
    ("path", "says"),
    [("a?/e.duckdb", "under a path with '?'"), ("a,b/e.duckdb", "under a path with ','"), ("", "is a directory"),
     ("evaluator.data", "cannot be called evaluator.data")],
)  # fmt: skip
def test_a_path_where_no_store_can_be_is_refused(backup, tmp_path, path, says):
    (tmp_path / "r" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "r").mkdir(exist_ok=True)
    with pytest.raises(StoreError, match=says.replace("?", r"\?")):
        restore_backup(backup, tmp_path / "r" / path, "ann")
    assert [path for path in (tmp_path / "r").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", [DATA, DECISIONS, "rows/schema.parquet"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "link", "longer"])
def test_a_file_that_is_not_what_was_written_is_refused(backup, tmp_path, name, how):
    path = backup / name
    content = path.read_bytes()
    if how == "flip":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "longer":
        path.write_bytes(content + b"x")
    else:
        path.rename(tmp_path / "elsewhere")
        if how == "link":
            path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "r").mkdir()
    with pytest.raises(StoreError, match=f"{name} of the backup .*(is not what was written|cannot be read)"):
        restore_backup(backup, tmp_path / "r" / "evaluator.duckdb", "ann")
    assert list((tmp_path / "r").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        "not JSON", "[]", "{}", {"files": None}, {"files": {}}, {"files": {"../../x": [1, "a"]}},
        {"files": {"rows/../../x": [1, "a"]}}, {"files": {"/etc/passwd": [1, "a"]}}, {"schemas": {}}, {"format": "x"},
        {"audit_head": "sha256:0"}, {"audit_rows": 1}, {"made_at": "today"}, {"made_at": 7}, {"evaluator": 5},
        {"store": None}, {"private": "no"}, {"files": {"rows/x": [1]}}, {"files": {"rows": [1, "a"]}},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(backup, tmp_path, change):
    path = backup / MANIFEST
    values = json.loads(path.read_text())
    if isinstance(change, str):
        path.write_text(change)
    else:
        if change.get("files"):
            change = {"files": values["files"] | change["files"]}
        path.write_text(json.dumps(values | change))
    (tmp_path / "r").mkdir()
    with pytest.raises(StoreError, match="manifest"):
        restore_backup(backup, tmp_path / "r" / "evaluator.duckdb", "ann")
    assert list((tmp_path / "r").iterdir()) == []


def test_decisions_that_were_rewritten_with_their_checksum_are_found(backup, tmp_path):
    import hashlib

    with closing(sqlite3.connect(backup / DECISIONS)) as connection, connection:
        connection.execute("UPDATE intents SET state = 'approved' WHERE id = 'i1'")
    content = (backup / DECISIONS).read_bytes()
    values = json.loads((backup / MANIFEST).read_text())
    values["files"][DECISIONS] = [len(content), hashlib.sha256(content).hexdigest()]
    (backup / MANIFEST).write_text(json.dumps(values))
    (tmp_path / "r").mkdir()
    with pytest.raises(StoreError, match="i1 is approved, but has 1 of 2 approvals"):
        restore_backup(backup, tmp_path / "r" / "evaluator.duckdb", "ann")
    assert list((tmp_path / "r").iterdir()) == []


def test_a_full_disk_and_a_missing_folder_end_it_with_a_sentence(backup, tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from evaluator.errors import StoreError
from evaluator.store.restore import restore_backup

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    restore_backup(Path(sys.argv[1]), Path(sys.argv[2]), "ann")
except StoreError as error:
    print(error.message, error.hint)
"""
    (tmp_path / "r").mkdir()
    path = tmp_path / "r" / "evaluator.duckdb"
    done = subprocess.run([sys.executable, "-c", code, str(backup), str(path)], stdout=subprocess.PIPE, check=True)
    assert b"cannot be restored: File too large" in done.stdout
    assert b"run the same command again" in done.stdout
    assert list((tmp_path / "r").iterdir()) == []
    with pytest.raises(StoreError, match="there is no folder"):
        restore_backup(backup, tmp_path / "no" / "evaluator.duckdb", "ann")


def test_a_private_store_stays_private(tmp_path):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True, private=True)
    make_backup(store, tmp_path / "b", find_journal(store.path))
    (tmp_path / "r").mkdir()
    restore_backup(tmp_path / "b", tmp_path / "r" / "evaluator.duckdb", "ann")
    for path in (tmp_path / "r").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    make_backup(Store.open(tmp_path / "public.duckdb", create=True), tmp_path / "c", find_journal(store.path))
    restore_backup(tmp_path / "c", tmp_path / "r" / "public.duckdb", "ann")
    assert (tmp_path / "r" / "public.control.sqlite").stat().st_mode & 0o044


# ------------------------------------------------------------------ killed in the middle


KILLED = """
import os, sys
from pathlib import Path
from evaluator.store.restore import restore_backup

left = int(sys.argv[1])

def counted(operation):
    def call(*arguments, **options):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return operation(*arguments, **options)
    return call

Path.rename, Path.replace, os.link = counted(Path.rename), counted(Path.replace), counted(os.link)
restore_backup(Path(sys.argv[2]), Path(sys.argv[3]), "ann", replace=sys.argv[4] == "True")
"""


def kill_at(step: int, backup: Path, path: Path, *, replaced: bool) -> bool:
    """Restore in a process that is killed before its rename number `step`; returns whether it came so far."""
    arguments = [str(step), str(backup), str(path), str(replaced)]
    code = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("replaced", [False, True])
def test_a_restore_that_was_killed_leaves_nothing_half_and_can_be_repeated(backup, tmp_path, replaced):
    step = 0
    while True:
        folder = tmp_path / f"r{step}"
        path = folder / "evaluator.duckdb"
        folder.mkdir()
        if replaced:
            old = Store.open(path, create=True)
            old.control.note("ann", "note", "", "of the old store")
            find_journal(path).make()
        if not kill_at(step, backup, path, replaced=replaced):
            break
        # Nobody reads what is there now, and nobody takes it for a place without a store.
        for use in (
            lambda at=path: Store.open(at).releases(),
            lambda at=path: Store.open(at, decisions_only=True).control.audit(),
            lambda at=path: Store.open(at, create=True).releases() if at.exists() else Store.open(at),
        ):
            try:
                use()
            except StoreError:
                continue
            assert replaced  # the old store, whole, because no rename was done yet
            assert Store.open(path).control.audit()[-1].text == "of the old store"
        restore_backup(backup, path, "ann", replace=replaced)
        restored = Store.open(path)
        assert [release.release.id for release in restored.releases()] == ["cart@2"]
        restored.control.verify_audit()
        assert list(folder.glob(".*")) == []
        if replaced:
            notes = [at for at in folder.rglob("evaluator.control.sqlite") if at.parent != folder]
            assert len(notes) == 1
        step += 1
    assert step >= (5 if replaced else 3)


# ------------------------------------------------------------------ decisions, or data, are lost


def test_new_decisions_begin_with_the_loss_of_those_before(store, new_run):
    run = new_run()
    store.data.finish_run(run.id, state=run.state, ended=None, facts=run.facts)
    store.control.add_release(Release("cart@2", (Service("cart", "1", "2"),)))
    with pytest.raises(StoreError, match="its decisions are not lost"):
        begin_decisions(store.path, "ann", "disk 3 died")
    for path in store.path.parent.glob("evaluator.control.sqlite*"):
        path.unlink()
    with pytest.raises(StoreError, match="is gone") as caught:
        Store.open(store.path)
    assert "data new-decisions" in caught.value.hint
    begun = begin_decisions(store.path, "ann", "disk 3 died")
    assert [(release.id, release.services) for release in begun.releases] == [("cart@2", ())]
    control = Store.open(store.path).control
    [row] = control.audit()
    assert (row.event, row.actor) == ("begun", "ann")
    assert row.text.endswith("verdicts, requests and the audit trail before are lost; disk 3 died")
    control.verify_audit()
    assert control.restarted_at() == pytest.approx(row.at, abs=timedelta(seconds=1))
    assert int(control.request(draft(verdict_hash="a")).id.removeprefix("i")) > 1000
    assert list(store.path.parent.glob(".*")) == []


def test_new_decisions_take_services_that_runs_name(store):
    run = Run("run-1", "cart@2", "g", "access_log", started=NOW)
    store.data.register_run(Release("cart@2", (Service("cart"),)), replace(run, service="cart"))
    control_path(store.path).unlink()
    [release] = begin_decisions(store.path, "ann", "x").releases
    assert release.services == (Service("cart"),)
    assert Store.open(store.path).control.release("cart@2").services == (Service("cart"),)


def test_no_new_decisions_for_what_is_no_store(tmp_path):
    with pytest.raises(StoreError):
        begin_decisions(tmp_path / "x.duckdb", "ann", "x")
    (tmp_path / "x.duckdb").write_text("no database" * 1000)
    with pytest.raises(StoreError, match="is not a store"):
        begin_decisions(tmp_path / "x.duckdb", "ann", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.duckdb"]


@pytest.mark.parametrize("create", [True, False])
def test_data_that_are_lost_are_not_begun_again_by_themselves(store, new_run, create):
    new_run()
    store.path.unlink()
    before = list_all(store.path.parent)
    with pytest.raises(StoreError, match="which has the data of the store, is gone") as caught:
        Store.open(store.path, create=create)
    assert "data restore --replace" in caught.value.hint
    assert list_all(store.path.parent) == before
    assert Store.open(store.path, decisions_only=True).control.release("cart@2").id == "cart@2"


def test_a_store_that_was_being_made_when_it_was_killed_is_made(tmp_path):
    store = Store.open(tmp_path / "x.duckdb", create=True)
    store.path.unlink()
    assert Store.open(store.path, create=True).releases() == ()
