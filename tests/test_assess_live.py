"""Requests of production: judged by the rules on requests, apart from those of a load, in one verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import jsonschema
import pytest
from judging import LIVE, RULEBOOK, RUN, assess_live, judge, judge_live, no_cells, simulate_live, simulate_readings

from evaluator.assess import ReleaseData, assess_release
from evaluator.judges import judge_evidence
from evaluator.judges.progress import describe_missing
from evaluator.metrics.latency import LatencyMean
from evaluator.metrics.reading_histogram import HistogramMean
from evaluator.pipeline.judging import to_verdict
from evaluator.policy import load_policy
from evaluator.records import (
    Drift,
    EvidenceKind,
    Level,
    Margin,
    MetricStatus,
    Monitoring,
    Release,
    Rule,
    Rulebook,
    RunState,
    Slice,
    VerdictWord,
)
from evaluator.reports import FORMATS, to_json
from evaluator.reports.base import Page
from evaluator.reports.human import to_human
from evaluator.reports.overview import build_heat_map
from evaluator.reports.reading import from_json
from evaluator.simulate import Change, simulate, simulate_cells
from evaluator.simulate.readings import DURATION
from evaluator.stats.shaping.cells import where

LOAD = simulate_cells(LIVE, 1)
PRODUCTION, PRODUCTION_RUN = simulate_live()
SLOW, SLOW_RUN = simulate_live(replace(LIVE, changes=(Change(latency=0.3),)))


def to_record(evidence, rulebook=RULEBOOK):
    """The evidence as a verdict with the status of each metric."""
    judgement = judge_evidence(evidence, rulebook, "cart@2")
    judged = replace(evidence, comparisons=judgement.comparisons)
    return to_verdict(Release("cart@2"), load_policy(None), judged, judgement, "sha256:0", datetime.now(UTC))


def test_a_go_needs_both_kinds_within():
    both = judge_live(PRODUCTION, (PRODUCTION_RUN,), load=LOAD)
    assert both.word is VerdictWord.GO
    assert "all 8 gates are shown to be within their margins" in both.reasons[0].text
    assert both.reasons[0].text.endswith("on 10 min of load and 10 min of production")


def test_harm_in_production_is_no_go_although_the_load_is_in_order():
    judgement = judge_live(SLOW, (SLOW_RUN,), load=LOAD)
    assert judgement.word is VerdictWord.NO_GO
    assert {reason.evidence for reason in judgement.reasons} == {EvidenceKind.LIVE}
    assert judgement.reasons[0].text.startswith("p50 (production) rose")
    of_load = [c for c in judgement.comparisons if c.kind is EvidenceKind.REQUESTS and c.must_be_within]
    assert {c.status for c in of_load} == {MetricStatus.PASS}


def test_harm_in_a_load_is_no_go_although_production_is_in_order():
    slow_load = simulate_cells(replace(LIVE, changes=(Change(latency=0.3),)), 1)
    judgement = judge_live(PRODUCTION, (PRODUCTION_RUN,), load=slow_load)
    assert judgement.word is VerdictWord.NO_GO
    assert {reason.evidence for reason in judgement.reasons} == {None}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("harm", [0.0, 0.02, 0.04, 0.06])
def test_two_kinds_are_never_more_lenient_than_one(seed, harm):
    """GO of both: each alone is GO. One of them alone NO-GO beyond doubt: so are both."""
    cells, run = simulate_live(replace(LIVE, changes=(Change(latency=harm),)), 10 + seed)
    load = simulate_cells(LIVE, 20 + seed)
    both = judge_live(cells, (run,), load=load).word
    alone = judge_live(cells, (run,)).word, judge(load).word
    if both is VerdictWord.GO:
        assert set(alone) == {VerdictWord.GO}
    if both is VerdictWord.NO_GO:
        assert VerdictWord.NO_GO in alone


def test_a_trend_of_one_kind_prevents_a_go_as_if_it_were_alone():
    """The error rate of trends is divided by the gates of the policy, which both kinds answer."""
    drift = Drift(last_third=-0.01, p_worsening=0.05 / 6, at_end=0.01)  # below 0.05 / 4, above 0.05 / 8

    def judge_with_trend(evidence):
        comparisons = tuple(
            replace(c, drift=drift) if c.rule.name == "latency_p50" and c.kind is EvidenceKind.LIVE else c
            for c in evidence.comparisons
        )
        return judge_evidence(replace(evidence, comparisons=comparisons), RULEBOOK, "cart@2").word

    assert judge_with_trend(assess_live(PRODUCTION, (PRODUCTION_RUN,))) is VerdictWord.INCONCLUSIVE
    assert judge_with_trend(assess_live(PRODUCTION, (PRODUCTION_RUN,), load=LOAD)) is VerdictWord.INCONCLUSIVE


def test_the_mean_of_a_load_does_not_depend_on_failures_of_production():
    failing, run = simulate_live(replace(LIVE, changes=(Change(failures_added=0.05),)))
    mean = Rule("mean", LatencyMean(), margin=Margin(0.2))
    rulebook = replace(RULEBOOK, rules=(*RULEBOOK.rules, mean))
    judgement = judge_live(failing, (run,), rulebook, LOAD)
    status = {c.kind: c.status for c in judgement.comparisons if c.rule.name == "mean"}
    assert status == {EvidenceKind.REQUESTS: MetricStatus.PASS, EvidenceKind.LIVE: MetricStatus.INCONCLUSIVE}


def test_production_alone_is_judged_alone():
    evidence = assess_live(PRODUCTION, (PRODUCTION_RUN,))
    assert {c.kind for c in evidence.comparisons} == {EvidenceKind.LIVE}
    assert evidence.is_production_alone
    assert sum(arm.requests for arm in evidence.arms) == int(PRODUCTION.moments.n.sum())
    assert judge_live(PRODUCTION, (PRODUCTION_RUN,)).word is VerdictWord.GO


def test_arms_and_windows_are_counted_apart():
    evidence = assess_live(SLOW, (SLOW_RUN,), load=LOAD)
    for arm in evidence.arms:
        code = LOAD.arms.index(arm.name)
        assert arm.requests == LOAD.moments.n[LOAD.moments.arm == code].sum()
        assert arm.production.requests == SLOW.moments.n[SLOW.moments.arm == code].sum()
    assert (evidence.window.seconds, evidence.production.seconds) == (600.0, 600.0)
    assert not evidence.is_production_alone


@pytest.mark.parametrize("runs", [(PRODUCTION_RUN,), (replace(PRODUCTION_RUN, state=RunState.RUNNING),)])
def test_production_without_a_request_is_no_data_and_never_a_go(runs):
    judgement = judge_live(no_cells(PRODUCTION), runs, load=LOAD)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert any("baseline has no requests" in reason.text for reason in judgement.reasons)


def test_a_canary_without_a_request_in_production_is_no_go_candidate():
    judgement = judge_live(where(PRODUCTION, arm=[0]), (PRODUCTION_RUN,), load=LOAD)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert any("canary has no requests" in reason.text for reason in judgement.reasons)


def test_an_incomplete_run_of_production_is_no_go_by_silence_nor_a_go():
    incomplete = replace(PRODUCTION_RUN, state=RunState.INCOMPLETE)
    assert assess_live(PRODUCTION, (incomplete,), load=LOAD).incomplete
    judgement = judge_live(PRODUCTION, (incomplete,), load=LOAD)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert any("complete (production): the run is incomplete" in reason.text for reason in judgement.reasons)


def test_a_running_step_is_no_go_at_once_but_no_go_needs_no_end():
    """While the log is followed, harm is shown at any time, and a GO is given at the planned end only."""
    start = datetime.fromtimestamp(int(PRODUCTION.moments.bucket.min()) * PRODUCTION.bucket_s, UTC)
    fields = {
        "state": RunState.RUNNING, "started": start, "planned_end": start + timedelta(hours=1),
        "fingerprint": {"pid": 1},
    }  # fmt: skip
    rulebook = replace(RULEBOOK, monitoring=Monitoring(burn_in_s=60.0))
    assert judge_live(SLOW, (replace(SLOW_RUN, **fields),), rulebook, LOAD).word is VerdictWord.NO_GO
    assert not assess_live(PRODUCTION, (replace(PRODUCTION_RUN, **fields),), rulebook, LOAD).final
    running = judge_live(PRODUCTION, (replace(PRODUCTION_RUN, **fields),), rulebook, LOAD)
    assert running.word is VerdictWord.INCONCLUSIVE
    assert any("has not reached its planned end" in reason.text for reason in running.reasons)


def test_a_log_that_was_followed_without_an_end_is_judged_at_any_time_and_so_is_its_past():
    followed = replace(PRODUCTION_RUN, fingerprint={"pid": 1})
    assert assess_live(PRODUCTION, (replace(followed, state=RunState.RUNNING),)).monitoring == "anytime"
    assert assess_live(PRODUCTION, (followed,)).monitoring == "anytime"
    assert assess_live(PRODUCTION, (PRODUCTION_RUN,)).monitoring == "fixed", "an imported log is judged once"


def test_no_warm_up_is_cut_from_production():
    rulebook = replace(RULEBOOK, warm_up_s=120.0)
    evidence = assess_live(PRODUCTION, (PRODUCTION_RUN,), rulebook, LOAD)
    assert (evidence.window.seconds, evidence.production.seconds) == (480.0, 600.0)
    assert {f.check for f in evidence.findings if f.evidence is EvidenceKind.LIVE} & {
        "warm_up", "pacing", "load_generator", "clock"
    } == set()  # fmt: skip


def test_an_endpoint_that_production_never_called_is_named():
    """The names of endpoints in a load may be others than those of a log."""
    endpoint = LOAD.endpoints[0]
    renamed = replace(PRODUCTION, endpoints=("POST /other", *PRODUCTION.endpoints[1:]))
    rule = Rule("first_mean", LatencyMean(), margin=Margin(0.5), slice=Slice(endpoint))
    rulebook = replace(RULEBOOK, rules=(*RULEBOOK.rules, rule))
    judgement = judge_live(renamed, (PRODUCTION_RUN,), rulebook, LOAD)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert any(f"{endpoint} was not called on both arms" in reason.text for reason in judgement.reasons)


def test_a_policy_without_rules_on_requests_needs_none_of_a_load():
    data = ReleaseData((), no_cells(PRODUCTION), live_runs=(PRODUCTION_RUN,), live_cells=PRODUCTION)
    evidence = assess_release(data, Rulebook(rules=())).evidence
    assert judge_evidence(evidence, Rulebook(rules=()), "cart@2").word is VerdictWord.INCONCLUSIVE


def test_the_json_says_which_evidence_each_row_is_of_and_is_read_back():
    verdict = to_record(assess_live(SLOW, (SLOW_RUN,), load=LOAD))
    text = to_json(replace(verdict, step="25%", only_step=True, other_steps=("5%",)))
    plain = json.loads(text)
    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(plain, schema)
    assert to_json(from_json(text)) == text
    assert {row["evidence"] for row in plain["metrics"]} == {"requests", "live"}
    assert {row["evidence"] for row in plain["health"]} == {"requests", "live"}
    assert plain["reasons"][0]["evidence"] == "live"
    assert (plain["step"], plain["only_step"], plain["other_steps"]) == ("25%", True, ["5%"])
    assert set(plain["arms"][0]["production"]) >= {"requests", "instances", "runs"}
    assert plain["production_window"]["seconds"] == 600.0


def test_a_release_without_production_has_none_of_these_keys():
    plain = json.loads(to_json(to_record(assess_release(ReleaseData((RUN,), LOAD), RULEBOOK).evidence)))
    assert not {"step", "only_step", "other_steps", "production_window"} & set(plain)
    assert not any("evidence" in row for key in ("metrics", "health", "reasons") for row in plain[key])
    assert not any("production" in arm for arm in plain["arms"])


def test_the_report_tells_both_apart():
    verdict = replace(to_record(assess_live(SLOW, (SLOW_RUN,), load=LOAD)), step="25%", other_steps=("5%",))
    text = to_human(verdict, width=200).replace("\xa0", " ")
    for part in (
        "p95 (production)", "✓ complete ", "✓ overlap ", "10 min of production,",
        "judged: step 25%, the newest",
        "other steps: 5% (--step)",
    ):  # fmt: skip
        assert part in text
    assert text.count("✓ complete") == 1, "it is the same for both"
    assert "(production)" not in to_human(to_record(assess_release(ReleaseData((RUN,), LOAD), RULEBOOK).evidence))


@pytest.mark.parametrize("name", ["human", "markdown", "html", "junit", "gitlab", "gitlab-load", "github", "json"])
def test_every_format_can_show_both(name):
    verdict = to_record(assess_live(SLOW, (SLOW_RUN,), load=LOAD))
    text = FORMATS[name](verdict, Page())
    assert "production" in text or 'evidence="live"' in text or name == "github"


def test_what_is_missing_names_production():
    few, run = simulate_live(replace(LIVE, rate_per_s=8.0))
    verdict = to_record(assess_live(few, (run,), load=LOAD))
    assert verdict.word is VerdictWord.INCONCLUSIVE
    assert "(production)" in describe_missing(verdict)
    assert "of production in all" in verdict.next_action or "share of the requests" in verdict.next_action


def test_readings_of_the_time_of_production_are_judged_with_it():
    """The load ran earlier, elsewhere: its time has no readings."""
    scenario = replace(LIVE, rate_per_s=30.0)
    requests = simulate(scenario, 4)
    live, run = simulate_live(scenario, 4)
    moments = LOAD.moments
    earlier = replace(moments, bucket=moments.bucket - 100_000)
    bins, instance_bins = LOAD.bins, LOAD.instance_bins
    load = replace(
        LOAD,
        moments=earlier,
        bins=replace(bins, bucket=bins.bucket - 100_000),
        instance_bins=replace(instance_bins, block=instance_bins.block - 25_000),
        loads=replace(LOAD.loads, bucket=LOAD.loads.bucket - 100_000),
    )
    data = ReleaseData(
        (replace(RUN, id=load.runs[0]),), load, readings=simulate_readings(requests), live_runs=(run,), live_cells=live
    )
    rule = Rule("server_mean", HistogramMean(query=DURATION.text), margin=Margin(0.2))
    evidence = assess_release(data, replace(RULEBOOK, rules=(*RULEBOOK.rules, rule))).evidence
    of_readings = [c for c in evidence.comparisons if c.kind is EvidenceKind.READINGS]
    assert len(of_readings) == 1
    assert "reading_overlap" not in {f.check for f in evidence.findings if f.level is Level.FAIL}
    assert all(c.no_data is None for c in of_readings)


def test_the_heat_map_shows_the_throughput_of_the_load_if_production_has_none():
    verdict = to_record(assess_live(SLOW, (SLOW_RUN,), load=LOAD))
    heat_map = build_heat_map([verdict])
    [row] = heat_map.rows
    by_metric = dict(zip(heat_map.metrics, row.comparisons, strict=True))
    assert by_metric["p95"].evidence is EvidenceKind.LIVE, "it is the worst"
    assert by_metric["throughput"].no_data is None
