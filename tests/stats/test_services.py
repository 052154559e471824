"""Several services compared together: what one alone cannot show, and what they share in time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from judging import SMALL

from evaluator.records import InstanceSpread, Margin
from evaluator.simulate import Change, simulate_cells
from evaluator.stats.estimators.services import ServicePanel, compare_services, explain_missing
from evaluator.stats.estimators.typical import compare_typical_times
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import choose_design

ALPHA, SD = 0.05, 0.05


def simulate_service(seed: int, change: float = 0.0, **options) -> ServicePanel:
    design = replace(SMALL, changes=(Change(latency=change),), **options)
    panel = build_panel(simulate_cells(design, seed), "canary")
    return ServicePanel(panel, choose_design(panel), SD)


def simulate_services(count: int, change: float = 0.0, **options) -> dict[str, ServicePanel]:
    return {f"s{n}": simulate_service(100 + n, change, **options) for n in range(count)}


def add_shared_shock(part: ServicePanel, shock) -> ServicePanel:
    """Add to the logarithm of the candidate's times, in each bucket by as much as `shock` (buckets,) says."""
    panel = part.panel
    by_slot = shock[panel.offset - panel.offset[0]]
    totals = {name: values.copy() for name, values in panel.totals.items()}
    totals["log_time_ms"][1] += by_slot * panel.ok[1]
    return replace(part, panel=replace(panel, totals=totals))


@pytest.mark.parametrize("instances", [(4, 4), (1, 4), (1, 1)])
def test_one_service_alone_is_answered_as_by_its_own_comparison(instances):
    part = simulate_service(3, 0.05, instances=instances)
    joint = compare_services({"cart": part}, alpha=ALPHA, margin=0.01)
    panel = part.panel
    alone = compare_typical_times(
        panel, part.design, alpha=ALPHA, margin=Margin(0.01), sd_instance=SD, groups=all_together(len(panel.endpoints))
    )
    assert joint.effect == pytest.approx(alone.effect[0])
    assert (joint.lower, joint.upper) == pytest.approx((alone.lower[0], alone.upper[0]))
    assert joint.p_worse == pytest.approx(alone.against_margin.p_worse[0], rel=1e-6)
    assert joint.p_within == pytest.approx(alone.against_margin.p_within[0], rel=1e-6)


def test_ten_services_show_what_each_alone_does_not():
    services = simulate_services(10, 0.03, duration_s=900.0, instances=(4, 4))
    alone = [compare_services({name: part}, alpha=ALPHA, margin=0.01) for name, part in services.items()]
    joint = compare_services(services, alpha=ALPHA, margin=0.01)
    assert joint.p_worse < ALPHA
    assert sum(change.p_worse < ALPHA / 10 for change in alone) <= 2
    assert joint.se < 0.5 * min(change.se for change in alone)
    mean_log = np.mean([math.log1p(change.effect) for change in alone])
    assert math.log1p(joint.effect) == pytest.approx(mean_log)
    assert list(joint.by_service.values()) == pytest.approx([change.effect for change in alone])


def test_many_services_are_no_more_certain_of_their_variance_than_one():
    services = simulate_services(10, instances=(4, 4))
    joint, *alone = (
        compare_services(parts, alpha=ALPHA, margin=0.01)
        for parts in (services, *({name: part} for name, part in services.items()))
    )

    def find_quantile(change) -> float:
        return (math.log1p(change.upper) - math.log1p(change.lower)) / 2 / change.se

    assert find_quantile(joint) >= min(map(find_quantile, alone)) - 1e-9


def test_neither_names_nor_order_nor_volume_decide():
    services = simulate_services(3)
    joint = compare_services(services, alpha=ALPHA, margin=0.01)
    turned = dict(reversed(services.items()))
    assert compare_services(turned, alpha=ALPHA, margin=0.01).p_worse == pytest.approx(joint.p_worse)
    busy = simulate_service(9, 0.5, rate_per_s=4 * SMALL.rate_per_s)
    mixed = compare_services({**services, "busy": busy}, alpha=ALPHA, margin=0.01)
    assert math.log1p(mixed.effect) == pytest.approx(
        (3 * math.log1p(joint.effect) + math.log1p(mixed.by_service["busy"])) / 4
    )


def test_what_moves_all_services_at_the_same_time_is_not_averaged_away():
    services = simulate_services(8)
    shock = np.random.default_rng(5).normal(0, 0.2, 10_000)
    together = {name: add_shared_shock(part, shock) for name, part in services.items()}
    apart = {
        name: add_shared_shock(part, np.random.default_rng(50 + n).normal(0, 0.2, 10_000))
        for n, (name, part) in enumerate(services.items())
    }
    calm, same, different = (compare_services(parts, alpha=ALPHA, margin=0.01) for parts in (services, together, apart))
    slots = next(iter(services.values())).panel.slots
    assert same.se**2 - calm.se**2 > 0.4 * 0.2**2 / slots  # nearly all of the shock's own variance
    assert different.se**2 - calm.se**2 < 0.5 * (same.se**2 - calm.se**2)


def test_services_with_other_buckets_are_added_up_to_the_coarsest():
    fine, coarse = simulate_service(3, 0.02, bucket_s=5), simulate_service(4, 0.02, bucket_s=15)
    joint = compare_services({"fine": fine, "coarse": coarse}, alpha=ALPHA, margin=0.01)
    alone = [compare_services({"one": part}, alpha=ALPHA, margin=0.01) for part in (fine, coarse)]
    assert joint.se == pytest.approx(math.hypot(*(change.se for change in alone)) / 2, rel=0.4)


def test_an_assumed_spread_of_single_instances_is_not_made_certain_by_many_services():
    services = simulate_services(10, instances=(1, 1), rate_per_s=100.0)
    joint = compare_services(services, alpha=ALPHA, margin=0.01)
    assert joint.upper - joint.lower > 2 * 1.8 * joint.se  # a t quantile of few degrees of freedom, not 1.64


def test_what_earlier_runs_showed_of_whole_arms_may_be_shared_and_is_not_averaged_away():
    spread = InstanceSpread(sd=0.0, comparisons=0, between_arms=0.05, between_arms_comparisons=20)
    services = simulate_services(6)
    known = {name: replace(part, design=replace(part.design, latency=spread)) for name, part in services.items()}
    joint = compare_services(known, alpha=ALPHA, margin=0.01)
    assert joint.se > 0.05


def test_times_recorded_in_coarse_steps_decide_nothing():
    services = simulate_services(4, 0.5, grid_us=200_000)
    joint = compare_services(services, alpha=ALPHA, margin=0.0001)
    assert (joint.p_worse, joint.p_within) == (1.0, 1.0)


def test_what_cannot_be_compared_says_why():
    assert "no requests" in explain_missing("cart", None)
    part = simulate_service(3)
    assert explain_missing("cart", part) is None
    assert "several runs" in explain_missing("cart", replace(part, design=replace(part.design, kind="replicates")))
    short = replace(part, panel=replace(part.panel, run=part.panel.run[:5]))
    assert "s of usable data" in explain_missing("cart", short)
    failing = replace(part.panel, failures=np.stack([part.panel.failures[0], part.panel.n[1]]))
    assert "no successes" in explain_missing("cart", replace(part, panel=failing))
