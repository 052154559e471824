"""The step in which times were recorded: a difference that it may hide decides nothing, in either direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import RUN, evidence, judge, timed_requests

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.policy import parse_policy
from evaluator.records import NANOSECONDS, Level, Limit, Margin, MetricStatus, Monitoring, Rule, Rulebook, VerdictWord
from evaluator.simulate import SCENARIOS, simulate_cells, to_cells
from evaluator.stats.estimators.resolution import find_doubt_ms, find_log_doubt, step_of_arms_ms
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.shaping.panel import build_panel

OPEN, PASS, FAIL = MetricStatus.INCONCLUSIVE, MetricStatus.PASS, MetricStatus.FAIL


def normal(mean, sd, step=1, snap=np.rint):
    return lambda random, n: snap(random.normal(mean, sd, n) / step) * step


def lognormal(median, sigma, step=1, snap=np.rint):
    return lambda random, n: snap(median * np.exp(sigma * random.normal(size=n)) / step) * step


def in_ticks(mean, sd, tick=15_625):
    """Times of a clock that ticks every 15.625 ms, written in whole milliseconds."""
    return lambda random, n: np.rint(np.rint(random.normal(mean, sd, n) / tick) * tick / 1000) * 1000


def compare(baseline, canary, margin, *, limit=None, seed=1, runs=None, **changes):
    """p50 and mean of a release with these times, under one margin."""
    limits = Limit() if limit is None else Limit(max=limit)
    rules = (
        Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(margin), limit=limits),
        Rule("latency_mean", LatencyMean(), margin=Margin(margin)),
        Rule("failure_rate", FailureRate(), margin=Margin(0.01, relative=False)),
    )
    cells = to_cells(timed_requests(baseline, canary, seed=seed, **changes))
    judged = judge(cells, Rulebook(rules), tuple(replace(RUN, id=run) for run in cells.runs))
    rows = {c.rule.name: c for c in judged.comparisons if not c.scan}
    return judged, rows["latency_p50"], rows["latency_mean"]


REPLICATES = {"replicates": 5, "instances": (1,), "duration_s": 60.0, "rate_per_s": 10.0}


@pytest.mark.parametrize("shift", [1.0, 1.4], ids=["+0.5 %", "+43 %"])
def test_whole_microseconds_decide_nothing_and_are_not_blamed_on_the_file(shift):
    baseline, canary = (15.486, 15.562) if shift == 1.0 else (3.70, 5.28)
    judged, p50, mean = compare(normal(baseline, 0.06), normal(canary, 0.06), 0.02, **REPLICATES)
    assert judged.word is VerdictWord.INCONCLUSIVE
    for row in (p50, mean):
        assert (row.status, row.too_coarse) == (OPEN, True)
        assert "times are kept in whole microseconds" in row.reason
        assert "the file" not in row.reason
        assert "time several calls together" in row.reason
    assert "more requests do not help" in judged.next_action


def test_a_few_times_stored_as_one_number_do_not_count_as_equal():
    _, p50, _ = compare(normal(3.70, 0.02), normal(5.28, 0.02), 0.02, rate_per_s=0.3, instances=(1,))
    assert p50.status is MetricStatus.NO_DATA
    assert "stored as 4 µs" in p50.reason
    assert "are equal" not in p50.reason
    _, p50, _ = compare(normal(40_000, 0.0), normal(40_000, 0.0), 0.02, rate_per_s=0.3, instances=(1,))
    assert "are equal" in p50.reason


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slower", [0.98, 1.0, 1.02, 1.1])
def test_whole_milliseconds_around_15_decide_no_margin_of_2_percent(slower, seed):
    times = lognormal(15_000, 0.45, 1000), lognormal(15_000 * slower, 0.45, 1000)
    _, p50, _ = compare(*times, 0.02, seed=seed)
    assert (p50.status, p50.too_coarse) == (OPEN, True)
    assert "the load tool, file or log recorded times in steps of 1 ms" in p50.reason
    assert all(q.p_worse == q.p_within == 1 for q in p50.questions)


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_of_times_on_one_or_two_steps_is_not_decided_and_one_of_times_on_many_is(seed):
    """True means 15.40 and 15.43 ms, all within 0.1 ms: read as 15 and 15, or as 15 and 16."""
    _, _, narrow = compare(normal(15_400, 60, 1000), normal(15_430, 60, 1000), 0.02, seed=seed)
    assert (narrow.status, narrow.too_coarse) == (OPEN, True)
    _, _, apart = compare(normal(15_400, 60, 1000), normal(15_620, 60, 1000), 0.02, seed=seed)
    assert (apart.status, apart.too_coarse) == (OPEN, True)
    _, _, wide = compare(normal(15_400, 3000, 1000), normal(15_400, 3000, 1000), 0.05, seed=seed, rate_per_s=80.0)
    assert wide.status is PASS


def test_whole_milliseconds_around_100_decide_a_margin_of_5_percent():
    alike = lognormal(100_000, 0.3, 1000)
    for slower, expected in ((1.0, PASS), (1.1, FAIL)):
        _, p50, mean = compare(alike, lognormal(100_000 * slower, 0.3, 1000), 0.05)
        assert (p50.status, mean.status) == (expected, expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_harm_that_is_smaller_than_its_margin_by_less_than_what_rounding_hides_is_not_called_worse(seed):
    """All of the baseline reads as 20 ms, all of the candidate as 22; the truth is 20.4 and 21.6: +5.9 %, not +10 %."""
    times = normal(20_400, 10, 1000), normal(21_600, 10, 1000)
    _, p50, mean = compare(*times, 0.08, seed=seed)
    assert (p50.status, mean.status) == (OPEN, OPEN)
    assert p50.effect.lower < 0.059 < p50.effect.upper
    assert mean.effect.lower < 0.059 < mean.effect.upper


@pytest.mark.parametrize(
    ("baseline", "canary"),
    [
        pytest.param(normal(100_000, 3000, 10_000), normal(103_000, 3000, 10_000), id="multiples of 10 ms"),
        pytest.param(normal(100_000, 3000, 15_625), normal(103_000, 3000, 15_625), id="multiples of 15.625 ms"),
        pytest.param(in_ticks(100_000, 3000), in_ticks(103_000, 3000), id="the same in whole milliseconds"),
    ],
)
def test_the_ticks_of_a_slow_clock_are_steps(baseline, canary):
    _, p50, mean = compare(baseline, canary, 0.08)
    assert p50.too_coarse
    assert {p50.status, mean.status} == {OPEN}


@pytest.mark.parametrize("odd", ["cut off at 1 ms", "one in a thousand is recorded finely"])
def test_a_few_times_off_the_step_do_not_make_the_others_fine(odd):
    """18 % more is no change where times are written in steps of 100 ms."""

    def written(median):
        def draw(random, n):
            times = median * np.exp(0.3 * random.normal(size=n))
            steps = np.rint(times / 100_000) * 100_000
            fine = random.random(n) < 0.001
            return np.maximum(steps, 1_000) if odd.startswith("cut") else np.where(fine, np.rint(times), steps)

        return draw

    judged, p50, _ = compare(written(100_000), written(118_000), 0.1)
    assert (p50.status, p50.too_coarse) == (OPEN, True)
    assert judged.word is not VerdictWord.GO


def test_two_frequent_times_are_no_step_of_those_that_spread():
    """Four in ten answers take exactly 20 or 40 ms, the others whatever they take."""

    def mixed(random, n):
        said = random.choice([20_000.0, 40_000.0], n)
        return np.where(random.random(n) < 0.4, said, np.rint(30_000 * np.exp(0.3 * random.normal(size=n))))

    for rate in (0.3, 30.0):
        _, p50, _ = compare(mixed, mixed, 0.1, rate_per_s=rate)
        assert not p50.too_coarse


def test_the_coarser_of_two_arms_decides():
    """The baseline in microseconds, the candidate cut off to milliseconds: half a step faster than it is."""
    times = lognormal(15_000, 0.45), lognormal(15_000, 0.45, 1000, np.floor)
    _, p50, mean = compare(*times, 0.05)
    assert p50.too_coarse
    assert "the times of canary in steps of 1 ms" in p50.reason
    # Cut off by half a millisecond, 3.3 %: that alone is not called faster, nor a rise by 6 % within 5 %.
    assert mean.effect.upper > 0
    _, _, slower = compare(times[0], lognormal(15_900, 0.45, 1000, np.floor), 0.05)
    assert slower.status is OPEN
    assert slower.effect.lower < 0.06 < slower.effect.upper


def test_a_limit_is_decided_with_any_step():
    times = lognormal(15_000, 0.45, 1000), lognormal(15_000, 0.45, 1000)
    _, p50, _ = compare(*times, 0.02, limit=400.0)
    assert p50.status is OPEN
    assert next(q for q in p50.questions if q.kind == "limit").p_within < 0.001
    judged, p50, _ = compare(*times, 0.02, limit=10.0)
    assert (p50.status, judged.word) == (FAIL, VerdictWord.NO_GO)


def test_an_earlier_look_decides_nothing_either():
    """The baseline is 30 ms at first, 15 ms later: at the first looks a step of 1 ms is finer than the margin."""
    requests = timed_requests(lognormal(15_000, 0.2), lognormal(15_000, 0.2), duration_s=3600.0, rate_per_s=8.0)
    early = requests.ts_us < requests.ts_us.min() + 1200 * 1_000_000
    times = requests.response_us * np.where(early, np.where(requests.arm == 1, 2.6, 2.0), 1.0)
    requests = replace(requests, response_us=(np.rint(times / 1000) * 1000).astype(np.int64))
    rules = (Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(0.055)),)
    watched = Rulebook(rules, monitoring=Monitoring(mode="group_sequential", max_duration_s=3600.0))
    judged = judge(to_cells(requests), watched)
    p50 = next(c for c in judged.comparisons if not c.scan)
    assert min(p for look in p50.looks for p in look.p_worse) == 1.0
    assert (p50.too_coarse, p50.status, p50.decided_at_s) == (True, OPEN, None)


def test_narrow_times_of_a_benchmark_are_still_decided():
    """A standard deviation of 0.5 %: all times are in one bin of the histogram, which is 2 % wide."""
    for slower, expected in ((1.0, PASS), (1.05, FAIL)):
        _, p50, _ = compare(normal(819_000, 4000), normal(819_000 * slower, 4000), 0.02, **REPLICATES)
        assert p50.status is expected


def test_times_within_one_bin_are_not_shown_to_be_within_a_narrower_margin():
    """+1.8 % within one bin: without allowance it reads as no change at all."""
    _, p50, _ = compare(normal(15_210, 5), normal(15_478, 5), 0.01)
    assert p50.status is OPEN
    assert p50.effect.upper > 0.017


def test_steps_are_found_by_arm_and_endpoint():
    requests = timed_requests(lognormal(50_000, 0.3), lognormal(50_000, 0.3), endpoints=2)
    coarse = (requests.arm == 1) & (requests.endpoint == 1)
    times = np.where(coarse, np.rint(requests.response_us / 1000) * 1000, requests.response_us)
    panel = build_panel(to_cells(replace(requests, response_us=times.astype(np.int64))), "canary")
    assert panel.steps_ms.tolist() == [[0.001, 0.001], [0.001, 1.0]]
    assert panel.grid_ms == 0.001
    # A third of the candidate's requests go there: more than a quarter.
    assert step_of_arms_ms(panel).tolist() == [0.001, 1.0]


@pytest.mark.parametrize("name", ["AA", "AA_cache", "single_75s"])
def test_times_in_microseconds_leave_no_doubt(name):
    design = replace(SCENARIOS[name], duration_s=min(SCENARIOS[name].duration_s, 300.0))
    panel = build_panel(simulate_cells(design, 2), "canary")
    assert find_doubt_ms(panel, all_together(len(panel.endpoints))).tolist() == [0.0]


def test_a_policy_that_allows_more_than_a_step_is_decided():
    times = lognormal(15_000, 0.45, 1000), lognormal(15_000, 0.45, 1000)
    _, p50, _ = compare(*times, 0.10, rate_per_s=80.0)
    assert (p50.status, p50.too_coarse) == (PASS, False)
    assert parse_policy({}).rulebook.rules[1].margin == Margin(0.05)


def in_nanoseconds(baseline, canary, margin, **changes):
    """p50 and mean of a release with these times (ns) under one margin; cells keep nanoseconds."""
    cells = replace(to_cells(timed_requests(baseline, canary, **REPLICATES, **changes)), units_per_ms=NANOSECONDS)
    rules = (
        Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(margin)),
        Rule("latency_mean", LatencyMean(), margin=Margin(margin)),
    )
    judged = judge(cells, Rulebook(rules), tuple(replace(RUN, id=run) for run in cells.runs))
    return judged, *(c for c in judged.comparisons if not c.scan)


@pytest.mark.parametrize(
    ("baseline", "canary", "words"),
    [
        pytest.param(15_486, 15_562, {VerdictWord.GO, VerdictWord.INCONCLUSIVE}, id="+0.5 %"),
        pytest.param(15_486, 16_260, {VerdictWord.NO_GO}, id="+5 %"),
        pytest.param(3_700, 5_280, {VerdictWord.NO_GO}, id="+43 %"),
        pytest.param(3_700, 3_700, {VerdictWord.GO, VerdictWord.INCONCLUSIVE}, id="unchanged"),
        pytest.param(3.6e12, 3.96e12, {VerdictWord.NO_GO}, id="hours, +10 %"),
        pytest.param(3.6e12, 3.6e12, {VerdictWord.GO, VerdictWord.INCONCLUSIVE}, id="hours, unchanged"),
    ],
)
def test_nanosecond_benchmarks_and_jobs_of_hours_are_judged_alike(baseline, canary, words):
    """Five replicates a side with times that vary by 1 %, and a margin of 2 %."""
    judged, p50, mean = in_nanoseconds(normal(baseline, baseline / 100), normal(canary, canary / 100), 0.02)
    assert judged.word in words
    for row in (p50, mean):
        assert row.baseline.value == pytest.approx(baseline / 1e6, rel=0.02)
        assert row.effect.estimate == pytest.approx(canary / baseline - 1, abs=0.01)
        assert not row.too_coarse


def test_a_thousandth_of_all_times_is_judged_the_same():
    cells = to_cells(timed_requests(normal(15_486, 200), normal(15_900, 200), **REPLICATES))
    small = replace(cells, units_per_ms=NANOSECONDS)
    rules = (
        Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.02)),
        Rule("latency_mean", LatencyMean(), margin=Margin(0.02)),
    )
    runs = tuple(replace(RUN, id=run) for run in cells.runs)
    large_judged, small_judged = (judge(one, Rulebook(rules), runs) for one in (cells, small))
    assert large_judged.word is small_judged.word
    for large_row, small_row in zip(large_judged.comparisons, small_judged.comparisons, strict=True):
        assert large_row.status is small_row.status
        if large_row.unit != "ms":
            continue
        assert large_row.baseline.value == pytest.approx(1000 * small_row.baseline.value, rel=1e-12)
        for name in ("estimate", "lower", "upper"):
            assert getattr(large_row.effect, name) == pytest.approx(getattr(small_row.effect, name), abs=1e-9)


def test_whole_nanoseconds_are_named():
    """Calls of 3 ns: the store keeps no finer times, so only longer ones help."""
    _, p50, _ = in_nanoseconds(normal(3.4, 0.3), normal(3.5, 0.3), 0.02)
    assert (p50.status, p50.too_coarse) == (OPEN, True)
    assert "times are kept in whole nanoseconds" in p50.reason
    assert "time several calls together" in p50.reason
    assert "record times in finer steps" not in p50.reason


def in_both_units(baseline_ns, canary_ns, runs, whole_runs, metrics):
    """Judge runs of these times (ns) by a margin of 10 %; the first `whole_runs` of them are kept in microseconds."""
    changes = {**REPLICATES, "replicates": runs}
    requests = timed_requests(normal(baseline_ns, baseline_ns / 12), normal(canary_ns, canary_ns / 12), **changes)
    times = np.where(requests.run < whole_runs, np.rint(requests.response_us / 1000) * 1000, requests.response_us)
    cells = to_cells(replace(requests, response_us=times.astype(np.int64)))
    cells = replace(cells, units_per_ms=NANOSECONDS, coarsest_unit=1000 if 0 < whole_runs < runs else 1)
    rules = tuple(Rule(f"latency_{k}", metric, margin=Margin(0.1)) for k, metric in enumerate(metrics))
    all_runs = tuple(replace(RUN, id=run) for run in cells.runs)
    judged = judge(cells, Rulebook(rules), all_runs)
    findings = [f for f in evidence(cells, Rulebook(rules), all_runs).findings if f.check == "resolution"]
    return judged, [c for c in judged.comparisons if not c.scan], findings


@pytest.mark.parametrize(("runs", "whole_runs"), [(2, 1), (3, 1), (8, 1), (4, 3)])
@pytest.mark.parametrize(("baseline_ns", "canary_ns"), [(750, 880), (1200, 1450), (750, 750)])
def test_runs_in_microseconds_and_nanoseconds_decide_nothing_below_a_microsecond(
    runs, whole_runs, baseline_ns, canary_ns
):
    metrics = (LatencyQuantile(quantile=0.5), LatencyQuantile(quantile=0.95), LatencyMean())
    judged, rows, findings = in_both_units(baseline_ns, canary_ns, runs, whole_runs, metrics)
    assert judged.word is VerdictWord.INCONCLUSIVE
    for row in rows:
        assert row.status is OPEN
        assert "the store keeps some of these runs in whole microseconds and others in nanoseconds" in row.reason
        assert "with --run" in row.reason
        assert "the load tool" not in row.reason
    [finding] = [f for f in findings if f.level is Level.WARN]
    assert finding.text.startswith("the store keeps some of these runs")
    assert "import the old files as another release" in finding.remedy
    # What hides the geometric means, which the endpoint scan compares, forbids a GO.
    for failed in (f for f in findings if f.level is Level.FAIL):
        assert "in some of these runs" in failed.text
        assert "--run" in failed.remedy


@pytest.mark.parametrize("whole_runs", [0, 2])
def test_runs_in_microseconds_may_move_a_quantile_by_half_of_one_in_each_arm(whole_runs):
    """A margin of 1.05 µs is more than a step, but not more than the doubt of both arms and a little variation."""
    _, rows, _ = in_both_units(9_200, 9_200, 5, whole_runs, (LatencyQuantile(quantile=0.95), LatencyMean()))
    assert [row.status for row in rows] == [OPEN if whole_runs else PASS] * 2
    assert not rows[0].too_coarse


@pytest.mark.parametrize("canary_ns", [200_000, 260_000])
def test_longer_times_in_both_units_are_decided(canary_ns):
    metrics = (LatencyQuantile(quantile=0.5), LatencyMean())
    judged, rows, _ = in_both_units(200_000, canary_ns, 5, 2, metrics)
    assert judged.word is not VerdictWord.INCONCLUSIVE
    assert {row.status for row in rows} == {PASS if canary_ns == 200_000 else FAIL}


def of_two_modes(short_us, share):
    """Times (µs) of which a share is short, as of a cache, and the rest around 5 ms; in whole microseconds."""
    return lambda random, n: np.where(
        random.random(n) < share, np.rint(short_us * np.exp(0.2 * random.normal(size=n))), random.normal(5000, 500, n)
    )


@pytest.mark.parametrize(
    ("short_us", "share", "most", "least"),
    [
        pytest.param((0.2, 0.6), 0.45, np.inf, np.log(3) * 0.45, id="a cache below a microsecond"),
        pytest.param((0.2, 0.6), 0.005, 0.03, 0.0, id="a few"),
        pytest.param((5.0, 5.0), 0.45, 0.10, 0.0, id="some microseconds"),
        pytest.param((50.0, 50.0), 0.45, 0.0, 0.0, id="tens of microseconds"),
    ],
)
def test_logarithms_of_times_of_few_steps_are_in_doubt(short_us, share, most, least):
    requests = timed_requests(*(of_two_modes(median, share) for median in short_us), rate_per_s=40.0)
    panel = build_panel(to_cells(requests), "canary")
    [doubt] = find_log_doubt(panel, all_together(len(panel.endpoints)))
    assert least <= doubt <= most


@pytest.mark.parametrize("name", ["AA", "AA_cache", "AA_integer_ms"])
def test_logarithms_of_times_that_spread_are_not_in_doubt(name):
    design = replace(SCENARIOS[name], duration_s=min(SCENARIOS[name].duration_s, 300.0))
    panel = build_panel(simulate_cells(design, 2), "canary")
    assert find_log_doubt(panel, all_together(len(panel.endpoints)))[0] < 0.005


def test_no_go_if_microseconds_hide_the_geometric_mean_that_the_scan_compares():
    rules = (Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.1)),)
    words = {}
    for short_us in ((0.2, 0.6), (60.0, 60.0)):
        cells = to_cells(timed_requests(*(of_two_modes(median, 0.45) for median in short_us), rate_per_s=60.0))
        judged = judge(cells, Rulebook(rules))
        words[short_us[0]] = judged.word
        failed = [f.text for f in evidence(cells, Rulebook(rules)).findings if f.level is Level.FAIL]
        assert ["rounding may hide a change of their geometric mean by 25 %" in text for text in failed] == (
            [True] if short_us[0] < 1 else []
        )
    assert words == {0.2: VerdictWord.INCONCLUSIVE, 60.0: VerdictWord.GO}
