"""Lines that cannot be read as requests: what they look like, and how they are shown without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from evaluator.secrecy import REDACTED, SECRET_HEADERS
from evaluator.sources.access_logs import apache, haproxy, nginx
from evaluator.sources.access_logs.json_values import list_values, make_printable, parse_object, show_pointers

_HIDDEN = "(it is not shown, because the service is sensitive)"
MOST_SHOWN = 200
"""Characters of a line that an error shows."""

_COMMON = (
    r"[^ ]+ [^ ]+ .*?\[[0-9]{2}/[A-Za-z]{3}/[0-9]{4}:[0-9:]{8} [+-][0-9]{4}\] "
    r'"(?:[^"\\]|\\.)*" (?:[0-9]{3}|-) (?:[0-9]+|-)'
)
_COMBINED = rf'{_COMMON} "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*"'
_TIMED = (
    "log the response time and the server from now on, and read the new lines. "
    f"Apache: {apache.ADVICE}. nginx: {nginx.ADVICE}"
)
_GIVE_FORMAT = (
    "give the text of its format, as the router's configuration has it, with --log-format; "
    "it needs the response time and the server ($request_time and $upstream_addr of nginx)"
)

_SHAPES: Mapping[str, tuple[str, str]] = {
    "a TCP log of HAProxy, whose lines are sessions and no requests": (
        haproxy.TCP_LINE,
        "set `mode http` and `option httplog` in the frontend that requests come through",
    ),
    "the error log of nginx": (
        r"[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8} \[[a-z]+\] .*",
        f"name the file of access_log; {nginx.ADVICE}",
    ),
    "the error log of Apache": (
        r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} [0-9]{2} [0-9:.]+ [0-9]{4}\] .*",
        f"name the file of CustomLog; {apache.ADVICE}",
    ),
    "the combined format, which has no response time and no server": (_COMBINED, _TIMED),
    "the common log format, which has no response time and no server": (_COMMON, _TIMED),
    "the combined format with fields of its own": (rf"{_COMBINED}.+", _GIVE_FORMAT),
    "an access log whose fields are not known": (rf"{_COMMON}.+", _GIVE_FORMAT),
    "notices of HAProxy without any request": (
        haproxy.NOTICES,
        f"log the requests from now on: {haproxy.ADVICE}",
    ),
    "an access log of a load balancer of AWS": (
        r"(?:https?|h2|wss?|grpcs?) [0-9-]{10}T[0-9:.]+Z app/.*",
        "it is not read; load the requests into a CSV file and import that",
    ),
    "a log in the format of W3C (IIS)": (
        r"#(?:Software|Version|Date|Fields): .*",
        "it is not read; log in another format",
    ),
    "the log of a program, and no access log": (
        r'time="[^"]*" level=.*|[0-9-]{10}[T ][0-9:.,Z+-]+ \[?(?:DEBUG|INFO|WARN|WARNING|ERROR|INF|WRN|ERR)\b.*',
        "name the file to which the router writes its requests",
    ),
    "syslog of another program": (
        r"[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} .*|[0-9-]{10}T[0-9:.+Z-]+ [^ ]+ [^ :]+: .*",
        "give a file that has the router's lines alone",
    ),
}
"""What a line looks like → RE2 of such a line, and what helps; the first that matches counts."""


def describe_line(line: str) -> tuple[str, str]:
    """Say what a line, without the prefix of a collector, looks like, and what helps; empty texts if nothing fits."""
    document = parse_object(line)
    if document is not None:
        pointers = show_pointers(pointer for pointer, _ in list_values(document))
        hint = "give the text of its format with --log-format, or name its keys with --column time=KEY:ms and so on"
        return "JSON whose keys are not known", f"{hint}; the keys are {pointers}"
    return next(((what, hint) for what, (shape, hint) in _SHAPES.items() if re.fullmatch(shape, line)), ("", ""))


_NAMED_SECRET = re.compile(
    r"(?i)([\w-]*(?:passw|secret|token|api[_-]?key|cookie|sess|credential)[\w-]*[\"']?\s*[:=]\s*)"
    rf"(?!{re.escape(REDACTED)})(\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s\"',;|}}]+(?:;\s*[\w-]+=[^\s\"',;|}}]+)*)"
)
"""A value after a name such as `password`, `api_key` or `Cookie`, in JSON or text."""


def show_line(line: str, *, sensitive: bool = False) -> str:
    """Show a line in an error: cut, without control characters, queries, passwords and values of secret headers.

    `sensitive`: of a sensitive service, whose lines are not shown at all.
    """
    if sensitive:
        return _HIDDEN
    line = re.sub(r"\?[^ \"'\\|]*", "?…", line)
    line = re.sub(r"(?i)\b(basic|bearer|digest|negotiate) [A-Za-z0-9+/=._~-]+", rf"\1 {REDACTED}", line)
    line = re.sub(r"://[^/@ \"]*@", f"://{REDACTED}@", line)
    secret = rf'("[^"]*(?:{SECRET_HEADERS.pattern.removeprefix("(?i)")})[^"]*": ?)(?:\[[^\]]*\]?|"(?:[^"\\]|\\.)*"?)'
    line = re.sub(f"(?i){secret}", rf'\1"{REDACTED}"', line)
    line = _NAMED_SECRET.sub(rf"\1{REDACTED}", line)
    line = make_printable(line)
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}…"
