"""Curves are the verdict looked at again: they end where it ends, add up to what landed, and stay small."""

import json
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import RULEBOOK, simulate_readings
from reporting import HOUR, SHORT, SLOWER, runs_of, without_requests

from evaluator.assess import ReleaseData, assess_release
from evaluator.assess import requests as pairing
from evaluator.figure_data import MOST_POINTS, trace_release
from evaluator.judges import judge_evidence
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean
from evaluator.metrics.reading_histogram import HistogramMean
from evaluator.records import (
    PARTS,
    Margin,
    MetricStatus,
    Query,
    QueryKind,
    ReadingCells,
    Rule,
    Rulebook,
    Scan,
)
from evaluator.simulate import SCENARIOS, Change, simulate, simulate_cells, to_cells
from evaluator.simulate.faults import SimulatedFault, add_fault
from evaluator.simulate.readings import DURATION


def trace(cells, rulebook=RULEBOOK, readings=None):
    runs = runs_of(cells)
    assessment = assess_release(ReleaseData(runs, cells), rulebook)
    comparisons = judge_evidence(assessment.evidence, rulebook, "cart@2").comparisons
    return comparisons, trace_release(assessment.requests, rulebook, comparisons, readings)


@pytest.fixture(scope="module")
def hour():
    cells = simulate_cells(HOUR, seed=1)
    return cells, *trace(cells)


def lines(value):
    """All lists of numbers in a mapping."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from lines(inner)
    elif isinstance(value, list):
        if value and not isinstance(value[0], dict | list):
            yield value
        for inner in value:
            yield from lines(inner)


def test_an_hour_of_twenty_endpoints_stays_small(hour):
    _, _, traced = hour
    assert len(json.dumps(traced, allow_nan=False)) < 100_000
    assert max(len(line) for line in lines(traced)) <= MOST_POINTS


def test_every_gate_is_drawn_and_ends_at_the_verdicts_own_interval(hour):
    _, comparisons, traced = hour
    rows = {(row.rule.name, row.rule.slice.endpoint): row for row in comparisons}
    failing = {row.rule.slice.endpoint for row in comparisons if row.scan and row.status is MetricStatus.FAIL}
    assert failing
    assert [(curve["name"], curve["endpoint"]) for curve in traced["metrics"]] == [
        ("failure_rate", None),
        ("latency_p50", None),
        ("latency_p95", None),
        ("latency_p99", None),
        *(("latency_typical", endpoint) for endpoint in failing),
    ]
    for curve in traced["metrics"]:
        effect = rows[curve["name"], curve["endpoint"]].effect
        last = [curve["over_time"][key][-1] for key in ("estimate", "lower", "upper")]
        assert last == pytest.approx([effect.estimate, effect.lower, effect.upper], rel=1e-4)


def test_each_window_is_compared_by_itself():
    """A cumulative estimate hides when it began: half of the run dilutes it."""
    slower = SimulatedFault("response_time", 2.0, onset_s=150.0)
    cells = to_cells(add_fault(simulate(SHORT, 3), slower, 1), bucket_s=1)
    _, traced = trace(cells)
    median = next(curve for curve in traced["metrics"] if curve["name"] == "latency_p50")
    windows = median["windows"]
    assert windows["begin"][1:] == windows["end"][:-1]
    assert windows["end"][-1] == median["over_time"]["seconds"][-1]
    first_s = min(begin for begin, change in zip(windows["begin"], windows["estimate"], strict=True) if change > 0.5)
    assert abs(first_s - 150) <= windows["end"][0]
    changes = [change for begin, change in zip(windows["begin"], windows["estimate"], strict=True) if begin >= 180]
    assert changes == pytest.approx([1.0] * len(changes), abs=0.25)
    assert median["over_time"]["estimate"][-1] < 0.8
    failing = simulate(SHORT, 3)
    fault = SimulatedFault("failures", 0.2, onset_s=150.0)
    _, traced = trace(to_cells(add_fault(failing, fault, 1), bucket_s=1))
    p95 = next(curve for curve in traced["metrics"] if curve["name"] == "latency_p95")
    assert p95["windows"]["estimate"][0] is not None
    assert p95["windows"]["estimate"][-1] is None  # a failure, which is not left out
    assert len(p95["windows"]["estimate"]) == len(windows["estimate"])


def test_a_run_that_is_too_short_and_several_runs_have_no_windows():
    for scenario in (replace(SHORT, duration_s=30.0), replace(SHORT, replicates=3)):
        _, traced = trace(simulate_cells(scenario, 3))
        assert all(curve["windows"] is None for curve in traced["metrics"])


@pytest.mark.parametrize(("latency", "seed"), [(0.15, 2), (0.16, 1), (0.17, 3)])
def test_the_band_is_the_dual_of_the_decision(latency, seed):
    """One gate alone: it is decided at the first look whose band lies beyond the margin."""
    rule = Rule("latency_mean", LatencyMean(), margin=Margin(0.1))
    rulebook = Rulebook((rule,), scan=Scan(enabled=False))
    cells = simulate_cells(replace(HOUR, endpoints=5, changes=(Change(latency=latency),)), seed=seed)
    (row,), traced = trace(cells, rulebook)
    curve = traced["metrics"][0]["over_time"]
    assert curve["kind"] == "group_sequential"
    assert curve["decided_at_s"] == row.decided_at_s
    at = curve["seconds"].index(row.decided_at_s)
    assert 0 < at < len(curve["seconds"]) - 1
    assert curve["lower"][at] > 0.1
    assert all(lower <= 0.1 for lower in curve["lower"][:at])


def test_a_run_judged_once_says_so():
    cells = simulate_cells(replace(SHORT, duration_s=120.0), seed=1)
    _, traced = trace(cells)
    assert {curve["over_time"]["kind"] for curve in traced["metrics"]} == {"fixed"}
    assert {curve["over_time"]["decided_at_s"] for curve in traced["metrics"]} == {None}


def test_the_shift_shows_the_change_and_agrees_with_the_gates():
    cells = simulate_cells(SLOWER, seed=2)
    comparisons, traced = trace(cells)
    (curve,) = traced["quantiles"]
    p95 = next(row for row in comparisons if row.rule.name == "latency_p95" and not row.scan)
    assert curve["estimate"][curve["percent"].index(95)] == pytest.approx(p95.effect.estimate, rel=1e-4)
    middle = [k for k, percent in enumerate(curve["percent"]) if 10 <= percent <= 90]
    assert [curve["estimate"][k] for k in middle] == pytest.approx([0.5] * len(middle), abs=0.15)
    assert all(low < mid for low, mid in zip(curve["lower"], curve["estimate"], strict=True))
    assert all(high is None or mid < high for mid, high in zip(curve["estimate"], curve["upper"], strict=True))


def test_distributions_rise_to_the_share_of_successes(hour):
    cells, _, traced = hour
    (curve,) = traced["distributions"]
    for arm, key in ((0, "baseline"), (1, "candidate")):
        assert np.all(np.diff(curve[key]) >= 0)
        in_arm = cells.moments.arm == arm
        succeeded = 1 - cells.moments.failures[in_arm].sum() / cells.moments.n[in_arm].sum()
        assert curve[key][-1] == pytest.approx(succeeded, abs=2e-3)


def test_units_are_the_instances_with_their_own_values():
    requests = simulate(SHORT, seed=5)
    cells = to_cells(requests)
    _, traced = trace(cells)
    by_name = {curve["name"]: curve["units"] for curve in traced["metrics"]}
    units = by_name["latency_p95"]["units"]
    assert by_name["latency_p95"]["of"] == "instance"
    assert [unit["name"] for unit in units] == sorted(cells.instances, key=lambda name: ("canary" in name, name))
    of_instance = (cells.moments.arm == 0) & (cells.moments.instance == cells.instances.index(units[0]["name"]))
    assert units[0]["n"] == cells.moments.n[of_instance].sum()
    own = by_name["failure_rate"]["units"]
    failures = sum(unit["value"] * unit["n"] for unit in own)
    assert failures == pytest.approx(cells.moments.failures.sum(), rel=1e-3)
    assert {unit["arm"] for unit in own} == {"baseline", "canary"}
    spread = [unit["value"] for unit in units if unit["arm"] == "baseline"]
    (curve,) = traced["quantiles"]
    assert min(spread) < curve["baseline_ms"][curve["percent"].index(95)] * 1.05
    assert max(spread) > curve["baseline_ms"][curve["percent"].index(95)] * 0.95


@pytest.mark.parametrize("scenario", [SHORT, SCENARIOS["AA_replicates"]])
def test_units_know_how_many_of_their_requests_are_done_by_a_time(monkeypatch, scenario):
    """Its quantile is the time by which so many of them are done."""
    cells = simulate_cells(scenario, seed=5)
    monkeypatch.setattr(FailureRate, "of_units", lambda _, units: units.done(units.quantiles(0.5)[0]) / units.n)
    _, traced = trace(cells)
    units = next(curve["units"]["units"] for curve in traced["metrics"] if curve["name"] == "failure_rate")
    assert any(unit["value"] == pytest.approx(0.5, rel=1e-6) for unit in units)
    assert all(0.2 < unit["value"] < 0.8 for unit in units)


def test_replicates_are_units_and_stand_one_after_the_other():
    cells = simulate_cells(SCENARIOS["AA_replicates"], seed=1)
    _, traced = trace(cells)
    assert all(curve["over_time"] is None and curve["units"]["of"] == "run" for curve in traced["metrics"])
    assert len(traced["metrics"][0]["units"]["units"]) == 10
    timeline = traced["timeline"]
    assert [event["what"] for event in timeline["events"]] == [f"run {k}" for k in range(1, 6)]
    assert timeline["events"][-1]["at"] < timeline["seconds"][-1]


def test_the_timeline_adds_up_to_what_landed(hour):
    cells, _, traced = hour
    timeline = traced["timeline"]
    for code, arm in enumerate(timeline["arms"]):
        landed = cells.moments.n[cells.moments.arm == code].sum()
        assert sum(arm["per_s"]) * timeline["slot_s"] == pytest.approx(landed, rel=0.01)
        assert max(arm["users"]) == 30
    assert timeline["shaded"][0]["what"] == "warm-up"
    assert timeline["shaded"][0]["end"] >= 110


def test_a_silent_arm_is_shaded():
    cells = simulate_cells(replace(HOUR, missing_minutes=3), seed=1)
    _, traced = trace(cells)
    assert any(curve["what"].startswith("no requests on ") for curve in traced["timeline"]["shaded"])


def test_the_moment_of_decision_is_an_event():
    cells = simulate_cells(SLOWER, seed=1)
    comparisons, traced = trace(cells)
    decided = min(row.decided_at_s for row in comparisons if row.decided_at_s is not None and not row.scan)
    assert {"at": decided, "what": "shown to be worse"} in traced["timeline"]["events"]


def test_nothing_landed_is_nothing_drawn():
    _, traced = trace(without_requests(simulate_cells(SHORT, seed=1)))
    assert traced["metrics"] == traced["quantiles"] == traced["distributions"] == traced["readings"] == []
    assert traced["timeline"] is None


def test_the_same_data_give_the_same_curves(hour):
    cells, _, traced = hour
    assert trace(cells)[1] == traced


# ------------------------------------------------------------------ readings


def readings_of(cells, kind):
    """Two arms, one reading a bucket: the canary has twice the baseline's; a histogram has both of its counters."""
    buckets = np.unique(cells.moments.bucket)
    parts = ["sum", "count"] if kind is QueryKind.HISTOGRAM else ["value"]
    rows = [(arm, bucket, part) for arm in (0, 1) for bucket in buckets for part in parts]
    arm, bucket = (np.array([row[k] for row in rows]) for k in (0, 1))
    part = np.array([PARTS.index(row[2]) for row in rows])
    zeros = np.zeros(len(rows), dtype=np.int64)
    count = part == PARTS.index("count")
    return ReadingCells(
        queries=(Query("cpu{$selector}", kind),),
        arms=("baseline", "canary"),
        instances=("a",),
        endpoints=("",),
        bucket_s=cells.bucket_s,
        query=zeros,
        arm=arm,
        instance=zeros,
        endpoint=zeros,
        bucket=bucket,
        part=part,
        le=np.full(len(rows), np.nan),
        n=zeros + 4,
        seconds=np.full(len(rows), float(cells.bucket_s)),
        total=np.where(count, 10.0, 60.0 * (arm + 1)),
        peak=np.full(len(rows), np.nan),
    )


@pytest.mark.parametrize(
    ("kind", "value", "shows"),
    [(QueryKind.GAUGE, 15.0, "mean"), (QueryKind.COUNTER, 12.0, "per_s"), (QueryKind.HISTOGRAM, 6.0, "mean")],
)
def test_readings_stand_on_the_axis_of_the_load(kind, value, shows):
    cells = simulate_cells(SHORT, seed=1)
    assert cells.bucket_s == 5
    _, traced = trace(cells, readings=readings_of(cells, kind))
    (reading,) = traced["readings"]
    assert reading["shows"] == shows
    baseline, canary = reading["arms"]
    assert set(baseline["values"]) == {value}
    assert set(canary["values"]) == {2 * value}
    assert baseline["seconds"][0] == 0
    assert baseline["seconds"][-1] <= traced["timeline"]["seconds"][-1]


def test_readings_without_load_have_an_axis_of_their_own():
    cells = simulate_cells(SHORT, seed=1)
    readings = readings_of(cells, QueryKind.GAUGE)
    _, traced = trace(without_requests(cells), readings=readings)
    assert traced["readings"][0]["arms"][0]["seconds"][:2] == [0, 5]
    assert datetime.fromtimestamp(int(readings.bucket[0]) * 5, UTC).year > 1970


def test_data_are_paired_once_for_verdict_readings_and_figures(monkeypatch):
    """What the judge prepared is what the looks, the readings and the figures use."""
    calls = Counter()
    for name in ("find_warm_up", "build_panel", "settle_in_flight"):
        real = getattr(pairing, name)

        def count(*arguments, real=real, name=name, **named):
            calls[name] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(pairing, name, count)
    requests = simulate(replace(SCENARIOS["AA"], duration_s=900.0, rate_per_s=20.0), 1)
    cells, readings = to_cells(requests), simulate_readings(requests)
    mean = Rule("server_mean", HistogramMean(query=DURATION.text), margin=Margin(0.2))
    rulebook = replace(RULEBOOK, rules=(*RULEBOOK.rules, mean))
    assessment = assess_release(ReleaseData(runs_of(cells), cells, readings=readings), rulebook)
    traced = trace_release(assessment.requests, rulebook, assessment.evidence.comparisons, readings)
    assert any(comparison.looks for comparison in assessment.evidence.comparisons)
    assert traced["metrics"]
    assert traced["readings"]
    assert calls == {"find_warm_up": 1, "build_panel": 1, "settle_in_flight": 1}


def test_a_unit_whose_quantile_is_a_failure_says_so():
    cells = to_cells(simulate(SHORT, seed=5))
    moments = cells.moments
    of_one = (moments.arm == 1) & (moments.instance == moments.instance[moments.arm == 1].min())
    added = np.where(of_one, moments.n, 0)  # as many failures as there were requests
    moments = replace(moments, n=moments.n + added, failures=moments.failures + added)
    _, traced = trace(replace(cells, moments=moments))
    units = next(curve["units"]["units"] for curve in traced["metrics"] if curve["name"] == "latency_p95")
    assert [unit["value"] for unit in units if unit.get("fails")] == [None]


def test_a_restart_and_the_end_of_the_ramp_are_events():
    requests = simulate(replace(SHORT, spawn_s=100.0, users=30), 3)
    elapsed_s = (requests.ts_us - requests.ts_us.min()) / 1e6
    name = next(name for name in requests.instances if name.startswith("canary"))
    gone = (requests.instance == requests.instances.index(name)) & (elapsed_s > 180) & (elapsed_s < 240)
    columns = {
        field.name: values[~gone]
        for field in fields(requests)
        if isinstance(values := getattr(requests, field.name), np.ndarray)
    }
    _, traced = trace(to_cells(replace(requests, **columns), bucket_s=1))
    events = {event["what"]: event["at"] for event in traced["timeline"]["events"]}
    slot_s = traced["timeline"]["slot_s"]
    assert abs(events[f"{name} starts"] - 240) <= slot_s
    assert 50 < events["30 users"] <= 100 + slot_s
    assert sum(what.endswith(" starts") for what in events) == 1
    _, quiet = trace(simulate_cells(replace(SHORT, spawn_s=0.0), 3))
    assert not [event for event in quiet["timeline"]["events"] if event["what"].endswith((" starts", " users"))]
