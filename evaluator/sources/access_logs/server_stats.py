"""Failed attempts that HAProxy counted for each server, by its statistics socket.

The log of HAProxy says how often a request was tried again, but not which server failed if HAProxy changed it. The
statistics count these attempts for the server that failed: https://docs.haproxy.org/2.6/management.html#9.1 (`wretr`,
retries at the same server, and `wredis`, requests that went on to another one).
"""

from __future__ import annotations

import csv
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluator.errors import SourceError, UsageError

TIMEOUT_S = 2.0
_MOST_BYTES = 64 << 20
_OF_SERVERS = "2"
"""Value of the column `type` of servers."""


def check_stats_address(text: str) -> str:
    """Return the path of a socket, or HOST:PORT. Raises UsageError for other texts."""
    host, colon, port = text.rpartition(":")
    is_address = colon and host and port.isdecimal() and int(port) < 65536
    if not (text.startswith(("/", "./", "../")) or is_address):
        raise UsageError(
            f"'{text}' is no socket of HAProxy's statistics",
            hint="give its path, such as /run/haproxy/admin.sock, or HOST:PORT",
        )
    return text


@dataclass(slots=True)
class ServerStats:
    """Reads the statistics, and counts since the first reading. HAProxy may be restarted meanwhile."""

    address: str
    """Path of a unix socket, or HOST:PORT."""
    failed: Counter[str] = field(default_factory=Counter)
    """Server → failed attempts, after which HAProxy tried again, since the first reading."""
    _last: Mapping[tuple[str, str], int] | None = None
    """Backend and server → what HAProxy counted at the last reading."""

    def read(self) -> None:
        """Add what was counted since the last reading to `failed`. Raises SourceError."""
        counted = parse_stats(ask_stats(self.address, "show stat"))
        if self._last is not None:
            for key, count in counted.items():
                before = self._last.get(key, 0)
                # A lower number: HAProxy was restarted, and has counted from 0.
                self.failed[key[1]] += count - before if count >= before else count
        self._last = counted


def ask_stats(address: str, command: str) -> str:
    """Send a command to HAProxy, and return the answer. Raises SourceError.

    `address`: path of a unix socket, or HOST:PORT.
    """
    answer = bytearray()
    deadline = time.monotonic() + TIMEOUT_S
    try:
        with _connect(address) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(command.encode() + b"\n")
            while (part := connection.recv(1 << 16)) and len(answer) < _MOST_BYTES:
                answer += part
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise SourceError(
            f"HAProxy's statistics at {address} cannot be read: {reason}",
            hint="set `stats socket PATH level user` in its configuration, and let this user read it",
        ) from error
    return answer.decode("utf-8", "replace")


def _connect(address: str) -> socket.socket:
    """Connect to the socket. Raises OSError."""
    if "/" in address:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(TIMEOUT_S)
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)


def parse_stats(text: str) -> dict[tuple[str, str], int]:
    """Read the answer to `show stat`: backend and server → failed attempts. Raises SourceError for another text."""
    rows = list(csv.DictReader(text.removeprefix("# ").splitlines()))
    needed = {"pxname", "svname", "type", "wretr", "wredis"}
    if not rows or not needed <= set(rows[0]):
        first = text.strip().splitlines()[:1]
        raise SourceError(
            f"this is no answer of HAProxy's statistics: {first[0][:100] if first else 'nothing'}",
            hint="give the socket of `stats socket` in HAProxy's configuration",
        )
    return {
        (row["pxname"], row["svname"]): _to_int(row["wretr"]) + _to_int(row["wredis"])
        for row in rows
        if row["type"] == _OF_SERVERS
    }


def _to_int(text: str | None) -> int:
    """Convert a count; 0 for an empty one."""
    return int(text) if text and text.isdecimal() else 0
