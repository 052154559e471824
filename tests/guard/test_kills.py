"""Guards that are killed, ended, replaced and stopped, with a real HAProxy."""

from __future__ import annotations

import signal
import time

import pytest
from guard_world import BASELINE, HALF, users
from metrics_servers import wait_for

from evaluator.errors import HookError, NotReached
from evaluator.guard import client
from evaluator.guard.places import list_socket_paths
from evaluator.guard.returning import go_back_without_guard, has_state_file
from evaluator.rollout.guarding import GuardedTraffic


def test_a_guard_that_was_killed_goes_on(running):
    running.begin()
    running.kill()
    with pytest.raises(NotReached):
        running.client.renew("r1")
    running.start()
    status = running.client.renew("r1")
    assert (status.is_exposed, status.is_back, status.wanted) == (True, False, {"cart": HALF})
    with users(running.router.port, 40):
        running.canary.mode = "failing"
        running.wait_for_back(10)
    running.kill()
    # Also one that had gone back: what was forgotten meanwhile is set again.
    running.command("set weight shop/c1 100")
    running.start()
    running.wait_for_back(5)
    assert running.client.look("r1").is_back
    with pytest.raises(HookError, match="went back to the baseline"):
        running.client.set_shares("r1", "cart", HALF, {})


def test_a_guard_that_was_killed_goes_on_with_what_it_had_counted(running):
    def count() -> int:
        return sum(reading.counted or 0 for reading in running.client.renew("r1").readings if reading.arm == "canary")

    running.begin()
    with users(running.router.port, 40):
        wait_for(lambda: count() > 20, "requests are counted")
    time.sleep(2)  # what was seen is kept each second
    before = count()
    running.kill()
    running.start()
    assert count() >= before


def test_a_kill_while_shares_are_set_ends_with_those_that_were_wanted(running):
    running.begin()
    running.kill()
    running.command("set weight shop/c1 7")  # as after a kill in the middle
    running.start()
    wait_for(lambda: running.shares() == pytest.approx(HALF, abs=0.01), "the wanted shares")
    assert not running.client.renew("r1").is_back


def test_without_a_guard_the_files_are_enough(running, capsys):
    running.begin()
    running.kill()
    statuses = go_back_without_guard(running.store, "cart@1.5.0", "it looks wrong", print)
    assert [(status.rollout, status.is_returned, status.is_back) for status in statuses] == [("r1", True, True)]
    assert running.shares() == BASELINE
    assert "r1: the traffic of cart is at the baseline" in capsys.readouterr().out
    assert go_back_without_guard(running.store, "shop@1", "no such release", print) == ()
    running.start()
    assert running.client.look("r1").why_back == "it looks wrong"


def test_a_guard_that_hangs_meanwhile_adopts_that_it_went_back(running):
    running.begin()
    running.guard.send_signal(signal.SIGSTOP)
    go_back_without_guard(running.store, "cart@1.5.0", "the guard hangs", lambda _: None)
    running.guard.send_signal(signal.SIGCONT)
    wait_for(lambda: running.client.look("r1").is_back, "the guard reads its file")
    time.sleep(2)
    assert running.shares() == BASELINE


def test_a_guard_that_is_ended_returns_the_traffic_first(running):
    running.begin()
    running.kill(signal.SIGTERM)
    assert running.shares() == BASELINE
    assert "the guard was ended, and no process would watch" in running.output()


def test_a_socket_that_was_removed_is_made_again(running):
    for path in list_socket_paths(running.store):
        path.unlink(missing_ok=True)
    with pytest.raises(NotReached):
        running.client.ping()
    wait_for(running.answers, "the guard listens again")


def test_a_newer_program_takes_over(running):
    running.begin()
    running.guard.send_signal(signal.SIGHUP)
    wait_for(lambda: running.output().count(" runs (process") == 2 and running.answers(), "the program starts again")
    status = running.client.renew("r1")
    assert (status.is_exposed, status.is_back) == (True, False)


def test_a_store_that_is_gone_returns_the_traffic(running):
    running.begin()
    folder = running.folder / "evaluator.data"
    folder.rename(running.folder / "elsewhere")
    running.guard.wait(20)
    assert running.shares() == BASELINE
    assert "the store is gone" in running.output()


# ------------------------------------------------------------------ the end of a promotion


@pytest.fixture
def promoted(running, monkeypatch):
    """A rollout whose candidate has all traffic, as its driver has it: without it, traffic returns after 2 s."""
    monkeypatch.setattr(client, "_ANSWER_S", 1.0)
    monkeypatch.setattr(client, "_START_S", 1.5)
    traffic = GuardedTraffic(running.store, running.setup(lease_s=2), lambda _: None)
    traffic.open()
    traffic.set_shares("cart", {"canary": 1}, {})
    yield running, traffic
    for started in client._STARTED:
        started.kill()
        started.wait(5)
    client._STARTED.clear()


def test_a_guard_that_was_killed_before_the_end_does_not_return_what_was_promoted(promoted, monkeypatch):
    running, traffic = promoted
    running.kill()
    killed_at = time.monotonic()
    monkeypatch.setattr(client, "_START_S", 15.0)
    traffic.close(promoted=True)
    running.client.ping()
    time.sleep(max(3 - (time.monotonic() - killed_at), 0.5))
    assert running.shares()["canary"] == 1
    assert not has_state_file(running.store, traffic.setup.name)


def test_without_any_guard_its_file_says_that_it_has_ended(promoted, monkeypatch):
    running, traffic = promoted
    running.kill()
    monkeypatch.setattr(client.sys, "executable", "/nowhere/python")
    traffic.close(promoted=True)
    monkeypatch.undo()
    running.start()
    assert running.client.ping()["rollouts"] == []
    assert running.shares()["canary"] == 1


def test_a_guard_that_hangs_at_the_end_is_waited_for(promoted):
    running, traffic = promoted
    running.guard.send_signal(signal.SIGSTOP)
    with pytest.raises(HookError, match="already guards the rollouts"):
        traffic.close(promoted=True)
    running.guard.send_signal(signal.SIGCONT)
    wait_for(lambda: running.shares()["canary"] == 0, "the lease is over, and nothing was taken down")
    with pytest.raises(HookError, match="went back to the baseline: no driver was there"):
        traffic.close(promoted=True)
