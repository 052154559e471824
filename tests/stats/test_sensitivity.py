"""Would these tests notice a wrong variance? Each part is broken on purpose, and identical releases must show it.

A release is called different when "worse" or "better" is shown at margin 0, each at 5 %: 10 % of identical releases
may be. The same releases are judged with the formula as it is and with the broken one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from evaluator.simulate import AR1, Bursts, Scenario, simulate_cells
from evaluator.stats.estimators import contrast, failures, means, quantiles, typical
from evaluator.stats.estimators.estimate import Estimate
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.longrun import TimeVariance
from evaluator.stats.variance.uncertainty import Uncertainty, choose_design, combine

ALPHA = 0.05
RELEASES = 100
AS_PROMISED = 0.16
"""Of 100 releases 10 may be called different; more than 16 has a probability of 2 %."""
FAR_TOO_MANY = 0.20

QUARTER = replace(Scenario(), duration_s=900.0)
UNLIKE_INSTANCES = replace(QUARTER, instance_sd=0.03)
TWO_INSTANCES = replace(UNLIKE_INSTANCES, instances=(2,))
DRIFTING_ARMS = replace(
    QUARTER, instance_sd=0.0, instances=(4,), instance_drift=AR1(0.0, 100.0), arm_drift=AR1(0.05, 30.0)
)
FAILURES_IN_BURSTS = replace(
    QUARTER, shared_failures=Bursts(6.0, 40.0, 0.01, 0.03), instance_failures=Bursts(4.0, 20.0, 0.1, 0.1)
)


def mean(panel, design) -> Estimate:
    return means.compare_means(panel, design, alpha=ALPHA, margin=None, sd_instance=0.05)


def typical_time(panel, design) -> Estimate:
    groups = all_together(len(panel.endpoints))
    return typical.compare_typical_times(panel, design, alpha=ALPHA, margin=None, sd_instance=0.05, groups=groups)


def p95(panel, design) -> Estimate:
    question = quantiles.QuantileQuestion(0.95)
    estimate = quantiles.compare_quantiles(panel, design, [question], alpha=ALPHA, sd_instance=0.05, depth="answers")[0]
    assert estimate.estimate is not None
    return estimate.estimate


def failure_rate(panel, design) -> Estimate:
    return failures.compare_failures(panel, design, alpha=ALPHA, margin=None, sd_instance=0.0005, depth="answers")


def without_instances(time, instance, prior, arms=(0, 1), history=None) -> Uncertainty:
    alike = replace(instance, variance=0 * instance.variance, within=0 * instance.within)
    return combine(time, alike, prior, arms, history)


def without_time(time, instance, prior, arms=(0, 1), history=None) -> Uncertainty:
    constant = TimeVariance(0 * time.variance, time.df, 0 * time.independent, time.buckets)
    return combine(constant, instance, prior, arms, history)


def requests_as_units(time, instance, prior, arms=(0, 1), history=None) -> Uncertainty:
    """No variance but the binomial one, which is the floor."""
    nothing = np.zeros_like(time.variance)
    return Uncertainty(nothing[None, :], np.full((1, nothing.size), np.inf), nothing)


def as_if_known(time, instance, prior, arms=(0, 1), history=None) -> Uncertainty:
    """The normal quantile instead of Student's."""
    uncertainty = combine(time, instance, prior, arms, history)
    return replace(uncertainty, df=np.full_like(uncertainty.df, np.inf))


@dataclass(frozen=True)
class Case:
    design: Scenario
    compare: Callable[..., Estimate]
    broken: Callable[..., Uncertainty]


CASES = [
    pytest.param(Case(UNLIKE_INSTANCES, mean, without_instances), id="mean-without-instances"),
    pytest.param(Case(DRIFTING_ARMS, mean, without_time), id="mean-without-time"),
    pytest.param(Case(UNLIKE_INSTANCES, typical_time, without_instances), id="typical-time-without-instances"),
    pytest.param(Case(UNLIKE_INSTANCES, p95, requests_as_units), id="p95-of-requests"),
    pytest.param(Case(FAILURES_IN_BURSTS, failure_rate, requests_as_units), id="failures-of-requests"),
    pytest.param(Case(TWO_INSTANCES, mean, as_if_known), id="mean-with-normal-quantile"),
]


@cache
def panels(design: Scenario):
    cells = (simulate_cells(design, seed) for seed in range(RELEASES))
    built = [build_panel(part, "canary") for part in cells]
    return [(panel, choose_design(panel)) for panel in built]


def share_called_different(case: Case) -> float:
    answers = [case.compare(*pair).against_zero for pair in panels(case.design)]
    return float(np.mean([min(answer.p_worse[0], answer.p_within[0]) < ALPHA for answer in answers]))


@pytest.mark.parametrize("case", CASES)
def test_a_broken_variance_gives_false_alarms_and_the_real_one_does_not(case, monkeypatch):
    real = share_called_different(case)
    monkeypatch.setattr(contrast, "combine", case.broken)
    broken = share_called_different(case)
    assert real <= AS_PROMISED
    assert broken >= FAR_TOO_MANY
