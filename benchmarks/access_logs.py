"""Speed of importing the access log of a router, compared with DuckDB doing the same extraction into Parquet.

The query of DuckDB has the same regular expression, the same columns of a request, and the same replacements in
paths, one after the other; for JSON it extracts the same values. The second figure, without a limit, compares with the
same query with the import's own expression for endpoints, by which most paths do not meet the slow patterns. The
import also hashes the file, tests each line, finds attempts that were
retried, counts what belongs to no arm, and rolls all rows up. Each job runs in its own process. At the end, lines are
read in the batches of `evaluator tail`, on one thread.

python benchmarks/access_logs.py [ROWS]       (default: 10,000,000)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from importing import run

from evaluator.records import LogLayout
from evaluator.sources.access_logs.options import combine_settings
from evaluator.sources.access_logs.planning import find_layout_of_file
from evaluator.store.access_logs import LogReader
from evaluator.store.engine import open_engine, quote, quote_all
from evaluator.store.log_chunks import LogFileReader
from evaluator.store.log_endpoints import HASH_IN_ASSET, IDENTIFIER, MARK, write_endpoint, write_path

ROUNDS = 3
TO_REACH = 0.7
MOST_MB = 800
BATCH_LINES = 20_000
LINES_TO_REACH = 20_000
"""Lines a second that a batch has to reach on one thread."""

_ROWS = """
SELECT
    k, make_timestamp(1764410400000000 + k * 3600000000 // {rows}) AS began,
    5 + CAST(floor(exp(3 + random())) AS INTEGER) AS ms,
    CASE WHEN random() < 0.01 THEN 503 ELSE 200 END AS status,
    CASE WHEN k % 3 = 0 THEN 'c' ELSE 'b' END AS arm, 1 + k % 4 AS number,
    CASE k % 6 WHEN 0 THEN '/cart' WHEN 1 THEN '/users/' || k * 7919 % 100000 || '/orders?page=' || k % 9
        WHEN 2 THEN '/api/v1/items/' || gen_random_uuid() WHEN 3 THEN '/static/app-' || printf('%08x', k % 5000)
        || '.js' WHEN 4 THEN '/search?q=shoes+size+' || k % 50 ELSE '/checkout/payment/confirm' END AS path
FROM range({rows}) AS numbers(k)
"""

FILES: Mapping[str, str] = {
    "haproxy.log": """
        strftime(began, '%b %d %H:%M:%S') || ' lb1 haproxy[812]: 10.1.' || k % 200 || '.7:' || 30000 + k % 9999
        || ' [' || strftime(began, '%d/%b/%Y:%H:%M:%S.%g') || '] web~ shop/' || arm || number || ' 0/0/1/' || ms || '/'
        || ms + 1 || ' ' || status || ' ' || 300 + k % 5000 || ' - - ---- 9/9/3/1/0 0/0 "GET '
        || path || ' HTTP/1.1"'""",
    "nginx.log": """
        '10.1.' || k % 200 || '.7 - - [' || strftime(began, '%d/%b/%Y:%H:%M:%S +0000') || '] "GET ' || path
        || ' HTTP/1.1" ' || status || ' ' || 300 + k % 5000 || ' "https://shop.example.com/" "Mozilla/5.0 (X11; Linux '
        || 'x86_64) AppleWebKit/537.36 Chrome/126.0" rt=' || printf('%.3f', ms / 1000) || ' ua="10.0.'
        || CASE arm WHEN 'b' THEN 0 ELSE 1 END || '.' || number || ':8080" us="' || status || '" ut="'
        || printf('%.3f', ms / 1000) || '"'""",
    "nginx.json": """
        '{"time":"' || strftime(began, '%Y-%m-%dT%H:%M:%S+00:00') || '","remote_addr":"10.1.' || k % 200
        || '.7","request_method":"GET","request_uri":"' || path || '","status":' || status || ',"request_time":'
        || printf('%.3f', ms / 1000) || ',"bytes_sent":' || 300 + k % 5000 || ',"agent":"Mozilla/5.0 (X11)",'
        || '"upstream_addr":"10.0.' || CASE arm WHEN 'b' THEN 0 ELSE 1 END || '.' || number || ':8080",'
        || '"upstream_status":"' || status || '","upstream_response_time":"' || printf('%.3f', ms / 1000) || '"}'""",
}
"""File → its line, as SQL over the columns of `_ROWS`."""

ARMS = {
    "haproxy.log": ("baseline=b*", "canary=c*"),
    "nginx.log": ("baseline=10.0.0.*", "canary=10.0.1.*"),
    "nginx.json": ("baseline=10.0.0.*", "canary=10.0.1.*"),
}
"""File → the option --arm-server."""

_SETTINGS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from access_logs import ARMS
from evaluator.records import LogLayout
from evaluator.sources.access_logs.options import combine_settings
path = Path(sys.argv[1])
settings = combine_settings(None, arm_servers=ARMS[path.name])
"""

EXTRACT = f"""{_SETTINGS}
import duckdb
from access_logs import write_extraction
from evaluator.sources.access_logs.planning import find_layout_of_file
query = write_extraction(path, find_layout_of_file(path, settings), ARMS[path.name], fast=sys.argv[4] == "fast")
engine = duckdb.connect()
engine.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
started = time.perf_counter()
engine.execute(f"COPY ({{query}}) TO '{{sys.argv[2]}}' (FORMAT parquet)")
print(time.perf_counter() - started)
"""

IMPORT = f"""{_SETTINGS}
from evaluator.pipeline.importing import import_access_logs
from evaluator.records import Release
from evaluator.sources.access_logs.planning import plan_access_logs
from evaluator.store import Store
store = Store.open(Path(sys.argv[2]), create=True)
started = time.perf_counter()
import_access_logs(store, Release("bench"), plan_access_logs([str(path)], [], settings))
print(time.perf_counter() - started)
"""


def write_plain_endpoint(method: str, target: str) -> str:
    """Write the expression for an endpoint that a user of DuckDB would write: all paths meet both patterns."""
    path = f"regexp_extract({target}, '^(?:[A-Za-z][0-9A-Za-z+.-]*://[^/?#]*)?([^?#;]*)', 1)"
    doubled = f"replace({path}, '/', '//') || '/'"
    without_hashes = f"regexp_replace({doubled}, {quote(HASH_IN_ASSET)}, '\\1{MARK}\\2', 'g')"
    replaced = f"regexp_replace({without_hashes}, {quote(IDENTIFIER)}, '/{MARK}\\1/', 'g')"
    return f"{method} || ' ' || replace(left({replaced}, -1), '//', '/')"


def write_extraction(path: Path, layout: LogLayout, arms: Sequence[str], *, fast: bool = False) -> str:
    """Write the query that a user of DuckDB would write to make requests of a log.

    `fast`: with the import's own expression for endpoints.
    """
    if layout.reader == "text":
        texts = f"regexp_extract(line, {quote(layout.pattern)}, {quote_all(layout.groups)})"
        text_of = {field.column: f"texts.{field.source}" for field in layout.fields}
    else:
        texts = f"json_extract_string(line, {quote_all(field.source for field in layout.fields)})"
        text_of = {field.column: f"texts[{number}]" for number, field in enumerate(layout.fields, 1)}
    moment = next(field for field in layout.fields if field.column in ("started", "ended"))
    time_unit = next(field.unit for field in layout.fields if field.column == "time")
    at = f"strptime({text_of[moment.column]}, {quote(moment.unit)})"
    if moment.unit == "iso":
        at = f"CAST({text_of[moment.column]} AS TIMESTAMPTZ)"
    if moment.unit == "s":
        at = f"make_timestamp(CAST(round(CAST({text_of[moment.column]} AS DOUBLE) * 1000000) AS BIGINT))"
    ms = f"CAST({text_of['time']} AS DOUBLE) * {1000 if time_unit == 's' else 1}"
    server = text_of.get("server", text_of.get("attempt_servers"))
    patterns = [text.partition("=") for text in arms]
    arm = " ".join(f"WHEN {server} LIKE '{pattern.replace('*', '%')}' THEN '{name}'" for name, _, pattern in patterns)
    method, target = text_of["method"], text_of["target"]
    endpoint = write_endpoint(method, write_path(target), ()) if fast else write_plain_endpoint(method, target)
    status = f"CAST({text_of['status']} AS SMALLINT)"
    started = "began" if moment.column == "started" else "began - to_microseconds(CAST(ms * 1000 AS BIGINT))"
    size = f"CAST({text_of['bytes']} AS BIGINT)" if "bytes" in text_of else "NULL"
    return f"""
        SELECT {started} AS ts, arm, instance, endpoint, ms, status, status >= 500 AS failed, size FROM (
            SELECT {at}
        AS began, CASE {arm} END AS arm, {server} AS instance, {endpoint} AS endpoint, {ms} AS ms,
                {status} AS status, {size} AS size
            FROM (SELECT {texts} AS texts FROM read_csv({quote(path)}, columns = {{line: 'VARCHAR'}}, delim = chr(1),
                quote = '', escape = '', header = false, auto_detect = false)))"""


def main() -> None:
    """Write each file, then time both jobs in turn, and print a table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    print(f"import of {rows:,} lines, median of {ROUNDS} interleaved rounds; batches of {BATCH_LINES:,} on one thread")
    print(f"{'file':<12} {'duckdb s':>8} {'import s':>8} {'rate':>5} {'to reach':>8} {'fast':>5} {'MB':>5} "
          f"{'at most':>7} {'lines/s':>8} {'to reach':>8}")  # fmt: skip
    for name, line in FILES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_file(folder / name, line, rows)
            ours, theirs, fast = measure(folder, folder / name)
            rate_of_batches = measure_batches(folder / name)
        peak_mb = max(memory_mb for _, memory_mb in ours)
        own, plain, quick = (statistics.median(seconds for seconds, _ in times) for times in (ours, theirs, fast))
        print(f"{name:<12} {plain:>8.2f} {own:>8.2f} {plain / own:>5.2f} {TO_REACH:>8} {quick / own:>5.2f} "
              f"{peak_mb:>5} {MOST_MB:>7} {rate_of_batches:>8,.0f} {LINES_TO_REACH:>8,}", flush=True)  # fmt: skip


def write_file(path: Path, line: str, rows: int) -> None:
    """Write a log of one hour. `line`: SQL of its line."""
    with open_engine() as engine:
        engine.execute("SELECT setseed(0.5)")
        engine.execute("SET preserve_insertion_order = true")
        engine.execute(
            f"COPY (SELECT {line} FROM ({_ROWS.format(rows=rows)})) TO {quote(path)} "
            "(FORMAT csv, HEADER false, QUOTE '\x02', ESCAPE '\x02', DELIM '\x01')"
        )


def measure(folder: Path, file: Path) -> list[list[tuple[float, int]]]:
    """Return seconds and peak memory (MB) of each import, extraction, and fast extraction.

    They follow a round that fills the page cache.
    """
    here = Path(__file__).parent
    rounds = [
        (
            run(IMPORT, file, folder / f"{number}.duckdb", here),
            run(EXTRACT, file, folder / "copy.parquet", here, "plain"),
            run(EXTRACT, file, folder / "copy.parquet", here, "fast"),
        )
        for number in range(ROUNDS + 1)
    ]
    return [list(times) for times in zip(*rounds[1:], strict=True)]


def measure_batches(file: Path) -> float:
    """Return how many lines a second are read in batches, on one thread."""
    settings = combine_settings(None, arm_servers=ARMS[file.name])
    with LogReader(find_layout_of_file(file, settings), settings.options, "run", threads=1) as reader:
        chunk = next(iter(LogFileReader(file).read()))
        batches = [
            chunk.lines.slice(start, BATCH_LINES) for start in range(0, len(chunk.lines) - BATCH_LINES, BATCH_LINES)
        ]
        started = time.perf_counter()
        for batch in batches:
            reader.read_lines(batch)
        return len(batches) * BATCH_LINES / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
