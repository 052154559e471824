"""Into which run a request of a followed log goes: runs are windows of time, one after the other, each of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evaluator.records.arrays import FloatArray, IntArray
from evaluator.sources.access_logs.rollout_steps import RolloutStep
from evaluator.sources.access_logs.tail_state import TailedRun, TailState

BEFORE = -1
"""In place of a window: the request began before the first one."""

AFTER = -2
"""In place of a window: the request began after the end of following."""


def begin_steps(state: TailState, steps: Sequence[RolloutStep]) -> TailState:
    """Add a window for each step that has none. It ends the window in which it begins.

    `steps`: in the order in which they begin. Those of earlier groups are ignored.
    """
    runs = list(state.runs)
    for step in steps:
        is_later = runs[-1].started is None or step.started > runs[-1].started
        if step.started <= state.started or not is_later:
            continue
        if runs[-1].ends is None or runs[-1].ends > step.started:
            runs[-1] = replace(runs[-1], ends=step.started)
        elif runs[-1].ends < step.started:
            runs.append(_go_on(state.group, runs[-1], step.started, len(runs)))
        number = len(runs)
        ends = _earlier(step.ends, state.ends)
        runs.append(TailedRun(_make_run_id(state.group, number), step.started, ends, step.name, step.shares, number))
    return replace(state, runs=tuple(runs))


def go_on_after_step(state: TailState, moment: float) -> TailState:
    """Add a window without a step, with the same shares, if the last step has come to its planned end by `moment`."""
    last = state.runs[-1]
    if last.ends is None or moment < last.ends or last.ends == state.ends:
        return state
    return replace(state, runs=(*state.runs, _go_on(state.group, last, state.ends, len(state.runs))))


def end_windows(state: TailState, moment: float) -> TailState:
    """Let following end at `moment`: windows that would last longer end then, and those that begin later do not."""
    runs = [run for run in state.runs if run.started is None or run.started < moment]
    last = runs[-1]
    if last.ends is None or last.ends > moment:
        runs[-1] = replace(last, ends=moment)
    return replace(state, runs=tuple(runs), ends=moment)


def choose_windows(state: TailState, starts: FloatArray, number_of_unknown: int) -> IntArray:
    """Find the position of the window of each request in `state.runs`; or BEFORE, or AFTER.

    `starts`: when requests began (epoch s), NaN for lines that are none, shape (lines,): these go to the window
    `number_of_unknown`.
    """
    begins = np.array([-np.inf if run.started is None else run.started for run in state.runs])
    if state.from_start:
        begins[0] = -np.inf
    numbers = np.searchsorted(begins, starts, side="right") - 1
    numbers[starts < begins[0]] = BEFORE
    if state.ends is not None:
        numbers[starts >= state.ends] = AFTER
    numbers[np.isnan(starts)] = number_of_unknown
    return numbers


def find_window(state: TailState, moment: float) -> int:
    """Position in `state.runs` of the window at a moment: of the first one before it, of the last one after it."""
    numbers = [number for number, run in enumerate(state.runs) if run.started is None or run.started <= moment]
    return numbers[-1] if numbers else 0


def _make_run_id(group: str, number: int) -> str:
    """Id of run `number` of a group."""
    return f"{group}-{number + 1}" if number else group


def _go_on(group: str, run: TailedRun, ends: float | None, number: int) -> TailedRun:
    """Make the window without a step that follows a run."""
    return TailedRun(_make_run_id(group, number), run.ends, ends, "", run.shares, number)


def _earlier(first: float | None, second: float | None) -> float | None:
    """The earlier of two moments; `None` is never."""
    moments = [moment for moment in (first, second) if moment is not None]
    return min(moments, default=None)
