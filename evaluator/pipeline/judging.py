"""Read what has landed, assess it and judge it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from evaluator.assess import ReleaseData, pair_drawn_requests
from evaluator.assess.readings import count_samples
from evaluator.assess.requests import RequestPairs
from evaluator.errors import UnknownName
from evaluator.faults import find_faults
from evaluator.health.replication import describe_learnt
from evaluator.judges import JUDGE, Judgement, point_to_faults
from evaluator.pipeline.assessing import Judged, judge_data, read_data
from evaluator.pipeline.iterations import add_iteration
from evaluator.pipeline.landing import land_release, with_present_facts
from evaluator.pipeline.runs import choose_runs, list_steps, service_of
from evaluator.policy import Policy, with_learnt
from evaluator.records import (
    WHOLE,
    Cells,
    Evidence,
    Finding,
    Period,
    ReadingCells,
    Release,
    Rulebook,
    Run,
    Verdict,
    VerdictWord,
    Window,
)
from evaluator.reports import to_json
from evaluator.stats.inference.student import load_early
from evaluator.stats.shaping.account import find_cut_rows, find_lost_rows
from evaluator.stats.shaping.cells import where
from evaluator.stats.shaping.failures import list_failures
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
    step: str = "",
    judged_at: datetime,
    save: bool = True,
    figures: bool = False,
    period: Period = WHOLE,
) -> Verdict:
    """Land waiting segments, assess the chosen runs and judge them. `save`: store the verdict.

    `runs`: `latest` (the newest run group), `all`, or the id of a run or group; raises UnknownName for anything else.
    `step`: only the runs of this step of a rollout; empty: those of the newest step, if the newest runs have any.
    `figures`: also compute the data of the figures, which takes longer than the verdict itself.
    `period`: judge only the data in this period; raises UsageError if it has none.
    """
    load_early()  # a slow import, in a thread while data land
    land_release(store, release_id)
    with store.reading():
        stored_runs, release = store.data.runs(release_id), store.control.release(release_id)
    chosen = tuple(with_present_facts(store, run) for run in choose_runs(stored_runs, runs, step))
    verdict, judged = judge_runs(store, release, chosen, policy, judged_at=judged_at, period=period)
    verdict = name_step(verdict, chosen, list_steps(stored_runs), policy, asked=step)
    verdict = add_iteration(store, verdict)
    if figures:
        verdict = _with_figures(store, verdict, judged.data, judged.requests, judged.rulebook)
    if save:
        keep_verdict(store, verdict)
    return verdict


def name_step(verdict: Verdict, judged: Sequence[Run], steps: Sequence[str], policy: Policy, *, asked: str) -> Verdict:
    """Say in a verdict which step of a rollout was judged, and which ones were not.

    Args:
        verdict: The verdict.
        judged: The runs that it judged.
        steps: All steps of the release.
        policy: Writes the command that judges the release.
        asked: The step that the user asked for; empty: none.
    """
    judged_steps = list_steps(judged)
    verdict = replace(
        verdict,
        step=judged_steps[-1] if len(judged_steps) == 1 else "",
        only_step=bool(asked),
        other_steps=tuple(step for step in steps if step not in judged_steps),
    )
    if not asked:
        return verdict
    command = policy.command(verdict.release.id)
    if verdict.word is VerdictWord.GO:
        text = f"step {asked} is GO: begin the next step; the whole release is judged by `{command}`"
        return replace(verdict, next_action=text)
    of_step = shlex.join(["--step", asked])

    def name_step(text: str) -> str:
        """Add the step to each command in a text that judges the release again."""
        return text.replace(f"`{command}", f"`{command} {of_step}")

    findings = tuple(replace(finding, remedy=name_step(finding.remedy)) for finding in verdict.evidence.findings)
    return replace(
        verdict, next_action=name_step(verdict.next_action), evidence=replace(verdict.evidence, findings=findings)
    )


def judge_runs(
    store: Store,
    release: Release,
    runs: tuple[Run, ...],
    policy: Policy,
    *,
    judged_at: datetime,
    cut: Callable[[Cells], Cells] = lambda cells: cells,
    period: Period = WHOLE,
    prepare: Callable[[ReleaseData], ReleaseData] = lambda data: data,
    check: Callable[[ReleaseData], tuple[Finding, ...]] = lambda _: (),
) -> tuple[Verdict, Judged]:
    """Assess stored runs of a release and judge them; nothing is written.

    `period` limits requests and readings, and `cut` the requests further; what they leave out is counted as such.
    `prepare` changes the data before that, and `check` adds findings of its own health checks. The
    policy is completed by what calibration learnt from earlier runs of the service: how much instances differ. Returns
    the verdict, and the data and evidence that it is based on, from which figures are drawn.
    """
    with store.reading():
        learnt = store.control.learnt(service_of(release))
        data = prepare(read_data(store, runs, policy.rulebook))
        data_hash = store.data.content_hash([run.id for run in runs])
        # If a person promoted against an earlier verdict on the same data, later verdicts on them state it, too.
        override = store.control.override_of(release.id, data_hash)
    completed_policy = with_learnt(policy, learnt)
    rulebook = completed_policy.rulebook
    # Too little learnt changes nothing: then `with_learnt` returns the policy itself.
    is_learnt_used = completed_policy is not policy
    findings = (describe_learnt(learnt, rulebook),) if learnt is not None and is_learnt_used else ()
    narrowed = _narrow_data(data, period, cut)
    judged = judge_data(narrowed, rulebook, release.id, (*findings, *check(narrowed)))
    faults = find_faults(judged.requests, judged.evidence, judged.judgement.word)
    judgement = point_to_faults(judged.judgement, faults, rulebook, release.id)
    verdict = replace(
        to_verdict(release, completed_policy, judged.evidence, judgement, data_hash, judged_at),
        queries=_list_queries(narrowed.readings, judged.evidence.window),
        override=override,
        period=period,
        faults=faults,
        failures=None if judged.requests is None else list_failures(judged.requests.cells),
    )
    if verdict.word is VerdictWord.GO and period != WHOLE:
        whole = f"a part of the time is GO, which promotes nothing; judge the whole: `{policy.command(release.id)}`"
        verdict = replace(verdict, next_action=whole)
    return verdict, judged


def _narrow_data(data: ReleaseData, period: Period, cut: Callable[[Cells], Cells]) -> ReleaseData:
    """Keep the requests and readings in `period`, and of these requests what `cut` keeps.

    `left_out` of the result counts the rows that are not kept, and those that were lost before.
    """
    live_cells = data.live_cells
    if live_cells is None:
        cells = cut(narrow(data.cells, start=period.start, end=period.end))
    else:
        cells, live_cells = _cut_both(data.cells, live_cells, period, cut)
    left_out = (*find_lost_rows(data.cells, data.runs), *find_cut_rows(data.cells, cells))
    if data.live_cells is not None and live_cells is not None:
        live_left_out = (*find_lost_rows(data.live_cells, data.live_runs), *find_cut_rows(data.live_cells, live_cells))
        data = replace(data, live_cells=live_cells, live_left_out=live_left_out)
    if period == WHOLE:
        return replace(data, cells=cells, left_out=left_out)
    # Requests without an answer when the load ended are facts of their run, not rows of the cells.
    runs, in_flight_outside = cut_in_flight(data.cells, data.runs, period)
    readings = None if data.readings is None else cut_readings(data.readings, period.start, period.end)
    return replace(data, runs=runs, cells=cells, readings=readings, left_out=(*left_out, *in_flight_outside))


def _cut_both(load: Cells, live: Cells, period: Period, cut: Callable[[Cells], Cells]) -> tuple[Cells, Cells]:
    """Keep of the requests of a load and of production those in `period`, and of these what `cut` keeps.

    An endpoint or instance may be known to one of them only: then nothing of the other is kept. Raises UnknownName for
    one that neither has.
    """
    kept, unknown = [], []
    for cells in (load, live):
        in_period = narrow(cells, start=period.start, end=period.end)
        try:
            kept.append(cut(in_period))
        except UnknownName as error:
            unknown.append(error)
            kept.append(where(in_period, run=[]))
    if len(unknown) == len(kept):
        raise unknown[0]
    return kept[0], kept[1]


def to_verdict(
    release: Release, policy: Policy, evidence: Evidence, judgement: Judgement, data_hash: str, judged_at: datetime
) -> Verdict:
    """Make a verdict from a judgement and what it is based on."""

    def name_policy(text: str) -> str:
        """Add the file of the policy to each command in a text that judges the release again."""
        return text.replace(f"`{write_command(release.id)}", f"`{policy.command(release.id)}")

    findings = tuple(replace(finding, remedy=name_policy(finding.remedy)) for finding in evidence.findings)
    return Verdict(
        release=release,
        word=judgement.word,
        reasons=judgement.reasons,
        next_action=name_policy(judgement.next_action),
        evidence=replace(evidence, findings=findings),
        judge=JUDGE,
        monitoring=evidence.monitoring,
        alpha=policy.rulebook.alpha,
        mode=policy.rulebook.mode,
        time_to_decision_s=judgement.decided_at_s or None,  # 0 s of load: the time of the decision is not known
        policy=policy.effective,
        policy_hash=policy.hash,
        policy_path=policy.path,
        data_hash=data_hash,
        evaluator_version=find_version(),
        judged_at=judged_at,
    )


def _list_queries(readings: ReadingCells | None, window: Window) -> tuple[Mapping[str, Any], ...]:
    """List the queries to a metrics server: each as sent for an arm, the server's warnings, the use of its samples.

    Each is an entry of the verdict's JSON. Empty without readings.
    """
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


def add_figures(store: Store, verdict: Verdict, policy: Policy, runs: str, step: str = "") -> Verdict:
    """Add the data of figures to a verdict that has none.

    `runs` and `step` select the runs that it judged, as for `judge_release`. Nothing is stored.
    """
    rulebook = with_learnt(policy, store.control.learnt(service_of(verdict.release))).rulebook
    data = read_data(store, choose_runs(store.data.runs(verdict.release.id), runs, step), rulebook)
    requests = pair_drawn_requests(data, rulebook)
    return _with_figures(store, verdict, data, requests, rulebook)


def _with_figures(
    store: Store, verdict: Verdict, data: ReleaseData, requests: RequestPairs | None, rulebook: Rulebook
) -> Verdict:
    """Add the data of figures to a verdict; `data`, `requests` and `rulebook` are those by which it was given."""
    from evaluator.pipeline.drawing import trace_figures  # most verdicts have no figures

    figures = trace_figures(store, verdict.release, data, requests, rulebook, verdict.evidence)
    return replace(verdict, figures=figures)


def keep_verdict(store: Store, verdict: Verdict) -> None:
    """Store a verdict in the history of its release. The data of its figures are large: they are stored separately."""
    judged_at = verdict.judged_at or datetime.now(UTC)
    verdict_json = to_json(replace(verdict, figures=None))
    figures_json = None
    if verdict.figures is not None:
        figures_json = json.dumps(verdict.figures, separators=(",", ":"), allow_nan=False)
    outcomes = verdict.evidence.outcomes_run, verdict.evidence.outcomes_paid
    store.control.save_verdict(
        verdict.release.id, verdict_json, judged_at, verdict.word.value, figures_json, outcomes=outcomes
    )
