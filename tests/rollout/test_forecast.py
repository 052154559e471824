"""A forecast of a whole rollout agrees with the chances of its stages, and with what must be so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evaluator.planning import Goal, assume_history, find_chances
from evaluator.policy import load_policy, parse_policy
from evaluator.records.rollouts import Observe, StepNeeds
from evaluator.rollout.forecast import ForecastStage, JudgedService, forecast_rollout
from evaluator.rollout.outlook import describe_rollout

RULEBOOK = load_policy().rulebook
INSTANCES = (4, 4)
RATE = 60.0


@pytest.fixture(scope="module")
def history():
    return assume_history(RULEBOOK, rate_per_s=30.0, instances=4)


def step(share, needs=StepNeeds.GO, bake_s=3600.0, deadline_s=None, name="s", services=("shop",)):
    return Observe(name, name, "production", services, needs, bake_s, deadline_s or bake_s, share)


def stage(history, *args, count=1, **values):
    service = JudgedService(history, RULEBOOK, INSTANCES, RATE)
    return ForecastStage(step(*args, **values), (service,) * count)


def test_one_stage_has_the_chances_of_the_outlook(history):
    known = find_chances(history, RULEBOOK, seconds=3600.0, share=0.5, instances=INSTANCES, rate_per_s=RATE)
    forecast = forecast_rollout([stage(history, 0.5)], 0.2)
    error = 4 * math.sqrt(0.25 / 2000)
    assert forecast.completes == pytest.approx(known.go, abs=error)
    assert forecast.goes_back == pytest.approx(known.no_go, abs=error)
    assert forecast.completes + forecast.goes_back + forecast.asked == pytest.approx(1.0)
    assert forecast.full_after_s == 3600.0


def test_a_deadline_gives_more_time_to_those_that_need_it(history):
    short = forecast_rollout([stage(history, 0.5, bake_s=900.0)], 0.2)
    longer = forecast_rollout([stage(history, 0.5, bake_s=900.0, deadline_s=3600.0)], 0.2)
    assert longer.completes > short.completes
    assert longer.asked < short.asked


def test_the_exposure_is_that_of_the_shares(history):
    """Without any regression and with stages that need nothing, it is known exactly."""
    stages = [stage(history, share, StepNeeds.NOTHING, bake_s=600.0) for share in (0.05, 0.25, 1.0)]
    forecast = forecast_rollout(stages, 0.0)
    assert forecast.exposed == pytest.approx(RATE * 600 * (0.05 + 0.25 + 1.0))
    assert (forecast.completes, forecast.full_after_s) == (1.0, 1200.0)  # the watch with all users comes after
    assert (forecast.caught, forecast.caught_at) == (0.0, "")
    assert math.isnan(forecast.caught_after_s)


def test_a_larger_regression_is_caught_earlier_and_exposes_less(history):
    stages = [
        stage(history, 0.25, StepNeeds.NO_HARM, bake_s=1800.0, name="25 %"),
        stage(history, 0.5, name="50 %"),
        stage(history, 1.0, StepNeeds.NOTHING, name="full"),
    ]
    small, large = forecast_rollout(stages, 0.07), forecast_rollout(stages, 0.5)
    assert small.caught < large.caught > 0.99
    assert large.exposed < small.exposed
    assert large.caught_after_s <= small.caught_after_s
    assert large.caught_at in ("25 %", "50 %")


def test_services_in_lockstep_have_to_pass_together(history):
    one, five = (forecast_rollout([stage(history, 0.5, count=count)], 0.2) for count in (1, 5))
    assert five.completes < one.completes
    assert five.caught >= one.caught
    assert five.exposed < 5 * one.exposed


def test_a_service_without_history_is_never_go_by_itself(history):
    unknown = replace(stage(history, 0.5), services=(JudgedService(None, RULEBOOK, INSTANCES, RATE),))
    forecast = forecast_rollout([unknown], 0.2)
    assert (forecast.completes, forecast.asked, forecast.caught) == (0.0, 1.0, 0.0)


def test_too_few_requests_for_no_harm_are_asked_about(history):
    service = JudgedService(history, RULEBOOK, INSTANCES, RATE, no_harm=0.25)
    stages = [replace(stage(history, 0.05, StepNeeds.NO_HARM, bake_s=600.0), services=(service, service))]
    assert forecast_rollout(stages, 0.2).completes == pytest.approx(0.0625, abs=0.02)


def test_one_instance_is_asked_about(history):
    alone = replace(stage(history, 0.5), services=(JudgedService(history, RULEBOOK, (1, 1), RATE),))
    assert forecast_rollout([alone], 0.2).completes == 0.0


def test_servers_whose_loads_differ_are_asked_about(history):
    uneven = replace(stage(history, 0.5), services=(JudgedService(history, RULEBOOK, INSTANCES, RATE, never_go=True),))
    assert forecast_rollout([uneven], 0.2).completes == 0.0


def test_the_same_seed_gives_the_same_forecast(history):
    stages = [stage(history, 0.5)]
    assert forecast_rollout(stages, 0.2) == forecast_rollout(stages, 0.2)


ROLLOUT = {
    "service": "cart",
    "rollout": {
        "strategy": "canary",
        "router": {"cart": {"haproxy": {"socket": "/s", "backend": "cart", "servers": {}}}},
        "live": {"access_log": "/var/log/haproxy.log"},
        "stages": [
            {"name": "50 %", "share": "50%", "needs": "go", "bake": "60m", "deadline": "2h"},
            {"name": "full", "share": "100%", "needs": "nothing", "bake": "10m"},
        ],
    },
}


def with_servers(baseline, candidate):
    servers = {"baseline": [f"b{n}" for n in range(baseline)], "canary": [f"c{n}" for n in range(candidate)]}
    haproxy = {**ROLLOUT["rollout"]["router"]["cart"]["haproxy"], "servers": servers}
    return parse_policy({**ROLLOUT, "rollout": {**ROLLOUT["rollout"], "router": {"cart": {"haproxy": haproxy}}}})


def test_the_rollout_of_a_policy_is_described_by_its_servers(history):
    goal = Goal(regression=0.3)
    said = describe_rollout(with_servers(4, 4), "cart@2", history, goal)
    assert said.startswith(
        "By your rollout (canary), an unchanged release has all users after 60 min by itself with a "
    )
    assert "One with +30 % response time goes back before that with 100 %, mostly at 50 %, and serves " in said
    assert describe_rollout(load_policy(), "cart@2", history, goal) == ""
