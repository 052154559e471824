"""The guard reads the lines of a log as the store does, in plain Python: the two agree on arms and failures."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from router_lines import HAPROXY, JSON, NGINX, OPTIONS, write_haproxy, write_nginx
from sources.access_logs.test_layouts import CADDY, ENVOY, HTTP, ISTIO, ISTIO_JSON, SYSLOG, TRAEFIK, TRAEFIK_JSON
from sources.access_logs.test_layouts import NGINX as NGINX_LINE

from evaluator.guard.log_lines import LogRequestReader, read_layout, write_layout
from evaluator.records.access_logs import list_unread
from evaluator.sources.access_logs import find_layout
from evaluator.store.access_logs import LogReader

OTHERS = "0123456789abcdefghijklmnoprstuvwxyz"
"""What names of servers begin with."""
ARM_OPTIONS = replace(OPTIONS, arm_from="arm", arms={"baseline": ("1.*",), "canary": ("2.*",)})


def compare(lines, layout, options=OPTIONS):
    """Read lines both ways; returns (arm, failed) → number, by the guard."""
    layout = read_layout(write_layout(layout))  # as it comes from the process that recognises it
    reader = LogRequestReader(layout, options)
    results = [reader.read(line.rstrip(b"\n")) for line in lines]
    ours = Counter(
        (request.arm, request.failed) for result in results for request in result.requests if not request.left
    )
    unread = sum(not result.is_read for result in results)
    with LogReader(layout, options, "run-1") as log_reader:
        batch = log_reader.read_lines(list(lines))
    theirs = Counter((row["arm"], row["failed"]) for row in batch.rows.to_pylist())
    assert ours == theirs
    assert unread == sum(list_unread(batch.counts).values())
    return ours


def test_lines_of_haproxy():
    lines = [
        write_haproxy(server, status=status, ended=ended, retries=retries, ms=ms, request=request)
        for server, status, ended, retries, ms, request in itertools.product(
            ("b1", "c1", "<NOSRV>", "x1"), ("200", "302", "503", "-1", "101"), ("--", "cD", "sH", "SC", "PR", "CQ"),
            ("0", "2"), ("12", "-1"), ("GET / HTTP/1.1", "<BADREQ>"),
        )
    ]  # fmt: skip
    lines += [b"Nov 29 10:00:00 lb haproxy[7]: Server shop/c1 is DOWN\n", b"what is this\n", b"\n", b"\xff\xfe\n"]
    counts = compare(lines, HAPROXY)
    assert counts["canary", True] > 100
    assert counts["canary", False] > 5


def test_lines_of_nginx_with_attempts():
    attempts = [
        ("b:1", "200"), ("c:1", "502"), ("b:1, c:1", "502, 200"), ("c:1, b:1", "504, 200"), ("c:1, c:2", "502, 502"),
        ("b:1 : c:1", "200, 503"), ("c:1 : b:1", "503, 200"), ("shop", "502"), ("-", "-"), ("c:1", "-"),
    ]  # fmt: skip
    lines = [
        write_nginx(servers, statuses=statuses, status=status, s=s)
        for (servers, statuses), status, s in itertools.product(attempts, ("200", "499", "502", "101"), ("0.1", "-"))
    ]
    assert compare(lines, NGINX)["canary", True] > 20


def test_lines_of_json():
    lines = [
        f'{{"at": "2025-11-29T10:00:00Z", "status": {status}, "took": {took}, "version": "{name}", "grpc": "{grpc}",'
        f' "upgrade": "{upgrade}", "request": {{"method": "GET", "uri": "/"}}}}\n'.encode()
        for status, took, name, grpc, upgrade in itertools.product(
            (200, 0, 503, 404), (0.1, '""'), ("1.0", "2.0", "-", ""), ("", "0", "14"), ("", "WebSocket")
        )
    ]
    lines += [b'{"level": "info"}\n', b"{}\n", b"[1]\n", b'{"status": 200, "took":\n']
    assert compare(lines, JSON, ARM_OPTIONS)["canary", True] > 5


@pytest.mark.parametrize(
    "line", [HTTP, SYSLOG + HTTP, NGINX_LINE, ENVOY, ISTIO, TRAEFIK, CADDY, TRAEFIK_JSON, ISTIO_JSON]
)
def test_formats_of_documentation(line):
    layout = find_layout([line] * 3, "log")
    options = replace(OPTIONS, arms={"baseline": ("q*",), "canary": tuple(f"{first}*" for first in OTHERS)})
    counts = compare([line.encode()] * 3, layout, options)
    assert sum(counts.values()) >= 3
    assert {arm for arm, _ in counts} == {"canary"}


def test_statuses_that_are_failures_are_those_of_the_policy():
    lines = [write_haproxy("c1", status=status) for status in ("404", "429", "500")]
    counts = compare(lines, HAPROXY, replace(OPTIONS, failures=("429",)))
    assert counts == {("canary", True): 1, ("canary", False): 2}


def test_a_hostile_line_takes_no_time():
    layout = find_layout([HTTP] * 3, "log")
    reader = LogRequestReader(layout, OPTIONS)
    hostile = [HTTP.split('"')[0].encode() + b'"GET ' + b"/ ?" * 2_600, b'"' * 8000, b"a/b " * 2000, b"x" * 10**6]
    began = time.perf_counter()
    assert not any(reader.read(line).requests for line in hostile[1:])
    reader.read(hostile[0])
    assert time.perf_counter() - began < 1


def test_the_guard_imports_nothing_large():
    code = (
        "import sys, evaluator.guard.__main__, evaluator.hooks.haproxy\n"
        "print([name for name in ('numpy', 'duckdb', 'pyarrow', 'pandas', 'scipy', 'locust', 'gevent', 'sqlite3',"
        " 'streamlit', 'evaluator.store') if name in sys.modules])\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    large, memory_kb = done.stdout.splitlines()
    assert large == "[]"
    assert int(memory_kb) < 60_000
