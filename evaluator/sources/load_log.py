"""The log of Locust, line by line: what may be shown of it, and what ended the load."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from evaluator.sources.recording import STOP_MARK

_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b")
TROUBLE = re.compile(rf"{_EXCEPTION.pattern}|.*/ERROR/")
"""Pattern of lines that say that something went wrong."""


def read_log(log: IO[str] | None, sensitive: bool, on_line: Callable[[str], None]) -> None:  # noqa: FBT001
    """Call `on_line` with each line of a log that is not empty; `sensitive`: without texts of requests."""
    if log is None:
        return
    with log:
        for line in log:
            text = line.rstrip()
            if sensitive and not line.startswith(STOP_MARK):
                # Everything except the kind of an exception may quote a request or its answer.
                exception = _EXCEPTION.match(line)
                text = exception[0] if exception else ""
            if text:
                on_line(text)


def find_cause(exit_code: int, lines: Sequence[str], *, ended_on_purpose: bool) -> str:
    """Find what ended Locust before its time: the recorder, a signal or an error; empty if nothing did.

    `exit_code`: negative if a signal ended Locust; after a stop on purpose it does not count. `lines`: the last lines
    of its log.
    """
    reason_of_recorder = next((line.removeprefix(STOP_MARK) for line in lines if line.startswith(STOP_MARK)), "")
    if reason_of_recorder or ended_on_purpose or exit_code == 0:
        return reason_of_recorder
    if exit_code < 0:  # the number of a signal, negated
        return f"Locust was killed by {signal.Signals(-exit_code).name}"
    return f"Locust ended with code {exit_code}: {find_last_line(lines)}"


def find_last_line(lines: Iterable[str]) -> str:
    """The last line that is not empty, at most 300 characters of it; "no reason given" if there is none."""
    return next((line.strip()[:300] for line in reversed([*lines]) if line.strip()), "no reason given")
