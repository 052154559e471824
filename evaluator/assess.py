"""Cells, runs and a rulebook become evidence: every metric measured, every health check asked.

Pure: no store, no clock. The pipeline, the simulations and the calibration all assess through this one door.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from evaluator.health import CHECKS, Scene
from evaluator.looks import judged_buckets, look_back
from evaluator.metrics.measure import Measured, measure
from evaluator.records import BASELINE, ArmSummary, Cells, Evidence, Rulebook, Run, RunState, Window
from evaluator.stats.calendar import Calendar, plan_looks
from evaluator.stats.window import WarmUp, find_warm_up

__all__ = ["assess"]

CANDIDATE = "canary"


def assess(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook, release: str = "release") -> Evidence:
    """All that can be said of `cells` under `rulebook`. `runs` supply what the load generator knew."""
    cells = _with_both_arms(cells)
    warm_up = find_warm_up(cells, rulebook.warm_up_s)
    measured = measure(cells, rulebook, warm_up)
    calendar = _plan(cells, runs, rulebook, warm_up)
    comparisons = look_back(cells, rulebook, warm_up, calendar, measured.comparisons)
    scene = Scene(
        release=release,
        cells=cells,
        runs=runs,
        rulebook=rulebook,
        warm_up=warm_up,
        panels={pair.arm: pair.panel for pair in measured.pairs},
        designs={pair.arm: pair.design for pair in measured.pairs},
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
    )


def _plan(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook, warm_up: WarmUp) -> Calendar:
    """The calendar of looks.

    Several runs are judged when all are there, and so are imported files unless the policy says otherwise.
    """
    start, end = judged_buckets(cells, warm_up)
    covered = (end - start) * cells.bucket_s
    nobody_looked = rulebook.monitoring.mode == "auto" and all(run.planned_end is None for run in runs)
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


def _with_both_arms(cells: Cells) -> Cells:
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
                instances=int(np.unique(moments.instance[mine]).size),
                runs=int(np.unique(moments.run[mine]).size),
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
    seconds = max((pair.panel.slots * cells.bucket_s for pair in measured.pairs), default=0)
    if not used.size:
        return Window(None, None)
    start = datetime.fromtimestamp(int(used.min()) * cells.bucket_s, UTC)
    end = datetime.fromtimestamp((int(used.max()) + 1) * cells.bucket_s, UTC)
    return Window(start, end, float(seconds))
