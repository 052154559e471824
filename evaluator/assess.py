"""Cells, runs and a rulebook become evidence: every metric measured, every health check asked.

Pure: no store, no clock. The pipeline, the simulations and the calibration all assess through this one door.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import Literal

import numpy as np

from evaluator.assess_readings import JudgedLoad, assess_readings, plan_runs
from evaluator.health import CHECKS, Scene
from evaluator.health.base import JudgedFailures, is_imported, warn
from evaluator.health.outcomes import OUTCOME_CHECKS, OutcomeScene
from evaluator.looks import judged_buckets, look_back
from evaluator.metrics.measure import Measured, measure, pair_up
from evaluator.metrics.outcome_measure import has_outcome_rules, measure_outcomes
from evaluator.metrics.reading_measure import has_reading_rules
from evaluator.records import (
    BASELINE,
    CANDIDATE,
    ArmRows,
    ArmSummary,
    Cells,
    Evidence,
    EvidenceKind,
    LeftOut,
    Outcomes,
    Progress,
    ReadingCells,
    Rulebook,
    Run,
    RunState,
    Window,
)
from evaluator.stats.account import account_for_rows
from evaluator.stats.calendar import Calendar
from evaluator.stats.cells import recode
from evaluator.stats.in_flight import settle_in_flight
from evaluator.stats.index import distinct
from evaluator.stats.narrow import merge_unreplicated
from evaluator.stats.outcome_looks import find_dearest
from evaluator.stats.panel import Panel
from evaluator.stats.rates import active_slots
from evaluator.stats.silence import measure_clusters
from evaluator.stats.window import WarmUp, find_warm_up

__all__ = ["assess", "assess_outcomes", "assess_release", "plan_calendar", "with_both_arms"]


def assess(
    cells: Cells,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    release: str = "release",
    left_out: tuple[LeftOut, ...] = (),
) -> Evidence:
    """All that can be said of `cells` under `rulebook`. `runs` supply what the load generator knew.

    `left_out`: rows that are not in the cells, beside those that the runs' own sources name.
    """
    settled = settle_in_flight(with_both_arms(cells), runs)
    cells, names_per_arm = merge_unreplicated(settled.cells)
    warm_up = find_warm_up(cells, rulebook.warm_up_s)
    pairs = pair_up(cells, rulebook, warm_up)
    measured = measure(pairs)
    calendar = plan_calendar(cells, runs, rulebook, warm_up)
    comparisons = look_back(pairs, warm_up, calendar, measured.comparisons)
    panels = {pair.arm: pair.panel for pair in measured.pairs}
    rows = account_for_rows(cells, runs, warm_up, panels, (*left_out, *settled.cut_off))
    scene = Scene(
        release=release,
        cells=cells,
        runs=runs,
        rulebook=rulebook,
        warm_up=warm_up,
        panels=panels,
        designs={pair.arm: pair.design for pair in measured.pairs},
        rows=rows,
        judged_failures={arm: _count_failures(panel) for arm, panel in panels.items()},
        settled=settled,
        names_per_arm=names_per_arm,
        looks_paid=calendar.kind != "fixed",
    )
    return Evidence(
        comparisons=comparisons,
        findings=tuple(finding for check in CHECKS for finding in check(scene)),
        arms=_summarise_arms(cells, rows),
        window=_find_window(cells, warm_up, measured),
        unjudged_share=measured.unjudged_share,
        unjudged_endpoints=measured.unjudged,
        incomplete=any(run.state is RunState.INCOMPLETE for run in runs),
        monitoring=calendar.kind,
        final=calendar.final and all(run.state is not RunState.RUNNING for run in runs),
        imported=is_imported(runs),
        progress=_find_progress(cells, warm_up, calendar),
    )


def assess_release(
    cells: Cells,
    runs: tuple[Run, ...],
    outcomes: Outcomes | None,
    rulebook: Rulebook,
    release: str = "release",
    readings: ReadingCells | None = None,
    reading_runs: tuple[Run, ...] = (),
    left_out: tuple[LeftOut, ...] = (),
) -> Evidence:
    """All that can be said of a release: of its requests, and of outcomes and readings where the policy asks for them.

    `outcomes` must hold the values that `find_needs` names. What the policy asks for and nobody has is no data.
    Readings beside load runs count in the judged time of those runs only; alone they are one run, whose state and end
    `reading_runs` know.
    """
    of_requests = replace(rulebook, rules=rulebook.on(EvidenceKind.REQUESTS))
    parts: list[Evidence] = []
    if of_requests.rules or runs or not rulebook.rules or cells.moments.run.size:
        parts.append(assess(cells, runs, of_requests, release, left_out))
    if has_reading_rules(rulebook) or readings is not None:
        load = JudgedLoad(cells, runs, parts[0]) if runs and parts else None
        parts.append(assess_readings(readings, reading_runs, rulebook, release, load))
    if has_outcome_rules(rulebook):
        parts.append(assess_outcomes(outcomes, rulebook))
    evidence = reduce(_join, parts)
    if outcomes and not has_outcome_rules(rulebook):
        ignored = warn("outcomes", "outcomes were imported, and the policy has no metric of them")
        evidence = replace(evidence, findings=(*evidence.findings, ignored))
    return evidence


def assess_outcomes(outcomes: Outcomes | None, rulebook: Rulebook) -> Evidence:
    """All that can be said of outcomes of units; they are final when they are imported, and have no clock."""
    scene = OutcomeScene(outcomes, rulebook) if outcomes else None
    price = find_dearest(outcomes, rulebook.monitoring) if outcomes else None
    comparisons = measure_outcomes(outcomes, rulebook)
    answered = any(comparison.questions for comparison in comparisons)  # too few units to say anything: no look
    return Evidence(
        comparisons=comparisons,
        findings=tuple(finding for check in OUTCOME_CHECKS for finding in check(scene)) if scene else (),
        arms=_summarise_units(outcomes) if outcomes else (),
        window=Window(None, None),
        monitoring=price.kind if price else "fixed",
        outcomes_run=outcomes.run if outcomes and answered else "",
        outcomes_paid=price.paid if price and answered else "",
    )


def _summarise_units(outcomes: Outcomes) -> tuple[ArmSummary, ...]:
    accounts = {rows.arm: rows for rows in outcomes.facts.account()}
    out = []
    for code, (arm, part) in enumerate(zip(outcomes.arms, outcomes.moments, strict=True)):
        rows = accounts.get(arm, ArmRows(arm, 0, 0))
        role: Literal["baseline", "candidate"] = "candidate" if code else "baseline"
        out.append(ArmSummary(arm, role, 0, 0, runs=1, units=part.n, read=rows.read, left_out=rows.left_out))
    return tuple(out)


def _join(one: Evidence, other: Evidence) -> Evidence:
    """Put two kinds of evidence side by side; arms of one name are one arm. The first has the clock, if it has one."""
    known = {arm.name: arm for arm in one.arms}
    timed = one if one.window.seconds or not other.window.seconds else other
    return replace(
        timed,
        comparisons=(*one.comparisons, *other.comparisons),
        findings=(*one.findings, *other.findings),
        arms=(*(_join_arm(arm, other) for arm in one.arms), *(arm for arm in other.arms if arm.name not in known)),
        incomplete=one.incomplete or other.incomplete,
        final=one.final and other.final,
        collected=one.collected or other.collected,
        outcomes_run=one.outcomes_run or other.outcomes_run,
        outcomes_paid=one.outcomes_paid or other.outcomes_paid,
    )


def _join_arm(arm: ArmSummary, other: Evidence) -> ArmSummary:
    """What the other kind of evidence knows of an arm fills in what this one does not."""
    found = next((candidate for candidate in other.arms if candidate.name == arm.name), None)
    if found is None:
        return arm
    return replace(
        arm,
        requests=arm.requests or found.requests,
        instances=max(arm.instances, found.instances),
        read=arm.read or found.read,
        left_out=arm.left_out or found.left_out,
        units=arm.units or found.units,
    )


def plan_calendar(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook, warm_up: WarmUp) -> Calendar:
    """The calendar of looks at requests."""
    start, end = judged_buckets(cells, warm_up)
    return plan_runs(runs, rulebook.monitoring, bucket_s=cells.bucket_s, start=start, end=end)


def _find_progress(cells: Cells, warm_up: WarmUp, calendar: Calendar) -> Progress | None:
    start, end = judged_buckets(cells, warm_up)
    if end == start:
        return None
    return Progress(float((end - start) * cells.bucket_s), calendar.planned_s, calendar.next_s)


def with_both_arms(cells: Cells) -> Cells:
    """Name the arms that have no data: a missing arm is judged as missing, not left out."""
    arms = cells.arms
    if not arms or arms[0] != BASELINE:
        cells = replace(recode(cells, arm=1 + np.arange(len(arms))), arms=(BASELINE, *arms))
    return cells if len(cells.arms) > 1 else replace(cells, arms=(*cells.arms, CANDIDATE))


def _summarise_arms(cells: Cells, rows: tuple[ArmRows, ...]) -> tuple[ArmSummary, ...]:
    """Say of each arm what is judged of it, and what it has beside."""
    moments = cells.moments
    out = []
    for code, account in enumerate(rows):
        mine = moments.arm == code
        requests = np.bincount(moments.instance[mine], weights=moments.n[mine])
        out.append(
            ArmSummary(
                name=account.arm,
                role="candidate" if code else "baseline",
                requests=account.judged,
                instances=int(np.count_nonzero(requests)),
                runs=int(distinct(moments.run[mine]).size),
                read=account.read,
                left_out=account.left_out,
            )
        )
    return tuple(out)


def _count_failures(panel: Panel) -> JudgedFailures:
    """Requests of the baseline in a comparison, and how many of them failed."""
    over_time = panel.failures[0].sum(axis=0)
    together, _ = measure_clusters(over_time[None, :])
    return JudgedFailures(int(panel.n[0].sum()), int(over_time.sum()), float(together[0]))


def _find_window(cells: Cells, warm_up: WarmUp, measured: Measured) -> Window:
    """From the first to the last bucket judged, and how much time was really covered."""
    moments = cells.moments
    if not moments.run.size:
        return Window(None, None)
    first = np.array([warm_up.first_bucket.get(code, 0) for code in range(len(cells.runs))])
    used = moments.bucket[moments.bucket >= first[moments.run]]
    seconds = max(
        (int(active_slots(pair.panel).sum(axis=1).max()) * cells.bucket_s for pair in measured.pairs), default=0
    )
    if not used.size:
        return Window(None, None)
    start = datetime.fromtimestamp(int(used.min()) * cells.bucket_s, UTC)
    end = datetime.fromtimestamp((int(used.max()) + 1) * cells.bucket_s, UTC)
    return Window(start, end, float(seconds))
