"""What is wrong with readings is named, and forbids what it must."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judging import simulate_readings

from evaluator.assess.readings import pair_readings
from evaluator.health import CHECKS
from evaluator.metrics.latency import LatencyMean
from evaluator.metrics.reading_histogram import HistogramMean, HistogramQuantile
from evaluator.records import EvidenceKind, Level, Margin, Rule, Rulebook
from evaluator.simulate import SCENARIOS, Scrapes, scrape, simulate
from evaluator.simulate.readings import DURATION, FAILURES
from evaluator.stats.shaping.reading_panels import RunInterval, cut
from evaluator.stats.shaping.readings import sum_up

MEAN = Rule("server_mean", HistogramMean(query=DURATION.text), margin=Margin(0.1))
RULEBOOK = Rulebook((MEAN,))
DESIGN = replace(SCENARIOS["AA"], duration_s=600.0, rate_per_s=40.0)


@pytest.fixture(scope="module")
def requests():
    return simulate(DESIGN, 1)


@pytest.fixture(scope="module")
def readings(requests):
    return simulate_readings(requests)


def measure(readings, rulebook=RULEBOOK):
    return pair_readings(readings, (), rulebook, "cart@2").measure().comparisons


def find(readings, rulebook=RULEBOOK, **options):
    pairs = pair_readings(readings, (), rulebook, "cart@2")
    context = replace(pairs.with_comparisons(pairs.measure().comparisons), **options)
    return [finding for check in CHECKS[EvidenceKind.READINGS] for finding in check(context)]


def look(readings, rulebook=RULEBOOK, **options):
    """Findings by check; the last of each."""
    return {finding.check: finding for finding in find(readings, rulebook, **options)}


def with_fact(readings, **values):
    return replace(readings, facts=(*readings.facts[1:], replace(readings.facts[0], **values)))


def test_healthy_readings_are_in_order(readings):
    findings = look(readings)
    assert {check: finding.level for check, finding in findings.items()} == {
        "series": Level.OK,
        "silence": Level.OK,
        "scrapes": Level.OK,
    }


def test_selectors_that_find_the_same_series_make_the_comparison_void(requests):
    """Here the candidate's selector finds the series of the baseline."""
    baseline = [answer for answer in scrape(requests) if answer.arm == "baseline"]
    both = sum_up([*baseline, *(replace(answer, arm="canary") for answer in baseline)], ("baseline", "canary"), 15)
    finding = look(both)["selectors"]
    assert (finding.level, finding.void) == (Level.FAIL, True)
    assert "baseline-1, baseline-2, baseline-3 and 1 more" in finding.text
    assert "sources.prometheus.selectors" in finding.remedy


def test_proxies_that_count_both_arms_are_only_a_warning(readings):
    finding = look(readings, shared_instances=("10.0.9.0:10254",))["shared_instances"]
    assert (finding.level, finding.void) == (Level.WARN, False)
    assert "10.0.9.0:10254" in finding.text
    assert "instance_label" in finding.remedy
    assert "instances: {baseline: N, canary: N}" in finding.remedy


def test_an_arm_without_series_forbids_a_go(requests):
    alone = sum_up(scrape(requests, Scrapes(arms=("baseline",))), ("baseline", "canary"), 15)
    finding = look(alone)["series"]
    assert finding.level is Level.FAIL
    assert "no query has a series of canary" in finding.text
    assert "evaluator collect cart@2" in finding.remedy


def test_a_query_that_only_one_arm_answers_is_named(requests):
    some = [a for a in scrape(requests) if (a.query, a.arm) not in {(DURATION, "canary"), (FAILURES, "canary")}]
    readings = sum_up(some, ("baseline", "canary"), 15)
    texts = [finding.text for finding in find(readings) if finding.check == "series"]
    assert texts == [
        f"{FAILURES.text} never happened on canary, so it counts as 0",
        f"{DURATION.text} has no series of canary",
    ]
    assert "has no series of canary" in measure(readings)[0].no_data


def test_restarts_are_counted_by_instance(requests):
    findings = look(simulate_readings(requests, Scrapes(restarts=8), seed=3))
    assert findings["restarts"].level is Level.WARN
    assert "counters of canary started again 4 times" in findings["restarts"].text


@pytest.mark.parametrize(("missing", "level"), [(0.1, Level.WARN), (0.7, Level.FAIL)])
def test_missing_scrapes(requests, missing, level):
    finding = look(simulate_readings(requests, Scrapes(missing=missing), seed=3))["scrapes"]
    assert finding.level is level
    assert "of the scrapes of" in finding.text


def test_readings_of_half_the_time_of_a_load_are_not_all_of_it(readings):
    """Two loads of ten minutes; readings were collected for the first only."""
    start = float(cut(readings, None).span[0] * readings.bucket_s)
    loads = (RunInterval("r1", start, start + 600), RunInterval("r2", start + 700, start + 1300))
    finding = look(readings, intervals=loads)["silence"]
    assert finding.level is Level.FAIL
    assert "falls silent" in finding.text
    assert look(readings, intervals=loads[:1])["silence"].level is Level.OK


@pytest.mark.parametrize(
    ("fact", "check", "text"),
    [
        ({"nan": 3}, "not_a_number", "3 samples of baseline were not a number (0.366 %); left out"),
        ({"infinite": 3}, "infinite", "3 samples of baseline were infinite (0.366 %); left out"),
        ({"falls": 2}, "counter_drops", "dropped by less than half 2 times, which is no restart"),
        ({"outside": 5000}, "other_times", "5,000 samples were outside of the requested time"),
        ({"duplicates": 2}, "duplicate_series", "2 series have the same samples as another; left out"),
    ],
)
def test_samples_left_out_are_named(readings, fact, check, text):
    finding = look(with_fact(readings, **fact))[check]
    assert finding.level is Level.WARN
    assert text in finding.text


@pytest.mark.parametrize("kind", ["nan", "infinite"])
def test_samples_left_out_of_the_candidate_only_forbid_a_go(readings, kind):
    """Samples left out may hide a fault: a queue per worker is infinite if no worker is left."""
    index = next(n for n, fact in enumerate(readings.facts) if fact.arm == "canary")
    facts = list(readings.facts)
    facts[index] = replace(facts[index], **{kind: round(0.05 * facts[index].read)})
    check = {"nan": "not_a_number", "infinite": "infinite"}[kind]
    assert look(replace(readings, facts=tuple(facts)))[check].level is Level.FAIL
    alike = tuple(replace(fact, **{kind: round(0.05 * fact.read)}) for fact in readings.facts)
    assert look(replace(readings, facts=alike))[check].level is Level.WARN


def test_a_counter_that_drops_often_is_no_counter(readings):
    finding = look(with_fact(readings, falls=100))["counter_drops"]
    assert finding.level is Level.FAIL
    assert "gauge" in finding.remedy


def test_samples_without_an_account_forbid_a_go(readings):
    finding = look(with_fact(readings, read=readings.facts[0].read + 7))["samples"]
    assert finding.level is Level.FAIL
    assert "7 samples were read, but are neither used nor named" in finding.text


def test_readings_of_an_earlier_version_cannot_show_silence(readings):
    """They contain neither what was read nor when."""
    old = tuple(replace(fact, read=0, used=(), spans=(), lives={}) for fact in readings.facts)
    finding = look(replace(readings, facts=old))["samples"]
    assert finding.level is Level.FAIL
    assert "`evaluator collect cart@2` again" in finding.remedy


def test_hints_of_the_server_are_shown_and_forbid_nothing(readings):
    finding = look(with_fact(readings, notes=("PromQL info: metric might not be a counter",)))["server_notes"]
    assert finding.level is Level.OK
    assert "might not be a counter" in finding.text


def test_a_partial_answer_forbids_a_go(readings):
    finding = look(with_fact(readings, warnings=("store gateway unavailable",)))["partial_answer"]
    assert finding.level is Level.FAIL
    assert "store gateway unavailable" in finding.text


def test_a_clock_that_is_off_makes_readings_of_a_load_void(readings):
    skewed = replace(readings, sources={"clock_offset_s": -31.0})
    assert look(skewed)["source_clock"].level is Level.WARN
    beside = look(skewed, client=measure(readings))["source_clock"]
    assert (beside.level, beside.void) == (Level.FAIL, True)
    assert look(replace(readings, sources={"clock_offset_s": 0.4}))["source_clock"].level is Level.OK


def test_one_instance_a_side_forbids_a_go():
    single = simulate_readings(simulate(replace(DESIGN, instances=(1,)), 1))
    finding = look(single)["single_instance"]
    assert finding.level is Level.FAIL
    assert "one instance a side (canary 1, baseline 1)" in finding.text


def test_coarse_buckets_are_named(readings):
    rule = Rule("p95", HistogramQuantile(quantile=0.95, query=DURATION.text), margin=Margin(0.05))
    finding = look(readings, Rulebook((rule,)))["bucket_bounds"]
    assert finding.level is Level.WARN
    assert "add bounds such as" in finding.text


def test_a_load_that_disagrees_with_the_server_is_named(readings):
    slow = simulate_readings(simulate(replace(DESIGN, changes=SCENARIOS["mean+20%"].changes), 1))
    worse, fine = (measure(cells) for cells in (slow, readings))
    client = Rule("latency_mean", LatencyMean(), margin=Margin(0.1))
    outside = look(readings, client=tuple(replace(c, rule=client) for c in worse))["disagreement"]
    assert outside.level is Level.WARN
    assert "the load sees mean of canary at +2" in outside.text
    assert "queues, network or load balancer" in outside.text
    inside = look(slow, client=tuple(replace(c, rule=client) for c in fine))["disagreement"]
    assert "the load does not call what is slow" in inside.text
    assert "disagreement" not in look(slow, client=tuple(replace(c, rule=client) for c in worse))
