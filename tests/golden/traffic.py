"""Requests of two versions or more, drawn from a seed, and the files in which load tools leave them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
START_S = START.timestamp()
ENDPOINTS = ("GET /", "GET /items", "POST /cart", "POST /checkout", "GET /search")


def make_random(name: str) -> np.random.RandomState:
    """Random numbers of a name, the same on every machine and with every version of numpy."""
    # The streams of RandomState are frozen, those of Generator may change with numpy.
    return np.random.RandomState(zlib.crc32(name.encode()))


@dataclass(frozen=True)
class Arm:
    """One version: by how much it differs from a service with medians from 40 to 200 ms."""

    name: str = "baseline"
    latency: float = 1.0
    tail: float = 1.0
    """Factor on the slowest 2 % of the requests."""
    failures: float = 0.002
    size: float = 1.0
    rate: float = 1.0
    endpoint_latency: dict[str, float] = field(default_factory=dict)
    endpoint_failures: dict[str, float] = field(default_factory=dict)
    endpoint_rate: dict[str, float] = field(default_factory=dict)
    instances: int | None = None
    leak: float = 0.0
    """What is added to the factor of the latency until the end."""
    silent: tuple[tuple[float, float], ...] = ()
    """Parts of the run (shares of its time) without any request."""
    silent_endpoint: tuple[str, float, float] | None = None
    silent_instance: tuple[int, float, float] | None = None
    replaced_instance: tuple[int, float] | None = None
    """The instance with this number ends at this share of the time, and another one takes over."""
    replaced_every_s: float = 0.0
    """All instances are replaced so often."""
    shift_s: float = 0.0
    users: int = 10


@dataclass(frozen=True)
class Test:
    """How long and how much is loaded, and what both versions share."""

    seconds: float = 300.0
    rate: float = 12.0
    """Requests a second of each arm."""
    runs: int = 1
    pause_s: float = 30.0
    instances: int = 3
    instance_sd: float = 0.01
    run_sd: float = 0.0
    sigma: float = 0.45
    drift: float = 0.10
    endpoints: tuple[str, ...] = ENDPOINTS
    ramp_s: float = 0.0
    """Users and requests grow from none to all in this time."""
    warm_s: float = 0.0
    """The first so many seconds are twice as slow."""
    heavy: float = 0.0
    """Share of requests with a Pareto tail of index 1.3."""
    step_ms: float = 0.001
    constant_ms: float | None = None
    labelled: bool = True
    start_s: float = START_S


@dataclass
class Rows:
    """Requests of one run of one arm, in the order of time."""

    arm: str
    ts: np.ndarray
    """Seconds since 1970."""
    endpoint: np.ndarray
    ms: np.ndarray
    failed: np.ndarray
    instance: np.ndarray
    size: np.ndarray
    users: np.ndarray

    def pick(self, chosen: np.ndarray) -> Rows:
        kept = {name: getattr(self, name)[chosen] for name in ("ts", "endpoint", "ms", "failed", "instance")}
        return Rows(self.arm, **kept, size=self.size[chosen], users=self.users[chosen])

    def __len__(self) -> int:
        return len(self.ts)


def draw(name: str, test: Test, *arms: Arm) -> dict[str, list[Rows]]:
    """Arm → the requests of each run."""
    random = make_random(name)
    shared = _draw_drift(random, test)
    return {arm.name: [_draw_run(random, test, arm, run, shared[run]) for run in range(test.runs)] for arm in arms}


def _draw_drift(random: np.random.RandomState, test: Test) -> list[np.ndarray]:
    """What hits all arms at the same time: a slow drift of latency, by the second."""
    out = []
    for _ in range(test.runs):
        level, levels = 0.0, []
        for step in random.normal(0, 1, int(test.seconds) + 1):
            level = 0.97 * level + 0.243 * step
            levels.append(level)
        out.append(test.drift * np.array(levels))
    return out


def _draw_run(random: np.random.RandomState, test: Test, arm: Arm, run: int, drift: np.ndarray) -> Rows:
    n = round(test.seconds * test.rate * arm.rate)
    at = np.sort(random.uniform(0, test.seconds, n))
    if test.ramp_s:
        at = np.sort(np.where(at < test.ramp_s, np.sqrt(at * test.ramp_s), at))
    shares = np.array([arm.endpoint_rate.get(one, 1.0) / (k + 1) for k, one in enumerate(test.endpoints)])
    kind = random.choice(len(test.endpoints), n, p=shares / shares.sum())
    count = arm.instances or test.instances
    instance = random.randint(0, count, n)
    level = random.normal(0, test.instance_sd, count)
    of_run = random.normal(0, test.run_sd) if test.run_sd else 0.0
    median = np.geomspace(40, 200, len(test.endpoints))[kind]
    ms = median * arm.latency * np.exp(test.sigma * random.normal(0, 1, n) + level[instance] + of_run)
    ms *= np.exp(drift[at.astype(int)]) * (1 + arm.leak * at / test.seconds)
    slow = random.uniform(0, 1, n) < 0.02
    ms[slow] *= 3.0 * arm.tail
    if test.heavy:
        heavy = random.uniform(0, 1, n) < test.heavy
        ms[heavy] *= 1 + random.pareto(1.3, int(heavy.sum()))
    for endpoint, factor in arm.endpoint_latency.items():
        ms[kind == test.endpoints.index(endpoint)] *= factor
    if test.warm_s:
        ms[at < test.warm_s] *= 2
    if test.constant_ms is not None:
        ms = np.full(n, test.constant_ms * arm.latency)
    chance = np.full(n, arm.failures)
    for endpoint, share in arm.endpoint_failures.items():
        chance[kind == test.endpoints.index(endpoint)] = share
    failed = random.uniform(0, 1, n) < chance
    size = np.rint(1000 * arm.size * np.exp(0.3 * random.normal(0, 1, n))).astype(int)
    names = _name_instances(arm, test, instance, at)
    users = np.full(n, arm.users)
    if test.ramp_s:
        users = np.maximum(1, np.minimum(arm.users, np.ceil(arm.users * at / test.ramp_s))).astype(int)
    start = test.start_s + run * (test.seconds + test.pause_s) + arm.shift_s
    rows = Rows(
        arm.name,
        np.round(start + at, 3),
        np.array(test.endpoints, dtype=object)[kind],
        np.round(np.maximum(np.rint(ms / test.step_ms), 1) * test.step_ms, 3),
        failed,
        names,
        size,
        users,
    )
    return rows.pick(_find_kept(arm, test, kind, instance, at / test.seconds))


def _name_instances(arm: Arm, test: Test, instance: np.ndarray, at: np.ndarray) -> np.ndarray:
    if not test.labelled:
        return np.full(len(at), "", dtype=object)
    count = arm.instances or test.instances
    names = np.array([f"{arm.name}-{k + 1}" for k in range(count)], dtype=object)[instance]
    if arm.replaced_instance:
        number, share = arm.replaced_instance
        names[(instance == number) & (at > share * test.seconds)] = f"{arm.name}-{count + 1}"
    if arm.replaced_every_s:
        names += np.array([f"-{int(one // arm.replaced_every_s)}" for one in at], dtype=object)
    return names


def _find_kept(arm: Arm, test: Test, kind: np.ndarray, instance: np.ndarray, share: np.ndarray) -> np.ndarray:
    kept = np.ones(len(share), bool)
    for first, last in arm.silent:
        kept &= ~((share >= first) & (share < last))
    if arm.silent_endpoint:
        endpoint, first, last = arm.silent_endpoint
        kept &= ~((kind == test.endpoints.index(endpoint)) & (share >= first) & (share < last))
    if arm.silent_instance:
        number, first, last = arm.silent_instance
        kept &= ~((instance == number) & (share >= first) & (share < last))
    return kept


def cut(rows: Rows, first: float, last: float) -> Rows:
    """The requests between two moments, in seconds since START."""
    return rows.pick((rows.ts - START_S >= first) & (rows.ts - START_S < last))


# ------------------------------------------------------------------ files


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _status(failed: bool) -> int:
    return 500 if failed else 200


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """A CSV file; compressed where its name ends in .gz."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def each(rows: Rows) -> list[tuple[float, str, float, bool, str, int, int]]:
    """Requests as tuples of plain values."""
    columns = (rows.ts, rows.endpoint, rows.ms, rows.failed, rows.instance, rows.size, rows.users)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def write_plain(path: Path, rows: Rows) -> None:
    """CSV with the names of the request row."""
    header = ["ts", "endpoint", "response_time_ms", "failed", "instance", "response_bytes", "status_code"]
    table = [
        [iso(ts), endpoint, f"{ms:.3f}", str(failed).lower(), instance, size, _status(failed)]
        for ts, endpoint, ms, failed, instance, size, _ in each(rows)
    ]
    write_csv(path, header, table)


def write_users(path: Path, rows: Rows) -> None:
    """The same with the number of users."""
    header = ["ts", "endpoint", "response_time_ms", "failed", "instance", "user_count", "exception"]
    table = [
        [iso(ts), endpoint, f"{ms:.3f}", int(failed), instance, users, "TimeoutError" if failed else ""]
        for ts, endpoint, ms, failed, instance, _, users in each(rows)
    ]
    write_csv(path, header, table)


def write_mapped(path: Path, rows: Rows) -> None:
    """CSV with names and units of its own: --column says what they are."""
    table = [
        [f"{ts * 1000:.0f}", *endpoint.split(" ", 1), f"{ms / 1000:.6f}", _status(failed), instance]
        for ts, endpoint, ms, failed, instance, *_ in each(rows)
    ]
    write_csv(path, ["started", "method", "path", "elapsed", "code", "pod"], table)


MAPPED = (
    *("--column", "ts=started:ms", "--column", "endpoint=method+path", "--column", "response_time_ms=elapsed:s"),
    *("--column", "failed=code:status", "--column", "instance=pod"),
)


def write_relative(path: Path, rows: Rows) -> None:
    """Times count from the start of the test, and an error is a text."""
    begin = rows.ts.min() if len(rows) else 0.0
    table = [
        [f"{ts - begin:.3f}", endpoint, f"{ms:.3f}", "timeout" if failed else "", instance]
        for ts, endpoint, ms, failed, instance, *_ in each(rows)
    ]
    write_csv(path, ["t", "endpoint", "response_time_ms", "error", "instance"], table)


RELATIVE = ("--column", "ts=t:s", "--column", "failed=error:text")


def write_parquet(path: Path, rows: Rows) -> None:
    columns = {
        "ts": pa.array(np.rint(rows.ts * 1e6).astype("int64"), pa.timestamp("us", "UTC")),
        "endpoint": pa.array(rows.endpoint.tolist(), pa.string()),
        "response_time_ms": pa.array(rows.ms),
        "failed": pa.array(rows.failed),
        "instance": pa.array(rows.instance.tolist(), pa.string()),
        "response_bytes": pa.array(rows.size),
    }
    pq.write_table(pa.table(columns), path)


def write_locust(path: Path, rows: Rows) -> None:
    """What CsvRequestLogger writes."""
    header = ["timestamp", "request_type", "name", "response_time_ms", "response_length", "status_code", "exception"]
    table = [
        [f"{ts:.3f}", *endpoint.split(" ", 1), f"{ms:.3f}", size, _status(failed), "HTTPError('500')" if failed else ""]
        for ts, endpoint, ms, failed, _, size, _ in each(rows)
    ]
    write_csv(path, header, table)


_JTL = ["timeStamp", "elapsed", "label", "responseCode", "responseMessage", "threadName", "success", "bytes"]


def write_jtl(path: Path, rows: Rows) -> None:
    """JMeter's CSV; every fourth request has a redirect, and every tenth is inside of a transaction."""
    table: list[list[Any]] = []
    for number, (ts, endpoint, ms, failed, _, size, _) in enumerate(each(rows)):
        at, took, thread = round(ts * 1000), max(round(ms), 2), f"Users 1-{number % 5 + 1}"
        answer = [_status(failed), "Error" if failed else "OK", thread, str(not failed).lower(), size]
        table.append([at, took, endpoint, *answer])
        if number % 4 == 0:
            table.append([at, took // 2, f"{endpoint}-0", *answer])
            table.append([at + took // 2, took - took // 2, f"{endpoint}-1", *answer])
        if number % 10 == 0:
            message = f"Number of samples in transaction : 1, number of failing samples : {int(failed)}"
            table.append([at, took, "Order", "", message, thread, str(not failed).lower(), size])
    write_csv(path, _JTL, table)


def write_jtl_xml(path: Path, rows: Rows) -> None:
    """JMeter's XML, with a redirect inside of every fourth sample."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<testResults version="1.2">']
    for number, (ts, endpoint, ms, failed, _, size, _) in enumerate(each(rows)):
        at, took = round(ts * 1000), max(round(ms), 1)
        text = f'ts="{at}" t="{took}" lb={quoteattr(endpoint)} s="{str(not failed).lower()}" rc="{_status(failed)}"'
        inner = f'<httpSample ts="{at}" t="{took}" lb="part" s="true" rc="200"/>' if number % 4 == 0 else ""
        lines.append(f'<httpSample {text} by="{size}" tn="Users 1-1">{inner}</httpSample>')
    path.write_text("\n".join([*lines, "</testResults>", ""]), encoding="utf-8")


def write_k6_csv(path: Path, rows: Rows) -> None:
    """Points of k6, with the describing points of each tenth request and some failed checks."""
    header = ["metric_name", "timestamp", "metric_value", "expected_response", "method", "name", "status", "error"]
    table: list[list[Any]] = []
    for number, (ts, endpoint, ms, failed, *_) in enumerate(each(rows)):
        at, method, name = f"{(ts + ms / 1000) * 1000:.0f}", *endpoint.split(" ", 1)
        tags = [str(not failed).lower(), method, name, _status(failed), "timeout" if failed else ""]
        table.append(["http_req_duration", at, f"{ms:.3f}", *tags])
        if number % 10 == 0:
            table.append(["http_reqs", at, "1", *tags])
            table.append(["vus", at, "10", "", "", "", "", ""])
        if number % 50 == 0:
            table.append(["checks", at, str(int(number % 150 > 0)), "", "", "", "", ""])
    write_csv(path, header, table)


def write_k6_json(path: Path, rows: Rows) -> None:
    lines = [json.dumps({"type": "Metric", "data": {"type": "trend"}, "metric": "http_req_duration"})]
    for ts, endpoint, ms, failed, *_ in each(rows):
        method, name = endpoint.split(" ", 1)
        tags = {"method": method, "name": name, "status": str(_status(failed))}
        tags["expected_response"] = str(not failed).lower()
        data = {"time": iso(ts + ms / 1000), "value": ms, "tags": tags}
        lines.append(json.dumps({"type": "Point", "data": data, "metric": "http_req_duration"}))
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


@dataclass(frozen=True)
class Format:
    """A writer, the ending of its files, and what the import must be told of them."""

    write: Any
    ending: str
    options: tuple[str, ...] = ()


FORMATS = {
    "csv": Format(write_plain, "csv"),
    "csv-gz": Format(write_plain, "csv.gz"),
    "csv-users": Format(write_users, "csv"),
    "csv-mapped": Format(write_mapped, "csv", MAPPED),
    "csv-relative": Format(write_relative, "csv", RELATIVE),
    "parquet": Format(write_parquet, "parquet"),
    "locust": Format(write_locust, "csv"),
    "jtl": Format(write_jtl, "jtl"),
    "jtl-xml": Format(write_jtl_xml, "xml"),
    "jtl-transactions": Format(write_jtl, "jtl", ("--format", "jtl-transactions")),
    "k6-csv": Format(write_k6_csv, "csv"),
    "k6-json": Format(write_k6_json, "json"),
}


# ------------------------------------------------------------------ a run as Locust's recorder leaves it

_NAME = pa.dictionary(pa.int32(), pa.string())


def write_recording(
    folder: Path, release: str, run: str, drawn: dict[str, list[Rows]], *, planned_s: float | None, **facts: Any
) -> None:
    """Write the requests of a recorded run beside the store, and what its process says of itself.

    These files are a contract on disk: recordings of an older version are landed by a newer one.
    """
    place = folder / "evaluator.data" / release / run
    place.mkdir(parents=True)
    parts = [rows for runs in drawn.values() for rows in runs if len(rows)]
    tables = [_lay_out_segment(run, rows) for rows in parts]
    if tables:
        pq.write_table(pa.concat_tables(tables), place / "seg-local-000000.parquet")
    rows = sum(table.num_rows for table in tables)
    started = facts.pop("started", min((float(part.ts.min()) for part in parts), default=START_S))
    ended = facts.pop("ended", max((float(part.ts.max()) for part in parts), default=START_S))
    counted = dict.fromkeys(drawn, 0)
    for part in parts:
        counted[part.arm] += len(part)
    sidecar = {
        "worker": "local", "role": "local", "pid": 0, "host": "elsewhere", "rows": rows, "counted": rows,
        "read": counted, "left_out": [], "in_flight": [], "started": started, "users_stopped": ended, "ended": ended,
        "plateau_start": started, "users": dict.fromkeys(drawn, 10), "target_users": 10 * len(drawn),
        "cpu_percent": 30.0, "loop_lag_ms": 2.0, "clock_offset_s": 0.0, "pacing": "open", "closed": True,
    }  # fmt: skip
    sheet = {"run": run, "release": release, "service": "cart", "started": started, "run_time_s": planned_s}
    (place / "facts-local.json").write_text(json.dumps(sidecar | facts), encoding="utf-8")
    (place / "run.json").write_text(json.dumps({**sheet, "fingerprint": {"users": 10}}), encoding="utf-8")


def _lay_out_segment(run: str, rows: Rows) -> pa.Table:
    n = len(rows)
    columns = {
        "run": pa.array([run] * n, pa.string()).cast(_NAME),
        "arm": pa.array([rows.arm] * n, pa.string()).cast(_NAME),
        "service": pa.array(["cart"] * n, pa.string()).cast(_NAME),
        "instance": pa.array([name or rows.arm for name in rows.instance.tolist()], pa.string()).cast(_NAME),
        "worker": pa.array(["local"] * n, pa.string()).cast(_NAME),
        "ts": pa.array(np.rint(rows.ts * 1e6).astype("int64"), pa.timestamp("us", "UTC")),
        "endpoint": pa.array(rows.endpoint.tolist(), pa.string()).cast(_NAME),
        "response_time_ms": pa.array(rows.ms.astype(float)),
        "response_bytes": pa.array(rows.size.astype("int64")),
        "status_code": pa.array(np.where(rows.failed, 500, 200).astype("int16")),
        "failed": pa.array(rows.failed),
        "exception": pa.array(["HTTPError" if one else None for one in rows.failed.tolist()], pa.string()).cast(_NAME),
        "user_count": pa.array(rows.users.astype("int32")),
        "context": pa.nulls(n, pa.map_(pa.string(), pa.string())),
    }
    return pa.table(columns)
