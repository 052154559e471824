"""The account of rows: how many of each arm were read, how many are judged, why the others are not (method B.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluator.records import BLOCK_BUCKETS, ArmRows, Cells, LeftOut, LeftOutKind, Run, RunState
from evaluator.records.arrays import BoolArray
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.window import WarmUp

NOT_AT_THE_SAME_TIME = "the other arm has no request of the same endpoint at the same time"


def account_for_rows(
    cells: Cells,
    runs: Sequence[Run],
    warm_up: WarmUp,
    panels: Mapping[str, Panel | None],
    others: Sequence[LeftOut],
) -> tuple[ArmRows, ...]:
    """Account for the rows of every arm.

    Args:
        cells: Everything that has landed for the period that is judged.
        runs: The runs, with the rows that their sources left out.
        warm_up: What is cut from the start of each run.
        panels: Candidate arm → what is compared; `None` if nothing can be compared.
        others: Rows that were left out before the cells were made: outside the period, or cut off at the end.

    Returns:
        One account for each arm, in the order of the arms; empty without a candidate. The baseline is compared with
        each candidate: its account is that of the comparison that judges most of its rows.
    """
    elsewhere = [*(part for run in runs for part in run.facts.left_out), *others]
    accounts: list[ArmRows] = []
    baselines: list[ArmRows] = []
    for code, arm in enumerate(cells.arms[1:], start=1):
        baseline, candidate = _account_for_pair(cells, warm_up, panels.get(arm), code)
        baselines.append(_with_left_out(baseline, elsewhere))
        accounts.append(_with_left_out(candidate, elsewhere))
    return (max(baselines, key=lambda rows: rows.judged), *accounts) if baselines else ()


def find_lost_rows(cells: Cells, runs: Sequence[Run]) -> tuple[LeftOut, ...]:
    """Find rows that the sources of ended runs counted, but that neither landed nor were named as left out.

    Returns:
        The difference of each arm that has one; its `detail` is set if more rows landed than were read. Empty while a
        run is running, or if a source did not count.
    """
    if any(run.state is RunState.RUNNING or not run.facts.read for run in runs):
        return ()
    parts = []
    for code, arm in enumerate(cells.arms):
        read = sum(run.facts.read.get(arm, 0) for run in runs)
        named = sum(part.rows for run in runs for part in run.facts.left_out if part.arm == arm)
        landed = int(cells.moments.n[cells.moments.arm == code].sum())
        if read != landed + named:
            detail = "" if read > landed + named else "more than were read"
            parts.append(LeftOut(arm, LeftOutKind.LOST, abs(read - landed - named), detail=detail))
    return tuple(parts)


def find_cut_rows(cells: Cells, part: Cells) -> tuple[LeftOut, ...]:
    """Count the rows of each arm of `cells` that are not in `part`, a period of the same cells."""
    out = []
    for code, arm in enumerate(cells.arms):
        before, after = (_count(table, table.moments.arm == code) for table in (cells, part))
        if before[0] > after[0]:
            out.append(LeftOut(arm, LeftOutKind.OUTSIDE_PERIOD, before[0] - after[0], before[1] - after[1]))
    return tuple(out)


def _with_left_out(rows: ArmRows, elsewhere: Sequence[LeftOut]) -> ArmRows:
    """Add what was left out before and sum up by kind. Rows of unknown arm are added to each arm."""
    added = [part for part in elsewhere if part.arm in {rows.arm, ""} and part.rows]
    sums: dict[tuple[str, LeftOutKind, str], tuple[int, int]] = {}
    for part in (*rows.left_out, *added):
        before, failures = sums.get((part.arm, part.kind, part.detail), (0, 0))
        sums[part.arm, part.kind, part.detail] = before + part.rows, failures + part.failures
    order = list(LeftOutKind)
    ordered = sorted(sums.items(), key=lambda item: (order.index(item[0][1]), item[0]))
    left_out = tuple(LeftOut(arm, kind, *counts, detail) for (arm, kind, detail), counts in ordered)
    return ArmRows(rows.arm, rows.read + sum(part.rows for part in added), rows.judged, left_out)


def _account_for_pair(cells: Cells, warm_up: WarmUp, panel: Panel | None, code: int) -> tuple[ArmRows, ArmRows]:
    """Account for the baseline and one candidate."""
    moments = cells.moments
    first = np.array([warm_up.first_bucket.get(run, -(2**62)) for run in range(len(cells.runs))], dtype=np.int64)
    early = moments.bucket < (first // BLOCK_BUCKETS * BLOCK_BUCKETS)[moments.run]
    with_arm = [np.bincount(moments.run[~early & (moments.arm == a)], minlength=len(cells.runs)) > 0 for a in (0, code)]
    alone = ~early & ~(with_arm[0] & with_arm[1])[moments.run]
    judged, unmatched = np.zeros((2, 2), dtype=int), np.zeros((2, 2), dtype=int)
    if panel is not None:
        total = panel.block_sum(panel.n)
        matched = (total > 0).all(axis=0)
        for arm in (0, 1):
            for column, counts in enumerate((panel.n[arm], panel.failures[arm])):
                judged[arm, column] = counts[matched].sum()
                unmatched[arm, column] = counts[~matched].sum()
    out = []
    for arm, a in enumerate((0, code)):
        of_arm = moments.arm == a
        read, warm, lone = (_count(cells, of_arm & rows) for rows in (np.ones_like(early), early, alone))
        unlike = int(unmatched[arm, 0]), int(unmatched[arm, 1])
        apart = (
            read[0] - warm[0] - lone[0] - unlike[0] - int(judged[arm, 0]),
            read[1] - warm[1] - lone[1] - unlike[1] - int(judged[arm, 1]),
        )
        name = cells.arms[a]
        parts = (
            LeftOut(name, LeftOutKind.WARM_UP, *warm),
            LeftOut(name, LeftOutKind.LONE_REPLICATE if len(cells.runs) > 1 else LeftOutKind.NO_COUNTERPART, *lone),
            LeftOut(name, LeftOutKind.NO_COUNTERPART, *apart),
            LeftOut(name, LeftOutKind.NO_COUNTERPART, *unlike, NOT_AT_THE_SAME_TIME),
        )
        left_out = tuple(part for part in parts if part.rows)
        out.append(ArmRows(name, read[0], int(judged[arm, 0]), left_out))
    return out[0], out[1]


def _count(cells: Cells, rows: BoolArray) -> tuple[int, int]:
    """Requests and failures of some rows."""
    return int(cells.moments.n[rows].sum()), int(cells.moments.failures[rows].sum())
