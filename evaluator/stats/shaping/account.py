"""The account of rows: how many of each arm were read, how many are judged, why the others are not (method B.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluator.records import BLOCK_BUCKETS, ArmRows, Cells, LeftOut, LeftOutKind, Run, RunState
from evaluator.records.arrays import BoolArray, IntArray
from evaluator.stats.shaping.index import BEFORE_ALL
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
    """Count the rows of every arm that were read, those that are judged, and those left out, by reason.

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
    left_out_before = [*(part for run in runs for part in run.facts.left_out), *others]
    baseline_accounts: list[ArmRows] = []
    candidate_accounts: list[ArmRows] = []
    for arm_code, arm in enumerate(cells.arms[1:], start=1):
        baseline, candidate = _account_for_pair(cells, warm_up, panels.get(arm), arm_code)
        baseline_accounts.append(_add_left_out(baseline, left_out_before))
        candidate_accounts.append(_add_left_out(candidate, left_out_before))
    if not baseline_accounts:
        return ()
    return (max(baseline_accounts, key=lambda account: account.judged), *candidate_accounts)


def find_lost_rows(cells: Cells, runs: Sequence[Run]) -> tuple[LeftOut, ...]:
    """Find rows that the sources of ended runs counted, but that neither landed nor were named as left out.

    Returns:
        For each arm whose counts differ, the difference, always positive; its `detail` is set if more rows landed than
        were read. Empty while a run is running, or if a source did not count.
    """
    if any(run.state is RunState.RUNNING or not run.facts.read for run in runs):
        return ()
    lost = []
    for arm_code, arm in enumerate(cells.arms):
        read = sum(run.facts.read.get(arm, 0) for run in runs)
        left_out = sum(part.rows for run in runs for part in run.facts.left_out if part.arm == arm)
        landed = int(cells.moments.n[cells.moments.arm == arm_code].sum())
        if read != landed + left_out:
            detail = "" if read > landed + left_out else "more than were read"
            lost.append(LeftOut(arm, LeftOutKind.LOST, abs(read - landed - left_out), detail=detail))
    return tuple(lost)


def find_cut_rows(cells: Cells, part: Cells) -> tuple[LeftOut, ...]:
    """Count the rows of each arm of `cells` that are not in `part`, a period of the same cells."""
    cut = []
    for arm_code, arm in enumerate(cells.arms):
        counts = _count_requests(cells, cells.moments.arm == arm_code)
        counts_in_part = _count_requests(part, part.moments.arm == arm_code)
        rows, failures = (counts - counts_in_part).tolist()
        if rows > 0:
            cut.append(LeftOut(arm, LeftOutKind.OUTSIDE_PERIOD, rows, failures))
    return tuple(cut)


def _add_left_out(account: ArmRows, left_out_before: Sequence[LeftOut]) -> ArmRows:
    """Add rows of the same arm that were left out before the account was made; sum up rows of equal kind and detail.

    Rows whose arm is unknown ("") are added to the account of each arm. Kinds are in the order of `LeftOutKind`.
    """
    added = [part for part in left_out_before if part.arm in {account.arm, ""} and part.rows]
    sums: dict[tuple[str, LeftOutKind, str], tuple[int, int]] = {}
    for part in (*account.left_out, *added):
        rows, failures = sums.get((part.arm, part.kind, part.detail), (0, 0))
        sums[part.arm, part.kind, part.detail] = rows + part.rows, failures + part.failures
    summed = [LeftOut(arm, kind, *counts, detail) for (arm, kind, detail), counts in sums.items()]
    order = list(LeftOutKind)
    summed.sort(key=lambda part: (order.index(part.kind), part.arm, part.detail))
    read = account.read + sum(part.rows for part in added)
    return ArmRows(account.arm, read=read, judged=account.judged, left_out=tuple(summed))


def _account_for_pair(cells: Cells, warm_up: WarmUp, panel: Panel | None, candidate: int) -> tuple[ArmRows, ArmRows]:
    """Count the rows of baseline and candidate that were read, those that are judged, and those left out, by reason.

    A row is left out for the first reason that applies: it is of the warm-up, of a run that only one of both arms has,
    or without a counterpart in the other arm. `panel` has what is compared; `None`: nothing can be. `candidate` is the
    code of its arm in `cells`. Returns the account of the baseline, then that of the candidate.
    """
    moments, runs = cells.moments, len(cells.runs)
    first_by_run = np.array([warm_up.first_bucket.get(run, BEFORE_ALL) for run in range(runs)], dtype=np.int64)
    # Reasons of each row of `moments`. As in the panel, whole blocks are judged.
    in_warm_up = moments.bucket < (first_by_run // BLOCK_BUCKETS * BLOCK_BUCKETS)[moments.run]
    run_has_baseline, run_has_candidate = (
        np.bincount(moments.run[~in_warm_up & (moments.arm == arm_code)], minlength=runs) > 0
        for arm_code in (0, candidate)
    )
    in_lone_run = ~in_warm_up & ~(run_has_baseline & run_has_candidate)[moments.run]
    # Of baseline and candidate (rows): requests and failures (columns).
    judged, unmatched = np.zeros((2, 2), dtype=int), np.zeros((2, 2), dtype=int)
    if panel is not None:
        # An endpoint is compared in the blocks of time in which both arms have requests of it.
        is_matched = (panel.block_sum(panel.n) > 0).all(axis=0)
        for arm in (0, 1):
            for column, counts in enumerate((panel.n[arm], panel.failures[arm])):
                judged[arm, column] = counts[is_matched].sum()
                unmatched[arm, column] = counts[~is_matched].sum()
    accounts = []
    for arm, arm_code in enumerate((0, candidate)):  # number in the panel, and code in the cells
        of_arm = moments.arm == arm_code
        # Requests and failures, shape (2,).
        read = _count_requests(cells, of_arm)
        warm = _count_requests(cells, of_arm & in_warm_up)
        lone = _count_requests(cells, of_arm & in_lone_run)
        # What else was read is not in the panel: it is of a time or of endpoints that the other arm lacks.
        not_in_panel = read - warm - lone - unmatched[arm] - judged[arm]
        name = cells.arms[arm_code]
        unmatched_rows, unmatched_failures = unmatched[arm].tolist()
        # A single run is no replicate.
        lone_kind = LeftOutKind.LONE_REPLICATE if runs > 1 else LeftOutKind.NO_COUNTERPART
        # Each with its rows and how many of these failed.
        parts = (
            LeftOut(name, LeftOutKind.WARM_UP, *warm.tolist()),
            LeftOut(name, lone_kind, *lone.tolist()),
            LeftOut(name, LeftOutKind.NO_COUNTERPART, *not_in_panel.tolist()),
            LeftOut(name, LeftOutKind.NO_COUNTERPART, unmatched_rows, unmatched_failures, NOT_AT_THE_SAME_TIME),
        )
        left_out = tuple(part for part in parts if part.rows)
        accounts.append(ArmRows(name, read=int(read[0]), judged=int(judged[arm, 0]), left_out=left_out))
    return accounts[0], accounts[1]


def _count_requests(cells: Cells, rows: BoolArray) -> IntArray:
    """Count the requests and the failures in the rows where `rows` is true: shape (2,)."""
    return np.array([cells.moments.n[rows].sum(), cells.moments.failures[rows].sum()], dtype=np.int64)
