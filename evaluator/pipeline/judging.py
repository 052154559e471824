"""Read what has landed, assess it and judge it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from evaluator.assess import assess_release
from evaluator.assess_readings import count_samples
from evaluator.errors import UnknownName
from evaluator.health.history import describe_learnt
from evaluator.judges import JUDGES
from evaluator.metrics.outcome_measure import find_needs
from evaluator.pipeline.landing import land_release, with_present_facts
from evaluator.policy import Policy, with_learnt
from evaluator.records import (
    WHOLE,
    Cells,
    EvidenceKind,
    Outcomes,
    Period,
    ReadingCells,
    Release,
    Rulebook,
    Run,
    Verdict,
    Window,
)
from evaluator.reports import to_json
from evaluator.stats.account import find_cut_rows, find_lost_rows
from evaluator.stats.in_flight import cut_in_flight
from evaluator.stats.narrow import cut_readings, narrow
from evaluator.stats.student import load_early
from evaluator.store import Store
from evaluator.version import find_version

__all__ = [
    "JUDGE",
    "Trace",
    "choose_runs",
    "judge_release",
    "judge_runs",
    "judge_traceably",
    "keep_verdict",
    "read_outcomes",
    "read_readings",
    "service_of",
]

JUDGE = "native"

Trace = Callable[[], Mapping[str, Any]]
"""Computes the plain JSON behind the figures of a verdict."""


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
    """Land what is waiting, assess the chosen runs and judge them; the verdict is kept unless `save` is off.

    `runs`: `latest` (the newest run group), `all`, or the id of a run or group. Raises UnknownName for anything else.
    `figures`: also compute and keep what figures are drawn from, which takes longer than the verdict itself.
    `period`: judge the part of the data in this time only. Raises UsageError where that is empty.
    """
    load_early()
    land_release(store, release_id)
    with store.reading():
        known, release = store.runs(release_id), store.release(release_id)
    chosen = tuple(with_present_facts(store, run) for run in choose_runs(known, runs))
    verdict = judge_runs(store, release, chosen, policy, judged_at=judged_at, figures=figures, period=period)
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
    figures: bool = False,
    period: Period = WHOLE,
) -> Verdict:
    """Assess runs as they have landed and judge them; nothing is written. `cut` narrows their requests."""
    verdict, trace = judge_traceably(store, release, runs, policy, judged_at=judged_at, cut=cut, period=period)
    return replace(verdict, figures=trace()) if figures else verdict


def judge_traceably(
    store: Store,
    release: Release,
    runs: tuple[Run, ...],
    policy: Policy,
    *,
    judged_at: datetime,
    cut: Callable[[Cells], Cells] = lambda cells: cells,
    period: Period = WHOLE,
) -> tuple[Verdict, Trace]:
    """Judge runs as `judge_runs` does; beside the verdict comes what computes its figures, should they be wanted."""
    loads = tuple(run for run in runs if run.kind is EvidenceKind.REQUESTS)
    with store.reading():
        learnt = store.learnt(service_of(release))
        outcomes = read_outcomes(store, runs, policy.rulebook)
        cells = store.read_cells([run.id for run in loads])
        readings, collected = read_readings(store, runs)
        data_hash = store.data_hash([run.id for run in runs])
        # Who promoted on these data against a verdict has done so for every later look at them, too.
        override = store.promotions.override_of(release.id, data_hash)
    own, policy = policy, with_learnt(policy, learnt)
    lost = find_lost_rows(cells, loads)
    part = cut(narrow(cells, start=period.start, end=period.end))
    left_out = (*lost, *find_cut_rows(cells, part))
    if period != WHOLE:
        loads, waiting = cut_in_flight(cells, loads, period)
        left_out += waiting
        readings = readings and cut_readings(readings, period.start, period.end)
    cells = part
    evidence = assess_release(cells, loads, outcomes, policy.rulebook, release.id, readings, collected, left_out)
    if learnt is not None and policy is not own:
        evidence = replace(evidence, findings=(*evidence.findings, describe_learnt(learnt, policy.rulebook)))
    judgement = JUDGES[JUDGE](evidence, policy.rulebook, release.id)
    verdict = Verdict(
        release=release,
        word=judgement.word,
        reasons=judgement.reasons,
        next_action=_name_policy(judgement.next_action, release.id, policy),
        evidence=replace(evidence, comparisons=judgement.comparisons),
        judge=JUDGE,
        monitoring=evidence.monitoring,
        alpha=policy.rulebook.alpha,
        mode=policy.rulebook.mode,
        time_to_decision_s=judgement.decided_at_s or None,
        policy=policy.effective,
        queries=_list_queries(readings, evidence.window),
        policy_hash=policy.hash,
        policy_path=policy.origin if policy.of_folder else "",
        data_hash=data_hash,
        override=override,
        period=period,
        evaluator_version=find_version(),
        judged_at=judged_at,
    )

    def trace() -> Mapping[str, Any]:
        from evaluator.pipeline.drawing import trace_figures  # most verdicts are given without

        return trace_figures(store, release, loads, cells, policy.rulebook, judgement.comparisons, readings)

    return verdict, trace


def _name_policy(next_action: str, release_id: str, policy: Policy) -> str:
    """What to do next, with the policy in the command that judges again where it is one of several."""
    if not policy.of_folder:
        return next_action
    return next_action.replace(f"`evaluator verdict {release_id}", f"`{policy.command(release_id)}")


def keep_verdict(store: Store, verdict: Verdict) -> None:
    """Keep a verdict in the history of its release, and its figures beside it."""
    when = verdict.judged_at or datetime.now(UTC)
    figures = None if verdict.figures is None else json.dumps(verdict.figures, separators=(",", ":"), allow_nan=False)
    text = to_json(replace(verdict, figures=None))
    outcomes = verdict.evidence.outcomes_run, verdict.evidence.outcomes_paid
    store.save_verdict(verdict.release.id, text, when, verdict.word.value, figures, outcomes=outcomes)


def service_of(release: Release) -> str:
    """Name of a release's service; empty where it has none, or several."""
    return release.services[0].name if len(release.services) == 1 else ""


def read_outcomes(store: Store, runs: tuple[Run, ...], rulebook: Rulebook) -> Outcomes | None:
    """Read the newest outcomes among `runs`: their sums first, which tell what else the metrics need."""
    run = next((run for run in reversed(runs) if run.kind is EvidenceKind.OUTCOMES), None)
    sums = store.read_outcomes(run) if run else None
    if run is None or sums is None:
        return None
    needs = find_needs(sums, rulebook)
    if not needs.values and not needs.row_values:
        return sums
    return store.read_outcomes(run, values=needs.values, row_values=needs.row_values)


def read_readings(store: Store, runs: tuple[Run, ...]) -> tuple[ReadingCells | None, tuple[Run, ...]]:
    """Read the newest readings among `runs`, and name the run that they are of."""
    run = next((run for run in reversed(runs) if run.kind is EvidenceKind.READINGS), None)
    return (store.read_readings(run), (run,)) if run else (None, ())


def _list_queries(readings: ReadingCells | None, window: Window) -> tuple[Mapping[str, Any], ...]:
    """What was asked of a metrics server, as sent, with what it said of its answers and what became of its samples."""
    if readings is None:
        return ()
    return tuple(
        {
            "query": one.query.text,
            "arm": one.arm,
            "sent": list(one.sent),
            "series": one.series,
            "warnings": list(one.warnings),
            "notes": list(one.notes),
            "samples": count_samples(readings, one, window),
        }
        for one in readings.facts
    )


def choose_runs(runs: tuple[Run, ...], wanted: str) -> tuple[Run, ...]:
    """Pick the runs to judge together: the newest group, all of them, or one run or group by its id.

    The newest groups of outcomes and of readings stand beside the newest of requests: they answer other metrics.
    """
    if wanted == "all" or not runs:
        return runs
    if wanted == "latest":
        newest = {run.kind: run.group for run in runs}
        return tuple(run for run in runs if run.group in newest.values())
    chosen = tuple(run for run in runs if wanted in {run.id, run.group})
    if not chosen:
        raise UnknownName("run", wanted, ["all", "latest", *(run.id for run in runs)])
    return chosen
