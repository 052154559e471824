"""Turn the data of runs into evidence, and judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evaluator.assess import ReleaseData, assess_release
from evaluator.assess.outcomes import find_needs
from evaluator.assess.requests import RequestPairs
from evaluator.judges import Judgement, judge_evidence
from evaluator.records import Evidence, EvidenceKind, Finding, Rulebook, Run
from evaluator.store import Store


@dataclass(frozen=True, slots=True)
class Judged:
    """Data, the rules they were judged by, their evidence with the status of each metric, and the judge's answer."""

    data: ReleaseData
    rulebook: Rulebook
    evidence: Evidence
    judgement: Judgement
    requests: RequestPairs | None
    """The requests as they were judged: figures are drawn from them."""


def read_data(store: Store, runs: tuple[Run, ...], rulebook: Rulebook) -> ReleaseData:
    """Read the data that the metrics of `rulebook` are computed from.

    Of `runs` (oldest first), all that have requests (of a load, of production) are read, the newest that has outcomes,
    and the newest that has readings.
    """
    request_runs = tuple(run for run in runs if run.kind is EvidenceKind.REQUESTS)
    live_runs = tuple(run for run in runs if run.kind is EvidenceKind.LIVE)
    newest_by_kind = {run.kind: run for run in runs}  # a later run replaces an earlier run of its kind
    outcome_run = newest_by_kind.get(EvidenceKind.OUTCOMES)
    reading_run = newest_by_kind.get(EvidenceKind.READINGS)
    outcomes = store.data.read_outcomes(outcome_run) if outcome_run else None
    if outcome_run and outcomes:
        # The sums, read above, suffice for most metrics, and show which metrics need the value of each unit, too.
        needed = find_needs(outcomes, rulebook)
        if needed.values or needed.row_values:
            outcomes = store.data.read_outcomes(outcome_run, values=needed.values, row_values=needed.row_values)
    return ReleaseData(
        runs=request_runs,
        cells=store.data.read_cells([run.id for run in request_runs]),
        outcomes=outcomes,
        readings=store.data.read_readings(reading_run) if reading_run else None,
        collected=(reading_run,) if reading_run else (),
        live_runs=live_runs,
        live_cells=store.data.read_cells([run.id for run in live_runs]) if live_runs else None,
    )


def judge_data(data: ReleaseData, rulebook: Rulebook, release_id: str, findings: tuple[Finding, ...] = ()) -> Judged:
    """Assess data under `rulebook` and judge them, with `findings` added to the findings of the health checks."""
    assessment = assess_release(data, rulebook, release_id)
    evidence = replace(assessment.evidence, findings=(*assessment.evidence.findings, *findings))
    judgement = judge_evidence(evidence, rulebook, release_id)
    # The judge returns the comparisons with the status of each.
    evidence = replace(evidence, comparisons=judgement.comparisons)
    return Judged(data=data, rulebook=rulebook, evidence=evidence, judgement=judgement, requests=assessment.requests)
