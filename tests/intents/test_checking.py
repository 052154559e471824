"""Whatever changed between approval and execution refuses the intent, with the reason."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from evaluator.errors import Refused
from evaluator.intents.checking import Situation, check_execution, hash_verdict
from evaluator.records import StoredVerdict
from evaluator.records.intents import Action, Intent, IntentState

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GO = StoredVerdict("cart@2", "go", NOW - timedelta(minutes=5), "{}")
INTENT = Intent(
    "i1", "evt_1", "cart@2", Action.PROMOTE, "ann", "fine", hash_verdict(GO), "sha256:d", "sha256:p",
    NOW - timedelta(minutes=4), NOW + timedelta(hours=4), 1, distinct=True, state=IntentState.APPROVED,
    hooks_hash="sha256:h",
)  # fmt: skip
BOTH = {"ann", "bob"}
SITUATION = Situation(
    NOW,
    GO,
    "sha256:d",
    "sha256:p",
    "sha256:h",
    frozenset({"bob"}),
    {"ann", "bob"},
    {"ann", "bob"},
    timedelta(minutes=30),
)


def test_an_intent_whose_grounds_hold_is_executed():
    check_execution(INTENT, SITUATION)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"now": NOW + timedelta(hours=4)}, "it has expired"),
        ({"latest": None}, "not the latest"),
        ({"latest": replace(GO, json="{ }")}, "not the latest"),
        ({"latest": replace(GO, json="[]")}, "not the latest"),
        ({"max_age": timedelta(minutes=4)}, "too old"),
        ({"now": NOW - timedelta(minutes=7)}, "the clock was set back"),
        ({"overtaken_by": "i2 (rollback) was requested after it"}, "i2 .rollback. was requested after it"),
        ({"data_hash": "sha256:x"}, "data have landed"),
        ({"policy_hash": "sha256:x"}, "policy has changed"),
        ({"restarted_at": GO.judged_at}, "its verdict is from before decisions were lost"),
        ({"other_versions": "canary is 9, not 2"}, "canary is 9, not 2"),
        ({"hooks_hash": "sha256:x"}, "hooks or approvals have changed"),
        ({"approvers": frozenset()}, "0 of 1 approvals are valid"),
        ({"approvers": frozenset({"ann"})}, "0 of 1 approvals are valid"),
        ({"may_approve": {"ann"}}, "0 of 1 approvals are valid"),
        ({"may_request": {"bob"}}, "ann no longer has permission"),
    ],
)
def test_what_changed_since_refuses_it(change, reason):
    with pytest.raises(Refused, match=reason):
        check_execution(INTENT, replace(SITUATION, **change))


def test_a_restart_before_the_verdict_and_going_back_are_no_obstacle():
    check_execution(INTENT, replace(SITUATION, restarted_at=GO.judged_at - timedelta(seconds=1)))
    back = replace(INTENT, action=Action.ROLLBACK)
    check_execution(back, replace(SITUATION, restarted_at=GO.judged_at))


@pytest.mark.parametrize("state", sorted(set(IntentState) - {IntentState.APPROVED, IntentState.SENT}))
def test_only_what_is_approved_is_executed(state):
    with pytest.raises(Refused, match=f"it is {state}"):
        check_execution(replace(INTENT, state=state), SITUATION)


@pytest.mark.parametrize("word", ["no_go", "inconclusive"])
def test_against_the_verdict_only_by_break_glass(word):
    verdict = replace(GO, word=word)
    with pytest.raises(Refused, match="the verdict is not GO"):
        check_execution(INTENT, replace(SITUATION, latest=verdict))
    check_execution(replace(INTENT, action=Action.BREAK_GLASS), replace(SITUATION, latest=verdict))


@pytest.mark.parametrize("action", [Action.HOLD, Action.ROLLBACK])
def test_holding_and_rolling_back_need_no_verdict_but_permission(action):
    intent = replace(INTENT, action=action, approvals_needed=0)
    check_execution(intent, replace(SITUATION, latest=None))
    check_execution(intent, replace(SITUATION, other_versions="canary is 9, not 2"))
    with pytest.raises(Refused, match="ann no longer has permission"):
        check_execution(intent, replace(SITUATION, may_approve={"bob"}))


@pytest.mark.parametrize(
    "change",
    [
        {"now": INTENT.expires_at - timedelta(seconds=1), "max_age": timedelta(hours=5)},
        {"max_age": timedelta(minutes=5)},
        {"now": GO.judged_at - timedelta(minutes=1)},
        {"now": GO.judged_at},
        {"may_request": {"ann"}},
        {"may_approve": {"bob"}},
        {"approvers": frozenset({"bob", "eve"})},
    ],
)
def test_what_is_just_so_is_executed(change):
    check_execution(INTENT, replace(SITUATION, **change))
    check_execution(replace(INTENT, state=IntentState.SENT), replace(SITUATION, **change))


def test_approvals_are_counted_of_those_who_still_may():
    """The requester's own counts where the policy lets it; with two needed, two have to be others."""
    both = replace(SITUATION, approvers=frozenset(BOTH))
    check_execution(replace(INTENT, distinct=False, approvals_needed=2), both)
    with pytest.raises(Refused, match="1 of 2 approvals are valid"):
        check_execution(replace(INTENT, approvals_needed=2), both)
    with pytest.raises(Refused, match="1 of 2 approvals are valid"):
        check_execution(replace(INTENT, distinct=False, approvals_needed=2), replace(both, may_approve={"ann"}))
    check_execution(replace(INTENT, approvals_needed=0), replace(both, approvers=frozenset(), may_request=set()))


def test_a_refusal_names_the_intent_and_the_first_reason():
    with pytest.raises(Refused) as refused:
        check_execution(replace(INTENT, state=IntentState.EXPIRED), replace(SITUATION, now=INTENT.expires_at))
    assert str(refused.value) == "i1 (promote cart@2) is not executed: it is expired"
