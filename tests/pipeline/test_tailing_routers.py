"""Logs of real routers are followed through kills and rotation: no request is lost or counted twice."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from routers import ask, haproxy_router, nginx_router, service

from evaluator.pipeline import landing
from evaluator.pipeline.landing import land_release
from evaluator.sources.load import free_port
from evaluator.store import Store

PATIENCE_S = 120
"""Each commit waits for the disk, which other tests use, too."""

KILLS = int(os.environ.get("KILLS", "5"))
NGINX_COLUMNS = "msec request_time upstream_addr upstream_status upstream_response_time status body_bytes_sent request"
NGINX_FORMAT = "escape=json {" + ",".join(f'"{name}":"${name}"' for name in NGINX_COLUMNS.split()) + "}"


class Clients:
    """Users of a router: each request has a size of its own, by which it is recognised in the log."""

    def __init__(self, port, first_size):
        self.port = port
        self.sizes = {}
        """Size → version of the service that answered."""
        self.next_size = first_size
        self.pause = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.is_set():
            with self.pause:
                size, self.next_size = self.next_size, self.next_size + 1
                answer = ask(self.port, f"/size/{size}")
                assert answer.status == 200
                self.sizes[size] = answer.version
            time.sleep(0.002)

    @contextlib.contextmanager
    def running(self):
        self.thread.start()
        try:
            yield
        finally:
            self.ended.set()
            self.thread.join(10)


@pytest.fixture
def start_tail():
    """Starts `evaluator tail`; what a failed test leaves behind is killed."""
    processes = []

    def start(folder, *arguments):
        command = [sys.executable, "-m", "evaluator", "tail", "shop@2", *arguments, "--store", "evaluator.duckdb"]
        with (folder / "tail.out").open("ab") as output:
            processes.append(subprocess.Popen(command, cwd=folder, stdout=output, stderr=output))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for_commit(state):
    """Wait until the tail that was just started has written its position."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    deadline = time.monotonic() + PATIENCE_S
    while not (state.exists() and state.stat().st_mtime_ns > before):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rotate_nginx(router, number):
    router.log.rename(router.log.with_name(f"access.log.{number}"))
    router.process.send_signal(signal.SIGUSR1)


def copy_and_empty(log, number):
    time.sleep(0.05)  # the last line is written after the answer
    shutil.copyfile(log, log.with_name(f"haproxy.log.{number}"))
    os.truncate(log, 0)


def test_kills_and_rotation_lose_and_double_nothing(tmp_path, monkeypatch, start_tail):
    monkeypatch.setattr(landing, "QUIET_S", 0.0)  # the last tail is not started again
    rng = random.Random(1)
    with (
        service("1.0") as old,
        service("2.0") as new,
        nginx_router(tmp_path, {"old": old.port, "new": new.port}, log_format=NGINX_FORMAT) as nginx,
        haproxy_router(tmp_path, {"b1": old.port, "c1": new.port}) as haproxy,
    ):
        state = tmp_path / "evaluator.data" / "shop@2" / "tail.json"
        arms = ("baseline=b*", "canary=c*", f"baseline=127.0.0.1:{old.port}", f"canary=127.0.0.1:{new.port}")
        options = [part for arm in arms for part in ("--arm-server", arm)]
        arguments = ["access.log", "haproxy.log", *options, "--from", "start", "--lateness", "1s"]
        clients = Clients(nginx.port, 1000), Clients(haproxy.port, 20_000)
        with clients[0].running(), clients[1].running():
            for kill in range(KILLS):
                tail = start_tail(tmp_path, *arguments)
                if rng.random() < 0.8:  # the others are killed before, or just when they begin
                    wait_for_commit(state)
                time.sleep(rng.uniform(0, 1.5))
                if kill % 2:
                    rotate_nginx(nginx, kill)
                if kill % 3 == 2:
                    with clients[1].pause:
                        copy_and_empty(haproxy.log, kill)
                time.sleep(rng.uniform(0, 0.5))
                assert tail.poll() is None, (tmp_path / "tail.out").read_text()
                tail.kill()
                tail.wait()
            tail = start_tail(tmp_path, *arguments)
            wait_for_commit(state)
        wanted = {**clients[0].sizes, **clients[1].sizes}
        time.sleep(2)
        tail.terminate()
        assert tail.wait(PATIENCE_S) == 4
    output = (tmp_path / "tail.out").read_text()
    assert "Traceback" not in output
    store = Store.open(tmp_path / "evaluator.duckdb")
    land_release(store, "shop@2")
    [run] = store.data.runs("shop@2")
    rows = store.data.query("SELECT arm, response_bytes FROM requests").to_pylist()
    assert len({row["response_bytes"] for row in rows}) == len(rows)
    assert len(rows) == len(wanted)
    names = {"1.0": "baseline", "2.0": "canary"}
    assert Counter(row["arm"] for row in rows) == Counter(names[version] for version in wanted.values())
    assert run.landed == sum(run.facts.read.values()) == run.facts.router.answers
    assert all("copytruncate" in hole for hole in run.facts.router.holes)
    assert bool(run.facts.router.holes) == (KILLS > 2)
    assert run.facts.ended_early == "evaluator tail was ended by SIGTERM"


def test_the_statistics_say_which_server_failed_before_another_one_answered(tmp_path, monkeypatch, start_tail):
    monkeypatch.setattr(landing, "QUIET_S", 0.0)
    with (
        service("1.0") as old,
        service("1.0") as second,
        # Nothing listens at c1: HAProxy tries again, and goes on to another server. Its users see no failure.
        haproxy_router(
            tmp_path,
            {"b1": old.port, "b2": second.port, "c1": free_port(), "c2": second.port},
            defaults="option redispatch 1",
        ) as haproxy,
    ):
        arms = ("baseline=b*", "canary=c*")
        options = [part for arm in arms for part in ("--arm-server", arm)]
        options += ["--stats-socket", str(haproxy.stats_socket)]
        state = tmp_path / "evaluator.data" / "shop@2" / "tail.json"
        tail = start_tail(tmp_path, "haproxy.log", *options)
        wait_for_commit(state)
        answers = [ask(haproxy.port, f"/status/200/{number}") for number in range(12)]
        assert {answer.status for answer in answers} == {200}
        haproxy.wait_for_lines(12)
        time.sleep(2.5)  # the statistics are read once a second
        tail.terminate()
        assert tail.wait(PATIENCE_S) == 4, (tmp_path / "tail.out").read_text()
    store = Store.open(tmp_path / "evaluator.duckdb")
    land_release(store, "shop@2")
    [run] = store.data.runs("shop@2")
    failed = store.data.query("SELECT arm, instance, exception, endpoint FROM requests WHERE failed").to_pylist()
    tried = sum(int(re.search(r"/[+](\d+) \d+/\d+ ", line)[1]) for line in retried_lines(haproxy))
    assert tried > 0
    assert run.facts.router.retried == {"canary": tried}
    assert run.facts.router.retried_by_unknown == 0
    assert {(row["arm"], row["instance"], row["exception"]) for row in failed} == {
        ("canary", "c1", "retried by the router")
    }
    assert len(failed) == tried
    assert run.facts.read["canary"] + run.facts.read["baseline"] == run.landed == 12 + tried


def retried_lines(router):
    return [line for line in router.lines() if "/+" in line]
