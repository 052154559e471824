"""Properties of the comparisons, on small simulated releases."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from judging import SMALL

from evaluator.records import Cells, Limit, Margin
from evaluator.simulate import Change, Scenario, simulate, simulate_cells, to_cells
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion
from evaluator.stats.estimators.quantiles import MOST_TOGETHER, compare_quantiles
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import choose_design

ALPHA = 0.05


def _panel(cells: Cells, arm: str = "canary"):
    panel = build_panel(cells, arm)
    assert panel is not None
    return panel, choose_design(panel)


def _mean(cells: Cells, margin: float = 0.1):
    panel, design = _panel(cells)
    return compare_means(panel, design, alpha=ALPHA, margin=Margin(margin), sd_instance=0.05)


def _compare_quantile(panel, design, p, margin):
    return compare_quantiles(panel, design, [QuantileQuestion(p, margin)], alpha=ALPHA, sd_instance=0.05)[0]


def _quantile(cells: Cells, p: float = 0.95, margin: float = 0.1):
    panel, design = _panel(cells)
    estimate = _compare_quantile(panel, design, p, Margin(margin)).estimate
    assert estimate is not None
    return estimate


def _failures(cells: Cells, margin: float = 0.001):
    panel, design = _panel(cells)
    return compare_failures(panel, design, alpha=ALPHA, margin=Margin(margin, relative=False), sd_instance=0.0005)


def _swapped(cells: Cells) -> Cells:
    tables = ("moments", "bins", "instance_bins", "loads", "failure_kinds")
    return replace(cells, **{t: replace(getattr(cells, t), arm=1 - getattr(cells, t).arm) for t in tables})


def _scaled(design: Scenario, seed: int, factor: int) -> Cells:
    requests = simulate(design, seed)
    return to_cells(replace(requests, response_us=requests.response_us * factor))


def _identical(seed: int) -> Cells:
    """Both arms hold the very same requests."""
    requests = simulate(SMALL, seed)
    base = requests.arm == 0
    columns = {
        f.name: np.concatenate([getattr(requests, f.name)[base]] * 2)
        for f in fields(requests)
        if isinstance(getattr(requests, f.name), np.ndarray)
    }
    columns["arm"] = np.repeat([0, 1], base.sum())
    return to_cells(replace(requests, **columns))


def test_identical_arms_differ_by_nothing():
    cells = _identical(3)
    for estimate in (_mean(cells), _quantile(cells), _failures(cells)):
        assert float(estimate.effect[0]) == pytest.approx(0.0, abs=1e-9)
        assert estimate.lower[0] <= 1e-12
        assert estimate.upper[0] >= -1e-12


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_swapping_the_arms_flips_the_sign(seed):
    cells = simulate_cells(replace(SMALL, changes=(Change(latency=0.05),)), seed)
    forwards, backwards = _mean(cells), _mean(_swapped(cells))
    assert np.log1p(forwards.effect[0]) == pytest.approx(-np.log1p(backwards.effect[0]), abs=1e-9)
    assert np.log1p(forwards.upper[0]) == pytest.approx(-np.log1p(backwards.lower[0]), rel=1e-6)
    forwards, backwards = _failures(cells), _failures(_swapped(cells))
    assert float(forwards.effect[0]) == pytest.approx(-float(backwards.effect[0]), abs=1e-12)
    assert float(forwards.upper[0]) == pytest.approx(-float(backwards.lower[0]), abs=1e-7)
    forwards, backwards = _quantile(cells), _quantile(_swapped(cells))
    assert np.log1p(forwards.effect[0]) == pytest.approx(-np.log1p(backwards.effect[0]), abs=1e-9)


@pytest.mark.parametrize("factor", [10, 1000])
def test_units_do_not_matter(factor):
    """Powers of ten shift bins by whole numbers, so nothing at all may change."""
    for compare in (_mean, _quantile):
        in_ms, scaled = compare(_scaled(SMALL, 5, 1)), compare(_scaled(SMALL, 5, factor))
        assert scaled.baseline[0] == pytest.approx(in_ms.baseline[0] * factor, rel=1e-4)
        for name in ("effect", "lower", "upper"):
            assert getattr(scaled, name)[0] == pytest.approx(getattr(in_ms, name)[0], abs=2e-4)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.15])
def test_a_quantile_is_within_exactly_if_its_interval_is(p, margin):
    for seed in range(4):
        estimate = _quantile(simulate_cells(SMALL, seed), p, margin)
        assert bool(estimate.against_margin.p_within[0] < ALPHA) == bool(estimate.upper[0] < margin)
        assert bool(estimate.against_margin.p_worse[0] < ALPHA) == bool(estimate.lower[0] > margin)


@pytest.mark.parametrize("margin", [0.01, 0.03, 0.1])
def test_a_mean_is_within_exactly_if_its_interval_is(margin):
    for seed in range(4):
        estimate = _mean(simulate_cells(SMALL, seed), margin)
        assert bool(estimate.against_margin.p_within[0] < ALPHA) == bool(estimate.upper[0] < margin)
        assert bool(estimate.against_margin.p_worse[0] < ALPHA) == bool(estimate.lower[0] > margin)


def test_quantiles_are_those_of_the_requests():
    """Within the width of a bin, on arms with equal mixes."""
    requests = simulate(replace(SMALL, endpoints=1, failure_rate=0.0), 8)
    estimate = _quantile(to_cells(requests), 0.9)
    times = np.where(requests.failed, np.inf, requests.response_us / 1000)
    exact = np.quantile(times[requests.arm == 0], 0.9)
    assert estimate.baseline[0] == pytest.approx(exact, rel=0.02)


def test_a_quantile_that_became_a_failure_is_infinitely_worse():
    cells = simulate_cells(replace(SMALL, changes=(Change(failures_added=0.1),)), 2)
    estimate = _quantile(cells, 0.95)
    assert np.isinf(estimate.upper[0])
    assert np.isinf(estimate.candidate[0])
    assert estimate.against_margin.p_worse[0] < 1e-4


def test_another_endpoint_mix_is_no_regression():
    """Simpson: the canary gets more of the slow endpoints, and its plain mean is much higher."""
    cells = simulate_cells(replace(SMALL, duration_s=1200.0, changes=(Change(mix=0.5),)), 4)
    moments = cells.moments
    plain = [
        moments.sum_time[moments.arm == a].sum() / (moments.n - moments.failures)[moments.arm == a].sum()
        for a in (0, 1)
    ]
    assert plain[1] / plain[0] > 1.08
    estimate = _mean(cells)
    assert estimate.lower[0] < 0 < estimate.upper[0]


def test_slow_instances_widen_the_interval_of_the_release():
    """The difference of instances of one version is no evidence about the version."""
    calm, wild = (_mean(simulate_cells(replace(SMALL, duration_s=900.0, instance_sd=sd), 6)) for sd in (0.0, 0.1))
    assert wild.upper[0] - wild.lower[0] > 3 * (calm.upper[0] - calm.lower[0])
    assert wild.persistent[0] > 0.8


def test_one_instance_on_each_arm_is_assumed_to_differ():
    panel, design = _panel(simulate_cells(replace(SMALL, instances=(1,), instance_sd=0.0), 6))
    assert design.kind == "single"
    estimate = compare_means(panel, design, alpha=ALPHA, margin=Margin(0.1), sd_instance=0.05)
    assert estimate.upper[0] - estimate.lower[0] > 2 * 1.9 * 0.05 * np.sqrt(2)


def test_replicates_replace_instances():
    cells = simulate_cells(replace(SMALL, duration_s=60.0, replicates=5, instances=(1,)), 3)
    design = _panel(cells)[1]
    assert (design.kind, design.replicate_counts) == ("replicates", (5, 5))
    for estimate in (_mean(cells), _quantile(cells), _failures(cells)):
        assert np.isfinite(estimate.against_margin.p_worse).all()
        assert estimate.lower[0] <= estimate.effect[0] <= estimate.upper[0]


ONE_A_SIDE = replace(SMALL, instances=(1,))


@pytest.mark.parametrize("depth", ["full", "answers", "suspects"])
@pytest.mark.parametrize(
    "design",
    [
        pytest.param(SMALL, id="instances"),
        pytest.param(ONE_A_SIDE, id="single"),
        pytest.param(replace(ONE_A_SIDE, duration_s=60.0, replicates=5), id="replicates"),
    ],
)
def test_quantiles_compared_together_give_the_same_as_alone(design, depth):
    slower = replace(design, failure_rate=0.004, changes=(Change(tail=3, tail_quantile=0.9),))
    questions = (
        QuantileQuestion(0.5, Margin(0.05)),
        QuantileQuestion(0.95, Margin(5.0, relative=False), limit=Limit(max=200.0, min=1.0)),
        QuantileQuestion(0.99, Margin(0.10), limit=Limit(max=100.0)),
        QuantileQuestion(0.999, Margin(0.10)),
        *(QuantileQuestion(share) for share in np.arange(0.1, 0.9, 0.1)),
    )
    assert len(questions) > MOST_TOGETHER
    options = {"alpha": ALPHA, "sd_instance": 0.05, "depth": depth}
    together = compare_quantiles(*_panel(simulate_cells(slower, 5)), questions, **options)
    panel, design = _panel(simulate_cells(slower, 5))
    for question, estimate in zip(questions, together, strict=True):
        alone = compare_quantiles(panel, design, (question,), **options)[0]
        assert estimate.problem == alone.problem
        if alone.estimate:
            _assert_same(estimate.estimate, alone.estimate)
    assert [estimate.problem for estimate in together] == [None, None, None, "failing"] + [None] * 8


def _assert_same(estimate, known) -> None:
    """Each number but for its last bits, or their root: sums of matrices depend on how many there are."""
    for field in fields(known):
        value, expected_value = getattr(estimate, field.name), getattr(known, field.name)
        if is_dataclass(expected_value):
            _assert_same(value, expected_value)
        elif isinstance(expected_value, tuple):
            assert len(value) == len(expected_value)
            for answer, expected in zip(value, expected_value, strict=True):
                _assert_same(answer, expected)
        elif expected_value is None:
            assert value is None
        else:
            np.testing.assert_allclose(value, expected_value, rtol=1e-9, atol=1e-7, err_msg=field.name)


def test_integer_milliseconds_cost_no_bias():
    fine = simulate(replace(SMALL, median_ms=(4.0, 25.0)), 9)
    coarse = to_cells(replace(fine, response_us=np.round(fine.response_us / 1000).astype(np.int64) * 1000))
    assert coarse.grid == 1000
    of_fine, of_coarse = _quantile(to_cells(fine), 0.5), _quantile(coarse, 0.5)
    assert of_coarse.baseline[0] == pytest.approx(of_fine.baseline[0], rel=0.02)
    assert of_coarse.effect[0] == pytest.approx(of_fine.effect[0], abs=0.015)


def test_a_grid_too_coarse_for_the_margin_is_refused():
    cells = simulate_cells(replace(SMALL, median_ms=(2.0, 2.0), sigma=0.1, tail_share=0.0, grid_us=2000), 9)
    panel, design = _panel(cells)
    estimate = _compare_quantile(panel, design, 0.5, Margin(0.05))
    assert estimate.estimate.coarse.tolist() == [True]
    assert (estimate.estimate.against_margin.p_worse, estimate.estimate.against_margin.p_within) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "compare", "truth"),
    [
        pytest.param(Change(latency=0.10), _mean, 0.10, id="mean"),
        pytest.param(Change(latency=0.10), _quantile, 0.10, id="p95"),
        pytest.param(Change(failures_added=0.03), _failures, 0.03, id="failures"),
    ],
)
def test_known_changes_are_covered(change, compare, truth):
    """Nominal 90 %: of 30 releases at least 22 cover (probability below 1 % if coverage is right)."""
    covered = 0
    for seed in range(30):
        estimate = compare(simulate_cells(replace(SMALL, changes=(change,)), 100 + seed))
        covered += bool(estimate.lower[0] <= truth <= estimate.upper[0])
    assert covered >= 22


def test_the_order_of_the_rows_does_not_matter():
    cells = simulate_cells(SMALL, seed=4)
    rng = np.random.default_rng(1)
    shuffled = {}
    for table in ("moments", "bins", "instance_bins"):
        rows = getattr(cells, table)
        order = rng.permutation(rows.run.size)
        shuffled[table] = replace(rows, **{f.name: getattr(rows, f.name)[order] for f in fields(rows)})
    in_order, shuffled_rows = (_quantile(part) for part in (cells, replace(cells, **shuffled)))
    for name in ("effect", "lower", "upper", "se"):
        assert getattr(shuffled_rows, name) == pytest.approx(getattr(in_order, name), rel=1e-9), name


def test_a_quantile_is_never_more_certain_than_with_independent_requests():
    """The same ten times in every bucket of every instance: nothing varies over time, and still chance remains."""
    requests = simulate(replace(SMALL, duration_s=200.0, endpoints=1), 1)
    buckets, instances, each = 40, 2, 10
    bucket, instance, time = (part.ravel() for part in np.indices((buckets, instances, each)))
    start = int(requests.ts_us.min()) // 5_000_000 * 5_000_000
    alike = {
        "ts_us": np.tile(start + bucket * 5_000_000 + (instance * each + time) * 100_000, 2),
        "arm": np.repeat([0, 1], bucket.size),
        "instance": np.concatenate([instance, SMALL.instances[0] + instance]),
        "response_us": np.concatenate([(time + 1) * 10_010 + 37 * time**2, (time + 1) * 11_011 + 41 * time**2]),
        "failed": np.zeros(2 * bucket.size, dtype=bool),
    }
    columns = {
        f.name: alike.get(f.name, getattr(requests, f.name)[: 2 * bucket.size])
        for f in fields(requests)
        if isinstance(getattr(requests, f.name), np.ndarray)
    }
    panel, design = _panel(to_cells(replace(requests, **columns), bucket_s=5))
    assert (design.kind, design.instances) == ("instances", (instances, instances))
    estimate = _compare_quantile(panel, design, 0.5, None).estimate
    binomial = np.sqrt(2 * 0.25 / bucket.size)
    step = 0.1  # of the share of requests, for a tenth of the time
    assert 1e-12 < estimate.against_zero.p_worse[0] < 0.05
    assert estimate.upper[0] - estimate.effect[0] > binomial * step / 2
