"""The derived truth is what large samples show."""

import math
from dataclasses import replace

import numpy as np
import pytest
from truth import derive_truth

from evaluator.simulate import AR1, SCENARIOS, Bursts, Change, Scenario, simulate

# Quick dependence averages out within one long run, so that one draw is a large sample of the marginal distribution.
QUICK = Scenario(
    duration_s=900.0,
    rate_per_s=1000.0,
    common=AR1(0.12, 1.0),
    arm_drift=AR1(0.01, 1.0),
    instance_drift=AR1(0.05, 1.0),
    traffic=AR1(0.05, 1.0),
    spikes=Bursts(60.0, 2.0, 0.3, 0.9),
    instance_sd=0.0,
    shared_failures=Bursts(60.0, 3.0, 0.01, 0.03),
    instance_failures=Bursts(0.0, 3.0, 0.0, 0.0),
)


def standardised(requests, design, value):
    """Σ v_e value(arm, endpoint) / Σ v_e with the weights of the judge; no time strata: nothing moves but the leak."""
    n = np.array([np.bincount(requests.endpoint[requests.arm == arm], minlength=design.endpoints) for arm in (0, 1)])
    v = n[0] * n[1] / n.sum(axis=0)
    values = [[value((requests.arm == a) & (requests.endpoint == e)) for e in range(design.endpoints)] for a in (0, 1)]
    return np.asarray(values) @ (v / v.sum())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"latency": 0.1}, id="latency"),
        pytest.param({"tail": 1.5}, id="tail"),
        pytest.param({"endpoint": 0.3}, id="endpoint"),
        pytest.param({"leak": 0.4}, id="leak"),
        pytest.param({"failures": 10.0}, id="failures"),
        pytest.param({"failures_added": 0.02}, id="failures added"),
        pytest.param({"shed": 0.01}, id="shed"),
        pytest.param({"mix": 0.4}, id="mix"),
        pytest.param({"latency": 0.1, "tail": 1.3, "shed": 0.002, "mix": 0.2, "failures": 4.0}, id="all"),
    ],
)
def test_truth_is_what_a_large_sample_shows(changes):
    design = replace(QUICK, changes=(Change(**changes),))
    requests, truth = simulate(design, 17), derive_truth(design)
    ok = ~requests.failed
    means = standardised(requests, design, lambda rows: requests.response_us[rows & ok].mean() / 1000)
    rates = standardised(requests, design, lambda rows: requests.failed[rows].mean())
    assert means == pytest.approx(truth.mean_ms, rel=0.012)
    assert means[1] / means[0] - 1 == pytest.approx(truth.mean, abs=0.009)
    assert rates[1] - rates[0] == pytest.approx(truth.failures, abs=4e-4)
    for quantile, points in truth.quantiles_ms.items():
        limits = 1000 * np.array(points)[requests.arm]
        within = standardised(
            requests,
            design,
            lambda rows, limits=limits: np.mean(ok[rows] & (requests.response_us[rows] <= limits[rows])),
        )
        expected = np.minimum(quantile, 1 - np.array(truth.failure_rate))
        assert within == pytest.approx(expected, abs=0.001 + 0.02 * (1 - quantile))


def test_nothing_changed_is_no_change():
    for name, design in SCENARIOS.items():
        if name.startswith("AA") or name == "single_75s":
            truth = derive_truth(design)
            assert truth.mean == pytest.approx(0, abs=1e-12)
            assert truth.failures == pytest.approx(0, abs=1e-12)
            assert list(truth.quantiles.values()) == pytest.approx([0] * 4, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "mean"),
    [("mean+3%", 0.03), ("mean+5%", 0.05), ("mean+10%", 0.1), ("mean+20%", 0.2), ("improve-10%", -0.1), ("leak", 0.1)],
)
def test_named_effects_on_the_mean(name, mean):
    assert derive_truth(SCENARIOS[name]).mean == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "quantile", "margin"), [("margin_p50", 0.5, 0.05), ("margin_p95", 0.95, 0.1), ("margin_p99", 0.99, 0.15)]
)
def test_quantiles_at_the_margin(name, quantile, margin):
    assert derive_truth(SCENARIOS[name]).quantiles[quantile] == pytest.approx(margin, abs=1e-9)


@pytest.mark.parametrize("name", ["margin_failures", "margin_rare_one_99"])
def test_failures_at_the_margin(name):
    assert derive_truth(SCENARIOS[name]).failures == pytest.approx(0.001, abs=1e-12)


def test_errors_times_three_do_not_change_bursts():
    truth = derive_truth(SCENARIOS["errx3"])
    assert truth.failures == pytest.approx(0.002)
    assert truth.failure_rate[0] > 0.001


def test_slowest_requests_only():
    truth = derive_truth(SCENARIOS["p99x1.5"])
    assert truth.quantiles[0.95] == pytest.approx(0, abs=1e-9)
    assert truth.quantiles[0.99] == pytest.approx(0.5, abs=1e-9)
    assert truth.mean > 0.04


def test_shedding_looks_good_in_the_mean_only():
    truth = derive_truth(SCENARIOS["shed"])
    assert truth.mean < -0.02
    assert truth.failures == pytest.approx(0.005, rel=0.01)
    assert truth.quantiles[0.99] == pytest.approx(0, abs=1e-9)


def test_quantile_that_became_a_failure_is_infinite():
    truth = derive_truth(Scenario(changes=(Change(failures_added=0.02),)))
    assert truth.quantiles[0.99] == math.inf


def test_quantile_that_baseline_lacks_is_nan():
    assert math.isnan(derive_truth(Scenario(failure_rate=0.05)).quantiles[0.99])


def test_each_candidate_has_its_own_truth():
    design = Scenario(changes=(Change(), Change(latency=0.2)))
    assert derive_truth(design, 0).mean == pytest.approx(0)
    assert derive_truth(design, 1).mean == pytest.approx(0.2)


def test_estimates_scatter_as_much_as_they_should():
    """Relative means of identical arms scatter by instances, their moods and requests: about 1.2 % in an hour."""
    estimates = []
    for seed in range(60):
        requests = simulate(Scenario(rate_per_s=15.0), seed)
        means = standardised(requests, Scenario(), lambda rows, r=requests: r.response_us[rows].mean())
        estimates.append(math.log(means[1] / means[0]))
    assert np.std(estimates) == pytest.approx(0.0145, rel=0.35)
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / math.sqrt(60)
