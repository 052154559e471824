"""Wait for a verdict: judge again as data land, until it is decided or the time is up.

Judging often costs nothing statistically, the looks follow from data and policy (method B.4). It costs CPU, which the
load generator may need: so files are looked at each second, the store is opened when they changed, and the judge is
asked when a look is due or a run has ended.
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
"""How often files are looked at. Nothing is opened for it."""

PULSE_S = 10.0
"""How often what is waiting lands although no file changed: a load that was killed changes none."""

SETTLE_S = 3.0
"""A look counts data up to its moment, and the last of them land a second or two later."""

SOONEST_S, LATEST_S = 5.0, 20.0
"""The judge is asked at most, and where there is anything new at least, this often."""

STORE_FILES = 2
"""The first files of a signature: the store itself and its log."""

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
    """Where to judge: in a thread of low priority, for one."""

    def signature(self) -> Signature:
        """The store's own files, and the number and age of each run's."""
        files = [self.store_path, self.store_path.with_name(self.store_path.name + ".wal")]
        folder = run_folder(data_folder(self.store_path), self.release, "_").parent
        return tuple(_stamp(path) for path in [*files, *sorted(folder.glob("*"))])

    def land(self) -> tuple[Run, ...]:
        """Land what is waiting; no runs where the store, the release or the run asked for is not there yet."""
        return self._read(land=True)

    def peek(self) -> tuple[Run, ...]:
        """Tell the runs to judge as they are in the store."""
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
        """Does the process live that started these runs and is to start more?"""
        store = self.open_store()
        return store is not None and is_series_open(store, runs)

    def judge(self) -> Verdict:
        """Judge without keeping anything. Raises UnknownName."""
        store = self.open_store()
        if store is None:
            return self.judge_nothing()
        now = datetime.now(UTC)
        return self.judge_with(
            lambda: judge_release(store, self.release, self.policy, runs=self.runs, judged_at=now, save=False)
        )

    def judge_nothing(self) -> Verdict:
        """INCONCLUSIVE, with no evidence at all."""
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
    """Is called with where things stand, each second."""
    stop: Callable[[], bool] = lambda: False
    """Tells that nobody waits any longer."""
    status: str = "starting"
    judged: int = 0
    """How often the judge was asked."""
    _verdict: Verdict | None = None
    _files: Signature = ()
    """What the files looked like when they were last landed."""
    _key: tuple[object, ...] = ()
    """Whether a series went on, and which runs were judged in which state."""
    _rows: int = 0
    _word: VerdictWord | None = None
    _judged_at: float = -math.inf
    _landed_at: float = -math.inf
    _due: float = -math.inf
    """When the next look is."""
    _trouble: StoreBusy | None = None

    def run(self) -> Verdict | None:
        """Wait; returns the final verdict, `None` where `stop` ended it. Raises StoreBusy where it was at the end."""
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
        """Land and judge where that may change anything; a verdict that is final, or `None`."""
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
        # What this process itself wrote is no news.
        self._files = self.subject.signature()
        return verdict

    def _is_stirring(self) -> bool:
        """Did files change that matter now? Until a look is due, only a run that began or ended does."""
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
        """Judge runs with so many rows; a verdict that is final, or `None`. `series`: replicates are still to come."""
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
            # The last data of a look may still be on their way: what is so for the first time is judged once more.
            self._word, self._due, self._rows = verdict.word, self.clock() + SETTLE_S, -1
            return None
        if _key(self.subject.peek()) != _key(runs):
            # A run that began or ended meanwhile is to be judged, too.
            self._key = ()
            return None
        return verdict

    def _give_up(self) -> Verdict:
        """The time is up: what is there decides, or is said to be missing."""
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
        """Say how much of the planned time is judged by now, as long as the run goes on, and what is waited for."""
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
