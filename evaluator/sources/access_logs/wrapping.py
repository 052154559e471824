"""What collectors put around the lines of a log: a prefix of syslog, or a JSON object of Docker."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evaluator.sources.access_logs.json_values import parse_object

_PRIORITY = "(?:<[0-9]{1,3}>)?"
_TAG = r"[^ :\[\]]+(?:\[[0-9]+\])?: "
PREFIXES = (
    # Without a prefix comes first: it is the likeliest.
    "",
    # syslog (RFC 3164), journalctl: `Nov 29 21:00:00 host haproxy[123]: `; the host may be missing.
    rf"{_PRIORITY}[A-Z][a-z]{{2}} [ 0-9][0-9] [0-9:.]{{8,}} (?:[^ ]+ )?{_TAG}",
    # rsyslog's default, journalctl -o short-iso: `2026-11-29T21:00:00.123456+00:00 host haproxy[123]: `.
    rf"{_PRIORITY}[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[^ ]+ [^ ]+ {_TAG}",
    # syslog (RFC 5424): `<134>1 2026-11-29T21:00:00Z host haproxy 123 - - `.
    rf"{_PRIORITY}1 [^ ]+ [^ ]+ [^ ]+ [^ ]+ [^ ]+ (?:-|\[[^\]]*\]) ",
    # Of syslog, only a priority or only the name of the program: `<134>`, `haproxy[123]: `.
    "<[0-9]{1,3}>",
    rf"{_PRIORITY}[^ :\[\]]+\[[0-9]+\]: ",
    # Kubernetes (CRI): `2026-11-29T21:00:00.123456789Z stdout F `. `P` is a part of a line, which is not readable.
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[^ ]+ std(?:out|err) F ",
    # kubectl logs --prefix, docker compose logs, and either with --timestamps.
    r"\[pod/[^ \]]+\] ",
    r"[A-Za-z0-9._-]+ +\| (?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z )?",
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z ",
)
"""RE2 of what may stand before each line."""

POINTERS = ("", "/log", "/message", "/MESSAGE", "/line", "/textPayload")
"""JSON pointers under which collectors keep a line: Docker, Filebeat, the journal, Loki, Google Cloud; empty: none."""


def unwrap_lines(lines: Sequence[str], pointer: str, prefix: str) -> list[str | None] | None:
    """Take lines out of the JSON objects and prefixes that a collector put around them.

    `None` in the list: a line that is not wrapped in this way. Returns `None` if most lines are not.
    """
    unwrapped: list[str | None] = [_take(line, pointer) for line in lines] if pointer else list(lines)
    if prefix:
        before = re.compile(prefix)
        unwrapped = [line if line is not None and before.match(line) else None for line in unwrapped]
    missing = sum(line is None for line in unwrapped)
    return None if 2 * missing > len(lines) else unwrapped


def remove_prefix(line: str, prefix: str) -> str:
    """Remove the prefix of a collector."""
    return re.sub(f"^(?:{prefix})", "", line, count=1) if prefix else line


def _take(line: str, pointer: str) -> str | None:
    """Take the line that an object of JSON holds; `None` if there is no text."""
    document = parse_object(line)
    text = (document or {}).get(pointer[1:])
    return text.rstrip("\n") if isinstance(text, str) else None
