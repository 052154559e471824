"""The life of a release from what is recorded: its state, what is live, and what stays unknown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from rollout_cases import at as event_at
from rollout_cases import make_cases, start_rollout

from evaluator.intents.life import find_lives
from evaluator.intents.life_facts import LifeFacts
from evaluator.records import VerdictWord
from evaluator.records.intents import Action, Approval, AuditRow, Intent, IntentState
from evaluator.records.life import LifeState
from evaluator.records.rollouts import EventKind, RolloutOutcome
from evaluator.reports.life import choose_next, describe_life, name_state

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
A, B = "cart@1", "cart@2"
DONE, FAILED, UNKNOWN = IntentState.ACKNOWLEDGED, IntentState.FAILED, IntentState.UNKNOWN


def minute(number: float) -> datetime:
    return START + timedelta(minutes=number)


class Record:
    """What is recorded of some releases, written as it happens."""

    def __init__(self, **services: str):
        self.services = {A: ("cart",), B: ("cart",)} | {
            name.replace("_", "@"): tuple(names.split()) for name, names in services.items()
        }
        self.intents, self.endings, self.begun = [], {}, set()
        self.judged, self.approvals, self.rollouts = {}, {}, []
        self.restarted_at = self.now = None

    def act(self, action, release=A, at=0.0, state=DONE, *, ended=None, begun=True, text="", **fields) -> str:
        """Record an intent that was requested at a minute, and has ended half a minute later; returns its id."""
        intent_id = f"i{len(self.intents) + 1}"
        intent = Intent(
            intent_id, f"k{intent_id}", release, Action(action), "ann", f"why of {intent_id}", "v", "d", "p",
            minute(at), minute(at + 60), state=state, **fields,
        )  # fmt: skip
        self.intents.append(intent)
        waits = (IntentState.REQUESTED, IntentState.APPROVED, IntentState.SENT)
        if state not in waits:
            ending = minute(at + 0.5 if ended is None else ended)
            self.endings[intent_id] = AuditRow(1, ending, "worker w:1", state, release, intent_id, text, "h")
        if begun and state not in waits:
            self.begun.add(intent_id)
        return intent_id

    def lives(self):
        return find_lives(
            LifeFacts(
                self.services, self.judged, self.intents, self.endings, self.approvals, self.begun, self.rollouts,
                self.restarted_at, self.now,
            )
        )  # fmt: skip

    def of(self, release=A):
        return self.lives().releases[release]


@pytest.fixture
def record():
    return Record()


def test_a_release_without_any_action_is_what_its_verdict_is(record):
    assert record.of().state is LifeState.NOT_JUDGED
    record.judged[A] = ("no_go", minute(3))
    life = record.of()
    assert (life.state, life.at, describe_life(life)) == (
        LifeState.JUDGED, minute(3), "judged NO-GO at 2026-03-01 12:03 UTC"
    )  # fmt: skip
    assert record.lives().services["cart"].release == ""


@pytest.mark.parametrize(
    ("state", "life_state", "named"),
    [
        (IntentState.REQUESTED, LifeState.REQUESTED, "… promotion waits for approval"),
        (IntentState.APPROVED, LifeState.APPROVED, "… promotion approved"),
        (IntentState.SENT, LifeState.EXECUTING, "→ promotion being executed"),
        (DONE, LifeState.LIVE, "● live"),
        (FAILED, LifeState.FAILED, "✗ failed"),
        (UNKNOWN, LifeState.UNKNOWN, "? outcome unknown"),
        (IntentState.EXPIRED, LifeState.JUDGED, "· judged"),
        (IntentState.CANCELLED, LifeState.JUDGED, "· judged"),
    ],
)
def test_each_state_of_a_promotion(record, state, life_state, named):
    record.judged[A] = ("go", minute(-1))
    record.act("promote", state=state, begun=state in (DONE, FAILED, UNKNOWN), approvals_needed=1)
    life = record.of()
    assert (life.state, name_state(life)) == (life_state, named)
    assert life.is_live is {DONE: True, FAILED: None, UNKNOWN: None, IntentState.SENT: None}.get(state, False)


def test_live_says_who_when_and_why(record):
    intent_id = record.act("promote")
    life = record.of()
    assert describe_life(life) == "live: promoted at 2026-03-01 12:00 UTC by ann: why of i1"
    assert (life.intent, life.is_live) == (intent_id, True)
    live = record.lives().services["cart"]
    assert (live.release, live.at, live.by, live.doubt) == (A, minute(0.5), "ann", "")


def test_a_promotion_against_the_verdict_says_so(record):
    record.act("break_glass")
    assert describe_life(record.of()).startswith("live: promoted against the verdict at ")


def test_an_approval_is_counted_and_named(record):
    intent_id = record.act("promote", state=IntentState.REQUESTED, approvals_needed=2)
    record.approvals[intent_id] = [Approval(intent_id, "ben", minute(1))]
    life = record.of()
    assert life.notes == ("waits for 1 approval", "approved by ben")
    assert [event.text for event in life.events] == ["promotion requested", "promotion approved"]


def test_a_request_that_has_expired_is_void_before_that_is_recorded(record):
    record.act("promote", state=IntentState.REQUESTED)
    record.now = minute(61)
    assert record.of().state is LifeState.NOT_JUDGED
    record.now = minute(59)
    assert record.of().state is LifeState.REQUESTED


def test_a_rollback_takes_the_release_from_the_users(record):
    record.act("promote")
    record.act("rollback", at=5, undoes=("i1",))
    life = record.of()
    assert describe_life(life) == "rolled back at 2026-03-01 12:05 UTC by ann: why of i2"
    assert life.is_live is False
    assert record.lives().services["cart"].release == ""


def test_promoted_again_after_a_rollback_is_live(record):
    record.act("promote")
    record.act("rollback", at=5, undoes=("i1",))
    record.act("promote", at=10)
    assert (record.of().state, record.of().intent) == (LifeState.LIVE, "i3")


def test_a_later_promotion_of_the_service_replaces_it(record):
    record.act("promote")
    record.act("promote", B, at=5)
    life = record.of()
    assert describe_life(life) == f"was live until {B} replaced it at 2026-03-01 12:05 UTC"
    assert (life.state, life.replaced_by, life.is_live) == (LifeState.REPLACED, B, False)
    assert record.of(B).state is LifeState.LIVE
    assert record.lives().services["cart"].release == B


def test_it_is_live_again_once_what_replaced_it_was_rolled_back(record):
    record.act("promote")
    record.act("promote", B, at=5)
    record.act("rollback", B, at=10, undoes=("i2",))
    life, live = record.of(), record.lives().services["cart"]
    assert (life.state, life.is_live) == (LifeState.LIVE, True)
    assert f"live again since {B} was rolled back" in life.notes
    assert (live.release, live.restored_by, live.at) == (A, B, minute(10.5))


def test_the_one_that_was_executed_later_is_live_whichever_was_requested_first(record):
    record.act("promote", A, at=0, ended=20)
    record.act("promote", B, at=1, ended=2)
    assert record.lives().services["cart"].release == A
    assert record.of(B).state is LifeState.REPLACED


@pytest.mark.parametrize(
    ("state", "begun", "said"),
    [
        (UNKNOWN, True, "the outcome of the promotion of cart@2 (i2) is not known"),
        (UNKNOWN, False, "the outcome of the promotion of cart@2 (i2) is not known"),
        (FAILED, True, "the promotion of cart@2 (i2) failed after it had begun"),
        (IntentState.CANCELLED, True, "the promotion of cart@2 (i2) was begun and is cancelled"),
    ],
)
def test_a_later_promotion_whose_effect_is_not_known_leaves_it_open_what_is_live(record, state, begun, said):
    record.act("promote")
    record.act("promote", B, at=5, state=state, begun=begun)
    life, live = record.of(), record.lives().services["cart"]
    assert (life.state, life.is_live) == (LifeState.UNKNOWN, None)
    assert said in life.notes
    assert live.doubt == said


@pytest.mark.parametrize("state", [FAILED, IntentState.CANCELLED, IntentState.EXPIRED])
def test_a_later_promotion_that_changed_nothing_leaves_it_live(record, state):
    record.act("promote")
    record.act("promote", B, at=5, state=state, begun=False)
    assert (record.of().state, record.of().is_live) == (LifeState.LIVE, True)


def test_while_another_one_is_being_promoted_it_is_live_but_not_for_certain(record):
    record.act("promote", A, at=0, ended=20)
    record.act("promote", B, at=1, state=IntentState.SENT)  # requested before A was executed, executed after it
    life = record.of()
    assert (life.state, life.is_live) == (LifeState.LIVE, None)
    assert "the promotion of cart@2 (i2) is being executed" in life.notes


@pytest.mark.parametrize(
    ("state", "begun", "life_state", "is_live"),
    [
        (FAILED, True, LifeState.FAILED, None),
        (FAILED, False, LifeState.FAILED, True),
        (UNKNOWN, False, LifeState.UNKNOWN, None),
        (IntentState.SENT, False, LifeState.EXECUTING, None),
        (IntentState.REQUESTED, False, LifeState.REQUESTED, True),
        (IntentState.CANCELLED, False, LifeState.LIVE, True),
    ],
)
def test_a_rollback_that_has_not_ended_well_does_not_take_it_from_the_users(record, state, begun, life_state, is_live):
    record.act("promote")
    record.act("rollback", at=5, state=state, begun=begun, text="the router did not answer", undoes=("i1",))
    life = record.of()
    assert (life.state, life.is_live) == (life_state, is_live)
    assert ("it is live" in life.notes) == (is_live is True and life_state is not LifeState.LIVE)
    if state is FAILED:
        assert "the router did not answer" in life.notes


def test_after_a_rollback_that_failed_another_one_settles_it(record):
    record.act("promote")
    record.act("rollback", at=5, state=FAILED, undoes=("i1",))
    record.act("rollback", at=6, undoes=("i1",))
    assert (record.of().state, record.of().is_live) == (LifeState.ROLLED_BACK, False)


def test_a_hold_of_what_is_not_live(record):
    record.judged[A] = ("go", minute(-1))
    record.act("hold", at=5)
    assert describe_life(record.of()) == "held at 2026-03-01 12:05 UTC by ann: why of i1"
    record.act("promote", at=10)
    assert record.of().state is LifeState.LIVE
    assert not record.of().notes


@pytest.mark.parametrize("state", [FAILED, UNKNOWN])
def test_a_hold_whose_hooks_failed_holds_all_the_same(record, state):
    record.act("hold", state=state, text="no answer")
    assert record.of().state is LifeState.HELD
    assert "hooks of the hold: no answer" in record.of().notes


def test_a_hold_of_what_is_live_leaves_it_live(record):
    record.act("promote")
    record.act("hold", at=5)
    life = record.of()
    assert (life.state, life.is_live) == (LifeState.LIVE, True)
    assert "held by ann: why of i2" in life.notes


def test_a_new_request_shows_that_it_was_rolled_back_before(record):
    record.act("promote")
    record.act("rollback", at=5, undoes=("i1",))
    record.act("promote", at=10, state=IntentState.REQUESTED, approvals_needed=1)
    life = record.of()
    assert life.state is LifeState.REQUESTED
    assert "rolled back before by ann: why of i2" in life.notes


def test_another_request_that_waits_is_named(record):
    record.act("promote")
    record.act("rollback", at=5, state=IntentState.REQUESTED)
    record.act("hold", at=6)
    assert "a rollback (i2) waits for approval" in record.of().notes


def test_a_release_of_two_services_can_be_replaced_in_one_of_them():
    record = Record(both_1="cart shop")
    record.act("promote", "both@1")
    record.act("promote", B, at=5)
    life = record.of("both@1")
    assert (life.state, life.is_live) == (LifeState.LIVE, None)
    assert f"cart: {B} has replaced it" in life.notes
    assert {name: live.release for name, live in record.lives().services.items()} == {"cart": B, "shop": "both@1"}
    record.services["shop@2"] = ("shop",)
    record.act("promote", "shop@2", at=8)
    assert record.of("both@1").state is LifeState.REPLACED


def test_another_service_changes_nothing():
    record = Record(shop_1="shop")
    record.act("promote")
    record.act("promote", "shop@1", at=5)
    assert (record.of().state, record.of("shop@1").state) == (LifeState.LIVE, LifeState.LIVE)


@pytest.mark.parametrize(("judged_min", "since"), [(4, False), (5.5, False), (6, True)])
def test_only_a_verdict_after_the_rollback_counts_as_judged_again(record, judged_min, since):
    record.act("promote")
    record.act("rollback", at=5, undoes=("i1",))
    record.judged[A] = ("go", minute(judged_min))
    life = record.of()
    assert life.judged_since is since
    offered = choose_next(life, VerdictWord.GO, "promote cart@1", "evaluator verdict cart@1")
    assert (offered == "promote cart@1") is since


@pytest.mark.parametrize("word", list(VerdictWord))
def test_no_next_step_promotes_what_is_live_held_rolled_back_or_open(record, word):
    acts = [("promote", DONE), ("promote", FAILED), ("promote", UNKNOWN), ("hold", DONE), ("rollback", DONE)]
    for number, (action, state) in enumerate(acts):
        record.act(action, at=number, state=state)
        offered = choose_next(record.of(), word, "promote cart@1", "evaluator verdict cart@1")
        assert offered != "promote cart@1", (action, state)
    record.act("promote", at=9)
    record.act("promote", B, at=10)
    assert choose_next(record.of(), word, "promote cart@1", "") == f"nothing: {B} is live in its place"


def test_what_is_live_and_became_no_go_is_to_be_taken_back(record):
    record.act("promote")
    offered = choose_next(record.of(), VerdictWord.NO_GO, "do not promote", "")
    assert offered.endswith("take it back, `evaluator rollback cart@1 --reason WHY`")


def test_lost_decisions_are_said_wherever_something_is_claimed(record):
    record.act("promote")
    record.restarted_at = minute(3)
    lost = "decisions of before 2026-03-01 12:03 UTC may be lost"
    assert lost in record.of().notes
    assert record.lives().services["cart"].doubt == lost
    record.act("promote", at=5)
    assert record.of().notes == ()
    assert record.lives().services["cart"].doubt == ""


# ------------------------------------------------------------------ rollouts


make_cases_once = cache(make_cases)


def of_case(name: str):
    """The lives of a rollout's release in one of the stored cases."""
    record = Record()
    record.services = {"cart@1.5.0": ("cart",), B: ("cart",)}
    facts = make_cases_once()[name][0]
    record.rollouts = [(facts.rollout, facts.events)]
    return record


@pytest.mark.parametrize(
    ("name", "state", "said", "share"),
    [
        ("new", LifeState.ROLLING_OUT, "no user meets it now", 0.0),
        ("running", LifeState.ROLLING_OUT, "5 % of cart's users may meet it", 0.05),
        ("held", LifeState.ROLLING_OUT, "it is held: lunch", 0.05),
        ("going", LifeState.GOING_BACK, "no user meets it now", 0.0),
        ("broken_off", LifeState.ROLLING_OUT, "no user meets it now", 0.0),
    ],
)
def test_a_rollout_that_is_running(name, state, said, share):
    record = of_case(name)
    life, live = record.of("cart@1.5.0"), record.lives().services["cart"]
    assert life.state is state
    assert said in life.notes
    assert (live.rollout, live.candidate, live.share) == ("r1", "cart@1.5.0", share)
    assert (life.is_live, live.release) == (False, "")


def test_a_rollout_that_gave_it_to_all_users_makes_it_live():
    record = of_case("promoted")
    life = record.of("cart@1.5.0")
    assert describe_life(life) == "live: promoted by rollout r1 at 2026-03-01 12:05 UTC by ann: sprint 12"
    assert record.lives().services["cart"].release == "cart@1.5.0"
    record.act("rollback", "cart@1.5.0", at=30)
    assert record.of("cart@1.5.0").state is LifeState.ROLLED_BACK
    assert record.lives().services["cart"].release == ""


def test_a_rollout_that_went_back_says_why():
    life = of_case("back").of("cart@1.5.0")
    assert life.state is LifeState.ROLLED_BACK
    assert life.why.startswith("the guard: 38 of 61 requests")


def test_its_own_rollback_does_not_hide_how_a_rollout_went_back():
    record = of_case("back")
    record.act("rollback", "cart@1.5.0", at=13, rollout="r1", undoes=("i9",))
    life = record.of("cart@1.5.0")
    assert (life.state, life.rollout) == (LifeState.ROLLED_BACK, "r1")


@pytest.mark.parametrize(
    ("outcome", "state", "said"),
    [
        (RolloutOutcome.ROLLED_BACK_PARTLY, LifeState.ROLLED_BACK, "not all of its acts are undone"),
        (None, LifeState.UNKNOWN, "its outcome is not known"),
    ],
)
def test_a_rollout_that_ended_otherwise(outcome, state, said):
    record = Record()
    record.services = {"cart@1.5.0": ("cart",)}
    record.rollouts = [(start_rollout(), (event_at(5, EventKind.ENDED, outcome=outcome),))]
    life = record.of("cart@1.5.0")
    assert life.state is state
    assert said in life.what


def test_a_plan_that_cannot_be_read_leaves_it_open_whom_it_reaches():
    record = of_case("running")
    [(rollout, events)] = record.rollouts
    record.rollouts = [(replace(rollout, plan={**rollout.plan, "steps": [{"kind": "leap"}]}), events)]
    life, live = record.of("cart@1.5.0"), record.lives().services["cart"]
    assert (life.state, life.shares, live.share) == (LifeState.UNKNOWN, None, None)
    assert "it is not known whether users meet cart@1.5.0" in life.notes


def test_a_rollout_leaves_the_release_before_it_live_until_it_ends():
    record = of_case("running")
    record.act("promote", B, at=-60)
    assert record.of(B).state is LifeState.LIVE
    record = of_case("promoted")
    record.act("promote", B, at=-60)
    assert record.of(B).replaced_by == "cart@1.5.0"
