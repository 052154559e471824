import math
from dataclasses import replace

import pytest
from judging import RULEBOOK, RUN, evidence

from evaluator.metrics.latency import LatencyQuantile
from evaluator.metrics.outcome_mean import OutcomeMean
from evaluator.planning import Goal, assume_history, learn_precisions, plan_gates, tabulate
from evaluator.planning.precision import forecast
from evaluator.records import Margin, Monitoring, Rule, Rulebook, Scan, Slice
from evaluator.simulate import SCENARIOS, Change, Scenario, simulate_cells

P50 = Rulebook(
    (Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(0.05)),),
    scan=Scan(enabled=False),
    monitoring=Monitoring(mode="fixed"),
)
HALF_HOUR = replace(Scenario(), duration_s=1800.0)


@pytest.fixture(scope="module")
def history():
    return assume_history(RULEBOOK, rate_per_s=30, instances=4)


def by_name(plans):
    return {plan.precision.rule.name: plan for plan in plans}


def test_every_gate_is_planned_and_nothing_else(history):
    plans = plan_gates(history, RULEBOOK, Goal())
    assert list(by_name(plans)) == ["failure_rate", "latency_p50", "latency_p95", "latency_p99"]
    assert not history.missing
    assert history.assumed


def test_a_forecast_for_the_measured_duration_equals_the_measurement():
    cells = simulate_cells(SCENARIOS["AA_inst3"], 3)
    observed = {c.rule.name: c for c in evidence(cells).comparisons if not c.scan}
    learnt = learn_precisions([(cells, (RUN,))], RULEBOOK)
    for precision in learnt.precisions:
        again, was = forecast(precision, precision.reference_s, (4, 4)), observed[precision.rule.name]
        assert again.se == pytest.approx(was.se)
        assert again.between_instance == pytest.approx(was.persistent_share)
        assert again.df == pytest.approx(was.df, rel=0.1)


def test_time_and_instances_shrink_their_own_part_of_the_variance(history):
    grids = {grid.name: grid for grid in tabulate(history, RULEBOOK, Goal(), [600, 3600, 36000], [2, 4, 16])}
    for grid in grids.values():
        columns = list(zip(*grid.half_widths, strict=True))
        assert all(list(column) == sorted(column, reverse=True) for column in columns)
        assert all(list(row) == sorted(row, reverse=True) for row in grid.half_widths)
    only_time = history.precisions[1]
    limit = math.sqrt(only_time.between / 2)
    assert forecast(only_time, 1e7, (4, 4)).se == pytest.approx(limit, rel=0.05)


def test_go_comes_after_the_planned_time(history):
    for plan in plan_gates(history, RULEBOOK, Goal()):
        then = by_name(plan_gates(history, RULEBOOK, Goal(duration_s=plan.go_after_s)))[plan.precision.rule.name]
        assert 0.8 <= then.go_chance < 0.9
        smallest = Goal(regression=plan.finds, failures=plan.finds)
        planned = by_name(plan_gates(history, RULEBOOK, smallest))[plan.precision.rule.name]
        assert planned.found_chance == pytest.approx(0.8, abs=0.01)


def test_a_regression_equal_to_the_margin_is_rarely_found(history):
    plans = by_name(plan_gates(history, RULEBOOK, Goal(regression=0.05)))
    assert plans["latency_p50"].found_chance < RULEBOOK.alpha
    assert plans["latency_p50"].found_after_s == math.inf


def test_one_instance_a_side_is_never_go():
    single = learn_precisions([(simulate_cells(SCENARIOS["AA_1+1"], 1), (RUN,))], RULEBOOK)
    for plan in plan_gates(single, RULEBOOK, Goal(instances=1)):
        assert plan.go_chance == 0
        assert plan.go_after_s == math.inf
        assert plan.go_instances > 1


def test_less_traffic_reduces_precision_and_more_does_not_increase_it(history):
    planned = [by_name(plan_gates(history, RULEBOOK, Goal(rate_per_s=rate)))["latency_p99"] for rate in (3, 30, 300)]
    assert planned[0].half_width > planned[1].half_width == planned[2].half_width


@pytest.mark.parametrize(("latency", "runs"), [pytest.param(0.08, 30, id="half"), pytest.param(0.10, 20, id="most")])
def test_power_agrees_with_simulated_releases(latency, runs):
    """The plan's chance of NO-GO and of GO against judged releases, within three standard errors."""
    history = assume_history(P50, rate_per_s=30, instances=4)
    plan = plan_gates(history, P50, Goal(duration_s=1800, instances=4, regression=latency))[0]
    worse, within = 0, 0
    for seed in range(runs):
        changed = evidence(simulate_cells(replace(HALF_HOUR, changes=(Change(latency=latency),)), seed), P50)
        same = evidence(simulate_cells(HALF_HOUR, seed), P50)
        worse += next(q for q in changed.comparisons[0].questions if q.kind == "margin").p_worse < P50.alpha
        within += next(q for q in same.comparisons[0].questions if q.kind == "margin").p_within < P50.alpha
    for chance, count in ((plan.found_chance, worse), (plan.go_chance, within)):
        assert count / runs == pytest.approx(chance, abs=3 * math.sqrt(chance * (1 - chance) / runs) + 0.05)


def test_gates_without_history_are_named():
    rules = (
        *P50.rules,
        replace(P50.rules[0], name="elsewhere", slice=Slice("GET /nowhere")),
        Rule("paid", OutcomeMean(outcome="revenue"), margin=Margin(0.05)),
    )
    learnt = learn_precisions([(simulate_cells(HALF_HOUR, 1), (RUN,))], replace(P50, rules=rules))
    assert [precision.rule.name for precision in learnt.precisions] == ["latency_p50"]
    assert learnt.missing == ("elsewhere", "paid")


def test_a_missing_history_is_reported():
    history = learn_precisions([], RULEBOOK)
    assert history.precisions == ()
    assert history.missing == ("failure_rate", "latency_p50", "latency_p95", "latency_p99")
