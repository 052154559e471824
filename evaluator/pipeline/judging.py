"""Read what has landed, assess it and judge it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from evaluator import __version__
from evaluator.assess import assess_release
from evaluator.errors import UnknownName
from evaluator.health.history import describe_learnt
from evaluator.judges import JUDGES
from evaluator.metrics.outcome_measure import find_needs
from evaluator.pipeline.landing import land_release
from evaluator.policy import Policy, with_learnt
from evaluator.records import (
    Outcomes,
    Release,
    Rulebook,
    Run,
    Verdict,
)
from evaluator.reports import to_json
from evaluator.sources.outcomes import OUTCOME_SOURCE
from evaluator.stats.student import load_early
from evaluator.store import Store

__all__ = ["choose_runs", "judge_release", "read_outcomes", "service_of"]

JUDGE = "native"


def judge_release(
    store: Store,
    release_id: str,
    policy: Policy,
    *,
    runs: str = "latest",
    judged_at: datetime,
    save: bool = True,
    figures: bool = False,
) -> Verdict:
    """Land what is waiting, assess the chosen runs and judge them; the verdict is kept unless `save` is off.

    `runs`: `latest` (the newest run group), `all`, or the id of a run or group. Raises UnknownName for anything else.
    `figures`: also compute and keep what figures are drawn from, which takes longer than the verdict itself.
    """
    load_early()
    land_release(store, release_id)
    release = store.release(release_id)
    learnt = store.learnt(service_of(release))
    own, policy = policy, with_learnt(policy, learnt)
    chosen = choose_runs(store.runs(release_id), runs)
    ids = [run.id for run in chosen]
    loads = tuple(run for run in chosen if run.source != OUTCOME_SOURCE)
    outcomes = read_outcomes(store, chosen, policy.rulebook)
    cells = store.read_cells([run.id for run in loads])
    evidence = assess_release(cells, loads, outcomes, policy.rulebook, release_id)
    if learnt is not None and policy is not own:
        evidence = replace(evidence, findings=(*evidence.findings, describe_learnt(learnt, policy.rulebook)))
    judgement = JUDGES[JUDGE](evidence, policy.rulebook, release_id)
    verdict = Verdict(
        release=release,
        word=judgement.word,
        reasons=judgement.reasons,
        next_action=judgement.next_action,
        evidence=replace(evidence, comparisons=judgement.comparisons),
        judge=JUDGE,
        monitoring=evidence.monitoring,
        alpha=policy.rulebook.alpha,
        mode=policy.rulebook.mode,
        time_to_decision_s=judgement.decided_at_s or None,
        policy=policy.effective,
        policy_hash=policy.hash,
        data_hash=store.data_hash(ids),
        evaluator_version=__version__,
        judged_at=judged_at,
    )
    if figures:
        from evaluator.pipeline.drawing import trace_figures  # most verdicts are given without

        traced = trace_figures(store, release, loads, cells, policy.rulebook, judgement.comparisons)
        verdict = replace(verdict, figures=traced)
    if save:
        kept = None if verdict.figures is None else json.dumps(verdict.figures, separators=(",", ":"), allow_nan=False)
        store.save_verdict(release_id, to_json(replace(verdict, figures=None)), judged_at, verdict.word.value, kept)
    return verdict


def service_of(release: Release) -> str:
    """Name of a release's service; empty where it has none, or several."""
    return release.services[0].name if len(release.services) == 1 else ""


def read_outcomes(store: Store, runs: tuple[Run, ...], rulebook: Rulebook) -> Outcomes | None:
    """Read the newest outcomes among `runs`: their sums first, which tell what else the metrics need."""
    run = next((run for run in reversed(runs) if run.source == OUTCOME_SOURCE), None)
    sums = store.read_outcomes(run) if run else None
    if run is None or sums is None:
        return None
    needs = find_needs(sums, rulebook)
    if not needs.values and not needs.row_values:
        return sums
    return store.read_outcomes(run, values=needs.values, row_values=needs.row_values)


def choose_runs(runs: tuple[Run, ...], wanted: str) -> tuple[Run, ...]:
    """Pick the runs to judge together: the newest group, all of them, or one run or group by its id.

    The newest group of outcomes stands beside the newest of requests: they answer other metrics.
    """
    if wanted == "all" or not runs:
        return runs
    if wanted == "latest":
        newest = {run.source == OUTCOME_SOURCE: run.group for run in runs}
        return tuple(run for run in runs if run.group in newest.values())
    chosen = tuple(run for run in runs if wanted in {run.id, run.group})
    if not chosen:
        raise UnknownName("run", wanted, ["all", "latest", *(run.id for run in runs)])
    return chosen
