"""Readings in the verdict: alone, together with a load, and sharing alpha with its gates."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from judging import simulate_readings

from evaluator.assess import ReleaseData, assess_release
from evaluator.assess.readings import count_samples
from evaluator.judges import judge_evidence
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean
from evaluator.metrics.reading_counter import CounterRate, CounterRatio
from evaluator.metrics.reading_gauge import GaugeMean
from evaluator.metrics.reading_histogram import HistogramMean, HistogramQuantile
from evaluator.records import (
    UP,
    InstancePrior,
    Level,
    Margin,
    MetricStatus,
    Monitoring,
    Role,
    Rule,
    Rulebook,
    Run,
    RunState,
    Scan,
    VerdictWord,
)
from evaluator.simulate import SCENARIOS, Change, Scrapes, scrape, simulate, to_cells
from evaluator.simulate.readings import DURATION, FAILURES, REQUESTS
from evaluator.simulate.requests import EPOCH_US
from evaluator.stats.shaping.reading_panels import cut
from evaluator.stats.shaping.readings import sum_up

GO, NO_GO, OPEN = VerdictWord.GO, VerdictWord.NO_GO, VerdictWord.INCONCLUSIVE
START = datetime.fromtimestamp(EPOCH_US / 1e6, UTC)
COLLECTED = Run("c1", "cart@2", "g2", "prometheus", started=START, state=RunState.COMPLETE)
LOADED = Run("run-0", "cart@2", "g1", "locust", started=START, state=RunState.COMPLETE)

SERVER = (
    Rule(
        "server_failures",
        CounterRatio(failures=FAILURES.text, requests=REQUESTS.text),
        margin=Margin(0.01, relative=False),
    ),
    Rule("server_mean", HistogramMean(query=DURATION.text), margin=Margin(0.2)),
)
CLIENT = (
    Rule("failure_rate", FailureRate(), margin=Margin(0.01, relative=False)),
    Rule("latency_mean", LatencyMean(), margin=Margin(0.2)),
)
ALONE = Rulebook(SERVER)
DESIGN = replace(SCENARIOS["AA"], duration_s=900.0, rate_per_s=60.0)


@pytest.fixture(scope="module")
def same():
    return simulate(DESIGN, 1)


@pytest.fixture(scope="module")
def slower():
    return simulate(replace(DESIGN, changes=(replace(SCENARIOS["mean+20%"].changes[0], latency=0.6),)), 1)


@pytest.fixture(scope="module")
def nothing(same):
    """Cells without requests."""
    cells = to_cells(same)
    tables = {
        name: replace(
            getattr(cells, name),
            **{
                column: getattr(getattr(cells, name), column)[:0]
                for column in getattr(cells, name).__dataclass_fields__
            },
        )
        for name in ("moments", "bins", "instance_bins", "loads", "failure_kinds")
    }
    return replace(cells, runs=(), arms=("baseline", "canary"), **tables)


def assess_readings(cells, runs, rulebook, readings=None, collected=()):
    data = ReleaseData(runs, cells, readings=readings, collected=collected)
    return assess_release(data, rulebook, "cart@2").evidence


def judge(evidence, rulebook):
    return judge_evidence(evidence, rulebook, "cart@2")


def statuses(judgement):
    return {c.rule.name: c.status for c in judgement.comparisons if not c.scan}


def test_readings_alone_are_enough_for_a_verdict(nothing, same, slower):
    evidence = assess_readings(nothing, (), ALONE, simulate_readings(same), (COLLECTED,))
    assert judge(evidence, ALONE).word is GO
    assert "of readings" in judge(evidence, ALONE).reasons[0].text
    assert (evidence.collected, evidence.final, evidence.monitoring) == (True, True, "group_sequential")
    assert evidence.window.seconds == 900.0
    arms = [(arm.name, arm.requests, arm.instances, arm.runs) for arm in evidence.arms]
    assert arms == [(name, int((same.arm == code).sum()), 4, 1) for code, name in enumerate(same.arms)]
    worse = assess_readings(nothing, (), ALONE, simulate_readings(slower), (COLLECTED,))
    assert judge(worse, ALONE).word is NO_GO


def test_readings_under_way_are_judged_at_looks(nothing, same, slower):
    going = replace(COLLECTED, state=RunState.RUNNING)
    anytime = assess_readings(nothing, (), ALONE, simulate_readings(slower), (going,))
    assert (anytime.monitoring, anytime.final) == ("anytime", False)
    planned = replace(going, planned_end=START + timedelta(seconds=1800))
    early = assess_readings(nothing, (), ALONE, simulate_readings(slower), (planned,))
    assert (early.monitoring, early.final) == ("group_sequential", False)
    assert judge(early, ALONE).word is NO_GO
    assert judge(early, ALONE).decided_at_s < 900
    fine = assess_readings(nothing, (), ALONE, simulate_readings(same), (planned,))
    assert judge(fine, ALONE).word is OPEN


def test_a_look_uses_only_earlier_data(nothing, slower):
    """A look at two thirds of the data equals the look of the whole at that time, for every rule."""
    more = (
        Rule("p50", HistogramQuantile(quantile=0.5, query=DURATION.text), margin=Margin(0.5)),
        Rule("rate", CounterRate(query=REQUESTS.text), margin=Margin(0.0)),
    )
    rulebook = Rulebook((*SERVER, *more))
    planned = replace(COLLECTED, state=RunState.RUNNING, planned_end=START + timedelta(seconds=900))
    readings = simulate_readings(slower)
    ended = replace(planned, state=RunState.COMPLETE)
    whole = assess_readings(nothing, (), rulebook, readings, (ended,))
    middle = int(readings.bucket.min()) + 660 // readings.bucket_s
    part = cut(readings, None).before(middle).readings
    early = assess_readings(nothing, (), rulebook, part, (planned,))
    for one, other in zip(whole.comparisons, early.comparisons, strict=True):
        at = {look.at_s: look.p_worse for look in one.looks}
        assert other.looks
        for look in other.looks:
            assert look.p_worse == pytest.approx(at[look.at_s], rel=1e-9)


def test_a_policy_on_readings_that_were_not_collected_is_no_pass(nothing):
    evidence = assess_readings(nothing, (), ALONE)
    judgement = judge(evidence, ALONE)
    assert judgement.word is OPEN
    assert set(statuses(judgement).values()) == {MetricStatus.NO_DATA}
    assert "`evaluator collect cart@2`" in judgement.reasons[0].text


def test_readings_without_a_metric_are_named(same):
    rulebook = Rulebook(CLIENT, scan=Scan(enabled=False))
    evidence = assess_readings(to_cells(same), (LOADED,), rulebook, simulate_readings(same), (COLLECTED,))
    assert any(finding.check == "readings" and finding.level is Level.WARN for finding in evidence.findings)


def test_gates_of_load_and_production_share_alpha(same):
    """Client and server measure the same requests, so their numbers nearly agree."""
    rulebook = Rulebook((*CLIENT, *SERVER), scan=Scan(enabled=False))
    evidence = assess_readings(to_cells(same), (LOADED,), rulebook, simulate_readings(same), (COLLECTED,))
    judgement = judge(evidence, rulebook)
    assert judgement.word is not NO_GO
    found = {c.rule.name: c for c in judgement.comparisons}
    assert set(found) == {"failure_rate", "latency_mean", "server_failures", "server_mean"}
    assert all(c.p_value_adjusted >= c.p_value for c in found.values())
    assert found["server_failures"].effect.estimate == pytest.approx(found["failure_rate"].effect.estimate, abs=2e-5)
    assert evidence.arms[0].requests == int((same.arm == 0).sum())
    assert not evidence.collected


def test_the_servers_mean_is_that_of_the_requests():
    """Without failures both are means of the same requests, by endpoint and bucket."""
    design = replace(DESIGN, failure_rate=0.0, shared_failures=replace(DESIGN.shared_failures, per_hour=0.0))
    design = replace(design, instance_failures=replace(design.instance_failures, per_hour=0.0))
    requests = simulate(design, 3)
    rulebook = Rulebook((*CLIENT, *SERVER), scan=Scan(enabled=False))
    cells, readings = to_cells(requests, 15), simulate_readings(requests)
    evidence = assess_readings(cells, (LOADED,), rulebook, readings, (COLLECTED,))
    found = {c.rule.name: c for c in evidence.comparisons}
    one, other = found["latency_mean"], found["server_mean"]
    assert other.effect.estimate == pytest.approx(one.effect.estimate, abs=2e-4)
    assert other.se == pytest.approx(one.se, rel=0.02)
    assert other.baseline.value == pytest.approx(one.baseline.value, rel=1e-3)


def test_readings_count_in_the_judged_time_of_the_load_only(same):
    """Readings from before and after the load do not count: here a server that stalled."""
    rulebook = Rulebook((*CLIENT, *SERVER), warm_up_s=120.0, scan=Scan(enabled=False))
    readings = simulate_readings(same)
    evidence = assess_readings(to_cells(same), (LOADED,), rulebook, readings, (COLLECTED,))
    found = {c.rule.name: c for c in evidence.comparisons}
    cut_off = (same.arm == 0) & (same.ts_us >= EPOCH_US + 120e6)
    assert found["server_failures"].baseline.n == pytest.approx(cut_off.sum(), rel=0.001)


def test_readings_of_another_time_do_not_count_for_the_load(same):
    rulebook = Rulebook((*CLIENT, *SERVER), scan=Scan(enabled=False))
    late = simulate_readings(replace(same, ts_us=same.ts_us + 86_400_000_000))
    evidence = assess_readings(to_cells(same), (LOADED,), rulebook, late, (COLLECTED,))
    finding = next(f for f in evidence.findings if f.check == "reading_overlap")
    assert finding.level is Level.FAIL
    assert "--collect" in finding.remedy
    judgement = judge(evidence, rulebook)
    assert judgement.word is OPEN
    assert statuses(judgement)["server_mean"] is MetricStatus.NO_DATA


def test_runs_of_a_group_are_replicates_for_readings_too():
    design = replace(DESIGN, duration_s=300.0, replicates=4, instances=(1,))
    requests = simulate(design, 2)
    runs = tuple(replace(LOADED, id=name, replicate=k) for k, name in enumerate(requests.runs))
    rulebook = Rulebook((*CLIENT, *SERVER), scan=Scan(enabled=False))
    readings = simulate_readings(requests, Scrapes(step_s=5))
    evidence = assess_readings(to_cells(requests, 5), runs, rulebook, readings, (COLLECTED,))
    found = {c.rule.name: c for c in evidence.comparisons}
    assert found["server_mean"].method == "paired mean, replicates"
    assert found["server_mean"].instances == (4, 4)


def test_one_arm_only_is_never_a_pass(nothing, same):
    alone = simulate_readings(same, Scrapes(arms=("baseline",)))
    evidence = assess_readings(nothing, (), ALONE, alone, (COLLECTED,))
    judgement = judge(evidence, ALONE)
    assert judgement.word is OPEN
    assert set(statuses(judgement).values()) == {MetricStatus.NO_DATA}


def test_coarse_buckets_leave_a_gate_open_and_name_the_remedy(nothing, same):
    gate = Rule("p95", HistogramQuantile(quantile=0.95, query=DURATION.text), Role.GATE, Margin(0.1))
    rulebook = Rulebook((gate,))
    evidence = assess_readings(nothing, (), rulebook, simulate_readings(same), (COLLECTED,))
    judgement = judge(evidence, rulebook)
    assert judgement.word is OPEN
    assert "add bounds such as" in judgement.reasons[0].text
    assert "histogram" in judgement.next_action


def test_identical_arms_are_rarely_stopped(nothing):
    """A policy on readings with a look each minute: alpha is 5 %; for 40 releases with a Monte Carlo error of 3.4 %."""
    rules = (
        replace(SERVER[0], margin=Margin(0.0, relative=False)),
        replace(SERVER[1], margin=Margin(0.0)),
        Rule("p50", HistogramQuantile(quantile=0.5, query=DURATION.text), margin=Margin(0.0)),
    )
    rulebook = Rulebook(rules, monitoring=Monitoring(mode="group_sequential"))
    design = replace(DESIGN, rate_per_s=20.0)
    words = []
    for seed in range(40):
        readings = simulate_readings(simulate(design, seed))
        evidence = assess_readings(nothing, (), rulebook, readings, (COLLECTED,))
        words.append(judge(evidence, rulebook).word)
    assert np.mean([word is NO_GO for word in words]) <= 0.05 + 2 * 0.034
    assert GO not in words


def test_a_server_without_readings_is_no_pass(nothing):
    readings = sum_up([], ("baseline", "canary"), 15)
    evidence = assess_readings(nothing, (), ALONE, readings, (COLLECTED,))
    judgement = judge(evidence, ALONE)
    assert judgement.word is OPEN
    assert set(statuses(judgement).values()) == {MetricStatus.NO_DATA}
    assert [f.text for f in evidence.findings if f.level is Level.FAIL] == [
        "no query has a series of baseline",
        "no query has a series of canary",
    ]


def test_readings_before_the_first_request_landed_are_no_pass(nothing, same):
    rulebook = Rulebook((*CLIENT, *SERVER), scan=Scan(enabled=False))
    going = replace(LOADED, state=RunState.RUNNING)
    evidence = assess_readings(nothing, (going,), rulebook, simulate_readings(same), (COLLECTED,))
    judgement = judge(evidence, rulebook)
    assert judgement.word is OPEN
    assert set(statuses(judgement).values()) == {MetricStatus.NO_DATA}


def behind_proxies(requests):
    """Both arms counted by the same instances, each in its own series."""
    answers = []
    for one in scrape(requests):
        own = [
            replace(
                series, instance=series.instance.replace(one.arm, "proxy"), labels={**series.labels, "arm": one.arm}
            )
            for series in one.series
        ]
        own = [replace(series, labels={**series.labels, "instance": series.instance}) for series in own]
        answers.append(replace(one, series=tuple(own)))
    return sum_up(answers, requests.arms, 15)


def test_proxies_in_front_of_both_arms_are_no_instances_of_the_service(nothing, same):
    """The selectors are right nevertheless; the policy sets how many instances are behind them."""
    evidence = assess_readings(nothing, (), ALONE, behind_proxies(same), (COLLECTED,))
    found = {finding.check: finding for finding in evidence.findings}
    assert "selectors" not in found
    assert found["shared_instances"].level is Level.WARN
    assert "proxy-1" in found["shared_instances"].text
    assert found["single_instance"].level is Level.FAIL
    assert not any(finding.void for finding in evidence.findings)
    assert judge(evidence, ALONE).word is OPEN
    told = replace(ALONE, prior=InstancePrior(baseline=4, canary=4))
    evidence = assess_readings(nothing, (), told, behind_proxies(same), (COLLECTED,))
    assert not [finding for finding in evidence.findings if finding.level is Level.FAIL]
    assert judge(evidence, told).word is GO


def test_every_sample_is_judged_or_named(same):
    """Including those outside of the judged time of the load."""
    rulebook = Rulebook((*CLIENT, *SERVER), warm_up_s=120.0, scan=Scan(enabled=False))
    readings = simulate_readings(same)
    evidence = assess_readings(to_cells(same), (LOADED,), rulebook, readings, (COLLECTED,))
    for fact in readings.facts:
        account = dict(count_samples(readings, fact, evidence.window))
        assert account.pop("read") == sum(account.values())
        assert account["judged"] > 0
        assert account["not_judged"] >= 8 * fact.series  # the warm-up


def test_a_metric_of_the_targets_themselves_is_a_metric(nothing, same):
    """`up` is also collected for health, but stays available to a policy that compares it."""
    rule = Rule("up", GaugeMean(query=UP.text), margin=Margin(0.1))
    answers = []
    for one in scrape(same):
        if one.query == REQUESTS:
            series = tuple(replace(s, values=np.ones(s.values.size)) for s in one.series)
            answers.append(replace(one, query=UP, series=series))
    readings = sum_up([*scrape(same), *answers], same.arms, 15)
    rulebook = Rulebook((*SERVER, rule))
    evidence = assess_readings(nothing, (), rulebook, readings, (COLLECTED,))
    assert {c.rule.name: c.no_data for c in evidence.comparisons}["up"] is None
    without = assess_readings(nothing, (), ALONE, readings, (COLLECTED,))
    assert [c.no_data for c in without.comparisons] == [None, None]
    assert [arm.instances for arm in without.arms] == [4, 4]


def test_several_candidates_are_each_compared_with_the_baseline(nothing, slower):
    """Arms B and C: one is as good as the baseline, the other 60 % slower."""
    design = replace(DESIGN, changes=(Change(), Change(latency=0.6)))
    requests = simulate(design, 2)
    readings = simulate_readings(requests)
    evidence = assess_readings(nothing, (), ALONE, readings, (COLLECTED,))
    judgement = judge(evidence, ALONE)
    assert judgement.word is GO
    assert judgement.reasons[0].arm == requests.arms[1]
    failed = {c.arm for c in judgement.comparisons if c.status is MetricStatus.FAIL}
    assert failed == {requests.arms[2]}
