"""Which arm a line of a log is of: as `evaluator tail` finds it, and what the guard says where none is found."""

from __future__ import annotations

import http.client
import json

import pytest
from guard.test_log_lines import compare
from guard.test_rollouts import Scripted
from routers import haproxy_router, nginx_router, service
from sources.access_logs.test_layouts import ENVOY

from evaluator.guard import routers
from evaluator.guard.limits import ArmCounters
from evaluator.guard.log_watch import BLIND_S, LogWatch
from evaluator.guard.recognise import find_settings
from evaluator.guard.setup import GuardedService
from evaluator.guard.watch import ServiceWatch
from evaluator.records.rollouts import GuardLimits
from evaluator.sources.access_logs import find_layout
from evaluator.sources.access_logs.nginx import KNOWN_FORMATS
from evaluator.sources.access_logs.planning import find_layout_of_file

JSON_LINE = {"ts": "2026-11-29T21:00:00Z", "status": 200, "duration": 0.1, "method": "GET", "path": "/"}
JSON_COLUMNS = {
    "ended": "ts", "status": "status", "time": "duration:s", "method": "method", "target": "path", "server": "server"
}  # fmt: skip
REQUESTS = 12


def ask(port):
    """Send some requests, each on a connection of its own."""
    for _ in range(REQUESTS):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Format → its log, and (name of the server, address) of baseline and canary."""
    made = {}
    with service("b1") as baseline, service("c1") as canary:
        ports = {"b1": baseline.port, "c1": canary.port}
        names = [(name, f"127.0.0.1:{port}") for name, port in ports.items()]
        for kind, router, options in (
            ("haproxy", haproxy_router, {}),
            ("nginx", nginx_router, {"log_format": KNOWN_FORMATS[-1]}),
        ):
            folder = tmp_path_factory.mktemp(kind)
            with router(folder, ports, **options) as running:
                ask(running.port)
                running.wait_for_lines(REQUESTS)
                made[kind] = running.log, names
    folder = tmp_path_factory.mktemp("others")
    for kind, lines in {
        "envoy": [ENVOY.replace("10.1.0.2:80", address) for _, address in names] * 6,
        "json": [json.dumps({**JSON_LINE, "server": name}) for name, _ in names] * 6,
    }.items():
        log = folder / f"{kind}.log"
        log.write_text("\n".join(lines) + "\n")
        made[kind] = log, names
    return made


NAMED = {"haproxy": 0, "nginx": 1, "envoy": 1, "json": 0}
"""Format → what its lines have of a server: its name, or its address."""


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("spelling", ["exact", "pattern", "other", "brackets"])
def test_the_guard_finds_the_arms_that_tail_finds(kind, spelling, logs):
    log, names = logs[kind]
    position = NAMED[kind] if spelling != "other" else 1 - NAMED[kind]
    patterns = [both[position] for both in names]
    if spelling == "pattern":
        patterns = [f"*{name}" for name in patterns]
    if spelling == "brackets":
        patterns = [f"[{name}]" for name in patterns]
    settings = find_settings({"arms": {"baseline": patterns[:1], "canary": patterns[1:]}}, {})
    columns = JSON_COLUMNS if kind == "json" else {}
    layout = find_layout(log.read_text().splitlines(), "log", columns=columns)
    counts = compare(log.read_bytes().splitlines(keepends=True), layout, settings.options)
    is_found = spelling in ("exact", "pattern")
    assert counts == ({("baseline", False): 6, ("canary", False): 6} if is_found else {})


# ------------------------------------------------------------------ arms that are not found


def watch(log, arms, clock, least=10):
    """A watch of a log by the clock `clock[0]`, from its end on."""
    made = LogWatch(log, {"arms": arms}, {}, GuardLimits(least=least), lambda: clock[0])
    made.try_format()
    return made


@pytest.fixture(autouse=True)
def recognised_here(monkeypatch):
    """The format is recognised in this process."""
    monkeypatch.setattr("evaluator.guard.log_watch.recognise", find_layout_of_file)


def test_names_that_no_line_has_are_said_before_traffic_moves(logs):
    log, names = logs["nginx"]
    made = watch(log, {"baseline": ["b1"], "canary": ["c1"]}, [0.0])
    assert made.note.startswith(f"none of the last {REQUESTS - 1} requests in the access log {log} is of an arm")
    assert names[0][1] in made.note
    assert "the arms look for baseline: b1; canary: c1" in made.note
    good = watch(log, {"baseline": [names[0][1]], "canary": [names[1][1]]}, [0.0])
    assert good.note == ""
    assert watch(log, {"baseline": ["b1"], "canary": ["c1"]}, [0.0], least=50).note == "", "too few to tell"


def test_names_that_no_line_has_are_a_reason_after_a_while(logs, tmp_path):
    lines = logs["nginx"][0].read_bytes()
    log, clock = tmp_path / "access.log", [0.0]
    log.write_bytes(lines)
    made = watch(log, {"baseline": ["b1"], "canary": ["c1"]}, clock)
    made.look()
    for _ in range(4):  # fewer than `least` in the last 30 s
        clock[0] += 20
        with log.open("ab") as writing:
            writing.writelines(lines.splitlines(keepends=True)[:3])
        assert not made.find_reason()
        made.look()
    assert "3 requests" not in made.describe()
    assert "of no arm (its servers are 127.0.0.1:" in made.describe()
    clock[0] += BLIND_S
    assert "0 cannot be read, 12 are of no arm (its servers are 127.0.0.1:" in made.find_reason()


def look_for(seconds, log, made, clock, lines_of_look):
    """Look each second; a look finds these lines."""
    for _ in range(seconds):
        clock[0] += 1
        with log.open("ab") as writing:
            writing.write(lines_of_look)
        made.look()


def test_a_candidate_that_the_log_does_not_show_is_a_reason(logs, tmp_path):
    source, _ = logs["haproxy"]
    of_baseline = next(line for line in source.read_bytes().splitlines(keepends=True) if b"shop/b1" in line)
    log, clock = tmp_path / "haproxy.log", [0.0]
    log.write_bytes(of_baseline)
    made = watch(log, {"baseline": ["b1"], "canary": ["new*"]}, clock)
    made.look()
    look_for(30, log, made, clock, of_baseline * 2)
    assert not made.find_reason(), "the baseline's requests are there"
    assert made.find_unseen("canary", 0.5).startswith(f"canary: the access log {log} has shown none of its requests")
    assert not made.find_unseen("canary", 0.05), "chance may be the reason"
    with log.open("ab") as writing:
        writing.write(of_baseline.replace(b"shop/b1", b"shop/new1"))
    made.look()
    assert not made.find_unseen("canary", 0.5)


def test_lines_that_a_router_writes_rarely_prove_nothing(logs, tmp_path):
    source, _ = logs["haproxy"]
    of_baseline = next(line for line in source.read_bytes().splitlines(keepends=True) if b"shop/b1" in line)
    log, clock = tmp_path / "haproxy.log", [0.0]
    log.write_bytes(of_baseline)
    made = watch(log, {"baseline": ["b1"], "canary": ["new*"]}, clock)
    made.look()
    look_for(1, log, made, clock, of_baseline * 1000)
    look_for(20, log, made, clock, b"")
    assert not made.find_unseen("canary", 0.5)


class FakeCounters:
    """Counters of HAProxy: the candidate got `started` requests within each 30 s."""

    problem = ""

    def __init__(self, started):
        self.started = started
        self.windows = {"canary": self}
        self.counters = {"canary": ArmCounters()}

    def look(self, at):
        pass

    def find_reason(self, at):
        return ""

    def count_started(self, at, time_s):
        return self.started


@pytest.mark.parametrize(
    ("started", "share", "reason"),
    [
        (None, 0.5, "requests of the baseline were logged"),
        (None, 0.0, ""),
        (40, 0.5, "the router gave 40 to it that have ended"),
        (0, 0.5, ""),  # users stay at the server that they had
    ],
)
def test_users_of_a_candidate_that_the_log_does_not_show_go_back(started, share, reason, logs, tmp_path, monkeypatch):
    monkeypatch.setattr(routers, "make_router", lambda *_: Scripted())
    of_baseline = next(line for line in logs["haproxy"][0].read_bytes().splitlines(keepends=True) if b"/b1 " in line)
    log, clock = tmp_path / "haproxy.log", [0.0]
    log.write_bytes(of_baseline)
    service = GuardedService("cart", "scripted", {}, {}, log, {"arms": {"baseline": ["b1"], "canary": ["new"]}})
    watch = ServiceWatch(service, "r1", "cart@1", GuardLimits(least=10), lambda: clock[0])
    watch.try_all()
    watch.counters = None if started is None else FakeCounters(started)
    watch.realised = {"baseline": 1 - share, "canary": share}
    reasons = []
    for _ in range(32):
        clock[0] += 1
        with log.open("ab") as writing:
            writing.write(of_baseline * 2)
        reasons.append(watch.look())
    assert not any(reasons[:29])
    assert (reason in reasons[-1]) if reason else not reasons[-1]
    watch.close()
