"""The data of a verdict's figures: its curves, its runs, and earlier candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.assess import ReleaseData
from evaluator.assess.requests import RequestPairs
from evaluator.figure_data import trace_release
from evaluator.records import Evidence, Release, Rulebook
from evaluator.store import Store

MOST_RUNS = 50
MOST_CANDIDATES = 12


def trace_figures(
    store: Store,
    release: Release,
    data: ReleaseData,
    requests: RequestPairs | None,
    rulebook: Rulebook,
    evidence: Evidence,
) -> Mapping[str, Any]:
    """Compute the data (plain JSON) of all figures of a verdict.

    `data` are what was judged, `requests` its requests as they were compared (`None`: there are none), `evidence` the
    result. One figure lists earlier verdicts on other releases of the same services.
    """
    services = {service.name for service in release.services}
    judged_before = [
        summary
        for summary in store.releases()
        if summary.release.id != release.id
        and summary.verdict
        and services
        and {service.name for service in summary.release.services} == services
    ]
    return {
        **trace_release(requests, rulebook, evidence.comparisons, data.readings),
        "runs": [
            {
                "id": run.id,
                "source": run.source,
                "replicate": run.replicate,
                "state": run.state.value,
                "started": run.started.isoformat() if run.started else None,
                "ended": run.ended.isoformat() if run.ended else None,
                "rows": run.landed,
                "users": dict(run.facts.users),
                "stopped_by": run.facts.stopped_by,
                **({"step": run.step} if run.step else {}),
            }
            for run in (*data.runs, *data.live_runs)[:MOST_RUNS]
        ],
        "candidates": [
            {
                "release": summary.release.id,
                "verdict": summary.verdict,
                "judged_at": summary.judged_at.isoformat() if summary.judged_at else None,
            }
            for summary in judged_before[:MOST_CANDIDATES]
        ],
    }
