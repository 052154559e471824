"""HAProxy's runtime API: where it is, and how a command is sent and its answer read.

https://docs.haproxy.org/2.6/management.html#9.3: an empty line is success, everything else is text for people.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.fields import Section
from evaluator.hooks.network import MaybeSent, NetworkOptions, resolve_allowed
from evaluator.hooks.options import Seconds, Text, names_of
from evaluator.hooks.router import SHARES, ArmName, ServerRouter, Shares, check_servers
from evaluator.hooks.weights import ServerName

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
    backend: ServerName = Field("", description="The backend whose servers share the requests.")
    map: Annotated[Text, Field(pattern=r"^[^\s;#]+$")] | None = Field(
        None,
        description="Or the map, as HAProxy's configuration names it, that gives each user's hash value a backend: "
        "each user keeps an arm.",
    )
    servers: dict[ArmName, names_of(ServerName)] = Field(  # type: ignore[valid-type] # a type that a function makes
        default_factory=dict,
        description="Arm to its servers: {baseline: [b1, b2], canary: [c1, c2]}; with map to its backend: {baseline: "
        "shop_a, b: shop_b}.",
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
        if bool(self.backend) == (self.map is not None):
            raise ValueError("needs backend or map, one of them")
        if self.map is not None and any(len(names) > 1 for names in self.servers.values()):
            raise ValueError("with map, each arm has one backend, such as servers: {baseline: shop_a, b: shop_b}")
        if self.instances is None and self.batch is None:
            check_servers(self.servers, self.shares)
            return self
        if self.servers or self.shares or self.map or not self.instances:
            raise ValueError("has either instances, and of these a batch, or servers and shares of arms")
        unknown = set(self.batch.servers) - set(self.instances) if self.batch else set()
        if unknown or len(self.instances) != len(set(self.instances)):
            raise ValueError("must name each instance once, and in batch only these")
        return self


class HaProxyHook(ServerRouter[HaProxyOptions]):
    """What all ways have in common to share requests by HAProxy's runtime API."""

    kind = "haproxy"
    Options = HaProxyOptions

    def _list_servers(self) -> Mapping[str, Sequence[str]]:
        return self.options.servers

    def _list_requested(self) -> Mapping[str, float] | None:
        return self.options.shares

    def _check_level(self) -> None:
        """Raise HookError if this socket or address is not allowed to set weights."""
        level = self._ask("show cli level")
        if level != "admin":
            raise HookError(
                f"HAProxy answers with the level {level[:100] or '(no answer)'}, and setting weights needs admin",
                hint="write `level admin` at its `stats socket`",
            )

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
