"""A guarded rollout with a router that lies, hangs and fails, and with files that are damaged."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from metrics_servers import wait_for

from evaluator.errors import HookError
from evaluator.guard import routers
from evaluator.guard.places import GuardLock
from evaluator.guard.returning import close_without_guard, go_back_without_guard, has_state_file
from evaluator.guard.rollouts import GuardedRollout
from evaluator.guard.server import Guard
from evaluator.guard.setup import VERSION, GuardedService, GuardSetup, GuardStatus, read_setup, read_status, to_plain
from evaluator.guard.state_file import StateFile
from evaluator.hooks import Applied, HookOptions, MaybeSent, Router
from evaluator.records.rollouts import GuardLimits

LIMITS = GuardLimits(over_s=3, health_s=0.2)
HALF = {"baseline": 0.5, "canary": 0.5}


class Scripted(Router[HookOptions]):
    """A router whose shares are in a variable, and which does what its test says."""

    kind = "scripted"
    Options = HookOptions

    def __init__(self):
        super().__init__(HookOptions(), {})
        self.state = {"baseline": 1.0, "canary": 0.0}
        self.behaviour = "acts"
        self.released = threading.Event()
        self.is_setting = threading.Event()
        self.calls = 0

    def arms(self):
        return ("baseline", "canary")

    def _describe_router(self, words):
        return "a router"

    def _list_requested(self):
        return None

    def _test_router(self):
        return ["it answers"]

    def _read_state(self, words):
        if self.behaviour == "hangs":
            self.released.wait(30)
        if self.behaviour == "is gone":
            raise HookError("it cannot be reached")
        return dict(self.state)

    def _apply(self, state, words, *, back):
        self.calls += 1
        if self.behaviour == "sets late" and not back:
            self.is_setting.set()
            self.released.wait(30)
        if self.behaviour == "answers nothing":
            self.state = dict(state)
            raise MaybeSent("no answer")
        if self.behaviour != "lies":
            self.state = dict(state)
        return Applied()


@pytest.fixture
def scripted(monkeypatch):
    """Service → its router."""
    made = {"cart": Scripted(), "shop": Scripted()}
    monkeypatch.setattr(routers, "make_router", lambda kind, _options: made[kind])
    yield made
    for router in made.values():
        router.released.set()


def make_setup(*services, lease_s=60.0, rollout="r1", key=""):
    guarded = tuple(GuardedService(name, name, {}) for name in services)
    return GuardSetup(rollout, "cart@1.5.0", guarded, LIMITS, lease_s, key)


@pytest.fixture
def begin(tmp_path, scripted):
    """Begins a rollout of some services, with half of the traffic on the canary."""
    begun = []

    def start(*services, **options):
        rollout = GuardedRollout(make_setup(*services, **options), StateFile((tmp_path / "r1.guard",)), lambda _: None)
        rollout.begin()
        for name in services:
            rollout.set_shares(name, HALF, {})
        begun.append(rollout)
        return rollout

    yield start
    for rollout in begun:
        rollout.end()


def test_records_survive_the_socket():
    setup = make_setup("cart")
    assert read_setup(to_plain(setup)) == setup
    status = GuardStatus("r1", wanted={"cart": HALF})
    assert read_status(to_plain(status)) == status
    with pytest.raises(HookError, match="cannot read what it is to guard"):
        read_setup({"rollout": "r1"})
    with pytest.raises(HookError, match="answer cannot be read"):
        read_status({"readings": [{"colour": 1}], "notes": []})


def test_a_router_that_hangs_delays_no_other(begin, scripted):
    rollout = begin("cart", "shop")
    scripted["shop"].behaviour = "hangs"
    time.sleep(0.3)  # its shares are read now
    began = time.monotonic()
    threading.Thread(target=rollout.go_back, args=("why", "ann")).start()
    wait_for(lambda: scripted["cart"].state["canary"] == 0, "cart is back")
    assert time.monotonic() - began < 2
    status = rollout.make_status()
    assert (status.is_back, status.is_returned, status.is_exposed) == (True, False, True)
    scripted["shop"].behaviour = "acts"
    scripted["shop"].released.set()
    wait_for(rollout.is_returned, "shop is back, too")


def test_shares_that_are_set_while_it_goes_back_do_not_stay(begin, scripted, monkeypatch):
    monkeypatch.setattr(routers, "_BUSY_S", 0.3)
    rollout = begin("cart")
    router = scripted["cart"]
    router.behaviour = "sets late"
    setting = threading.Thread(target=rollout.set_shares, args=("cart", {"canary": 1}, {}))
    setting.start()
    assert router.is_setting.wait(5)
    rollout.go_back("why", "ann")
    assert router.state["canary"] == 0, "it does not wait for a call that hangs"
    assert not rollout.is_returned(), "that call may still set others"
    router.released.set()
    setting.join(5)
    wait_for(rollout.is_returned, "it is back for good")
    assert router.state["canary"] == 0


def test_one_that_acknowledges_and_does_nothing_is_an_error(begin, scripted):
    rollout = begin("cart")
    scripted["cart"].behaviour = "lies"
    with pytest.raises(HookError, match="reports others"):
        rollout.set_shares("cart", {"baseline": 0.2, "canary": 0.8}, {})
    assert rollout.make_status().wanted == {"cart": HALF}
    rollout.go_back("why", "ann")
    assert not rollout.is_returned()
    scripted["cart"].behaviour = "acts"
    wait_for(rollout.is_returned, "it acts again")


def test_what_may_have_been_set_stays_wanted(begin, scripted, tmp_path):
    rollout = begin("cart")
    scripted["cart"].behaviour = "answers nothing"
    with pytest.raises(MaybeSent):
        rollout.set_shares("cart", {"baseline": 0.2, "canary": 0.8}, {})
    stored = StateFile((tmp_path / "r1.guard",)).read()
    assert stored.state["wanted"]["cart"]["canary"] == 0.8


@pytest.mark.parametrize("shares", [{"canary": 0.7}, {"canary": 2}, {"other": 1}, {"canary": float("nan")}, {}])
def test_wrong_shares_are_refused(shares, begin, scripted):
    rollout = begin("cart")
    with pytest.raises(HookError):
        rollout.set_shares("cart", shares, {})
    with pytest.raises(HookError, match="no service books"):
        rollout.set_shares("books", HALF, {})
    assert scripted["cart"].state == HALF


def test_no_shift_without_a_written_file_but_a_way_back(begin, scripted, monkeypatch):
    rollout = begin("cart")
    calls = scripted["cart"].calls

    def fail(*_arguments, **_options):
        raise HookError("the disk is gone")

    monkeypatch.setattr(StateFile, "write", fail)
    with pytest.raises(HookError, match="disk is gone"):
        rollout.set_shares("cart", {"canary": 1}, {})
    assert scripted["cart"].calls == calls
    rollout.go_back("why", "ann")
    wait_for(rollout.is_returned, "it is back")
    assert "the disk is gone" in rollout.make_status().notes


def test_a_router_that_cannot_be_read_is_a_reason_after_a_while(begin, scripted):
    rollout = begin("cart")
    watch = rollout.services["cart"]
    scripted["cart"].behaviour = "is gone"
    assert watch.check_shares() == ""
    status = rollout.make_status()
    assert "cannot be read: it cannot be reached" in status.notes[-1]
    assert status.drift == "", "it is not known that it has other shares"
    watch._router_read_at -= 40
    assert "cannot be read for 40 s" in watch.check_shares()


def test_looks_that_fail_are_a_reason_after_a_while(begin, monkeypatch):
    rollout = begin("cart")
    watch = rollout.services["cart"]

    def fail():
        raise RuntimeError("something unexpected")

    monkeypatch.setattr(watch, "look", fail)
    wait_for(lambda: watch._looks_fail_since is not None, "a look")
    assert not rollout.is_back
    watch._looks_fail_since -= 40
    wait_for(lambda: rollout.is_back, "the next look")
    assert "nothing could be looked at for 30 s: RuntimeError: something unexpected" in rollout.why_back


def test_nothing_that_sees_is_said(begin):
    notes = begin("cart").make_status().notes
    assert "has no counters that the guard can read" in notes[0]
    assert "the guard sees no requests at all" in notes[1]


# ------------------------------------------------------------------ a guard that starts again


@pytest.fixture
def again(tmp_path, monkeypatch, begin, scripted):
    """Begins a rollout, stops it as a kill does, and loads a guard from its file, which a function may change."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    guards, said = [], []
    store = tmp_path / "evaluator.duckdb"
    folder = tmp_path / "evaluator.data" / ".rollouts"

    def start(change=lambda _path: None, **options):
        rollout = begin("cart", **options)
        rollout._ended.set()
        folder.mkdir(parents=True, mode=0o700)
        path = folder / "r1.guard"
        (tmp_path / "r1.guard").rename(path)
        change(path)
        guard = Guard(store, said.append)
        guards.append(guard)
        guard.load()
        return guard, said

    yield start
    for guard in guards:
        for rollout in guard.rollouts.values():
            rollout.end()


def test_it_goes_on(again, scripted):
    guard, said = again()
    assert said == ["r1: is guarded again"]
    assert not guard.rollouts["r1"].is_back
    assert guard.rollouts["r1"].make_status().wanted == {"cart": HALF}


def test_a_damaged_file_is_a_reason_to_go_back(again, scripted):
    def damage(path):
        content = bytearray(path.read_bytes())
        position = content.rindex(b'"is_back":false')
        content[position] ^= 1
        path.write_bytes(content)

    guard, _ = again(damage)
    wait_for(guard.rollouts["r1"].is_returned, "it goes back")
    assert "damaged" in guard.rollouts["r1"].why_back
    assert scripted["cart"].state["canary"] == 0


def test_a_file_of_another_version_is_a_reason_to_go_back(again, scripted):
    def write_version(path):
        file = StateFile((path,))
        state = dict(file.read().state)
        assert state["version"] == VERSION
        file.write({**state, "version": 99}, twice=True)

    guard, _ = again(write_version)
    wait_for(guard.rollouts["r1"].is_returned, "it goes back")


@pytest.mark.parametrize("content", [b"", b"\xff" * 131072])
def test_a_file_of_which_nothing_is_left_is_named(content, again):
    guard, said = again(lambda path: path.write_bytes(content))
    assert guard.rollouts == {}
    assert "r1: its file cannot be read" in said[0]


def test_a_setup_that_cannot_be_read_is_named(again):
    def damage(path):
        file = StateFile((path,))
        file.write({**file.read().state, "setup": {"release": "x"}}, twice=True)

    guard, said = again(damage)
    assert guard.rollouts == {}
    assert "r1: the guard cannot read what it is to guard" in said[0]


def test_the_lease_goes_on_over_a_restart(again, scripted):
    def forget(path):
        file = StateFile((path,))
        state = file.read().state
        file.write({**state, "seen_at": time.time() - 1000}, twice=True)

    guard, _ = again(forget, lease_s=60)
    rollout = guard.rollouts["r1"]
    assert 54 < time.monotonic() - rollout._seen_at < 58, "some seconds are left to a driver"


def test_a_clock_that_jumped_back_gives_the_whole_lease(again):
    def jump(path):
        file = StateFile((path,))
        file.write({**file.read().state, "seen_at": time.time() + 10_000}, twice=True)

    guard, _ = again(jump)
    assert time.monotonic() - guard.rollouts["r1"]._seen_at < 5


def test_another_rollout_of_a_service_is_refused_meanwhile(again):
    guard, _ = again()
    setup = make_setup("cart", rollout="r2")
    with pytest.raises(HookError, match="cart is guarded for the rollout r1"):
        guard.answer({"v": VERSION, "do": "open", "setup": to_plain(setup)})
    guard.answer({"v": VERSION, "do": "back", "rollout": "r1", "why": "enough", "by": "ann"})
    status = guard.answer({"v": VERSION, "do": "open", "setup": to_plain(setup)})
    assert json.dumps(status)
    assert list(guard.rollouts) == ["r2"]
    guard.answer({"v": VERSION, "do": "set_shares", "rollout": "r2", "service": "cart", "shares": HALF, "words": {}})
    with pytest.raises(HookError, match="went back to the baseline: enough"):
        guard.answer({"v": VERSION, "do": "open", "setup": to_plain(replace(setup, rollout="r1"))})


def ask(guard, verb, **question):
    """Ask the guard as its clients do."""
    return guard.answer({"v": VERSION, "do": verb, **question})


@pytest.fixture
def guard(tmp_path, monkeypatch, scripted):
    """Makes a guard of the store; another one stands for its next process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    guards = []

    def start():
        for earlier in guards:
            for rollout in earlier.rollouts.values():
                rollout.end()
        made = Guard(tmp_path / "evaluator.duckdb", lambda _: None)
        guards.append(made)
        made.load()
        return made

    yield start
    for each in guards:
        for rollout in each.rollouts.values():
            rollout.end()


def test_a_store_that_was_made_again_has_other_rollouts(guard, scripted, tmp_path):
    first, second = make_setup("cart", key="first"), make_setup("cart", key="second")
    made = guard()
    ask(made, "open", setup=to_plain(first))
    ask(made, "back", rollout=first.name, why="it was wrong", by="ann")
    ask(made, "close", rollout=first.name, promoted=False)
    shutil.rmtree(tmp_path / "evaluator.data")  # the copies are on another disk
    made = guard()
    ask(made, "open", setup=to_plain(second))
    ask(made, "set_shares", rollout=second.name, service="cart", shares=HALF, words={})
    assert scripted["cart"].state == HALF
    assert ask(made, "look", rollout="r1")["key"] == "second", "a person knows the id alone"
    with pytest.raises(HookError, match="went back to the baseline: it was wrong"):
        ask(made, "open", setup=to_plain(first))


def test_an_earlier_rollout_of_the_same_id_is_finished_first(guard, scripted, tmp_path):
    first, second = make_setup("cart", key="first", lease_s=5), make_setup("cart", key="second")
    made = guard()
    ask(made, "open", setup=to_plain(first))
    ask(made, "set_shares", rollout=first.name, service="cart", shares=HALF, words={})
    shutil.rmtree(tmp_path / "evaluator.data")
    made = guard()
    with pytest.raises(
        HookError, match=r"cart is guarded for the rollout r1 of cart@1\.5\.0, which was started earlier"
    ):
        ask(made, "open", setup=to_plain(second))
    ask(made, "back", rollout="r1", why="enough", by="ann")
    assert scripted["cart"].state["canary"] == 0
    assert not ask(made, "open", setup=to_plain(second))["is_back"]
    assert list(made.rollouts) == [second.name]


# ------------------------------------------------------------------ the end of a promotion

ALL = {"canary": 1.0}


@pytest.fixture
def promoted(guard):
    """A guard of a rollout whose candidate has all traffic, and its setup; another guard is made by the function."""
    made, setup = guard(), make_setup("cart", key="k", lease_s=5)
    ask(made, "open", setup=to_plain(setup))
    ask(made, "set_shares", rollout=setup.name, service="cart", shares=ALL, words={})
    return made, setup, guard


def find_files(tmp_path):
    return [path for path in tmp_path.rglob("*.guard") if path.is_file()]


def test_no_guard_that_starts_later_returns_what_was_promoted(promoted, scripted, tmp_path):
    made, setup, guard = promoted
    ask(made, "close", rollout=setup.name, promoted=True)
    assert find_files(tmp_path) == []
    assert guard().rollouts == {}
    assert scripted["cart"].state == {"baseline": 0.0, "canary": 1.0}


def test_a_copy_that_cannot_be_deleted_says_that_it_has_ended(promoted, monkeypatch, tmp_path):
    made, setup, guard = promoted
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("read-only")))
    ask(made, "close", rollout=setup.name, promoted=True)
    assert len(find_files(tmp_path)) == 2
    assert guard().rollouts == {}
    assert go_back_without_guard(tmp_path / "evaluator.duckdb", setup.release, "why", print) == ()
    assert list(again_open(guard, setup)) == [setup.name], "a driver that was killed in between opens it again"


def again_open(guard, setup):
    made = guard()
    ask(made, "open", setup=to_plain(setup))
    return made.rollouts


def test_an_older_copy_that_stays_is_older(promoted, monkeypatch, tmp_path):
    made, setup, guard = promoted
    old = next(path for path in find_files(tmp_path) if "state" in path.parts)
    os.close(made.rollouts[setup.name]._file._handles[old])
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **options: path != old and unlink(path, **options))
    ask(made, "close", rollout=setup.name, promoted=True)
    assert len(find_files(tmp_path)) == 2, "the copy that says that it has ended stays, too"
    assert guard().rollouts == {}


def test_what_went_back_is_not_promoted(promoted, scripted):
    made, setup, _ = promoted
    ask(made, "back", rollout=setup.name, why="it died", by="guard")
    with pytest.raises(HookError, match="went back to the baseline: it died"):
        ask(made, "close", rollout=setup.name, promoted=True)
    ask(made, "close", rollout=setup.name, promoted=False)


def test_what_goes_back_while_it_is_closed_is_not_promoted(promoted, scripted, monkeypatch):
    made, setup, _ = promoted
    rollout = made.rollouts[setup.name]
    write = StateFile.write

    def write_late(file, state, **options):
        if state["is_closed"]:
            with rollout._backing:
                rollout.why_back, rollout.by, rollout.is_back = "it died", "guard", True
        write(file, state, **options)

    monkeypatch.setattr(StateFile, "write", write_late)
    with pytest.raises(HookError, match="went back to the baseline: it died"):
        ask(made, "close", rollout=setup.name, promoted=True)
    assert list(made.rollouts) == [setup.name], "it is guarded on"


def test_what_cannot_be_written_is_not_closed(promoted, monkeypatch):
    made, setup, _ = promoted

    def fail(*_arguments, **_options):
        raise HookError("the disk is gone")

    monkeypatch.setattr(StateFile, "write", fail)
    with pytest.raises(HookError, match="disk is gone"):
        ask(made, "close", rollout=setup.name, promoted=True)
    made.rollouts[setup.name].go_back("why", "ann")
    wait_for(made.rollouts[setup.name].is_returned, "it still goes back")


def test_without_a_guard_the_file_is_closed(promoted, tmp_path):
    made, setup, guard = promoted
    store = tmp_path / "evaluator.duckdb"
    lock = GuardLock(store)
    with pytest.raises(HookError, match="already guards the rollouts"):
        close_without_guard(store, setup.name)
    lock.release()
    made.rollouts[setup.name].end()
    close_without_guard(store, setup.name)
    assert not has_state_file(store, setup.name)
    assert guard().rollouts == {}


def test_without_a_guard_what_went_back_is_not_closed(promoted, tmp_path):
    made, setup, _ = promoted
    ask(made, "back", rollout=setup.name, why="it died", by="guard")
    with pytest.raises(HookError, match="it died"):
        close_without_guard(tmp_path / "evaluator.duckdb", setup.name)
    assert has_state_file(tmp_path / "evaluator.duckdb", setup.name)
