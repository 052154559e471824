"""Changed files of requests and of outcomes, imported and judged."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
from golden.traffic import Arm, Test, draw

from fuzz.checking import Case
from fuzz.formats import FORMATS, PACKINGS
from fuzz.mutators import mutate_bytes, mutate_json, mutate_table

_TEST = Test(seconds=120.0, rate=6.0, sigma=0.05, drift=0.0, instance_sd=0.0)
"""Requests that vary so little that a GO is possible: only then can a change make a wrong one."""

_POLICY = """
metrics:
  - {name: failures, type: failure_rate, role: gate, margin: 20pp}
  - {name: p50, type: latency_quantile, quantile: 0.5, role: gate, margin: 100%}
"""
_OUTCOME_POLICY = """
metrics:
  - {name: conversion, type: outcome_proportion, outcome: converted, role: gate, margin: 30pp}
  - {name: revenue, type: outcome_mean, outcome: revenue, role: watch}
"""


@cache
def make_files(name: str) -> tuple[bytes, bytes]:
    """Write the valid files of a format: content of the baseline's and of the canary's."""
    import tempfile

    drawn = draw("fuzz", _TEST, Arm(failures=0.02), Arm("canary", failures=0.02))
    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for arm in ("baseline", "canary"):
            path = Path(folder) / f"{arm}.{FORMATS[name].ending}"
            FORMATS[name].write(path, drawn[arm][0])
            contents.append(path.read_bytes())
    return contents[0], contents[1]


def write_requests(folder: Path) -> list[Path]:
    """Write valid files of the baseline's and of the canary's requests."""
    paths = [folder / f"{arm}.csv" for arm in ("baseline", "canary")]
    for path, content in zip(paths, make_files("csv"), strict=True):
        path.write_bytes(content)
    return paths


_NAMED = (
    "locust", "jtl", "jtl-transactions", "k6", "vegeta", "gatling", "hey", "oha", "pyperf", "google-benchmark", "csv",
    "json", "parquet", "arrow",
)  # fmt: skip
"""Formats that `--format` knows."""


def fuzz_requests(rng: random.Random, case: Case) -> None:
    """Change one or both files of an import, import them, and judge what has landed."""
    name = rng.choice(list(FORMATS))
    form = FORMATS[name]
    is_changed = rng.choice(((True, False), (False, True), (True, True)))
    paths = []
    for arm, content, change in zip(("baseline", "canary"), make_files(name), is_changed, strict=True):
        path = case.folder / f"{arm}.{form.ending}"
        path.write_bytes(_change_file(rng, name, content) if change else content)
        if rng.random() < 0.05:  # a name that says something else than the content
            path = path.rename(
                case.folder / f"{arm}.{rng.choice(('csv', 'csv.gz', 'csv.zst', 'json', 'parquet', 'xml', 'txt'))}"
            )
        paths.append(path)
    (case.folder / "evaluator.yaml").write_text(_POLICY)
    options = [*form.options, *(["--skip-bad-rows"] if rng.random() < 0.3 else [])]
    if rng.random() < 0.05:
        options += ["--format", rng.choice(_NAMED)]
    words = ["import", "fuzz", "--baseline", str(paths[0]), "--canary", str(paths[1]), *options]
    if case.run(words, {0, 2}).code == 0:
        case.judge("fuzz")


def _change_file(rng: random.Random, name: str, content: bytes) -> bytes:
    if name.endswith("gz"):
        if rng.random() < 0.5:
            return mutate_bytes(rng, content)
        return gzip.compress(_change_text(rng, gzip.decompress(content)), compresslevel=1)
    if name == "arrow":
        return mutate_bytes(rng, content)
    if name == "parquet":
        if rng.random() < 0.3:
            return mutate_bytes(rng, _write_arrow(rng, pq.read_table(pa.BufferReader(content))))
        if rng.random() < 0.3:  # values themselves change, which the statistics of the file do not
            sink = pa.BufferOutputStream()
            pq.write_table(pq.read_table(pa.BufferReader(content)), sink, compression="none", use_dictionary=False)
            return mutate_bytes(rng, sink.getvalue().to_pybytes())
        return mutate_bytes(rng, content) if rng.random() < 0.5 else _change_parquet(rng, content)
    changed = (
        _change_json(rng, content) if content.startswith(b"{") and rng.random() < 0.5 else _change_text(rng, content)
    )
    return _pack(rng, changed)[1] if rng.random() < 0.2 else changed


def _change_json(rng: random.Random, content: bytes) -> bytes:
    """Change a document of JSON, or one or all of the documents of JSON lines."""
    text = content.decode()
    try:
        return mutate_json(rng, json.loads(text))
    except ValueError:
        lines = text.splitlines()
    if rng.random() < 0.3:  # the same change in all
        seed = rng.random()
        return b"\n".join(mutate_json(random.Random(seed), json.loads(line)) for line in lines)
    number = rng.randrange(len(lines))
    changed = mutate_json(rng, json.loads(lines[number]))
    return b"\n".join([*map(str.encode, lines[:number]), changed, *map(str.encode, lines[number + 1 :])])


def _pack(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Pack a file, and often change its packed bytes, or pack some parts one after another. Returns its ending too."""
    ending = rng.choice(list(PACKINGS))
    pack = PACKINGS[ending]
    match rng.randrange(6):
        case 0:
            packed = pack(content)
        case 1:
            half = rng.randrange(len(content) + 1)
            packed = pack(content[:half]) + pack(content[half:])
        case 2:
            packed = rng.choice(list(PACKINGS.values()))(pack(content))
        case _:
            packed = mutate_bytes(rng, pack(content))
    return ending, packed


def _change_text(rng: random.Random, content: bytes) -> bytes:
    match rng.randrange(8):
        case 0 | 1 | 2:
            return mutate_bytes(rng, content)
        case 3:
            encoding = rng.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig"))
            return content.decode("utf-8").encode(encoding, "replace")
        case _:
            delimiter = rng.choice((",", ",", ",", '"', " ", "="))
            return mutate_table(rng, content.decode("utf-8"), delimiter).encode("utf-8", "surrogatepass")


_TYPES = (
    pa.string(), pa.large_string(), pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(),
    pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("ms", "Europe/Berlin"), pa.date32(), pa.time64("us"),
    pa.duration("ms"), pa.decimal128(38, 3), pa.binary(), pa.null(), pa.dictionary(pa.int32(), pa.string()),
)  # fmt: skip


def _change_parquet(rng: random.Random, content: bytes) -> bytes:
    """Change a column of a Parquet file: its type, its values, its name, or leave it out."""
    table = pq.read_table(pa.BufferReader(content))
    number = rng.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    match rng.randrange(6):
        case 0 | 1:
            try:
                column = column.cast(rng.choice(_TYPES), safe=False)
            except pa.ArrowException:
                column = pa.nulls(table.num_rows, rng.choice(_TYPES))
        case 2:
            is_null = pa.array([rng.random() < 0.3 for _ in range(table.num_rows)])
            column = pa.compute.if_else(is_null, pa.scalar(None, column.type), column)
        case 3:
            odd = (None, [], {"a": 1}, [1, "x"][:1], "x" * 10_000, 1e308, -1, float("nan"), b"\0")
            column = pa.array([rng.choice(odd)] * table.num_rows)
        case 4:
            name = rng.choice(("", name.upper(), f"{name} ", '"', "ts", "endpoint"))
        case _:
            table = table.remove_column(number)
            return _write_parquet(rng, table)
    return _write_parquet(rng, table.set_column(number, name, column))


def _write_parquet(rng: random.Random, table: pa.Table) -> bytes:
    rows = rng.choice((table.num_rows, table.num_rows, 1, 0))
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table.slice(0, rows), sink, compression=rng.choice(("snappy", "zstd", "gzip", "none")))
    except pa.ArrowException:  # a type that Parquet does not have
        return mutate_bytes(rng, b"PAR1PAR1")
    return sink.getvalue().to_pybytes()


def _write_arrow(rng: random.Random, table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=rng.choice((None, "lz4", "zstd")))
    with rng.choice((pa.ipc.new_file, pa.ipc.new_stream))(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=500)
    return sink.getvalue().to_pybytes()


@cache
def _make_outcomes() -> str:
    random_numbers = np.random.RandomState(1)
    lines = ["user_id,variant,converted,revenue,pre_revenue"]
    for number in range(400):
        arm = ("control", "canary")[number % 2]
        converted, revenue, before = (
            random_numbers.randint(2),
            random_numbers.exponential(9),
            random_numbers.exponential(9),
        )
        lines.append(f"u{number},{arm},{converted},{revenue:.2f},{before:.2f}")
    return "\n".join([*lines, ""])


def fuzz_outcomes(rng: random.Random, case: Case) -> None:
    """Change a file of outcomes, or those of one arm, import them, and judge what has landed."""
    (case.folder / "evaluator.yaml").write_text(_OUTCOME_POLICY)
    options = ["--skip-bad-rows"] if rng.random() < 0.3 else []
    if rng.random() < 0.2:
        header, *lines = _make_outcomes().splitlines()
        for arm, variant in (("baseline", ",control,"), ("canary", ",canary,")):
            text = "\n".join([header, *(line for line in lines if variant in line), ""])
            path = _write_outcomes(rng, case.folder, arm, text, is_changed=arm == "canary")
            options += ["--arm-outcomes", f"{arm}={path}"]
        if rng.random() < 0.5:
            options += ["--outcomes-query", "SELECT user_id, arm_of_file, converted FROM outcomes"]
    else:
        path = _write_outcomes(rng, case.folder, "users", _make_outcomes(), is_changed=True)
        options += ["--outcomes", str(path)]
        if rng.random() < 0.2:
            options += ["--outcomes-query", "SELECT user_id, variant, converted FROM outcomes"]
    if case.run(["import", "fuzz", *options], {0, 2}).code == 0:
        case.judge("fuzz")


def _write_outcomes(rng: random.Random, folder: Path, name: str, text: str, *, is_changed: bool) -> Path:
    """Write a CSV of outcomes as CSV, packed CSV, Parquet or JSON lines, changed or not. Returns the file."""
    table = pa.csv.read_csv(pa.BufferReader(text.encode()))
    ending, content = "csv", text.encode()
    match rng.randrange(8) if is_changed else 7:
        case 0:
            packing, content = _pack(rng, _change_text(rng, content))
            ending = f"csv.{packing}"
        case 1:
            ending, sink = "parquet", pa.BufferOutputStream()
            pq.write_table(table, sink)
            written = sink.getvalue().to_pybytes()
            content = mutate_bytes(rng, written) if rng.random() < 0.5 else _change_parquet(rng, written)
        case 2:
            lines = "\n".join(json.dumps(row) for row in table.to_pylist())
            ending, content = "jsonl", _change_json(rng, lines.encode())
        case 7 if not is_changed:
            pass
        case _:
            content = _change_text(rng, content)
    path = folder / f"{name}.{ending}"
    path.write_bytes(content)
    return path
