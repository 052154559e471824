"""Few repeated runs: benchmarks of ten processes a side, judged by order statistics (method B.2)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import RULEBOOK, evidence, judge

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.records import Limit, Margin, MetricStatus, Role, Rule, Run, RunState, VerdictWord
from evaluator.simulate import Requests, to_cells
from evaluator.stats.estimators.order_statistics import take_run_times
from evaluator.stats.shaping.panel import build_panel

P50 = Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(0.05))
P99 = Rule("latency_p99", LatencyQuantile(quantile=0.99), margin=Margin(0.05))
ONE_GATE = replace(RULEBOOK, rules=(P50,))
TEN = 800 + np.array([3.137, -9.281, 0.412, 12.795, -20.526, 7.303, -4.648, 25.871, -13.964, 16.219])
"""Ten times (ms) with a spread of 2 %."""


def make_requests(baseline_ms, canary_ms, *, together: bool = False, endpoints: int = 1) -> Requests:
    """Requests of runs that took turns (or ran `together`), each arm with a row of times (ms) a run.

    Both are of shape (runs,) or (runs, requests); infinite times are failures. An arm may have fewer runs.
    """
    arms = [np.atleast_2d(np.asarray(times, float).T).T for times in (baseline_ms, canary_ms)]
    run, arm, second, times = [], [], [], []
    for code, rows in enumerate(arms):
        for k, row in enumerate(rows):
            for number, time_ms in enumerate(row):
                run.append(k)
                arm.append(code)
                second.append(120 * k + (0 if together else 60 * code) + number)
                times.append(time_ms)
    time_ms, zeros = np.array(times), np.zeros(len(times), dtype=np.int64)
    failed = ~np.isfinite(time_ms)
    return Requests(
        runs=tuple(f"r{k}" for k in range(max(len(rows) for rows in arms))),
        arms=("baseline", "canary"),
        endpoints=tuple(f"parse {number}" for number in range(endpoints)),
        instances=("",),
        exceptions=("", "timeout"),
        run=np.array(run),
        arm=np.array(arm),
        endpoint=np.arange(len(times)) % endpoints,
        instance=zeros,
        ts_us=1_767_571_200_000_000 + 1_000_000 * np.array(second),
        response_us=np.rint(1000 * np.where(failed, 1.0, time_ms)).astype(np.int64),
        failed=failed,
        response_bytes=zeros,
        status=zeros + 200,
        exception=failed.astype(np.int64),
    )


def judge_runs(requests: Requests, rulebook=ONE_GATE):
    runs = tuple(Run(name, "b@1", "g1", "import", state=RunState.COMPLETE) for name in requests.runs)
    return judge(to_cells(requests, 1), rulebook, runs)


def find(judgement, rule=P50):
    return next(c for c in judgement.comparisons if c.rule.name == rule.name and not c.scan)


def no_data_of(requests: Requests, rule=P50) -> str:
    return find(judge_runs(requests, replace(RULEBOOK, rules=(rule,))), rule).no_data or ""


# ------------------------------------------------------------------ ten against ten


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("change", "word"), [(0.86, VerdictWord.NO_GO), (-0.86, VerdictWord.GO)])
def test_ten_runs_an_arm_decide_a_large_change(change, word, together):
    judgement = judge_runs(make_requests(TEN, TEN[::-1] * (1 + change), together=together))
    assert judgement.word is word
    found = find(judgement)
    assert found.method == "order statistics, replicates"
    assert found.effect.estimate == pytest.approx(change, abs=1e-4)
    assert found.effect.lower < change < found.effect.upper


def test_the_interval_is_that_of_the_ranks():
    """Ranks 2 and 9 of ten: exact medians, not the limits of bins that are 2 % wide."""
    found = find(judge_runs(make_requests(TEN, 1.5 * TEN)))
    rising = np.sort(TEN)
    assert found.baseline.value == pytest.approx(np.median(TEN), abs=1e-3)
    # Half a microsecond on each arm is the largest error by rounding.
    assert found.effect.lower == pytest.approx(1.5 * rising[1] / rising[8] - 1, abs=3e-6)
    assert found.effect.upper == pytest.approx(1.5 * rising[8] / rising[1] - 1, abs=3e-6)


def test_an_equal_release_within_the_spread_is_go_and_one_beyond_it_stays_open():
    assert judge_runs(make_requests(TEN, TEN * 0.999)).word is VerdictWord.GO
    assert judge_runs(make_requests(TEN, TEN * 1.04)).word is VerdictWord.INCONCLUSIVE
    wide = 800 + 3 * (TEN - 800)
    assert judge_runs(make_requests(wide, wide * 0.999)).word is VerdictWord.INCONCLUSIVE


def test_a_margin_in_ms_and_a_limit_are_decided_too():
    rule = replace(P50, margin=Margin(40.0, relative=False), limit=Limit(max=900.0))
    slow = find(judge_runs(make_requests(TEN, TEN + 80), replace(ONE_GATE, rules=(rule,))))
    assert slow.effect.kind == "absolute"
    assert {question.kind: question.p_worse < 0.05 for question in slow.questions} == {
        "zero": True,
        "margin": True,
        "limit": False,
    }
    beyond = find(judge_runs(make_requests(TEN, TEN + 300), replace(ONE_GATE, rules=(rule,))))
    # All ten times are above the limit: the chance is 2^-10 if the median is at the limit.
    assert next(q.p_worse for q in beyond.questions if q.kind == "limit") == pytest.approx(2**-10)
    kept = find(judge_runs(make_requests(TEN, TEN), replace(ONE_GATE, rules=(rule,))))
    assert next(q.p_within for q in kept.questions if q.kind == "limit") == pytest.approx(2**-10)
    lowest = replace(P50, margin=None, limit=Limit(min=900.0))
    below = find(judge_runs(make_requests(TEN, TEN), replace(ONE_GATE, rules=(lowest,))))
    assert below.status is MetricStatus.FAIL


def test_failures_count_as_infinitely_slow():
    failing = np.where(np.arange(10) < 7, np.inf, TEN * 0.5)
    assert judge_runs(make_requests(TEN, failing)).word is VerdictWord.INCONCLUSIVE
    assert judge_runs(make_requests(TEN, np.full(10, np.inf))).word is VerdictWord.NO_GO
    found = find(judge_runs(make_requests(np.where(np.arange(10) < 7, np.inf, TEN), TEN)))
    assert found.status is MetricStatus.NO_DATA
    assert "so many requests fail" in found.no_data


def test_times_in_steps_wider_than_the_margin_decide_nothing():
    """15 and 16 µs may be 15.49 and 15.51 µs: +7 % is not shown, although all times of an arm are the same."""
    baseline, canary = np.array([0.015] * 7 + [0.014] * 3), np.array([0.016] * 8 + [0.017] * 2)
    found = find(judge_runs(make_requests(baseline, canary)))
    assert found.status is MetricStatus.INCONCLUSIVE
    assert found.too_coarse


def test_half_a_step_is_against_each_claim():
    """Whole milliseconds: 105 against 100 ms is +5 % at most by rounding, and 107 is not."""
    baseline, level = np.tile([100.0, 99.0, 101.0], 4), P50
    for canary_ms, is_worse in ((108.0, True), (107.0, False)):
        times = np.tile([canary_ms, canary_ms, canary_ms + 1], 4)
        found = find(judge_runs(make_requests(baseline, times)), level)
        assert (found.questions[1].p_worse < 0.05) is is_worse


# ------------------------------------------------------------------ the unit is the run


def test_the_median_of_a_run_stands_for_the_run():
    rows = TEN[:7, None] * np.array([1.0, 0.99, 3.0])
    judgement = judge_runs(make_requests(rows, 2 * rows))
    assert judgement.word is VerdictWord.NO_GO
    assert find(judgement).candidate.n == 21
    assert find(judgement).effect.estimate == pytest.approx(1.0, abs=0.02)
    repeated = "59 repeated runs with one request each on one endpoint are enough"
    p95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.05))
    assert repeated in no_data_of(make_requests(rows, 2 * rows), p95)


def test_ten_requests_of_one_run_decide_nothing():
    """They do not show how much runs differ, however clear they look."""
    requests = make_requests(TEN[None, :], 9 * TEN[None, :])
    judgement = judge_runs(requests)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert no_data_of(requests) == (
        "only 10 requests on canary and as many on baseline, at least 30 are needed (6 repeated runs with one request "
        "each on one endpoint are enough)"
    )


def test_requests_of_several_endpoints_are_not_mixed():
    assert "on one endpoint" in no_data_of(make_requests(TEN, 9 * TEN, endpoints=2))


def test_too_few_runs_say_how_many_are_needed():
    assert "6 runs with requests of both arms are enough; there are 5" in no_data_of(make_requests(TEN[:5], TEN[:5]))
    assert find(judge_runs(make_requests(TEN[:6], 9 * TEN[:6]))).status is MetricStatus.FAIL
    assert "299 runs with requests of both arms are enough; there are 10" in no_data_of(make_requests(TEN, TEN), P99)


def test_a_lower_alpha_needs_more_runs():
    strict = replace(ONE_GATE, alpha=0.01)
    assert "8 runs" in find(judge_runs(make_requests(TEN[:7], 9 * TEN[:7]), strict)).no_data
    assert find(judge_runs(make_requests(TEN[:8], 9 * TEN[:8]), strict)).status is MetricStatus.FAIL


def test_enough_runs_decide_a_tail_quantile():
    """With 65 runs p95 is decided, for which the test by shares needs a hundred."""
    times = np.random.default_rng(1).normal(800, 20, 65)
    p95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.05))
    found = find(judge_runs(make_requests(times, 2 * times), replace(RULEBOOK, rules=(p95,))), p95)
    assert (found.status, found.method) == (MetricStatus.FAIL, "order statistics, replicates")


# ------------------------------------------------------------------ which arm is short


def test_the_message_names_the_arm_that_is_short_and_explains_a_partner():
    """60 runs of the baseline and 28 of the candidate: the candidate is short, and only 28 of the 60 count."""
    rule = Rule("failures", FailureRate(), margin=Margin(0.01, relative=False))
    requests = make_requests(np.resize(TEN, 60), np.resize(TEN, 28))
    assert no_data_of(requests, rule) == (
        "only 28 requests on canary, so only 28 of 60 on baseline have a partner, at least 30 are needed; a request "
        "has a partner if the other arm has requests in the same run, in the time both share"
    )
    assert find(judge_runs(make_requests(np.resize(TEN, 60), 1.245 * np.resize(TEN, 28)))).status is MetricStatus.FAIL
    swapped = make_requests(np.resize(TEN, 12), np.resize(TEN, 40))
    assert no_data_of(swapped, rule).startswith("only 12 requests on baseline, so only 12 of 40 on canary have")


def test_enough_requests_with_too_few_partners_are_both_counted():
    """Fifty requests a run, of which each arm has ten in the time that both share."""
    rule = Rule("failures", FailureRate(), margin=Margin(0.01, relative=False))
    requests = make_requests(np.resize(TEN, (1, 50)), np.resize(TEN, (1, 50)), together=True)
    later = replace(requests, ts_us=requests.ts_us + 24_000_000 * requests.arm)
    text = no_data_of(later, rule)
    assert text.startswith("only 26 of 50 requests on canary and 26 of 50 on baseline have a partner, at least 30")


# ------------------------------------------------------------------ the endpoint scan


def test_a_gate_on_the_only_endpoint_takes_the_place_of_the_scan():
    """Ten requests are too few for the scan, but the gate has seen all of them."""
    requests = make_requests(TEN, TEN)
    runs = tuple(Run(name, "b@1", "g1", "import", state=RunState.COMPLETE) for name in requests.runs)
    cells = to_cells(requests, 1)
    assert evidence(cells, ONE_GATE, runs).unjudged_share == 0
    watched = replace(RULEBOOK, rules=(replace(P50, role=Role.WATCH),))
    assert evidence(cells, watched, runs).unjudged_share == 1
    without_data = replace(RULEBOOK, rules=(P99,))
    assert evidence(cells, without_data, runs).unjudged_share == 1


def test_a_mean_of_few_runs_is_not_decided_and_names_the_median():
    rule = Rule("mean", LatencyMean(), margin=Margin(0.05))
    text = no_data_of(make_requests(TEN, 9 * TEN), rule)
    assert text.endswith("at least 30 are needed (a median is decided from 6 runs on)")


def test_runs_in_a_coarser_unit_than_others_widen_the_time_of_each_run():
    """Two requests in each second: their times are known from the bins, which are those of the finest run."""
    times = np.repeat(TEN[:5, None] / 1e5, 2, axis=1) + 0.001  # about 9 µs, in cells of nanoseconds
    cells = to_cells(make_requests(1000 * times, 1000 * times), 10)
    fine, mixed = (
        take_run_times(build_panel(replace(cells, units_per_ms=1_000_000, coarsest_unit=unit), "canary"))
        for unit in (1, 1000)
    )
    assert mixed.low == pytest.approx(fine.low - 0.0005)
    assert mixed.high == pytest.approx(fine.high + 0.0005)
