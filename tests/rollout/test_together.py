"""Services that are rolled out together: harm that none of them shows alone turns all of them back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from judging import LIVE
from ladders import POLICY as POLICY_OF_LADDERS
from steps import EPOCH, land

from evaluator.errors import PolicyError
from evaluator.policy import parse_policy
from evaluator.records import VerdictWord
from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    JudgedAt,
    Observe,
    Rollout,
    RolloutPlan,
    StepNeeds,
    from_plain,
    to_plain,
)
from evaluator.rollout.describing import describe_event
from evaluator.rollout.evidence import StepEvidence, freeze_policy, judge_step
from evaluator.rollout.planning import make_plan
from evaluator.simulate import Change, simulate
from evaluator.simulate.design import AR1
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

SERVICES = ("cart", "shop", "search", "pay")
BAKE_S = 300.0
CALM = {"instance_drift": AR1(0.004, 100.0), "instance_sd": 0.002, "arm_drift": AR1(0.002, 60.0)}
SMALL = replace(LIVE, duration_s=BAKE_S, rate_per_s=10.0, instances=(3, 3), bucket_s=15, **CALM)
"""Requests of one service: at 4 % it is within its own margin of 5 %, and as uncertain as the number of requests."""
SLOWER = 0.04
STEP = Observe("50 %", "50 %", "production", SERVICES, StepNeeds.NO_HARM, BAKE_S, BAKE_S, share=0.5, least=500)
RELEASE = "cart@1.5.0"


def judge(
    folder: Path, changes: dict[str, Change], look=JudgedAt.BAKE, margin: float | None = 0.005, instances=(3, 3)
) -> StepEvidence:
    """Judge a step of services that have changed like this; a service without a change has no requests."""
    store = Store.open(folder / "evaluator.duckdb", create=True)
    for number, (service, change) in enumerate(changes.items()):
        design = replace(SMALL, changes=(change,), instances=instances)
        land(store, simulate(design, 30 + number), f"live-{service}", step="50 %", service=service)
    shift = Act("all to 50 %", STEP.stage, services=SERVICES, share=STEP.share)
    plan = RolloutPlan(RELEASE, "canary", SERVICES, (shift, STEP), alpha_no_go=0.05, joint_margin=margin)
    policy = parse_policy({"services": [*SERVICES]})
    rollouts = Rollouts(store.control.file)
    at = datetime.fromtimestamp(EPOCH - 60, UTC)
    frozen = freeze_policy(policy)
    draft = Rollout("", RELEASE, to_plain(plan), plan.hash(), frozen, "ann", ("ann",), "test", at)
    rollout = rollouts.start(draft)
    rollouts.add_event(rollout, Event(EventKind.BEGUN, EPOCH - 1, 1))
    return judge_step(store, rollout, plan, 1, look, datetime.fromtimestamp(EPOCH + BAKE_S + 70, UTC))


def all_change(latency: float) -> dict[str, Change]:
    return dict.fromkeys(SERVICES, Change(latency=latency))


def test_harm_that_no_service_shows_alone_turns_all_back(tmp_path):
    alone = judge(tmp_path / "alone", all_change(SLOWER), margin=None)
    assert alone.word is not VerdictWord.NO_GO
    assert alone.note == ""
    together = judge(tmp_path / "together", all_change(SLOWER))
    assert (together.word, together.no_harm) == (VerdictWord.NO_GO, False)
    why = together.missing[0]
    assert why.startswith("all 4 services together: geometric means +")
    assert "more than the 0.5 % allowed (joint_margin); most: " in why
    assert together.data_hash == alone.data_hash


def test_services_without_a_change_are_not_turned_back_and_the_numbers_are_shown(tmp_path):
    found = judge(tmp_path, all_change(0.0))
    assert found.word is not VerdictWord.NO_GO
    assert "up to 0.5 % is allowed (joint_margin)" in found.note
    event = Event(EventKind.JUDGED, EPOCH, 1, look=JudgedAt.BAKE, verdict=str(found.word), note=found.note)
    plan = RolloutPlan(RELEASE, "canary", SERVICES, (Act("x", "50 %"), STEP))
    assert found.note in describe_event(plan, event)


def test_a_look_that_was_not_paid_for_asks_no_joint_question(tmp_path):
    found = judge(tmp_path, all_change(SLOWER), JudgedAt.MEANWHILE)
    assert (found.word, found.note) == (VerdictWord.INCONCLUSIVE, "")


def test_without_requests_of_one_service_nothing_is_said_of_all(tmp_path):
    changes = all_change(SLOWER)
    del changes["pay"]
    found = judge(tmp_path, changes)
    assert (found.word, found.no_harm) == (VerdictWord.INCONCLUSIVE, False)
    assert found.note == "the services are not judged together: pay has no requests that can be compared"


def test_where_instances_get_different_loads_times_decide_nothing(tmp_path):
    found = judge(tmp_path, all_change(SLOWER), instances=(5, 2))
    assert found.word is not VerdictWord.NO_GO
    assert "get different loads" in found.note


# ------------------------------------------------------------------ the plan


def plan_of(order, **section) -> RolloutPlan:
    router = POLICY_OF_LADDERS["rollout"]["router"]["cart"]
    live = {"access_log": {"cart": "/var/log/cart.log", "shop": "/var/log/shop.log"}}
    of_both = {"router": {"cart": router, "shop": router}, "order": order, "live": live}
    rollout = {**POLICY_OF_LADDERS["rollout"], **of_both, **section}
    return make_plan(parse_policy({"services": ["cart", "shop"], "rollout": rollout}), RELEASE)


def test_one_more_question_shares_the_error_rate():
    alone, together = plan_of([["cart", "shop"]]), plan_of([["cart", "shop"]], joint_margin="1%")
    assert together.joint_margin == 0.01
    assert together.alpha_no_go == pytest.approx(alone.alpha_no_go * 2 / 3)
    assert from_plain(to_plain(together)) == together


def test_a_joint_margin_without_services_that_go_together_is_refused():
    with pytest.raises(PolicyError, match="nothing is judged together"):
        plan_of(["cart", "shop"], joint_margin="1%")


@pytest.mark.parametrize("log", ["all.log", {"cart": "all.log", "shop": "./all.log"}])
def test_services_with_one_log_are_refused_because_requests_of_one_would_count_as_the_others(log):
    with pytest.raises(PolicyError, match="cart and shop have the same log"):
        plan_of(["cart", "shop"], live={"access_log": log})


@pytest.mark.parametrize("margin", ["0%", "100%", "-1%", "little"])
def test_a_margin_that_means_nothing_is_refused(margin):
    with pytest.raises(PolicyError, match="joint_margin"):
        plan_of([["cart", "shop"]], joint_margin=margin)
