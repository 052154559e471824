"""Decisions in SQLite: those of an older store go over once, edits by hand are found, no lock of DuckDB counts."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from stored import edit_decisions

from evaluator.errors import StoreBusy, StoreError
from evaluator.records import Release, Service
from evaluator.records.intents import Action, Intent, Person
from evaluator.store import Store
from evaluator.store.audit import _hash_row
from evaluator.store.control_file import VERSION, to_text
from evaluator.store.migrations import MIGRATIONS

AT = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
OLD_VERSION = 12
VERDICT = json.dumps({"release": "cart@1", "verdict": "no_go", "mode": "shadow"})


def draft(**changes):
    fields = {
        "id": "", "key": "", "release": "cart@1", "action": Action.PROMOTE, "requester": "ann", "reason": "why",
        "verdict_hash": "", "data_hash": "", "policy_hash": "", "requested_at": datetime.now(UTC),
        "expires_at": datetime.now(UTC) + timedelta(hours=1), "approvals_needed": 1, "distinct": True,
    }  # fmt: skip
    return Intent(**fields | changes)


@pytest.fixture
def decided(store):
    """A store with a verdict, a request, an approval and a note."""
    store.control.add_release(Release("cart@1", (Service("cart"),)))
    store.control.save_verdict("cart@1", VERDICT, AT, "no_go")
    intent = store.control.request(draft())
    store.control.approve(intent.id, Person("bob", ("bob",)))
    store.control.note("ann", "note", "cart@1", "slow disk")
    return store


# ------------------------------------------------------------------ what was edited is found


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("UPDATE verdicts SET word = 'go'", "the verdict of 2026-03-02T10:00:00 on cart@1 is not what was written"),
        ("UPDATE verdicts SET verdict = replace(verdict, 'no_go', 'go')", "the verdict of .* is not what was written"),
        ("UPDATE verdicts SET judged_at = '2026-03-02T11:00:00.000000+00:00'", "is not what was written"),
        ("DELETE FROM verdicts", r"what row 0 of the audit trail recorded \(judged cart@1\) is gone"),
        ("UPDATE intents SET action = 'rollback'", "the request i1 is not what was written"),
        ("UPDATE intents SET approvals_needed = 0", "the request i1 is not what was written"),
        ("UPDATE approvals SET person = 'eve'", "the approval of i1 by eve is not what was written"),
        (
            "INSERT INTO approvals SELECT intent, 'eve', happened_at, names FROM approvals",
            "the approval of i1 by eve is not what was written",
        ),
        ("UPDATE approvals SET happened_at = 'today'", "was changed by hand: Invalid isoformat string: 'today'"),
        ("UPDATE intents SET action = 'fly'", "was changed by hand: 'fly' is not a valid Action"),
        ("DELETE FROM approvals", r"recorded \(approved cart@1 i1\) is gone"),
        ("UPDATE audit SET text = 'go' WHERE event = 'judged'", "the audit trail was changed: row 0"),
        ("UPDATE audit SET covers = '' WHERE event = 'judged'", "the audit trail was changed: row 0"),
    ],
)
def test_a_decision_that_was_edited_is_found(decided, edit, says):
    decided.control.verify_audit()
    decided.control.verify_release("cart@1")
    edit_decisions(decided, edit)
    for verify in (decided.control.verify_audit, lambda: decided.control.verify_release("cart@1")):
        with pytest.raises(StoreError, match=says):
            verify()


def test_a_state_without_its_approvals_is_found(store):
    store.control.add_release(Release("cart@1"))
    store.control.request(draft(approvals_needed=2))
    edit_decisions(store, "UPDATE intents SET state = 'approved'")
    with pytest.raises(StoreError, match="i1 is approved, but has 0 of 2 approvals"):
        store.control.verify_release("cart@1")


def test_a_trail_that_was_rewritten_has_another_head(decided):
    head = decided.control.verify_audit()
    rows = decided.control.audit()
    edit_decisions(decided, "UPDATE audit SET text = 'fast disk' WHERE text = 'slow disk'")
    previous = rows[-2].hash
    last = rows[-1]
    rewritten = _hash_row(
        previous, last.number, last.at, last.actor, last.event, last.release, last.intent, "fast disk", last.covers
    )
    edit_decisions(decided, "UPDATE audit SET hash = ? WHERE number = ?", rewritten, str(last.number))
    assert decided.control.verify_audit() == rewritten != head


# ------------------------------------------------------------------ an older store


def make_old_store(path):
    """A store as the version before this one left it, with decisions in the DuckDB file."""
    with duckdb.connect(path) as engine:
        for step in MIGRATIONS[:OLD_VERSION]:
            for statement in step:
                engine.execute(statement.replace("store.", ""))
        engine.execute("UPDATE meta SET schema_version = ?", [OLD_VERSION])
        engine.execute(
            "INSERT INTO releases VALUES ('cart@1', ?, '{}', ?)",
            [json.dumps([{"name": "cart", "baseline": "1", "canary": "2"}]), AT],
        )
        engine.execute(
            "INSERT INTO verdicts (number, release, judged_at, word, verdict) VALUES (0, 'cart@1', ?, 'no_go', ?)",
            [AT, VERDICT],
        )
        engine.execute(
            """INSERT INTO intents VALUES ('i1', 'evt_1', 'cart@1', 'promote', 'ann', 'why', '', '', '', $at,
                $at + INTERVAL 1 HOUR, 1, true, 'approved', '', ['ann', 'u-1'], 'sha256:h', [])""",
            {"at": AT},
        )
        engine.execute("INSERT INTO approvals VALUES ('i1', 'bob', ?, ['bob'])", [AT])
        engine.execute(
            """INSERT INTO deliveries (intent, position, hook, attempts, state, text, undo, happened_at, event, options)
            VALUES ('i1', 0, 'command', 1, 'acknowledged', 'ok', '"90"', ?, 'promote', '{}')""",
            [AT],
        )
        texts = ("ann", "note", "cart@1", "", "slow disk")
        row_hash = _hash_row("sha256:" + "0" * 64, 0, AT, *texts, "")
        engine.execute("INSERT INTO audit VALUES (0, ?, ?, ?, ?, ?, ?, ?)", [AT, *texts, row_hash])
        engine.execute(
            """INSERT INTO learnt (service, sd_latency, comparisons, runs, df, between_arms_comparisons)
            VALUES ('cart', 0.03, 4, 2, 5.0, 1)"""
        )


def test_the_decisions_of_an_older_store_go_over_once(tmp_path):
    path = tmp_path / "evaluator.duckdb"
    make_old_store(path)
    for _ in range(2):
        control = Store.open(path).control
        assert control.release("cart@1").services == (Service("cart", "1", "2"),)
        [verdict] = control.verdicts("cart@1")
        assert (verdict.word, verdict.judged_at, verdict.json) == ("no_go", AT, VERDICT)
        [summary] = control.releases()
        assert (summary.shadow_verdicts, summary.would_have_blocked) == (1, 1)
        [intent] = control.intents()
        assert (intent.id, intent.state, intent.distinct) == ("i1", "approved", True)
        assert (intent.requester_names, intent.expires_at) == (("ann", "u-1"), AT + timedelta(hours=1))
        assert [(approval.person, approval.at) for approval in control.approvals()] == [("bob", AT)]
        [delivery] = control.deliveries()
        assert (delivery.outcome.undo, delivery.at) == ('"90"', AT)
        assert control.learnt("cart").sd_latency == 0.03
        events = [row.event for row in control.audit()]
        assert events == ["note", "imported", "imported", "imported"]
        control.verify_audit()
    with duckdb.connect(path) as engine:
        assert engine.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'verdicts'").fetchall() == [(0,)]
    assert list(tmp_path.glob("*.schema-12.backup"))


def test_an_import_that_was_killed_before_the_old_tables_were_dropped_is_not_repeated(tmp_path, monkeypatch):
    from evaluator.store import migrations

    path = tmp_path / "evaluator.duckdb"
    make_old_store(path)
    steps = (*MIGRATIONS[:OLD_VERSION], ("SELECT no_such_function()",))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    with pytest.raises(StoreError):
        Store.open(path)
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS)
    control = Store.open(path).control
    assert len(control.verdicts("cart@1")) == len(control.intents()) == 1
    control.verify_audit()


# ------------------------------------------------------------------ nothing of DuckDB is waited for


def test_decisions_wait_for_no_reader_of_the_data(decided):
    code = "import duckdb, sys; e = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(decided.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout.readline() == "open\n"
        decided.control.note("ann", "note", "cart@1", "x")
        decided.control.request(draft(action=Action.HOLD, approvals_needed=0))
        assert decided.control.verdicts("cart@1")
        shell.communicate("\n")


def test_decisions_need_no_data_at_all(decided):
    for damage in (decided.path.unlink, lambda: decided.path.write_bytes(b"no database")):
        damage()
        decided.control.note("ann", "note", "cart@1", "x")
        assert decided.control.verdicts("cart@1")
        decided.control.verify_audit()


def test_many_writers_make_one_trail(store):
    store.control.add_release(Release("cart@1"))

    def write(person):
        for number in range(20):
            store.control.note(person, "note", "cart@1", str(number))

    writers = [threading.Thread(target=write, args=[f"p{number}"]) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(store.control.audit()) == 160
    store.control.verify_audit()


# ------------------------------------------------------------------ files that cannot be used


def test_a_lock_that_stays_is_named(decided):
    control = Store.open(decided.path, wait_s=0.2).control
    with closing(sqlite3.connect(control.file.path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match=r"evaluator\.control\.sqlite has been kept locked .* more than 0\.2 s"):
            control.note("ann", "note", "cart@1", "x")
        assert control.verdicts("cart@1")  # readers do not wait


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"x" * 5000), "is damaged: file is not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096), "is damaged|cannot be used"),
        (lambda path: sqlite3.connect(path).execute(f"PRAGMA user_version = {VERSION + 1}"), "by a newer evaluator"),
    ],
)
def test_a_file_that_is_none_is_named(decided, make, says):
    path = decided.control.file.path
    for other in path.parent.glob(f"{path.name}-*"):
        other.unlink()
    before = None
    made = make(path)
    if hasattr(made, "connection"):
        made.connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=says):
        decided.control.audit()
    with pytest.raises(StoreError, match=says):
        decided.control.note("ann", "note", "cart@1", "x")
    assert path.read_bytes() == before


def test_times_are_texts_that_sort():
    moments = [AT, AT + timedelta(microseconds=1), AT + timedelta(seconds=1), AT + timedelta(days=400)]
    texts = [to_text(moment) for moment in moments]
    assert texts == sorted(texts)
