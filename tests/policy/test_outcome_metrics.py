"""Metrics of outcomes in the policy."""

import pytest

from evaluator.errors import PolicyError
from evaluator.policy import load_policy
from evaluator.records import Direction, Limit, Margin


@pytest.fixture
def metric(tmp_path):
    def load(text):
        path = tmp_path / "evaluator.yaml"
        path.write_text(f"metrics:\n  - {{name: m, {text}}}\n")
        return load_policy(path)

    return load


def test_everything_that_can_be_said_of_a_mean(metric):
    text = "type: outcome_mean, outcome: revenue, margin: 2%, min: -0.5, covariates: [a, b], winsorise: 99.9%"
    rule = metric(text).rulebook.rules[0]
    assert (rule.metric.outcome, rule.metric.covariates, rule.metric.winsorise) == ("revenue", ("a", "b"), 0.999)
    assert (rule.margin, rule.limit, rule.direction) == (Margin(0.02), Limit(min=-0.5), Direction.HIGHER)


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("type: outcome_mean, outcome: x, margin: 0.5abs", Margin(0.5, relative=False)),
        ("type: outcome_mean, outcome: x, margin: 0", Margin(0.0)),
        ("type: outcome_proportion, outcome: x, margin: 0.5pp", Margin(0.005, relative=False)),
        ("type: outcome_proportion, outcome: x, per: rows, margin: 3%", Margin(0.03)),
        ("type: outcome_ratio, outcome: x, per: y, margin: 3%", Margin(0.03)),
        ("type: outcome_quantile, outcome: x, quantile: 0.9, per: rows, margin: 2abs", Margin(2.0, relative=False)),
    ],
)
def test_margins_in_the_outcomes_own_unit(metric, text, margin):
    assert metric(text).rulebook.rules[0].margin == margin


def test_lower_may_be_better(metric):
    policy = metric("type: outcome_mean, outcome: calls, direction: lower_is_better, margin: 900%")
    assert policy.rulebook.rules[0].direction is Direction.LOWER
    assert policy.effective["metrics"][0]["direction"] == "lower_is_better"
    assert "direction" not in metric("type: outcome_mean, outcome: c, margin: 1%").effective["metrics"][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("type: outcome_mean, margin: 1%", "outcome: is missing: outcome_mean needs one"),
        ("type: outcome_ratio, outcome: x, margin: 1%", "per: is missing: outcome_ratio needs one"),
        ("type: outcome_quantile, outcome: x, margin: 1%", "quantile: is missing"),
        ("type: outcome_mean, outcome: x, per: y, margin: 1%", "use outcome_ratio"),
        ("type: outcome_proportion, outcome: x, per: y, margin: 1%", "can only be rows"),
        ("type: outcome_mean, outcome: x, margin: 0.05", r"must be relative \(5%\) or absolute \(such as 5abs\)"),
        ("type: outcome_mean, outcome: x, margin: 5ms", "must be relative"),
        ("type: outcome_mean, outcome: x, margin: 1%, winsorise: 10%", "winsorise: must be from 50%"),
        ("type: outcome_proportion, outcome: x, margin: 1%, winsorise: 99%", "is not taken by outcome_proportion"),
        ("type: outcome_quantile, quantile: 0.5, outcome: x, margin: 1%, covariates: [a]", "are not taken by"),
        ("type: outcome_mean, outcome: x, endpoint: GET /, margin: 1%", "outcomes have no endpoint"),
        ("type: latency_mean, outcome: x, margin: 1%", "outcome: is not taken by latency_mean"),
        ("type: throughput, covariates: [a], margin: 1%", "covariates: is not taken by throughput"),
        ("type: outcome_means, outcome: x, margin: 1%", "did you mean 'outcome_mean'"),
    ],
)
def test_what_makes_no_sense_is_refused(metric, text, says):
    with pytest.raises(PolicyError, match=says):
        metric(text)
