"""Set weights of HAProxy's servers through its runtime API, and read them back.

https://docs.haproxy.org/2.6/management.html#9.3: an empty line is success, everything else is text for people. So each
answer is looked at, and what was set is read back. A weight says nothing about whether a server gets requests: servers
in maintenance, drained or down get none, so their state is looked at, too.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.by_hand import write_socat
from evaluator.hooks.haproxy_state import Backend, explain_refused_weights, parse_backend
from evaluator.hooks.network import MaybeSent, NetworkOptions, resolve_allowed
from evaluator.hooks.options import Text
from evaluator.hooks.weights import AnyWeights, ServerName, check_earlier, moves_back, show_weights

_LONGEST_ANSWER = 1 << 20


class HaProxyOptions(NetworkOptions):
    """Where the runtime API is, and the weights to set."""

    socket: Text | None = Field(None, description="Its unix socket: `stats socket PATH level admin`.")
    address: Text | None = Field(None, description="Or HOST:PORT, where it listens to TCP.")
    backend: ServerName = Field(description="The backend whose servers are set.")
    weights: AnyWeights = Field(description="Server to weight, 0 to 256: {baseline: 0, canary: 100}.")

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

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        options = self.options
        return (
            f"sets the weights of HAProxy's backend {options.backend} at {options.socket or options.address}"
            f" to {show_weights(options.weights)}"
        )

    def _test(self) -> Outcome:
        """Check that HAProxy answers, has the backend, and lets us set weights; changes nothing."""
        self._check_level()
        backend = self._read_backend()
        self._check_names(backend)
        self._check_some_traffic(backend)
        notes = backend.describe_limits(self.options.weights)
        return Outcome("acknowledged", "; ".join([f"HAProxy answers; the weights are {self._show(backend)}", *notes]))

    def _moves_back(self) -> bool:
        """Whether the weights only take traffic from the candidate. Raises HookError."""
        return moves_back(self.options.weights, self._read_backend().read_weights(self.options.weights))

    def _check_target(self) -> None:
        """Raise HookError for servers that are unknown or cannot serve, or weights that cannot be set."""
        self._check_level()
        weights, backend = self.options.weights, self._read_backend()
        self._check_names(backend)
        self._check_some_traffic(backend)
        if obstacles := backend.list_obstacles(weights):
            raise HookError(
                f"not every server that is to get traffic can serve it: {'; '.join(obstacles)}",
                hint=f"let it serve first: start it, or send `set server {backend.name}/SERVER state ready`",
            )
        if refusal := explain_refused_weights(backend, weights):
            raise HookError(refusal, hint="change the weights, or `balance roundrobin` in HAProxy's configuration")

    def _check_names(self, backend: Backend) -> None:
        """Raise HookError for servers that the backend does not have. Going back sets the others all the same."""
        if unknown := [name for name in self.options.weights if name not in backend.servers]:
            raise HookError(
                f"HAProxy's backend {backend.name} has no server {', '.join(unknown)}",
                hint=f"its servers are {', '.join(backend.servers) or 'none'}",
            )

    def _check_some_traffic(self, backend: Backend) -> None:
        """Raise HookError if no server of the backend would have a weight above 0: no request would be served."""
        weights = self.options.weights
        if not any((backend.read_weights(backend.servers) | weights).values()):
            raise HookError(
                f"with {show_weights(weights)}, no server of HAProxy's backend {backend.name} would have more than 0,"
                " and no request would be served",
                hint="name the server that is to get the traffic, too",
            )

    def _read(self) -> dict[str, int]:
        """Read the weights of the servers that the options name: server → weight, without servers that are unknown.

        Raises HookError if all of them are unknown.
        """
        backend = self._read_backend()
        weights = backend.read_weights(self.options.weights)
        if not weights:
            raise HookError(
                f"HAProxy's backend {backend.name} has no server {', '.join(self.options.weights)}",
                hint=f"its servers are {', '.join(backend.servers) or 'none'}",
            )
        return weights

    def _describe_value(self, value: Any) -> str:
        unknown = [f"no server {name}" for name in self.options.weights if name not in value]
        return ", ".join([show_weights(value), *unknown])

    def _show(self, backend: Backend) -> str:
        """Write the weights of the servers that the options name, for people."""
        return self._describe_value(backend.read_weights(self.options.weights))

    def _execute(self, context: HookContext) -> Outcome:
        """Set the weights of the options. Raises HookError, MaybeSent."""
        if self._goes_back(context.action):
            self._check_some_traffic(self._read_backend())
            return self._go_back(self.options.weights)
        return self._set_weights(self.options.weights)

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - the weights do not depend on it
        """Set the weights that `_read` returned before the execution (`earlier`). Raises HookError, MaybeSent."""
        return self._go_back(check_earlier(earlier))

    def write_by_hand(self, context: HookContext) -> list[str]:  # noqa: ARG002 - the weights do not depend on it
        """Write lines for a shell that do the same."""
        return self._write_weights_by_hand(self.options.weights)

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        return self._write_weights_by_hand(check_earlier(earlier))

    def _write_weights_by_hand(self, weights: Mapping[str, int]) -> list[str]:
        """Write the lines that set weights (server → weight), the largest first, and show the outcome."""
        backend, commands = self.options.backend, list[str]()
        for server, weight in sorted(weights.items(), key=lambda item: -item[1]):
            if weight:
                commands.append(f"set server {backend}/{server} state ready")
            commands.append(f"set server {backend}/{server} weight {weight}")
        commands.append(f"show servers state {backend}")
        return [write_socat(line, socket=self.options.socket, address=self.options.address) for line in commands]

    # -------------------------------------------------------------- forwards: all or nothing

    def _set_weights(self, weights: Mapping[str, int]) -> Outcome:
        """Set all weights (server → weight) or none: if one is refused, those that were set are put back.

        The outcome is failed if all weights are as before, and unknown otherwise. Raises HookError, MaybeSent.
        """
        earlier = self._read_backend().read_weights(weights)
        problem = self._send_weights(weights)
        backend = self._read_again([problem] if problem else [])
        current = backend.read_weights(weights)
        if not problem and current != weights:
            problem = f"the weights are {show_weights(current)} after setting them"
        if not problem and (obstacles := backend.list_obstacles(weights)):  # it broke down in this moment
            problem = "; ".join(obstacles)
        if not problem:
            notes = backend.describe_limits(weights)
            description = f"the weights are {show_weights(current)}; they were {show_weights(earlier)}"
            return Outcome("acknowledged", "; ".join([description, *notes]), earlier=earlier)
        if current == earlier:
            return Outcome("failed", f"{problem}; nothing was changed: the weights are {show_weights(current)}")
        refusal = self._send_weights(earlier)
        current = self._read_again([problem]).read_weights(weights)
        if current == earlier:
            return Outcome("failed", f"{problem}; what was set was put back: the weights are {show_weights(current)}")
        description = f"{problem}; not put back: the weights are {show_weights(current)}, not {show_weights(earlier)}"
        return Outcome("unknown", "; ".join(filter(None, [description, refusal])), earlier=earlier)

    def _send_weights(self, weights: Mapping[str, int]) -> str:
        """Set weights of servers (server → weight), one by one; stop at the first that is not accepted.

        Returns what was not accepted and why; empty if all were.
        """
        # The largest weight is set first: at no moment are all servers at 0.
        for server, weight in sorted(weights.items(), key=lambda item: -item[1]):
            if problem := self._change(f"set weight {self.options.backend}/{server} {weight}"):
                return problem
        return ""

    # -------------------------------------------------------------- back: as much as possible

    def _go_back(self, weights: Mapping[str, int]) -> Outcome:
        """Set as many weights (server → weight) as possible, after enabling the servers that get more than 0.

        It is not refused because a server is down. The outcome is acknowledged if all weights are set and every server
        with more than 0 can serve; otherwise it is failed and names the rest. Raises HookError, MaybeSent.
        """
        backend = self._read_backend()
        earlier = backend.read_weights(weights)
        targets, done = dict(weights), list[str]()
        problems = [
            f"HAProxy's backend {backend.name} has no server {name}" for name in weights if name not in backend.servers
        ]
        for name in sorted(earlier, key=lambda name: -weights[name]):
            if weights[name]:
                problems += self._give_traffic(backend, name, targets, done)
        # First all servers that get traffic, then those that lose it: at no moment are all at 0.
        losing = [name for name in earlier if not weights[name]]
        current = self._read_again(problems).read_weights(backend.servers)
        if any(weights.values()) and not any(weight for name, weight in current.items() if name not in losing):
            # The server that was to get the traffic is missing or refuses it.
            problems += [f"{name} keeps {current[name]}: otherwise no request would be served" for name in losing]
            targets |= {name: current[name] for name in losing}
        else:
            problems += filter(None, (self._change(f"set weight {backend.name}/{name} 0") for name in losing))
        backend = self._read_again(problems)
        current = backend.read_weights(weights)
        problems += [
            f"{name} has the weight {weight}, not {targets[name]}"
            for name, weight in current.items()
            if weight != targets[name]
        ]
        problems += backend.list_obstacles(targets)
        description = "; ".join([f"the weights are {show_weights(current)}", *done])
        if problems:
            return Outcome("failed", f"not everything is as before: {'; '.join(problems)}; {description}")
        return Outcome("acknowledged", description, earlier=earlier)

    def _give_traffic(self, backend: Backend, name: str, targets: dict[str, int], done: list[str]) -> list[str]:
        """Enable a server and set its weight in `targets`; returns what was not accepted.

        Where that way to balance does not take this weight, the server gets that of the configuration, and `targets` is
        changed. What was done is appended to `done`, as sentences.
        """
        server, weight, problems = backend.servers[name], targets[name], list[str]()
        if server.can_be_enabled:
            problem = self._change(f"set server {backend.name}/{name} state ready")
            problems.append(problem) if problem else done.append(
                f"{name} was enabled: it {server.obstacle.replace('is', 'was', 1)}"
            )
        refusal = explain_refused_weights(backend, {name: weight})
        # Whether a hash takes other weights depends on `hash-type`, which HAProxy does not report.
        refusal = refusal or self._change(f"set weight {backend.name}/{name} {weight}")
        if not refusal:
            return problems
        if not backend.may_be_static:
            return [*problems, refusal]
        if problem := self._change(f"set weight {backend.name}/{name} {server.initial_weight}"):
            return [*problems, refusal, problem]
        targets[name] = server.initial_weight
        done.append(f"{name} gets {server.initial_weight} instead of {weight}, because of {backend.algorithm}")
        return problems

    def _read_again(self, problems: Sequence[str]) -> Backend:
        """Read the backend after weights were set, with these problems. Raises MaybeSent if that is not possible."""
        try:
            return self._read_backend()
        except HookError as error:
            raise MaybeSent("; ".join([*problems, f"the weights cannot be read: {error.message}"])) from None

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
