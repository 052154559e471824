"""Rollouts and their events in the file of decisions."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from evaluator.errors import PlanNotReadable, StoreError, UnknownName, UsageError
from evaluator.policy import parse_policy
from evaluator.records import Release
from evaluator.records.rollouts import Event, EventKind, JudgedAt, Rollout, RolloutOutcome, from_plain, to_plain
from evaluator.rollout.planning import make_plan
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

POLICY = {
    "service": "cart",
    "rollout": {
        "strategy": "canary",
        "router": {
            "cart": {
                "haproxy": {
                    "socket": "/run/h.sock",
                    "backend": "cart",
                    "servers": {"baseline": ["b1"], "canary": ["c1"]},
                }
            }
        },
        "live": {"access_log": "/var/log/h.log"},
        "stages": [
            {"name": "5 %", "share": "5%", "needs": "no_harm", "bake": "10m"},
            {"name": "full", "share": "100%", "needs": "nothing"},
        ],
        "acts": {"always": [{"name": "teardown", "hooks": [{"command": {"run": ["true"]}}]}]},
    },
}


def make_draft(release: str = "cart@2") -> Rollout:
    plan = make_plan(parse_policy(POLICY), release)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Rollout("", release, to_plain(plan), plan.hash(), POLICY, "ann", ("ann", "a@x"), "because", at)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store.open(tmp_path / "x.duckdb", create=True)
    store.control.add_release(Release("cart@2"))
    return store


def test_a_rollout_is_read_as_it_was_started(store):
    rollouts = Rollouts(store.control.file)
    started = rollouts.start(make_draft())
    assert started.id == "r1"
    assert rollouts.rollout("r1") == started == rollouts.find_running("cart@2")[0]
    plan = from_plain(started.plan)
    assert plan == make_plan(parse_policy(POLICY), "cart@2")
    assert plan.hash() == started.plan_hash
    with pytest.raises(UnknownName, match="r7"):
        rollouts.rollout("r7")


def test_events_are_read_as_they_were_added_and_end_it(store):
    rollouts = Rollouts(store.control.file)
    rollout = rollouts.start(make_draft())
    events = (
        Event(EventKind.BEGUN, 1.5, 0),
        Event(EventKind.JUDGED, 2.5, 1, look=JudgedAt.BAKE, verdict="go", no_harm=True, data_hash="sha256:1"),
        Event(EventKind.ENDED, 3.0, outcome=RolloutOutcome.PROMOTED),
    )
    for event in events:
        rollouts.add_event(rollout, event)
    assert rollouts.events("r1") == events
    assert rollouts.find_running() == ()
    texts = [row.event for row in store.control.audit("cart@2")]
    assert texts[-4:] == ["rollout", "rollout begun", "rollout judged", "rollout ended"]
    store.control.verify_release("cart@2")


def test_two_rollouts_of_one_service_are_refused(store):
    rollouts = Rollouts(store.control.file)
    rollouts.start(make_draft())
    with pytest.raises(UsageError, match=r"r1 of cart@2 has not ended$"):
        rollouts.start(make_draft())
    with pytest.raises(UsageError, match="r1 of cart@2 has not ended, and it has cart, too"):
        rollouts.start(make_draft("cart@3"))
    of_another_service = replace(make_draft(), plan={**make_draft().plan, "services": ["shop"]})
    with pytest.raises(UsageError, match=r"r1 of cart@2 has not ended$"):
        rollouts.start(of_another_service)


def test_a_plan_that_was_edited_is_found(store):
    rollouts = Rollouts(store.control.file)
    rollouts.start(make_draft())
    with store.control.file.opened(write=True) as connection:
        connection.execute("UPDATE rollouts SET plan = replace(plan, '0.05', '0.5')")
    with pytest.raises(StoreError, match="the rollout r1 is not what was written"):
        store.control.verify_release("cart@2")


@pytest.mark.parametrize(
    "edit", [{"new_key": 1}, {"steps": [{"kind": "other"}]}, {"steps": 3}, {"unanswered": "maybe"}]
)
def test_a_plan_of_another_version_is_refused(edit):
    plain = {**make_draft().plan, "evaluator_version": "9.9", **edit}
    with pytest.raises(PlanNotReadable, match=r"made by version 9\.9"):
        from_plain(plain)
