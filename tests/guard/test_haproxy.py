"""The guard with a real HAProxy: what breaks is off the traffic within seconds, and what is healthy stays."""

from __future__ import annotations

import signal
import time

import pytest
from guard_world import BASELINE, HALF, reload_haproxy, users, world
from metrics_servers import wait_for

from evaluator.errors import HookError
from evaluator.records.rollouts import GuardLimits


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("half", "failed"),
        ("resetting", "failed"),
        ("hanging", "have had no answer for at least 1.5 s"),
        ("slow", "took longer than 100 ms"),
    ],
)
def test_what_breaks_is_off_the_traffic(mode, reason, shared):
    break_canary(shared, mode, reason)


def test_what_is_killed_is_off_the_traffic(running):
    break_canary(running, "killed", "failed")


def break_canary(running, mode, reason):
    """Break the canary of a running rollout in a way, and look what the guard does."""
    limits = GuardLimits(p95_ms=100 if mode == "slow" else None, over_s=3, least=20, health_s=1)
    status = running.client.open(running.setup(limits))
    assert (status.is_exposed, status.realised, status.notes) == (False, {"cart": BASELINE}, ())
    running.client.set_shares("r1", "cart", HALF, {})
    with users(running.router.port, 40):
        wait_for(lambda: running.client.renew("r1").readings[1].requests > 10, "requests of the canary")
        status = running.client.renew("r1")
        assert (status.is_exposed, status.is_back, status.by) == (True, False, "")
        assert "canary:" in status.readings[1].text
        running.canary.stop() if mode == "killed" else setattr(running.canary, "mode", mode)
        took_s, status = running.wait_for_back(25)
    assert took_s < 15
    assert reason in status.why_back, status.why_back
    assert (status.by, status.is_back, status.is_returned, status.is_exposed) == ("guard", True, True, False)
    assert status.realised == {"cart": BASELINE}
    with pytest.raises(HookError, match="went back to the baseline"):
        running.client.set_shares("r1", "cart", HALF, {})
    running.client.close("r1")
    with pytest.raises(HookError, match="went back to the baseline"):
        running.client.open(running.setup(limits))
    assert running.shares() == BASELINE


def test_a_healthy_candidate_stays(shared):
    shared.begin()
    with users(shared.router.port, 60) as sent:
        time.sleep(4)
        status = shared.client.renew("r1")
    assert not status.is_back, status.why_back
    assert status.readings[1].failures == 0
    assert sent.sent > 60
    # A driver that connects twice is the same; another setup is not.
    assert shared.client.open(shared.setup()).wanted == {"cart": HALF}
    with pytest.raises(HookError, match="guarded with other services or limits"):
        shared.client.open(shared.setup(lease_s=99))
    with pytest.raises(HookError, match="still meet both versions"):
        shared.client.close("r1")
    shared.client.set_shares("r1", "cart", {"canary": 1}, {})
    shared.client.close("r1")
    assert shared.shares()["canary"] == 1
    with pytest.raises(HookError, match="does not know the rollout r1"):
        shared.client.renew("r1")


def test_a_person_goes_back_and_drained_servers_are_enabled(shared):
    shared.begin()
    shared.command("set server shop/b1 state drain")
    status = shared.client.back("r1", "it looks wrong", "ann@example.org")
    assert (status.is_returned, status.by, status.why_back) == (True, "ann@example.org", "it looks wrong")
    assert shared.shares() == BASELINE
    assert "drain" not in shared.command("show stat shop 4 -1").lower()
    # What forgets that later is noticed.
    shared.command("set weight shop/c1 100")
    wait_for(lambda: shared.shares() == BASELINE, "the guard sets the baseline again")


def test_a_driver_that_is_gone_loses_the_lease(shared):
    shared.begin(lease_s=2)
    for _ in range(5):
        time.sleep(0.5)
        assert not shared.client.renew("r1").is_back
    shared.client.look("r1")
    _, status = shared.wait_for_back(8)
    assert (status.by, status.why_back) == ("lease", "no driver was there for 2 s")


def test_shares_that_are_forgotten_are_set_again_once(shared):
    shared.begin()
    shared.command("set weight shop/c1 200")
    wait_for(lambda: shared.shares() == pytest.approx(HALF, abs=0.01), "the shares are set again")
    assert not shared.client.renew("r1").is_back
    shared.command("set weight shop/c1 200")
    _, status = shared.wait_for_back(5)
    assert "has other shares than were set, again" in status.why_back


def test_a_router_that_is_gone_is_tried_until_it_is_back(shared):
    shared.begin()
    shared.router.process.send_signal(signal.SIGSTOP)
    status = shared.client.back("r1", "it looks wrong", "ann")
    assert (status.is_back, status.is_returned, status.is_exposed) == (True, False, True)
    assert "HAProxy" in status.notes[-1]
    with pytest.raises(HookError, match="has not returned yet"):
        shared.client.close("r1")
    shared.router.process.send_signal(signal.SIGCONT)
    shared.wait_for_back(10)


def test_a_hanging_router_is_a_reason_of_its_own_later(shared):
    shared.begin()
    shared.router.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    status = shared.client.renew("r1")
    shared.router.process.send_signal(signal.SIGCONT)
    assert "cannot be read" in status.readings[1].text
    assert not status.is_back


def test_servers_that_are_down(tmp_path):
    with world(tmp_path, server_options="check inter 200ms fall 1 rise 1") as made:
        made.start()
        made.begin()
        made.canary.stop()
        wait_for(lambda: "finds all of its servers down" in made.client.renew("r1").why_back, "it is down")
        made.wait_for_back(5)


# ------------------------------------------------------------------ what else happens to HAProxy


@pytest.fixture
def reloadable(running):
    """A rollout that is guarded; processes of HAProxy that the test has started are ended."""
    running.begin()
    first = running.router.process
    yield running
    if running.router.process is not first:
        running.router.process.kill()
        running.router.process.wait(5)


def get_drift(made):
    """The drift that the guard reports, once there is one."""
    wait_for(lambda: made.client.renew("r1").drift, "the guard notices it")
    return made.client.look("r1").drift


def test_a_reload_that_keeps_the_state_of_servers_changes_nothing(reloadable):
    for _ in range(2):
        reload_haproxy(reloadable, keep=True)
        wait_for(lambda: reloadable.shares() == pytest.approx(HALF, abs=0.01), "HAProxy is there")
    time.sleep(1.2)
    status = reloadable.client.renew("r1")
    assert (status.is_back, status.drift) == (False, "")


def test_the_second_reload_that_forgets_the_shares_is_one_too_many(reloadable):
    reload_haproxy(reloadable)
    assert "baseline gets 100 % instead of 50 %, canary gets 0 % instead of 50 %" in get_drift(reloadable)
    wait_for(lambda: reloadable.shares() == pytest.approx(HALF, abs=0.01), "the shares are set again")
    assert not reloadable.client.renew("r1").is_back
    reload_haproxy(reloadable)
    wait_for(lambda: reloadable.client.renew("r1").is_returned, "it goes back")
    assert "has other shares than were set, again" in reloadable.client.look("r1").why_back


def test_a_restart_is_one_change_although_the_router_is_away_meanwhile(reloadable):
    reload_haproxy(reloadable, pause_s=1.5)
    seen = []
    wait_for(lambda: seen.append(reloadable.client.renew("r1")) or "set again" in seen[-1].drift, "it is set again")
    assert not seen[-1].is_back
    assert reloadable.shares() == pytest.approx(HALF, abs=0.01)
    wait_for(lambda: not reloadable.client.renew("r1").drift, "all is as before")
    assert not [note for note in reloadable.client.look("r1").notes if "cannot be read" in note]


def test_a_drained_server_of_the_baseline_is_no_change_of_shares(tmp_path):
    with world(tmp_path, others=["b2"]) as made:
        made.start()
        made.begin()
        drifts, notes = set(), set()

        def look():
            """Keep what the guard says; is it as before again?"""
            status = made.client.renew("r1")
            drifts.add(status.drift)
            notes.update(status.notes)
            return not status.notes

        for state in ("drain", "ready", "drain"):
            made.command(f"set server shop/b1 state {state}")
            wait_for(lambda: not look(), "the guard notices it")
            wait_for(look, "the shares are set again")
        assert not made.client.renew("r1").is_back
        assert drifts == {""}
        assert any("as servers went down or came back" in note for note in notes)
