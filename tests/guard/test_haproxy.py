"""The guard with a real HAProxy: what breaks is off the traffic within seconds, and what is healthy stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from guard_world import QUICK, users, world
from metrics_servers import wait_for

from evaluator.errors import HookError, NotReached
from evaluator.guard.client import connect, go_back_without_guard
from evaluator.hooks import MaybeSent
from evaluator.records.rollouts import GuardLimits

HALF = {"baseline": 0.5, "canary": 0.5}
BASELINE = {"baseline": 1.0, "canary": 0.0}


@pytest.fixture
def running(tmp_path):
    with world(tmp_path) as made:
        made.start()
        yield made


def begin(made, **changed):
    """Open the rollout, and give the canary half of the traffic."""
    made.client.open(made.setup(**changed))
    realised = made.client.set_shares("r1", "cart", HALF, {"step": "50 %"})
    assert realised.shares == pytest.approx(HALF, abs=0.01)
    assert made.shares() == pytest.approx(HALF, abs=0.01)


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
        took_s, status = running.wait_for_back(12)
    assert took_s < 10
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
    begin(running)
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
    begin(running)
    running.command("set server shop/b1 state drain")
    status = running.client.back("r1", "it looks wrong", "ann@example.org")
    assert (status.is_returned, status.by, status.why_back) == (True, "ann@example.org", "it looks wrong")
    assert running.shares() == BASELINE
    assert "drain" not in running.command("show stat shop 4 -1").lower()
    # What forgets that later is noticed.
    running.command("set weight shop/c1 100")
    wait_for(lambda: running.shares() == BASELINE, "the guard sets the baseline again")


def test_a_driver_that_is_gone_loses_the_lease(running):
    begin(running, lease_s=3)
    for _ in range(8):
        time.sleep(0.5)
        assert not running.client.renew("r1").is_back
    running.client.look("r1")
    _, status = running.wait_for_back(8)
    assert (status.by, status.why_back) == ("lease", "no driver was there for 3 s")


def test_shares_that_are_forgotten_are_set_again_once(running):
    begin(running)
    running.command("set weight shop/c1 200")
    wait_for(lambda: running.shares() == pytest.approx(HALF, abs=0.01), "the shares are set again")
    assert not running.client.renew("r1").is_back
    running.command("set weight shop/c1 200")
    _, status = running.wait_for_back(5)
    assert "has other shares than were set, again" in status.why_back


def test_a_guard_that_was_killed_goes_on(running):
    begin(running)
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


def test_a_kill_while_shares_are_set_ends_with_those_that_were_wanted(running):
    begin(running)
    running.kill()
    running.command("set weight shop/c1 7")  # as after a kill in the middle
    running.start()
    wait_for(lambda: running.shares() == pytest.approx(HALF, abs=0.01), "the wanted shares")
    assert not running.client.renew("r1").is_back


def test_without_a_guard_the_files_are_enough(running, capsys):
    begin(running)
    running.kill()
    statuses = go_back_without_guard(running.store, "cart@1.5.0", "it looks wrong", print)
    assert [(status.rollout, status.is_returned, status.is_back) for status in statuses] == [("r1", True, True)]
    assert running.shares() == BASELINE
    assert "r1: the traffic of cart is at the baseline" in capsys.readouterr().out
    assert go_back_without_guard(running.store, "shop@1", "no such release", print) == ()
    running.start()
    assert running.client.look("r1").why_back == "it looks wrong"


def test_a_guard_that_hangs_meanwhile_adopts_that_it_went_back(running):
    begin(running)
    running.guard.send_signal(signal.SIGSTOP)
    go_back_without_guard(running.store, "cart@1.5.0", "the guard hangs", lambda _: None)
    running.guard.send_signal(signal.SIGCONT)
    wait_for(lambda: running.client.look("r1").is_back, "the guard reads its file")
    time.sleep(2)
    assert running.shares() == BASELINE


def test_a_guard_that_is_ended_returns_the_traffic_first(running):
    begin(running)
    running.kill(signal.SIGTERM)
    assert running.shares() == BASELINE
    assert "the guard was ended, and nobody would watch" in running.output()


def test_a_newer_program_takes_over(running):
    begin(running)
    running.guard.send_signal(signal.SIGHUP)
    wait_for(lambda: running.output().count(" runs (process") == 2 and running.answers(), "the program starts again")
    status = running.client.renew("r1")
    assert (status.is_exposed, status.is_back) == (True, False)


def test_a_store_that_is_gone_returns_the_traffic(running):
    begin(running)
    folder = running.folder / "evaluator.data"
    folder.rename(running.folder / "elsewhere")
    running.guard.wait(20)
    assert running.shares() == BASELINE
    assert "the store is gone" in running.output()


def test_a_router_that_is_gone_is_tried_until_it_is_back(running):
    begin(running)
    running.router.process.send_signal(signal.SIGSTOP)
    status = running.client.back("r1", "it looks wrong", "ann")
    assert (status.is_back, status.is_returned, status.is_exposed) == (True, False, True)
    assert "HAProxy" in status.notes[-1]
    with pytest.raises(HookError, match="has not returned yet"):
        running.client.close("r1")
    running.router.process.send_signal(signal.SIGCONT)
    running.wait_for_back(10)


def test_a_hanging_router_is_a_reason_of_its_own_later(running, monkeypatch):
    begin(running)
    running.router.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    status = running.client.renew("r1")
    running.router.process.send_signal(signal.SIGCONT)
    assert "cannot be read" in status.readings[1].text
    assert not status.is_back


def test_servers_that_are_down(tmp_path):
    with world(tmp_path, server_options="check inter 200ms fall 1 rise 1") as made:
        made.start()
        begin(made)
        made.canary.stop()
        wait_for(lambda: "finds all of its servers down" in made.client.renew("r1").why_back, "it is down")
        made.wait_for_back(5)


# ------------------------------------------------------------------ what is missing before the first shift


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": {"socket": "/nowhere/admin.sock", "backend": "shop", "servers": {"baseline": ["b1"], "canary": ["c1"]}}},
         "cannot be reached"),
        ({"options": {"backend": "shop"}}, "haproxy"),
        ({"kind": "nonsense"}, "nonsense"),
        ({"kind": "tcp", "options": {"address": "127.0.0.1:1"}}, "does not share requests"),
        ({"kind": "http", "options": {"get": {"url": "http://127.0.0.1:1/", "headers": {"Authorization": "${GUARD_TOKEN}"}},
          "set": {"url": "http://127.0.0.1:1/", "headers": {"Authorization": "${GUARD_TOKEN}"}}, "allow_hosts": ["127.0.0.1"]}},
         "GUARD_TOKEN"),
        ({"log": {"arms": {"canary": ["c*"]}}}, "nothing to compare with"),
        ({"log": {"failures": ["bad"], "arms": {"baseline": ["b*"], "canary": ["c*"]}}}, "must be statuses"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_before_the_first_shift(changed, message, running):
    with pytest.raises(HookError, match=message):
        running.client.open(running.setup(**changed))
    assert not list((running.folder / "evaluator.data" / ".rollouts").glob("*.guard"))
    assert running.client.ping()["rollouts"] == []


def test_a_log_of_another_format_is_refused(running, tmp_path):
    log = tmp_path / "other.log"
    log.write_text("hello\n" * 10)
    with pytest.raises(HookError, match="no known format"):
        running.client.open(running.setup(access_log=log))


def test_lines_that_cannot_be_read_while_requests_come_are_a_reason(running, tmp_path):
    log = tmp_path / "empty.log"
    log.touch()
    running.client.open(running.setup(access_log=log))
    running.client.set_shares("r1", "cart", HALF, {})
    with users(running.router.port, 20):
        time.sleep(3)
        log.write_text("no request\n" * 50)
        time.sleep(2)
        status = running.client.renew("r1")
    assert "format of the access log is not known yet" in status.readings[1].text


def test_questions_that_are_none_are_answered(running):
    client = running.client
    with pytest.raises(HookError, match="cannot read the question"):
        client._ask("set_shares", {"rollout": "r1"}, 5) if False else client._ask("open", {}, 5)
    with pytest.raises(HookError, match="does not know 'dance'"):
        client._ask("dance", {}, 5)
    with pytest.raises(HookError, match="'../x' is no id of a rollout"):
        client._ask("open", {"setup": {**_plain(running), "rollout": "../x"}}, 5)
    with pytest.raises(HookError, match="speaks version 1 of its protocol, and was asked in version 7"):
        client._ask("ping", {"v": 7}, 5)


def _plain(made):
    from evaluator.guard.setup import to_plain

    return to_plain(made.setup())


# ------------------------------------------------------------------ its place


def test_a_driver_starts_one_where_none_answers(tmp_path, monkeypatch):
    store = tmp_path / "evaluator.duckdb"
    with pytest.raises(NotReached, match="no guard of"):
        connect(store, start=False, say=print)
    said = []
    client = connect(store, start=True, say=said.append)
    pid = client.ping()["pid"]
    try:
        assert "runs (process" in said[0]
        assert connect(store, start=True, say=print).ping()["pid"] == pid
        assert os.getsid(pid) == pid, "it outlives the session of its driver"
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_one_guard_for_a_store(running):
    import subprocess
    import sys

    command = [sys.executable, "-m", "evaluator.guard", "--store", str(running.store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 4
    assert f"process {running.guard.pid}" in done.stdout
    assert "already guards the rollouts" in done.stdout
    assert running.client.ping()["pid"] == running.guard.pid


def test_a_folder_of_another_user_is_no_place_for_the_socket(tmp_path, monkeypatch):
    from evaluator.guard.places import choose_socket_path, make_private_folder

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "evaluator" / "guard.sock"
    assert choose_socket_path(Path("evaluator.duckdb")).parent in (path.parent, Path(f"/tmp/evaluator-{os.getuid()}"))
    assert len(str(choose_socket_path(Path("/long" * 60)))) <= 100
    (tmp_path / "trap").mkdir(mode=0o700)
    path.parent.symlink_to(tmp_path / "trap")
    with pytest.raises(HookError, match="trap of another user"):
        make_private_folder(path.parent)
    path.parent.unlink()
    path.parent.mkdir(mode=0o755)
    with pytest.raises(HookError, match="other users may use"):
        make_private_folder(path.parent)


assert QUICK.health_s == 1
_ = MaybeSent
