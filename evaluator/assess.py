"""Cells, runs and a rulebook become evidence: every metric measured, every health check asked.

Pure: no store, no clock. The pipeline, the simulations and the calibration all assess through this one door.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from evaluator.health import CHECKS, Scene
from evaluator.metrics.measure import Measured, measure
from evaluator.records import ArmSummary, Cells, Evidence, Rulebook, Run, RunState, Window
from evaluator.stats.window import WarmUp, find_warm_up

__all__ = ["assess"]


def assess(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook, release: str = "release") -> Evidence:
    """All that can be said of `cells` under `rulebook`. `runs` supply what the load generator knew."""
    warm_up = find_warm_up(cells, rulebook.warm_up_s)
    measured = measure(cells, rulebook, warm_up)
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
        comparisons=measured.comparisons,
        findings=tuple(finding for check in CHECKS for finding in check(scene)),
        arms=_summarise_arms(cells),
        window=_find_window(cells, warm_up, measured),
        unjudged_share=measured.unjudged_share,
        unjudged_endpoints=measured.unjudged,
        incomplete=any(run.state is not RunState.COMPLETE for run in runs),
    )


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
    ends = [int(used.min()) * cells.bucket_s, (int(used.max()) + 1) * cells.bucket_s]
    return Window(*(datetime.fromtimestamp(end, UTC) for end in ends), float(seconds))
