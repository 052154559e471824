"""Every check of a load: what it says of a healthy release, and of one that is not."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import RULEBOOK, RUN, SMALL, evidence, judge

from evaluator.health import CHECKS
from evaluator.records import (
    EvidenceKind,
    InstancePrior,
    LeftOut,
    LeftOutKind,
    Level,
    Monitoring,
    RunFacts,
    RunState,
    VerdictWord,
)
from evaluator.simulate import Change, simulate, simulate_cells, to_cells
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS

USERS = {"baseline": 30, "canary": 30}
FACTS = RunFacts(
    workers_expected=2,
    workers_seen=2,
    counted=23_900,
    users=USERS,
    cpu_percent=40.0,
    loop_lag_ms=1.0,
    clock_offset_s=0.01,
    pacing="open",
)
LOADED = replace(RUN, source="locust", facts=FACTS, landed=23_900)
DESIGN = replace(SMALL, users=30)
CELLS = simulate_cells(DESIGN, 1)


def find(check, cells=CELLS, run=LOADED, rulebook=RULEBOOK, runs=None):
    """The most severe finding of a check; None if it has none."""
    order = [Level.OK, Level.WARN, Level.FAIL]
    findings = [f for f in evidence(cells, rulebook, runs or (run,)).findings if f.check == check]
    return max(findings, key=lambda f: order.index(f.level), default=None)


def facts(**changes):
    return replace(LOADED, facts=replace(FACTS, **changes))


def select(requests, keep):
    chosen = {
        f.name: getattr(requests, f.name)[keep]
        for f in fields(requests)
        if isinstance(getattr(requests, f.name), np.ndarray)
    }
    return replace(requests, **chosen)


def test_a_healthy_release_has_nothing_but_good_findings():
    levels = {f.check: f.level for f in evidence(CELLS, runs=(LOADED,)).findings}
    assert {check: level for check, level in levels.items() if level is not Level.OK} == {}
    # Those of skipped, cut off and rare requests have nothing to say, nor of endpoints, history and young instances, of
    # phases and the load of instances, of a router, of clients that give up, of statuses, and of sizes.
    assert len(levels) >= len(CHECKS[EvidenceKind.REQUESTS]) - 11


@pytest.mark.parametrize(
    ("check", "run", "level", "void", "says"),
    [
        pytest.param("clock", facts(clock_offset_s=-3.0), Level.FAIL, True, "3 s", id="clock off"),
        pytest.param("load_generator", facts(cpu_percent=99.0), Level.FAIL, True, "saturated", id="cpu saturated"),
        pytest.param("load_generator", facts(loop_lag_ms=150.0), Level.FAIL, True, "saturated", id="loop late"),
        pytest.param("load_generator", facts(cpu_percent=90.0), Level.WARN, False, "busy", id="cpu busy"),
        pytest.param(
            "load_generator", facts(cpu_percent=None, loop_lag_ms=None), Level.WARN, False, "not checked", id="silent"
        ),
        pytest.param("complete", facts(workers_seen=1), Level.FAIL, False, "1 of 2 workers", id="a worker missing"),
        pytest.param("complete", facts(stopped_by="disk full"), Level.FAIL, False, "disk full", id="stopped"),
        pytest.param("complete", facts(ended_early="NO-GO"), Level.FAIL, False, "on purpose: NO-GO", id="ended early"),
        pytest.param("complete", facts(orphaned=True), Level.FAIL, False, "parent", id="orphans"),
        pytest.param(
            "complete", replace(LOADED, fingerprint={"replicates": 5}), Level.WARN, False, "1 of 5", id="too few runs"
        ),
        pytest.param("complete", replace(LOADED, state=RunState.INCOMPLETE), Level.FAIL, False, "incomplete", id="cut"),
        pytest.param("coverage", replace(LOADED, landed=20_000), Level.FAIL, False, "23,900", id="rows missing"),
        pytest.param("coverage", facts(unseen="refused requests"), Level.FAIL, False, "refused requests", id="unseen"),
        pytest.param("coverage", facts(quarantined=("seg-1",)), Level.FAIL, False, "seg-1", id="segment unreadable"),
        pytest.param(
            "coverage",
            facts(left_out=(LeftOut("canary", LeftOutKind.BAD_ROW, 7),)),
            Level.WARN,
            False,
            "canary 7 of 12,772",
            id="rows skipped",
        ),
        pytest.param(
            "sample_ratio", facts(users={"baseline": 900, "canary": 600}), Level.FAIL, False, "900", id="split"
        ),
        pytest.param("sample_ratio", facts(users={}), Level.WARN, False, "not checked", id="not recorded"),
        pytest.param("pacing", facts(pacing="closed"), Level.WARN, False, "closed loop", id="closed loop"),
    ],
)
def test_findings_on_the_load_generator(check, run, level, void, says):
    findings = find(check, run=run)
    assert (findings.level, findings.void) == (level, void)
    assert says in findings.text


def test_users_are_expected_in_the_configured_shares():
    uneven = facts(users={"baseline": 900, "canary": 100})
    rulebook = replace(RULEBOOK, sample_ratio={"baseline": 0.9, "canary": 0.1})
    assert find("sample_ratio", run=uneven).level is Level.FAIL
    assert find("sample_ratio", run=uneven, rulebook=rulebook).level is Level.OK


def test_an_arm_without_a_share_fails():
    rulebook = replace(RULEBOOK, sample_ratio={"baseline": 0.5, "other": 0.5})
    assert find("sample_ratio", rulebook=rulebook).level is Level.FAIL


@pytest.mark.parametrize("replicates", [1, 3])
def test_a_short_run_under_way_is_not_judged_early(replicates):
    """Runs below five minutes, and replicates, have no look before their end."""
    worse = replace(DESIGN, duration_s=120.0, replicates=replicates, changes=(Change(latency=0.5),))
    cells = simulate_cells(worse, 1)
    ends = datetime.fromtimestamp(int(cells.moments.bucket.max() + 60) * cells.bucket_s, UTC)
    runs = tuple(
        replace(LOADED, id=name, replicate=k, planned_end=ends, state=RunState.COMPLETE)
        for k, name in enumerate(cells.runs)
    )
    running = (*runs[:-1], replace(runs[-1], state=RunState.RUNNING))
    assert judge(cells, runs=runs).word is VerdictWord.NO_GO
    assert judge(cells, runs=running).word is VerdictWord.INCONCLUSIVE


@pytest.mark.parametrize(("share", "level"), [(0.0, Level.OK), (0.1, Level.WARN), (0.4, Level.FAIL)])
def test_a_hole(share, level):
    requests = simulate(DESIGN, 1)
    begin = requests.ts_us.min() + 60_000_000
    lost = (requests.arm == 1) & (requests.ts_us > begin) & (requests.ts_us < begin + share * 300_000_000)
    findings = find("silence", to_cells(select(requests, ~lost), bucket_s=5))
    assert findings.level is level


def test_another_endpoint_mix_is_only_a_warning():
    findings = find("comparability", simulate_cells(replace(DESIGN, changes=(Change(mix=0.6),)), 1))
    assert findings.level is Level.WARN
    assert "GET /endpoint/" in findings.text


def test_the_same_requests_on_both_arms_are_no_comparison():
    requests = simulate(DESIGN, 1)
    base = select(requests, requests.arm == 0)
    twice = {
        f.name: np.concatenate([getattr(base, f.name)] * 2)
        for f in fields(base)
        if isinstance(getattr(base, f.name), np.ndarray)
    }
    twice["arm"] = np.repeat([0, 1], len(base))
    findings = find("comparability", to_cells(replace(base, **twice), bucket_s=5))
    assert findings.level is Level.FAIL
    assert "the same data were given for both" in findings.text


@pytest.mark.parametrize(("arms", "level"), [((0, 1), Level.FAIL), ((0,), Level.OK), ((1,), Level.OK)])
def test_arms_that_both_answer_nothing_are_no_comparison(arms, level):
    requests = simulate(DESIGN, 1)
    failed = np.where(np.isin(requests.arm, arms), np.arange(len(requests)) % 50 > 0, requests.failed)
    findings = find("comparability", to_cells(replace(requests, failed=failed), bucket_s=5))
    assert findings.level is level
    assert level is Level.OK or "98 % and 98 % of the requests of baseline and canary failed" in findings.text


def test_unequal_load_forbids_a_go():
    requests = simulate(DESIGN, 1)
    users = np.where(requests.arm == 1, requests.users * 2, requests.users)
    assert find("comparability", to_cells(replace(requests, users=users), bucket_s=5)).level is Level.FAIL


def test_replicates_must_be_the_same_test():
    cells = simulate_cells(replace(DESIGN, duration_s=60.0, replicates=3), 1)
    runs = tuple(
        replace(LOADED, id=name, replicate=k, fingerprint={"users": 30 + (k == 2)}) for k, name in enumerate(cells.runs)
    )
    assert "differ in users" in find("comparability", cells, runs=runs).text


@pytest.mark.parametrize(
    ("instances", "prior", "check", "level"),
    [
        pytest.param(1, InstancePrior(), "single_instance", Level.FAIL, id="one a side"),
        pytest.param(1, InstancePrior(baseline=4, canary=4), "replication", Level.WARN, id="four behind one label"),
        pytest.param(2, InstancePrior(), "replication", Level.WARN, id="two a side"),
        pytest.param(3, InstancePrior(), "replication", Level.OK, id="three a side"),
    ],
)
def test_replication(instances, prior, check, level):
    cells = simulate_cells(replace(DESIGN, instances=(instances,)), 1)
    assert find(check, cells, rulebook=replace(RULEBOOK, prior=prior)).level is level


def test_coarse_times_are_named():
    cells = simulate_cells(replace(DESIGN, median_ms=(10.0, 20.0), grid_us=10_000), 1)
    assert find("resolution", cells).level is Level.WARN


@pytest.mark.parametrize(
    ("grid_us", "median_ms", "level", "says"),
    [
        pytest.param(10_000, 15.0, Level.WARN, "the load tool, file or log recorded times in steps of 10", id="file"),
        pytest.param(1, 0.006, Level.WARN, "times are kept in whole microseconds", id="store"),
        pytest.param(1, 15.0, Level.OK, "times are kept in whole microseconds", id="fine"),
    ],
)
def test_a_step_is_of_the_load_tool_or_the_unit_of_the_store(grid_us, median_ms, level, says):
    findings = find("resolution", simulate_cells(replace(DESIGN, median_ms=(median_ms, median_ms), grid_us=grid_us), 1))
    assert findings.level is level
    assert findings.text.startswith(says)
    assert ("file" in findings.text) is (grid_us > 1)


def test_the_coarser_of_two_arms_is_named():
    requests = simulate(replace(DESIGN, median_ms=(10.0, 10.0)), 1)
    rounded = np.where(requests.arm == 1, np.rint(requests.response_us / 1000) * 1000, requests.response_us)
    findings = find("resolution", to_cells(replace(requests, response_us=rounded.astype(np.int64))))
    assert findings.level is Level.WARN
    assert "recorded the times of canary in steps of 1 ms" in findings.text


def names_of(cells):
    return {finding.check for finding in evidence(cells, runs=(LOADED,)).findings}


def rename(cells, *names):
    return replace(cells, endpoints=(*names, *(f"GET /rest/{k}" for k in range(len(cells.endpoints) - len(names)))))


@pytest.mark.parametrize(
    "names",
    [
        ("GET /health", "GET /healthz"),
        ("GET /ready", "HEAD /livez"),
        ("/actuator/health", "/actuator/health/readiness"),
        ("GET /api/v1/health", "GET http://shop.example.org/ping"),
        ("GET /-/healthy", "GET /status/"),
        ("GET /HealthCheck?deep=1", "GET /_health"),
    ],
)
def test_health_checks_alone_are_named(names):
    cells = rename(simulate_cells(replace(DESIGN, endpoints=2), 1), *names)
    findings = find("endpoints", cells)
    assert findings.level is Level.WARN
    assert f"only health checks were called on both arms ({names[0]}, {names[1]})" in findings.text
    assert "no other endpoint was judged" in findings.text


@pytest.mark.parametrize(
    "other",
    ["GET /orders/status", "GET /healthcare", "POST /cart", "GET /scores/live", "GET /shop/up", "GET /wealth", "GET /"],
)
def test_other_endpoints_are_no_health_checks(other):
    cells = rename(simulate_cells(replace(DESIGN, endpoints=2), 1), "GET /health", other)
    assert "endpoints" not in names_of(cells)


def test_ids_in_the_names_of_endpoints_are_named():
    cells = simulate_cells(replace(DESIGN, endpoints=1500, zipf=0.0, rate_per_s=60.0), 1)
    assert len(cells.endpoints) > 1000
    named = replace(cells, endpoints=tuple(f"GET /cart/{1000 + k}/items" for k in range(len(cells.endpoints))))
    findings = find("endpoints", named)
    assert findings.level is Level.WARN
    assert "names seem to contain ids; 100 % are GET /cart/{id}/items, such as GET /cart/1000/items" in findings.text
    assert "name='/cart/{id}'" in findings.remedy
    words = tuple("GET /" + "abcdefghij"[k % 10] * (1 + k // 10) for k in range(len(cells.endpoints)))
    assert "more than a service has" in find("endpoints", replace(cells, endpoints=words)).text
    pooled = find("endpoints", replace(cells, endpoints=(*words[:-1], OTHER_ENDPOINTS))).text
    assert f"more than {len(words) - 1:,} endpoints, such as {words[0]}" in pooled
    few = simulate_cells(replace(DESIGN, endpoints=5), 1)
    assert "endpoints" not in names_of(few)


def test_users_that_are_never_level_are_named():
    cells = simulate_cells(replace(DESIGN, wait_s=1.0, spawn_s=290.0), 1)
    assert "not level" in find("warm_up", cells).text


def test_arms_that_never_meet_are_named():
    requests = simulate(DESIGN, 1)
    assert find("overlap", to_cells(select(requests, requests.arm == 0))).level is Level.FAIL


def test_a_few_failures_on_one_side_are_an_early_warning():
    requests = simulate(replace(DESIGN, failure_rate=0.0), 1)
    quiet = replace(requests, failed=np.zeros_like(requests.failed))
    assert find("early_warning", to_cells(quiet)) is None
    failing = np.flatnonzero(requests.arm == 1)[:9]
    failed = np.zeros_like(requests.failed)
    failed[failing] = True
    broken = replace(quiet, failed=failed, status=np.where(failed, 503, quiet.status))
    text = find("early_warning", to_cells(broken)).text
    assert "9 of 9 failures" in text
    assert text.endswith(": 9 × 503")


def test_every_failed_check_says_what_to_do_or_what_it_saw():
    broken = replace(facts(cpu_percent=99.0, clock_offset_s=9.0, stopped_by="signal"), state=RunState.INCOMPLETE)
    for finding in evidence(CELLS, runs=(broken,)).findings:
        assert finding.text
        assert (
            finding.level is not Level.FAIL or finding.remedy or finding.check in {"coverage", "gaps", "comparability"}
        )


def test_an_endpoint_that_the_candidate_never_answered_forbids_a_go():
    requests = simulate(DESIGN, 1)
    rarest = int(np.bincount(requests.endpoint).argmin())
    cells = to_cells(select(requests, (requests.arm == 0) | (requests.endpoint != rarest)), bucket_s=5)
    findings = find("comparability", cells)
    assert findings.level is Level.FAIL
    assert "requests on baseline and none on canary" in findings.text
    assert judge(cells, runs=(LOADED,)).word is not VerdictWord.GO


def test_a_single_arm_is_not_comparable():
    requests = simulate(DESIGN, 1)
    assert find("comparability", to_cells(select(requests, requests.arm == 0))) is None


def import_runs(cells):
    return tuple(replace(RUN, id=name, replicate=k) for k, name in enumerate(cells.runs))


def shift(requests, arm, by_s, runs=None):
    """Move an arm in time; `runs`: to the place of another replicate."""
    moved = np.where(requests.arm == arm, requests.ts_us + int(by_s * 1e6), requests.ts_us)
    renamed = requests.run if runs is None else np.where(requests.arm == arm, np.take(runs, requests.run), requests.run)
    return replace(requests, ts_us=moved, run=renamed)


REPLICATES = replace(DESIGN, duration_s=60.0, replicates=3)


def test_runs_that_are_not_matched_by_their_times_are_named():
    cells = to_cells(shift(simulate(REPLICATES, 1), 1, 0, runs=[2, 1, 0]), bucket_s=5)
    findings = find("overlap", cells, runs=import_runs(cells))
    assert findings.level is Level.WARN
    assert "import the files again" in findings.remedy


def test_the_remedy_for_arms_at_different_times_is_another_import():
    cells = to_cells(shift(simulate(DESIGN, 1), 1, 5000), bucket_s=5)
    assert "import runs" in find("overlap", cells, run=RUN).remedy
    assert "evaluator load" in find("overlap", cells).remedy


def test_replicates_of_one_arm_only_are_counted():
    """In one that the candidate lacks it may never have answered."""
    requests = simulate(REPLICATES, 1)
    for lacking, level in ((0, Level.WARN), (1, Level.FAIL)):
        cells = to_cells(select(requests, (requests.arm != lacking) | (requests.run != 2)), bucket_s=5)
        findings = find("overlap", cells, runs=import_runs(cells))
        assert findings.level is level
        assert findings.text.startswith("1 of 3 replicates have one arm only and are not compared")
        assert [f.level for f in evidence(cells, runs=import_runs(cells)).findings if f.check == "overlap"] == [level]


def test_times_since_the_start_of_a_test_are_named():
    requests = simulate(DESIGN, 1)
    cells = to_cells(replace(requests, ts_us=requests.ts_us - requests.ts_us.min()), bucket_s=5)
    assert "from the start of a test" in find("overlap", cells, run=RUN).text


def test_a_killed_process_did_not_report_its_last_count():
    killed = replace(facts(counted=20_000), state=RunState.INCOMPLETE)
    assert find("coverage", run=killed).level is Level.OK
    assert find("coverage", run=facts(counted=20_000)).level is Level.FAIL


def test_only_recorded_facts_of_the_load_generator_are_reported():
    assert find("load_generator", run=facts(cpu_percent=None)).text == "event loop late by 1 ms (99th percentile)"


def under_way(early_go):
    """A healthy run after 50 of 60 minutes."""
    cells = simulate_cells(replace(DESIGN, duration_s=3000.0, rate_per_s=60.0, instances=(6,), instance_sd=0.0), 1)
    ends = datetime.fromtimestamp(int(cells.moments.bucket.max() + 1) * cells.bucket_s + 600, UTC)
    run = replace(LOADED, planned_end=ends, state=RunState.RUNNING, landed=0, facts=replace(FACTS, counted=None))
    return cells, replace(RULEBOOK, monitoring=Monitoring("group_sequential", early_go=early_go)), (run,)


def test_a_run_under_way_may_be_go_only_where_the_policy_asks_for_an_early_go():
    cells, rulebook, runs = under_way(early_go=False)
    assert judge(cells, rulebook, runs).word is VerdictWord.INCONCLUSIVE
    assert find("complete", cells, rulebook=rulebook, runs=runs).level is Level.FAIL
    cells, rulebook, runs = under_way(early_go=True)
    assert find("complete", cells, rulebook=rulebook, runs=runs).level is Level.WARN
    assert judge(cells, rulebook, runs).word is VerdictWord.GO


def test_the_evidence_reports_the_progress_of_the_calendar():
    cells, rulebook, runs = under_way(early_go=False)
    progress = evidence(cells, rulebook, runs).progress
    assert 2900 < progress.covered_s <= 3000
    assert 3500 < progress.planned_s <= 3600
    assert progress.covered_s < progress.next_s <= progress.covered_s + 60
    assert evidence(cells).progress.next_s == np.inf


# ------------------------------------------------------------------ sizes of answers


def with_sizes(factor, endpoints=slice(None)):
    """The cells with the canary's bytes at some endpoints multiplied by a factor."""
    moments = CELLS.moments
    names = list(CELLS.endpoints)[endpoints]
    chosen = (moments.arm == 1) & np.isin(moments.endpoint, [CELLS.endpoints.index(name) for name in names])
    return replace(CELLS, moments=replace(moments, bytes=np.where(chosen, moments.bytes * factor, moments.bytes)))


def test_answers_that_lost_most_of_their_content_forbid_a_go():
    first = CELLS.endpoints[0]
    found = find("answer_size", with_sizes(0.1, slice(0, 1)))
    assert found.level is Level.FAIL
    assert f"mean size in bytes: {first} " in found.text
    assert "response_size" in found.remedy
    assert "and 2 more" in find("answer_size", with_sizes(0.01)).text
    assert judge(with_sizes(0.01), RULEBOOK, (LOADED,)).word is VerdictWord.INCONCLUSIVE


def test_answers_of_one_size_are_empty_pages_whose_header_is_counted():
    """Baselines of 360 to 440 bytes with a header of 200; the candidate sends only that."""
    moments, first = CELLS.moments, 0
    chosen = moments.endpoint == first
    headers = np.where(chosen, 200.0 * (moments.n - moments.failures), moments.bytes)
    with_headers = np.where(chosen, 0.2 * moments.bytes / moments.bytes[chosen].mean() * headers[chosen].mean(), 0)
    both = replace(CELLS, moments=replace(moments, bytes=headers + with_headers))
    assert find("answer_size", both) is None
    empty = np.where(moments.arm == 1, headers, headers + with_headers)
    found = find("answer_size", replace(CELLS, moments=replace(moments, bytes=empty)))
    assert found.level is Level.FAIL
    # Nothing follows from sizes that are alike on both arms: a header may have become shorter.
    shorter = np.where(chosen & (moments.arm == 1), 0.87 * headers, headers)
    assert find("answer_size", replace(CELLS, moments=replace(moments, bytes=shorter))) is None


@pytest.mark.parametrize("factor", [0.55, 1.0, 3.0])
def test_answers_that_are_a_little_smaller_or_larger_have_no_finding(factor):
    assert find("answer_size", with_sizes(factor)) is None


def test_sizes_that_one_file_does_not_have_are_not_compared():
    assert find("answer_size", with_sizes(0.0), run=replace(LOADED, source="csv")) is None
    assert find("answer_size", with_sizes(0.0)) is not None
