"""How many lines a second `evaluator tail` reads on one core, and how far it is behind while a router writes.

python benchmarks/tail.py [--lines 20000] [--seconds 20]

A log of HAProxy grows by `--lines` lines a second. The process that follows it may use one core only; the one that
writes uses another. At the end the whole log is read as fast as possible.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TO_REACH = 20_000
MOST_BEHIND_S = 3.0


def make_lines(count: int, at: float, rng: random.Random) -> bytes:
    """Lines of requests that end at `at` (epoch s)."""
    lines = []
    for number in range(count):
        ms = int(rng.lognormvariate(3, 0.5))
        began = dt.datetime.fromtimestamp(at - ms / 1000, dt.UTC)
        accepted = f"{began:%d/%b/%Y:%H:%M:%S}.{began.microsecond // 1000:03d}"
        server = ("b1", "b2", "b3", "c1")[number % 4]
        lines.append(
            f"127.0.0.1:{number % 60000} [{accepted}] front shop/{server} 0/0/0/{ms}/{ms} 200 120 - - ---- 1/1/0/0/0 "
            f'0/0 "GET /shops/{number % 50}/items/{number}?page=2 HTTP/1.1"\n'
        )
    return "".join(lines).encode()


def start_tail(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Follow the log on one core."""
    command = [sys.executable, "-m", "evaluator", "tail", "bench@1", "haproxy.log", "--lateness", "1s", "--fresh"]
    arms = ["--arm-server", "baseline=b*", "--arm-server", "canary=c*"]
    cores = sorted(os.sched_getaffinity(0))
    return subprocess.Popen(
        [*command, *arms, *arguments],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}),  # noqa: PLW1509 - this process has one thread
    )


def count_rows(folder: Path) -> int:
    """Rows that were written until now."""
    try:
        state = json.loads((folder / "evaluator.data" / "bench@1" / "tail.json").read_text())
    except FileNotFoundError:
        return 0
    return sum(run["rows"] for run in state["runs"])


def wait_for_rows(folder: Path, rows: int) -> float:
    """Wait until so many rows were written; returns the seconds."""
    began = time.monotonic()
    while count_rows(folder) < rows:
        time.sleep(0.05)
    return time.monotonic() - began


def end(tail: subprocess.Popen[bytes]) -> float:
    """End the process, and return its CPU time (s)."""
    before = os.times().children_user + os.times().children_system
    tail.send_signal(signal.SIGTERM)
    tail.wait()
    return os.times().children_user + os.times().children_system - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=TO_REACH)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "haproxy.log"
        log.write_bytes(make_lines(100, time.time(), rng))
        tail = start_tail(folder, "--from", "start")
        wait_for_rows(folder, 100)
        began = time.time()
        with log.open("ab", buffering=0) as file:
            for tenth in range(arguments.seconds * 10):
                file.write(make_lines(arguments.lines // 10, time.time(), rng))
                time.sleep(max(0.0, began + (tenth + 1) / 10 - time.time()))
        lines = arguments.lines // 10 * 10 * arguments.seconds
        writing_s = time.time() - began
        behind_s = wait_for_rows(folder, 100 + lines)
        cpu_s = end(tail)
        print(f"{lines / writing_s:,.0f} lines a second were written; the last one was stored after {behind_s:.1f} s")
        print(f"CPU of the process: {1e6 * cpu_s / lines:.1f} µs a line, its start included")
        (folder / "evaluator.data" / "bench@1" / "tail.json").unlink()
        began = time.time()
        tail = start_tail(folder, "--from", "start")
        wait_for_rows(folder, 100 + lines)
        backlog_s = time.time() - began
        end(tail)
        print(
            f"backlog: {lines / backlog_s:,.0f} lines a second on one core, its start included (to reach: {TO_REACH:,})"
        )
        print(
            "kept up" if behind_s < MOST_BEHIND_S else f"NOT kept up: to reach is less than {MOST_BEHIND_S:g} s behind"
        )


if __name__ == "__main__":
    main()
