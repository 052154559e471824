"""Follow the access logs of a router into runs of a release, as long as the user wants.

The store is opened only to register runs and to store how they ended. If another process keeps it, the rows are written
all the same: the next command that judges the release registers the run by the files in its folder.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from evaluator.errors import EvaluatorError, SourceError, StoreError, UsageError
from evaluator.permissions import is_private, private_files
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.landing import land_release, register_tailed_runs
from evaluator.pipeline.loading import KEEP_UP_S
from evaluator.pipeline.tail_reading import LineReader
from evaluator.pipeline.tail_retries import RetryFinder
from evaluator.pipeline.tail_windows import begin_steps, end_windows, go_on_after_step
from evaluator.records import (
    ACCESS_LOG_SOURCE,
    LogCounts,
    Release,
    RouterFacts,
    check_log_options,
    check_names,
    choose_bucket_s,
    sum_counts,
)
from evaluator.segments import data_folder, run_folder, to_folder_name
from evaluator.sources.access_logs.following import Hole, LogFollower
from evaluator.sources.access_logs.log_files import read_first_lines
from evaluator.sources.access_logs.options import LogSettings
from evaluator.sources.access_logs.rollout_steps import check_step, read_steps
from evaluator.sources.access_logs.server_stats import ServerStats
from evaluator.sources.access_logs.tail_state import (
    TailedRun,
    TailedRunNow,
    TailJournal,
    TailState,
)
from evaluator.sources.recording import RunManifest, new_run_id, utc
from evaluator.store import Store
from evaluator.wording import count_of, write_command

POLL_S = 0.25
COMMIT_S = 1.0
"""How often (s) rows and positions are written."""

COMMIT_ROWS = 200_000
"""With a backlog, they are written after so many rows, so that memory does not grow with it."""

HEARTBEAT_S = 5.0
"""How often (s) a run says that it is still recorded, also without requests."""

SILENT_S = 10.0
"""If a log has had no line for so long (s), its requests are read up to this time before now."""

STORE_WAIT_S = 1.0

LATENESS_S = 65.0
"""How long (s) a request may take: it is logged at its end. Routers wait for a server for 60 s by default."""

_FIRST_LINES = 200


@dataclass(frozen=True, slots=True)
class TailPlan:
    """What is followed, and how it is read."""

    store_path: Path
    release: Release
    paths: tuple[Path, ...]
    settings: LogSettings
    from_start: bool = False
    """Read what is in the logs already. Only for the first start; another one goes on where the last one ended."""
    seconds: float | None = None
    """How long to follow (s); `None`: until it is ended."""
    step: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    lateness_s: float = LATENESS_S
    shortest_step_s: float | None = None
    """Duration (s) of the shortest step that will be judged, which needs short buckets; None: not known."""
    stats_address: str = ""
    """Socket of HAProxy's statistics, which say which server failed; empty: they are not read."""
    fresh: bool = False
    """Begin a new group of runs, although an earlier one can be continued."""
    policy_path: str = ""
    """Policy of the commands that are shown; empty: the one that a command finds by itself."""


@dataclass(frozen=True, slots=True)
class TailEnd:
    """How following ended."""

    state: TailState
    is_complete: bool
    """It came to its end; otherwise it can be continued."""


class StopRequest:
    """How often the user asked to stop: the first time following ends in order, the second time at once."""

    def __init__(self) -> None:
        self.signal = ""
        """Name of the last signal; empty: none."""
        self.count = 0

    def add(self, name: str) -> None:
        """Record a signal."""
        self.signal = name
        self.count += 1


def tail_release(plan: TailPlan, stop: StopRequest, *, say: Say = say_nothing) -> TailEnd:
    """Follow the logs of a plan until its end, or until `stop`. Returns how it ended.

    Everything that was read until then is stored, whatever ends it. Raises UsageError, InputError for logs that cannot
    be read, and SourceError, such as for a full disk: after that it can be started again, and goes on.
    """
    _check_plan(plan)
    plan = replace(plan, paths=tuple(path.absolute() for path in plan.paths))
    data = data_folder(plan.store_path)
    folder = run_folder(data, plan.release.id, "_").parent
    stats = ServerStats(plan.stats_address) if plan.stats_address else None
    retries = RetryFinder(stats, plan.settings.options, say, time.monotonic) if stats else None
    with (
        private_files(when=plan.settings.options.sensitive or is_private(data)),
        TailJournal(folder, plan.settings.options.service, list(plan.settings.options.arms)) as journal,
        LineReader(plan.settings, retries, say=say) as reader,
        ExitStack() as followers,
    ):
        tail = _Tail(plan, journal, reader, retries, stop, say)
        for follower in tail.followers:
            followers.callback(follower.close)
        with _landing_hourly(plan, say):
            end = tail.follow()
        if end.is_complete:
            _land(plan, say)
        return end


def _check_plan(plan: TailPlan) -> None:
    """Refuse a plan that cannot work. Raises UsageError."""
    check_names(plan.release, plan.settings.options.arms)
    check_log_options(plan.settings.options)
    if plan.step or plan.shares:
        check_step(plan.step or "first", plan.shares)
    unknown = [arm for arm in plan.shares if arm not in plan.settings.options.arms]
    if unknown:
        raise UsageError(
            f"--share names the arm {unknown[0]}, which has no servers",
            hint=f"arms: {', '.join(plan.settings.options.arms)}",
        )
    real_paths = [path.resolve() for path in plan.paths]
    for path, real_path in zip(plan.paths, real_paths, strict=True):
        if real_paths.count(real_path) > 1:
            raise UsageError(f"{path} is given twice", hint="its requests would count twice: give each file once")
    if plan.seconds is not None and plan.seconds <= 0:
        raise UsageError("the time to follow must be more than 0")


@contextmanager
def _landing_hourly(plan: TailPlan, say: Say) -> Iterator[None]:
    """While the block runs, land the release every hour in a thread, so that the folder of a run stays small."""
    block_ended = threading.Event()

    def keep_up() -> None:
        while not block_ended.wait(KEEP_UP_S):
            _land(plan, say)

    keeper = threading.Thread(target=keep_up, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        block_ended.set()
        keeper.join()


def _land(plan: TailPlan, say: Say) -> None:
    """Land what was written of the release, unless another process keeps the store: the next command will do it."""
    try:
        land_release(Store.open(plan.store_path, wait_s=STORE_WAIT_S), plan.release.id)
    except (EvaluatorError, OSError) as error:
        say(f"not landed yet: {error}")


class _Tail:
    """The loop: lines, rows, positions, windows."""

    def __init__(
        self,
        plan: TailPlan,
        journal: TailJournal,
        reader: LineReader,
        retries: RetryFinder | None,
        stop: StopRequest,
        say: Say,
    ) -> None:
        self.plan, self.journal, self.reader, self.retries = plan, journal, reader, retries
        self.stop, self.say = stop, say
        self.folder = journal.folder
        for path in plan.paths:
            reader.learn_format(path, read_first_lines(path, _FIRST_LINES))
        earlier = None if plan.fresh else journal.load()
        can_go_on = earlier is not None and not earlier.is_over
        self.state = earlier if earlier is not None and can_go_on else self._begin_state()
        self.followers = [
            LogFollower(
                path,
                self.state.positions.get(str(path), ()),
                from_start=self.state.from_start or (can_go_on and str(path) not in self.state.positions),
            )
            for path in plan.paths
        ]
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)
        """Id of a run → rows that are not written yet."""
        self.committed = self.state
        """The state on the disk: what is said of the runs must match their rows."""
        self.has_news = False
        """Were lines read since the last commit?"""
        self.last_line_at = dict.fromkeys(plan.paths, time.time())
        self.problems = dict.fromkeys(plan.paths, "")
        self.registered: set[str] = set()
        """Ids of runs whose manifests are written."""
        self.written: dict[str, TailedRun] = {}
        """Id of a run that is closed → what was said of it last."""
        self.committed_at = self.heartbeat_at = 0.0
        if can_go_on:
            self._reopen()

    def _begin_state(self) -> TailState:
        """Make the state of a new group of runs."""
        plan, now = self.plan, time.time()
        group = new_run_id()
        ends = now + plan.seconds if plan.seconds is not None else None
        started = None if plan.from_start else now
        run = TailedRun(group, started, ends, plan.step, plan.shares)
        return TailState(group, now, plan.from_start, ends, runs=(run,))

    def _reopen(self) -> None:
        """Say where an earlier `tail` is continued."""
        run = self.state.runs[-1]
        step = f", step {run.step}" if run.step else ""
        self.say(
            f"going on with run {run.run}{step}, where the last `evaluator tail` ended (--fresh begins another group)"
        )

    # -------------------------------------------------------------- the loop

    def follow(self) -> TailEnd:
        """Follow the logs to the end. Returns how it ended."""
        try:
            self._commit()
            while not self.state.is_over:
                if self.stop.count and not self._end_in_order():
                    return self._stop(ended_early=f"evaluator tail was ended by {self.stop.signal}")
                # Before reading: if this process stands still for a while, lines that it has not read are no silence.
                looked_at = time.time()
                has_more = self._read_some()
                self._move_windows(looked_at)
                self._commit_if_due(has_more=has_more)
                if not has_more and not self.state.is_over:
                    time.sleep(POLL_S)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self._say_stopped(f"the rows could not be written: {reason}")
            raise SourceError(
                f"evaluator tail stopped, because its files could not be written: {reason}",
                hint="make room or allow writing, and start the same command again: it goes on where it stopped",
            ) from error
        except EvaluatorError as error:
            self._say_stopped(error.message)
            raise
        self._register()
        self.say(f"{self.plan.release.id}: {count_of(sum(run.rows for run in self.state.runs), 'request')} read")
        return TailEnd(self.state, is_complete=True)

    def _read_some(self) -> bool:
        """Read a block of each log, and the steps that were begun. Returns whether there may be more lines now."""
        has_more = False
        for follower in self.followers:
            block = follower.read_block()
            # After the lines, which began before: steps begin a second after they are written.
            self._read_steps()
            if block is not None:
                self.state, tables = self.reader.read_block(self.state, block)
                for run, of_run in tables.items():
                    self.tables[run] += of_run
                self.last_line_at[follower.path] = time.time()
                self.has_news = has_more = True
            holes = follower.take_holes()
            if holes:
                self._note_holes(holes)
            self._say_problem(follower)
        self._assign_retries()
        return has_more

    def _assign_retries(self, *, at_once: bool = False) -> None:
        """Add the rows of failed attempts whose server HAProxy's statistics show."""
        if self.retries:
            self.state, tables = self.retries.assign(self.state, at_once=at_once)
            for run, table in tables.items():
                self.tables[run].append(table)
                self.has_news = True

    def _read_steps(self) -> None:
        """Begin windows for steps that `evaluator step` has written."""
        steps = read_steps(self.folder, self.plan.settings.options.service)
        state = begin_steps(self.state, steps)
        for run in state.runs[len(self.state.runs) :]:
            self.say(f"step {run.step} begins at {utc(run.started or 0):%H:%M:%S} UTC: run {run.run}")
        self.has_news |= state is not self.state and state != self.state
        self.state = state

    def _note_holes(self, holes: Sequence[Hole]) -> None:
        """Add parts of the logs that could not be read to all runs that are open."""
        counts = []
        for hole in holes:
            if hole.lines:
                self.say(f"{count_of(hole.lines, 'line')} {hole.text}")
                counts.append(LogCounts(router=RouterFacts(unread={hole.text: hole.lines})))
            else:
                self.say(hole.text)
                counts.append(LogCounts(router=RouterFacts(holes=(hole.text,), unread_s=hole.seconds)))
        runs = [
            run if run.is_closed else replace(run, counts=sum_counts([run.counts, *counts])) for run in self.state.runs
        ]
        self.state = replace(self.state, runs=tuple(runs))
        self.has_news = True

    def _say_problem(self, follower: LogFollower) -> None:
        """Say once why a log cannot be read now, and that it can be read again."""
        if follower.problem != self.problems[follower.path]:
            self.problems[follower.path] = follower.problem
            waiting = f"{follower.path}: {follower.problem}; waiting for it"
            self.say(waiting if follower.problem else f"{follower.path} is there")

    # -------------------------------------------------------------- time

    def _move_windows(self, now: float) -> None:
        """Move the watermark, close the windows that it has passed, and begin the next one. `now`: epoch s."""
        self.state = go_on_after_step(self.state, now)
        watermark = self._find_watermark(now)
        if watermark is None or watermark <= (self.state.watermark or 0.0):
            return
        runs = []
        for run in self.state.runs:
            is_passed = run.ends is not None and run.ends <= watermark
            if is_passed and not run.is_closed:
                self.has_news = True
                selection = ("--step", run.step) if run.step else ("--run", run.run)
                command = write_command(self.plan.release.id, *selection, policy=self.plan.policy_path)
                self.say(f"{'step' if run.step else 'run'} {selection[1]} is complete: `{command}`")
            runs.append(replace(run, is_closed=run.is_closed or is_passed))
        is_over = self.state.ends is not None and watermark >= self.state.ends
        self.has_news |= is_over
        self.state = replace(self.state, runs=tuple(runs), watermark=watermark, is_over=is_over)

    def _find_watermark(self, now: float) -> float | None:
        """Find until when all requests that began were read; `None` if it is not known of every log."""
        moments = []
        for follower in self.followers:
            if not follower.is_caught_up:
                return None
            moment = self.state.newest.get(str(follower.path))
            if now - self.last_line_at[follower.path] >= SILENT_S:
                moment = max(moment or 0.0, now - SILENT_S)
            if moment is None:
                return None
            moments.append(moment)
        return min(moments) - self.plan.lateness_s

    def _end_in_order(self) -> bool:
        """Let following end now, after the requests that are running have ended. False if it has to stop at once."""
        if self.stop.signal != "SIGINT" or self.stop.count > 1:
            return False
        if self.state.ends is None:
            self.state = end_windows(self.state, time.time())
            self.has_news = True
            wait = f"waiting {self.plan.lateness_s:g} s for requests that are running"
            self.say(f"{wait}; press Ctrl-C again to end at once, and go on later")
        elif self.plan.seconds is not None:
            return False
        return True

    # -------------------------------------------------------------- writing

    def _commit_if_due(self, *, has_more: bool) -> None:
        """Write rows and positions once a second, and earlier if there are many rows or nothing more will come."""
        now = time.monotonic()
        rows = sum(table.num_rows for tables in self.tables.values() for table in tables)
        is_due = now - self.committed_at >= COMMIT_S
        if (self.has_news and is_due) or rows >= COMMIT_ROWS or self.state.is_over:
            self._commit()
        elif now - self.heartbeat_at >= HEARTBEAT_S and not has_more:
            self._write_facts()

    def _commit(self) -> None:
        """Write rows and positions in one step, then what the runs say of themselves."""
        positions = {str(follower.path): follower.positions() for follower in self.followers}
        self.state = self.journal.commit(replace(self.state, positions=positions), self.tables)
        self.committed = self.state
        self.tables.clear()
        self.has_news = False
        self.committed_at = time.monotonic()
        self._write_facts()

    def _write_facts(self, *, stopped_by: str = "", ended_early: str = "") -> None:
        """Describe each run in its folder, and register new runs. Raises OSError."""
        self.heartbeat_at = time.monotonic()
        for run in self.committed.runs:
            if run.started is None or run.started > time.time() or self.written.get(run.run) == run:
                continue
            folder = self.folder / to_folder_name(run.run)
            if run.run not in self.registered:
                folder.mkdir(parents=True, exist_ok=True)
                self._make_manifest(run).write(folder)
            causes = ("", "") if run.is_closed else (stopped_by, ended_early)
            TailedRunNow(run, time.time(), *causes).write(folder)
            if run.run not in self.registered or run.is_closed or any(causes):
                self.registered.add(run.run)
                self._register()
            if run.is_closed:
                self.written[run.run] = run

    def _make_manifest(self, run: TailedRun) -> RunManifest:
        """Describe a run for the command that registers it."""
        plan = self.plan
        started = run.started or 0.0
        arms = {arm: list(patterns) for arm, patterns in plan.settings.options.arms.items()}
        return RunManifest(
            run=run.run,
            release=plan.release.id,
            service=plan.settings.options.service,
            started=started,
            run_time_s=run.ends - started if run.ends is not None else None,
            fingerprint={"files": [str(path) for path in plan.paths], "arms": arms},
            source=ACCESS_LOG_SOURCE,
            group=self.state.group,
            replicate=run.replicate,
            step=run.step,
            shares=dict(run.shares),
            bucket_s=choose_bucket_s(plan.shortest_step_s) if plan.shortest_step_s else None,
        )

    def _register(self) -> None:
        """Bring new runs, and the ends of others, into the store, unless another process keeps it."""
        plan = self.plan
        try:
            # Lines must not wait for another process that keeps the store.
            store = Store.open(plan.store_path, create=True, wait_s=STORE_WAIT_S)
            store.control.add_release(plan.release)
            register_tailed_runs(store, plan.release.id)
        except StoreError as error:
            # The next command that judges the release finds the runs by their files.
            self.say(f"the store is not available, so the requests are only written: {error.message}")

    # -------------------------------------------------------------- the end

    def _stop(self, *, ended_early: str) -> TailEnd:
        """Read what is in the logs now, write it, and say why following ends before its end.

        A log that users write to all the time is read once to its end: it would never be without new lines.
        """
        deadline = time.monotonic() + SILENT_S
        while self._read_some() and not self._is_caught_up() and time.monotonic() < deadline:
            pass
        self._assign_retries(at_once=True)
        self._commit()
        self._write_facts(ended_early=ended_early)
        return TailEnd(self.state, is_complete=False)

    def _is_caught_up(self) -> bool:
        """Was each log read to its end at the last look?"""
        return all(follower.is_caught_up for follower in self.followers)

    def _say_stopped(self, reason: str) -> None:
        """Say in the folders of the runs why following stopped, if anything can be written."""
        try:
            self._write_facts(stopped_by=reason)
        except (OSError, EvaluatorError):
            return  # the disk is full: the next command sees that this process has ended
