"""Driving a rollout with scripted evidence, a clock that does not wait, and a guard that is scripted, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rollout_world import (
    AT_5,
    AT_50,
    CANARY,
    DEPLOY,
    DNS,
    HOOK,
    TEARDOWN,
    TO_5,
    TO_50,
    Found,
    World,
    make_plan,
)

from evaluator.errors import StoreError
from evaluator.records.rollouts import Event, EventKind, JudgedAt, RolloutOutcome, Unanswered
from evaluator.rollout.collaborators import ActResult, StepAnswers
from evaluator.rollout.describing import find_exit_code
from evaluator.rollout.driving import DriverStopped

PROMOTED, BACK = RolloutOutcome.PROMOTED, RolloutOutcome.ROLLED_BACK
NO_GO = Found("no_go", no_harm=False)
OPEN = Found("inconclusive", no_harm=False, missing=("412 of 500 judged requests of canary",))


@pytest.fixture
def world() -> World:
    return World()


def test_a_good_release_is_promoted(world):
    assert world.drive() is PROMOTED
    assert world.executed == [DEPLOY, TO_5, TO_50, 5, DNS, TEARDOWN]
    assert world.looks == [(AT_5, JudgedAt.BAKE), (AT_50, JudgedAt.BAKE)]
    assert [call for call in world.traffic.calls if call != "renew"] == [
        "open", "set 0.05", "set 0.5", "set 1", "close"
    ]  # fmt: skip
    assert world.kinds()[-3:] == ["begun", "done", "ended"]
    assert find_exit_code(world.plan, world.events) == 0
    assert world.ended == 1


def test_no_go_goes_back_traffic_first_and_undoes_the_acts(world):
    world.found[AT_50] = [replace(NO_GO, missing=("pay: p95 rose 52.8 %", "cart: p99 rose 30 %"))]
    assert world.drive() is BACK
    assert world.undone == ["50 % is NO-GO: pay: p95 rose 52.8 %"]
    assert world.executed[-1] == TEARDOWN, "what is always done is done"
    assert DNS not in world.executed
    kinds = world.kinds()
    assert kinds.index("returned") < kinds.index("undo_begun") < kinds.index("undone")
    assert kinds.count("begun") == 1 + kinds.count("done") + kinds.count("failed")  # 50 % has not ended
    assert find_exit_code(world.plan, world.events) == 1


def test_no_go_before_the_end_of_a_step_counts():
    world = World(make_plan(CANARY | {"stages": [s | {"bake": "300s", "deadline": "300s"} for s in CANARY["stages"]]}))
    world.found[AT_5] = [OPEN, NO_GO]
    assert world.drive() is BACK
    assert world.looks == [(AT_5, JudgedAt.MEANWHILE)] * 2
    assert world.clock.elapsed < 200
    assert any("missing: 412 of 500" in text for text in world.shown)


def test_a_go_before_the_end_of_a_step_is_not_written():
    world = World(make_plan(CANARY | {"stages": [s | {"bake": "200s", "deadline": "200s"} for s in CANARY["stages"]]}))
    assert world.drive() is PROMOTED
    assert {event.look for event in world.events if event.kind is EventKind.JUDGED} == {JudgedAt.BAKE}


def test_what_is_open_at_bake_may_be_shown_until_the_deadline(world):
    world.found[AT_50] = [OPEN, Found()]
    assert world.drive() is PROMOTED
    assert world.looks[-2:] == [(AT_50, JudgedAt.BAKE), (AT_50, JudgedAt.DEADLINE)]
    assert world.ensured == [AT_5, AT_50, 6]


def test_a_person_may_agree_to_what_was_not_shown(world):
    world.found[AT_50] = [OPEN]
    world.at(90, lambda: setattr(world, "answers", StepAnswers(("ann",))))
    assert world.drive() is PROMOTED
    assert world.asked == [(AT_50, "50 % has not shown what it needs (GO)")]
    assert any("waits for one agreement" in text or "waits for 1 agreement" in text for text in world.shown)


@pytest.mark.parametrize("text", ["declined", "unanswered", "late"])
def test_a_question_that_is_declined_or_not_answered_in_time_goes_back(world, text):
    world.found[AT_50] = [OPEN]
    if text == "declined":
        world.at(90, lambda: setattr(world, "answers", StepAnswers(declined_by="ben")))
    if text == "late":
        world.at(500, lambda: setattr(world, "answers", StepAnswers(("ann",))))
    assert world.drive() is BACK
    assert find_exit_code(world.plan, world.events) == 3
    assert EventKind.AGREED not in [event.kind for event in world.events]


def test_unanswered_may_mean_to_stay():
    world = World(make_plan(unanswered=Unanswered.STAY))
    world.found[AT_50] = [OPEN]
    world.at(5000, lambda: setattr(world, "answers", StepAnswers(("ann",))))
    assert world.drive() is PROMOTED


def test_a_shift_waits_until_the_router_has_found_that_the_new_servers_serve(world):
    """A router looks at them from time to time: right after a deployment it still takes them for down."""
    world.results[TO_5] = [ActResult("failed", "c1 is DOWN"), ActResult("failed", "c1 is DOWN"), ActResult("done")]
    assert world.drive() is PROMOTED
    assert any("c1 is DOWN; it is tried again" in text for text in world.said)


def test_an_act_that_fails_is_tried_again_for_its_time():
    acts = CANARY["acts"] | {"5 %": [CANARY["acts"]["5 %"][0] | {"retry_for": "30s"}]}
    world = World(make_plan(CANARY | {"acts": acts}))
    world.results[DEPLOY] = [ActResult("failed", "503"), ActResult("failed", "503"), ActResult("done")]
    assert world.drive() is PROMOTED
    world = World(make_plan(CANARY | {"acts": acts}))
    world.results[DEPLOY] = [ActResult("failed", "503")]
    assert world.drive() is BACK
    assert 30 <= world.clock.elapsed < 40
    assert find_exit_code(world.plan, world.events) == 4


def test_a_hook_target_that_disappears_half_way_goes_back(world):
    world.results[TO_50] = [ActResult("failed", "/run/haproxy.sock: no such file")]
    assert world.drive() is BACK
    assert "returned" in world.kinds()
    assert find_exit_code(world.plan, world.events) == 4


def test_what_may_have_been_executed_is_settled_by_a_person(world):
    world.results[DEPLOY] = [ActResult("unknown", "timed out")]
    world.at(10, lambda: world.known.update({DEPLOY: ActResult("done", person="ann")}))
    assert world.drive() is PROMOTED


def test_the_guard_turns_it_back(world):
    world.at(30, lambda: world.traffic.trip("half of 60 requests of canary failed"))
    assert world.drive() is BACK
    stopped = next(event for event in world.events if event.kind is EventKind.STOPPED)
    assert stopped.text == "guard: half of 60 requests of canary failed"
    assert find_exit_code(world.plan, world.events) == 1
    assert world.clock.elapsed < 40


def test_a_router_that_drifts_twice_goes_back(world):
    def drift(text="canary gets 50 % instead of 5 %; they were set again"):
        world.traffic.status.drift = text

    world.at(8, drift)
    world.at(12, lambda: drift(""))
    assert world.drive() is PROMOTED
    assert world.kinds().count("drifted") == 1
    world = World()
    for second, text in ((8, "canary gets 50 %"), (12, ""), (16, "canary gets 50 %")):
        world.at(second, lambda text=text: drift(text))
    assert world.drive() is BACK
    assert world.kinds().count("drifted") == 2


def test_a_router_that_acknowledges_all_traffic_and_does_not_act_goes_back(world):
    world.at(40, lambda: setattr(world.traffic, "keeps_shares", False))
    assert world.drive() is BACK
    assert DNS not in world.executed, "what comes last may take down the baseline"
    assert any(event.kind is EventKind.DRIFTED and "canary of cart has 50 %" in event.text for event in world.events)


def test_a_log_that_falls_silent_goes_back_while_users_are_exposed():
    world = World(make_plan(CANARY | {"stages": [s | {"bake": "300s", "deadline": "300s"} for s in CANARY["stages"]]}))
    world.at(20, lambda: setattr(world, "is_log_silent", True))
    assert world.drive() is BACK
    assert any("the log of cart has had no request for 75 s" in event.text for event in world.events)
    assert world.clock.elapsed < 110


def test_a_no_go_of_others_turns_it_back(world):
    world.at(8, lambda: setattr(world, "others_no_go", "ann judged it: NO-GO"))
    assert world.drive() is BACK
    assert find_exit_code(world.plan, world.events) == 1


def test_a_no_go_of_others_turns_it_back_while_an_act_waits_for_people():
    stages = [CANARY["stages"][0], CANARY["stages"][1] | {"agree": 1}, CANARY["stages"][2]]
    world = World(make_plan(CANARY | {"stages": stages}))
    world.at(40, lambda: setattr(world, "others_no_go", "ann judged it: NO-GO"))
    assert world.drive() is BACK
    assert world.no_go_since == 0.0, "also one from before the current step counts"
    assert TO_50 not in world.executed
    assert world.clock.elapsed < 60


def test_what_is_held_without_a_way_back_is_written_once():
    # A policy is refused that has such an act here; a plan of another version may have it.
    plan = make_plan(CANARY | {"acts": CANARY["acts"] | {"50 %": [{"name": "migrate", "hooks": HOOK}]}})
    steps = [replace(step, irreversible=True) if step.name == "migrate" else step for step in plan.steps]
    world = World(replace(plan, steps=tuple(steps)))
    seen_at = []

    def go_on():
        seen_at.append(world.clock.now())
        world.others_no_go = ""
        world.events.append(Event(EventKind.CONTINUED, world.clock.now(), person="ann"))

    world.at(35, lambda: setattr(world, "others_no_go", "ann judged it: NO-GO"))
    world.at(300, go_on)
    assert world.drive() is PROMOTED
    assert world.kinds().count("held") == 1
    assert world.no_go_since == seen_at[0], "who lets it go on has seen the earlier ones"


def test_an_act_that_failed_after_one_without_a_way_back_is_tried_again_when_a_person_lets_it_continue():
    end = [{"name": "migrate", "hooks": HOOK, "irreversible": True}, {"name": "dns", "hooks": HOOK}]
    world = World(make_plan(CANARY | {"acts": CANARY["acts"] | {"end": end}}))
    dns = next(n for n, step in enumerate(world.plan.steps) if step.name == "dns")
    world.results[dns] = [ActResult("failed", "no such zone"), ActResult("failed", "still none"), ActResult("done")]
    for at in (2000, 3000):
        world.at(at, lambda: world.events.append(Event(EventKind.CONTINUED, world.clock.now(), person="ann")))
    assert world.drive() is PROMOTED
    assert [event.text for event in world.events if event.kind is EventKind.FAILED] == ["no such zone", "still none"]
    assert world.kinds().count("held") == 2
    assert world.again[dns] == [False, True, True]


def test_final_acts_wait_until_no_guard_is_left_that_would_return_the_traffic(world):
    world.traffic.close_problem = "no guard answers"
    world.at(200, lambda: setattr(world.traffic, "close_problem", ""))
    world.at(150, lambda: world.executed.append("150 s"))
    assert world.drive() is PROMOTED
    assert world.executed.index("150 s") < world.executed.index(TEARDOWN)


def test_a_step_without_data_fails(world):
    world.failures[AT_5] = "the load has failed three times"
    assert world.drive() is BACK
    assert find_exit_code(world.plan, world.events) == 4


def test_a_judgement_that_fails_is_never_a_go(world):
    def fail(position, look):
        raise StoreError("the data are damaged")

    world.judge = fail
    assert world.drive() is BACK
    assert any("it cannot be judged: the data are damaged" in event.text for event in world.events)
    assert "asked" not in world.kinds(), "without the store, nobody is asked to go on blindly"
    assert world.clock.elapsed < 40, "and it does not wait for the deadline"


def test_a_plan_that_was_edited_goes_back(world):
    world.at(8, lambda: setattr(world, "change", "the rollout r1 is not what was written"))
    assert world.drive() is BACK
    assert TO_50 not in world.executed


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_clock_that_jumps_while_users_meet_the_candidate_goes_back(world, seconds):
    def jump():
        assert TO_5 in world.executed
        world.clock.offset += seconds

    world.at(8, jump)
    assert world.drive() is BACK
    assert TO_50 not in world.executed
    stopped = next(event for event in world.events if event.kind is EventKind.STOPPED)
    assert "the clock of this machine was set" in stopped.text
    assert find_exit_code(world.plan, world.events) == 4


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_clock_that_jumps_before_that_holds_the_rollout(seconds):
    first, *later = CANARY["stages"]
    world = World(make_plan(CANARY | {"stages": [first | {"agree": 1}, *later]}, answer_within_s=8000.0))

    def jump():
        assert TO_5 not in world.executed
        world.clock.offset += seconds

    world.at(8, jump)
    world.at(20, lambda: setattr(world, "answers", StepAnswers(("ben",))))
    world.at(300, lambda: world.events.append(Event(EventKind.CONTINUED, world.clock.now(), person="ann")))
    assert world.drive() is PROMOTED
    held = next(event for event in world.events if event.kind is EventKind.HELD)
    assert "the clock of this machine was set" in held.text
    assert "1 h" in held.text or "60 min" in held.text


def test_a_store_that_cannot_be_written_for_the_lease_goes_back(world):
    world.at(8, lambda: setattr(world, "store_problem", "the disk is full"))
    with pytest.raises(StoreError):
        world.drive()
    assert world.traffic.status.is_returned
    assert 30 <= world.clock.elapsed < 60
    assert any("the disk is full" in text for text in world.said)
    assert world.traffic.calls.count("renew") > 30


def test_a_store_that_is_busy_for_a_moment_stops_nothing(world):
    world.at(8, lambda: setattr(world, "store_problem", "busy"))
    world.at(20, lambda: setattr(world, "store_problem", ""))
    assert world.drive() is PROMOTED


def test_no_guard_at_the_start_means_no_shift(world):
    world.traffic.problem = "HAPROXY_TOKEN is not set"
    assert world.drive() is BACK
    assert world.executed == [TEARDOWN]
    assert find_exit_code(world.plan, world.events) == 4


def test_a_guard_that_is_gone_for_the_lease_goes_back(world):
    world.at(8, lambda: setattr(world.traffic, "problem", "nothing listens"))
    world.at(60, lambda: setattr(world.traffic, "problem", ""))
    assert world.drive() is BACK


def test_the_driver_ends_in_order_and_another_one_goes_on(world):
    world.at(30, world.stop.set)
    with pytest.raises(DriverStopped):
        world.drive()
    assert world.ended == 1
    assert not world.traffic.status.is_back
    world.stop.clear()
    assert world.drive() is PROMOTED
    assert sorted(world.executed) == sorted(set(world.executed))


def test_a_held_rollout_waits_and_still_goes_back_at_no_go(world):
    world.at(8, lambda: world.events.append(Event(EventKind.HELD, world.clock.now(), text="lunch", person="ann")))
    world.found[AT_5] = [NO_GO]
    assert world.drive() is BACK
    assert "held by ann: lunch" in world.said
    assert len(world.said) == len(world.events), "each event is shown once"


# ------------------------------------------------------------------ the end of the watch


def fail_at_close(world, times):
    """Let the guard not answer when the watch is to end, so many times."""
    left = [times]

    def fail():
        left[0] -= 1
        world.traffic.problem = "no guard answers" if left[0] >= 0 else ""
        world.at(world.clock.elapsed + 0.5, lambda: setattr(world.traffic, "problem", ""))

    world.traffic.at_close = fail


def test_final_acts_wait_until_the_watch_has_ended(world):
    fail_at_close(world, 3)
    assert world.drive() is PROMOTED
    kinds = world.kinds()
    assert kinds.count("read_back") == 1
    begun = [event.step for event in world.events[kinds.index("read_back") :] if event.kind is EventKind.BEGUN]
    assert begun == [DNS, TEARDOWN], "what may take down the baseline comes after it"
    assert any(
        "the watch of the guard has not ended, so what comes last waits: no guard answers" in t for t in world.said
    )


def test_a_watch_that_does_not_end_goes_back_and_takes_nothing_down_first(world):
    world.traffic.at_close = lambda: setattr(world.traffic, "problem", "no guard answers")
    world.at(10_000, lambda: None)

    def answer_again():
        if "stopped" in world.kinds():
            world.traffic.problem = ""
        else:
            world.at(world.clock.elapsed + 1, answer_again)

    answer_again()
    assert world.drive() is BACK
    assert "read_back" not in world.kinds()
    assert world.kinds().index("returned") < world.kinds().index("ended")


def test_a_rollout_that_went_back_ends_after_its_watch(world):
    """A guard that was killed reads the router again first: until then it refuses to end."""
    world.found[AT_50] = [NO_GO]
    world.traffic.close_problem = "the traffic of r1 has not returned yet, so the guard goes on"
    world.at(60, lambda: setattr(world.traffic, "close_problem", ""))
    assert world.drive() is BACK
    assert world.clock.elapsed >= 60
    assert world.traffic.calls[-1] == "close"
    # A router that is gone for good does not keep it from ending.
    world = World()
    world.found[AT_50] = [NO_GO]
    world.traffic.close_problem = "the traffic of r1 has not returned yet, so the guard goes on"
    assert world.drive() is BACK
    assert world.clock.elapsed < 120


def test_what_goes_back_when_the_watch_is_to_end_is_not_promoted(world):
    world.traffic.at_close = lambda: world.traffic.trip("it died")
    assert world.drive() is BACK
    assert "read_back" not in world.kinds()
    assert world.events[-1].outcome is BACK


def test_a_silent_log_while_what_comes_last_is_done_returns_nothing(world):
    world.results[DNS] = [ActResult("waiting")] * 200 + [ActResult("done")]
    world.traffic.at_close = lambda: setattr(world, "is_log_silent", True)
    assert world.drive() is PROMOTED
    assert world.traffic.status.realised["cart"]["canary"] == 1


# ------------------------------------------------------------------ after an act that may have taken down the baseline

END = [{"name": "shrink", "hooks": HOOK}, {"name": "dns", "hooks": HOOK}]
SHRINK, LAST_DNS = DNS, DNS + 1


def make_world(*, keeps_baseline=False):
    """A world whose act `dns` fails, after `shrink` has taken down the servers of the baseline, or has not."""
    end = [act | {"keeps_baseline": keeps_baseline} for act in END]
    world = World(make_plan(CANARY | {"acts": CANARY["acts"] | {"end": end}}))
    world.results[LAST_DNS] = [ActResult("failed", "no such zone")]
    return world


def let(world, kind, at=2000, then=lambda: None):
    """Let a person do something at a time."""

    def happen():
        then()
        world.events.append(Event(kind, world.clock.now(), person="ann"))

    world.at(at, happen)


def test_an_act_that_fails_after_the_baseline_may_be_gone_moves_no_users_and_is_tried_again():
    world = make_world()
    let(world, EventKind.CONTINUED, then=lambda: world.results.update({LAST_DNS: [ActResult("done")]}))
    assert world.drive() is PROMOTED
    assert "back" not in world.traffic.calls
    (held,) = [event.text for event in world.events if event.kind is EventKind.HELD]
    assert held == (
        "dns failed; users stay where they are: shrink may have taken down the servers of the baseline"
    )  # fmt: skip
    ways = next(text for text in world.said if "rollout resume" in text)
    assert "`evaluator rollout resume cart@1.5.0` lets it continue, and what failed is tried again" in ways
    assert "`evaluator rollback cart@1.5.0 --reason WHY --baseline-runs` goes back, once the old version serves" in ways


def test_an_act_that_fails_after_acts_that_keep_the_baseline_returns_the_users_first():
    world = make_world(keeps_baseline=True)
    assert world.drive() is BACK
    kinds = world.kinds()
    assert kinds.index("returned") < kinds.index("undo_begun")


def test_a_person_turns_it_back_and_users_follow_the_acts_once_the_baseline_serves():
    world = make_world()
    roll_back = world.roll_back

    def undo(why):
        world.traffic.trip(why)  # the rollback has undone `shrink`, and then the shifts
        return roll_back(why)

    world.roll_back = undo
    let(world, EventKind.STOPPED)
    assert world.drive() is BACK
    assert "back" not in world.traffic.calls
    kinds = world.kinds()
    assert kinds.index("undo_begun") < kinds.index("returned") < kinds.index("undone")
    assert world.executed[-1] == LAST_DNS + 1, "what is always done is done"


@pytest.mark.parametrize("then", ["again", "on"])
def test_a_way_back_that_finds_no_baseline_leaves_users_where_they_are_until_a_person_decides(then):
    world = make_world()
    world.undo_result = ActResult("failed", "no server of baseline is up")
    let(world, EventKind.STOPPED)

    def deploy():
        world.traffic.trip("ann")
        world.undo_result = ActResult("done")

    let(world, EventKind.STOPPED if then == "again" else EventKind.CONTINUED, 3000, deploy)
    assert world.drive() is BACK
    assert len(world.undone) == 2
    held = [event.text for event in world.events if event.kind is EventKind.HELD]
    assert held[1:] == ["the acts are not undone: no server of baseline is up"]
    assert any("is to go back, and is held" in text for text in world.shown)
    assert world.kinds().count("returned") == 1


def test_users_who_are_back_are_back_although_an_act_could_not_be_undone():
    world = make_world()
    world.undo_result = ActResult("failed", "shrink: no such cluster")
    let(world, EventKind.STOPPED, then=lambda: world.traffic.trip("ann"))
    assert world.drive() is RolloutOutcome.ROLLED_BACK_PARTLY
    assert world.kinds()[-5:-2] == ["returned", "undo_failed", "begun"]


def test_lost_decisions_after_the_baseline_may_be_gone_move_no_users():
    world = make_world()
    world.results[LAST_DNS] = [ActResult("waiting")]
    world.at(200, lambda: setattr(world, "store_problem", "disk full"))
    with pytest.raises(StoreError):
        world.drive()
    assert "back" not in world.traffic.calls
    assert any("shrink may have taken down the servers" in text for text in world.said)
