"""Files of tools that cannot be imported, recognised by their start, so that the error names what to do with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from evaluator.errors import InputError
from evaluator.sources.files.base import Head
from evaluator.textfiles import open_bytes

_ACCESS_LOG = re.compile(r'^\S+ \S+ \S+ \[[^\]]+\] "[A-Z]+ ')
_GENERAL = "write its requests as CSV with the columns ts, endpoint, response_time_ms and failed, and import that"


def refuse_other_tools(head: Head) -> None:
    """Refuse a file of a tool that cannot be imported. Raises InputError, which names the tool."""
    tool = next((name for name, is_of in _TOOLS.items() if is_of(head)), None)
    if tool is not None:
        raise InputError(f"{head.path} is {tool}, which cannot be imported", hint=_HINTS.get(tool, _GENERAL))


def refuse_binary_files(path: Path) -> None:
    """Refuse a binary file of a tool that also writes what can be imported. Raises InputError, which says how."""
    with open_bytes(path) as opened:
        first_bytes = opened.read(_BYTES_OF_BINARY)
    for what, (pattern, hint) in _BINARY.items():
        if pattern.search(first_bytes):
            raise InputError(f"{path} is {what}, which cannot be imported as it is", hint=hint)


def _has_columns(*names: str) -> Callable[[Head], bool]:
    return lambda head: head.file_type == "csv" and set(names) <= set(head.columns)


def _has_keys(*names: str) -> Callable[[Head], bool]:
    return lambda head: head.file_type == "json" and all(f'"{name}"' in head.top for name in names)


_SUMMARY = re.compile(r"\s*Summary:\s+(Success rate|Total):")
_TEXT_SUMMARY = "a summary of hey or oha"
_SUMMARY_OF_OHA = "a summary of oha"
_REPORT_OF_VEGETA = "a report of Vegeta"
_SUMMARY_OF_JMETER = "JMeter's summary or aggregate report"
_SUMMARY_OF_K6 = "a summary of k6"
_GO_BENCHMARK = re.compile(r"(goos|goarch|pkg|cpu): |Benchmark\w\S*\s+\d+\s+\S+ ns/op")
_TOOLS = {
    "an access log": lambda head: _ACCESS_LOG.match(head.top) is not None,
    _SUMMARY_OF_JMETER: _has_columns("Label", "# Samples"),
    "a plot file of ApacheBench (ab -g)": _has_columns("starttime", "seconds", "ttime"),
    _TEXT_SUMMARY: lambda head: _SUMMARY.match(head.top) is not None,
    _SUMMARY_OF_OHA: _has_keys("summary", "responseTimeHistogram"),
    _REPORT_OF_VEGETA: _has_keys("latencies", "status_codes", "success"),
    "JSON of pytest-benchmark": _has_keys("machine_info", "commit_info", "benchmarks"),
    "JSON of hyperfine": _has_keys("results", "command", "times"),
    "text of `go test -bench`": lambda head: _GO_BENCHMARK.match(head.top) is not None,
    "a report of Artillery": _has_keys("aggregate", "intermediate"),
    _SUMMARY_OF_K6: lambda head: _has_keys("metrics", "root_group")(head) or _has_keys("metrics", "http_reqs")(head),
    "a HAR file of a browser": _has_keys("log", "creator", "version"),
}
"""What a file is → the test for it."""

_HINTS = {
    _SUMMARY_OF_K6: "import the file of --out json or --out csv",
    _SUMMARY_OF_JMETER: "import the file that JMeter wrote sample by sample (jmeter -l FILE)",
    _TEXT_SUMMARY: "let the tool write its requests: `hey -o csv`, `oha --output-format csv`",
    _SUMMARY_OF_OHA: "let oha write its requests: `oha --output-format csv`",
    _REPORT_OF_VEGETA: "import its results: `vegeta encode results.bin > results.json`",
}

_BYTES_OF_BINARY = 1024
_BINARY = {
    "a binary file of Vegeta": (
        re.compile(rb"Result.*Seq.*Code.*Timestamp.*Latency", re.DOTALL),
        "convert it: `vegeta encode results.bin > results.json`",
    ),
    "a binary simulation.log of Gatling 3.13 or newer": (
        # The header of the run: a zero byte, the length of the version, the version.
        re.compile(rb"\A\x00\x00\x00\x00[\x05-\x14]3\.\d+\.\d"),
        f"run the test with Gatling 3.12 or older, which write text; or {_GENERAL}",
    ),
    "a database of SQLite (oha --db-url)": (
        re.compile(rb"\ASQLite format 3\x00"),
        "let oha write its requests as CSV: `oha --output-format csv`",
    ),
}
"""What a binary file is → pattern of its first bytes, and what to do with it."""
