"""Driving a rolling rollout with a guard that is scripted: users stay at new instances where too few old ones serve."""

from __future__ import annotations

from rollout_world import HOOK, World, make_plan

from evaluator.records.rollouts import Event, EventKind, InstanceWork, RolloutOutcome
from evaluator.rollout.collaborators import ActResult
from evaluator.rollout.describing import describe_new_instances, find_exit_code

ROLLING = {
    "strategy": "rolling",
    "live": {"access_log": "x.log"},
    "router": {"cart": {"haproxy": {"socket": "s", "backend": "cart", "instances": ["s1", "s2", "s3"]}}},
    "instances": {
        "least_serving": 1,
        "replace": [{"command": {"run": ["true"], "undo": ["true"]}}],
        "health": HOOK,
    },
    "acts": {"end": [{"name": "dns", "hooks": HOOK}], "always": [{"name": "teardown", "hooks": HOOK}]},
    "stages": [
        {"name": "first", "replace": 1, "needs": "no_harm", "bake": "20s"},
        {"name": "rest", "replace": "rest", "needs": "nothing", "bake": "5s"},
    ],
}
KEPT = "0 of 3 instances serve with the old version"


def make_world() -> World:
    return World(make_plan(ROLLING))


def keep_users(world: World) -> None:
    """Let the guard say that too few old instances serve."""

    def trip(why: str, by: str = "guard") -> None:
        status = world.traffic.status
        status.is_back, status.why_back, status.by, status.kept = True, why, by, KEPT

    world.traffic.trip = trip


def find(world: World, work: InstanceWork) -> int:
    """Position of the last step that does this."""
    return max(n for n, step in enumerate(world.plan.steps) if getattr(step, "work", None) is work)


def test_instances_are_drained_before_they_are_replaced_and_counted_in_each_step():
    world = make_world()
    assert world.drive() is RolloutOutcome.PROMOTED
    works = [step.work for step in world.plan.steps if getattr(step, "work", None)]
    assert works == [InstanceWork.DRAIN, InstanceWork.REPLACE, InstanceWork.HEALTH, InstanceWork.UNDRAIN] * 2
    observed = [n for n, step in enumerate(world.plan.steps) if step.name in ("first", "rest")]
    shown = [list(describe_new_instances(world.plan, n)) for n in observed]
    assert shown == [["1 of 3 instances is new"], ["3 of 3 instances are new"]]


def test_where_too_few_old_instances_serve_users_stay_until_the_new_ones_are_restored():
    world = make_world()
    keep_users(world)
    world.results[find(world, InstanceWork.HEALTH)] = [ActResult("failed", "s2 has 1.4.1, not 1.5.0")]
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    kinds = world.kinds()
    assert kinds.index("stopped") < kinds.index("kept") < kinds.index("undo_begun") < kinds.index("undone")
    assert "returned" not in kinds
    assert find_exit_code(world.plan, world.events) == 4


def test_what_cannot_be_restored_under_users_holds_the_rollout_until_a_person_lets_it_go_on():
    world = make_world()
    keep_users(world)
    world.results[find(world, InstanceWork.REPLACE)] = [ActResult("failed", "no room on s3")]
    world.undo_result = ActResult("failed", "s2, s3 of cart not restored")

    def repair():
        assert world.kinds()[-1] == "held", "nothing is torn down under users"
        world.undo_result = ActResult("done")
        world.events.append(Event(EventKind.CONTINUED, world.clock.now(), person="ann"))

    world.at(1000, repair)
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    held = next(event for event in world.events if event.kind is EventKind.HELD)
    assert held.text == "not all instances are restored: s2, s3 of cart not restored"
    assert world.kinds().count("undo_begun") == 2
    assert any("rollout resume cart@1.5.0" in text for text in world.said)


def test_after_the_end_no_guard_is_asked_to_return_users_to_instances_that_are_gone():
    world = make_world()
    dns = next(n for n, step in enumerate(world.plan.steps) if step.name == "dns")
    world.results[dns] = [ActResult("failed", "no such zone")]
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    assert "back" not in world.traffic.calls
    assert "kept" in world.kinds()
    assert "returned" not in world.kinds()
