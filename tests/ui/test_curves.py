"""What happened to a release, on the axis of time of its load."""

from datetime import UTC, datetime, timedelta

from evaluator.records.intents import AuditRow
from evaluator.ui.curves import list_events

START = datetime(2026, 1, 5, tzinfo=UTC)
TIMELINE = {"runs": 1, "seconds": [0, 60, 120], "slot_s": 60, "start_epoch_s": START.timestamp()}


def row(event, text, seconds, release="cart@2"):
    return AuditRow(1, START + timedelta(seconds=seconds), "ann", event, release, "", text, "")


def test_notes_and_acts_during_the_load_are_events_and_nothing_else():
    trail = [
        row("note", "deploy of the database\nsecond line", 30),
        row("requested", "promote: it is Monday", 60),
        row("judged", "go", 60),
        row("hook sent", "1. promote", 61),
        row("note", "before it", -1),
        row("note", "after it", 181),
        row("note", "another one", 60, release="cart@3"),
    ]
    assert list_events(trail, "cart@2", TIMELINE) == [
        {"at": 30.0, "what": "note: deploy of the database"},
        {"at": 60.0, "what": "requested: promote: it is Monday"},
    ]
    assert list_events(trail, "cart@2", {**TIMELINE, "runs": 2}) == []
    assert list_events(trail, "cart@2", {key: TIMELINE[key] for key in ("seconds", "slot_s", "start_epoch_s")}) == []
