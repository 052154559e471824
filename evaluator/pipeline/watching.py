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
from typing import Protocol

from evaluator.errors import StoreBusy, UnknownName
from evaluator.metrics.outcome_measure import has_outcome_rules
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.judging import JUDGE, choose_runs, judge_release
from evaluator.pipeline.landing import land_release
from evaluator.policy import Policy
from evaluator.records import (
    Comparison,
    Evidence,
    EvidenceKind,
    MetricStatus,
    Reason,
    Release,
    Role,
    Run,
    RunState,
    Verdict,
    VerdictWord,
    Window,
)
from evaluator.reports import VERDICT_WORDS
from evaluator.segments import data_folder, run_folder
from evaluator.sources.load import is_parent_alive
from evaluator.store import Store
from evaluator.version import find_version
from evaluator.wording import format_duration

__all__ = ["StoredSubject", "Subject", "Watch", "is_series_open"]

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


class Subject(Protocol):
    """A release to wait for, or whatever a test puts in its place."""

    def signature(self) -> Signature:
        """What the files look like, those of the store first: another one whenever anything was recorded. Cheap."""

    def land(self) -> tuple[Run, ...]:
        """Land what is waiting and tell the runs to judge; none where there is no such release yet."""

    def peek(self) -> tuple[Run, ...]:
        """Tell the runs to judge, and land nothing."""

    def series_open(self, runs: Sequence[Run]) -> bool:
        """Are replicates of these runs still to come?"""

    def judge(self) -> Verdict:
        """Judge the runs as they are; nothing is kept."""

    def judge_nothing(self) -> Verdict:
        """Say what can be said of a release of which nothing is there."""


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
            return choose_runs(store.runs(self.release), self.runs)
        except UnknownName as error:
            if error.kind not in {"release", "run"}:
                raise
            return ()

    def is_known(self, store: Store) -> bool:
        """Is there such a release, so that a verdict can be kept with it?"""
        return any(summary.release.id == self.release for summary in store.releases())

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
        return Verdict(
            release=Release(self.release),
            word=VerdictWord.INCONCLUSIVE,
            reasons=(),
            next_action=f"load it: `evaluator load {self.release} …`",
            evidence=Evidence((), (), (), Window(None, None), final=False),
            judge=JUDGE,
            monitoring="fixed",
            alpha=self.policy.rulebook.alpha,
            mode=self.policy.rulebook.mode,
            policy=self.policy.effective,
            policy_hash=self.policy.hash,
            policy_path=self.policy.origin if self.policy.of_folder else "",
            data_hash=f"sha256:{hashlib.sha256().hexdigest()}",
            evaluator_version=find_version(),
            judged_at=datetime.now(UTC),
        )


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def is_series_open(store: Store, runs: Sequence[Run]) -> bool:
    """Tell whether replicates are still to come: fewer runs than planned, none broken off, and who runs them lives."""
    loads = [run for run in runs if run.source == "locust"]
    if not loads or any(run.state is RunState.INCOMPLETE or run.facts.ended_early for run in loads):
        return False
    last = loads[-1]
    wanted = int(last.fingerprint.get("replicates", 1))
    if sum(run.group == last.group for run in loads) >= wanted:
        return False
    return is_parent_alive(store.segment_folder(last))


@dataclass(slots=True)
class Watch:
    """Wait for one release. `clock` and `sleep` are monotonic seconds, injected so that tests need no real time."""

    subject: Subject
    policy: Policy
    clock: Callable[[], float]
    sleep: Callable[[float], object]
    wait_s: float | None = None
    """`None`: until it is decided."""
    tell: Say = say_nothing
    """Is told where things stand, each second."""
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
        began = self.clock()
        deadline = math.inf if self.wait_s is None else began + self.wait_s
        while not self.stop():
            verdict = self._look_unless_busy()
            if verdict is not None:
                return verdict
            left = deadline - self.clock()
            if left <= 0:
                return self._give_up()
            self._say(left)
            self.sleep(min(POLL_S, left))
        return None

    def _look_unless_busy(self) -> Verdict | None:
        try:
            verdict = self._look()
        except StoreBusy as error:
            self._trouble, self._files = error, ()
            self.status = f"the store is busy, trying again: {error.message}"
            return None
        self._trouble = None
        return verdict

    def _look(self) -> Verdict | None:
        """Land and judge where that may change anything; a verdict that is final, or `None`."""
        if not self._is_stirring():
            return None
        self._landed_at = self.clock()
        runs = self.subject.land()
        series = self.subject.series_open(runs)
        verdict = self._judge(runs, series=series) if self._is_new(runs, series=series) else None
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

    def _is_new(self, runs: Sequence[Run], *, series: bool) -> bool:
        """Is there anything that was not judged yet, or a look that is due?"""
        rows = sum(run.landed for run in runs)
        if not rows and (not runs or series or any(run.state is RunState.RUNNING for run in runs)):
            self.status = "waiting for the first requests" if runs else "waiting for the release"
            return False
        return (series, *_key(runs)) != self._key or (rows != self._rows and self.clock() >= self._due)

    def _judge(self, runs: Sequence[Run], *, series: bool) -> Verdict | None:
        verdict = self.subject.judge()
        self.judged += 1
        self._verdict, self._judged_at = verdict, self.clock()
        self._key, self._rows = (series, *_key(runs)), sum(run.landed for run in runs)
        self._due = self._judged_at + _pause(verdict)
        self.status = _describe(verdict, series=series)
        running = any(run.state is RunState.RUNNING for run in runs)
        undecided = verdict.word is VerdictWord.INCONCLUSIVE
        if series or (undecided and (running or self._wants_outcomes(runs))) or (running and self._doubts(verdict)):
            return None
        return verdict if self._is_same(runs) else None

    def _doubts(self, verdict: Verdict) -> bool:
        """Is this the first time that it is so? The last data of a look may still be on their way: judge once more."""
        first, self._word = self._word is not verdict.word, verdict.word
        if first:
            self._due, self._rows = self.clock() + SETTLE_S, -1
        return first

    def _is_same(self, runs: Sequence[Run]) -> bool:
        """Are the runs after judging those before it? One that began or ended meanwhile is to be judged too."""
        same = _key(self.subject.peek()) == _key(runs)
        if not same:
            self._key = ()
        return same

    def _wants_outcomes(self, runs: Sequence[Run]) -> bool:
        """Does the policy ask for outcomes, and nobody has imported any yet?"""
        return has_outcome_rules(self.policy.rulebook) and not any(run.kind is EvidenceKind.OUTCOMES for run in runs)

    def _give_up(self) -> Verdict:
        """The time is up: what is there decides, or is said to be missing."""
        if self._trouble is not None:
            raise self._trouble
        runs = self.subject.land()
        if not runs:
            return self._late(self.subject.judge_nothing(), "there is no such release in the store")
        verdict = self.subject.judge()
        if self.subject.series_open(runs):
            return self._late(replace(verdict, word=VerdictWord.INCONCLUSIVE), "replicates are still to come")
        if verdict.word is not VerdictWord.INCONCLUSIVE:
            return verdict
        missing = "it has no data yet" if not any(run.landed for run in runs) else describe_missing(verdict)
        return self._late(verdict, missing)

    def _late(self, verdict: Verdict, missing: str) -> Verdict:
        waited = format_duration(self.wait_s or 0.0)
        reason = Reason("deadline", f"the deadline passed after {waited}: {missing}")
        return replace(verdict, reasons=(reason, *verdict.reasons), time_to_decision_s=None)

    def _say(self, left_s: float) -> None:
        deadline = f"; deadline in {format_duration(round(left_s))}" if math.isfinite(left_s) else ""
        self.tell(f"{self._progress()}{self.status}{deadline}")

    def _progress(self) -> str:
        """How much of the planned time is judged by now, as long as the run goes on."""
        progress = self._verdict.evidence.progress if self._verdict else None
        if progress is None or not self._verdict or self._verdict.evidence.final:
            return ""
        elapsed = progress.covered_s + self.clock() - self._judged_at
        return f"{format_duration(round(elapsed))} of {format_duration(round(progress.planned_s))}: "


# ------------------------------------------------------------------ what is said


def _pause(verdict: Verdict) -> float:
    """Seconds until the next look is due, and its data have landed."""
    progress = verdict.evidence.progress
    if progress is None:
        return SOONEST_S
    return min(max(progress.next_s - progress.covered_s + SETTLE_S, SOONEST_S), LATEST_S)


def _key(runs: Sequence[Run]) -> tuple[object, ...]:
    return tuple((run.id, run.state) for run in runs)


def _describe(verdict: Verdict, *, series: bool) -> str:
    if series:
        return "replicates are still to come"
    if verdict.word is VerdictWord.INCONCLUSIVE:
        return describe_missing(verdict)
    after = verdict.time_to_decision_s
    return VERDICT_WORDS[verdict.word] + (f", decided after {format_duration(after)} of load" if after else "")


def describe_missing(verdict: Verdict) -> str:
    """Say what a verdict still waits for: the gate that needs longest and how much longer, or the first reason."""
    waiting = [c for c in verdict.evidence.comparisons if _is_open(c)]
    if not waiting:
        # That the run goes on is plain: say what else there is.
        texts = [reason.text for reason in verdict.reasons]
        return next(
            (text for text in texts if not text.startswith("complete: ")), *texts[:1] or ["nothing is shown yet"]
        )
    slowest = max(waiting, key=lambda c: c.needed_time or math.inf)
    name = slowest.rule.name if len(waiting) == 1 else f"{slowest.rule.name} and {len(waiting) - 1} more"
    return f"open: {name}{_how_much_longer(slowest, verdict.evidence.window.seconds)}"


def _is_open(comparison: Comparison) -> bool:
    undecided = comparison.status in {MetricStatus.INCONCLUSIVE, MetricStatus.NO_DATA}
    return undecided and comparison.rule.role is not Role.WATCH and not comparison.scan


def _how_much_longer(comparison: Comparison, seconds: float) -> str:
    """From the multiple of the present time after which it would be shown to be within its margin."""
    if comparison.no_data:
        return f" ({comparison.no_data})"
    multiple = comparison.needed_time
    if multiple is None or comparison.rule.outcome:
        return ""
    more_s = (multiple - 1) * seconds
    if not math.isfinite(more_s):
        return " (more time alone will not show it to be within its margin)"
    return f" (about {format_duration(round(max(more_s, 1.0)))} more, if the change stays as it is)"
