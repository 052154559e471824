"""Merge the instances of arms whose instance names are really names of requests, users or connections (method B.8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluator.records import Cells
from evaluator.stats.shaping.cells import add_up
from evaluator.stats.variance.instances import find_replicating


def merge_unreplicated(cells: Cells) -> tuple[Cells, dict[str, int]]:
    """Merge all instances of an arm into one if fewer than two of them replicate it (see `find_replicating`).

    The merged instance has the name of the arm.

    Returns:
        The cells, and arm → number of its instance names, for each arm that was merged.
    """
    moments, bins = cells.moments, cells.instance_bins
    names = cells.instances
    names_merged: dict[str, int] = {}
    instance_of_arm: dict[int, int] = {}
    for arm_code, arm in enumerate(cells.arms):
        of_arm = moments.arm == arm_code
        requests = np.bincount(moments.instance[of_arm], weights=moments.n[of_arm])
        names_of_arm = int(np.count_nonzero(requests))
        if names_of_arm > 1 and find_replicating(np.asarray(requests, float)).sum() < 2:
            if arm not in names:
                names = (*names, arm)
            names_merged[arm] = names_of_arm
            instance_of_arm[arm_code] = names.index(arm)
    if not names_merged:
        return cells, names_merged
    kinds = cells.failure_kinds
    moments_instance, bins_instance, kinds_instance = (rows.instance.copy() for rows in (moments, bins, kinds))
    for arm_code, instance in instance_of_arm.items():
        moments_instance[moments.arm == arm_code] = instance
        bins_instance[bins.arm == arm_code] = instance
        kinds_instance[kinds.arm == arm_code] = instance
    merged_cells = replace(
        cells,
        instances=names,
        moments=add_up(replace(moments, instance=moments_instance)),
        instance_bins=add_up(replace(bins, instance=bins_instance)),
        failure_kinds=replace(kinds, instance=kinds_instance),
    )
    return merged_cells, names_merged
