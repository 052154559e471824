"""Decisions are stored as they were made: releases, verdicts, what was learnt, and the states of an intent."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from evaluator.errors import StoreError, UnknownName, UsageError
from evaluator.records import Learnt, Release, Service
from evaluator.records.intents import Action, Delivery, HookOutcome, Intent, IntentState, Person
from evaluator.store.audit import hash_text

AT = datetime(2026, 10, 1, 12, tzinfo=UTC)


def save(store, release, word, *, minutes=0, mode="block", outcomes=("", ""), figures=None, data="d"):
    text = json.dumps({"word": word, "mode": mode, "data_hash": data, "minutes": minutes})
    store.control.save_verdict(release, text, AT + timedelta(minutes=minutes), word, figures, outcomes=outcomes)
    return text


# ------------------------------------------------------------------ releases


def test_a_release_gains_services_and_labels_and_keeps_its_beginning(store):
    store.control.add_release(Release("shop@2", (Service("cart", "1", ""),), {"team": "a"}, AT))
    store.control.add_release(
        Release("shop@2", (Service("cart", "", "2"), Service("search", "7", "8")), {"ticket": "4"}, AT + timedelta(1))
    )
    release = store.control.release("shop@2")
    assert release.services == (Service("cart", "1", "2"), Service("search", "7", "8"))
    assert release.labels == {"team": "a", "ticket": "4"}
    assert release.created_at == AT


def test_data_that_do_not_land_change_nothing_of_a_release_that_is_known(store, new_run, monkeypatch):
    """Its services choose the policy that judges it."""
    new_run("run-1", release="cart@2")
    stored = store.control.release("cart@2")
    described = Release("cart@2", (Service("search", "7", "8"),), {"team": "a"})
    with pytest.raises(OSError, match="disk"), store.control.landing(described):
        raise OSError("the disk is full")
    assert store.control.release("cart@2") == stored
    with store.control.landing(described):
        assert store.control.release("cart@2") == stored
    assert [service.name for service in store.control.release("cart@2").services] == ["cart", "search"]
    with store.control.landing(Release("new@1", (Service("cart", "1", "2"),))):
        assert store.control.release("new@1").services == (Service("cart", "1", "2"),)


def test_services_are_replaced_and_those_that_stay_keep_their_versions(store):
    store.control.add_release(Release("shop@2", (Service("crat", "1", "2"),)))
    store.control.set_services("shop@2", ["cart"], "ann")
    assert store.control.release("shop@2").services == (Service("cart", "1", "2"),)
    store.control.set_services("shop@2", ["search", "cart"], "ann")
    assert store.control.release("shop@2").services == (Service("search", "", ""), Service("cart", "1", "2"))
    row = store.control.audit()[-1]
    assert (row.actor, row.event, row.release, row.text) == ("ann", "service", "shop@2", "cart → search, cart")
    with pytest.raises(UnknownName, match="did you mean 'shop@2'"):
        store.control.set_services("shop@3", ["cart"], "ann")


def test_a_release_without_a_time_begins_now(store):
    before = datetime.now(UTC)
    store.control.add_release(Release("shop@2"))
    assert before <= store.control.release("shop@2").created_at <= datetime.now(UTC)


def test_releases_are_listed_newest_first_with_their_latest_verdict(store):
    for days, name in enumerate(("a@1", "b@1", "c@1")):
        store.control.add_release(Release(name, created_at=AT + timedelta(days)))
    save(store, "a@1", "no_go", mode="shadow")
    save(store, "a@1", "inconclusive", minutes=1, mode="shadow")
    save(store, "a@1", "go", minutes=2, mode="shadow")
    save(store, "b@1", "no_go", minutes=3)
    listed = store.control.releases()
    assert [(row.release.id, row.verdict, row.mode) for row in listed] == [
        ("c@1", None, None),
        ("b@1", "no_go", "block"),
        ("a@1", "go", "shadow"),
    ]
    assert [(row.shadow_verdicts, row.would_have_blocked) for row in listed] == [(0, 0), (0, 0), (3, 2)]
    assert [row.judged_at for row in listed] == [None, AT + timedelta(minutes=3), AT + timedelta(minutes=2)]


# ------------------------------------------------------------------ verdicts


def test_verdicts_are_kept_in_the_order_they_were_given_whatever_their_times(store):
    for days, name in enumerate(("a@1", "b@1")):
        store.control.add_release(Release(name, created_at=AT + timedelta(days)))
    first = save(store, "a@1", "no_go", minutes=5, figures='{"p50": 1}')
    save(store, "b@1", "go", minutes=1)
    last = save(store, "a@1", "go", minutes=2)
    verdicts = store.control.verdicts("a@1")
    assert [(row.release, row.word, row.json) for row in verdicts] == [("a@1", "no_go", first), ("a@1", "go", last)]
    assert [row.judged_at for row in verdicts] == [AT + timedelta(minutes=5), AT + timedelta(minutes=2)]
    assert verdicts[0].data_hash == "d"
    latest = store.control.latest_verdicts()
    assert [(row.release, row.word) for row in latest] == [("b@1", "go"), ("a@1", "go")]
    assert [row.word for row in store.control.verdict_log()] == ["go", "go", "no_go"]


def test_figures_are_those_of_the_newest_verdict(store):
    store.control.add_release(Release("a@1"))
    assert store.control.figures("a@1") is None
    save(store, "a@1", "go", figures="{}")
    assert store.control.figures("a@1") == "{}"
    save(store, "a@1", "go", minutes=1)
    assert store.control.figures("a@1") is None


@pytest.mark.parametrize("ask", ["release", "verdicts", "figures"])
def test_an_unknown_release_is_named(store, ask):
    store.control.add_release(Release("cart@1.9.0"))
    with pytest.raises(UnknownName, match=r"there is no release 'cart@1.9.1'; did you mean 'cart@1.9.0'"):
        getattr(store.control, ask)("cart@1.9.1")
    with pytest.raises(UnknownName):
        save(store, "cart@1.9.1", "go")


def test_looks_at_outcomes_are_kept_with_how_the_first_spent_alpha(store):
    for name in ("a@1", "b@1"):
        store.control.add_release(Release(name))
    save(store, "a@1", "inconclusive", outcomes=("run-2", "auto"))
    save(store, "b@1", "inconclusive", outcomes=("run-9", "calendar"))
    save(store, "a@1", "inconclusive", outcomes=("run-1", "calendar"))
    save(store, "a@1", "go", outcomes=("run-2", "final"))
    save(store, "a@1", "go")
    assert list(store.control.outcome_looks("a@1").items()) == [("run-2", "auto"), ("run-1", "calendar")]
    assert store.control.outcome_looks("c@1") == {}


def test_what_was_learnt_is_replaced_by_what_is_learnt_later(store):
    first = Learnt(0.03, None, 7, 4, 12.5, 0.01, None, 3)
    store.control.save_learnt("cart", Learnt(0.5, 0.5, 1, 1))
    store.control.save_learnt("cart", first)
    assert store.control.learnt("cart") == first
    assert store.control.learnt("search") is None


# ------------------------------------------------------------------ intents


def draft(action=Action.PROMOTE, *, release="cart@2", needed=0, distinct=False, verdict="sha256:v", at=None, **options):
    at = at or datetime.now(UTC)
    return Intent(
        "", "", release, action, "ann", "looks good", verdict, "sha256:d", "sha256:p", at,
        at + timedelta(hours=4), needed, distinct, **options,
    )  # fmt: skip


def deliver(store, intent, state, *, position=0, event="promote", attempts=1, text="", options="{}"):
    outcome = HookOutcome(IntentState(state), text, '{"weight": 3}', "200")
    delivery = Delivery(intent.id, position, "webhook", attempts, outcome, AT + timedelta(position), event, options)
    store.control.deliver(delivery, intent.release, "w")
    return delivery


def test_an_intent_is_read_as_it_was_kept(store):
    requested = store.control.request(
        draft(needed=2, distinct=True, requester_names=("ann", "group:sre"), hooks_hash="h", undoes=("i9", "i8"))
    )
    read = store.control.intent(requested.id)
    assert read == requested
    assert (read.state, read.approvals_needed, read.distinct) == (IntentState.REQUESTED, 2, True)
    assert (read.requester_names, read.undoes, read.hooks_hash) == (("ann", "group:sre"), ("i9", "i8"), "h")


@pytest.mark.parametrize(
    ("needed", "distinct", "consents", "state", "approvals"),
    [
        (0, False, False, "approved", 0),
        (0, True, False, "approved", 0),
        (1, False, True, "approved", 1),
        (1, True, True, "requested", 0),
        (1, False, False, "requested", 0),
        (2, False, True, "requested", 1),
        (2, True, True, "requested", 0),
    ],
)
def test_the_requester_approves_where_that_counts(store, needed, distinct, consents, state, approvals):
    intent = store.control.request(draft(needed=needed, distinct=distinct), consents=consents)
    assert intent.state == state
    stored = store.control.approvals(intent.id)
    assert len(stored) == (approvals if needed < 2 else 0)


def test_intents_are_counted_and_read_by_release(store):
    names = [store.control.request(draft(release=f"r@{k}")).id for k in range(11)]
    assert names == [f"i{k}" for k in range(1, 12)]
    assert [intent.id for intent in store.control.intents()] == names
    assert [intent.id for intent in store.control.intents("r@10")] == ["i11"]


def test_what_waits_for_a_worker_is_approved_or_begun(store):
    waits = store.control.request(draft(release="a@1"))
    begun = store.control.request(draft(release="b@1"))
    store.control.request(draft(release="c@1", needed=1))
    over = store.control.request(draft(release="d@1"))
    store.control.settle(over.id, IntentState.ACKNOWLEDGED, "w", "done")
    assert store.control.claim(begun, "w")
    assert [intent.id for intent in store.control.waiting()] == [waits.id, begun.id]


@pytest.mark.parametrize(("action", "cancels"), [(Action.HOLD, True), (Action.ROLLBACK, True), (Action.PROMOTE, False)])
@pytest.mark.parametrize("waiting", [Action.PROMOTE, Action.BREAK_GLASS])
def test_a_hold_or_a_rollback_cancels_promotions_that_were_not_executed(store, action, cancels, waiting):
    approved = store.control.request(draft(waiting))
    requested = store.control.request(draft(waiting, needed=1, verdict="sha256:w"))
    elsewhere = store.control.request(draft(waiting, release="other@1"))
    store.control.request(draft(action, verdict="sha256:x"))
    expected = IntentState.CANCELLED if cancels else IntentState.APPROVED
    assert store.control.intent(approved.id).state is expected
    assert (store.control.intent(requested.id).state is IntentState.CANCELLED) == cancels
    assert store.control.intent(elsewhere.id).state is IntentState.APPROVED
    reasons = [row.text for row in store.control.audit("cart@2") if row.event == "cancelled"]
    assert reasons == [f"{action}: looks good"] * (2 if cancels else 0)


def test_a_hold_is_not_cancelled_by_a_rollback(store):
    held = store.control.request(draft(Action.HOLD))
    store.control.request(draft(Action.ROLLBACK))
    assert store.control.intent(held.id).state is IntentState.APPROVED


def test_a_rollback_takes_back_what_was_begun_since_the_newest_first(store):
    first = store.control.request(draft())
    store.control.claim(first, "w")
    second = store.control.request(draft(verdict="sha256:w"))
    store.control.claim(second, "w")
    back = store.control.request(draft(Action.ROLLBACK, undoes=(first.id,)))
    assert back.undoes == (second.id, first.id)
    assert store.control.request(draft(Action.HOLD)).undoes == ()


def test_a_failed_intent_counts_while_it_can_be_tried_again(store):
    intent = store.control.request(draft(hooks_hash="h"))
    deliver(store, intent, "failed")
    store.control.settle(intent.id, IntentState.FAILED, "w", "")
    assert store.control.request(draft(hooks_hash="h")).id == intent.id
    assert store.control.audit()[-1].event == "repeated"
    assert store.control.request(draft(hooks_hash="h", at=intent.expires_at)).id == "i2"


def test_an_intent_that_failed_under_other_hooks_is_requested_again(store):
    intent = store.control.request(draft(hooks_hash="h"))
    deliver(store, intent, "failed")
    store.control.settle(intent.id, IntentState.FAILED, "w", "")
    assert store.control.request(draft(hooks_hash="other")).id == "i2"


def test_an_intent_that_failed_before_it_began_is_requested_again(store):
    intent = store.control.request(draft())
    store.control.settle(intent.id, IntentState.FAILED, "w", "")
    assert store.control.request(draft()).id == "i2"


def test_a_promotion_counts_until_another_action(store):
    first = store.control.request(draft())
    store.control.settle(first.id, IntentState.ACKNOWLEDGED, "w", "")
    assert store.control.request(draft()).id == first.id
    held = store.control.request(draft(Action.HOLD))
    assert store.control.request(draft()).id == "i3"
    store.control.cancel(held.id, "ann", "")
    assert store.control.request(draft(Action.HOLD)).id == "i4"


def test_a_refused_approval_names_the_reason(store):
    intent = store.control.request(draft(needed=1))
    with pytest.raises(UnknownName, match="'i7'"):
        store.control.approve("i7", Person("bob", ("bob",)))
    assert store.control.approve(intent.id, Person("bob", ("bob",))).state is IntentState.APPROVED
    with pytest.raises(UsageError, match="i1 is approved, so there is nothing to approve"):
        store.control.approve(intent.id, Person("cleo", ("cleo",)))


def test_an_approval_is_kept_with_all_names_of_the_person_and_repeated_ones_count_once(store):
    intent = store.control.request(draft(needed=2, distinct=True))
    store.control.approve(intent.id, Person("bob", ("bob", "bob@example.org")))
    store.control.approve(intent.id, Person("bob@example.org", ("bob@example.org",)))
    (approval,) = store.control.approvals(intent.id)
    assert (approval.person, approval.names) == ("bob", ("bob", "bob@example.org"))
    assert [row.event for row in store.control.audit()] == ["requested", "approved", "repeated"]
    second = store.control.request(draft(release="x@1", needed=1))
    store.control.approve(second.id, Person("cleo", ("cleo",)))
    assert [approval.person for approval in store.control.approvals()] == ["bob", "cleo"]
    assert [approval.person for approval in store.control.approvals(second.id)] == ["cleo"]


def test_only_what_was_not_begun_is_taken_back(store):
    intent = store.control.request(draft())
    store.control.claim(intent, "w")
    with pytest.raises(UsageError, match="i1 is sent, so there is nothing to cancel"):
        store.control.cancel(intent.id, "ann", "no")


def test_what_is_overdue_expires(store):
    past = store.control.request(draft(at=AT))
    store.control.expire(past.expires_at - timedelta(microseconds=1))
    assert store.control.intent(past.id).state is IntentState.APPROVED
    store.control.expire(past.expires_at)
    assert store.control.intent(past.id).state is IntentState.EXPIRED
    row = store.control.audit()[-1]
    assert (row.actor, row.event, row.text) == ("evaluator", "expired", "not executed by 2026-10-01 16:00 UTC")


def test_a_claim_is_of_what_was_seen(store):
    requested = store.control.request(draft())
    assert store.control.claim(requested, "w1")
    assert not store.control.claim(requested, "w2")
    begun = store.control.intent(requested.id)
    assert (begun.state, begun.claimed_by) == (IntentState.SENT, "w1")
    assert store.control.claim(begun, "w3")  # whose worker was killed
    store.control.settle(requested.id, IntentState.ACKNOWLEDGED, "w3", "")
    assert not store.control.claim(store.control.intent(requested.id), "w4")
    assert [row.actor for row in store.control.audit() if row.event == "claimed"] == ["w1", "w3"]


def test_trying_again_reopens_failed_hooks_and_requests_unknown_ones(store):
    intent = store.control.request(draft())
    for position, state in enumerate(("acknowledged", "failed", "unknown")):
        deliver(store, intent, state, position=position)
    deliver(store, intent, "acknowledged", position=3, event="announce")
    with pytest.raises(UsageError, match="i1 is approved, so there is nothing to try again"):
        store.control.reopen(intent.id, "ann", "again")
    store.control.settle(intent.id, IntentState.UNKNOWN, "w", "")
    again = store.control.reopen(intent.id, "ann", "again")
    assert (again.state, again.claimed_by) == (IntentState.APPROVED, "")
    states = [delivery.outcome.state.value for delivery in store.control.deliveries(intent.id)]
    assert states == ["acknowledged", "approved", "requested", "approved"]
    row = store.control.audit()[-1]
    assert (row.actor, row.event, row.intent, row.text) == ("ann", "retried", "i1", "again")


def test_deliveries_are_read_as_they_were_kept(store):
    intent, second_intent = store.control.request(draft()), store.control.request(draft(release="x@1"))
    first = deliver(store, intent, "sent", options='{"url": "x"}')
    second = deliver(store, intent, "failed", position=1, text="no answer")
    elsewhere = deliver(store, second_intent, "sent", position=2)
    assert store.control.deliveries(intent.id) == (first, second)
    assert store.control.deliveries() == (first, second, elsewhere)
    assert [row.text for row in store.control.audit("cart@2")[-2:]] == [
        "1. promote: webhook",
        "2. promote: webhook: no answer",
    ]
    deliver(store, intent, "acknowledged", text="done", attempts=2)
    stored = store.control.deliveries(intent.id)[0]
    assert (stored.attempts, stored.outcome.state, stored.outcome.text) == (3, IntentState.ACKNOWLEDGED, "done")


# ------------------------------------------------------------------ promoted against the verdict


def test_a_promotion_against_a_verdict_is_on_it_once_it_may_have_been_done(store):
    store.control.add_release(Release("cart@2"))
    text = save(store, "cart@2", "no_go")
    glass = store.control.request(draft(Action.BREAK_GLASS, needed=2, distinct=True, verdict=hash_text(text)))
    for who in ("cleo", "bob"):
        store.control.approve(glass.id, Person(who, (who,)))
    assert store.control.override_of("cart@2", "sha256:d") is None
    store.control.claim(store.control.intent(glass.id), "w")
    override = store.control.verdicts("cart@2")[0].override
    assert {name: override[name] for name in ("by", "approved by", "reason")} == {
        "by": "ann", "approved by": "bob, cleo", "reason": "looks good"
    }  # fmt: skip
    assert override["at"] == f"{glass.requested_at:%Y-%m-%d %H:%M} UTC"
    assert store.control.override_of("cart@2", "sha256:d") == override
    assert store.control.override_of("cart@2", "sha256:other") is None
    assert store.control.override_of("cart@3", "sha256:d") is None


def test_a_promotion_with_the_verdict_is_no_override(store):
    store.control.add_release(Release("cart@2"))
    text = save(store, "cart@2", "go")
    intent = store.control.request(draft(verdict=hash_text(text)))
    store.control.settle(intent.id, IntentState.ACKNOWLEDGED, "w", "")
    assert store.control.verdicts("cart@2")[0].override is None


# ------------------------------------------------------------------ one at a time


def test_only_one_worker_executes_a_target(store):
    with store.control.alone(["cart", "search"]) as held:
        assert held
        with store.control.alone(["pay"]) as second:
            assert second
        with store.control.alone(["search"], wait_s=0.05) as second:
            assert not second
    with store.control.alone(["search"]) as held:
        assert held


def test_without_permission_to_write_the_store_nothing_is_executed(store):
    store.file.folder.mkdir(exist_ok=True)
    (store.file.folder / ".promotion").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written") as caught, store.control.alone(["cart"]):
        pass
    assert "a user who may write to the store" in caught.value.hint


# ------------------------------------------------------------------ audit trail


def test_the_trail_is_read_by_release_and_each_row_covers_the_one_before(store):
    first = store.control.note("ann", "note", "cart@2", "slow disk")
    second = store.control.note("bob", "refused", "other@1", "no", "i4")
    assert (first.number, second.number, second.intent) == (0, 1, "i4")
    assert store.control.audit() == (first, second)
    assert store.control.audit("other@1") == (second,)
    assert store.control.verify_audit() == second.hash
    assert replace(first, text="x") != first
