"""Servers that scrape: targets that die, scrapes that fail, native histograms, exporters of the ready-made sets."""

import getpass
import http.server
import json
import math
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cramjam
import numpy as np
import pytest
from metrics_servers import program, prometheus, running, wait_for

from evaluator.records import Query, QueryKind
from evaluator.sources.load import free_port
from evaluator.sources.prometheus import PrometheusSource, connect
from evaluator.sources.prometheus.sets import QUERY_SETS

SELECTORS = {"baseline": 'version="1"', "canary": 'version="2"'}


def options(url, step_s=15):
    return PrometheusSource(url=url, selectors=SELECTORS, step=step_s)


REQUESTS = Query("http_requests_total{$selector}", QueryKind.COUNTER)


class Target(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.count += 10
        body = f'# TYPE http_requests_total counter\nhttp_requests_total{{code="200"}} {self.server.count}\n'.encode()
        self.send_response(503 if self.server.broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def target(port):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Target)
    server.count, server.broken = 0, False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def scrape(jobs):
    return "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n" + "".join(
        f"  - job_name: j{n}\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{version: '{version}'}}}}]\n"
        for n, (version, port) in enumerate(jobs)
    )


def now():
    return datetime.now(UTC)


def wait_for_scrapes(url, targets):
    """A server finds its targets a few seconds after its start."""
    query = urllib.parse.urlencode({"query": "sum(up)"})

    def all_up():
        result = json.loads(read(f"{url}/api/v1/query?{query}"))["data"]["result"]
        return bool(result) and float(result[0]["value"][1]) == targets

    wait_for(all_up, "the first scrapes")


def test_killed_targets_failed_scrapes_and_restarts(tmp_path):
    """A dead target ends at once, a failed scrape is a missing sample, a restart is a counter that begins again."""
    killed, flaky = free_port(), free_port()
    with ExitStack() as stack:
        dying = ExitStack()
        dying.enter_context(target(killed))
        second_target = stack.enter_context(target(flaky))
        url = stack.enter_context(prometheus(tmp_path, tmp_path / "data", scrape([("1", killed), ("1", flaky)])))
        wait_for_scrapes(url, 2)
        began = now()
        time.sleep(4)
        dying.close()
        second_target.broken = True
        time.sleep(2.5)
        second_target.broken, second_target.count = False, 0
        time.sleep(4)
        with connect(options(url, step_s=1)) as source:
            answer = source.fetch(REQUESTS, "baseline", began, now())
    by_instance = {series.instance: series for series in answer.series}
    dead, restarted = by_instance[f"127.0.0.1:{killed}"], by_instance[f"127.0.0.1:{flaky}"]
    assert 2 <= dead.ts_ms.size <= 6
    assert dead.ts_ms[-1] < restarted.ts_ms[-1] - 3000
    assert np.diff(restarted.ts_ms).max() >= 2000
    assert (np.diff(restarted.values) < 0).sum() == 1


def test_a_server_that_was_away_repeats_nothing(tmp_path):
    """While the server is down no stale markers are written; its next answer repeats the last sample into the gap."""
    port, own = free_port(), free_port()
    with target(port):
        with prometheus(tmp_path, tmp_path / "data", scrape([("1", port)]), port=own) as url:
            wait_for_scrapes(url, 1)
            began = now()
            time.sleep(3)
        with prometheus(tmp_path, tmp_path / "data", scrape([("1", port)]), port=own) as url:
            time.sleep(9)
            with connect(options(url, step_s=1)) as source:
                series = source.fetch(REQUESTS, "baseline", began, now()).series[0]
    assert np.diff(series.ts_ms).max() >= 3000
    assert (np.diff(series.values) > 0).all()


# ------------------------------------------------------------------ native histograms


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def zigzag(number):
    return (number << 1) ^ (number >> 63)


def native(moment_ms, counts, total):
    """A histogram of schema 0: buckets (1/2, 1], (1, 2], (2, 4] …"""
    deltas = b"".join(varint(zigzag(b - a)) for a, b in zip([0, *counts], counts, strict=False))
    span = field(1, zigzag(0)) + field(2, len(counts))
    return (
        field(1, sum(counts)) + field(3, total) + field(4, 0) + field(5, 1e-9)
        + field(11, span) + field(12, deltas) + field(15, moment_ms)
    )  # fmt: skip


def write_native(url, labels, histograms):
    series = b"".join(field(1, field(1, name) + field(2, value)) for name, value in sorted(labels.items()))
    series += b"".join(field(4, histogram) for histogram in histograms)
    body = bytes(cramjam.snappy.compress_raw(field(1, series)))
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/api/v1/write", body, headers), timeout=10).close()


def test_native_histograms_become_counters_up_to_their_own_bounds(tmp_path):
    flags = ["--enable-feature=native-histograms", "--web.enable-remote-write-receiver"]
    end = now().replace(microsecond=0)
    moments = [end - timedelta(seconds=s) for s in (30, 15, 0)]
    end_s = int(end.timestamp()) // 15 * 15
    moments_ms = [(end_s - s) * 1000 for s in (30, 15, 0)]
    counts = [[1, 2], [2, 4, 1], [5, 6, 3]]
    with prometheus(tmp_path, tmp_path / "data", "global: {}\n", *flags) as url:
        labels = {"__name__": "request_seconds", "instance": "a", "version": "1"}
        histograms = [native(t, c, 1.5 * sum(c)) for t, c in zip(moments_ms, counts, strict=True)]
        write_native(url, labels, histograms)
        with connect(options(url)) as source:
            query = Query("request_seconds{$selector}", QueryKind.HISTOGRAM)
            answer = source.fetch(query, "baseline", moments[0] - timedelta(seconds=15), end)
    parts = {(series.part, series.le if series.part == "bucket" else None): series for series in answer.series}
    assert parts["count", None].values.tolist() == [3, 7, 14]
    assert parts["sum", None].values.tolist() == [4.5, 10.5, 21]
    assert parts["bucket", 1.0].values.tolist() == [1, 2, 5]
    assert parts["bucket", 2.0].values.tolist() == [3, 6, 11]
    assert parts["bucket", 4.0].values.tolist() == [3, 7, 14]
    assert parts["bucket", math.inf].values.tolist() == [3, 7, 14]
    assert parts["count", None].ts_ms.tolist() == moments_ms
    assert {series.instance for series in answer.series} == {"a"}


# ------------------------------------------------------------------ exporters of the ready-made sets


@contextmanager
def exporter(name, *arguments, environment=None):
    """An exporter of Debian's packages on a port of its own."""
    own = free_port()
    command = [program(name), f"--web.listen-address=127.0.0.1:{own}", *arguments]
    with running(command, own, "/metrics", environment=environment):
        yield own


@contextmanager
def redis(folder):
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        with exporter("prometheus-redis-exporter", f"--redis.addr=redis://127.0.0.1:{port}") as own:
            wait_for(lambda: b"redis_up 1" in read(f"http://127.0.0.1:{own}/metrics"), "redis")
            yield own
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def nginx(folder):
    port = free_port()
    config = folder / "nginx.conf"
    paths = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\n  access_log off;\n{paths}"
        f"  server {{ listen 127.0.0.1:{port}; location /status {{ stub_status; }} }}\n}}\n"
    )
    with (
        running([program("nginx"), "-c", str(config)], port, "/status"),
        exporter("prometheus-nginx-exporter", f"-nginx.scrape-uri=http://127.0.0.1:{port}/status") as own,
    ):
        yield own


@contextmanager
def postgres():
    """A PostgreSQL, which must not be run by root."""
    port, own = free_port(), "postgres" if os.geteuid() == 0 else getpass.getuser()
    wrap = ["runuser", "-u", own, "--"] if os.geteuid() == 0 else []
    tools = max(Path("/usr/lib/postgresql").glob("*/bin"))
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        shutil.chown(folder, own)
        subprocess.run(
            [*wrap, tools / "initdb", "-D", f"{folder}/data", "-A", "trust"], check=True, capture_output=True
        )
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(port)]
        command = [*wrap, tools / "postgres", "-D", f"{folder}/data", *settings]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"postgresql://{own}@127.0.0.1:{port}/postgres?sslmode=disable"
        try:
            with exporter("prometheus-postgres-exporter", environment={"DATA_SOURCE_NAME": address}) as running:
                wait_for(lambda: b"pg_up 1" in read(f"http://127.0.0.1:{running}/metrics"), "postgres")
                yield running
        finally:
            server.terminate()
            server.wait(20)


def read(url):
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read()


SETS = ("redis", "node", "nginx", "postgres")


@pytest.fixture(scope="module")
def exporters(tmp_path_factory):
    """A server that has scraped the exporters."""
    folder = tmp_path_factory.mktemp("exporters")
    with ExitStack() as stack:
        ports = [
            stack.enter_context(redis(folder)),
            stack.enter_context(exporter("prometheus-node-exporter")),
            stack.enter_context(nginx(folder)),
            stack.enter_context(postgres()),
        ]
        url = stack.enter_context(prometheus(folder, folder / "data", scrape(zip(SETS, ports, strict=True))))
        wait_for_scrapes(url, len(ports))
        time.sleep(1.5)
        yield url


@pytest.mark.parametrize(
    ("name", "metric"), [pytest.param(name, metric, id=metric["name"]) for name in SETS for metric in QUERY_SETS[name]]
)
def test_every_metric_of_a_ready_made_set_exists(exporters, name, metric):
    kind = QueryKind.GAUGE if metric["type"].startswith("gauge") else QueryKind.COUNTER
    texts = [metric[key] for key in ("query", "failures", "requests") if key in metric]
    selectors = {"baseline": f'version="{name}"', "canary": 'version="none"'}
    with connect(PrometheusSource(url=exporters, selectors=selectors, step=1)) as source:
        for text in texts:
            assert source.fetch(Query(text, kind), "baseline", now() - timedelta(seconds=6), now()).series
