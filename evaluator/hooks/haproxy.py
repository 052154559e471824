"""Weights of an HAProxy backend, set through its runtime API and verified by reading back."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from evaluator.errors import HookError

__all__ = ["HAProxy"]

_NAME = re.compile(r"[\w.:-]+")
_WEIGHT = re.compile(r"(\d+) \(initial \d+\)")
MOST = 256
"""Largest weight that HAProxy takes."""


@dataclass(frozen=True, slots=True)
class HAProxy:
    """The runtime API of one HAProxy on a unix socket, and the backend whose servers are weighted."""

    socket_path: str
    backend: str
    timeout_s: float = 5.0

    def read(self, servers: tuple[str, ...]) -> dict[str, int]:
        """Read the weights of servers. Touches nothing. Raises HookError."""
        return {server: self._read(server) for server in servers}

    def set(self, weights: Mapping[str, int]) -> dict[str, int]:
        """Set weights of servers and return the earlier ones, which set in turn undo it.

        Where one is refused or reads back differently the earlier ones are restored. Raises HookError.
        """
        for server, weight in weights.items():
            if not 0 <= weight <= MOST:
                raise HookError(f"the weight of {server} must be from 0 to {MOST}, not {weight}")
        earlier = self.read(tuple(weights))
        try:
            self._write(weights)
        except HookError:
            self._write(earlier)
            raise
        return earlier

    def _write(self, weights: Mapping[str, int]) -> None:
        for server, weight in weights.items():
            answer = self._ask(f"set weight {self._target(server)} {weight}")
            if answer:
                raise HookError(f"HAProxy refused the weight of {server}: {answer}")
        for server, weight in weights.items():
            now = self._read(server)
            if now != weight:
                raise HookError(f"HAProxy keeps the weight of {server} at {now} instead of {weight}")

    def _read(self, server: str) -> int:
        answer = self._ask(f"get weight {self._target(server)}")
        found = _WEIGHT.fullmatch(answer)
        if found is None:
            raise HookError(f"HAProxy does not tell the weight of {self.backend}/{server}: {answer or 'no answer'}")
        return int(found[1])

    def _target(self, server: str) -> str:
        for name in (self.backend, server):
            if not _NAME.fullmatch(name):
                raise HookError(f"{name!a} is not a name of HAProxy's", hint="letters, digits and . _ : - only")
        return f"{self.backend}/{server}"

    def _ask(self, command: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(self.timeout_s)
                line.connect(self.socket_path)
                line.sendall(command.encode() + b"\n")
                return b"".join(iter(lambda: line.recv(4096), b"")).decode("utf-8", "replace").strip()
        except OSError as error:
            raise HookError(
                f"HAProxy cannot be asked at {self.socket_path}: {error.strerror or error}",
                hint="its configuration needs `stats socket PATH level admin`",
            ) from None
