"""Merge the instances of arms whose instance names are really names of requests, users or connections (method B.8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluator.records import Cells
from evaluator.stats.shaping.cells import add_up
from evaluator.stats.variance.instances import find_replicating


def merge_unreplicated(cells: Cells) -> tuple[Cells, dict[str, int]]:
    """Merge all instances of an arm into one if fewer than two of them replicate it (see `find_replicating`).

    Returns:
        The cells, and arm → number of its instance names, for each arm that was merged.
    """
    moments = cells.moments
    merged: dict[str, int] = {}
    instance_of: dict[int, int] = {}
    names = cells.instances
    for code, arm in enumerate(cells.arms):
        of_arm = moments.arm == code
        requests = np.bincount(moments.instance[of_arm], weights=moments.n[of_arm])
        used = int(np.count_nonzero(requests))
        if used > 1 and find_replicating(np.asarray(requests, float)).sum() < 2:
            names = names if arm in names else (*names, arm)
            merged[arm], instance_of[code] = used, names.index(arm)
    if not merged:
        return cells, merged
    moments, rows = cells.moments, cells.instance_bins
    instance, row_instance = moments.instance.copy(), rows.instance.copy()
    for arm_code, code in instance_of.items():
        instance[moments.arm == arm_code] = row_instance[rows.arm == arm_code] = code
    return replace(
        cells,
        instances=names,
        moments=add_up(replace(moments, instance=instance)),
        instance_bins=add_up(replace(rows, instance=row_instance)),
    ), merged
