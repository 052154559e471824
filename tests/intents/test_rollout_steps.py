"""Steps of a rollout: requested once, executed once, agreed to, and taken back, whatever happens in between."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import threading
import time
import warnings
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evaluator.errors import PlanNotReadable, Refused, StepWaits, UsageError
from evaluator.hooks import Outcome
from evaluator.intents import (
    ActionRequest,
    approve,
    ask,
    cancel,
    execute,
    execute_waiting,
    notify_people,
    plan_action,
    preview_action,
    read_release_to_preview,
    resolve,
    system_person,
)
from evaluator.intents.baseline_servers import describe_missing_baseline
from evaluator.intents.emergency import act_from_journal
from evaluator.intents.journal_records import (
    JournalAction,
    keep_needed,
    list_promotions,
    name_process,
    record_began,
)
from evaluator.intents.journal_trail import record_actions
from evaluator.intents.rollout_plans import explain_end, explain_hold, make_shift, read_rules
from evaluator.intents.rollout_progress import fold
from evaluator.intents.rollout_start import explain_obstacle_to_start
from evaluator.intents.rollout_steps import (
    describe_problems,
    execute_step,
    list_answers,
    reopen_step,
    request_rollback_of,
    request_step,
)
from evaluator.policy import parse_policy
from evaluator.records import Release
from evaluator.records.intents import Action, Delivery, HookOutcome, IntentState
from evaluator.records.rollouts import Event, EventKind, JudgedAt, Rollout, RolloutOutcome, to_plain
from evaluator.rollout.planning import make_plan
from evaluator.store import audit
from evaluator.store.journal import Journal, find_journal, write_now
from evaluator.store.rollouts import Rollouts

RELEASE = "cart@1.9.0"
SET = 'printf %s "$1" > HERE/shares; echo "set-$(echo "$1" | tr -d " ")" >> HERE/out.txt'
ROUTER = {"command": {"set": ["sh", "-c", SET, "sh", "${shares}"], "get": ["cat", "HERE/shares"]}}


def write(word: str, code: int = 0) -> dict:
    """A hook that writes down that it was executed, and that it was undone."""
    return {
        "command": {
            "run": ["sh", "-c", f"echo {word}-${{step}}-${{version}} >> HERE/out.txt; exit {code}"],
            "undo": ["sh", "-c", f"echo {word}-back-${{step}} >> HERE/out.txt"],
            "idempotent": True,
        }
    }


def make_values(folder: Path, **rollout) -> dict:
    values = {
        "service": "cart",
        "rollout": {
            "strategy": "canary",
            "router": {"cart": ROUTER},
            "live": {"access_log": "/var/log/h.log"},
            "stages": [
                {"name": "5 %", "share": "5%", "needs": "no_harm", "bake": "10m"},
                {"name": "50 %", "share": "50%", "needs": "no_harm", "bake": "10m", "agree": 1},
                {"name": "full", "share": "100%", "needs": "nothing"},
            ],
            "acts": {
                "5 %": [{"name": "deploy", "hooks": [write("one"), write("two")], "verify": [write("check")]}],
                "end": [{"name": "migrate", "hooks": [write("migrate")], "irreversible": True}],
                "always": [{"name": "teardown", "hooks": [write("down")]}],
            },
            **rollout,
        },
    }
    return json.loads(json.dumps(values).replace("HERE", str(folder)))


# Positions in the plan.
DEPLOY, TO_5, SEE_5, TO_50, SEE_50, TO_100, SEE_100, MIGRATE, TEARDOWN = range(9)


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def start(store, folder):
    """Start a rollout; returns it with its plan."""
    (folder / "shares").write_text('{"baseline": 1, "canary": 0}')

    def begin(person="ann", sections=None, **rollout):
        values = make_values(folder, **rollout) | (sections or {})
        plan = make_plan(parse_policy(values), RELEASE)
        draft = Rollout("", RELEASE, to_plain(plan), plan.hash(), values, person, (person,), "it is time",
                        datetime.now(UTC))  # fmt: skip
        return Rollouts(store.control.file).start(draft), plan

    return begin


@pytest.fixture
def rules(policy):
    return policy("service: cart\n")


@pytest.fixture
def step(store, rules):
    """Request and execute a step."""

    def run(rollout, plan, position, **options):
        intent = request_step(store, rollout, plan, position)
        return execute_step(store, lambda _: rules, intent.id, "driver", **options)

    return run


def add(store, rollout, kind, step=-1, **values):
    Rollouts(store.control.file).add_event(rollout, Event(kind, 0.0, step, **values))


def kinds(store, rollout):
    return [event.kind.value for event in Rollouts(store.control.file).events(rollout.id)]


# ------------------------------------------------------------------ requested


def test_a_step_is_requested_once_and_nobody_else_executes_it(store, start, rules, lines):
    rollout, plan = start()
    intent = request_step(store, rollout, plan, DEPLOY)
    assert (intent.rollout, intent.step, intent.action, intent.state) == ("r1", 0, Action.STEP, IntentState.APPROVED)
    assert request_step(store, rollout, plan, DEPLOY) == intent
    question = request_step(store, rollout, plan, SEE_5, "nothing was shown")
    assert question.id != intent.id
    assert request_step(store, rollout, plan, SEE_5, "asked in other words") == question
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.APPROVED
    assert execute_waiting(store, lambda _: rules, "w") == ()
    assert lines() == []
    assert store.control.verify_audit()


def test_intents_from_before_rollouts_keep_their_hash(store, rules, action_request):
    from evaluator.store import audit
    from evaluator.store.intents import _to_column, hash_intent

    intent = ask(store, rules, system_person(), action_request("hold"))
    left_out = ("state", "claimed_by", "rollout", "step")
    before = audit.hash_values(*(_to_column(getattr(intent, n)) for n in intent.__slots__ if n not in left_out))
    assert hash_intent(intent) == before
    assert hash_intent(replace(intent, rollout="r1")) != before
    assert hash_intent(replace(intent, step=3)) != before


# ------------------------------------------------------------------ executed


def test_an_act_executes_its_hooks_then_verifies_and_a_rollback_undoes_the_newest_first(
    store, start, step, rules, lines, folder
):
    rollout, plan = start()
    assert step(rollout, plan, DEPLOY).state is IntentState.ACKNOWLEDGED
    assert lines() == ["one-deploy-1.9.0", "two-deploy-1.9.0", "check-deploy-1.9.0"]
    assert step(rollout, plan, DEPLOY).state is IntentState.ACKNOWLEDGED
    assert len(lines()) == 3  # not again
    assert step(rollout, plan, TO_5).state is IntentState.ACKNOWLEDGED
    assert json.loads((folder / "shares").read_text()) == {"baseline": 0.95, "canary": 0.05}
    asked = request_step(store, rollout, plan, TO_50)
    approve(store, rules, system_person(), asked.id)
    assert step(rollout, plan, TO_50).state is IntentState.ACKNOWLEDGED
    assert json.loads((folder / "shares").read_text()) == {"baseline": 0.5, "canary": 0.5}
    add(store, rollout, EventKind.STOPPED, text="half is NO-GO")
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "half is NO-GO")
    assert back == request_rollback_of(store, lambda _: rules, rollout, "evaluator", "again")
    before = len(lines())
    assert execute(store, lambda _: rules, back.id, "driver").state is IntentState.ACKNOWLEDGED
    # One call for both shifts, to the value before the first; what verified is not undone.
    assert lines()[before:] == ['set-{"baseline":1.0,"canary":0.0}', "two-back-deploy", "one-back-deploy"]
    assert step(rollout, plan, TEARDOWN).state is IntentState.ACKNOWLEDGED
    assert store.control.verify_audit()


def test_the_driver_replaces_the_router_of_a_shift_and_knows_its_service(store, start, step, rules, lines):
    rollout, plan = start()
    seen = []

    class Guarded:
        kind, idempotent = "command", True

        def __init__(self, real):
            self.real = real

        def read(self, context=None):
            return self.real.read(context)

        def execute(self, context):
            seen.append((context.action, context.service, context.share, context.step, context.arm, context.canary))
            return Outcome("acknowledged", "the guard has set it")

    def wrap(entry, planned):
        assert entry.options["shares"] == {"baseline": 0.95, "canary": 0.05}
        return replace(planned, hook=Guarded(planned.hook))

    assert step(rollout, plan, TO_5, wrap=wrap).state is IntentState.ACKNOWLEDGED
    assert seen == [("step", "cart", "0.05", "cart to 5 %", "canary", "1.9.0")]
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "")
    execute(store, lambda _: rules, back.id, "driver")
    assert lines() == ['set-{"baseline":1.0,"canary":0.0}']  # by the router itself


def test_an_act_stops_at_the_first_hook_that_fails_and_is_tried_again_with_its_key(store, start, step, lines, folder):
    check = {"command": {"run": ["test", "-e", f"{folder}/ready"]}}
    acts = {"5 %": [{"name": "deploy", "hooks": [write("one"), check, write("two")], "retry_for": "60s"}]}
    rollout, plan = start(acts=acts)
    failed = step(rollout, plan, DEPLOY)
    assert failed.state is IntentState.FAILED
    assert describe_problems(store, failed) == "command: test ended with 1"
    assert lines() == ["one-deploy-1.9.0"]
    assert step(rollout, plan, DEPLOY).state is IntentState.FAILED  # not by itself
    (folder / "ready").touch()
    assert reopen_step(store, failed.id, "driver").state is IntentState.APPROVED
    done = step(rollout, plan, DEPLOY)
    assert (done.state, done.key) == (IntentState.ACKNOWLEDGED, failed.key)
    assert lines() == ["one-deploy-1.9.0", "two-deploy-1.9.0"]
    assert reopen_step(store, done.id, "driver").state is IntentState.ACKNOWLEDGED


def test_an_act_whose_verification_fails_has_failed_and_is_undone(store, start, step, rules, lines):
    acts = {"5 %": [{"name": "deploy", "hooks": [write("one")], "verify": [write("check", code=1)]}]}
    rollout, plan = start(acts=acts)
    assert step(rollout, plan, DEPLOY).state is IntentState.FAILED
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "deploy failed")
    execute(store, lambda _: rules, back.id, "driver")
    assert lines()[-1] == "one-back-deploy"


def test_a_final_act_executes_all_its_hooks_even_if_one_fails(store, start, step, lines):
    acts = {"always": [{"name": "teardown", "hooks": [write("down", code=1), write("report")]}]}
    rollout, plan = start(acts=acts)
    assert step(rollout, plan, len(plan.steps) - 1).state is IntentState.FAILED
    assert lines() == ["down-teardown-1.9.0", "report-teardown-1.9.0"]


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"kind": EventKind.ENDED, "outcome": RolloutOutcome.PROMOTED}, "the rollout has ended"),
        ({"kind": EventKind.STOPPED, "text": "half is NO-GO"}, "the rollout goes back: half is NO-GO"),
    ],
)
def test_no_step_begins_once_it_goes_back_or_has_ended(store, start, step, lines, event, says):
    rollout, plan = start()
    add(store, rollout, **event)
    refused = step(rollout, plan, DEPLOY)
    assert refused.state is IntentState.FAILED
    assert says in describe_problems(store, refused)
    assert lines() == []


def test_while_a_person_holds_it_a_step_waits_and_goes_on_afterwards(store, start, step, rules, action_request, lines):
    rollout, plan = start()
    intent = ask(store, rules, system_person(), action_request("hold"))
    assert kinds(store, rollout) == ["held"]
    execute(store, lambda _: rules, intent.id, "w")
    with pytest.raises(StepWaits, match="holds the rollout: all is well"):
        step(rollout, plan, DEPLOY)
    add(store, rollout, EventKind.CONTINUED, person="ann")
    assert step(rollout, plan, DEPLOY).state is IntentState.ACKNOWLEDGED
    # A hold after that is a new one.
    assert ask(store, rules, system_person(), action_request("hold")).id != intent.id
    assert kinds(store, rollout) == ["held", "continued", "held"]


def test_a_newer_no_go_refuses_a_step_and_its_grounds_do_not(store, start, step, lines):
    rollout, plan = start()
    (go,) = store.control.verdicts(RELEASE)
    add(store, rollout, EventKind.JUDGED, SEE_5, verdict="go", look=JudgedAt.BAKE, data_hash=go.data_hash)
    grounded = request_step(store, rollout, plan, MIGRATE)
    assert grounded.data_hash == go.data_hash
    assert grounded.verdict_hash
    assert step(rollout, plan, DEPLOY).state is IntentState.ACKNOWLEDGED
    later = datetime.now(UTC)
    store.control.save_verdict(RELEASE, json.dumps(json.loads(go.json) | {"word": "no_go"}), later, "no_go")
    refused = step(rollout, plan, MIGRATE)
    assert refused.state is IntentState.FAILED
    assert "is NO-GO" in describe_problems(store, refused)
    assert not any(line.startswith("migrate") for line in lines())
    # After an act without a way back, who lets it continue has seen the verdict.
    add(store, rollout, EventKind.BEGUN, MIGRATE)
    event = Event(EventKind.CONTINUED, later.timestamp() + 1, person="ann")
    Rollouts(store.control.file).add_event(rollout, event)
    assert reopen_step(store, refused.id, "driver").state is IntentState.APPROVED
    assert step(rollout, plan, MIGRATE).state is IntentState.ACKNOWLEDGED


@pytest.mark.parametrize("column", ["plan", "policy", "plan_hash"])
def test_a_plan_that_was_edited_by_hand_is_not_executed(store, start, step, lines, column):
    rollout, plan = start()
    intent = request_step(store, rollout, plan, DEPLOY)
    with closing(sqlite3.connect(store.control.file.path)) as connection, connection:
        connection.execute(f"UPDATE rollouts SET {column} = replace({column}, 'echo one', 'echo bad') || ''")
        if column == "plan_hash":
            connection.execute("UPDATE rollouts SET plan_hash = 'sha256:0'")
    assert step(rollout, plan, DEPLOY).id == intent.id
    assert store.control.intent(intent.id).state is IntentState.FAILED
    assert lines() == []


def test_a_rollout_from_before_a_restore_does_not_go_on(store, start, step, lines):
    from evaluator.store import restarts

    rollout, plan = start()
    waiting = request_step(store, rollout, plan, TO_50)
    restarts.restart(store.control.file, restarts.RESTORED, "ann", "restored from x", 0)
    assert request_step(store, rollout, plan, TO_50).state is IntentState.UNKNOWN
    assert waiting.id == "i1"
    refused = step(rollout, plan, DEPLOY)
    assert "from before decisions were lost" in describe_problems(store, refused)
    assert lines() == []
    assert step(rollout, plan, TEARDOWN).state is IntentState.ACKNOWLEDGED


# ------------------------------------------------------------------ asked


@pytest.mark.parametrize("approvals", [{}, {"self_approval": False}, {"promote": 2}])
def test_who_started_a_rollout_answers_questions_where_one_person_may_promote_alone(
    store, start, policy, person, approvals
):
    rules = policy("roles: {approver: [ann]}\n")
    rollout, plan = start(sections={"roles": {"approver": ["ann"]}, "approvals": approvals})
    question = request_step(store, rollout, plan, SEE_5, "it has not shown what it needs")
    assert question.approvals_needed == 1
    if approvals:
        with pytest.raises(UsageError, match="ann requested i1 and cannot approve it too"):
            approve(store, rules, person("ann"), question.id)
    else:
        assert approve(store, rules, person("ann"), question.id).state is IntentState.ACKNOWLEDGED


def test_a_question_is_answered_once_by_another_person(store, start, policy, person):
    rules = policy("roles: {approver: [ann, bob], analyst: [eve]}\n")
    rollout, plan = start(sections={"roles": {"approver": ["ann", "bob"]}, "approvals": {"self_approval": False}})
    question = request_step(store, rollout, plan, SEE_5, "it has not shown what it needs")
    assert question.approvals_needed == 1
    with pytest.raises(UsageError, match="ann requested i1 and cannot approve it too"):
        approve(store, rules, person("ann"), question.id)
    with pytest.raises(Refused, match="eve is an analyst"):
        approve(store, rules, person("eve"), question.id)
    assert approve(store, rules, person("bob"), question.id).state is IntentState.ACKNOWLEDGED
    with pytest.raises(UsageError, match="nothing to approve"):
        approve(store, rules, person("bob"), question.id)
    assert list_answers(store, store.control.intent(question.id)) == (("bob",), "")
    assert store.control.verify_audit()


def test_an_answer_after_the_deadline_or_the_end_does_not_count(store, start, policy, person, monkeypatch):
    rules = policy("roles: {approver: [ann, bob]}\n")
    rollout, plan = start(unanswered={"after": "1s"})
    late = request_step(store, rollout, plan, SEE_5, "why")
    assert late.expires_at - late.requested_at == timedelta(seconds=1)
    monkeypatch.setattr("evaluator.intents.asking.datetime", Later)
    with pytest.raises(UsageError, match="the rollout went on without an answer"):
        approve(store, rules, person("bob"), late.id)
    monkeypatch.undo()
    act = request_step(store, rollout, plan, TO_50)
    add(store, rollout, EventKind.STOPPED, text="half is NO-GO")
    with pytest.raises(Refused, match="the rollout goes back"):
        approve(store, rules, person("bob"), act.id)
    assert store.control.approvals() == ()


class Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=1)


def test_a_question_that_may_stay_unanswered_does_not_expire_soon(store, start):
    rollout, plan = start(unanswered={"after": "1s", "then": "stay"})
    question = request_step(store, rollout, plan, SEE_5, "why")
    assert question.expires_at > datetime.now(UTC) + timedelta(days=300)


def test_who_declines_is_known(store, start, rules):
    rollout, plan = start()
    question = request_step(store, rollout, plan, SEE_5, "why")
    cancel(store, rules, system_person(), question.id, "no")
    assert list_answers(store, store.control.intent(question.id)) == ((), system_person().name)


def test_an_act_needs_its_agreements_also_where_they_were_forged(store, start, step, policy, person, lines):
    rules = policy("roles: {approver: [ann, bob, cem], analyst: [eve]}\n")
    rollout, plan = start(acts={"5 %": [{"name": "deploy", "hooks": [write("one")], "agree": 2}]})
    intent = request_step(store, rollout, plan, DEPLOY)
    assert intent.state is IntentState.REQUESTED
    assert step(rollout, plan, DEPLOY).state is IntentState.REQUESTED
    with pytest.raises(UsageError):
        approve(store, rules, person("ann"), intent.id)
    approve(store, rules, person("bob"), intent.id)
    store.control.approve(intent.id, person("eve"))  # past the roles
    failed = execute_step(store, lambda _: rules, intent.id, "driver")
    assert "1 of 2 approvals are valid" in describe_problems(store, failed)
    assert lines() == []


# ------------------------------------------------------------------ people who go back


def test_a_rollback_by_a_person_turns_it_back_and_is_the_only_one(store, start, step, rules, action_request, lines):
    rollout, plan = start()
    step(rollout, plan, DEPLOY)
    waiting = request_step(store, rollout, plan, TO_50)
    own = ask(store, rules, system_person(), action_request("rollback"))
    assert kinds(store, rollout) == ["stopped"]
    (event,) = Rollouts(store.control.file).events(rollout.id)
    assert (event.person, event.text) == (system_person().name, "all is well")
    assert store.control.intent(waiting.id).state is IntentState.CANCELLED
    assert request_rollback_of(store, lambda _: rules, rollout, "evaluator", "x") == own
    assert ask(store, rules, system_person(), action_request("rollback")) == own
    assert execute(store, lambda _: rules, own.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[-2:] == ["two-back-deploy", "one-back-deploy"]
    assert request_rollback_of(store, lambda _: rules, rollout, "evaluator", "x").id == own.id
    assert kinds(store, rollout) == ["stopped"]


def test_a_rollout_that_has_changed_nothing_can_be_turned_back(store, start, rules, action_request):
    rollout, _ = start()
    intent = ask(store, rules, system_person(), action_request("rollback"))
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert kinds(store, rollout) == ["stopped"]


def test_a_rollback_that_waits_for_agreement_turns_nothing_back_yet(store, start, policy, person, action_request):
    rules = policy("approvals: {rollback: 1, self_approval: false}\nroles: {approver: [ann, bob]}\n")
    rollout, _ = start()
    asked = ask(store, rules, person("ann"), action_request("rollback"))
    assert ask(store, rules, person("ann"), action_request("rollback")).id == asked.id
    assert kinds(store, rollout) == []
    own = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "NO-GO")  # waits for nobody
    assert (own.state, own.id != asked.id) == (IntentState.APPROVED, True)
    approve(store, rules, person("bob"), asked.id)
    assert kinds(store, rollout) == ["stopped"]


def test_who_started_it_may_have_lost_the_role_when_it_goes_back(store, start, step, policy, lines):
    rollout, plan = start()
    rules = policy("service: cart\n")
    step(rollout, plan, DEPLOY)
    rules = policy("roles: {approver: [bob]}\n")
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "NO-GO")
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[-1] == "one-back-deploy"


def test_no_promotion_while_a_rollout_runs(store, start, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    rollout, _ = start()
    with pytest.raises(Refused, match=f"the rollout r1 of {RELEASE} has not ended") as refused:
        ask(store, rules, system_person(), action_request())
    assert "rollout status" in refused.value.hint
    add(store, rollout, EventKind.ENDED, outcome=RolloutOutcome.ROLLED_BACK)
    ask(store, rules, system_person(), action_request())


def test_a_rollout_that_was_promoted_is_rolled_back_without_what_has_no_way_back(
    store, start, step, rules, action_request, lines
):
    rollout, plan = start()
    for position in (DEPLOY, TO_5, TO_100, MIGRATE, TEARDOWN):
        assert step(rollout, plan, position).state is IntentState.ACKNOWLEDGED
    add(store, rollout, EventKind.ENDED, outcome=RolloutOutcome.PROMOTED)
    before = len(lines())
    intent = ask(store, rules, system_person(), action_request("rollback"))
    assert intent.rollout == ""
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[before:] == ['set-{"baseline":1.0,"canary":0.0}', "two-back-deploy", "one-back-deploy"]
    with pytest.raises(Refused, match="nothing to roll back"):
        ask(store, rules, system_person(), action_request("rollback"))


# ------------------------------------------------------------------ back to servers that were torn down

TO_NOTHING = "migrate and teardown may have taken down the servers of the baseline"
BACK = ['set-{"baseline":1.0,"canary":0.0}', "two-back-deploy", "one-back-deploy"]


@pytest.fixture
def promoted(store, start, step):
    """Promote the release by a rollout, up to its last act; returns it."""

    def promote(**rollout):
        started, plan = start(**rollout)
        for position in (DEPLOY, TO_5, TO_100):
            assert step(started, plan, position).state is IntentState.ACKNOWLEDGED
        add(store, started, EventKind.READ_BACK)
        for position in (MIGRATE, TEARDOWN):
            assert step(started, plan, position).state is IntentState.ACKNOWLEDGED
        add(store, started, EventKind.ENDED, outcome=RolloutOutcome.PROMOTED)
        return started

    return promote


def request_back(rules, store, *, baseline_runs=False):
    request = ActionRequest(Action.ROLLBACK, RELEASE, "odd", baseline_runs)
    return ask(store, rules, system_person(), request)


def test_users_do_not_return_to_servers_that_may_be_torn_down_unless_a_person_says_that_they_run(
    store, promoted, rules, lines, folder
):
    promoted()
    before = len(lines())
    with pytest.raises(Refused, match=TO_NOTHING) as refused:
        request_back(rules, store)
    assert "--baseline-runs" in refused.value.hint
    planned, _ = plan_action(store, rules, RELEASE, Action.ROLLBACK)
    versions = read_release_to_preview(store, RELEASE, Action.ROLLBACK)
    until = datetime.now(UTC) + timedelta(minutes=1)
    obstacles = [hook.obstacle for hook in preview_action(planned, Action.ROLLBACK, versions, None, until)]
    assert TO_NOTHING in obstacles[0]
    assert obstacles[1:] == ["", ""]
    assert describe_missing_baseline(store, "r1") == TO_NOTHING
    intent = request_back(rules, store, baseline_runs=True)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[before:] == BACK
    assert [row.actor for row in store.control.audit(RELEASE) if row.event == "baseline_runs"] == [system_person().name]


@pytest.mark.parametrize(("code", "state"), [(0, IntentState.ACKNOWLEDGED), (1, IntentState.FAILED)])
def test_a_hook_before_undo_deploys_the_baseline_again_and_if_it_fails_users_stay(
    store, promoted, policy, lines, folder, script, code, state
):
    promoted()
    rules = policy(f"hooks: {{rollback: [{script('deploy-${baseline}', code=code)}, undo]}}\n")
    before = len(lines())
    intent = request_back(rules, store)
    assert execute(store, lambda _: rules, intent.id, "w").state is state
    assert lines()[before:] == ["deploy-1.4.1", *BACK] if code == 0 else ["deploy-1.4.1"]
    share = json.loads((folder / "shares").read_text())["canary"]
    assert share == (1 if code else 0)


def test_acts_that_keep_the_baseline_only_notify_or_came_before_the_end_are_no_obstacle(store, promoted, rules, lines):
    acts = make_values(Path("HERE"))["rollout"]["acts"]
    acts = acts | {name: [acts[name][0] | {"keeps_baseline": True}] for name in ("end", "always")}
    promoted(acts=acts)
    assert describe_missing_baseline(store, "r1") == ""
    intent = request_back(rules, store)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED


def test_an_act_of_the_end_that_is_undone_first_brings_the_baseline_back(store, promoted, rules, lines):
    acts = {
        "5 %": [{"name": "deploy", "hooks": [write("one")]}],
        "end": [{"name": "shrink", "hooks": [write("shrink")]}],
    }
    acts["always"] = [{"name": "report", "hooks": [write("report")], "keeps_baseline": True}]
    promoted(acts=json.loads(json.dumps(acts).replace("HERE", str(store.path.parent))))
    before = len(lines())
    intent = request_back(rules, store)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[before:][0] == "shrink-back-shrink"


def test_without_the_database_users_do_not_return_to_nothing_either(store, promoted, rules, lines):
    promoted()
    before = len(lines())
    arguments = (store.path, find_journal(store.path), rules.promotion, system_person(), Action.ROLLBACK, RELEASE)
    acted = act_from_journal(*arguments, "odd", lambda _text: None)
    assert (acted.state, lines()[before:]) == (IntentState.FAILED, [])
    assert TO_NOTHING in acted.lines[0]
    acted = act_from_journal(*arguments, "odd", lambda _text: None, baseline_runs=True)
    assert (acted.state, lines()[before:]) == (IntentState.ACKNOWLEDGED, BACK)


# ------------------------------------------------------------------ the frozen policy


def test_the_sections_of_the_policy_that_do_not_judge_have_what_steps_need(folder):
    text = {
        "approvals": {"promote": 2, "self_approval": False, "expires": "2h"},
        "roles": {"approver": ["ann"]}, "journal": "/x/j", "link": "https://e.test/${release}", "sensitive": True,
    }  # fmt: skip
    policy = parse_policy(make_values(folder) | text)
    rollout = Rollout("r1", RELEASE, {}, "", policy.afterwards, "ann", ("ann",), "", datetime.now(UTC))
    rules = read_rules(rollout)
    assert (rules.journal, rules.link, rules.sensitive) == ("/x/j", "https://e.test/${release}", True)
    assert (rules.approvals, rules.roles) == (policy.promotion.approvals, policy.promotion.roles)
    assert make_shift(rollout, "cart", {"baseline": 0.95, "canary": 0.05}).options["get"] == ["cat", f"{folder}/shares"]


# ------------------------------------------------------------------ who may start one


def test_who_may_start_a_rollout_and_when(store, folder, policy, person, action_request, script, start):
    def explain(values=None, name="ann", *, is_again=False):
        return explain_obstacle_to_start(
            store, parse_policy(make_values(folder) | (values or {})), person(name), RELEASE, ["cart"],
            is_again=is_again,
        )  # fmt: skip

    roles = {"roles": {"approver": ["ann", "bob"], "analyst": ["eve"]}}
    assert explain(roles) == ""
    assert "eve is an analyst, and starting a rollout needs an approver" in explain(roles, "eve")
    two = roles | {"approvals": {"promote": 2}}
    assert "stage 5 %, the first in which users meet the candidate, asks for none: write agree: 2 there" in explain(two)
    assert "write agree: 1" in explain(roles | {"approvals": {"self_approval": False}})
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\napprovals: {{promote: 2}}\n")
    waiting = ask(store, rules, system_person(), action_request())
    assert explain(roles) == f"i1 (promote {RELEASE}) waits for approval: evaluator reject i1"
    cancel(store, rules, system_person(), waiting.id, "")
    ask(store, rules, system_person(), action_request("hold"))
    assert "i2 (hold" in explain(roles)
    store.control.settle("i2", IntentState.ACKNOWLEDGED, "w", "")
    assert explain(roles) == ""
    (go,) = store.control.verdicts(RELEASE)
    rollout, _ = start()
    add(store, rollout, EventKind.STOPPED, text="50 % is NO-GO")
    add(store, rollout, EventKind.ENDED, outcome=RolloutOutcome.ROLLED_BACK)
    again = "because 50 % is NO-GO: roll out a new version; --again starts it all the same"
    assert explain(roles).startswith("r1 of this release was rolled back at ")
    assert explain(roles).endswith(again)
    assert explain(roles, is_again=True) == ""
    promoted, _ = start()
    add(store, promoted, EventKind.ENDED, outcome=RolloutOutcome.PROMOTED)
    assert explain(roles) == ""
    no_go = json.dumps(json.loads(go.json) | {"word": "no_go"})
    store.control.save_verdict(RELEASE, no_go, datetime.now(UTC), "no_go")
    assert " UTC, is NO-GO: roll out a new version" in explain(roles)
    assert explain(roles, is_again=True) == ""
    with closing(sqlite3.connect(store.control.file.path)) as connection, connection:
        connection.execute("UPDATE verdicts SET word = 'go', judged_at = '2026-01-01T00:00:00+00:00'")
    assert "changed by hand" in explain(roles)


# ------------------------------------------------------------------ without the database


def go_back(store, rules):
    return act_from_journal(
        store.path, find_journal(store.path), rules.promotion, system_person(), Action.ROLLBACK, RELEASE, "odd",
        lambda _text: None,
    )  # fmt: skip


def test_the_journal_has_the_shifts_and_acts_and_what_it_did_turns_the_rollout_back(store, start, step, rules, lines):
    rollout, plan = start()
    for position in (DEPLOY, TO_5, TO_100, MIGRATE, TEARDOWN):
        assert step(rollout, plan, position).state is IntentState.ACKNOWLEDGED
    before = len(lines())
    acted = go_back(store, rules)
    assert acted.state is IntentState.ACKNOWLEDGED
    assert lines()[before:] == ['set-{"baseline":1.0,"canary":0.0}', "two-back-deploy", "one-back-deploy"]
    assert acted.lines[-1] == "migrate has no way back"
    with pytest.raises(Refused, match="rolled it back"):
        go_back(store, rules)
    assert record_actions(store, find_journal(store.path)) == 1
    (event,) = [event for event in Rollouts(store.control.file).events("r1") if event.kind is EventKind.STOPPED]
    assert (event.person, event.text) == (system_person().name, "odd")
    own = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "")
    assert own.state is IntentState.ACKNOWLEDGED  # nothing is undone twice
    assert len(own.undoes) == 3


def test_a_full_journal_keeps_the_first_shift_of_a_long_rollout(store, start, step, rules, lines):
    stages = [{"name": f"{n} %", "share": f"{n}%", "needs": "nothing"} for n in (1, 2, 3, 4, 5, 6, 7, 8, 100)]
    rollout, plan = start(stages=stages, acts={})
    for position in range(0, 18, 2):
        assert step(rollout, plan, position).state is IntentState.ACKNOWLEDGED
    records = keep_needed(find_journal(store.path).read())
    assert len(list_promotions(records)) == 9
    assert go_back(store, rules).state is IntentState.ACKNOWLEDGED
    assert lines()[-1] == 'set-{"baseline":1.0,"canary":0.0}'


def test_a_step_is_not_executed_while_another_process_goes_back_from_the_journal(store, start, step, rules, lines):
    rollout, plan = start()
    assert step(rollout, plan, DEPLOY).state is IntentState.ACKNOWLEDGED
    action = JournalAction(
        "a1", Action.ROLLBACK, Release(RELEASE), system_person(), "odd", write_now(), process=name_process()
    )
    record_began(find_journal(store.path), action)
    refused = step(rollout, plan, TO_5)
    assert "began a rollback" in describe_problems(store, refused)
    assert step(rollout, plan, TEARDOWN).state is IntentState.ACKNOWLEDGED


# ------------------------------------------------------------------ killed, and two at once


def kill_at_write(monkeypatch, number):
    """Let this process be killed before or after a write: of the decisions, which have a row each, or the journal."""
    count = 0

    def count_writes():
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(write):
        def count_and_write(*args, **options):
            count_writes()
            result = write(*args, **options)
            count_writes()
            return result

        return count_and_write

    monkeypatch.setattr(audit, "add", killing(audit.add))
    monkeypatch.setattr(Journal, "append", killing(Journal.append))


@pytest.mark.parametrize("kill_at", range(1, 15))
def test_killed_between_any_two_writes_the_next_driver_goes_on(
    store, start, step, rules, lines, folder, monkeypatch, kill_at
):
    rollout, plan = start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of earlier tests, which the child does not need
        child = os.fork()
    if not child:
        kill_at_write(monkeypatch, kill_at)
        step(rollout, plan, TO_5)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    done = step(rollout, plan, TO_5)
    assert done.state in (IntentState.ACKNOWLEDGED, IntentState.UNKNOWN)
    assert len(lines()) <= 2
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "")
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    # Whatever was killed: the value from before the rollout is back.
    assert json.loads((folder / "shares").read_text()) == {"baseline": 1.0, "canary": 0.0}
    assert store.control.verify_audit()


def test_two_drivers_execute_a_step_once(store, start, rules, lines):
    rollout, plan = start()
    intent = request_step(store, rollout, plan, DEPLOY)
    threads = [
        threading.Thread(target=execute_step, args=(store, lambda _: rules, intent.id, f"d{n}"), kwargs={"wait_s": 20})
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines() == ["one-deploy-1.9.0", "two-deploy-1.9.0", "check-deploy-1.9.0"]
    assert store.control.intent(intent.id).state is IntentState.ACKNOWLEDGED


def test_a_rollback_while_an_act_is_executed_stops_it_before_its_next_hook(
    store, start, step, rules, action_request, lines, folder
):
    slow = write("one")
    slow["command"]["run"][2] += f"; touch {folder}/began; while [ ! -e {folder}/go ]; do sleep 0.02; done; exit 0"
    slow["command"]["run"][2] = slow["command"]["run"][2].replace("exit 0;", "", 1)
    rollout, plan = start(acts={"5 %": [{"name": "deploy", "hooks": [slow, write("two")]}]})
    driver = threading.Thread(target=step, args=(rollout, plan, DEPLOY))
    driver.start()
    while not (folder / "began").exists():
        time.sleep(0.02)
    own = ask(store, rules, system_person(), action_request("rollback"))
    assert own.undoes == ("i1",)
    (folder / "go").touch()
    assert execute(store, lambda _: rules, own.id, "w", wait_s=20).state is IntentState.ACKNOWLEDGED
    driver.join()
    assert store.control.intent("i1").state is IntentState.FAILED
    assert lines() == ["one-deploy-1.9.0", "one-back-deploy"]


def test_a_router_that_disappears_half_way_fails_the_shift_and_is_left_to_a_person(
    store, start, step, rules, folder, lines
):
    rollout, plan = start()
    assert step(rollout, plan, TO_5).state is IntentState.ACKNOWLEDGED
    (folder / "shares").unlink()
    failed = step(rollout, plan, TO_100)
    assert failed.state is IntentState.FAILED  # nothing was set
    assert "cat" in describe_problems(store, failed)
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "")
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[-1] == 'set-{"baseline":1.0,"canary":0.0}'


SET_UNLESS_BROKEN = ["sh", "-c", f"test ! -e HERE/broken && ({SET})", "sh", "${shares}"]
BREAKABLE = {"command": ROUTER["command"] | {"set": SET_UNLESS_BROKEN}}


@pytest.mark.parametrize("from_journal", [False, True])
def test_no_act_is_undone_while_users_may_be_at_what_it_would_take_down(
    store, start, step, rules, folder, lines, from_journal
):
    def turn_back():
        if from_journal:
            acted = go_back(store, rules)
            return acted.state, "; ".join(acted.lines)
        back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "")
        state = execute(store, lambda _: rules, back.id, "w").state
        return state, "; ".join(row.text for row in store.control.audit(RELEASE))

    rollout, plan = start(router={"cart": BREAKABLE})
    for position in (DEPLOY, TO_5):
        assert step(rollout, plan, position).state is IntentState.ACKNOWLEDGED
    (folder / "broken").touch()
    before = lines()
    state, said = turn_back()
    assert state is not IntentState.ACKNOWLEDGED
    assert lines() == before
    assert "users may still be at the candidate" in said
    (folder / "broken").unlink()
    assert turn_back()[0] is IntentState.ACKNOWLEDGED
    assert lines()[len(before) :] == ['set-{"baseline":1.0,"canary":0.0}', "two-back-deploy", "one-back-deploy"]


@pytest.mark.parametrize("change", [{}, {"irreversible": True}, {"stage": "end"}])
def test_what_ends_a_rollout_is_as_in_the_fold_of_its_events(folder, change):
    plan = make_plan(
        parse_policy(make_values(folder, acts={"5 %": [{"name": "deploy", "hooks": [write("one")]}]})), RELEASE
    )
    deploy = replace(plan.steps[DEPLOY], **change)
    plan = replace(plan, steps=tuple(deploy if n == DEPLOY else step for n, step in enumerate(plan.steps)))
    possible = [
        Event(EventKind.BEGUN, 0.0, DEPLOY),
        Event(EventKind.BEGUN, 0.0, TO_5),
        Event(EventKind.STOPPED, 0.0),
        Event(EventKind.STOPPED, 0.0, person="ann"),
        Event(EventKind.HELD, 0.0),
        Event(EventKind.CONTINUED, 0.0),
        Event(EventKind.ENDED, 0.0, outcome=RolloutOutcome.PROMOTED),
    ]
    for events in itertools.product(possible, repeat=4):
        progress = fold(plan, events)
        ends = progress.going_back or progress.outcome is not None
        assert bool(explain_end(plan, events)) == ends, events
        if not ends:
            assert bool(explain_hold(events)) == progress.held, events


def test_people_are_told_what_waits_and_what_failed_for_good(store, start, step, policy, folder):
    told = f'{{command: {{run: [sh, -c, "echo \\"${{outcome}} ${{summary}}\\" >> {folder}/told"]}}}}'
    rules = policy(f"hooks: {{notify: [{told}]}}\n")
    rollout, plan = start(acts={"5 %": [{"name": "deploy", "hooks": [write("one", code=1)]}]})
    for _ in range(2):
        failed = step(rollout, plan, DEPLOY)
        reopened = reopen_step(store, failed.id, "driver")
        assert reopened.state is IntentState.APPROVED
    step(rollout, plan, DEPLOY)
    step(rollout, plan, TO_5)
    request_step(store, rollout, plan, SEE_5, "it has not shown what it needs")
    notify_people(store, lambda _: rules)
    told_lines = (folder / "told").read_text().splitlines()
    assert sorted(line.split()[0] for line in told_lines) == ["failed", "waiting"]
    assert store.control.verify_audit()


def test_a_killed_hook_that_must_not_be_repeated_is_resolved_by_a_person(store, start, step, policy, person, lines):
    rules = policy("roles: {admin: [ann]}\n")
    once = write("once")
    once["command"] |= {"idempotent": False}
    rollout, plan = start(acts={"5 %": [{"name": "deploy", "hooks": [once]}]})
    intent = request_step(store, rollout, plan, DEPLOY)
    outcome = HookOutcome(IntentState.SENT, "")
    store.control.claim(intent, "killed")
    options = json.dumps(dict(plan.steps[DEPLOY].hooks[0].options), sort_keys=True)
    store.control.deliver(
        Delivery(intent.id, 0, "command", 1, outcome, datetime.now(UTC), "step", options), RELEASE, "killed"
    )
    unknown = step(rollout, plan, DEPLOY)
    assert unknown.state is IntentState.UNKNOWN
    assert "it may have been done" in describe_problems(store, unknown)
    assert resolve(store, rules, person("ann"), unknown.id, 1, done=True, reason="I looked").state is (
        IntentState.ACKNOWLEDGED
    )
    assert lines() == []


def test_what_is_executed_however_a_rollout_ends_is_neither_rejected_nor_cancelled(
    store, start, step, rules, action_request, lines
):
    rollout, plan = start()
    final = request_step(store, rollout, plan, TEARDOWN)
    with pytest.raises(Refused, match="however the rollout ends"):
        cancel(store, rules, system_person(), final.id, "no")
    ask(store, rules, system_person(), action_request("rollback"))
    assert step(rollout, plan, TEARDOWN).state is IntentState.ACKNOWLEDGED
    assert lines() == ["down-teardown-1.9.0"]


def test_users_never_meet_a_candidate_with_fewer_agreements_than_a_promotion_needs(store, start, step, lines):
    rollout, plan = start(sections={"approvals": {"promote": 2}})
    assert step(rollout, plan, DEPLOY).state is IntentState.ACKNOWLEDGED
    refused = step(rollout, plan, TO_5)
    assert "a promotion needs 2 approvals by other people, and stage 5 %" in describe_problems(store, refused)
    assert len(lines()) == 3


def test_a_plan_that_another_version_has_made_goes_back_with_all_that_its_hooks_need(
    store, start, step, rules, lines, monkeypatch
):
    rollout, plan = start()
    for position in (DEPLOY, TO_5, TO_100):
        assert step(rollout, plan, position).state is IntentState.ACKNOWLEDGED

    def cannot_read(_plain):
        raise PlanNotReadable("the plan was made by version 9")

    monkeypatch.setattr("evaluator.intents.rollout_plans.from_plain", cannot_read)
    refused = step(rollout, plan, MIGRATE)
    assert "the plan was made by version 9" in describe_problems(store, refused)
    back = request_rollback_of(store, lambda _: rules, rollout, "evaluator", "another version")
    before = len(lines())
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines()[before:] == ['set-{"baseline":1.0,"canary":0.0}', "two-back-deploy", "one-back-deploy"]


def test_a_verification_that_does_not_end_has_failed_and_leaves_nothing_unknown(store, start, step, lines):
    endless = {"command": {"run": ["sleep", "5"], "time_limit": "200ms"}}
    acts = {"5 %": [{"name": "deploy", "hooks": [write("one")], "verify": [endless]}]}
    rollout, plan = start(acts=acts)
    assert step(rollout, plan, DEPLOY).state is IntentState.FAILED
