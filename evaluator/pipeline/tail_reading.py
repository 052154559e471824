"""Lines of followed logs become rows of the right run: their format is found, and their times are checked."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from evaluator.errors import InputError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.tail_retries import RetryFinder
from evaluator.pipeline.tail_windows import AFTER, BEFORE, choose_windows, find_window, go_on_after_step
from evaluator.records import LeftOut, LeftOutKind, LogCounts, LogLayout, RouterFacts, sum_counts
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.sources.access_logs import find_layout
from evaluator.sources.access_logs.log_files import FileId, LineBlock
from evaluator.sources.access_logs.options import LogSettings
from evaluator.sources.access_logs.planning import describe_bad_line
from evaluator.sources.access_logs.tail_state import TailedRun, TailState
from evaluator.store.access_logs import LogBatch, LogReader
from evaluator.wording import format_duration

BACKWARDS_S = 60.0
"""A line that ended this much before an earlier one is not read: the clock was set back, or it is an old line."""

AHEAD_S = 60.0
"""A line that ended this much after now is not read."""

WRONG_ZONE_S = 600.0
"""If all first lines ended this much before they were written, their time zone is another one."""

BEGAN_BEFORE = "began before the log was followed"
"""Detail of requests that are left out: only slow ones of these are seen, so they show no arm as it is."""


class LineReader:
    """Reads blocks of lines into the runs of a state. Use it in a `with` statement."""

    def __init__(
        self,
        settings: LogSettings,
        retries: RetryFinder | None = None,
        clock: Callable[[], float] = time.time,
        say: Say = say_nothing,
    ) -> None:
        """`retries`: finds the servers of attempts that the log does not name. `clock`: epoch seconds."""
        self._retries = retries
        self._settings = settings
        self._clock = clock
        self._say = say
        self._shown: set[Path] = set()
        """Paths of which a line that cannot be read was shown."""
        self._layouts: dict[Path, LogLayout] = {}
        self._readers: dict[tuple[str, Path], LogReader] = {}
        """Id of a run and path → its reader."""
        self._newest: dict[FileId, float] = {}
        """File → when its last request ended (epoch s)."""
        self._checked: set[Path] = set()
        """Paths whose clock was compared with ours."""
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def learn_format(self, path: Path, top_lines: Sequence[str]) -> None:
        """Find the format of a log by its first lines; without lines later. Raises InputError and UnknownName."""
        if top_lines:
            settings = self._settings
            layout = find_layout(
                top_lines,
                str(path),
                log_format=settings.log_format,
                format=settings.format,
                columns=settings.columns,
                sensitive=settings.options.sensitive,
            )
            self._layouts[path] = layout

    def read_block(self, state: TailState, block: LineBlock) -> tuple[TailState, dict[str, list[pa.Table]]]:
        """Read lines. Returns the state with what was counted, and the new rows of each run, by its id.

        Raises InputError if none of the first lines can be read, or their clock is another one.
        """
        lines = block.lines
        if block.path not in self._layouts:
            self.learn_format(block.path, [line.decode("utf-8", "replace") for line in lines])
        current = find_window(state, self._clock())
        batch = self._read(state.runs[current], block.path, lines)
        self._check_first(block, batch)
        self._show_bad_line(block, batch)
        keep, wrong = self._check_times(block, batch)
        state = _count_unread(state, current, wrong)
        if state.from_start and state.runs[0].started is None and keep.any() and np.isfinite(batch.starts[keep]).any():
            first = replace(state.runs[0], started=float(np.floor(np.nanmin(batch.starts[keep]))))
            state = replace(state, runs=(first, *state.runs[1:]))
        if np.isfinite(batch.starts[keep]).any():
            state = go_on_after_step(state, float(np.nanmax(batch.starts[keep])))
        windows = choose_windows(state, batch.starts, current)
        tables: dict[str, list[pa.Table]] = defaultdict(list)
        for number in np.unique(windows[keep]):
            chosen = keep & (windows == number)
            is_all = number == current and bool(chosen.all())
            state = self._read_window(state, int(number), block.path, lines, chosen, batch if is_all else None, tables)
        if np.isfinite(batch.ends[keep]).any():
            newest = float(np.nanmax(batch.ends[keep]))
            self._newest[block.file_id] = max(newest, self._newest.get(block.file_id, newest))
            path = str(block.path)
            ahead_s = newest - self._clock() if block.is_fresh else 0.0
            if ahead_s > state.runs[current].clock_ahead_s:
                state = _replace_run(state, current, replace(state.runs[current], clock_ahead_s=round(ahead_s, 3)))
            state = replace(state, newest={**state.newest, path: max(newest, state.newest.get(path, newest))})
        return state, tables

    # -------------------------------------------------------------- windows

    def _read_window(
        self,
        state: TailState,
        number: int,
        path: Path,
        lines: Sequence[bytes],
        chosen: BoolArray,
        batch: LogBatch | None,
        tables: dict[str, list[pa.Table]],
    ) -> TailState:
        """Add the `chosen` lines, shape (lines,), to the window `number`; `batch`: what they became, if they were read.

        Their rows are added to `tables`. Returns the state with their counts.
        """
        if number == AFTER:
            return state
        run = state.runs[max(number, 0)]
        if run.is_closed and number != BEFORE:
            late = LogCounts(router=RouterFacts(late=int(chosen.sum())))
            return _replace_run(state, number, replace(run, counts=sum_counts([run.counts, late])))
        if batch is None:
            batch = self._read(run, path, [line for line, is_chosen in zip(lines, chosen, strict=True) if is_chosen])
        if number == BEFORE:
            counts = sum_counts([run.counts, _leave_out(batch)])
            return _replace_run(state, 0, replace(run, counts=counts))
        tables[run.run].append(batch.rows)
        if self._retries:
            self._retries.add(run.run, batch.rows, batch.unassigned)
        newest = float(np.nanmax(batch.ends)) if np.isfinite(batch.ends).any() else None
        return _replace_run(
            state,
            number,
            replace(
                run,
                counts=sum_counts([run.counts, batch.counts]),
                newest=max(filter(None, (newest, run.newest)), default=None),
                kept_endpoints=self._readers[run.run, path].kept_endpoints,
            ),
        )

    def _read(self, run: TailedRun, path: Path, lines: Sequence[bytes]) -> LogBatch:
        """Read lines of a path as rows of a run."""
        key = (run.run, path)
        if key not in self._readers:
            reader = LogReader(self._layouts[path], self._settings.options, run.run, run.kept_endpoints)
            self._readers[key] = self._opened.enter_context(reader)
        return self._readers[key].read_lines(lines)

    def _show_bad_line(self, block: LineBlock, batch: LogBatch) -> None:
        """Show the first line of a log that cannot be read, so that people find out what such lines are."""
        if batch.bad_line and block.path not in self._shown:
            self._shown.add(block.path)
            shown, _ = self._describe_line(block.lines[batch.bad_line.number])
            self._say(f"a line of {block.path} is counted and not judged: {batch.bad_line.problem}: {shown}")

    def _describe_line(self, line: bytes) -> tuple[str, str]:
        """Show a line that cannot be read, as far as it may be shown; returns it, and what helps."""
        return describe_bad_line(line.decode("utf-8", "replace"), sensitive=self._settings.options.sensitive)

    # -------------------------------------------------------------- times

    def _check_first(self, block: LineBlock, batch: LogBatch) -> None:
        """Compare the clock of a log with ours, by the first lines that were written while it is followed.

        Raises InputError if it is another one, or if none of the lines could be read.
        """
        if not block.is_fresh or block.path in self._checked:
            return
        ends = batch.ends[np.isfinite(batch.ends)]
        if not ends.size:
            if batch.bad_line:
                shown, hint = self._describe_line(block.lines[batch.bad_line.number])
                problem = f"{block.path} cannot be read: {batch.bad_line.problem}: {shown}"
                raise InputError(problem, hint=hint or _FORMAT_HINT)
            return
        self._checked.add(block.path)
        behind_s = self._clock() - float(ends.max())
        if abs(behind_s) > WRONG_ZONE_S:
            direction = "before" if behind_s > 0 else "after"
            raise InputError(
                f"by their times, the requests in {block.path} ended {format_duration(round(abs(behind_s)))} "
                f"{direction} their lines were written",
                hint="if the router logs local time, name its zone: --time-zone Europe/Berlin; else set its clock",
            )

    def _check_times(self, block: LineBlock, batch: LogBatch) -> tuple[BoolArray, dict[str, int]]:
        """Find lines whose times cannot be right.

        Returns which lines are kept, shape (lines,), and what is wrong with others → their number.
        """
        before = self._newest.get(block.file_id, -np.inf)
        with np.errstate(invalid="ignore"):
            ahead = batch.ends > self._clock() + AHEAD_S
            # The newest end of all lines before each line, also those of earlier blocks.
            ends: FloatArray = np.where(np.isfinite(batch.ends) & ~ahead, batch.ends, -np.inf)
            newest_before = np.maximum.accumulate(np.concatenate([[before], ends]))[:-1]
            backwards = ~ahead & (batch.ends < newest_before - BACKWARDS_S)
        wrong = {
            f"of {block.path} with times more than a minute before those of earlier lines": int(backwards.sum()),
            f"of {block.path} with times more than a minute after now": int(ahead.sum()),
        }
        return ~(ahead | backwards), {text: number for text, number in wrong.items() if number}


_FORMAT_HINT = "name the format with --format or --log-format, and the time zone of its times with --time-zone"


def _leave_out(batch: LogBatch) -> LogCounts:
    """The counts of requests that are left out because they began before the log was followed."""
    arms = batch.rows["arm"].to_pylist()
    failed = batch.rows["failed"].to_pylist()
    left_out = []
    for arm in dict.fromkeys(arms):
        failures = sum(is_failed for of_arm, is_failed in zip(arms, failed, strict=True) if of_arm == arm)
        left_out.append(LeftOut(arm, LeftOutKind.OUTSIDE_PERIOD, arms.count(arm), failures, BEGAN_BEFORE))
    read = {part.arm: part.rows for part in left_out}
    return LogCounts(read=read, left_out=tuple(left_out))


def _count_unread(state: TailState, number: int, wrong: Mapping[str, int]) -> TailState:
    """Add the number of lines that were not read to a run of the state."""
    if not wrong:
        return state
    run = state.runs[number]
    counts = sum_counts([run.counts, LogCounts(router=RouterFacts(unread=wrong))])
    return _replace_run(state, number, replace(run, counts=counts))


def _replace_run(state: TailState, number: int, run: TailedRun) -> TailState:
    """Replace one run of a state."""
    runs = list(state.runs)
    runs[number] = run
    return replace(state, runs=tuple(runs))
