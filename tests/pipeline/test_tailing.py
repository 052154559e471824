"""A log is followed into runs: windows of steps, the watermark, clocks, restarts, a full disk."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from router_lines import ARMS

from evaluator.errors import EvaluatorError, InputError, SourceError, UsageError
from evaluator.pipeline import landing, tail_reading, tailing
from evaluator.pipeline.judging import judge_release
from evaluator.pipeline.landing import land_release, with_present_facts
from evaluator.pipeline.tail_windows import AFTER, BEFORE, begin_steps, choose_windows, end_windows, go_on_after_step
from evaluator.pipeline.tailing import StopRequest, TailPlan, tail_release
from evaluator.policy import load_policy
from evaluator.records import LeftOut, LeftOutKind, LogOptions, Release, RunState
from evaluator.sources.access_logs.options import LogSettings
from evaluator.sources.access_logs.rollout_steps import RolloutStep, begin_step, read_steps
from evaluator.sources.access_logs.tail_state import TailedRun, TailJournal, TailState, list_followed, replace_file
from evaluator.store import Store

START = 1_800_000_000.0


def line(at, server="b1", ms=10, status=200):
    """A line of HAProxy for a request that began at `at` (epoch s)."""
    began = datetime.fromtimestamp(at, UTC)
    accepted = f"{began:%d/%b/%Y:%H:%M:%S}.{began.microsecond // 1000:03d}"
    return (
        f"127.0.0.1:5 [{accepted}] front shop/{server} 0/0/0/{ms}/{ms} {status} 120 - - ---- 1/1/0/0/0 0/0 "
        '"GET /item/7 HTTP/1.1"'
    )


class Log:
    """A log, the plan to follow it, and threads that follow it."""

    def __init__(self, folder: Path, **changed):
        self.path = folder / "haproxy.log"
        self.path.touch()
        self.store_path = folder / "evaluator.duckdb"
        self.plan = TailPlan(
            store_path=self.store_path,
            release=Release("shop@2"),
            paths=(self.path,),
            settings=LogSettings(LogOptions(arms=ARMS)),
            lateness_s=0.2,
            **changed,
        )
        self.folder = folder / "evaluator.data" / "shop@2"
        self.said = []
        self.is_over = False
        """Has following ended, longer ago than a restart would take?"""

    def write(self, *lines):
        with self.path.open("a") as file:
            file.writelines(f"{text}\n" for text in lines)

    def follow(self, stop, **changed):
        self.is_over = False
        try:
            return tail_release(replace(self.plan, **changed), stop, say=self.said.append)
        finally:
            self.is_over = True

    def read_once(self, signal="SIGTERM", **changed):
        """Follow until nothing is left to read, and stop."""
        stop = StopRequest()
        stop.add(signal)
        return self.follow(stop, **changed)

    def land(self):
        store = Store.open(self.store_path)
        with pytest.MonkeyPatch.context() as patched:
            if self.is_over:
                patched.setattr(landing, "QUIET_S", 0.0)
            land_release(store, "shop@2")
        return store.data.runs("shop@2")

    def count_rows(self):
        rows = Store.open(self.store_path).data.query("SELECT arm, count(*) AS n FROM requests GROUP BY arm")
        return {row["arm"]: row["n"] for row in rows.to_pylist()}


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """Follow with short waits."""
    monkeypatch.setattr(tailing, "POLL_S", 0.02)
    monkeypatch.setattr(tailing, "COMMIT_S", 0.05)
    monkeypatch.setattr(tailing, "SILENT_S", 0.3)


# ------------------------------------------------------------------ windows


def make_state(**changed):
    return TailState("g", START, runs=(TailedRun("g", START),), **changed)


def test_a_step_ends_the_window_before_it():
    state = begin_steps(make_state(), [RolloutStep("5%", START + 10, START + 20), RolloutStep("25%", START + 15)])
    windows = [(run.run, run.started, run.ends, run.step) for run in state.runs]
    assert windows == [
        ("g", START, START + 10, ""), ("g-2", START + 10, START + 15, "5%"), ("g-3", START + 15, None, "25%")
    ]  # fmt: skip
    assert begin_steps(state, [RolloutStep("5%", START + 10, START + 20), RolloutStep("25%", START + 15)]) == state


def test_after_the_planned_end_of_a_step_a_window_without_a_step_has_its_shares():
    shares = {"canary": 0.05}
    state = begin_steps(make_state(), [RolloutStep("5%", START + 10, START + 20, shares)])
    assert go_on_after_step(state, START + 19) is state
    state = go_on_after_step(state, START + 20)
    assert (state.runs[-1].step, state.runs[-1].started, state.runs[-1].ends) == ("", START + 20, None)
    assert state.runs[-1].shares == shares
    late = begin_steps(make_state(), [RolloutStep("5%", START + 10, START + 20), RolloutStep("25%", START + 40)])
    assert [(run.step, run.ends) for run in late.runs] == [
        ("", START + 10), ("5%", START + 20), ("", START + 40), ("25%", None)
    ]  # fmt: skip


def test_steps_of_earlier_groups_are_ignored():
    state = make_state()
    assert begin_steps(state, [RolloutStep("old", START - 5)]) is state or len(state.runs) == 1


def test_following_ends_all_windows():
    state = begin_steps(make_state(ends=START + 30), [RolloutStep("5%", START + 10, START + 90)])
    assert state.runs[-1].ends == START + 30
    assert go_on_after_step(state, START + 31) is state
    assert [run.ends for run in end_windows(state, START + 15).runs] == [START + 10, START + 15]
    assert [run.run for run in end_windows(state, START + 5).runs] == ["g"]


def test_a_request_goes_into_the_window_in_which_it_began():
    state = begin_steps(make_state(ends=START + 30), [RolloutStep("5%", START + 10)])
    starts = tail_reading.np.array([START - 1, START, START + 9.9, START + 10, START + 30, float("nan")])
    assert choose_windows(state, starts, 1).tolist() == [BEFORE, 0, 0, 1, AFTER, 1]
    assert choose_windows(replace(state, from_start=True), starts, 1)[0] == 0


# ------------------------------------------------------------------ steps


def test_a_step_begins_at_a_full_second_and_is_kept(tmp_path):
    step = begin_step(tmp_path, "cart", "5%", shares={"canary": 0.05}, seconds=60, now=START + 0.3)
    assert (step.started, step.ends) == (START + 2, START + 62)
    later = begin_step(tmp_path, "cart", "25%", shares={}, seconds=None, now=START + 30)
    assert read_steps(tmp_path, "cart") == (step, later)
    assert read_steps(tmp_path, "") == ()
    with pytest.raises(UsageError, match="the step needs a name"):
        begin_step(tmp_path, "cart", " ", shares={}, seconds=None, now=START)
    (tmp_path / "steps-cart.json").write_text("[{")
    with pytest.raises(SourceError, match="cannot be read"):
        read_steps(tmp_path, "cart")


# ------------------------------------------------------------------ following


def test_requests_are_in_the_store_when_following_has_come_to_its_end(log, quick):
    now = time.time()
    log.write(*(line(now - 1 + number / 100, server) for number in range(50) for server in ("b1", "c1")))
    end = log.follow(StopRequest(), from_start=True, seconds=0.3, lateness_s=0.0)
    assert end.is_complete
    assert Store.open(log.store_path).data.runs("shop@2")[0].landed == 100


def test_requests_land_and_are_judged_as_those_of_a_load(log, monkeypatch):
    monkeypatch.setattr(landing, "QUIET_S", 0.0)
    now = time.time()
    log.write(*(line(now - 1 + number / 100, server) for number in range(50) for server in ("b1", "b2", "c1")))
    end = log.read_once(from_start=True)
    assert not end.is_complete
    [run] = log.land()
    assert (run.source, run.state, run.landed) == ("access_log", RunState.COMPLETE, 150)
    assert run.facts.read == {"baseline": 100, "canary": 50}
    assert run.facts.router.answers == 150
    assert run.facts.ended_early == "evaluator tail was ended by SIGTERM"
    assert log.count_rows() == {"baseline": 100, "canary": 50}
    verdict = judge_release(Store.open(log.store_path), "shop@2", load_policy(), judged_at=datetime.now(UTC))
    assert verdict.word.value == "inconclusive"
    assert "the run was ended early on purpose: evaluator tail was ended by SIGTERM" in str(verdict.evidence)


def test_another_start_goes_on_where_the_last_one_ended(log):
    log.write(line(time.time()))
    log.read_once(from_start=True)
    log.write(line(time.time(), "c1"), line(time.time(), "c1"))
    log.read_once()
    log.read_once()
    log.land()
    assert log.count_rows() == {"baseline": 1, "canary": 2}
    assert any("going on with run" in text for text in log.said)
    log.write(line(time.time()))
    log.read_once(fresh=True)
    log.write(line(time.time()))
    log.read_once()
    runs = log.land()
    assert [run.landed for run in runs] == [3, 1]
    assert runs[1].group != runs[0].group


def test_rows_of_a_state_that_was_not_written_are_read_again(log, monkeypatch):
    log.write(line(time.time()))
    log.read_once(from_start=True)
    log.write(line(time.time(), "c1"))
    with monkeypatch.context() as patched:
        patched.setattr("evaluator.sources.access_logs.tail_state.replace_file", full_after(2))
        with pytest.raises(SourceError, match="could not be written: No space left on device") as caught:
            log.read_once()
    assert "start the same command again" in caught.value.hint
    assert list(log.folder.glob("*/*.staged"))
    with TailJournal(log.folder) as journal:
        assert journal.load().runs[0].rows == 1
    assert log.land()[0].landed == 1
    log.read_once()
    log.land()
    assert not list(log.folder.glob("*/*.staged"))
    assert log.count_rows() == {"baseline": 1, "canary": 1}


def full_after(files):
    """A disk that is full after it has taken so many files."""
    taken = []

    def write(path, text, **options):
        if len(taken) == files:
            raise OSError(28, "No space left on device", str(path))
        taken.append(path)
        replace_file(path, text, **options)

    return write


def test_rows_of_a_state_that_was_written_are_published(log, monkeypatch):
    log.write(line(time.time()))
    with monkeypatch.context() as patched:
        patched.setattr("evaluator.sources.access_logs.tail_state.publish_segment", lambda _: None)
        log.read_once(from_start=True)  # as if it was killed before the segments had their names
    assert log.land()[0].landed == 0
    log.read_once()
    assert log.land()[0].landed == 1


def test_a_killed_tail_is_incomplete_until_it_is_started_again(log, monkeypatch):
    log.write(line(time.time()))

    def die(tail, **_):
        tail._read_some()
        tail._commit()
        return tailing.TailEnd(tail.state, is_complete=False)

    monkeypatch.setattr(tailing._Tail, "_stop", die)
    log.read_once(from_start=True)
    log.is_over = False
    assert log.land()[0].state is RunState.RUNNING  # it may just be started again
    log.is_over = True
    [run] = log.land()
    assert run.state is RunState.INCOMPLETE
    assert run.facts.stopped_by == "evaluator tail was killed; started again, it goes on where it stopped"
    monkeypatch.undo()
    log.read_once()
    assert log.land()[0].state is RunState.COMPLETE


def test_only_one_process_follows_a_log(log, quick):
    stop = StopRequest()
    thread = threading.Thread(target=log.follow, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: list_followed(log.folder))
        assert list_followed(log.folder)[0].arms == ("baseline", "canary")
        with pytest.raises(UsageError, match="another `evaluator tail` follows"):
            log.read_once()
        log.is_over = False
        [run] = wait_until(log.land)
        assert run.state is RunState.RUNNING
        assert with_present_facts(Store.open(log.store_path), run).facts.router is not None
    finally:
        stop.add("SIGTERM")
        thread.join(20)
    assert list_followed(log.folder) == []


def wait_until(find):
    """Wait until something is found, and return it."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(EvaluatorError, IndexError, AssertionError):  # not there yet
            if found := find():
                return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_step_is_complete_while_the_log_is_followed_further(log, quick):
    stop = StopRequest()
    thread = threading.Thread(target=log.follow, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: list_followed(log.folder))
        step = begin_step(log.folder, "", "5%", shares={"canary": 0.05}, seconds=0.5, now=time.time())
        time.sleep(max(0, step.started - time.time()))
        log.write(line(step.started - 0.1), line(step.started), line(step.started + 0.1, "c1"))
        time.sleep(0.6)
        log.write(line(step.ends + 0.01, "c1", ms=0), line(step.ends - 0.001, "c1", ms=5))
        wait_until(lambda: log.land()[1].state is RunState.COMPLETE)
        log.write(line(step.ends - 0.002, "c1", ms=5))  # later than its window
        time.sleep(0.3)
        assert thread.is_alive()
    finally:
        stop.add("SIGTERM")
        thread.join(20)
    first, of_step, after = log.land()
    assert (first.landed, of_step.landed, after.landed) == (1, 3, 1)
    assert (of_step.step, of_step.shares, of_step.group) == ("5%", {"canary": 0.05}, first.group)
    assert of_step.ended == of_step.planned_end == datetime.fromtimestamp(step.ends, UTC)
    assert of_step.facts.router.late == 1
    assert after.shares == {"canary": 0.05}


def test_without_traffic_the_clock_closes_the_windows(log, quick):
    end = log.follow(StopRequest(), seconds=0.4)
    assert end.is_complete
    [run] = log.land()
    assert (run.state, run.landed) == (RunState.COMPLETE, 0)


def test_a_file_that_is_missing_closes_no_window(log, quick):
    log.path.unlink()
    stop = StopRequest()
    thread = threading.Thread(target=log.follow, args=(stop,), kwargs={"seconds": 0.1})
    thread.start()
    time.sleep(1.5)
    assert thread.is_alive()
    assert log.said == [f"{log.path}: there is no such file; waiting for it"]
    log.path.touch()
    thread.join(20)
    assert not thread.is_alive()


def test_the_end_does_not_wait_for_a_log_that_is_always_written(log, quick, monkeypatch):
    read, blocks = tailing.LogFollower.read_block, []

    def read_and_write(follower):
        blocks.append(read(follower))
        log.write(line(time.time()))
        return blocks[-1]

    monkeypatch.setattr(tailing.LogFollower, "read_block", read_and_write)
    log.write(line(time.time()))
    log.read_once(from_start=True)
    assert len(blocks) == 1
    assert log.land()[0].landed == 1


def test_ctrl_c_waits_for_requests_that_are_running(log, quick):
    end = log.read_once("SIGINT")
    assert end.is_complete
    [run] = log.land()
    assert (run.state, run.facts.ended_early) == (RunState.COMPLETE, "")
    assert any("waiting 0.2 s for requests that are running" in text for text in log.said)
    log.read_once()  # begins another group
    assert len({run.group for run in log.land()}) == 2


def test_requests_that_began_before_are_left_out(log, quick):
    stop = StopRequest()
    thread = threading.Thread(target=log.follow, args=(stop,))
    thread.start()
    wait_until(lambda: list_followed(log.folder))
    wait_until(log.land)
    log.write(line(time.time() - 60, "c1", ms=60_000, status=504), line(time.time()))
    wait_until(lambda: log.count_rows() or (log.land() and None))
    stop.add("SIGTERM")
    thread.join(20)
    [run] = log.land()
    assert log.count_rows() == {"baseline": 1}
    left_out = LeftOut("canary", LeftOutKind.OUTSIDE_PERIOD, 1, 1, "began before the log was followed")
    assert run.facts.left_out == (left_out,)
    assert run.facts.read == {"baseline": 1, "canary": 1}


# ------------------------------------------------------------------ clocks


def follow_lines(log, lines, **changed):
    """Follow, write lines, and stop when they were read."""
    stop = StopRequest()
    errors = []

    def run():
        try:
            log.follow(stop, **changed)
        except EvaluatorError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(log.land)
    log.write(*lines)
    time.sleep(0.4)
    stop.add("SIGTERM")
    thread.join(20)
    if errors:
        raise errors[0]
    return log.land()[0]


@pytest.mark.parametrize(
    ("offset_s", "message"),
    [(1830, "ended .* after their lines were written"), (7230, "in the future"), (-7200, "ended 2 h before")],
)
def test_a_clock_of_another_zone_is_refused(log, quick, offset_s, message):
    with pytest.raises(InputError, match=message) as caught:
        follow_lines(log, [line(time.time() + offset_s)])
    assert "--time-zone" in caught.value.hint
    assert log.count_rows() == {}
    [run] = log.land()
    assert run.state is RunState.INCOMPLETE
    assert run.facts.stopped_by == caught.value.message


def test_lines_whose_times_go_back_or_ahead_are_counted(log, quick):
    now = time.time()
    times = [now, now - 30, now - 100, now + 100, now + 1]
    log.write(line(now - 40))
    run = follow_lines(log, [line(at) for at in times], from_start=True)
    assert run.landed == 4
    assert run.facts.router.unread == {
        f"of {log.path} with times more than a minute before those of earlier lines": 1,
        f"of {log.path} with times more than a minute after now": 1,
    }
    assert not run.facts.router.holes


# ------------------------------------------------------------------ plans


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": LogSettings(LogOptions())}, "which requests belong to which arm is not known"),
        ({"shares": {"third": 0.5}}, "--share names the arm third"),
        ({"seconds": 0.0}, "more than 0"),
        ({"step": "a\nb"}, "cannot be seen"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(log, changed, message):
    with pytest.raises(UsageError, match=message):
        log.read_once(**changed)


def test_a_file_given_twice_is_refused(log):
    with pytest.raises(UsageError, match="is given twice"):
        log.read_once(paths=(log.path, log.path.parent / "." / log.path.name))


def test_lines_of_another_format_are_refused(log):
    log.write("this is no access log")
    with pytest.raises(InputError, match=r"haproxy\.log:1"):
        log.read_once(from_start=True)


@pytest.mark.parametrize(("shortest_s", "bucket_s"), [(None, 15), (30.0, 1), (600.0, 5)])
def test_the_buckets_fit_the_shortest_step(log, quick, shortest_s, bucket_s):
    log.write(line(time.time()))
    log.read_once(from_start=True, shortest_step_s=shortest_s)
    [run] = log.land()
    assert Store.open(log.store_path).data.read_cells([run.id]).bucket_s == bucket_s
