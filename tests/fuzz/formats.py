"""Valid files of the tools that the golden inputs do not have, and packed ones, as content to be changed."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from golden.traffic import FORMATS as GOLDEN_FORMATS
from golden.traffic import Format, Rows, each, iso


def _write_json_lines(path: Path, rows: Rows) -> None:
    lines = [
        json.dumps({
            "ts": iso(ts), "endpoint": endpoint, "response_time_ms": ms, "failed": failed, "instance": instance,
            "extra": {"size": size, "tags": ["a", None]},
        })
        for ts, endpoint, ms, failed, instance, size, _ in each(rows)
    ]  # fmt: skip
    path.write_text("\n".join([*lines, ""]))


def _write_vegeta_json(path: Path, rows: Rows) -> None:
    lines = []
    for number, (ts, endpoint, ms, failed, _, size, _) in enumerate(each(rows)):
        method, address = endpoint.split(" ", 1)
        hit = {
            "attack": "shop", "seq": number, "code": 500 if failed else 200, "timestamp": iso(ts),
            "latency": round(ms * 1e6), "bytes_out": 0, "bytes_in": size, "error": "500 bad" if failed else "",
            "body": "eA==", "method": method, "url": f"http://shop{address}", "headers": {"Date": ["today"]},
        }  # fmt: skip
        lines.append(json.dumps(hit))
    path.write_text("\n".join([*lines, ""]))


def _write_vegeta_csv(path: Path, rows: Rows) -> None:
    lines = []
    for number, (ts, endpoint, ms, failed, _, size, _) in enumerate(each(rows)):
        method, address = endpoint.split(" ", 1)
        code, error = (500, '"500, bad"') if failed else (200, "")
        start, took = round(ts * 1e9), round(ms * 1e6)
        lines.append(f"{start},{code},{took},0,{size},{error},eA==,shop,{number},{method},http://shop{address},")
    path.write_text("\n".join([*lines, ""]))


def _write_gatling(path: Path, rows: Rows) -> None:
    lines = [f"RUN\tshop.Shop\tshop\t{round(rows.ts.min() * 1000)}\t \t3.9.5", "USER\tShop\tSTART\t1772445600000"]
    for number, (ts, endpoint, ms, failed, *_) in enumerate(each(rows)):
        start = round(ts * 1000)
        end, status = start + round(ms), "KO\tfound 500" if failed else "OK\t "
        lines.append(f"REQUEST\t\t{endpoint}\t{start}\t{end}\t{status}")
        if number % 50 == 0:
            lines.append(f"GROUP\tBuy,Pay\t{start}\t{end}\t{end - start}\tOK")
            lines.append(f"ERROR\tNo attribute named 'x' is defined \t{start}")
    path.write_text("\n".join([*lines, ""]))


def _write_hey(path: Path, rows: Rows) -> None:
    begin = rows.ts.min()
    lines = ["response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset"]
    for ts, _, ms, failed, *_ in each(rows):
        lines.append(f"{ms / 1000:.4f},0.0001,0,0,{ms / 1000:.4f},0,{500 if failed else 200},{ts - begin:.4f}")
    path.write_text("\n".join([*lines, ""]))


def _write_oha(path: Path, rows: Rows) -> None:
    begin = rows.ts.min()
    lines = ["request-start,DNS,DNS+dialup,Response-delay,request-duration,bytes,status"]
    for ts, _, ms, failed, _, size, _ in each(rows):
        took = ms / 1000
        lines.append(f"{ts - begin:.6f},0,0.0001,{took:.6f},{took:.6f},{size},{500 if failed else 200}")
    path.write_text("\n".join([*lines, ""]))


def _write_pyperf(path: Path, rows: Rows) -> None:
    runs: list[dict[str, Any]] = []
    for first in range(0, len(rows), 20):
        date = datetime.fromtimestamp(rows.ts[first], UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        values = (rows.ms[first : first + 20] / 1000).tolist()
        metadata = {"date": date, "loops": 1, "unit": "second"}
        runs.append({"metadata": metadata, "values": values, "warmups": [[1, 0.02]]})
    benchmark = {"metadata": {"name": "encode"}, "runs": runs}
    path.write_text(json.dumps({"version": "1.0", "metadata": {"hostname": "a"}, "benchmarks": [benchmark]}))


def _write_google_benchmark(path: Path, rows: Rows) -> None:
    benchmarks: list[dict[str, Any]] = [
        {
            "name": endpoint, "run_name": endpoint, "run_type": "iteration", "repetitions": 3, "threads": 1,
            "iterations": 10, "real_time": ms * 1e3, "cpu_time": ms * 1e3, "time_unit": "us",
        }
        for _, endpoint, ms, *_ in each(rows)
    ]  # fmt: skip
    benchmarks.append({**benchmarks[0], "run_type": "aggregate", "aggregate_name": "mean"})
    context = {"date": "2026-03-02T10:00:00+00:00", "host_name": "a", "num_cpus": 2, "mhz_per_cpu": 3000}
    path.write_text(json.dumps({"context": context, "benchmarks": benchmarks}, indent=1))


def _write_arrow(path: Path, rows: Rows) -> None:
    GOLDEN_FORMATS["parquet"].write(path, rows)
    table = pq.read_table(path)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


FORMATS: Mapping[str, Format] = {
    **GOLDEN_FORMATS,
    "arrow": Format(_write_arrow, "arrow"),
    "json-lines": Format(_write_json_lines, "jsonl"),
    "vegeta-json": Format(_write_vegeta_json, "json"),
    "vegeta-csv": Format(_write_vegeta_csv, "csv"),
    "gatling": Format(_write_gatling, "log"),
    "hey": Format(_write_hey, "csv"),
    "oha": Format(_write_oha, "csv"),
    "pyperf": Format(_write_pyperf, "json"),
    "google-benchmark": Format(_write_google_benchmark, "json"),
}
"""Format of request files → how a valid one is written."""


# ------------------------------------------------------------------ packed files


def _pack_zip(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("requests.csv", content)
    return sink.getvalue()


PACKINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, compresslevel=1, mtime=0),
    "bz2": lambda content: bz2.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
    "zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    "zip": _pack_zip,
}
"""Ending of a packed file → how it is packed."""
