"""The guard with a real HAProxy: what breaks is off the traffic within seconds, and what is healthy stays."""

from __future__ import annotations

import signal
import time

import pytest
from guard_world import BASELINE, HALF, users, world
from metrics_servers import wait_for

from evaluator.errors import HookError
from evaluator.records.rollouts import GuardLimits


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("half", "failed"),
        ("killed", "failed"),
        ("resetting", "failed"),
        ("hanging", "have had no answer for at least 1.5 s"),
        ("slow", "took longer than 100 ms"),
    ],
)
def test_what_breaks_is_off_the_traffic(mode, reason, running):
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


def test_a_healthy_candidate_stays(running):
    running.begin()
    with users(running.router.port, 60) as sent:
        time.sleep(6)
        status = running.client.renew("r1")
    assert not status.is_back, status.why_back
    assert status.readings[1].failures == 0
    assert sent.sent > 100
    # A driver that connects twice is the same; another setup is not.
    assert running.client.open(running.setup()).wanted == {"cart": HALF}
    with pytest.raises(HookError, match="guarded with other services or limits"):
        running.client.open(running.setup(lease_s=99))
    with pytest.raises(HookError, match="still meet both versions"):
        running.client.close("r1")
    running.client.set_shares("r1", "cart", {"canary": 1}, {})
    running.client.close("r1")
    assert running.shares()["canary"] == 1
    with pytest.raises(HookError, match="does not know the rollout r1"):
        running.client.renew("r1")


def test_a_person_goes_back_and_drained_servers_are_enabled(running):
    running.begin()
    running.command("set server shop/b1 state drain")
    status = running.client.back("r1", "it looks wrong", "ann@example.org")
    assert (status.is_returned, status.by, status.why_back) == (True, "ann@example.org", "it looks wrong")
    assert running.shares() == BASELINE
    assert "drain" not in running.command("show stat shop 4 -1").lower()
    # What forgets that later is noticed.
    running.command("set weight shop/c1 100")
    wait_for(lambda: running.shares() == BASELINE, "the guard sets the baseline again")


def test_a_driver_that_is_gone_loses_the_lease(running):
    running.begin(lease_s=3)
    for _ in range(8):
        time.sleep(0.5)
        assert not running.client.renew("r1").is_back
    running.client.look("r1")
    _, status = running.wait_for_back(8)
    assert (status.by, status.why_back) == ("lease", "no driver was there for 3 s")


def test_shares_that_are_forgotten_are_set_again_once(running):
    running.begin()
    running.command("set weight shop/c1 200")
    wait_for(lambda: running.shares() == pytest.approx(HALF, abs=0.01), "the shares are set again")
    assert not running.client.renew("r1").is_back
    running.command("set weight shop/c1 200")
    _, status = running.wait_for_back(5)
    assert "has other shares than were set, again" in status.why_back


def test_a_router_that_is_gone_is_tried_until_it_is_back(running):
    running.begin()
    running.router.process.send_signal(signal.SIGSTOP)
    status = running.client.back("r1", "it looks wrong", "ann")
    assert (status.is_back, status.is_returned, status.is_exposed) == (True, False, True)
    assert "HAProxy" in status.notes[-1]
    with pytest.raises(HookError, match="has not returned yet"):
        running.client.close("r1")
    running.router.process.send_signal(signal.SIGCONT)
    running.wait_for_back(10)


def test_a_hanging_router_is_a_reason_of_its_own_later(running, monkeypatch):
    running.begin()
    running.router.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    status = running.client.renew("r1")
    running.router.process.send_signal(signal.SIGCONT)
    assert "cannot be read" in status.readings[1].text
    assert not status.is_back


def test_servers_that_are_down(tmp_path):
    with world(tmp_path, server_options="check inter 200ms fall 1 rise 1") as made:
        made.start()
        made.begin()
        made.canary.stop()
        wait_for(lambda: "finds all of its servers down" in made.client.renew("r1").why_back, "it is down")
        made.wait_for_back(5)
