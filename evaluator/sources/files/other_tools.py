"""Files of tools that cannot be imported, recognised by their start, so that the error names the tool."""

from __future__ import annotations

import re
from collections.abc import Callable

from evaluator.errors import InputError
from evaluator.sources.files.base import Head

_ACCESS_LOG = re.compile(r'^\S+ \S+ \S+ \[[^\]]+\] "[A-Z]+ ')
_GENERAL = "write its requests as CSV with the columns ts, endpoint, response_time_ms and failed, and import that"


def refuse_other_tools(head: Head) -> None:
    """Refuse a file of a tool that cannot be imported. Raises InputError, which names the tool."""
    tool = next((name for name, is_of in _TOOLS.items() if is_of(head)), None)
    if tool is not None:
        raise InputError(f"{head.path} is {tool}, which cannot be imported", hint=_HINTS.get(tool, _GENERAL))


def _has_columns(*names: str) -> Callable[[Head], bool]:
    return lambda head: head.file_type == "csv" and set(names) <= set(head.columns)


def _has_keys(*names: str) -> Callable[[Head], bool]:
    return lambda head: head.file_type == "json" and all(f'"{name}"' in head.top for name in names)


_SUMMARY_OF_JMETER = "JMeter's summary or aggregate report"
_SUMMARY_OF_K6 = "a summary of k6"
_TOOLS = {
    "a simulation.log of Gatling": lambda head: head.top.startswith(
        ("RUN\t", "REQUEST\t", "ASSERTION\t", "USER\t", "GROUP\t")
    ),
    "an access log": lambda head: _ACCESS_LOG.match(head.top) is not None,
    _SUMMARY_OF_JMETER: _has_columns("Label", "# Samples"),
    "a plot file of ApacheBench (ab -g)": _has_columns("starttime", "seconds", "ttime"),
    "a CSV of hey": _has_columns("response-time", "DNS+dialup", "status-code"),
    "JSON of Vegeta": _has_keys("attack", "seq", "latency"),
    "a report of Artillery": _has_keys("aggregate", "intermediate"),
    _SUMMARY_OF_K6: lambda head: _has_keys("metrics", "root_group")(head) or _has_keys("metrics", "http_reqs")(head),
    "a HAR file of a browser": _has_keys("log", "creator", "version"),
}
"""What a file is → the test for it."""

_HINTS = {
    _SUMMARY_OF_K6: "import the file of --out json or --out csv",
    _SUMMARY_OF_JMETER: "import the file that JMeter wrote sample by sample (jmeter -l FILE)",
}
