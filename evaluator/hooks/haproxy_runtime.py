"""What all uses of HAProxy's runtime API share: options, questions and answers.

https://docs.haproxy.org/2.6/management.html#9.3: an empty line is success, everything else is text for people. So each
answer is looked at, and what was set is read back.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.fields import Section
from evaluator.hooks.haproxy_config import explain_reload
from evaluator.hooks.haproxy_state import Backend, parse_backend
from evaluator.hooks.network import MaybeSent, NetworkOptions, resolve_allowed
from evaluator.hooks.options import Seconds, Text, names_of
from evaluator.hooks.router import SHARES, ArmName, Realised, ServerRouter, Shares, check_servers
from evaluator.hooks.weights import ServerName, show_weights, sum_shares

_LONGEST_ANSWER = 1 << 20


class BatchOptions(Section):
    """Servers that are drained or undrained together."""

    do: Literal["drain", "undrain"] = Field(description="What is done.")
    servers: names_of(ServerName) = Field(description="With these servers.")  # type: ignore[valid-type] # as below
    least_serving: int = Field(1, ge=1, description="How many instances have to serve afterwards.")
    wait: Seconds = Field(60.0, description="How long their requests, or a server that starts, are waited for.")
    arms: dict[ArmName, list[ServerName]] = Field(
        default_factory=dict, description="Arm to the instances that serve it afterwards."
    )


class HaProxyOptions(NetworkOptions):
    """Where the runtime API is, and the servers of each arm."""

    socket: Text | None = Field(None, description="Its unix socket: `stats socket PATH level admin`.")
    address: Text | None = Field(None, description="Or HOST:PORT, where it listens to TCP.")
    backend: ServerName = Field(description="The backend whose servers share the requests.")
    servers: dict[ArmName, names_of(ServerName)] = Field(  # type: ignore[valid-type] # a type that a function makes
        default_factory=dict, description="Arm to its servers: {baseline: [b1, b2], canary: [c1, c2]}."
    )
    instances: names_of(ServerName) | None = Field(  # type: ignore[valid-type] # as above
        None, description="Or, for a rolling rollout, all servers of the service: they get the new version in batches."
    )
    batch: BatchOptions | None = Field(
        None, description="With instances: those that are drained or undrained; a rolling rollout writes it itself."
    )
    shares: Shares | None = SHARES

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        """Check that the options name either a unix socket or an address HOST:PORT, and arms with servers."""
        if (self.socket is None) == (self.address is None):
            raise ValueError("needs socket or address, one of them")
        if self.address and not re.fullmatch(r".+:\d{1,5}", self.address):
            raise ValueError(f"address must be HOST:PORT, not {self.address}")
        if self.instances is None and self.batch is None:
            check_servers(self.servers, self.shares)
            return self
        if self.servers or self.shares or not self.instances:
            raise ValueError("has either instances, and of these a batch, or servers and shares of arms")
        unknown = set(self.batch.servers) - set(self.instances) if self.batch else set()
        if unknown or len(self.instances) != len(set(self.instances)):
            raise ValueError("must name each instance once, and in batch only these")
        return self


class HaProxyRuntime(ServerRouter[HaProxyOptions]):
    """The servers of one backend."""

    kind = "haproxy"
    Options = HaProxyOptions

    def _list_servers(self) -> Mapping[str, Sequence[str]]:
        return self.options.servers

    def _list_requested(self) -> Mapping[str, float] | None:
        return self.options.shares

    def _describe_router(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"HAProxy's backend {self.options.backend} at {self.options.socket or self.options.address}"

    def _test_router(self) -> list[str]:
        """Check that HAProxy answers, has the servers, and lets us set weights; changes nothing. Raises HookError."""
        self._check_level()
        backend = self._read_backend()
        self._check_names(backend)
        on_reload = explain_reload(self._ask("show info"), self.options.backend, is_local=bool(self.options.socket))
        limits = backend.describe_limits(self._list_names(), also_unused=True)
        return [f"HAProxy answers; the weights are {self._show(backend)}", *limits, on_reload]

    def _explain_down(self, arm: str) -> str | None:
        """Look what HAProxy's health checks have found; without a check, HAProxy takes each server for up."""
        backend, names = self._read_backend(), self._list_servers().get(arm, ())
        if any(backend.can_serve(name) and backend.servers[name].is_checked for name in names):
            return ""
        if any(backend.can_serve(name, enabled=True) for name in names):  # not checked, or not looked at meanwhile
            return None
        return "; ".join(backend.list_obstacles(dict.fromkeys(names, 1))) or f"the backend has no server of {arm}"

    def _check_names(self, backend: Backend) -> None:
        """Raise HookError for servers that the backend does not have. Going back sets the others all the same."""
        if unknown := [name for name in self._list_names() if name not in backend.servers]:
            raise HookError(
                f"HAProxy's backend {backend.name} has no server {', '.join(unknown)}",
                hint=f"its servers are {', '.join(backend.servers) or 'none'}",
            )

    def _measure(self, words: Mapping[str, str]) -> Realised:  # noqa: ARG002 - as above
        """Read the shares by the servers that can serve, also those of no arm."""
        backend = self._read_backend()
        shares = sum_shares(backend.find_effective_weights(), self._list_servers())
        return Realised(
            shares, (f"the weights are {self._show(backend)}", *backend.describe_limits(self._list_names()))
        )

    def _describe_value(self, value: Any) -> str:
        unknown = [f"no server {name}" for name in self._list_names() if name not in value]
        return ", ".join([show_weights(value), *unknown])

    def _show(self, backend: Backend) -> str:
        """Write the weights of the servers that the options name, for people."""
        return self._describe_value(backend.read_weights(self._list_names()))

    # -------------------------------------------------------------- the runtime API

    def _check_level(self) -> None:
        """Raise HookError if this socket or address is not allowed to set weights."""
        level = self._ask("show cli level")
        if level != "admin":
            raise HookError(
                f"HAProxy answers with the level {level[:100] or '(no answer)'}, and setting weights needs admin",
                hint="write `level admin` at its `stats socket`",
            )

    def _read_backend(self) -> Backend:
        """Read the servers of the backend, with their weights and states. Raises HookError."""
        name = self.options.backend
        return parse_backend(name, self._ask(f"show servers state {name}"), self._ask(f"show stat {name} 6 -1"))

    def _change(self, command: str) -> str:
        """Send a command that changes something; returns why it was not accepted, empty if it was."""
        try:
            answer = self._send(command)
        except (HookError, MaybeSent) as error:
            answer = str(error)
        return f"`{command}` was not done: {answer}" if answer else ""

    def _ask(self, command: str) -> str:
        """Send a command that changes nothing, and return the answer. Raises HookError."""
        try:
            return self._send(command)
        except MaybeSent as error:
            raise HookError(str(error), hint="check that HAProxy runs") from None

    def _send(self, command: str) -> str:
        """Send a command to HAProxy and return its answer without spaces around it; empty: it has done it.

        The timeout of the options covers all parts of the answer. Raises HookError if it cannot be connected to, and
        MaybeSent if the connection fails afterwards, or if the answer is not whole.
        """
        deadline = time.monotonic() + self.options.timeout
        with contextlib.closing(self._connect()) as connection:
            try:
                connection.sendall(command.encode() + b"\n")
                answer = b""
                while len(answer) < _LONGEST_ANSWER:
                    connection.settimeout(max(deadline - time.monotonic(), 0.001))
                    part = connection.recv(1 << 16)
                    if not part:  # HAProxy closes the connection after its answer
                        break
                    answer += part
            except OSError as error:
                raise MaybeSent(f"HAProxy did not answer: {type(error).__name__}") from None
        # Each answer ends with a line break, also an empty one.
        if not answer.endswith(b"\n"):
            raise MaybeSent(
                f"HAProxy closed the connection {'in the middle of its' if answer else 'without an'} answer"
            )
        return answer.decode("utf-8", "replace").strip()

    def _connect(self) -> socket.socket:
        """Open a connection to HAProxy's unix socket, or to its address if `allow_hosts` lists it. Raises HookError."""
        options = self.options
        try:
            if options.socket:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.settimeout(options.timeout)
                try:
                    connection.connect(options.socket)
                except BaseException:
                    connection.close()
                    raise
                return connection
            host, _, port = str(options.address).rpartition(":")
            addresses = resolve_allowed(host.strip("[]"), int(port), options.allow_hosts)
            return socket.create_connection((addresses[0], int(port)), options.timeout)
        except OSError as error:
            where = options.socket or options.address
            raise HookError(f"HAProxy cannot be reached at {where}: {error.strerror or type(error).__name__}") from None
