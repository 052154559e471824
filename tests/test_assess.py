"""The judge on whole simulated releases: properties that must hold whatever the numbers are."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import RULEBOOK, RULES, RUN, SMALL, evidence, judge

from evaluator.errors import UnknownName
from evaluator.metrics.latency import LatencyMean
from evaluator.records import (
    Level,
    Limit,
    Margin,
    MetricStatus,
    Monitoring,
    Rule,
    RunFacts,
    RunState,
    Slice,
    VerdictWord,
)
from evaluator.simulate import SCENARIOS, Change, Requests, simulate, simulate_cells, to_cells

GO, NO_GO, OPEN = VerdictWord.GO, VerdictWord.NO_GO, VerdictWord.INCONCLUSIVE


def _select(requests: Requests, keep: np.ndarray) -> Requests:
    chosen = {
        f.name: getattr(requests, f.name)[keep]
        for f in fields(requests)
        if isinstance(getattr(requests, f.name), np.ndarray)
    }
    return replace(requests, **chosen)


def _before(cells, bucket):
    """The cells as they were when no later bucket had landed."""
    tables = {
        name: type(rows)(**{f.name: getattr(rows, f.name)[keep] for f in fields(rows)})
        for name, rows, keep in (
            ("moments", cells.moments, cells.moments.bucket < bucket),
            ("bins", cells.bins, cells.bins.bucket < bucket),
            ("instance_bins", cells.instance_bins, cells.instance_bins.block * 4 < bucket),
        )
    }
    return replace(cells, **tables)


def test_identical_releases_are_rarely_stopped():
    """24 identical releases, four kinds: no NO-GO (false-alarm rate well below 5 %), and most of an hour's are GO."""
    words = [
        judge(simulate_cells(SCENARIOS[name], seed)).word
        for name in ("AA", "AA_mix", "AA_inst3", "AA_short_pods")
        for seed in range(6)
    ]
    assert NO_GO not in words
    assert words[:6].count(GO) >= 4


@pytest.mark.parametrize("name", ["mean+20%", "p99x1.5"])
def test_clear_regressions_are_stopped(name):
    assert [judge(simulate_cells(SCENARIOS[name], seed)).word for seed in range(4)] == [NO_GO] * 4


def test_a_slow_endpoint_is_found_by_the_scan():
    design = replace(SMALL, duration_s=900.0, changes=(Change(endpoint=1.0, endpoint_index=3),))
    found = judge(simulate_cells(design, 1))
    assert found.word is NO_GO
    worst = {c.rule.slice.endpoint for c in found.comparisons if c.scan and c.status is MetricStatus.FAIL}
    assert worst == {"GET /endpoint/003"}


def test_faster_by_failing_is_no_improvement():
    """Three times faster, 5 % new failures: p99 becomes a failure."""
    design = replace(SMALL, changes=(Change(latency=-0.66, failures_added=0.05),))
    found = judge(simulate_cells(design, 1))
    assert found.word is NO_GO
    assert "became a failure" in " ".join(reason.text for reason in found.reasons) or found.reasons[0].metric


def test_one_instance_a_side_is_never_go_but_can_be_no_go():
    calm = replace(SMALL, duration_s=1800.0, instances=(1,), instance_sd=0.0)
    found = evidence(simulate_cells(calm, 1))
    check = next(f for f in found.findings if f.check == "single_instance")
    assert check.level is Level.FAIL
    assert "evaluator import RELEASE --baseline" in check.remedy
    loaded = evidence(simulate_cells(calm, 1), runs=(replace(RUN, source="locust"),))
    assert "--replicates 5" in next(f for f in loaded.findings if f.check == "single_instance").remedy
    assert judge(simulate_cells(calm, 1)).word is OPEN
    bad = replace(calm, changes=(Change(latency=1.5),))
    assert judge(simulate_cells(bad, 1)).word is NO_GO


@pytest.mark.parametrize("seed", range(5))
def test_wider_margins_never_turn_go_into_no_go(seed):
    design = replace(SMALL, duration_s=900.0, changes=(Change(latency=0.08),))
    cells = simulate_cells(design, seed)
    order = {NO_GO: 0, OPEN: 1, GO: 2}
    words = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        rules = tuple(
            replace(rule, margin=Margin(rule.margin.value * factor, rule.margin.relative)) if rule.margin else rule
            for rule in RULEBOOK.rules
        )
        words.append(order[judge(cells, replace(RULEBOOK, rules=rules)).word])
    assert words == sorted(words)


def test_cells_of_two_halves_merge_to_the_same_evidence():
    requests = simulate(SMALL, 4)
    middle = np.median(requests.ts_us)
    halves = [
        to_cells(_select(requests, keep), bucket_s=5) for keep in (requests.ts_us < middle, requests.ts_us >= middle)
    ]
    tables = {}
    for name in ("moments", "bins", "instance_bins", "loads"):
        parts = [getattr(half, name) for half in halves]
        tables[name] = type(parts[0])(
            **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
        )
    merged = replace(halves[0], grid=int(np.gcd(*(half.grid for half in halves))), **tables)
    whole = to_cells(requests, bucket_s=5)
    assert halves[0].endpoints == halves[1].endpoints == whole.endpoints
    assert halves[0].instances == halves[1].instances == whole.instances
    for one, other in zip(evidence(merged).comparisons, evidence(whole).comparisons, strict=True):
        assert one.effect == other.effect or one.effect.estimate == pytest.approx(other.effect.estimate, rel=1e-9)
        assert [t.p_worse for t in one.questions] == pytest.approx([t.p_worse for t in other.questions], rel=1e-6)


def test_the_same_cells_give_the_same_judgement():
    cells = simulate_cells(SMALL, 4)
    assert judge(cells) == judge(cells)


@pytest.mark.parametrize("missing", [0, 1])
def test_one_arm_only_is_named(missing):
    requests = simulate(SMALL, 4)
    one = _select(requests, requests.arm != missing)
    name = ("baseline", "canary")[missing]
    cells = to_cells(one)
    found = judge(replace(cells, arms=cells.arms[:1] if missing else cells.arms))
    assert found.word is OPEN
    assert f"{name} has no requests" in found.reasons[1 if found.reasons[0].code == "health" else 0].text


def test_an_unknown_endpoint_is_an_error_with_a_suggestion():
    rule = Rule("x", LatencyMean(), margin=Margin(0.1), slice=Slice("GET /endpoint/01"))
    with pytest.raises(UnknownName, match="did you mean 'GET /endpoint/00"):
        judge(simulate_cells(SMALL, 1), replace(RULEBOOK, rules=(rule,)))


def test_an_endpoint_of_one_arm_only_is_no_data_for_its_metric():
    requests = simulate(SMALL, 4)
    gone = _select(requests, ~((requests.arm == 1) & (requests.endpoint == 2)))
    rule = Rule("x", LatencyMean(), margin=Margin(0.1), slice=Slice(gone.endpoints[2]))
    found = judge(to_cells(gone), replace(RULEBOOK, rules=(*RULEBOOK.rules, rule)))
    asked = next(c for c in found.comparisons if c.rule.name == "x")
    assert asked.status is MetricStatus.NO_DATA
    assert found.word is OPEN


def test_arms_at_different_times_are_never_go():
    requests = simulate(replace(SMALL, duration_s=900.0), 4)
    shifted = np.where(requests.arm == 1, requests.ts_us + 3600 * 1_000_000, requests.ts_us)
    cells = to_cells(replace(requests, ts_us=shifted), bucket_s=15)
    found = evidence(cells)
    assert next(f for f in found.findings if f.check == "overlap").level is Level.FAIL
    assert judge(cells).word is OPEN
    assert next(c for c in found.comparisons if c.rule.name == "latency_mean").effect is not None


def test_arms_one_after_the_other_keep_their_own_time():
    """Each arm's rate, and the judged time in the verdict, count the seconds in which it ran."""
    requests = simulate(replace(SMALL, duration_s=900.0), 4)
    together = evidence(to_cells(requests, bucket_s=15))
    later = np.where(requests.arm == 1, requests.ts_us + 900 * 1_000_000, requests.ts_us)
    apart = evidence(to_cells(replace(requests, ts_us=later), bucket_s=15))
    paired, unpaired = (
        next(c for c in found.comparisons if c.rule.name == "throughput") for found in (together, apart)
    )
    assert unpaired.baseline.value == pytest.approx(paired.baseline.value, rel=0.02)
    assert unpaired.candidate.value == pytest.approx(paired.candidate.value, rel=0.02)
    assert unpaired.effect.lower < paired.effect.estimate < unpaired.effect.upper
    assert 0 < unpaired.effect.upper - unpaired.effect.lower < 0.5
    assert apart.window.seconds == pytest.approx(together.window.seconds, abs=60)


def test_a_run_under_way_is_not_judged():
    """A fixed horizon allows no early look: not even a clear regression is reported before the end."""
    cells = simulate_cells(SCENARIOS["mean+20%"], 1)
    fixed = replace(RULEBOOK, monitoring=Monitoring("fixed"))
    assert judge(cells, fixed, runs=(replace(RUN, state=RunState.RUNNING),)).word is OPEN
    assert judge(cells, fixed, runs=(replace(RUN, state=RunState.INCOMPLETE),)).word is NO_GO


def test_looks_before_the_end_can_stop_a_release_but_not_pass_it():
    running = replace(RUN, source="locust", state=RunState.RUNNING, planned_end=datetime(2026, 1, 5, 2, tzinfo=UTC))
    worse = judge(simulate_cells(SCENARIOS["mean+20%"], 1), runs=(running,))
    assert worse.word is NO_GO
    assert worse.decided_at_s <= 1800
    healthy = judge(simulate_cells(SCENARIOS["AA"], 1), runs=(running,))
    assert healthy.word is OPEN
    assert "not_final" in {reason.code for reason in healthy.reasons}


def test_a_crossed_level_stays_crossed_whether_or_not_it_was_judged_then():
    """The verdict of the first half, judged then, is part of the verdict of the whole."""
    cells = simulate_cells(SCENARIOS["mean+20%"], 1)
    ending = datetime.fromtimestamp(cells.moments.bucket.min() * cells.bucket_s + 3600, UTC)
    run = replace(RUN, source="locust", planned_end=ending)
    whole = judge(cells, runs=(run,))
    half = _before(cells, cells.moments.bucket.min() + 120)
    early = judge(half, runs=(replace(run, state=RunState.RUNNING),))
    assert early.word is whole.word is NO_GO
    assert early.decided_at_s == whole.decided_at_s
    looks = {c.rule.name: c.looks for c in early.comparisons if not c.scan}
    for comparison in whole.comparisons:
        if not comparison.scan:
            assert comparison.looks[: len(looks[comparison.rule.name])] == looks[comparison.rule.name]


def test_judging_between_two_looks_adds_no_look():
    """Judged at 10:00 and at 10:45 of data, a run that goes on has the same sequential p-values."""
    cells = simulate_cells(SCENARIOS["mean+5%"], 3)
    start = cells.moments.bucket.min()
    run = replace(RUN, source="locust", state=RunState.RUNNING, planned_end=datetime(2026, 1, 5, 1, tzinfo=UTC))
    found = [judge(_before(cells, start + buckets), runs=(run,)) for buckets in (80, 83)]
    asked = [[[q.p_worse for q in c.questions if q.decides] for c in j.comparisons if c.looks] for j in found]
    assert asked[0] == asked[1]
    assert any(p for p in asked[0])


@pytest.mark.parametrize("early_go", [False, True])
def test_the_interval_is_the_dual_of_the_decision(early_go):
    """Its end towards better values is beyond the margin exactly if the last look shows the metric to be worse."""
    monitoring = Monitoring("group_sequential", early_go=early_go)
    rules = tuple(replace(rule, limit=Limit()) for rule in RULES[1:4])
    seen = set()
    for seed in range(6):
        cells = simulate_cells(replace(SMALL, duration_s=900.0, changes=(Change(latency=0.08),)), seed)
        for found in evidence(cells, replace(RULEBOOK, rules=rules, monitoring=monitoring)).comparisons:
            asked = next((q for q in found.questions if q.kind == "margin"), None)
            if found.scan or asked is None or found.looks[-1].p_worse[0] < 0.2:
                continue  # an earlier look decides, or nearly
            assert (found.effect.lower > asked.bound) == (asked.p_worse < 0.05)
            assert (found.effect.upper < asked.bound) == (asked.p_within < 0.05) or early_go
            seen.add(asked.p_worse < 0.05)
    assert False in seen


def test_looks_widen_the_interval_towards_better_values_only():
    cells = simulate_cells(replace(SMALL, duration_s=900.0), 2)
    once, often = (
        evidence(cells, replace(RULEBOOK, monitoring=Monitoring(mode))).comparisons[2].effect
        for mode in ("fixed", "group_sequential")
    )
    assert (often.estimate, often.upper) == (once.estimate, once.upper)
    assert often.lower < once.lower


def test_warm_up_is_cut_until_users_are_level():
    cells = simulate_cells(replace(SMALL, users=30, wait_s=1.0, spawn_s=60.0), 1)
    found = evidence(cells)
    assert next(f for f in found.findings if f.check == "warm_up").text.startswith("the first 60 s")
    assert found.window.seconds <= 245
    fixed = evidence(cells, replace(RULEBOOK, warm_up_s=100.0))
    assert fixed.window.seconds <= 200


ODD = {
    "constant times": lambda r: replace(r, response_us=np.full_like(r.response_us, 5000)),
    "all fail": lambda r: replace(r, failed=np.ones_like(r.failed)),
    "none fail": lambda r: replace(r, failed=np.zeros_like(r.failed)),
    "canary fails": lambda r: replace(r, failed=r.arm == 1),
    "baseline fails": lambda r: replace(r, failed=r.arm == 0),
    "one request": lambda r: _select(r, np.arange(len(r)) < 1),
    "a dozen requests": lambda r: _select(r, np.arange(len(r)) < 12),
    "one second": lambda r: _select(r, r.ts_us < r.ts_us.min() + 1_000_000),
    "twelve decades": lambda r: replace(r, response_us=(10.0 ** (np.arange(len(r)) % 12)).astype(np.int64)),
    "every other bucket of canary": lambda r: _select(r, (r.arm == 0) | (r.ts_us // 5_000_000 % 2 == 0)),
    "zero times": lambda r: replace(r, response_us=np.zeros_like(r.response_us)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD)
def test_odd_data_never_crash_and_rarely_go(name):
    requests = ODD[name](simulate(SMALL, 4))
    cells = to_cells(requests, bucket_s=5)
    found = judge(cells)
    assert found.word is not GO or name in {"none fail", "every other bucket of canary", "twelve decades"}
    for comparison in found.comparisons:
        for test in comparison.questions:
            assert 0 <= test.p_worse <= 1
            assert 0 <= test.p_within <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD)
def test_odd_replicates_never_crash_and_are_never_go(name):
    requests = ODD[name](simulate(replace(SMALL, duration_s=60.0, replicates=3, instances=(1,)), 4))
    cells = to_cells(requests, bucket_s=1)
    runs = tuple(replace(RUN, id=run, replicate=k) for k, run in enumerate(cells.runs))
    assert judge(cells, runs=runs).word is not GO or name == "none fail"


def test_all_failures_on_the_canary_is_no_go():
    found = judge(to_cells(ODD["canary fails"](simulate(SMALL, 4))))
    assert found.word is NO_GO


def test_a_billion_requests_in_a_cell():
    cells = simulate_cells(SMALL, 4)
    big = 10**6
    moments = replace(
        cells.moments,
        n=cells.moments.n * big,
        failures=cells.moments.failures * big,
        sum_time=cells.moments.sum_time * big,
    )
    bins = replace(cells.bins, n=cells.bins.n * big)
    instance_bins = replace(cells.instance_bins, n=cells.instance_bins.n * big)
    found = evidence(replace(cells, moments=moments, bins=bins, instance_bins=instance_bins))
    plain = evidence(cells)
    for one, other in zip(found.comparisons[:5], plain.comparisons[:5], strict=True):
        assert one.effect.estimate == pytest.approx(other.effect.estimate, rel=1e-6, abs=1e-9)


def test_facts_of_the_load_generator_decide():
    cells = simulate_cells(SCENARIOS["AA"], 2)
    assert judge(cells).word is GO
    saturated = replace(RUN, facts=RunFacts(users={"baseline": 10, "canary": 10}, cpu_percent=100.0))
    assert judge(cells, runs=(saturated,)).word is OPEN
    unequal = replace(RUN, facts=RunFacts(users={"baseline": 900, "canary": 600}))
    assert judge(cells, runs=(unequal,)).word is OPEN
