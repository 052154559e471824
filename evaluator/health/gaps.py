"""Stretches of time in which an arm that should have answered did not."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evaluator.health.base import Scene, ok, warn
from evaluator.records import Finding, Level
from evaluator.stats.index import distinct
from evaluator.wording import format_duration

__all__ = ["check_gaps"]

NAME = "gaps"
FEWEST_PER_BUCKET = 5
TOLERATED = 0.02
TOO_MUCH = 0.2


def check_gaps(scene: Scene) -> Iterable[Finding]:
    """Empty buckets of an arm, where its usual rate makes an empty bucket all but impossible."""
    worst, where = 0.0, ""
    moments = scene.cells.moments
    for code, arm in enumerate(scene.cells.arms):
        for run in distinct(moments.run):
            mine = (moments.arm == code) & (moments.run == run)
            if not mine.any():
                continue
            used = np.bincount(moments.bucket[mine] - moments.bucket[mine].min()) > 0
            if moments.n[mine].sum() / used.size < FEWEST_PER_BUCKET:
                continue
            missing = 1 - float(used.mean())
            if missing > worst:
                worst, where = missing, f"{arm}: {format_duration((~used).sum() * scene.cells.bucket_s)}"
    if worst > TOO_MUCH:
        yield Finding(NAME, Level.FAIL, f"no requests for {worst * 100:.0f} % of the run ({where})")
    elif worst > TOLERATED:
        yield warn(NAME, f"no requests for {worst * 100:.0f} % of the run ({where})")
    else:
        yield ok(NAME, "no gaps")
