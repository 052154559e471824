"""The how-to of each strategy: its policy makes the steps that it lists, and they are driven to their end and back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rollout_world import Found, World

from evaluator.policy import parse_policy
from evaluator.records.rollouts import Act, Observe, RolloutOutcome, RolloutPlan, StepNeeds
from evaluator.rollout.collaborators import StepAnswers
from evaluator.rollout.planning import make_plan

PAGE = (Path(__file__).parents[2] / "docs" / "rollout-strategies.md").read_text(encoding="utf-8")
SECTIONS = {
    title: (policy, steps.splitlines())
    for title, policy, steps in re.findall(
        r"^## (.*?)\n.*?```yaml\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE
    )
}
SHORTER = 100
"""How many times shorter the stages are here: a driver looks each second."""
STRATEGIES = {"Canary": "canary", "Blue-green": "blue_green", "Full release": "big_bang"}


def read_plan(title: str) -> RolloutPlan:
    policy = yaml.safe_load(SECTIONS[title][0])
    assert policy["rollout"]["strategy"] == STRATEGIES[title]
    return make_plan(parse_policy(policy), "cart@1.5.0")


def describe(step: Act | Observe) -> str:
    if isinstance(step, Act):
        return step.name
    return f"observe {step.name}{' under load' if step.load else ''}: {step.needs.label}"


def make_world(plan: RolloutPlan) -> World:
    steps = (
        replace(step, bake_s=step.bake_s / SHORTER, deadline_s=step.deadline_s / SHORTER)
        if isinstance(step, Observe)
        else step
        for step in plan.steps
    )
    world = World(replace(plan, steps=tuple(steps)))
    world.answers = StepAnswers(("ann", "ben"))
    return world


def test_each_strategy_has_its_how_to():
    assert set(SECTIONS) == set(STRATEGIES)
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == list(STRATEGIES)


@pytest.mark.parametrize("title", STRATEGIES)
def test_its_steps_are_those_that_it_lists_and_are_done_in_this_order(title):
    plan = read_plan(title)
    assert [describe(step) for step in plan.steps] == SECTIONS[title][1]
    world = make_world(plan)
    assert world.drive() is RolloutOutcome.PROMOTED
    acts = [position for position, step in enumerate(plan.steps) if isinstance(step, Act)]
    assert world.executed == acts
    agreed = [plan.steps[position] for position, _ in world.asked]
    assert agreed == [step for step in plan.steps if isinstance(step, Act) and step.agree]


@pytest.mark.parametrize("title", STRATEGIES)
def test_what_is_bad_is_turned_back_at_each_stage_that_can_see_it(title):
    plan = read_plan(title)
    judged = [
        n for n, step in enumerate(plan.steps) if isinstance(step, Observe) and step.needs is not StepNeeds.NOTHING
    ]
    for position in judged:
        world = make_world(plan)
        world.found[position] = [Found("no_go", no_harm=False)]
        assert world.drive() is RolloutOutcome.ROLLED_BACK
        assert (
            max(world.executed[: len(world.executed) - sum(step.final for step in plan.steps if isinstance(step, Act))])
            < position
        )
    world = make_world(plan)
    full = next(n for n, step in enumerate(plan.steps) if isinstance(step, Act) and step.share == 1)
    trips = [False]

    def trip():
        if full in world.executed and not trips[0]:
            trips[0] = True
            world.traffic.trip("more than 5 % failed")

    for second in range(1, 300):
        world.at(second, trip)
    assert world.drive() is RolloutOutcome.ROLLED_BACK, "the guard looks on with all users"
    assert world.traffic.status.realised["cart"]["canary"] == 0
