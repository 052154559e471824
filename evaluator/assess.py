"""Cells, runs and a rulebook become evidence: every metric measured, every health check asked.

Pure: no store, no clock. The pipeline, the simulations and the calibration all assess through this one door.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from evaluator.health import CHECKS, Scene
from evaluator.health.base import is_imported, warn
from evaluator.health.outcomes import OUTCOME_CHECKS, OutcomeScene
from evaluator.looks import judged_buckets, look_back
from evaluator.metrics import OUTCOME_METRICS
from evaluator.metrics.measure import Measured, measure, pair_up
from evaluator.metrics.outcome_measure import has_outcome_rules, measure_outcomes
from evaluator.records import BASELINE, ArmSummary, Cells, Evidence, Outcomes, Rulebook, Run, RunState, Window
from evaluator.stats.calendar import Calendar, plan_looks
from evaluator.stats.index import distinct
from evaluator.stats.rates import active_slots
from evaluator.stats.window import WarmUp, find_warm_up

__all__ = ["assess", "assess_outcomes", "assess_release", "plan_calendar", "with_both_arms"]

CANDIDATE = "canary"


def assess(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook, release: str = "release") -> Evidence:
    """All that can be said of `cells` under `rulebook`. `runs` supply what the load generator knew."""
    cells = with_both_arms(cells)
    warm_up = find_warm_up(cells, rulebook.warm_up_s)
    pairs = pair_up(cells, rulebook, warm_up)
    measured = measure(pairs)
    calendar = plan_calendar(cells, runs, rulebook, warm_up)
    comparisons = look_back(pairs, warm_up, calendar, measured.comparisons)
    scene = Scene(
        release=release,
        cells=cells,
        runs=runs,
        rulebook=rulebook,
        warm_up=warm_up,
        panels={pair.arm: pair.panel for pair in measured.pairs},
        designs={pair.arm: pair.design for pair in measured.pairs},
        looks_paid=calendar.kind != "fixed",
    )
    return Evidence(
        comparisons=comparisons,
        findings=tuple(finding for check in CHECKS for finding in check(scene)),
        arms=_summarise_arms(cells),
        window=_find_window(cells, warm_up, measured),
        unjudged_share=measured.unjudged_share,
        unjudged_endpoints=measured.unjudged,
        incomplete=any(run.state is RunState.INCOMPLETE for run in runs),
        monitoring=calendar.kind,
        final=calendar.final and all(run.state is not RunState.RUNNING for run in runs),
        imported=is_imported(runs),
    )


def assess_release(
    cells: Cells, runs: tuple[Run, ...], outcomes: Outcomes | None, rulebook: Rulebook, release: str = "release"
) -> Evidence:
    """All that can be said of a release: of its requests, and of its outcomes where the policy asks for them.

    `outcomes` must hold the values that `find_needs` names. What the policy asks for and nobody has is no data.
    """
    of_requests = replace(rulebook, rules=tuple(rule for rule in rulebook.rules if rule.type not in OUTCOME_METRICS))
    if not has_outcome_rules(rulebook):
        evidence = assess(cells, runs, rulebook, release)
        ignored = warn("outcomes", "outcomes were imported, and the policy has no metric of them")
        return replace(evidence, findings=(*evidence.findings, ignored)) if outcomes else evidence
    found = assess_outcomes(outcomes, rulebook)
    if not of_requests.rules and not runs:
        return found
    return _join(assess(cells, runs, of_requests, release), found)


def assess_outcomes(outcomes: Outcomes | None, rulebook: Rulebook) -> Evidence:
    """All that can be said of outcomes of units; they are final when they are imported, and have no clock."""
    scene = OutcomeScene(outcomes, rulebook) if outcomes else None
    return Evidence(
        comparisons=measure_outcomes(outcomes, rulebook),
        findings=tuple(finding for check in OUTCOME_CHECKS for finding in check(scene)) if scene else (),
        arms=_summarise_units(outcomes) if outcomes else (),
        window=Window(None, None),
    )


def _summarise_units(outcomes: Outcomes) -> tuple[ArmSummary, ...]:
    return tuple(
        ArmSummary(arm, "candidate" if code else "baseline", requests=0, instances=0, runs=1, units=part.n)
        for code, (arm, part) in enumerate(zip(outcomes.arms, outcomes.moments, strict=True))
    )


def _join(requests: Evidence, outcomes: Evidence) -> Evidence:
    """Put both kinds of evidence side by side; arms of one name are one arm."""
    units = {arm.name: arm.units for arm in outcomes.arms}
    known = {arm.name for arm in requests.arms}
    arms = [replace(arm, units=units.get(arm.name, 0)) for arm in requests.arms]
    return replace(
        requests,
        comparisons=(*requests.comparisons, *outcomes.comparisons),
        findings=(*requests.findings, *outcomes.findings),
        arms=(*arms, *(arm for arm in outcomes.arms if arm.name not in known)),
    )


def plan_calendar(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook, warm_up: WarmUp) -> Calendar:
    """The calendar of looks.

    Several runs are judged when all are there, and so are imported files unless the policy says otherwise.
    """
    start, end = judged_buckets(cells, warm_up)
    covered = (end - start) * cells.bucket_s
    nobody_looked = rulebook.monitoring.mode == "auto" and is_imported(runs)
    ended = all(run.state is not RunState.RUNNING for run in runs)
    if len(runs) != 1 or not cells.moments.run.size or (nobody_looked and ended):
        return Calendar("fixed", (), float(covered), final=True)
    run = runs[0]
    planned = float(covered)
    if run.planned_end is not None:
        planned = max(run.planned_end.timestamp() - start * cells.bucket_s, cells.bucket_s)
    elif run.state is RunState.RUNNING:
        return plan_looks(rulebook.monitoring, bucket_s=cells.bucket_s, covered_s=covered, planned_s=None)
    calendar = plan_looks(rulebook.monitoring, bucket_s=cells.bucket_s, covered_s=covered, planned_s=planned)
    # A run that has ended gives no more data, whatever was planned.
    return calendar if run.state is RunState.RUNNING else replace(calendar, final=True)


def with_both_arms(cells: Cells) -> Cells:
    """Name the arms that have no data: a missing arm is judged as missing, not left out."""
    arms = cells.arms
    if not arms or arms[0] != BASELINE:
        tables = ("moments", "bins", "instance_bins", "loads", "failure_kinds")
        shifted = {name: replace(getattr(cells, name), arm=getattr(cells, name).arm + 1) for name in tables}
        cells = replace(cells, arms=(BASELINE, *arms), **shifted)
    return cells if len(cells.arms) > 1 else replace(cells, arms=(*cells.arms, CANDIDATE))


def _summarise_arms(cells: Cells) -> tuple[ArmSummary, ...]:
    moments = cells.moments
    out = []
    for code, name in enumerate(cells.arms):
        mine = moments.arm == code
        out.append(
            ArmSummary(
                name=name,
                role="candidate" if code else "baseline",
                requests=int(moments.n[mine].sum()),
                instances=int(distinct(moments.instance[mine]).size),
                runs=int(distinct(moments.run[mine]).size),
            )
        )
    return tuple(out)


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
