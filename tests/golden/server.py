"""A metrics server in this process: what Prometheus answers to the queries of `evaluator collect`, from seeded series.

It is asked for as http://prometheus.example:9090, whatever port it listens on: an address is part of what a verdict
says, and must be the same each time.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import numpy as np

HOST = "prometheus.example"
URL = f"http://{HOST}:9090"
LOOK_BACK_S = 300.0


@dataclass
class Metrics:
    """What a server has, and how it behaves."""

    series: list[Series] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    partial: bool = False
    ahead_s: float = 0.0
    sloppy: bool = False
    """Samples of the minute before are told as well."""
    refuses: int = 0
    """Status of every answer but that of the clock."""

    def add(self, name: str, labels: dict[str, str], ts: np.ndarray, values: np.ndarray) -> None:
        self.series.append(Series({"__name__": name, **labels}, ts, values))


@dataclass
class Series:
    labels: dict[str, str]
    ts: np.ndarray
    """Seconds since 1970."""
    values: np.ndarray
    native: list[dict[str, Any]] | None = None
    """A histogram for each sample, in place of its value."""


_SELECTOR = re.compile(r"\s*([a-zA-Z_:][\w:]*)?\s*(?:\{([^}]*)\})?\s*")
_MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*,?')


def find_series(metrics: Metrics, text: str) -> list[Series]:
    """The series that a selector such as `up{version="1"}` matches."""
    found = _SELECTOR.fullmatch(text)
    if not found:
        raise ValueError(text)
    matchers = [("__name__", "=", found[1])] if found[1] else []
    matchers += [(name, how, value.replace("\\\\", "\\")) for name, how, value in _MATCHER.findall(found[2] or "")]
    return [one for one in metrics.series if all(_matches(one.labels.get(m[0], ""), m[1], m[2]) for m in matchers)]


def _matches(value: str, how: str, wanted: str) -> bool:
    if how in ("=", "!="):
        return (value == wanted) == (how == "=")
    return bool(re.fullmatch(wanted, value)) == (how == "=~")


def answer_samples(metrics: Metrics, query: str, at: float) -> list[dict[str, Any]]:
    """Samples as they were scraped: `up{version="1"}[60000ms]`."""
    selector, lasts = re.fullmatch(r"(.*)\[(\d+)ms\]", query, re.DOTALL).groups()  # type: ignore[union-attr]
    out = []
    for one in find_series(metrics, selector):
        first = at - int(lasts) / 1000 - 60 * metrics.sloppy
        here = (one.ts > first - 1e-6) & (one.ts <= at + 1e-6)
        if here.any() and one.native:
            told = [[one.ts[k], one.native[k]] for k in np.flatnonzero(here)]
            out.append({"metric": one.labels, "histograms": told})
        elif here.any():
            out.append({"metric": one.labels, "values": _write(one.ts[here], one.values[here])})
    return out


def answer_steps(metrics: Metrics, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """Values at each step; of expressions only a selector, or two of them divided, by the labels that both have."""
    at = np.arange(start, end + 1e-6, step)
    first, _, second = query.partition(" / ")
    out = []
    for one in find_series(metrics, first):
        values = _look_back(one, at)
        labels = {key: value for key, value in one.labels.items() if key != "__name__"} if second else one.labels
        for other in find_series(metrics, second) if second else ():
            if {key: value for key, value in other.labels.items() if key != "__name__"} == labels:
                values = values / _look_back(other, at)
        here = ~np.isnan(values)
        if here.any():
            out.append({"metric": labels, "values": _write(at[here], values[here])})
    return out


def _look_back(one: Series, at: np.ndarray) -> np.ndarray:
    place = np.searchsorted(one.ts, at + 1e-6) - 1
    values = np.where(place >= 0, one.values[np.maximum(place, 0)], np.nan)
    return np.where(at - one.ts[np.maximum(place, 0)] <= LOOK_BACK_S, values, np.nan)


def _write(ts: np.ndarray, values: np.ndarray) -> list[list[Any]]:
    words = {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}
    return [[at, words.get(str(value), repr(value))] for at, value in zip(ts.tolist(), values.tolist(), strict=True)]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer({key: values[0] for key, values in parse_qs(body).items()}, self.path)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self._answer({key: values[0] for key, values in parse_qs(query).items()}, path)

    def _answer(self, form: dict[str, str], path: str) -> None:
        metrics: Metrics = self.server.metrics  # type: ignore[attr-defined]
        now = time.time() + metrics.ahead_s
        if form.get("query") == "time()":
            self._send(200, {"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}}, now)
        elif metrics.refuses:
            self._send(metrics.refuses, {"status": "error", "errorType": "internal", "error": "no storage"}, now)
        else:
            self._send(200, self._find(metrics, form, path), now)

    def _find(self, metrics: Metrics, form: dict[str, str], path: str) -> dict[str, Any]:
        if path.endswith("/series"):
            first, last = float(form["start"]), float(form["end"])
            found = [one for one in find_series(metrics, form["match[]"]) if _lives(one, first, last)]
            return {"status": "success", "data": [one.labels for one in found]}
        if path.endswith("/query_range"):
            bounds = (float(form[name]) for name in ("start", "end", "step"))
            result = answer_steps(metrics, form["query"], *bounds)
        else:
            result = answer_samples(metrics, form["query"], float(form["time"]))
        answer = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        answer |= {"warnings": list(metrics.warnings)} if metrics.warnings else {}
        answer |= {"infos": list(metrics.notes)} if metrics.notes else {}
        return answer | ({"isPartial": True} if metrics.partial else {})

    def _send(self, status: int, answer: dict[str, Any], now: float) -> None:
        content = json.dumps(answer).encode()
        self.send_response_only(status)
        self.send_header("Date", formatdate(now, usegmt=True))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _lives(one: Series, first: float, last: float) -> bool:
    return bool(((one.ts >= first) & (one.ts <= last)).any())


@contextlib.contextmanager
def serving(metrics: Metrics) -> Iterator[None]:
    """Answer as http://prometheus.example:9090 until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.metrics = metrics  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    real, port = socket.getaddrinfo, server.server_address[1]

    def find(host: Any, wanted: Any, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1", port, *more, **named) if host == HOST else real(host, wanted, *more, **named)

    socket.getaddrinfo = find  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.getaddrinfo = real
        server.shutdown()
        server.server_close()
        thread.join()
