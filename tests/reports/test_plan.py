"""The answer of a plan in sentences, against its numbers."""

import math
from dataclasses import replace

import pytest

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyQuantile
from evaluator.planning import GatePlan, Goal, choose_harms
from evaluator.planning.precision import Precision
from evaluator.policy import load_policy
from evaluator.records import Margin, Role, Rule
from evaluator.reports.plan import answer_plan


def plan_for(quantile, margin, *, go_after_s=600.0, go_instances=4.0, found=0.5):
    rule = Rule(f"latency_p{quantile}", LatencyQuantile(quantile=quantile / 100), role=Role.GATE, margin=Margin(margin))
    precision = Precision(rule, "ms", 100.0, 0.001, 3600.0, 0.001, 0.001, 0.5)
    return GatePlan(precision, 0.05, 0.2, found, 0.9, 0.3, go_after_s, 900.0, go_instances, 1000.0)


P50, P95 = plan_for(50, 0.05, go_after_s=600.0), plan_for(95, 0.1, go_after_s=4140.0, found=0.02)
GOAL = Goal(regression=0.2)


def test_the_slowest_gate_decides_how_long():
    how_long, found = answer_plan([P50, P95], GOAL, 138.0)
    assert how_long == (
        "With 138 requests a second and 4 + 4 instances you need about 69 min: then each gate of an unchanged release "
        "passes with a chance of 80 % or more. p95 needs the longest."
    )
    assert found == "In 60 min a rise is found: +20 % of p50 with a chance of 50 %, +20 % of p95 with a chance of 2 %."


def test_a_rise_that_is_allowed_is_not_called_a_chance():
    _, found = answer_plan([P50, P95], replace(GOAL, regression=0.1), 138.0)
    assert found == (
        "In 60 min a rise is found: +10 % of p50 with a chance of 50 %. p95 allows a rise as large as the chosen one, "
        "so it would hardly ever find it."
    )


@pytest.mark.parametrize(
    ("instances", "remedy"),
    [(10.0, "use 10 + 10 instances for 60 min."), (math.inf, "load longer with more instances, or allow more in the")],
)
def test_where_no_time_is_enough_it_says_what_is(instances, remedy):
    hopeless = plan_for(99, 0.15, go_after_s=math.inf, go_instances=instances)
    how_long, _ = answer_plan([P50, hopeless], GOAL, 138.0)
    assert "no length of the test is enough for p99 to pass with a chance of 80 % or more" in how_long
    assert remedy in how_long


def test_more_instances_do_not_replace_the_time_of_the_other_gates():
    slow = plan_for(95, 0.1, go_after_s=6360.0, go_instances=213.0)
    hopeless = plan_for(50, 0.05, go_after_s=math.inf, go_instances=10.0)
    how_long, _ = answer_plan([slow, hopeless], GOAL, 20.0)
    assert how_long.endswith("for p50 to pass with a chance of 80 % or more: use 10 + 10 instances for 106 min.")


def test_a_test_should_find_twice_what_is_allowed():
    rules = load_policy().rulebook.rules
    gates = [rule.margin.value for rule in rules if rule.role is Role.GATE and rule.margin and rule.margin.relative]
    failures = [
        rule.margin.value
        for rule in rules
        if rule.role is Role.GATE and isinstance(rule.metric, FailureRate) and rule.margin
    ]
    assert choose_harms(load_policy().rulebook) == (2 * max(gates), 2 * max(failures))
