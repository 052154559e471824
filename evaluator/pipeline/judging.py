"""Read what has landed, assess it and judge it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from evaluator.assess import ReleaseData
from evaluator.assess.readings import count_samples
from evaluator.assess.requests import RequestPairs, pair_requests
from evaluator.health.replication import describe_learnt
from evaluator.judges import JUDGE, Judgement
from evaluator.pipeline.assessing import Judged, judge_data, read_data
from evaluator.pipeline.landing import land_release, with_present_facts
from evaluator.pipeline.runs import choose_runs, service_of
from evaluator.policy import Policy, with_learnt
from evaluator.records import WHOLE, Cells, Evidence, Period, ReadingCells, Release, Rulebook, Run, Verdict, Window
from evaluator.reports import to_json
from evaluator.stats.inference.student import load_early
from evaluator.stats.shaping.account import find_cut_rows, find_lost_rows
from evaluator.stats.shaping.in_flight import cut_in_flight
from evaluator.stats.shaping.narrow import cut_readings, narrow
from evaluator.store import Store
from evaluator.version import find_version
from evaluator.wording import write_command


def judge_release(
    store: Store,
    release_id: str,
    policy: Policy,
    *,
    runs: str = "latest",
    judged_at: datetime,
    save: bool = True,
    figures: bool = False,
    period: Period = WHOLE,
) -> Verdict:
    """Land waiting segments, assess the chosen runs and judge them; the verdict is stored unless `save` is off.

    `runs`: `latest` (the newest run group), `all`, or the id of a run or group. Raises UnknownName for anything else.
    `figures`: also compute and store the data of the figures, which takes longer than the verdict itself.
    `period`: judge only the data in this period. Raises UsageError where it has none.
    """
    load_early()
    land_release(store, release_id)
    with store.reading():
        stored_runs, release = store.data.runs(release_id), store.control.release(release_id)
    chosen = tuple(with_present_facts(store, run) for run in choose_runs(stored_runs, runs))
    verdict, judged = judge_runs(store, release, chosen, policy, judged_at=judged_at, period=period)
    if figures:
        verdict = _with_figures(store, verdict, judged.data, judged.requests, judged.rulebook)
    if save:
        keep_verdict(store, verdict)
    return verdict


def judge_runs(
    store: Store,
    release: Release,
    runs: tuple[Run, ...],
    policy: Policy,
    *,
    judged_at: datetime,
    cut: Callable[[Cells], Cells] = lambda cells: cells,
    period: Period = WHOLE,
) -> tuple[Verdict, Judged]:
    """Assess runs as they have landed and judge them; nothing is written. `cut` narrows their requests.

    Returns the verdict, and the data and evidence that it is based on, from which figures are drawn.
    """
    with store.reading():
        learnt = store.control.learnt(service_of(release))
        data = read_data(store, runs, policy.rulebook)
        data_hash = store.data.content_hash([run.id for run in runs])
        # A promotion that overrode a verdict on these data counts for all later verdicts on them, too.
        override = store.control.override_of(release.id, data_hash)
    own, policy = policy, with_learnt(policy, learnt)
    part = cut(narrow(data.cells, start=period.start, end=period.end))
    left_out = (*find_lost_rows(data.cells, data.runs), *find_cut_rows(data.cells, part))
    if period != WHOLE:
        loads, waiting = cut_in_flight(data.cells, data.runs, period)
        readings = data.readings and cut_readings(data.readings, period.start, period.end)
        data, left_out = replace(data, runs=loads, readings=readings), (*left_out, *waiting)
    findings = (describe_learnt(learnt, policy.rulebook),) if learnt is not None and policy is not own else ()
    judged = judge_data(replace(data, cells=part, left_out=left_out), policy.rulebook, release.id, findings)
    verdict = replace(
        to_verdict(release, policy, judged.evidence, judged.judgement, data_hash, judged_at),
        queries=_list_queries(data.readings, judged.evidence.window),
        override=override,
        period=period,
    )
    return verdict, judged


def to_verdict(
    release: Release, policy: Policy, evidence: Evidence, judgement: Judgement, data_hash: str, judged_at: datetime
) -> Verdict:
    """Make a verdict from a judgement, the release, its evidence, the policy, and the hash of the data.

    Commands in its texts that judge again name this policy.
    """

    def by_policy(text: str) -> str:
        return text.replace(f"`{write_command(release.id)}", f"`{policy.command(release.id)}")

    findings = tuple(replace(finding, remedy=by_policy(finding.remedy)) for finding in evidence.findings)
    return Verdict(
        release=release,
        word=judgement.word,
        reasons=judgement.reasons,
        next_action=by_policy(judgement.next_action),
        evidence=replace(evidence, findings=findings),
        judge=JUDGE,
        monitoring=evidence.monitoring,
        alpha=policy.rulebook.alpha,
        mode=policy.rulebook.mode,
        time_to_decision_s=judgement.decided_at_s or None,
        policy=policy.effective,
        policy_hash=policy.hash,
        policy_path=policy.path,
        data_hash=data_hash,
        evaluator_version=find_version(),
        judged_at=judged_at,
    )


def _list_queries(readings: ReadingCells | None, window: Window) -> tuple[Mapping[str, Any], ...]:
    """List the queries to a metrics server as sent, with its warnings and notes, and how its samples were used."""
    if readings is None:
        return ()
    return tuple(
        {
            "query": facts.query.text,
            "arm": facts.arm,
            "sent": list(facts.sent),
            "series": facts.series,
            "warnings": list(facts.warnings),
            "notes": list(facts.notes),
            "samples": count_samples(readings, facts, window),
        }
        for facts in readings.facts
    )


def add_figures(store: Store, verdict: Verdict, policy: Policy, runs: str) -> Verdict:
    """Add figures to a verdict that has none, from the runs that it judged."""
    rulebook = with_learnt(policy, store.control.learnt(service_of(verdict.release))).rulebook
    data = read_data(store, choose_runs(store.data.runs(verdict.release.id), runs), rulebook)
    requests = pair_requests(data.cells, data.runs, rulebook)
    return _with_figures(store, verdict, data, requests, rulebook)


def _with_figures(
    store: Store, verdict: Verdict, data: ReleaseData, requests: RequestPairs | None, rulebook: Rulebook
) -> Verdict:
    from evaluator.pipeline.drawing import trace_figures  # most verdicts have no figures

    figures = trace_figures(store, verdict.release, data, requests, rulebook, verdict.evidence)
    return replace(verdict, figures=figures)


def keep_verdict(store: Store, verdict: Verdict) -> None:
    """Store a verdict in the history of its release, with its figures."""
    when = verdict.judged_at or datetime.now(UTC)
    figures = None if verdict.figures is None else json.dumps(verdict.figures, separators=(",", ":"), allow_nan=False)
    text = to_json(replace(verdict, figures=None))
    outcomes = verdict.evidence.outcomes_run, verdict.evidence.outcomes_paid
    store.control.save_verdict(verdict.release.id, text, when, verdict.word.value, figures, outcomes=outcomes)
