"""Waiting for a verdict, with a clock that needs no real time: when data are judged, and what ends the wait."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evaluator.errors import StoreBusy
from evaluator.judges.progress import describe_missing
from evaluator.metrics.latency import LatencyQuantile
from evaluator.pipeline.landing import land_release, with_present_facts
from evaluator.pipeline.runs import is_series_open, is_stored
from evaluator.pipeline.stopping import StopRule
from evaluator.pipeline.watching import LATEST_S, PULSE_S, SETTLE_S, StoredSubject, Watch
from evaluator.policy import load_policy
from evaluator.records import (
    ArmValue,
    Comparison,
    Evidence,
    Progress,
    Reason,
    Release,
    Rule,
    Run,
    RunFacts,
    RunState,
    Verdict,
    VerdictWord,
    Window,
)
from evaluator.sources.recording import Recording, WorkerFacts
from evaluator.store import Store

POLICY = load_policy(None)
RUNNING = Run("r1", "cart@2", "r1", "locust", landed=100)
COMPLETE = replace(RUNNING, state=RunState.COMPLETE)
GO, NO_GO, OPEN = VerdictWord.GO, VerdictWord.NO_GO, VerdictWord.INCONCLUSIVE


def verdict(word: VerdictWord = OPEN, *, covered: float = 0.0, next_s: float = 60.0, p: float | None = None) -> Verdict:
    rows = (
        Comparison(
            Rule("latency_p95", LatencyQuantile(quantile=0.95)),
            "canary", "ms", ArmValue(100.0, 9), ArmValue(110.0, 9), "m",
            needed_time=3.0, p_value_adjusted=p,
        ),
    )  # fmt: skip
    evidence = Evidence(
        rows, (), (), Window(None, None, covered), final=False, progress=Progress(covered, 600.0, next_s)
    )
    reasons = (Reason("regression", "p95 rose"),)
    return Verdict(Release("cart@2"), word, reasons, "", evidence, "native", "group_sequential", 0.05)


@dataclass
class Time:
    """A clock that advances only in `sleep`."""

    now: float = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Story:
    """A release whose state changes at given times."""

    time: Time
    runs: dict[float, tuple[Run, ...]]
    words: dict[float, VerdictWord] = field(default_factory=dict)
    series: dict[float, bool] = field(default_factory=dict)
    busy: tuple[float, float] = (-1.0, -1.0)
    next_s: float = 60.0
    judged_at: list[float] = field(default_factory=list)
    landings: list[float] = field(default_factory=list)
    begun_s: float = 0.0

    def _now(self, by_time, default):
        return next((value for at, value in sorted(by_time.items(), reverse=True) if at <= self.time.now), default)

    def signature(self):
        runs = self.peek()
        return (len(runs), *(run.state is RunState.RUNNING for run in runs)), (), (int(self.time.now),)

    def peek(self):
        return self._now(self.runs, ())

    def land(self):
        if self.busy[0] <= self.time.now < self.busy[1]:
            raise StoreBusy("the store is kept open by process 7 (duckdb)")
        self.landings.append(self.time.now)
        # Each second brings rows.
        return tuple(replace(run, landed=run.landed and run.landed + int(self.time.now)) for run in self.peek())

    def series_open(self, runs):
        return self._now(self.series, default=False)

    def judge(self):
        self.judged_at.append(self.time.now)
        return verdict(self._now(self.words, OPEN), covered=self.time.now - self.begun_s, next_s=self.next_s)

    def judge_nothing(self):
        return verdict()


def wait(story: Story, wait_s: float | None = 3600.0, **options):
    watch = Watch(story, POLICY, story.time.clock, story.time.sleep, wait_s, **options)
    return watch.run(), watch


def tell(runs, **options) -> Story:
    return Story(Time(), runs, **options)


def test_no_go_is_given_when_it_is_shown_twice():
    story = tell({0: (RUNNING,)}, words={120: NO_GO})
    final, _ = wait(story)
    assert final.word is NO_GO
    assert 120 + SETTLE_S <= story.time.now <= 120 + LATEST_S + SETTLE_S + 2


def test_a_decision_on_incomplete_data_is_not_final():
    story = tell({0: (RUNNING,), 300: (COMPLETE,)}, words={20: NO_GO, 22: OPEN, 300: GO})
    final, _ = wait(story)
    assert final.word is GO
    assert story.time.now >= 300


def test_a_run_that_ends_is_judged_at_once_whatever_the_verdict():
    story = tell({0: (RUNNING,), 100: (COMPLETE,)}, next_s=600.0)
    final, _ = wait(story)
    assert final.word is OPEN
    assert final.reasons[0].code == "regression"
    assert story.time.now <= 102


def test_a_killed_load_ends_the_wait():
    killed = replace(RUNNING, state=RunState.INCOMPLETE, facts=RunFacts(stopped_by="the load was killed"))
    story = tell({0: (RUNNING,), 50: (killed,)})
    assert wait(story)[0].word is OPEN
    assert story.time.now <= 50 + PULSE_S


def test_a_load_that_ended_without_a_request_is_not_waited_for():
    story = tell({0: (replace(RUNNING, landed=0),), 30: (replace(COMPLETE, landed=0),)})
    assert wait(story, None)[0].word is OPEN
    assert story.time.now <= 30 + PULSE_S


def test_a_release_that_does_not_exist_yet_is_waited_for():
    story = tell({200: (replace(RUNNING, landed=0),), 210: (RUNNING,), 300: (COMPLETE,)}, words={300: GO})
    messages: list[str] = []
    final, _ = wait(story, report=messages.append)
    assert final.word is GO
    assert messages[0] == "waiting for the release; deadline in 60 min"
    assert any("waiting for the first requests" in line for line in messages)
    assert story.judged_at[0] >= 210


def test_data_are_judged_when_a_look_is_due_and_not_more_often():
    story = tell({0: (RUNNING,)}, next_s=600.0)
    wait(story, 300.0)
    assert 300 / LATEST_S <= len(story.judged_at) <= 300 / LATEST_S + 2
    assert len(story.landings) <= 300 / PULSE_S + len(story.judged_at) + 3


def test_progress_shows_time_and_the_gate_that_is_open():
    story = tell({0: (RUNNING,)})
    messages: list[str] = []
    wait(story, 65.0, report=messages.append)
    assert messages[-1].startswith("64 s of 10 min: open: latency_p95 (about ")
    assert "more, if the change stays as it is); deadline in 1 s" in messages[-1]


def test_the_deadline_makes_it_inconclusive_and_says_what_is_missing():
    final, _ = wait(tell({0: (RUNNING,)}), 90.0)
    assert final.word is OPEN
    assert final.reasons[0].code == "deadline"
    assert final.reasons[0].text.startswith("the deadline passed after 90 s: open: latency_p95")
    assert final.reasons[1].text == "p95 rose"
    assert wait(tell({}), 5.0)[0].reasons[0].text.endswith("there is no such release in the store")
    no_data = tell({0: (replace(RUNNING, landed=0),)})
    assert wait(no_data, 5.0)[0].reasons[0].text.endswith("it has no data yet")


def test_replicates_that_are_still_to_come_are_waited_for_and_missed_at_the_deadline():
    story = tell({0: (COMPLETE,)}, words={0: GO}, series={0: True, 50: False})
    assert wait(story)[0].word is GO
    assert story.time.now >= 50
    late, _ = wait(tell({0: (COMPLETE,)}, words={0: GO}, series={0: True}), 20.0)
    assert late.word is OPEN
    assert late.reasons[0].text.endswith("replicates are still to come")


def test_a_run_that_begins_while_the_last_is_judged_is_judged_too():
    story = tell({0: (COMPLETE,)})
    second = replace(RUNNING, id="r2", group="r2")
    judge = story.judge

    def judge_and_begin():
        story.runs = {0: (second,), 40: (replace(second, state=RunState.COMPLETE),)}
        story.words = {40: GO}
        story.judge = judge
        return judge()

    story.judge = judge_and_begin
    assert wait(story)[0].word is GO


def test_a_busy_store_is_tried_again_and_an_error_at_the_deadline():
    story = tell({0: (COMPLETE,)}, words={0: GO}, busy=(0, 20))
    messages: list[str] = []
    assert wait(story, report=messages.append)[0].word is GO
    assert messages[0].startswith("the store is busy, trying again: the store is kept open by process 7")
    with pytest.raises(StoreBusy):
        wait(tell({}, busy=(0, 99)), 10.0)


def test_a_stopped_watch_gives_no_verdict():
    story = tell({0: (RUNNING,)})
    final, watch = wait(story, None, stop=lambda: story.time.now > 30)
    assert final is None
    assert watch.judgements >= 1


def test_outcomes_that_the_policy_asks_for_are_waited_for(tmp_path):
    path = tmp_path / "evaluator.yaml"
    path.write_text(
        "metrics:\n  - {name: bought, type: outcome_proportion, outcome: bought, role: gate, margin: 1pp}\n"
    )
    imported = replace(COMPLETE, id="o1", group="o1", source="outcomes")
    story = tell({0: (COMPLETE,), 70: (COMPLETE, imported)}, words={70: GO})
    watch = Watch(story, load_policy(path), story.time.clock, story.time.sleep)
    final = watch.run()
    assert final is not None
    assert final.word is GO


def test_what_is_missing_names_the_slowest_gate():
    open_verdict = verdict(covered=100.0)
    assert describe_missing(open_verdict) == "open: latency_p95 (about 3.3 min more, if the change stays as it is)"
    (row,) = open_verdict.evidence.comparisons
    forever = replace(row, rule=Rule("p99", LatencyQuantile(quantile=0.99)), needed_time=float("inf"))
    both = replace(open_verdict, evidence=replace(open_verdict.evidence, comparisons=(row, forever)))
    assert describe_missing(both).startswith("open: p99 and 1 more (more time alone will not")


# ------------------------------------------------------------------ a series, and its first run


def test_a_series_may_stop_at_its_first_run_only_where_that_is_clear_enough():
    alone, series = StopRule(POLICY), StopRule(POLICY, replicates=4)
    assert (alone.level, series.level) == (0.05, pytest.approx(0.05 / 8))
    slow = verdict(NO_GO, covered=60.0, p=0.02)
    assert alone.why_stop(slow) == "NO-GO was shown after 60 s: p95 rose"
    assert series.why_stop(slow) == ""
    assert series.why_stop(verdict(NO_GO, covered=60.0, p=0.001)) != ""
    assert alone.why_stop(verdict(OPEN, p=0.001)) == ""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


def register(store: Store, **values) -> Run:
    now = datetime.now(UTC)
    run = Run("r1", "cart@2", "r1", "locust", started=now, planned_end=now + timedelta(seconds=60), **values)
    store.data.register_run(Release("cart@2"), run)
    return run


def test_a_series_is_open_as_long_as_the_process_lives_that_runs_it(store):
    run = register(store, fingerprint={"replicates": 3}, state=RunState.COMPLETE)
    folder = store.data.segment_folder(run)
    folder.mkdir(parents=True)
    assert not is_series_open(store, [run])
    recording = Recording(run.id, run.release, folder, parent_pid=os.getpid(), parent_host=platform.node())
    recording.write(folder / "recording.json")
    assert is_series_open(store, [run])
    assert not is_series_open(store, [run, replace(run, id="r2"), replace(run, id="r3")])
    assert not is_series_open(store, [replace(run, state=RunState.INCOMPLETE)])
    replace(recording, parent_pid=2**22 + 1).write(folder / "recording.json")
    assert not is_series_open(store, [run])
    replace(recording, parent_pid=2**22 + 1, parent_host="elsewhere").write(folder / "recording.json")
    assert is_series_open(store, [run])


def test_a_run_that_was_just_registered_counts_as_alive(store):
    register(store)
    land_release(store, "cart@2")
    assert store.data.runs("cart@2")[0].state is RunState.RUNNING


def test_a_store_that_is_not_there_yet_has_no_runs(tmp_path):
    subject = StoredSubject(lambda: None, tmp_path / "evaluator.duckdb", "cart@2", POLICY)
    before = subject.signature()
    assert subject.land() == ()
    assert subject.judge().word is OPEN
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert subject.signature() != before
    opened = replace(subject, open_store=lambda: store)
    assert opened.land() == ()
    assert not is_stored(store, "cart@2")
    register(store)
    assert [run.id for run in opened.land()] == ["r1"]
    assert is_stored(store, "cart@2")
    assert replace(opened, runs="another").land() == ()


def test_what_a_running_load_knows_of_itself_is_judged(store):
    run = register(store)
    folder = store.data.segment_folder(run)
    folder.mkdir(parents=True)
    assert with_present_facts(store, run).facts == replace(run.facts, workers_seen=0)
    start = datetime.now(UTC).timestamp()
    WorkerFacts("w", "local", started=start, counted=50, cpu_percent=99.0, users={"baseline": 5}).write(folder)
    now = with_present_facts(store, run)
    assert (now.facts.cpu_percent, now.facts.users, now.facts.counted) == (99.0, {"baseline": 5}, None)
    assert (now.facts.stopped_by, now.state) == ("", RunState.RUNNING)
    assert now.planned_end == datetime.fromtimestamp(start, UTC) + timedelta(seconds=60)
    ended = replace(run, state=RunState.COMPLETE)
    assert with_present_facts(store, ended) is ended
