"""What the figures of a verdict need: its curves, its runs, and the candidates before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluator.curves import trace_release
from evaluator.pipeline.judging import choose_runs, read_readings, service_of
from evaluator.policy import Policy, with_learnt
from evaluator.records import (
    Cells,
    Comparison,
    EvidenceKind,
    ReadingCells,
    Release,
    ReleaseSummary,
    Rulebook,
    Run,
    Verdict,
)
from evaluator.store import Store

__all__ = ["add_figures", "trace_figures"]

MOST_RUNS = 50
MOST_CANDIDATES = 12


def trace_figures(
    store: Store,
    release: Release,
    runs: Sequence[Run],
    cells: Cells,
    rulebook: Rulebook,
    comparisons: Sequence[Comparison],
    readings: ReadingCells | None = None,
) -> Mapping[str, Any]:
    """Plain JSON behind the figures of one release. `cells` and `comparisons`: as they were judged."""
    return {
        **trace_release(cells, tuple(runs), rulebook, comparisons, readings),
        "runs": [_describe(run) for run in runs[:MOST_RUNS]],
        "candidates": [_sum_up(one) for one in _find_candidates(store.releases(), release)],
    }


def add_figures(store: Store, verdict: Verdict, policy: Policy, runs: str) -> Verdict:
    """Give a verdict that was reached without them its figures, from the runs that it judged."""
    learnt = with_learnt(policy, store.learnt(service_of(verdict.release)))
    chosen = choose_runs(store.runs(verdict.release.id), runs)
    loads = tuple(run for run in chosen if run.kind is EvidenceKind.REQUESTS)
    cells = store.read_cells([run.id for run in loads])
    readings, _ = read_readings(store, chosen)
    comparisons = verdict.evidence.comparisons
    traced = trace_figures(store, verdict.release, loads, cells, learnt.rulebook, comparisons, readings)
    return replace(verdict, figures=traced)


def _describe(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "source": run.source,
        "replicate": run.replicate,
        "state": run.state.value,
        "started": run.started.isoformat() if run.started else None,
        "ended": run.ended.isoformat() if run.ended else None,
        "rows": run.landed,
        "users": dict(run.facts.users),
        "stopped_by": run.facts.stopped_by,
    }


def _find_candidates(summaries: Sequence[ReleaseSummary], release: Release) -> list[ReleaseSummary]:
    """Other releases of the same services that were judged, the newest first."""
    services = {service.name for service in release.services}
    return [
        one
        for one in summaries
        if one.release.id != release.id
        and one.verdict
        and services
        and {service.name for service in one.release.services} == services
    ][:MOST_CANDIDATES]


def _sum_up(one: ReleaseSummary) -> dict[str, Any]:
    judged = one.judged_at.isoformat() if one.judged_at else None
    return {"release": one.release.id, "verdict": one.verdict, "judged_at": judged}
