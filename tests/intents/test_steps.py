"""The steps of an action: which hooks, in which order, with which values, and what is shown first."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from evaluator.intents.checking import hash_verdict
from evaluator.intents.previews import preview_action, preview_intent
from evaluator.intents.steps import make_context, plan_steps
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Release, Service, StoredVerdict
from evaluator.records.intents import (
    Action,
    Delivery,
    HookEntry,
    HookOutcome,
    Intent,
    IntentState,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
UNTIL = NOW + timedelta(hours=4)


def run(word: str, *, undo: str = "", required: bool = False) -> HookEntry:
    options = {"run": ["echo", word], "undo": ["echo", undo]} if undo else {"run": ["echo", word]}
    return HookEntry("command", {**options, "required": True} if required else options)


RULES = PromotionRules(
    {
        "promote": (run("one", required=True), run("two")),
        "hold": (run("held"),),
        "rollback": (run("before"), HookEntry("undo"), run("after")),
        "announce": (run("said"),),
    }
)


def delivered(state: str, word: str, *, undo: str = "back", undo_state: str = '{"weight": 3}', event: str = "promote"):
    options = json.dumps(dict(run(word, undo=undo).options))
    return Delivery("i1", 0, "command", 1, HookOutcome(IntentState(state), "", undo_state), NOW, event, options)


def words(planned):
    return [" ".join(hook.step.hook.options.run[1:]) for hook in planned]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Action.PROMOTE, ["one", "two", "said"]),
        (Action.BREAK_GLASS, ["one", "two", "said"]),
        (Action.HOLD, ["held", "said"]),
        (Action.ROLLBACK, ["before", "after", "said"]),
    ],
)
def test_each_action_has_hooks_of_its_own_and_announcements_come_last(action, expected):
    planned, irreversible = plan_steps(RULES, action)
    assert words(planned) == expected
    assert [hook.position for hook in planned] == list(range(len(expected)))
    event = "promote" if action is Action.BREAK_GLASS else action.value
    assert [hook.event for hook in planned] == [event] * (len(expected) - 1) + ["announce"]
    assert irreversible == ()


def test_of_several_hooks_that_one_is_required_whose_entry_says_so():
    assert [hook.step.required for hook in plan_steps(RULES, Action.PROMOTE)[0]] == [True, False, False]


def test_undo_stands_where_the_policy_has_it_and_restores_what_was_kept():
    undone = [delivered("acknowledged", "two"), delivered("acknowledged", "one", undo_state="")]
    planned, irreversible = plan_steps(RULES, Action.ROLLBACK, undone)
    assert words(planned) == ["before", "two", "one", "after", "said"]
    assert [hook.event for hook in planned] == ["rollback", "undo", "undo", "rollback", "announce"]
    assert [hook.earlier for hook in planned] == [None, {"weight": 3}, None, None, None]
    assert irreversible == ()


@pytest.mark.parametrize(
    ("state", "taken_back"),
    [("acknowledged", True), ("unknown", True), ("sent", True), ("failed", False), ("requested", False)],
)
def test_what_may_have_been_done_is_taken_back(state, taken_back):
    planned, _ = plan_steps(RULES, Action.ROLLBACK, [delivered(state, "one")])
    assert ("undo" in [hook.event for hook in planned]) == taken_back


def test_announcements_are_not_taken_back():
    planned, irreversible = plan_steps(RULES, Action.ROLLBACK, [delivered("acknowledged", "said", event="announce")])
    assert words(planned) == ["before", "after", "said"]
    assert irreversible == ()


def test_what_cannot_be_undone_is_named():
    planned, irreversible = plan_steps(RULES, Action.ROLLBACK, [delivered("acknowledged", "one", undo="")])
    assert words(planned) == ["before", "after", "said"]
    (text,) = irreversible
    assert text.startswith("command (")
    assert text.endswith(") cannot be undone")
    assert "one" in text


# ------------------------------------------------------------------ what a hook is given

INTENT = Intent("i7", "key7", "cart@2", Action.PROMOTE, "bob", "all is well", "v", "d", "p", NOW, UNTIL)
ONE_SERVICE = Release("cart@2", (Service("cart", "1", "2"),))
VERDICT = StoredVerdict("cart@2", "go", NOW, '{"data_hash": "d"}')


def test_a_hook_is_given_the_intent_the_verdict_and_a_key_of_its_own():
    first, second, _ = plan_steps(RULES, Action.PROMOTE)[0]
    context = make_context(INTENT, ONE_SERVICE, VERDICT, first)
    assert (context.release, context.action, context.requester, context.reason) == (
        "cart@2",
        "promote",
        "bob",
        "all is well",
    )
    assert (context.verdict, context.verdict_hash) == ("go", hash_verdict(VERDICT))
    assert (context.baseline, context.canary) == ("1", "2")
    assert (context.idempotency_key, context.expires_at, context.outcome) == ("key7-0", UNTIL, "")
    assert make_context(INTENT, ONE_SERVICE, VERDICT, second).idempotency_key == "key7-1"


def test_an_announcement_of_another_outcome_is_another_message():
    *_, announce = plan_steps(RULES, Action.PROMOTE)[0]
    context = make_context(INTENT, ONE_SERVICE, None, announce, outcome="failed")
    assert (context.idempotency_key, context.outcome, context.verdict, context.verdict_hash) == (
        "key7-2-failed",
        "failed",
        "",
        "",
    )


def test_an_undo_is_of_a_promotion():
    rollback = Intent("i8", "key8", "cart@2", Action.ROLLBACK, "bob", "", "", "", "", NOW, UNTIL)
    before, undo, *_ = plan_steps(RULES, Action.ROLLBACK, [delivered("acknowledged", "one")])[0]
    assert make_context(rollback, ONE_SERVICE, None, before).action == "rollback"
    assert make_context(rollback, ONE_SERVICE, None, undo).action == "promote"
    glass = Intent("i9", "key9", "cart@2", Action.BREAK_GLASS, "bob", "", "", "", "", NOW, UNTIL)
    assert make_context(glass, ONE_SERVICE, None, before).action == "promote"


def test_a_hook_is_given_service_arm_share_and_link():
    linked = replace(RULES, link="https://e.example.org/?release=${release}")
    first = plan_steps(linked, Action.PROMOTE)[0][0]
    context = make_context(INTENT, ONE_SERVICE, VERDICT, first)
    assert (context.service, context.arm, context.version, context.share) == ("cart", "canary", "2", "1")
    assert (context.step, context.link) == ("", "https://e.example.org/?release=cart%402")
    two = Release("r", (Service("cart", "1", "2"), Service("shop", "3", "4")))
    assert make_context(INTENT, two, None, first).service == "cart,shop"
    assert make_context(INTENT, Release("x"), None, first).service == ""
    assert make_context(INTENT, ONE_SERVICE, None, plan_steps(RULES, Action.PROMOTE)[0][0]).link == ""


def test_what_cannot_be_undone_is_named_with_its_link():
    linked = replace(RULES, link="https://e.example.org/${release}")
    _, (text,) = plan_steps(linked, Action.ROLLBACK, [delivered("acknowledged", "${link}", undo="")], ONE_SERVICE)
    assert "https://e.example.org/cart%402" in text


def test_only_a_promotion_has_a_share():
    """A hook that is undone has the action of the promotion, and must not set its share again."""
    undo = plan_steps(RULES, Action.ROLLBACK, [delivered("acknowledged", "one")])[0][1]
    assert undo.event == "undo"
    assert make_context(replace(INTENT, action=Action.ROLLBACK), ONE_SERVICE, None, undo).share == ""
    for action, share in ((Action.ROLLBACK, ""), (Action.HOLD, ""), (Action.BREAK_GLASS, "1")):
        assert make_context(
            replace(INTENT, action=action), ONE_SERVICE, None, plan_steps(RULES, action)[0][0]
        ).share == (share)


def test_versions_of_several_services_are_named():
    release = Release("shop@2", (Service("cart", "1", "2"), Service("search", "7", "8")))
    context = make_context(INTENT, release, None, plan_steps(RULES, Action.PROMOTE)[0][0])
    assert (context.baseline, context.canary) == ("cart=1,search=7", "cart=2,search=8")
    assert make_context(INTENT, Release("x"), None, plan_steps(RULES, Action.PROMOTE)[0][0]).canary == ""


# ------------------------------------------------------------------ what is shown before


def test_of_several_services_a_version_is_known_if_all_are():
    release = Release("cart@2", (Service("cart", "1", "2"), Service("shop", "", "9")))
    context = make_context(INTENT, release, None, plan_steps(RULES, Action.PROMOTE)[0][0])
    assert (context.baseline, context.canary) == ("", "cart=2,shop=9")


def test_a_preview_shows_what_will_happen_and_the_current_values(monkeypatch):
    rules = PromotionRules({"promote": (run("one", undo="back", required=True), run("two"))})
    planned, _ = plan_steps(rules, Action.PROMOTE)
    monkeypatch.setattr(
        "evaluator.hooks.command.Command.read", lambda hook, _context: {"weight": 90} if hook.can_undo() else None
    )
    until = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(
        "evaluator.hooks.command.Command.find_obstacle", lambda hook, action: f"no {hook.kind} {action}"
    )
    first, second = preview_action(planned, Action.PROMOTE, ONE_SERVICE, VERDICT, until)
    assert first.obstacle == "no command promote"
    assert (first.event, first.kind, first.required, second.required) == ("promote", "command", True, False)
    assert first.description == "runs echo one"
    assert "90" in first.current_value
    assert second.current_value == ""


def test_words_are_shown_as_the_hook_gets_them_and_secrets_are_not():
    entries = (
        run("promoted-${canary} ${reason} ${idempotency_key}"),
        HookEntry(
            "http",
            {
                "url": "https://d.example.org/${release}",
                "body": '{"why": "${reason}"}',
                "headers": {"Authorization": "${HOOK_SECRET}"},
            },
        ),
        HookEntry(
            "etcd",
            {"url": "http://etcd", "key": "/k", "value": "${canary}", "username": "u", "password": "${HOOK_SECRET}"},
        ),
        HookEntry(
            "notify",
            {"to": ["slack://${HOOK_SECRET}"], "title": "${action} ${verdict}", "body": "${outcome} ${requester}"},
        ),
    )
    planned, _ = plan_steps(PromotionRules({"promote": entries}), Action.PROMOTE)
    intent = replace(INTENT, reason='"fast" & ${canary}', expires_at=datetime.now(UTC))
    shown = [step.description for step in preview_intent(planned, intent, ONE_SERVICE, VERDICT)]
    assert shown == [
        """runs echo 'promoted-2 "fast" & ${canary} key7-0'""",
        'sends POST https://d.example.org/cart%402 with {"why": "\\"fast\\" & ${canary}"}',
        "sets /k of etcd at http://etcd to 2",
        "notifies slack: promote go: ‹how it ends› bob",
    ]
    draft = preview_action(planned, Action.PROMOTE, ONE_SERVICE, VERDICT, datetime.now(UTC))
    assert draft[0].description == "runs echo 'promoted-2 ‹your reason› ‹key of the request›'"
    assert draft[1].description == 'sends POST https://d.example.org/cart%402 with {"why": "‹your reason›"}'
    known = preview_action(planned, Action.PROMOTE, ONE_SERVICE, VERDICT, datetime.now(UTC), "ann")
    assert known[3].description == "notifies slack: promote go: ‹how it ends› ann"
    shown = " ".join(step.description for step in (*draft, *known))
    assert "${" not in shown.replace("${HOOK_SECRET}", "")


def test_what_is_taken_back_says_so():
    (undo,) = (
        hook
        for hook in plan_steps(RULES, Action.ROLLBACK, [delivered("sent", "one", undo="back")])[0]
        if hook.event == "undo"
    )
    context = make_context(INTENT, ONE_SERVICE, None, undo)
    assert undo.describe(context) == 'runs echo back, to take back what echo one did; restores {"weight": 3}'


def test_what_cannot_be_undone_is_named_with_its_version():
    undone = [delivered("acknowledged", "to-${canary}", undo="")]
    _, (text,) = plan_steps(RULES, Action.ROLLBACK, undone, ONE_SERVICE)
    assert text == "command (runs echo to-2) cannot be undone"
