"""Set weights of HAProxy's servers through its runtime API, and read them back.

https://docs.haproxy.org/2.6/management.html#9.3: an empty answer is success, everything else is text for people. So
what was set is read back, and only what is read counts.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import Any

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome, State
from evaluator.hooks.network import MaybeSent, NetworkOptions, resolve_allowed
from evaluator.hooks.options import Text
from evaluator.hooks.weights import ServerName, Weights, check_earlier, show_weights

_WEIGHT = re.compile(r"(\d+) \(initial \d+\)")
_LONGEST_ANSWER = 1 << 16


class HaProxyOptions(NetworkOptions):
    """Where the runtime API is, and the weights to set."""

    socket: Text | None = Field(None, description="Its unix socket: `stats socket PATH level admin`.")
    address: Text | None = Field(None, description="Or HOST:PORT, where it listens to TCP.")
    backend: ServerName = Field(description="The backend whose servers are set.")
    weights: Weights = Field(description="Server to weight, 0 to 256: {baseline: 0, canary: 100}.")

    @model_validator(mode="after")
    def _check_place(self) -> HaProxyOptions:
        """Check that the options name either a unix socket or an address HOST:PORT."""
        if (self.socket is None) == (self.address is None):
            raise ValueError("needs socket or address, one of them")
        if self.address and not re.fullmatch(r".+:\d{1,5}", self.address):
            raise ValueError(f"address must be HOST:PORT, not {self.address}")
        return self


class HaProxy(BaseHook[HaProxyOptions]):
    """Weights of servers, at run time: nothing is reloaded, no connection is lost."""

    kind = "haproxy"
    Options = HaProxyOptions

    def _describe(self) -> str:
        options = self.options
        return (
            f"sets the weights of HAProxy's backend {options.backend} at {options.socket or options.address}"
            f" to {show_weights(options.weights)}"
        )

    def _test(self) -> Outcome:
        """Read the weights, to see that HAProxy answers and has the servers; changes nothing."""
        return Outcome("acknowledged", f"HAProxy answers; the weights are {show_weights(self._read())}")

    def _read(self) -> dict[str, int]:
        """Read the weights of the servers that the options name: server → weight. Raises HookError."""
        return {server: self._read_weight(server) for server in self.options.weights}

    def _describe_value(self, value: Any) -> str:
        return show_weights(value)

    def _execute(self, context: HookContext) -> Outcome:  # noqa: ARG002 - the weights do not depend on it
        """Set the weights of the options. Raises HookError, MaybeSent."""
        return self._set_weights(self.options.weights, self._read())

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - as above
        """Set the weights that `_read` returned before the execution (`earlier`). Raises HookError, MaybeSent."""
        return self._set_weights(check_earlier(earlier), self._read())

    def _set_weights(self, weights: dict[str, int], earlier: dict[str, int]) -> Outcome:
        """Set the weights of servers, and read them back to see whether they were set.

        `weights`: server → weight to set. `earlier`: server → weight before. The outcome is failed if no weight has
        changed, and unknown if other weights than these are set. Raises HookError, MaybeSent.
        """
        # The largest weight is set first, and all in one line: at no moment are all servers at 0.
        largest_first = sorted(weights.items(), key=lambda item: -item[1])
        backend = self.options.backend
        answer = self._send(";".join(f"set weight {backend}/{server} {weight}" for server, weight in largest_first))
        try:
            current = {server: self._read_weight(server) for server in weights}
        except HookError as error:
            raise MaybeSent(f"the weights cannot be read back: {error.message}") from None
        if current != weights:
            is_unchanged = current == {server: earlier.get(server) for server in weights}
            state: State = "failed" if is_unchanged else "unknown"
            description = f"the weights are {show_weights(current)} after setting them"
            return Outcome(state, description, earlier=earlier, response=answer)
        earlier_text = show_weights({server: earlier[server] for server in weights if server in earlier})
        description = f"the weights are {show_weights(current)}; they were {earlier_text}"
        return Outcome("acknowledged", description, earlier=earlier, response=answer)

    def _read_weight(self, server: str) -> int:
        """Read the weight of a server of the backend. Raises HookError if HAProxy does not report it."""
        answer = self._send(f"get weight {self.options.backend}/{server}")
        match = _WEIGHT.search(answer)
        if not match:
            raise HookError(
                f"HAProxy does not report the weight of {self.options.backend}/{server}: {answer or 'no answer'}",
                hint="check the server's name in HAProxy's configuration",
            )
        return int(match[1])

    def _send(self, commands: str) -> str:
        """Send a line of commands to HAProxy and return its answer; empty: it has done them.

        The timeout of the options covers all parts of the answer. Raises HookError if it cannot be connected to, and
        MaybeSent if the connection fails afterwards.
        """
        deadline = time.monotonic() + self.options.timeout
        with contextlib.closing(self._connect()) as connection:
            try:
                connection.sendall(commands.encode() + b"\n")
                answer = b""
                while len(answer) < _LONGEST_ANSWER:
                    connection.settimeout(max(deadline - time.monotonic(), 0.001))
                    part = connection.recv(4096)
                    if not part:  # HAProxy closes the connection after its answer
                        break
                    answer += part
                return answer.decode("utf-8", "replace").strip()
            except OSError as error:
                raise MaybeSent(f"HAProxy did not answer: {type(error).__name__}") from None

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
