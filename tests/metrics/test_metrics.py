"""Metrics that have a sum of their own in the cells."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judging import RULEBOOK, SMALL, evidence, judge

import evaluator
from evaluator.errors import UnknownName
from evaluator.metrics import METRICS, SCAN_METRICS, restore_metric
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.response_size import ResponseSize
from evaluator.metrics.throughput import Throughput
from evaluator.records import Direction, Margin, MetricStatus, Role, Rule, Slice
from evaluator.simulate import Change, simulate, simulate_cells, to_cells


def _ask(cells, rule):
    return next(c for c in judge(cells, replace(RULEBOOK, rules=(rule,))).comparisons if c.rule.name == rule.name)


def test_every_type_is_listed_in_the_table_and_a_policy_imports_none_of_them():
    for name, kind in METRICS.items():
        assert (kind.type, kind.model_config["frozen"]) == (name, True)
    code = (
        "import sys, evaluator.policy; print(*(name for name in sys.modules if name.startswith('evaluator.metrics')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["evaluator.metrics"]


NAMED = {"policy/built_in.py", "sources/prometheus/sets.py", "simulate/scenarios.py"}
"""The policy's own content, and an option of simulated releases that is called as a metric."""


def test_no_type_is_named_outside_of_the_metrics():
    """A type itself declares all facts about it, so a new type works everywhere."""
    package = Path(evaluator.__file__).parent
    named = {
        f"{path.relative_to(package)}:{node.lineno} {node.value}"
        for path in package.rglob("*.py")
        if str(path.relative_to(package)) not in NAMED and path.parent.name != "metrics"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in (*METRICS, *SCAN_METRICS)
    }
    assert not named


def test_an_unknown_type_is_an_error():
    with pytest.raises(UnknownName, match="did you mean 'latency_mean'"):
        restore_metric({"name": "slow", "type": "latency_meen"}, ())


def test_comparisons_come_in_the_order_of_the_rules():
    cells = simulate_cells(SMALL, 3)
    rules = (
        Rule("p99", LatencyQuantile(quantile=0.99)),
        Rule("mean", LatencyMean()),
        Rule("p50 of one", LatencyQuantile(quantile=0.5), slice=Slice(cells.endpoints[1])),
        Rule("p50", LatencyQuantile(quantile=0.5)),
    )
    comparisons = [c for c in judge(cells, replace(RULEBOOK, rules=rules)).comparisons if not c.scan]
    assert [c.rule for c in comparisons] == [*rules]
    alone = [_ask(cells, rule) for rule in rules]
    assert [c.effect.estimate for c in comparisons] == pytest.approx([c.effect.estimate for c in alone])


def test_smaller_responses_are_detected():
    rule = Rule("size", ResponseSize(), Role.GATE, Margin(0.05))
    grown = _ask(simulate_cells(replace(SMALL, changes=(Change(bytes=0.3),)), 3), rule)
    assert grown.status is MetricStatus.FAIL
    assert grown.effect.estimate == pytest.approx(0.3, abs=0.05)
    assert _ask(simulate_cells(SMALL, 3), rule).status is not MetricStatus.FAIL


def test_response_size_without_sizes_is_no_data():
    requests = simulate(SMALL, 3)
    silent = to_cells(replace(requests, response_bytes=np.zeros_like(requests.response_bytes)))
    assert "not recorded" in _ask(silent, Rule("size", ResponseSize(), Role.GATE, Margin(0.05))).no_data


def test_throughput_is_compared_per_user_if_users_are_recorded():
    """The canary has a third of the users and a third of the requests: nothing is worse."""
    rule = Rule("throughput", Throughput(), Role.WATCH, Margin(0.05), Direction.HIGHER)
    design = replace(SMALL, users=60, wait_s=2.0, split=(0.25,))
    answer = _ask(simulate_cells(design, 2), rule)
    assert answer.candidate.value < answer.baseline.value / 2
    assert answer.effect.estimate == pytest.approx(0.0, abs=0.05)


def test_users_of_the_warm_up_do_not_count_for_throughput():
    """The arms reach their users at different moments of the first bucket: afterwards they do not differ."""
    cells = simulate_cells(replace(SMALL, users=60, wait_s=2.0), 2)
    rule = Rule("throughput", Throughput(), Role.WATCH, Margin(0.05), Direction.HIGHER)
    start = cells.loads.bucket == cells.loads.bucket.min()
    users = np.where(start & (cells.loads.arm == 0), 1, cells.loads.users)
    level = np.where(start & (cells.loads.arm == 1), 10, users)
    skewed = replace(cells, loads=replace(cells.loads, users=level))
    assert _ask(skewed, rule).effect.estimate == pytest.approx(_ask(cells, rule).effect.estimate, abs=0.01)


def test_the_scan_names_what_it_cannot_judge():
    """Two hundred endpoints and few requests: rare ones are judged together, and those still too rare are named."""
    cells = simulate_cells(replace(SMALL, endpoints=200, duration_s=120.0, rate_per_s=20.0), 3)
    measured = evidence(cells)
    names = [c.rule.slice.endpoint for c in measured.comparisons if c.scan and c.unit == "ms"]
    assert "other endpoints" in names
    assert 1 < len(names) < 50
    assert measured.unjudged_share < 0.05


@pytest.mark.parametrize(("share", "times", "asked"), [(0.04, 60, "latency_mean"), (1.0, 2, "latency_typical")])
def test_the_scan_finds_an_endpoint_that_sometimes_hangs_and_one_that_became_slow(share, times, asked):
    """A few requests that hang hardly move the geometric mean; the mean of an endpoint where all became slower does."""
    requests = simulate(replace(SMALL, rate_per_s=20.0), 7)
    hit = (requests.arm == 1) & (requests.endpoint == 1) & (np.random.default_rng(1).random(len(requests)) < share)
    slower = replace(requests, response_us=np.where(hit, requests.response_us * times, requests.response_us))
    judgement = judge(to_cells(slower), replace(RULEBOOK, rules=RULEBOOK.rules[:1]))
    rows = {c.rule.slice.endpoint: c for c in judgement.comparisons if c.scan and c.unit == "ms"}
    assert {name for name, row in rows.items() if row.status is MetricStatus.FAIL} == {requests.endpoints[1]}
    assert rows[requests.endpoints[1]].rule.type == asked
