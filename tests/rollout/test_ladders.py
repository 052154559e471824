"""Whole rollouts of simulated releases; docs/accuracy.md has hundreds of them (`benchmarks/ladders.py`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ladders import Thresholds, follow_ladder, follow_thresholds, make_ladder, simulate_ladder

from evaluator.simulate import SCENARIOS, Change

STEADY = replace(SCENARIOS["AA"], rate_per_s=20.0)


@pytest.mark.parametrize(
    ("change", "outcome", "stages"),
    [
        (Change(), "promoted", ("full",)),
        (Change(latency=0.3), "rolled back", ("25 %", "50 %")),
        (Change(failures_added=0.1), "rolled back", ("5 %",)),
    ],
)
def test_a_rollout_ends_where_its_evidence_says(change, outcome, stages):
    policy, plan = make_ladder()
    release = simulate_ladder(plan, change, 7, STEADY)
    ladder = follow_ladder(policy, plan, release)
    assert (ladder.outcome, ladder.stage in stages) == (outcome, True), ladder
    if outcome == "rolled back":
        # Fixed thresholds let users meet at least as many requests of the bad release.
        assert ladder.exposed <= follow_thresholds(plan, release, Thresholds()).exposed
