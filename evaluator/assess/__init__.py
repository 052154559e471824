"""Requests, readings and outcomes become evidence: every metric measured, every health check run.

Pure: no store, no clock. The pipeline, the simulations and the calibration all use this package. Each kind of evidence
is a module with one class (`Pairs`); this module assesses all of them in the same way and joins the results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from evaluator.assess.base import Pairs, find_rules
from evaluator.assess.looks import look_back
from evaluator.assess.outcomes import pair_outcomes
from evaluator.assess.readings import pair_readings
from evaluator.assess.requests import RequestPairs, pair_requests
from evaluator.health import CHECKS
from evaluator.records import ArmSummary, Cells, Evidence, EvidenceKind, LeftOut, Outcomes, ReadingCells, Rulebook, Run

__all__ = ["Assessment", "ReleaseData", "assess", "assess_pairs", "assess_release"]


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
    as_judged: bool = True
    """False if the data that a stored verdict judged are gone or changed: the newest runs are used instead."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The evidence on a release, and the requests as they were judged."""

    evidence: Evidence
    requests: RequestPairs | None
    """`None` if the release has no requests and the policy has no metric of requests."""


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
    requests = None
    # A policy without rules is assessed on requests as well, so that there is evidence of some kind.
    if EvidenceKind.REQUESTS in kinds or data.runs or not kinds or data.cells.moments.run.size:
        requests = pair_requests(data.cells, data.runs, rulebook, release, data.left_out)
        evidence.append(assess_pairs(requests))
    if EvidenceKind.READINGS in kinds or data.readings is not None:
        load = requests if data.runs else None  # `data.runs`: those of requests; `data.collected`: those of readings
        load_comparisons = evidence[0].comparisons if load else ()  # the evidence of requests comes first
        readings = pair_readings(data.readings, data.collected, rulebook, release, load, load_comparisons)
        evidence.append(assess_pairs(readings))
    if EvidenceKind.OUTCOMES in kinds or data.outcomes is not None:
        evidence.append(assess_pairs(pair_outcomes(data.outcomes, rulebook, release)))
    return Assessment(reduce(_join, evidence), requests)


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
