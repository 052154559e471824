"""What is wrong with readings is named, and forbids what it must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluator.health.readings import READING_CHECKS, ReadingScene
from evaluator.metrics.reading_measure import ReadingPairs, measure_readings
from evaluator.records import Level, Margin, Rule, Rulebook
from evaluator.simulate import SCENARIOS, Scrapes, scrape, simulate, simulate_readings
from evaluator.simulate.readings import DURATION, FAILURES
from evaluator.stats.reading_panels import cut
from evaluator.stats.readings import sum_up

MEAN = Rule("server_mean", "histogram_mean", margin=Margin(0.1), queries=(DURATION,), scale=1000, unit="ms")
RULEBOOK = Rulebook((MEAN,))
DESIGN = replace(SCENARIOS["AA"], duration_s=600.0, rate_per_s=40.0)


@pytest.fixture(scope="module")
def requests():
    return simulate(DESIGN, 1)


@pytest.fixture(scope="module")
def readings(requests):
    return simulate_readings(requests)


def scene(readings, rulebook=RULEBOOK, **other):
    view = cut(readings, None)
    comparisons = measure_readings(ReadingPairs(view, rulebook))
    start, end = view.span
    known = {"seconds": float((end - start) * readings.bucket_s), "comparisons": comparisons} | other
    return ReadingScene("cart@2", readings, view, rulebook, **known)


def look(readings, rulebook=RULEBOOK, **other):
    """Findings by check; the last of each."""
    found = [finding for check in READING_CHECKS for finding in check(scene(readings, rulebook, **other))]
    return {finding.check: finding for finding in found}


def with_fact(readings, **values):
    return replace(readings, facts=(*readings.facts[1:], replace(readings.facts[0], **values)))


def test_healthy_readings_are_in_order(readings):
    found = look(readings)
    assert {check: finding.level for check, finding in found.items()} == {"series": Level.OK, "scrapes": Level.OK}


def test_selectors_that_find_the_same_instance_make_everything_void(readings):
    names = tuple(name.replace("canary", "baseline") for name in readings.instances)
    codes = {name: names.index(name) for name in names}
    merged = replace(readings, instance=readings.instance * 0 + [codes[names[code]] for code in readings.instance])
    finding = look(replace(merged, instances=names))["selectors"]
    assert (finding.level, finding.void) == (Level.FAIL, True)
    assert "baseline-1, baseline-2, baseline-3 and 1 more" in finding.text


def test_an_arm_without_series_forbids_a_go(requests):
    alone = sum_up(scrape(requests, Scrapes(arms=("baseline",))), ("baseline", "canary"), 15)
    finding = look(alone)["series"]
    assert finding.level is Level.FAIL
    assert "no query has a series of canary" in finding.text
    assert "evaluator collect cart@2" in finding.remedy


def test_a_query_that_only_one_arm_answers_is_named(requests):
    some = [a for a in scrape(requests) if (a.query, a.arm) not in {(DURATION, "canary"), (FAILURES, "canary")}]
    readings = sum_up(some, ("baseline", "canary"), 15)
    texts = [f.text for check in READING_CHECKS for f in check(scene(readings)) if f.check == "series"]
    assert texts == [
        f"{FAILURES.text} never happened on canary: taken as 0",
        f"{DURATION.text} has no series of canary",
    ]
    assert "has no series of canary" in scene(readings).comparisons[0].no_data


def test_restarts_are_counted_by_instance(requests):
    found = look(simulate_readings(requests, Scrapes(restarts=8), seed=3))
    assert found["restarts"].level is Level.WARN
    assert "counters of canary started again 4 times" in found["restarts"].text


@pytest.mark.parametrize(("missing", "level"), [(0.1, Level.WARN), (0.7, Level.FAIL)])
def test_missing_scrapes(requests, missing, level):
    finding = look(simulate_readings(requests, Scrapes(missing=missing), seed=3))["scrapes"]
    assert finding.level is level
    assert "of the scrapes of" in finding.text


def test_readings_of_half_the_time_are_not_all_of_it(readings):
    finding = look(readings, seconds=1300.0)["scrapes"]
    assert (finding.level, finding.text) == (Level.FAIL, "readings cover 46.2 % of the 21.7 min that are judged")
    assert look(readings, seconds=750.0)["scrapes"].level is Level.WARN


@pytest.mark.parametrize(
    ("fact", "check", "text"),
    [
        ({"nan": 3}, "not_a_number", "3 samples were not a number; left out"),
        ({"duplicates": 2}, "duplicate_series", "2 series say the same as another; left out"),
        ({"started": 1, "ended": 2}, "instances", "1 came after the start, 2 vanished before the end"),
    ],
)
def test_what_was_left_out_is_named(readings, fact, check, text):
    finding = look(with_fact(readings, **fact))[check]
    assert finding.level is Level.WARN
    assert text in finding.text


def test_a_partial_answer_forbids_a_go(readings):
    finding = look(with_fact(readings, warnings=("store gateway unavailable",)))["partial_answer"]
    assert finding.level is Level.FAIL
    assert "store gateway unavailable" in finding.text


def test_a_clock_that_is_off_makes_readings_beside_a_load_void(readings):
    skewed = replace(readings, sources={"clock_offset_s": -31.0})
    assert look(skewed)["source_clock"].level is Level.WARN
    beside = look(skewed, client=measure_readings(ReadingPairs(cut(readings, None), RULEBOOK)))["source_clock"]
    assert (beside.level, beside.void) == (Level.FAIL, True)
    assert look(replace(readings, sources={"clock_offset_s": 0.4}))["source_clock"].level is Level.OK


def test_one_instance_a_side_forbids_a_go():
    single = simulate_readings(simulate(replace(DESIGN, instances=(1,)), 1))
    finding = look(single)["single_instance"]
    assert finding.level is Level.FAIL
    assert "one instance a side (canary 1, baseline 1)" in finding.text


def test_coarse_buckets_are_named(readings):
    rule = Rule("p95", "histogram_quantile", margin=Margin(0.05), quantile=0.95, queries=(DURATION,), scale=1000)
    finding = look(readings, Rulebook((rule,)))["bucket_bounds"]
    assert finding.level is Level.WARN
    assert "add bounds such as" in finding.text


def test_a_load_that_disagrees_with_the_server_is_named(readings):
    slow = simulate_readings(simulate(replace(DESIGN, changes=SCENARIOS["mean+20%"].changes), 1))
    worse, fine = (measure_readings(ReadingPairs(cut(one, None), RULEBOOK)) for one in (slow, readings))
    client = Rule("latency_mean", "latency_mean", margin=Margin(0.1))
    outside = look(readings, client=tuple(replace(c, rule=client) for c in worse))["disagreement"]
    assert outside.level is Level.WARN
    assert "the load sees mean of canary at +2" in outside.text
    assert "queues, network or load balancer" in outside.text
    inside = look(slow, client=tuple(replace(c, rule=client) for c in fine))["disagreement"]
    assert "the load does not ask for what is slow" in inside.text
    assert "disagreement" not in look(slow, client=tuple(replace(c, rule=client) for c in worse))
