"""Readings give the same answers as their requests, or a reason why they cannot."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import simulate_readings, with_options

from evaluator.assess.readings import pair_readings
from evaluator.metrics import METRICS
from evaluator.metrics.reading_counter import CounterRate, CounterRatio
from evaluator.metrics.reading_gauge import GaugeMax, GaugeMean, GaugeSlope
from evaluator.metrics.reading_histogram import HistogramMean, HistogramQuantile, HistogramShare
from evaluator.quantities import parse_quantity
from evaluator.records import (
    Answer,
    Direction,
    InstancePrior,
    Limit,
    Margin,
    Query,
    QueryKind,
    Rule,
    Rulebook,
    Series,
    Slice,
)
from evaluator.records.readings import PARTS
from evaluator.simulate import SCENARIOS, Scrapes, simulate
from evaluator.simulate.readings import BOUNDS_S, DURATION, FAILURES, REQUESTS
from evaluator.stats.shaping.reading_panels import cut
from evaluator.stats.shaping.readings import sum_up

T0 = 1_767_571_200
STEP = 15
NAN = float("nan")
GAUGE = Query("memory_bytes{$selector}", QueryKind.GAUGE)
EVENTS = Query("oom_kills_total{$selector}", QueryKind.COUNTER)
SHORT = {"duration_s": 900.0, "rate_per_s": 60.0}

RATIO = Rule(
    "failures", CounterRatio(failures=FAILURES.text, requests=REQUESTS.text), margin=Margin(0.01, relative=False)
)
MEAN = Rule("mean", HistogramMean(query=DURATION.text), margin=Margin(0.1))
SHARE = Rule(
    "share",
    HistogramShare(query=DURATION.text, below="100ms"),
    margin=Margin(0.02, relative=False),
    direction=Direction.HIGHER,
)
MEDIAN = Rule("p50", HistogramQuantile(quantile=0.5, query=DURATION.text), margin=Margin(0.5))


def ask(readings, rule, prior=None):
    pairs = (
        pair_readings(readings, (), Rulebook((rule,), prior=prior or InstancePrior()), "cart@2").measure().comparisons
    )
    assert len(pairs) == len(readings.arms) - 1
    return pairs[0]


def p(comparison, kind="margin"):
    question = next(q for q in comparison.questions if q.kind == kind)
    return question.p_worse, question.p_within


def gauge(values, query=GAUGE):
    """`values` (arms, instances, samples)."""
    answers = []
    for arm, rows in zip(("baseline", "canary"), values, strict=True):
        own = np.asarray(rows, float)
        ts = (T0 + np.arange(own.shape[1]) * STEP) * 1000
        series = tuple(Series({}, f"{arm}-{k}", "", "value", NAN, ts, row) for k, row in enumerate(own))
        start, end = (datetime.fromtimestamp(int(t) / 1000, UTC) for t in (ts[0], ts[-1]))
        answers.append(Answer(query, arm, (query.text,), start, end, STEP, series))
    return sum_up(answers, ("baseline", "canary"), STEP)


def drift(rng, pods=4, samples=121, *, phi=0.9, slope=0.0, level=100.0):
    """A gauge of two arms with a shared drift, one of each pod, and a trend of the canary (per hour)."""

    def ar(n, sd):
        out = rng.standard_normal((n, samples)) * sd * np.sqrt(1 - phi**2)
        out[:, 0] /= np.sqrt(1 - phi**2)
        for k in range(1, samples):
            out[:, k] += phi * out[:, k - 1]
        return out

    shared, hours = ar(1, 3.0), np.arange(samples) * STEP / 3600
    return [level + rng.standard_normal((pods, 1)) * 5 + shared + ar(pods, 2.0) + arm * slope * hours for arm in (0, 1)]


@pytest.fixture(scope="module")
def slower():
    return simulate(replace(SCENARIOS["mean+10%"], **SHORT), 1)


@pytest.fixture(scope="module")
def readings(slower):
    return simulate_readings(slower)


@pytest.mark.parametrize("rule", [RATIO, MEAN, SHARE, MEDIAN])
def test_swapping_the_arms_turns_the_effect(readings, rule):
    turned = replace(readings, arm=1 - readings.arm)
    forwards, backwards = ask(readings, rule), ask(turned, rule)
    if rule.margin.relative and rule.type == "histogram_mean":
        assert np.log1p(forwards.effect.estimate) == pytest.approx(-np.log1p(backwards.effect.estimate))
    assert (forwards.baseline.value, forwards.candidate.value) == pytest.approx(
        (backwards.candidate.value, backwards.baseline.value)
    )
    assert np.sign(forwards.effect.estimate) == -np.sign(backwards.effect.estimate)


@pytest.mark.parametrize("rule", [RATIO, MEAN, SHARE, MEDIAN])
def test_restarts_change_nothing(slower, readings, rule):
    restarted = simulate_readings(slower, Scrapes(restarts=3), seed=2)
    assert sum(fact.resets for fact in restarted.facts) >= 3
    plain, with_restarts = ask(readings, rule), ask(restarted, rule)
    assert with_restarts.effect.estimate == pytest.approx(plain.effect.estimate, rel=1e-6)
    assert p(with_restarts) == pytest.approx(p(plain), abs=1e-6)


@pytest.mark.parametrize("rule", [RATIO, MEAN, SHARE])
def test_missing_scrapes_reduce_only_the_time_resolution(slower, readings, rule):
    gappy = simulate_readings(slower, Scrapes(missing=0.1), seed=2)
    assert sum(fact.missing for fact in gappy.facts) > 0
    assert ask(gappy, rule).effect.estimate == pytest.approx(ask(readings, rule).effect.estimate, abs=0.01)


def test_failures_may_have_no_series_if_requests_of_the_same_counter_have(readings):
    """Libraries create `code="500"` at the first failure: no series means no failures."""
    silent = cut(readings, None).before(2**60).readings
    keep = readings.query != readings.queries.index(FAILURES)
    columns = {name: getattr(silent, name)[keep] for name in _columns(silent)}
    never = replace(readings, **columns)
    answer = ask(never, RATIO)
    assert (answer.baseline.value, answer.candidate.value, answer.no_data) == (0.0, 0.0, None)
    errors = Query("http_errors_total{$selector}", QueryKind.COUNTER)
    renamed = replace(never, queries=tuple(errors if q == FAILURES else q for q in never.queries))
    assert "http_errors_total" in ask(renamed, with_options(RATIO, failures=errors.text)).no_data


def _columns(cells):
    return [name for name in cells.__dataclass_fields__ if isinstance(getattr(cells, name), np.ndarray)]


def test_failures_that_are_no_part_of_the_requests_are_refused(readings):
    assert (
        "do not count a part of the requests"
        in ask(readings, with_options(RATIO, failures=REQUESTS.text, requests=FAILURES.text)).no_data
    )


def test_a_query_that_was_not_collected_is_no_data(readings):
    assert (
        "other_total was not collected" in ask(readings, with_options(RATIO, requests="other_total{$selector}")).no_data
    )


def test_a_rule_may_name_one_endpoint(slower, readings):
    name = slower.endpoints[0]
    answer = ask(readings, replace(MEAN, slice=Slice(name)))
    rows = (slower.endpoint == 0) & (slower.arm == 0)
    assert answer.baseline.n == rows.sum()
    assert answer.baseline.value == pytest.approx(slower.response_us[rows].mean() / 1000, rel=0.01)
    assert "no series has the endpoint GET /none" in ask(readings, replace(MEAN, slice=Slice("GET /none"))).no_data


def test_a_rate_is_per_second_of_an_instance(slower, readings):
    rule = Rule("rate", CounterRate(query=REQUESTS.text), margin=Margin(0.2))
    answer = ask(readings, rule)
    assert answer.unit == "/s"
    assert answer.baseline.value == pytest.approx((slower.arm == 0).sum() / 900 / 4, rel=0.01)
    assert p(answer)[1] < 0.05


def test_a_counter_without_events_is_no_proof_of_no_events():
    """Counters that never grew: a quarter of an hour cannot exclude a difference of one event an hour."""
    never = gauge([np.zeros((3, 61)), np.zeros((3, 61))], EVENTS)
    rule = Rule("kills", CounterRate(query=EVENTS.text), margin=Margin(1 / 3600, relative=False))
    answer = ask(never, rule)
    assert (answer.candidate.value, answer.effect.estimate) == (0.0, 0.0)
    assert p(answer)[1] > 0.05
    assert p(ask(never, replace(rule, margin=Margin(0.01, relative=False))))[1] < 0.05
    assert "absolute margin" in ask(never, replace(rule, margin=Margin(0.1))).no_data


# ------------------------------------------------------------------ shares and quantiles


def test_a_share_needs_a_bound_of_the_histogram(slower, readings):
    answer = ask(readings, SHARE)
    within = slower.response_us[slower.arm == 0] <= 100_000
    assert answer.baseline.value == pytest.approx(within.mean(), abs=0.002)
    assert answer.effect.lower < answer.effect.estimate < answer.effect.upper < 0
    why = ask(readings, with_options(SHARE, below=parse_quantity("120ms"))).no_data
    assert why == "120 ms is not a bound of the histogram; the nearest are 100 ms and 250 ms"


@pytest.mark.parametrize("arm", [0, 1])
@pytest.mark.parametrize("rule", [SHARE, MEDIAN])
def test_a_bucket_with_more_observations_than_all_is_no_data(readings, rule, arm):
    """Its variance would be negative, and the better of the arms would pass without a doubt."""
    is_bucket = (readings.part == PARTS.index("bucket")) & np.isclose(readings.le, 0.1) & (readings.arm == arm)
    assert is_bucket.any()
    total = np.where(is_bucket, 5 * readings.total, readings.total)
    assert "do not belong together" in ask(replace(readings, total=total), rule).no_data


def test_limits_of_a_share_keep_their_sides(readings):
    answer = ask(readings, replace(SHARE, limit=Limit(min=0.2, max=0.99)))
    (most, least) = [q for q in answer.questions if q.kind == "limit"]
    assert (most.bound, least.bound) == (0.99, 0.2)
    assert max(most.p_within, least.p_within) < 0.01
    assert ask(readings, replace(SHARE, limit=Limit(min=0.99))).questions[-1].p_worse < 0.01


def test_a_relative_margin_of_a_share_is_relative_to_the_baselines_share(readings):
    share = ask(readings, SHARE).baseline.value
    relative = ask(readings, replace(SHARE, margin=Margin(0.05)))
    absolute = ask(readings, replace(SHARE, margin=Margin(0.05 * share, relative=False)))
    assert p(relative) == pytest.approx(p(absolute))
    assert relative.effect.estimate == pytest.approx(absolute.effect.estimate / share)


def test_a_margin_below_the_resolution_is_never_within():
    same = simulate_readings(simulate(replace(SCENARIOS["AA"], **SHORT), 2))
    answer = ask(same, replace(MEDIAN, margin=Margin(0.05)))
    assert p(answer)[1] == 1.0
    assert "add bounds such as" in answer.unresolved
    assert "histogram_share" in answer.unresolved


def test_bounds_around_the_quantile_resolve_the_margin(slower):
    bounds = tuple(np.geomspace(0.02, 2.0, 60).round(5))
    same = simulate_readings(simulate(replace(SCENARIOS["AA"], **SHORT), 2), Scrapes(bounds_s=bounds))
    answer = ask(same, replace(MEDIAN, margin=Margin(0.2)))
    assert answer.unresolved == ""
    assert p(answer)[1] < 0.05
    assert answer.effect.lower < 0 < answer.effect.upper < 0.2


def test_exactly_at_the_margin_a_quantile_is_hardly_ever_within():
    """Nor beyond it: 24 releases that are 20 % slower, against a margin of 20 %, with bounds 8 % apart."""
    bounds = tuple(np.geomspace(0.02, 2.0, 60).round(5))
    change = replace(SCENARIOS["mean+10%"].changes[0], latency=0.2)
    design = replace(SCENARIOS["AA"], duration_s=600.0, rate_per_s=15.0, changes=(change,))
    rule = replace(MEDIAN, margin=Margin(0.2))
    drawn = (simulate_readings(simulate(design, seed), Scrapes(bounds_s=bounds)) for seed in range(24))
    worse, within = np.array([p(ask(readings, rule)) for readings in drawn]).T
    assert (worse < 0.05).mean() <= 0.05 + 2 * 0.044
    assert (within < 0.05).mean() <= 0.05 + 2 * 0.044


def test_a_quantile_worse_by_more_than_its_buckets_is_detected():
    doubled = replace(SCENARIOS["AA"], **SHORT, changes=(replace(SCENARIOS["mean+10%"].changes[0], latency=1.5),))
    readings = simulate_readings(simulate(doubled, 3))
    answer = ask(readings, replace(MEDIAN, margin=Margin(0.2)))
    assert p(answer)[0] < 0.01
    assert answer.effect.lower > 0.2


def test_absolute_limits_are_decided_at_the_nearest_bounds(readings):
    median = ask(readings, MEDIAN).candidate.value
    assert 50 < median < 100
    below, beyond = (ask(readings, replace(MEDIAN, limit=Limit(max=bound))) for bound in (120.0, 30.0))
    assert below.questions[-1].p_within < 0.01
    assert beyond.questions[-1].p_worse < 0.01
    inside = ask(readings, replace(MEDIAN, limit=Limit(max=70.0))).questions[-1]
    assert min(inside.p_worse, inside.p_within) > 0.5  # between 50 and 75 nothing is known


def test_a_quantile_beyond_the_largest_bound_is_no_data(slower):
    coarse = simulate_readings(slower, Scrapes(bounds_s=(0.001, 0.002)))
    assert "above the largest bound of the histogram, 2" in ask(coarse, MEDIAN).no_data


def test_a_candidate_beyond_the_largest_bound_is_shown_at_it():
    """As Prometheus does. A lower bound shows that it is worse."""
    stalled = replace(SCENARIOS["AA"], **SHORT, changes=(replace(SCENARIOS["mean+10%"].changes[0], latency=30.0),))
    answer = ask(simulate_readings(simulate(stalled, 3), Scrapes(bounds_s=(0.05, 0.1, 0.2))), MEDIAN)
    assert answer.candidate.value == 200.0
    assert p(answer)[0] < 0.01


def test_bounds_that_one_arm_lacks_are_not_used(readings):
    bucket = 0.075
    dropped = (readings.le == bucket) & (readings.arm == 1)
    columns = {name: getattr(readings, name)[~dropped] for name in _columns(readings)}
    answer = ask(replace(readings, **columns), with_options(SHARE, below=parse_quantity("75ms")))
    assert "is not a bound of the histogram" in answer.no_data
    assert bucket in BOUNDS_S


# ------------------------------------------------------------------ gauges


@pytest.mark.parametrize("kind", ["gauge_mean", "gauge_max"])
def test_a_gauge_that_is_equal_everywhere_is_within(kind):
    """A memory limit: at every scrape, on every instance, the same number."""
    rule = Rule("limit", METRICS[kind](query=GAUGE.text), margin=Margin(0.05))
    same = ask(gauge(np.full((2, 3, 61), 512.0)), rule)
    assert p(same) == (1.0, 0.0)
    raised = ask(gauge([np.full((3, 61), 512.0), np.full((3, 61), 1024.0)]), rule)
    assert raised.effect.estimate == pytest.approx(1.0)
    assert p(raised)[0] == 0.0


def test_a_gauge_on_one_instance_a_side_is_not_within():
    rule = Rule("limit", GaugeMean(query=GAUGE.text), margin=Margin(0.05))
    assert p(ask(gauge(np.full((2, 1, 61), 512.0)), rule))[1] > 0.05


def test_gauges_at_or_below_zero_need_an_absolute_margin():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((2, 4, 121))
    rule = Rule("temperature", GaugeMean(query=GAUGE.text, unit="K"), margin=Margin(0.1))
    assert "absolute margin" in ask(gauge(values), rule).no_data
    answer = ask(gauge(values), replace(rule, margin=Margin(1.0, relative=False)))
    assert answer.effect.kind == "absolute"
    assert p(answer)[1] < 0.05
    assert ask(gauge(values), replace(rule, margin=None)).effect.kind == "absolute"


def test_the_largest_sample_of_each_minute_is_compared():
    values = np.full((2, 3, 120), 1.0)
    values[1, :, 1::4] = 9.0  # one sample a minute
    answer = ask(gauge(values), Rule("peak", GaugeMax(query=GAUGE.text), margin=Margin(0.5)))
    assert (answer.baseline.value, answer.candidate.value) == (1.0, 9.0)
    mean = ask(gauge(values), Rule("mean", GaugeMean(query=GAUGE.text), margin=Margin(0.5)))
    assert mean.candidate.value == pytest.approx((30 * 9 + 89) / 119)


def test_a_trend_is_recovered():
    slope = Rule("leak", GaugeSlope(query=GAUGE.text, unit="MiB"), margin=Margin(10.0, relative=False))
    answer = ask(gauge(drift(np.random.default_rng(4), samples=241, slope=40.0)), slope)
    assert answer.unit == "MiB/h"
    assert answer.effect.estimate == pytest.approx(40.0, abs=8)
    assert p(answer)[0] < 0.01
    assert (
        "set a margin in MiB/h"
        in ask(gauge(drift(np.random.default_rng(4))), replace(slope, margin=Margin(0.1))).no_data
    )


def test_a_trend_is_of_each_instance_around_its_own_level():
    """A late instance on a higher level is no trend."""
    values = [np.full((3, 121), 100.0), np.full((3, 121), 100.0)]
    readings = gauge(values)
    late = (readings.arm == 1) & (readings.instance == readings.instances.index("canary-2"))
    columns = {name: getattr(readings, name) for name in _columns(readings)}
    columns["total"] = np.where(late, 500.0, columns["total"])
    keep = ~late | (readings.bucket > np.median(readings.bucket))
    fresh = replace(readings, **{name: column[keep] for name, column in columns.items()})
    rule = Rule("leak", GaugeSlope(query=GAUGE.text), margin=Margin(1.0, relative=False))
    assert ask(fresh, rule).effect.estimate == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", ["gauge_mean", "gauge_max", "gauge_slope"])
def test_equal_gauges_are_rarely_shown_to_differ(kind):
    """240 pairs of equal arms, half an hour each: at most 5 % on each side (Monte Carlo error of both: 1 %)."""
    rng = np.random.default_rng(7)
    rule = Rule("g", METRICS[kind](query=GAUGE.text), margin=Margin(1.0, relative=False))
    p_values = [p(ask(gauge(drift(rng)), rule), "zero") for _ in range(240)]
    assert (np.array(p_values) < 0.05).mean() < 0.05 + 2 * 0.01


def test_too_few_readings_are_no_data():
    rule = Rule("g", GaugeMean(query=GAUGE.text), margin=Margin(0.1))
    assert "only 75 s of usable readings" in ask(gauge(np.full((2, 3, 6), 1.0)), rule).no_data


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (CounterRate(query=REQUESTS.text), CounterRate(query=REQUESTS.text, unit="s")),
        (HistogramShare(query=DURATION.text, below="100ms"), HistogramShare(query=DURATION.text, below="250ms")),
    ],
)
def test_rules_that_differ_in_an_option_answer_together_as_each_does_alone(readings, first, second):
    rules = tuple(replace(RATIO, name=name, metric=metric) for name, metric in (("first", first), ("second", second)))
    together = pair_readings(readings, (), Rulebook(rules), "cart@2").measure().comparisons
    alone = [ask(readings, rule) for rule in rules]
    assert [row.baseline.value for row in together] == [row.baseline.value for row in alone]
    assert [row.effect for row in together] == [row.effect for row in alone]
    assert together[0].baseline.value != together[1].baseline.value
