"""Requests, readings and outcomes become evidence: every metric measured, every health check run.

Pure: no store, no clock. The pipeline, the simulations and the calibration all use this package. Each kind of evidence
is a module with one class (`Pairs`); this module assesses all of them in the same way and joins the results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from evaluator.assess.base import Pairs, find_rules
from evaluator.assess.looks import look_back
from evaluator.assess.outcomes import pair_outcomes
from evaluator.assess.readings import pair_readings
from evaluator.assess.requests import RequestPairs, pair_requests
from evaluator.health import CHECKS
from evaluator.records import (
    ArmSummary,
    Cells,
    Evidence,
    EvidenceKind,
    LeftOut,
    Outcomes,
    ProductionSummary,
    ReadingCells,
    Rulebook,
    Run,
)

__all__ = ["Assessment", "ReleaseData", "assess", "assess_pairs", "assess_release", "pair_drawn_requests"]


@dataclass(frozen=True, slots=True)
class ReleaseData:
    """The data of a verdict: runs of requests with their cells, outcomes, and readings with their runs."""

    runs: tuple[Run, ...]
    cells: Cells
    outcomes: Outcomes | None = None
    readings: ReadingCells | None = None
    collected: tuple[Run, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Rows that are not in the cells, in addition to those that the runs themselves name."""
    live_runs: tuple[Run, ...] = ()
    """Runs of production requests."""
    live_cells: Cells | None = None
    """Their cells; `None` without such runs."""
    live_left_out: tuple[LeftOut, ...] = ()
    """As `left_out`, of production requests."""
    as_judged: bool = True
    """False if the data that a stored verdict judged are gone or changed: the newest runs are used instead."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The evidence on a release, and the requests as they were judged."""

    evidence: Evidence
    requests: RequestPairs | None
    """Those of the load; without a load those of production. `None` if the release has neither and the policy has no
    metric of requests."""


def assess(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook) -> Evidence:
    """Assess requests by the rules on requests. `runs`: the runs of the cells, with the load generator's facts."""
    return assess_pairs(pair_requests(cells, runs, rulebook))


def assess_pairs(pairs: Pairs | Evidence) -> Evidence:
    """Measure one kind of evidence at every look and run its health checks; finished evidence is returned as it is."""
    if isinstance(pairs, Evidence):
        return pairs
    measured = pairs.measure()
    measured = replace(measured, comparisons=look_back(pairs, measured.comparisons))
    context = pairs.with_comparisons(measured.comparisons)
    findings = tuple(finding for check in CHECKS[pairs.kind] for finding in check(context))
    return pairs.summarise(measured, findings)


def assess_release(data: ReleaseData, rulebook: Rulebook, release: str = "release") -> Assessment:
    """Assess every kind of evidence that a release has or that the policy needs, and join them.

    Outcomes must include the values that `find_needs` names. A metric whose kind of evidence is missing has no data.
    Readings of a release with load runs count only in the judged time of those runs. Without load runs they are one
    run, whose state and end are those of `collected`. `release`: its name, for remedies.
    """
    kinds = {kind for kind in EvidenceKind if find_rules(rulebook, kind)}  # those that the policy needs
    evidence: list[Evidence] = []
    requests = live = None
    has_load = bool(data.runs or data.cells.moments.run.size)
    # A policy without rules is assessed on requests as well, so that there is evidence of some kind. Rules on requests
    # are asked of those of a load and of production; if there are neither, their answer is that data are missing.
    if has_load or (data.live_cells is None and (EvidenceKind.REQUESTS in kinds or not kinds)):
        requests = pair_requests(data.cells, data.runs, rulebook, release, data.left_out)
        evidence.append(assess_pairs(requests))
    if data.live_cells is not None:
        live = pair_requests(
            data.live_cells, data.live_runs, rulebook, release, data.live_left_out, kind=EvidenceKind.LIVE
        )
        evidence.append(assess_pairs(live))
        if requests is not None:
            evidence = [_join_production(*_name_evidence(*evidence))]
    if EvidenceKind.READINGS in kinds or data.readings is not None:
        load = _choose_load(requests if data.runs else None, live, data.readings)
        # The evidence of requests comes first.
        load_comparisons = tuple(c for c in evidence[0].comparisons if c.kind is load.kind) if load else ()
        readings = pair_readings(data.readings, data.collected, rulebook, release, load, load_comparisons)
        evidence.append(assess_pairs(readings))
    if EvidenceKind.OUTCOMES in kinds or data.outcomes is not None:
        evidence.append(assess_pairs(pair_outcomes(data.outcomes, rulebook, release)))
    return Assessment(reduce(_join, evidence), requests if requests is not None else live)


def pair_drawn_requests(data: ReleaseData, rulebook: Rulebook) -> RequestPairs:
    """Prepare the requests of which figures are drawn: those of the load; without a load those of production."""
    if data.live_cells is not None and not data.runs:
        return pair_requests(data.live_cells, data.live_runs, rulebook, kind=EvidenceKind.LIVE)
    return pair_requests(data.cells, data.runs, rulebook)


def _choose_load(
    load: RequestPairs | None, live: RequestPairs | None, readings: ReadingCells | None
) -> RequestPairs | None:
    """Choose the requests in whose time readings are judged: of load and production those with more readings.

    `None` without requests. Readings of production say nothing of a load that ran before, perhaps elsewhere.
    """
    if load is None or live is None or readings is None:
        return load if load is not None else live

    def count_inside(requests: RequestPairs) -> int:
        """Count the readings in the judged time of these requests."""
        start_s, end_s = (bucket * requests.cells.bucket_s for bucket in requests.span)
        times_s = readings.bucket * readings.bucket_s
        return int(np.count_nonzero((times_s >= start_s) & (times_s < end_s)))

    return live if count_inside(live) > count_inside(load) else load


def _name_evidence(load: Evidence, live: Evidence) -> tuple[Evidence, Evidence]:
    """Note on each finding whether it is about the load or about production."""

    def name(evidence: Evidence, kind: EvidenceKind) -> Evidence:
        """Note `kind` on each finding of one kind of requests."""
        return replace(evidence, findings=tuple(replace(finding, evidence=kind) for finding in evidence.findings))

    return name(load, EvidenceKind.REQUESTS), name(live, EvidenceKind.LIVE)


def _join_production(load: Evidence, live: Evidence) -> Evidence:
    """Join the requests of a load with those of production; numbers of arms and the judged time are kept apart."""
    production_by_arm = {
        arm.name: ProductionSummary(
            requests=arm.requests, instances=arm.instances, runs=arm.runs, read=arm.read, left_out=arm.left_out
        )
        for arm in live.arms
    }
    arms = [replace(arm, production=production_by_arm.pop(arm.name, None)) for arm in load.arms]
    # An arm that only production has.
    arms += [
        ArmSummary(name, role="candidate", requests=0, instances=0, runs=0, production=summary)
        for name, summary in production_by_arm.items()
    ]
    return replace(
        load,
        comparisons=(*load.comparisons, *live.comparisons),
        findings=(*load.findings, *live.findings),
        arms=tuple(arms),
        production=live.production,
        unjudged_share=max(load.unjudged_share, live.unjudged_share),
        unjudged_endpoints=tuple(dict.fromkeys((*load.unjudged_endpoints, *live.unjudged_endpoints))),
        incomplete=load.incomplete or live.incomplete,
        final=load.final and live.final,
        imported=load.imported and live.imported,
        # More data come from the part that is not final yet.
        progress=live.progress if load.final and not live.final else load.progress,
    )


def _join(first: Evidence, second: Evidence) -> Evidence:
    """Join two kinds of evidence; arms of one name are one arm.

    What is not joined, such as the window, is taken from the first, unless only the second has a window of some length
    (outcomes have none).
    """
    base = second if second.window.seconds and not first.window.seconds else first
    return replace(
        base,
        comparisons=(*first.comparisons, *second.comparisons),
        findings=(*first.findings, *second.findings),
        arms=_join_arms(first.arms, second.arms),
        production=first.production,
        incomplete=first.incomplete or second.incomplete,
        final=first.final and second.final,
        collected=first.collected or second.collected,
        outcomes_run=first.outcomes_run or second.outcomes_run,
        outcomes_paid=first.outcomes_paid or second.outcomes_paid,
    )


def _join_arms(first: tuple[ArmSummary, ...], second: tuple[ArmSummary, ...]) -> tuple[ArmSummary, ...]:
    """Join the summaries of arms by two kinds of evidence: a value that the first lacks is taken from the second.

    A value that is not known is 0 or empty, so `or` takes the other.
    """
    joined = {summary.name: summary for summary in first}
    for summary in second:
        known = joined.get(summary.name, summary)
        joined[summary.name] = replace(
            known,
            requests=known.requests or summary.requests,
            instances=max(known.instances, summary.instances),
            read=known.read or summary.read,
            left_out=known.left_out or summary.left_out,
            units=known.units or summary.units,
        )
    return tuple(joined.values())
