"""Wait for a verdict: judge again as data land, until it is decided or the time is up.

Judging often has no statistical cost: the looks follow from data and policy (method B.4). It costs CPU, which the load
generator may need. So files are checked each second, the store is opened when they have changed, and the data are
judged when a look is due or a run has ended.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from evaluator.assess.base import find_rules
from evaluator.errors import StoreBusy, UnknownName
from evaluator.judges import Judgement
from evaluator.judges.progress import describe_missing
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.judging import judge_release, to_verdict
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.runs import choose_runs, is_live, is_series_open
from evaluator.policy import Policy
from evaluator.records import Evidence, EvidenceKind, Reason, Release, Run, Verdict, VerdictWord, Window
from evaluator.reports import VERDICT_WORDS
from evaluator.segments import data_folder, run_folder
from evaluator.store import Store
from evaluator.wording import format_duration, quote_command

POLL_S = 1.0
"""How often (s) files are checked, without opening them."""

PULSE_S = 10.0
"""How often (s) waiting segments land although no file has changed: a killed load changes none."""

SETTLE_S = 3.0
"""Seconds after the time of a look: its last data land a second or two later."""

SOONEST_S, LATEST_S = 5.0, 20.0
"""The shortest and, if there are new data, the longest pause (s) between two judgements."""

STORE_FILES = 2
"""Number of files at the start of a signature that are the store itself: its file and its log."""

Signature = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class StoredSubject:
    """A release to watch, in a store that may not exist yet."""

    open_store: Callable[[], Store | None]
    store_path: Path
    release: str
    policy: Policy
    runs: str = "latest"
    step: str = ""
    """Step of a rollout whose runs are judged; empty: as `judge_release` chooses."""
    judge_with: Callable[[Callable[[], Verdict]], Verdict] = lambda judge: judge()
    """How to run a judgement, for example in a thread of low priority."""

    def signature(self) -> Signature:
        """Return time, size and inode of the store's file, of its log, and of the folder of each run.

        If it is unchanged, nothing has been recorded or stored since.
        """
        store_files = [self.store_path, self.store_path.with_name(self.store_path.name + ".wal")]
        release_folder = run_folder(data_folder(self.store_path), self.release, "_").parent  # of any run
        return tuple(_read_stamp(path) for path in [*store_files, *sorted(release_folder.glob("*"))])

    def land(self) -> tuple[Run, ...]:
        """Land waiting segments and return the runs to judge; none if store, release, run or step do not exist yet."""
        return self._read_runs(land=True)

    def peek(self) -> tuple[Run, ...]:
        """Return the runs to judge, as stored, without landing."""
        return self._read_runs(land=False)

    def _read_runs(self, *, land: bool) -> tuple[Run, ...]:
        """Return the runs to judge, after landing if `land`; none if store, release or run do not exist yet."""
        store = self.open_store()
        if store is None:
            return ()
        try:
            if land:
                land_release(store, self.release)
            return choose_runs(store.data.runs(self.release), self.runs, self.step)
        except UnknownName as error:
            if error.kind not in {"release", "run", "step"}:
                raise
            return ()

    def series_open(self, runs: Sequence[Run]) -> bool:
        """Are replicates of these runs still to come?"""
        store = self.open_store()
        return store is not None and is_series_open(store, runs)

    def judge(self) -> Verdict:
        """Judge without storing the verdict. Raises UnknownName for an unknown release or run."""
        store = self.open_store()
        if store is None:
            return self.judge_nothing()
        now = datetime.now(UTC)
        return self.judge_with(
            lambda: judge_release(
                store, self.release, self.policy, runs=self.runs, step=self.step, judged_at=now, save=False
            )
        )

    def judge_nothing(self) -> Verdict:
        """Return INCONCLUSIVE without evidence: the verdict on a release that does not exist yet."""
        evidence = Evidence((), (), (), Window(None, None), final=False)
        next_action = f"load it: `{quote_command('load', self.release)} …`"
        judgement = Judgement(VerdictWord.INCONCLUSIVE, (), next_action=next_action, comparisons=())
        hash_of_no_data = f"sha256:{hashlib.sha256().hexdigest()}"
        return to_verdict(Release(self.release), self.policy, evidence, judgement, hash_of_no_data, datetime.now(UTC))


def _read_stamp(path: Path) -> tuple[int, ...]:
    """Return the time of the last change (ns), size and inode of a file; empty if there is no such file."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@dataclass(slots=True)
class Watch:
    """Wait for one release. `clock` and `sleep` are monotonic seconds, injected so that tests need no real time."""

    subject: StoredSubject
    policy: Policy
    clock: Callable[[], float]
    sleep: Callable[[float], object]
    wait_s: float | None = None
    """`None`: until it is decided."""
    waited_s: float = 0.0
    """How much of `wait_s` has passed before `run`."""
    report: Say = say_nothing
    """Is called with the status each second."""
    stop: Callable[[], bool] = lambda: False
    """Returns whether to stop waiting."""
    status: str = "starting"
    judgements: int = 0
    """Number of judgements until now."""
    _verdict: Verdict | None = None
    _files: Signature = ()
    """Signature of the files at the last landing."""
    _judged_states: tuple[object, ...] = ()
    """Ids and states of the runs at the last judgement."""
    _judged_series_open: bool | None = None
    """Whether replicates were still to come at the last judgement; `None`: judge again as soon as data have landed."""
    _judged_rows: int = 0
    """Number of rows at the last judgement; -1: judge again when the look is due, also without further rows."""
    _decision: VerdictWord | None = None
    """The last GO or NO-GO during a run; it counts when a later judgement gives it, too (INCONCLUSIVE keeps it)."""
    _judged_at: float = -math.inf
    """`clock` at the last judgement."""
    _landed_at: float = -math.inf
    """`clock` at the last landing."""
    _due: float = -math.inf
    """`clock` at the next look."""
    _busy_error: StoreBusy | None = None
    """Why the last attempt to read the store failed; `None`: it did not."""

    def run(self) -> Verdict | None:
        """Wait for the final verdict and return it; `None` if `stop` ended the wait.

        At the deadline, the verdict on the data until then is final. Raises StoreBusy if the store cannot be read then.
        """
        deadline = math.inf if self.wait_s is None else self.clock() + self.wait_s - self.waited_s
        while not self.stop():
            try:
                verdict = self._look()
                self._busy_error = None
            except StoreBusy as error:
                verdict = None
                self._busy_error = error
                self._files = ()  # so that the next look tries again
                self.status = f"the store is busy, trying again: {error.message}"
            if verdict is not None:
                return verdict
            remaining_s = deadline - self.clock()
            if remaining_s <= 0:
                return self._judge_at_deadline()
            self._report_progress(remaining_s)
            self.sleep(min(POLL_S, remaining_s))
        return None

    def _look(self) -> Verdict | None:
        """Land if files have changed; then judge if a run began or ended, or if a look is due and rows were added.

        Returns the verdict if it is final; otherwise `None`.
        """
        if not self._must_land():
            return None
        self._landed_at = self.clock()
        runs = self.subject.land()
        series_open = self.subject.series_open(runs)
        rows = sum(run.landed for run in runs)
        runs_changed = series_open != self._judged_series_open or _list_states(runs) != self._judged_states
        verdict = None
        if not rows and (not runs or series_open or is_live(runs)):
            self.status = "waiting for the first requests" if runs else "waiting for the release"
        elif runs_changed or (rows != self._judged_rows and self.clock() >= self._due):
            verdict = self._judge(runs, rows, series_open=series_open)
        # Taken after landing and judging, so that what this process has written itself is no change.
        self._files = self.subject.signature()
        return verdict

    def _must_land(self) -> bool:
        """Return whether to open the store now: every PULSE_S, and otherwise only if relevant files have changed.

        Until a look is due, new requests are irrelevant; a run that began or ended is not.
        """
        if self.clock() >= self._landed_at + PULSE_S:
            return True
        files = self.subject.signature()
        if self._verdict is None or self.clock() >= self._due:
            return files != self._files
        # New requests change the folders of runs. When a run begins or ends, the store itself changes: its files come
        # first in a signature.
        if files[:STORE_FILES] == self._files[:STORE_FILES]:
            return False
        self._files = files
        return _list_states(self.subject.peek()) != self._judged_states

    def _judge(self, runs: Sequence[Run], rows: int, *, series_open: bool) -> Verdict | None:
        """Judge runs that have `rows` rows, and set when the next look is due.

        Returns the verdict if it is final; `None` if more data will come, or if it has to be judged again first.
        `series_open`: replicates are still to come.
        """
        verdict = self.subject.judge()
        self.judgements += 1
        self._verdict = verdict
        self._judged_at = self.clock()
        self._judged_states = _list_states(runs)
        self._judged_series_open = series_open
        self._judged_rows = rows
        progress = verdict.evidence.progress  # seconds of judged data in the calendar of looks; `None`: no calendar
        pause_s = progress.next_s - progress.covered_s + SETTLE_S if progress else SOONEST_S
        self._due = self._judged_at + min(max(pause_s, SOONEST_S), LATEST_S)
        self.status = _describe_status(verdict, series_open=series_open)
        is_running = is_live(runs)
        is_undecided = verdict.word is VerdictWord.INCONCLUSIVE
        has_outcomes = any(run.kind is EvidenceKind.OUTCOMES for run in runs)
        # The policy compares outcomes, which usually land after the load.
        lacks_outcomes = bool(find_rules(self.policy.rulebook, EvidenceKind.OUTCOMES)) and not has_outcomes
        if series_open or (is_undecided and (is_running or lacks_outcomes)):
            return None  # more data will come, which may decide
        if is_running and self._decision is not verdict.word:
            # The last data of a look may not have landed yet: a decision that differs from the last one is judged
            # again after they have, and is final only if it is the same then.
            self._decision = verdict.word
            self._due = self.clock() + SETTLE_S
            self._judged_rows = -1  # equal to no number of rows: it is judged again also if none are added
            return None
        if _list_states(self.subject.peek()) != _list_states(runs):
            # A run began or ended during the judgement: the runs have to be judged again, without waiting for a look.
            self._judged_states = ()
            self._judged_series_open = None
            return None
        return verdict

    def _judge_at_deadline(self) -> Verdict:
        """Judge what there is at the deadline; an INCONCLUSIVE verdict names what is missing as its first reason."""
        if self._busy_error is not None:  # of the last attempt to read the store; no time is left for another
            raise self._busy_error
        runs = self.subject.land()
        verdict = self.subject.judge() if runs else self.subject.judge_nothing()
        if not runs:
            missing = "there is no such release in the store"
        elif self.subject.series_open(runs):
            # The verdict on only a part of the planned replicates decides nothing.
            verdict = replace(verdict, word=VerdictWord.INCONCLUSIVE)
            missing = "replicates are still to come"
        elif verdict.word is VerdictWord.INCONCLUSIVE:
            missing = describe_missing(verdict) if any(run.landed for run in runs) else "it has no data yet"
        else:
            return verdict  # GO or NO-GO: nothing is missing
        waited_s = self.wait_s or 0.0  # never None here: without `wait_s` there is no deadline
        text = f"the deadline passed after {format_duration(waited_s)}: {missing}"
        return replace(verdict, reasons=(Reason("deadline", text), *verdict.reasons), time_to_decision_s=None)

    def _report_progress(self, remaining_s: float) -> None:
        """Report the status: how much of the planned time has passed, what is awaited, the seconds to the deadline."""
        elapsed = ""
        evidence = self._verdict.evidence if self._verdict else None
        if evidence and evidence.progress and not evidence.final:
            elapsed_s = evidence.progress.covered_s + self.clock() - self._judged_at
            planned = format_duration(round(evidence.progress.planned_s))
            elapsed = f"{format_duration(round(elapsed_s))} of {planned}: "
        deadline = f"; deadline in {format_duration(round(remaining_s))}" if math.isfinite(remaining_s) else ""
        self.report(f"{elapsed}{self.status}{deadline}")


def _list_states(runs: Sequence[Run]) -> tuple[object, ...]:
    """List the id and state of each run: it changes when a run begins or ends."""
    return tuple((run.id, run.state) for run in runs)


def _describe_status(verdict: Verdict, *, series_open: bool) -> str:
    """Describe what a watch waits for, or what was decided. `series_open`: replicates are still to come."""
    if series_open:
        return "replicates are still to come"
    if verdict.word is VerdictWord.INCONCLUSIVE:
        return describe_missing(verdict)
    decision = VERDICT_WORDS[verdict.word]
    decided_after_s = verdict.time_to_decision_s  # seconds of load; None without a time of decision
    return f"{decision}, decided after {format_duration(decided_after_s)} of load" if decided_after_s else decision
