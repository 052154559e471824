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
    """Read what the metrics of `rulebook` need of `runs`: all their requests, the newest outcomes, the newest readings.

    The sums of outcomes are read first: they show which single values the metrics need.
    """
    loads = tuple(run for run in runs if run.kind is EvidenceKind.REQUESTS)
    newest = {run.kind: run for run in runs}
    imported, collected = newest.get(EvidenceKind.OUTCOMES), newest.get(EvidenceKind.READINGS)
    outcomes = store.data.read_outcomes(imported) if imported else None
    if imported and outcomes:
        needs = find_needs(outcomes, rulebook)
        if needs.values or needs.row_values:
            outcomes = store.data.read_outcomes(imported, values=needs.values, row_values=needs.row_values)
    return ReleaseData(
        runs=loads,
        cells=store.data.read_cells([run.id for run in loads]),
        outcomes=outcomes,
        readings=store.data.read_readings(collected) if collected else None,
        collected=(collected,) if collected else (),
    )


def judge_data(data: ReleaseData, rulebook: Rulebook, release_id: str, findings: tuple[Finding, ...] = ()) -> Judged:
    """Assess data under `rulebook` and judge them; `findings`: further findings about their health."""
    assessment = assess_release(data, rulebook, release_id)
    evidence = replace(assessment.evidence, findings=(*assessment.evidence.findings, *findings))
    judgement = judge_evidence(evidence, rulebook, release_id)
    evidence = replace(evidence, comparisons=judgement.comparisons)
    return Judged(data, rulebook, evidence, judgement, assessment.requests)
