"""Requests, readings and outcomes become evidence: every metric measured, every health check run.

Pure: no store, no clock. The pipeline, the simulations and the calibration all assess through this package. Each kind
of evidence is a module with one class (`Pairs`); here they are assessed alike and joined.
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

__all__ = ["Assessment", "assess", "assess_pairs", "assess_release"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """The evidence on a release, and the requests that it rests on as they were judged."""

    evidence: Evidence
    requests: RequestPairs | None
    """`None` where the release has no requests and the policy has no metric of them."""


def assess(
    cells: Cells,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    release: str = "release",
    left_out: tuple[LeftOut, ...] = (),
) -> Evidence:
    """Assess the requests of a release by the rules on requests.

    Args:
        cells: All requests that count.
        runs: What the load generator knew of them.
        rulebook: The policy.
        release: Its name, for remedies.
        left_out: Rows that are not in the cells, in addition to those that the runs' own sources name.
    """
    return assess_pairs(pair_requests(cells, runs, rulebook, release, left_out))


def assess_pairs(pairs: Pairs | Evidence) -> Evidence:
    """Measure one kind of evidence at every look and run its health checks; evidence of nothing stays as it is."""
    if isinstance(pairs, Evidence):
        return pairs
    measured = pairs.measure()
    measured = replace(measured, comparisons=look_back(pairs, measured.comparisons))
    context = pairs.with_comparisons(measured.comparisons)
    return pairs.summarise(measured, tuple(finding for check in CHECKS[pairs.kind] for finding in check(context)))


def assess_release(
    cells: Cells,
    runs: tuple[Run, ...],
    outcomes: Outcomes | None,
    rulebook: Rulebook,
    release: str = "release",
    readings: ReadingCells | None = None,
    reading_runs: tuple[Run, ...] = (),
    left_out: tuple[LeftOut, ...] = (),
) -> Assessment:
    """Assess every kind of evidence that a release has or that the policy asks for, and join them.

    `outcomes` must hold the values that `find_needs` names. A metric whose kind of evidence is missing has no data.
    Readings of a release with load runs count in the judged time of those runs only; alone they are one run, whose
    state and end `reading_runs` know.
    """
    wanted = {kind for kind in EvidenceKind if find_rules(rulebook, kind)}
    parts: list[Evidence] = []
    requests = None
    if EvidenceKind.REQUESTS in wanted or runs or not wanted or cells.moments.run.size:
        requests = pair_requests(cells, runs, rulebook, release, left_out)
        parts.append(assess_pairs(requests))
    if EvidenceKind.READINGS in wanted or readings is not None:
        load = requests if runs else None
        client = parts[0].comparisons if load else ()
        parts.append(assess_pairs(pair_readings(readings, reading_runs, rulebook, release, load, client)))
    if EvidenceKind.OUTCOMES in wanted or outcomes is not None:
        parts.append(assess_pairs(pair_outcomes(outcomes, rulebook, release)))
    return Assessment(reduce(_join, parts), requests)


def _join(one: Evidence, other: Evidence) -> Evidence:
    """Join two kinds of evidence; arms of one name are one arm. The window is that of the first which has one."""
    timed = one if one.window.seconds or not other.window.seconds else other
    return replace(
        timed,
        comparisons=(*one.comparisons, *other.comparisons),
        findings=(*one.findings, *other.findings),
        arms=_join_arms(one.arms, other.arms),
        incomplete=one.incomplete or other.incomplete,
        final=one.final and other.final,
        collected=one.collected or other.collected,
        outcomes_run=one.outcomes_run or other.outcomes_run,
        outcomes_paid=one.outcomes_paid or other.outcomes_paid,
    )


def _join_arms(own: tuple[ArmSummary, ...], others: tuple[ArmSummary, ...]) -> tuple[ArmSummary, ...]:
    """What another kind of evidence knows of an arm fills in what this one does not."""
    arms = {arm.name: arm for arm in own}
    for other in others:
        arm = arms.get(other.name, other)
        arms[other.name] = replace(
            arm,
            requests=arm.requests or other.requests,
            instances=max(arm.instances, other.instances),
            read=arm.read or other.read,
            left_out=arm.left_out or other.left_out,
            units=arm.units or other.units,
        )
    return tuple(arms.values())
