"""Failures by place: they add up, and what is not recorded is counted as that."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from evaluator.simulate import Bursts, Scenario, simulate, to_cells
from evaluator.simulate.faults import SimulatedFault, add_fault
from evaluator.stats.shaping.failures import MOST_KINDS, MOST_PLACES, list_failures
from evaluator.stats.shaping.narrow import narrow
from evaluator.stats.variance.replication import merge_unreplicated

SCENARIO = Scenario(duration_s=300.0, failure_rate=0.02, shared_failures=Bursts(0.0, 30.0, 0.0, 0.0))
FAULT = SimulatedFault("failures", 0.5, 0.0, {"GET /endpoint/002"}, {"canary-3"})
CELLS = to_cells(add_fault(simulate(SCENARIO, 1), FAULT, 1))


def test_the_failures_of_each_sort_of_places_add_up():
    counts = list_failures(CELLS)
    for arm, name in enumerate(CELLS.arms):
        own = [count for count in counts if count.arm == name]
        failures = int(CELLS.moments.failures[CELLS.moments.arm == arm].sum())
        for by_endpoint, by_instance in ((False, False), (True, False), (False, True), (True, True)):
            chosen = [
                count
                for count in own
                if (count.endpoint is not None) == by_endpoint and (count.instance is not None) == by_instance
            ]
            assert sum(count.failures for count in chosen) == failures
            for count in chosen:
                assert sum(kind.n for kind in count.kinds) + count.other_kinds == count.failures <= count.requests
                assert len(count.kinds) <= MOST_KINDS
                assert count.not_recorded == 0


def test_the_place_with_the_fault_comes_first_with_its_kind():
    [pair, *_] = [
        count for count in list_failures(CELLS) if count.arm == "canary" and count.endpoint and count.instance
    ]
    assert (pair.endpoint, pair.instance) == ("GET /endpoint/002", "canary-3")
    assert (pair.kinds[0].status, pair.kinds[0].exception) == (503, "HTTP 503")


def test_kinds_of_a_part_of_the_time_are_not_recorded():
    start_s = float(CELLS.moments.bucket.min() * CELLS.bucket_s)
    part = narrow(CELLS, start=datetime.fromtimestamp(start_s + 60, UTC))
    counts = list_failures(part)
    assert sum(count.failures for count in counts) > 0
    assert all(count.not_recorded == count.failures and not count.kinds for count in counts)


def test_at_most_so_many_places_are_listed():
    scenario = Scenario(duration_s=300.0, endpoints=200, failure_rate=0.2)
    counts = list_failures(to_cells(simulate(scenario, 1)))
    of_pairs = [count for count in counts if count.arm == "canary" and count.endpoint and count.instance]
    assert len(of_pairs) == MOST_PLACES
    assert of_pairs == sorted(of_pairs, key=lambda count: -count.failures)


def test_merged_instances_keep_their_kinds():
    counts = np.where(CELLS.moments.arm == 1, 10**6 * (CELLS.moments.instance == CELLS.moments.instance.max()) + 1, 1)
    lopsided = replace(CELLS, moments=replace(CELLS.moments, n=CELLS.moments.n * counts))
    merged, names = merge_unreplicated(lopsided)
    assert set(names) == {"canary"}
    [whole] = [
        count
        for count in list_failures(merged)
        if count.arm == "canary" and count.instance == "canary" and not count.endpoint
    ]
    assert whole.not_recorded == 0
    assert whole.failures == int(CELLS.moments.failures[CELLS.moments.arm == 1].sum())
