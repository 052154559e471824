import re
from dataclasses import replace
from pathlib import Path

import pytest
from judging import RULEBOOK

from evaluator.planning import Goal, assume_history, compare_strategies, plan_gates
from evaluator.planning.strategies import STRATEGIES
from evaluator.records import Monitoring


@pytest.fixture(scope="module")
def history():
    return assume_history(RULEBOOK, rate_per_s=30, instances=4)


def rollouts(history, goal, rulebook=RULEBOOK, **settings):
    return {row.strategy: row for row in compare_strategies(history, rulebook, goal, **settings)}


def test_each_strategy_has_its_advantage(history):
    rows = rollouts(history, Goal(regression=0.2))
    assert set(rows) == set(STRATEGIES)
    assert rows["big_bang"].full_after_s == 0
    assert rows["big_bang"].stopped == 0
    assert rows["blue_green"].exposed <= rows["canary"].exposed < rows["big_bang"].exposed
    assert rows["canary"].full_after_s == 4 * rows["blue_green"].full_after_s
    assert all(rows[name].stopped > 0.95 for name in ("blue_green", "canary", "ab_test"))


def test_false_stops_are_rare_enough(history):
    for row in rollouts(history, Goal()).values():
        assert row.false_stop <= RULEBOOK.alpha
        assert 0.5 < row.completes <= 1


@pytest.mark.parametrize("mode", ["fixed", "group_sequential", "anytime"])
def test_chances_agree_with_the_plan_of_the_gate(history, mode):
    rulebook = replace(RULEBOOK, monitoring=Monitoring(mode=mode))
    goal = Goal(regression=0.1)
    chance = max(plan.found_chance for plan in plan_gates(history, rulebook, goal) if plan.precision.relative)
    stopped = rollouts(history, goal, rulebook)["ab_test"].stopped
    assert stopped == pytest.approx(chance, abs=0.1)
    assert stopped >= chance - 0.04


def test_larger_regressions_are_stopped_more_often(history):
    stopped = [rollouts(history, Goal(regression=size))["canary"].stopped for size in (0.05, 0.1, 0.2)]
    assert stopped == sorted(stopped)


def test_the_same_seed_gives_the_same_table(history):
    goal = Goal()
    once, again = (compare_strategies(history, RULEBOOK, goal, replications=200) for _ in range(2))
    assert repr(once) == repr(again)
    assert repr(compare_strategies(history, RULEBOOK, goal, replications=200, seed=2)) != repr(once)


def test_one_instance_is_held_not_rolled_out(history):
    rows = rollouts(history, Goal(instances=1))
    assert rows["ab_test"].completes == 0


def test_each_strategy_is_described_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| ([^|]+) \|", text.split("## Ways to roll out")[1], re.MULTILINE)
    assert {strategy.label for strategy in STRATEGIES.values()} <= set(described)
