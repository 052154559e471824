"""Run commands in this process, and check what every command promises, whatever it is given."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import signal
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

LONGEST_S = 60.0
"""No case takes so long in real time, also on a machine that does much else: the slowest need 3 s of CPU time."""

LONGEST_LINE = 1500
"""Characters of a line of an error that a person reads."""

WORDS = {0: "go", 1: "no_go", 3: "inconclusive"}
"""Exit code of `verdict` → the verdict."""

_NOT_FOR_USERS = (
    r"Traceback \(most recent",
    r"unexpected [A-Z]\w+:",
    "bug in evaluator",
    "Possible fixes",
    "strict_mode",
    "ignore_errors",
    "object has no attribute",
    "not subscriptable",
    "<class '",
)
"""Patterns that no message about a bad input has."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str
    warnings: tuple[warnings.WarningMessage, ...]


@dataclass
class Case:
    """One changed input: the commands that were run on it, and the promises that were broken."""

    folder: Path
    commands: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def run(self, words: Sequence[str], allowed: Collection[int]) -> Ended:
        """Run a command, and check its exit code, its messages and its warnings."""
        self.commands.append(" ".join(words))
        ended = run_command(words)
        self.codes.append(ended.code)
        text = ended.out + ended.err
        if ended.code not in allowed:
            self.break_promise(f"exit code {ended.code}: {ended.err[:1500]}")
        # The messages may quote the input, so an odd phrase counts only in errors of programs.
        for phrase in _NOT_FOR_USERS:
            if re.search(phrase, ended.err):
                self.break_promise(f"the message has '{phrase}': {ended.err[:1500]}")
        if ended.code in (2, 4) and not ("Error: " in ended.err or "Usage: " in ended.err):
            self.break_promise(f"exit code {ended.code} without an error: {text[:500]}")
        longest = max(map(len, ended.err.split("\n")))
        if ended.code in (2, 4) and longest > LONGEST_LINE:
            self.break_promise(f"an error with a line of {longest:,} characters: {ended.err[:500]}")
        self.note_warnings(ended.warnings)
        return ended

    def judge(self, release: str, store: Path | None = None) -> Ended:
        """Run `verdict` on a release, and compare its exit code with the verdict in its JSON.

        `store`: default that of the folder.
        """
        path = self.folder / "verdict.json"
        path.unlink(missing_ok=True)
        options = ["--store", str(store)] if store else []
        words = [*options, "verdict", release, "--dry-run", "--format", f"json={path}"]
        ended = self.run(words, {0, 1, 2, 3, 4})
        if not path.exists():
            if ended.code in (0, 1):
                self.break_promise(f"exit code {ended.code} without a verdict: {ended.err[:500]}")
            return ended
        verdict = json.loads(path.read_text())
        is_shadow = ended.code == 0 and verdict["mode"] == "shadow"
        if WORDS.get(ended.code) != verdict["verdict"] and not is_shadow:
            self.break_promise(f"exit code {ended.code} with the verdict {verdict['verdict']}")
        if verdict["verdict"] == "go":
            self.broken += [f"GO, though {reason}" for reason in list_objections(verdict)]
        return ended

    def note_warnings(self, seen: Sequence[warnings.WarningMessage]) -> None:
        """Note warnings of libraries as broken promises.

        What was left open may be of an earlier case, whose objects were collected in this one.
        """
        for warning in seen:
            text = f"{warning.category.__name__}: {warning.message} ({warning.filename}:{warning.lineno})"
            self.break_promise(f"a warning of a library: {text}")

    def break_promise(self, text: str) -> None:
        """Note a broken promise of this case."""
        self.broken.append(text)


def list_objections(verdict: dict[str, Any]) -> Iterator[str]:
    """List why a verdict, as its JSON, must not be GO."""
    gates = [row for row in verdict["metrics"] if row["role"] == "gate"]
    if not gates:
        yield "nothing was compared"
    for row in gates:
        is_scan = row["method"].startswith("endpoint scan")
        if row["status"] not in ({"pass", "inconclusive"} if is_scan else {"pass"}):
            yield f"the gate {row['name']} is {row['status']}"
    for finding in verdict["health"]:
        if finding["status"] == "fail":
            yield f"the check {finding['check']} failed: {finding['text']}"
    for arm in verdict["arms"]:
        if not arm["requests"] and not arm.get("units") and not verdict["queries"]:
            yield f"{arm['name']} has no data"


def run_command(words: Sequence[str]) -> Ended:
    """Run a command as the command line would, in this process."""
    from evaluator.__main__ import run

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape", newline="\n") for _ in range(2))
    handlers = list(logging.root.handlers)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", RuntimeWarning)  # of numpy: `main` hides them, since NaN is "no data"
        logging.root.handlers.clear()
        code = run(list(words))
    logging.root.handlers[:] = handlers
    return Ended(code, _read(out), _read(err), tuple(seen))


def _read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


class HangError(BaseException):
    """A case took too long. Not an Exception: no command may catch it."""


@contextlib.contextmanager
def limit_time(seconds: float = LONGEST_S) -> Iterator[None]:
    """Raise HangError in the `with` block when the time is over. Only in the main thread."""
    began = time.monotonic()

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"still running after {time.monotonic() - began:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
