"""Intents are executed once, approved by the people needed, and every step is in a trail that shows any edit."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from stored import edit_decisions

from evaluator.errors import StoreError, UnknownName, UsageError
from evaluator.records.intents import Action, Delivery, HookOutcome, Intent, IntentState, Person
from evaluator.store import Store


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


def draft(action=Action.PROMOTE, *, needed=2, distinct=True, hours=4, verdict="sha256:v"):
    now = datetime.now(UTC)
    return Intent(
        "", "", "cart@2", action, "ann", "looks good", verdict, "sha256:d", "sha256:p", now,
        now + timedelta(hours=hours), needed, distinct,
    )  # fmt: skip


def someone(name):
    return Person(name, (name,))


def test_a_second_click_is_the_same_intent(store):
    first = store.control.request(draft())
    assert store.control.request(draft()) == first
    assert store.control.intents("cart@2") == (first,)


def test_another_verdict_is_another_intent_with_another_key(store):
    first, second = store.control.request(draft()), store.control.request(draft(verdict="sha256:w"))
    assert first.id != second.id
    assert first.key != second.key


def test_a_promotion_after_a_rollback_is_new(store):
    first = store.control.request(draft(needed=0))
    store.control.settle(first.id, IntentState.ACKNOWLEDGED, "w", "")
    assert store.control.request(draft()).id == first.id
    back = store.control.request(draft(Action.ROLLBACK))
    store.control.settle(back.id, IntentState.ACKNOWLEDGED, "w", "")
    again = store.control.request(draft())
    assert again.id not in {first.id, back.id}
    assert again.key != first.key


def test_two_other_people_approve(store):
    intent = store.control.request(draft())
    with pytest.raises(UsageError, match="ann requested i1 and cannot approve it too"):
        store.control.approve(intent.id, someone("ann"))
    assert store.control.approve(intent.id, someone("bob")).state is IntentState.REQUESTED
    assert store.control.approve(intent.id, someone("bob")).state is IntentState.REQUESTED
    assert store.control.approve(intent.id, someone("cleo")).state is IntentState.APPROVED
    with pytest.raises(UsageError, match="nothing to approve"):
        store.control.approve(intent.id, someone("dora"))


def test_an_expired_request_cannot_be_approved(store):
    intent = store.control.request(draft(hours=0))
    with pytest.raises(UsageError, match="has expired"):
        store.control.approve(intent.id, someone("bob"))


def test_one_of_many_that_claim_wins(store):
    intent = store.control.approve(store.control.request(draft(needed=1)).id, someone("bob"))
    won = []
    threads = [threading.Thread(target=lambda n=n: won.append(store.control.claim(intent, f"w{n}"))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]


def test_deliveries_count_attempts_and_keep_what_undoes_them(store):
    intent = store.control.request(draft())
    for attempts, outcome in (
        (1, HookOutcome(IntentState.SENT, "")),
        (0, HookOutcome(IntentState.ACKNOWLEDGED, "ok", "90", "200")),
    ):
        fresh = Delivery(intent.id, 0, "lb", attempts, outcome, datetime.now(UTC), "promote", "{}")
        store.control.deliver(fresh, intent.release, "w")
    (delivery,) = store.control.deliveries(intent.id)
    assert (delivery.attempts, delivery.outcome.undo, delivery.outcome.response) == (1, "90", "200")


def test_an_unknown_intent_is_named(store):
    with pytest.raises(UnknownName, match="there is no intent 'i9'"):
        store.control.intent("i9")


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET actor = 'eve' WHERE number = 1",
        "DELETE FROM audit WHERE number = 0",
        "UPDATE audit SET happened_at = '2026-01-01T00:00:00.000000+00:00'",
    ],
)
def test_any_edit_of_the_trail_shows(store, edit):
    for text in ("one", "two", "three"):
        head = store.control.note("ann", "note", "cart@2", text).hash
    assert store.control.verify_audit() == head
    edit_decisions(store, edit)
    with pytest.raises(StoreError, match="the audit trail was changed: row"):
        store.control.verify_audit()
