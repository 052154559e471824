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
from evaluator.wording import format_duration

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
    """A release in a store that may not be there yet."""

    open_store: Callable[[], Store | None]
    store_path: Path
    release: str
    policy: Policy
    runs: str = "latest"
    judge_with: Callable[[Callable[[], Verdict]], Verdict] = lambda judge: judge()
    """How to run a judgement, for example in a thread of low priority."""

    def signature(self) -> Signature:
        """Time, size and inode of the store's files and of the folder of each run."""
        files = [self.store_path, self.store_path.with_name(self.store_path.name + ".wal")]
        folder = run_folder(data_folder(self.store_path), self.release, "_").parent
        return tuple(_stamp(path) for path in [*files, *sorted(folder.glob("*"))])

    def land(self) -> tuple[Run, ...]:
        """Land waiting segments and return the runs to judge; none if store, release or run do not exist yet."""
        return self._read(land=True)

    def peek(self) -> tuple[Run, ...]:
        """Return the runs to judge, as stored, without landing."""
        return self._read(land=False)

    def _read(self, *, land: bool) -> tuple[Run, ...]:
        store = self.open_store()
        if store is None:
            return ()
        try:
            if land:
                land_release(store, self.release)
            return choose_runs(store.data.runs(self.release), self.runs)
        except UnknownName as error:
            if error.kind not in {"release", "run"}:
                raise
            return ()

    def series_open(self, runs: Sequence[Run]) -> bool:
        """Is the process alive that started these runs, and will it start more?"""
        store = self.open_store()
        return store is not None and is_series_open(store, runs)

    def judge(self) -> Verdict:
        """Judge without storing the verdict. Raises UnknownName."""
        store = self.open_store()
        if store is None:
            return self.judge_nothing()
        now = datetime.now(UTC)
        return self.judge_with(
            lambda: judge_release(store, self.release, self.policy, runs=self.runs, judged_at=now, save=False)
        )

    def judge_nothing(self) -> Verdict:
        """Return INCONCLUSIVE without evidence."""
        evidence = Evidence((), (), (), Window(None, None), final=False)
        load = f"load it: `evaluator load {self.release} …`"
        judgement = Judgement(VerdictWord.INCONCLUSIVE, (), next_action=load, comparisons=())
        nothing = f"sha256:{hashlib.sha256().hexdigest()}"
        return to_verdict(Release(self.release), self.policy, evidence, judgement, nothing, datetime.now(UTC))


def _stamp(path: Path) -> tuple[int, ...]:
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
    report: Say = say_nothing
    """Is called with the status each second."""
    stop: Callable[[], bool] = lambda: False
    """Returns whether to stop waiting."""
    status: str = "starting"
    judged: int = 0
    """Number of judgements."""
    _verdict: Verdict | None = None
    _files: Signature = ()
    """Signature of the files at the last landing."""
    _key: tuple[object, ...] = ()
    """Whether a series was open at the last judgement, and its runs with their states."""
    _rows: int = 0
    _word: VerdictWord | None = None
    _judged_at: float = -math.inf
    _landed_at: float = -math.inf
    _due: float = -math.inf
    """When the next look is."""
    _trouble: StoreBusy | None = None

    def run(self) -> Verdict | None:
        """Wait; returns the final verdict, `None` if `stop` ended it. Raises StoreBusy if it was busy at the end."""
        deadline = math.inf if self.wait_s is None else self.clock() + self.wait_s
        while not self.stop():
            try:
                verdict, self._trouble = self._look(), None
            except StoreBusy as error:
                verdict, self._trouble, self._files = None, error, ()
                self.status = f"the store is busy, trying again: {error.message}"
            if verdict is not None:
                return verdict
            remaining_s = deadline - self.clock()
            if remaining_s <= 0:
                return self._give_up()
            self._say(remaining_s)
            self.sleep(min(POLL_S, remaining_s))
        return None

    def _look(self) -> Verdict | None:
        """Land and judge if anything has changed; returns a final verdict, or `None`."""
        if not self._is_stirring():
            return None
        self._landed_at = self.clock()
        runs = self.subject.land()
        series, rows = self.subject.series_open(runs), sum(run.landed for run in runs)
        verdict = None
        if not rows and (not runs or series or is_live(runs)):
            self.status = "waiting for the first requests" if runs else "waiting for the release"
        elif (series, *_key(runs)) != self._key or (rows != self._rows and self.clock() >= self._due):
            verdict = self._judge(runs, rows, series=series)
        # Ignore what this process itself has written.
        self._files = self.subject.signature()
        return verdict

    def _is_stirring(self) -> bool:
        """Have relevant files changed? Until a look is due, only a run that began or ended is relevant."""
        if self.clock() >= self._landed_at + PULSE_S:
            return True
        files, before = self.subject.signature(), self._files
        if self._verdict is None or self.clock() >= self._due:
            return files != before
        if files[:STORE_FILES] == before[:STORE_FILES]:
            return False
        self._files = files
        return _key(self.subject.peek()) != self._key[1:]

    def _judge(self, runs: Sequence[Run], rows: int, *, series: bool) -> Verdict | None:
        """Judge runs with `rows` requests; returns a final verdict or `None`. `series`: replicates will follow."""
        verdict = self.subject.judge()
        self.judged += 1
        self._verdict, self._judged_at = verdict, self.clock()
        self._key, self._rows = (series, *_key(runs)), rows
        progress = verdict.evidence.progress
        pause = progress.next_s - progress.covered_s + SETTLE_S if progress else SOONEST_S
        self._due = self._judged_at + min(max(pause, SOONEST_S), LATEST_S)
        self.status = _describe(verdict, series=series)
        running, undecided = is_live(runs), verdict.word is VerdictWord.INCONCLUSIVE
        imported = any(run.kind is EvidenceKind.OUTCOMES for run in runs)
        asks_outcomes = bool(find_rules(self.policy.rulebook, EvidenceKind.OUTCOMES)) and not imported
        if series or (undecided and (running or asks_outcomes)):
            return None
        if running and self._word is not verdict.word:
            # The last data of a look may not have landed yet: a new decision is judged again.
            self._word, self._due, self._rows = verdict.word, self.clock() + SETTLE_S, -1
            return None
        if _key(self.subject.peek()) != _key(runs):
            # A run that began or ended during the judgement has to be judged, too.
            self._key = ()
            return None
        return verdict

    def _give_up(self) -> Verdict:
        """Judge at the deadline; an INCONCLUSIVE verdict names what is missing."""
        if self._trouble is not None:
            raise self._trouble
        runs = self.subject.land()
        verdict = self.subject.judge() if runs else self.subject.judge_nothing()
        if not runs:
            missing = "there is no such release in the store"
        elif self.subject.series_open(runs):
            verdict, missing = replace(verdict, word=VerdictWord.INCONCLUSIVE), "replicates are still to come"
        elif verdict.word is not VerdictWord.INCONCLUSIVE:
            return verdict
        else:
            missing = describe_missing(verdict) if any(run.landed for run in runs) else "it has no data yet"
        text = f"the deadline passed after {format_duration(self.wait_s or 0.0)}: {missing}"
        return replace(verdict, reasons=(Reason("deadline", text), *verdict.reasons), time_to_decision_s=None)

    def _say(self, remaining_s: float) -> None:
        """Report how much of the planned time is judged while the run goes on, and what the watch waits for."""
        judged = ""
        evidence = self._verdict.evidence if self._verdict else None
        if evidence and evidence.progress and not evidence.final:
            elapsed_s = evidence.progress.covered_s + self.clock() - self._judged_at
            planned = format_duration(round(evidence.progress.planned_s))
            judged = f"{format_duration(round(elapsed_s))} of {planned}: "
        deadline = f"; deadline in {format_duration(round(remaining_s))}" if math.isfinite(remaining_s) else ""
        self.report(f"{judged}{self.status}{deadline}")


def _key(runs: Sequence[Run]) -> tuple[object, ...]:
    return tuple((run.id, run.state) for run in runs)


def _describe(verdict: Verdict, *, series: bool) -> str:
    if series:
        return "replicates are still to come"
    if verdict.word is VerdictWord.INCONCLUSIVE:
        return describe_missing(verdict)
    after = verdict.time_to_decision_s
    return VERDICT_WORDS[verdict.word] + (f", decided after {format_duration(after)} of load" if after else "")
