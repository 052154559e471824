"""What a line of an access log says of one request: its arm, whether it failed, and how long it took.

The layouts are those of `evaluator.sources.access_logs`; what follows from a line is what `evaluator.store.log_lines`
makes of it in SQL, without the parts that the guard does not need: paths, times, sizes. A test compares the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluator.records.access_logs import LogColumn, LogField, LogLayout, LogOptions, find_arm
from evaluator.sources.access_logs.json_values import parse_object

LONGEST_LINE = 8192
"""Characters of a line that is read: Python's patterns may need the square of it for a hostile one."""
_MS = {"s": 1000.0, "ms": 1.0, "us": 0.001, "ns": 1e-6}
_HIGHEST_MS = 1e12
"""As `evaluator.store.rollup`: about 31 years."""
_MOST_RETRIES = 100
_AFTER_REDIRECT = ">"
"""Before the name of a server that was tried after a redirect inside of the router."""


@dataclass(frozen=True, slots=True)
class LogRequest:
    """A request, or an attempt that failed before the router tried another server."""

    arm: str
    failed: bool
    time_ms: float | None
    """Time that the client waited; None: not known."""
    left: bool = False
    """The client left before it had the answer, which is no failure by itself."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """What a line says."""

    is_read: bool
    """Could it be read, as a request or as another known line?"""
    requests: tuple[LogRequest, ...] = ()
    """Requests of arms; a line may be of none: of another service, or a request that its client left."""
    is_request: bool = False
    arm: str = ""
    """Arm of the server that answered, also of a stream; empty: none."""
    named: str = ""
    """The name that says the arm: of a server, a backend, or a field; empty: there is none."""


_UNREAD = LineResult(is_read=False)
_OTHER = LineResult(is_read=True)


class LogRequestReader:
    """Reads the lines of one log."""

    def __init__(self, layout: LogLayout, options: LogOptions) -> None:
        self.layout = layout
        self._options = options
        self._pattern = re.compile(layout.pattern.removeprefix("^").removesuffix("$")) if layout.pattern else None
        self._other = re.compile(layout.other_lines) if layout.other_lines else None
        self._abort = re.compile(layout.abort_terminations) if layout.abort_terminations else None
        self._failed = re.compile(layout.failed_terminations) if layout.failed_terminations else None
        self._no_server = re.compile(layout.without_server)
        self._fields: Mapping[LogColumn, LogField] = {field.column: field for field in layout.fields}
        self._arms: dict[str, str | None] = {}
        """Name of a server, backend or field → its arm."""

    def read(self, raw: bytes) -> LineResult:
        """Read a line without its end."""
        line = raw.decode("utf-8", "backslashreplace").replace("\0", "")
        if not line.strip():
            return _OTHER
        if self.layout.wrapped_in:
            document = parse_object(line)
            if document is not None:
                line = _find_value(document, self.layout.wrapped_in) or line
        line = line.rstrip()
        if len(line) > LONGEST_LINE:
            return _UNREAD
        texts = self._read_json(line) if self.layout.reader == "json" else self._read_text(line)
        if texts is None:
            return _OTHER if self._other and self._other.fullmatch(line) else _UNREAD
        return self._conclude(texts)

    def _read_text(self, line: str) -> dict[LogColumn, str] | None:
        """Return column → its text; None if the line is not of the layout."""
        match = self._pattern.fullmatch(line) if self._pattern else None
        if match is None:
            return None
        groups = dict(zip(self.layout.groups, match.groups(""), strict=True))
        texts: dict[LogColumn, str] = {field.column: groups[field.source] for field in self.layout.fields}
        return texts if texts.get("time") else None

    def _read_json(self, line: str) -> dict[LogColumn, str] | None:
        """Return column → its text; None if the line is no request of the layout."""
        if self._pattern:
            match = self._pattern.fullmatch(line)
            line = match[self.layout.groups.index("json") + 1] if match else ""
        document = parse_object(line)
        if document is None:
            return None
        texts: dict[LogColumn, str] = {
            field.column: _find_value(document, field.source) for field in self.layout.fields
        }
        return texts if texts.get("status") else None

    def _conclude(self, texts: Mapping[LogColumn, str]) -> LineResult:
        """Find what follows from the texts of a request."""
        status, is_number = _read_status(texts.get("status", ""))
        if not is_number:
            return _UNREAD
        servers = _split_attempts(texts.get("attempt_servers", ""))
        last_server = texts["server"] if "server" in texts else servers[-1].lstrip(_AFTER_REDIRECT)
        names = {"server": last_server, "backend": texts.get("backend", ""), "arm": texts.get("arm", "")}
        named = names[self._options.arm_from]
        has_server = self._has_server(last_server)
        if not {"server", "attempt_servers"} & self._fields.keys():
            has_server = named not in ("", "-")
        left, failed = self._find_outcome(texts, status)
        time_ms = self._read_time(texts.get("time", ""))
        if time_ms is None and has_server and not (failed or left or _is_stream(texts, status)):
            return _UNREAD
        belongs = has_server if self._options.arm_from == "server" else has_server or failed
        arm = self._find_arm(named) if belongs else None
        requests = self._list_attempts(texts, servers, arm)
        if arm is not None and not _is_stream(texts, status):
            requests.append(LogRequest(arm, failed, time_ms, left))
        return LineResult(is_read=True, requests=tuple(requests), is_request=True, arm=arm or "", named=named)

    def _has_server(self, server: str) -> bool:
        """Does a text name a server?"""
        return not self._no_server.fullmatch(server)

    def _find_outcome(self, texts: Mapping[LogColumn, str], status: int | None) -> tuple[bool, bool]:
        """Find whether the client left before it had the answer, and whether the request failed."""
        termination = texts.get("termination")
        terminated = termination is not None and bool(self._failed and self._failed.fullmatch(termination))
        left = status in self.layout.abort_statuses or (
            termination is not None and bool(self._abort and self._abort.fullmatch(termination))
        )
        grpc = texts.get("grpc_status", "")
        grpc_fails = grpc not in ("", "-") and grpc.lower() not in ("0", "ok")
        last_attempt, _ = _read_status(texts.get("attempt_statuses", "")[-3:])
        bad = status is None or self._is_failure(status) or self._is_failure(last_attempt) or grpc_fails
        return left and not terminated, terminated or (not left and bad)

    def _is_failure(self, status: int | None) -> bool:
        """Is a status one of those that the options call failures?"""
        return status is not None and any(
            text == str(status) or (text.endswith("xx") and text[0] == str(status // 100))
            for text in self._options.failures
        )

    def _read_time(self, text: str) -> float | None:
        """Read a response time (ms); None if there is none."""
        try:
            time_ms = float(text) * _MS[self._fields["time"].unit]
        except (ValueError, KeyError):
            return None
        return time_ms if 0 <= time_ms <= _HIGHEST_MS else None

    def _find_arm(self, named: str) -> str | None:
        """Find the arm whose patterns match a name; None if none does."""
        if named not in self._arms:
            if len(self._arms) > 10_000:  # names come from a log
                self._arms.clear()
            self._arms[named] = find_arm(self._options, named)
        return self._arms[named]

    def _list_attempts(
        self, texts: Mapping[LogColumn, str], servers: list[str], line_arm: str | None
    ) -> list[LogRequest]:
        """List the attempts that failed before the router tried again; those of unknown servers are left out."""
        options, attempts = self._options, list[LogRequest]()
        statuses = _split_attempts(texts.get("attempt_statuses", ""))
        for position, server in enumerate(servers[:-1]):
            status, _ = _read_status(statuses[position].lstrip(_AFTER_REDIRECT) if position < len(statuses) else "")
            went_on = not servers[position + 1].startswith(_AFTER_REDIRECT) or self._is_failure(status)
            name = server.lstrip(_AFTER_REDIRECT)
            arm = self._find_arm(name) if options.arm_from == "server" else line_arm
            if went_on and self._has_server(name) and arm is not None and options.arm_from != "arm":
                attempts.append(LogRequest(arm, failed=True, time_ms=None))
        retries = self._fields.get("retries")
        if retries is None or line_arm is None:
            return attempts
        text = texts.get("retries", "")
        count = _read_int(text.lstrip("+")) - (retries.unit == "attempts")
        may_have_moved = bool(retries.unit) or text.startswith("+")
        if not may_have_moved or options.arm_from == "backend":
            attempts += [LogRequest(line_arm, failed=True, time_ms=None)] * min(max(count, 0), _MOST_RETRIES)
        return attempts


def read_layout(plain: Mapping[str, Any]) -> LogLayout:
    """Read a layout that `write_layout` wrote. Raises TypeError, KeyError."""
    fields = tuple(LogField(**field) for field in plain["fields"])
    lists = {name: tuple(plain[name]) for name in ("groups", "abort_statuses")}
    return LogLayout(**{**plain, **lists, "fields": fields})


def write_layout(layout: LogLayout) -> dict[str, Any]:
    """Turn a layout into plain JSON."""
    return asdict(layout)


def _split_attempts(text: str) -> list[str]:
    """Split a list of attempts; a redirect inside of the router is marked. At least one text."""
    return text.replace(" : ", f", {_AFTER_REDIRECT}").split(", ")


def _read_status(text: str) -> tuple[int | None, bool]:
    """Read a status: None for none (`-`, 0, -1), and whether the text is a status at all."""
    if text in ("", "-"):
        return None, True
    try:
        status = int(text)
    except ValueError:
        return None, False
    return (status if status > 0 else None), status <= 999


def _is_stream(texts: Mapping[LogColumn, str], status: int | None) -> bool:
    """Did the connection become a stream, such as a WebSocket? Its time is that of the stream."""
    method = texts.get("method") or texts.get("request", "").partition(" ")[0]
    is_good = status is not None and 200 <= status <= 299
    return status == 101 or (
        is_good and (texts.get("upgrade", "").lower() == "websocket" or method.upper() == "CONNECT")
    )


def _read_int(text: str) -> int:
    """Read a count; 0 for what is none."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _find_value(document: Any, pointer: str) -> str:
    """Find a value of a JSON document by its pointer, as text; empty if there is none."""
    value = document
    for escaped in pointer.split("/")[1:]:
        key = escaped.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return ""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
