"""Drain and undrain single servers of HAProxy: a rolling rollout replaces them one batch after the other.

https://docs.haproxy.org/2.6/management.html#9.3: a drained server gets no new requests (except those of a cookie), and
works on the ones that it has; `show stat` counts these in `scur`. HAProxy forgets such states when it is reloaded,
unless it has `server-state-file`; so they are read back.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.base import Action, HookContext, Outcome
from evaluator.hooks.by_hand import write_socat
from evaluator.hooks.haproxy_api import BatchOptions, HaProxyOptions
from evaluator.hooks.haproxy_backend import HaProxyBackend
from evaluator.hooks.haproxy_state import Backend
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.router import Applied
from evaluator.records import BASELINE, CANDIDATE
from evaluator.wording import count_of

_POLL_S = 0.2
_DRAINED = "is drained"
_ONLY_SERVERS = "4 -1"
"""What `show stat` is asked for: rows of servers, all of them."""


class HaProxyInstances(HaProxyBackend):
    """The instances of a service. Its state is server → how it was disabled, such as drained; empty: it was not.

    An arm has the servers that were assigned to it last; a drained server belongs to none.
    """

    def __init__(self, options: HaProxyOptions, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(options, environment)
        self.assign({BASELINE: options.instances or [], CANDIDATE: []})

    @property
    def instances(self) -> Sequence[str]:
        """Names of all instances."""
        return self.options.instances or []

    @property
    def batch(self) -> BatchOptions:
        """What is drained or undrained. Raises HookError if the options name nothing."""
        if self.options.batch is None:
            raise HookError(
                "haproxy with `instances` is the router of a rolling rollout, and does nothing by itself",
                hint="name `servers` of two arms to share requests between them",
            )
        return self.options.batch

    def assign(self, servers: Mapping[str, Sequence[str]]) -> None:
        """Say which servers serve which arm from now on. Raises HookError for one that is no instance."""
        names = [name for of_arm in servers.values() for name in of_arm]
        if unknown := [name for name in names if name not in self.instances]:
            raise HookError(f"{', '.join(unknown)} is no instance of {self.options.backend}")
        self.options = self.options.model_copy(update={"servers": {arm: list(of) for arm, of in servers.items()}})

    def list_drained(self) -> list[str]:
        """List the instances that serve no arm."""
        serving = {name for names in self.options.servers.values() for name in names}
        return [name for name in self.instances if name not in serving]

    # -------------------------------------------------------------- what it offers

    def list_serving(self) -> list[str]:
        """List the instances that get requests now. Raises HookError."""
        backend = self._read_known()
        return [name for name in self.instances if backend.can_serve(name) and backend.servers[name].weight]

    def list_obstacles(self, names: Sequence[str] | None = None) -> list[str]:
        """List which instances (None: of all) cannot serve now and why, as sentences. Raises HookError."""
        return self._read_known().list_obstacles(dict.fromkeys(self.instances if names is None else names, 1))

    def drain(self, names: Sequence[str], least_serving: int) -> None:
        """Give some instances no new requests.

        Raises HookError if fewer than `least_serving` would serve then, or nothing was changed; MaybeSent otherwise.
        """
        self._check_level()
        backend = self._read_known()
        serving = [name for name in self.instances if backend.can_serve(name)]
        leaving = [name for name in names if name in serving]
        left = len(serving) - len(leaving)
        if leaving and left < least_serving:
            raise HookError(
                f"without {', '.join(leaving)}, {left} of {count_of(len(self.instances), 'instance')} would serve, "
                f"fewer than {least_serving} (least_serving){_explain_others(backend, self.instances, leaving)}",
                hint="let the others serve first",
            )
        enabled = [name for name in names if not _find_state(backend, name)]  # also those that are down
        self._set_states(dict.fromkeys(enabled, "drain"), dict.fromkeys(enabled, "ready"))

    def undrain(self, names: Sequence[str], wait_s: float) -> None:
        """Give some instances requests again, and wait until all can serve; otherwise they are drained again.

        Raises HookError if all is as before, MaybeSent otherwise.
        """
        self._check_level()
        backend = self._read_known()
        blocked = [name for name in names if not backend.can_serve(name)]
        self._set_states(dict.fromkeys(blocked, "ready"), dict.fromkeys(blocked, "drain"), wait_s=wait_s)

    def wait_for_sessions(self, names: Sequence[str], wait_s: float) -> str:
        """Wait until instances work on no request any more; returns a sentence on those that are left, or empty."""
        deadline = time.monotonic() + wait_s
        while True:
            busy = {name: count for name, count in self._count_sessions().items() if name in names and count}
            if not busy:
                return ""
            if time.monotonic() >= deadline:
                left = ", ".join(f"{count_of(count, 'session')} of {name}" for name, count in busy.items())
                return f"{left} had not ended after {wait_s:g} s, and will be cut off"
            time.sleep(min(_POLL_S, max(deadline - time.monotonic(), 0.01)))

    def _count_sessions(self) -> dict[str, int]:
        """Count the sessions that each server works on, and those that wait for it. Raises HookError."""
        answer = self._ask(f"show stat {self.options.backend} {_ONLY_SERVERS}")
        try:
            rows = csv.DictReader(io.StringIO(answer.removeprefix("# ")))
            return {row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0) for row in rows}
        except (csv.Error, KeyError, ValueError, TypeError):
            raise HookError(f"HAProxy's answer about the sessions of {self.options.backend} cannot be read") from None

    def _read_known(self) -> Backend:
        """Read the backend. Raises HookError if it lacks one of the instances."""
        backend = self._read_backend()
        self._check_instances(backend)
        return backend

    def _check_instances(self, backend: Backend) -> None:
        """Raise HookError for instances that the backend does not have."""
        if unknown := [name for name in self.instances if name not in backend.servers]:
            raise HookError(
                f"HAProxy's backend {backend.name} has no server {', '.join(unknown)}",
                hint=f"its servers are {', '.join(backend.servers) or 'none'}",
            )

    def _set_states(self, states: Mapping[str, str], earlier: Mapping[str, str], *, wait_s: float = 0.0) -> None:
        """Set the states of servers (name → drain or ready), and read them back; if that fails, set `earlier`.

        Raises HookError if all is as before, MaybeSent otherwise.
        """
        problem = ""
        for name, state in states.items():
            problem = problem or self._change(f"set server {self.options.backend}/{name} state {state}")
        deadline = time.monotonic() + wait_s
        while not problem and (text := self._explain_other(states)):
            if time.monotonic() >= deadline:
                problem = text
            else:
                time.sleep(_POLL_S)
        if not problem:
            return
        refusals = [
            refusal
            for name, state in earlier.items()
            if (refusal := self._change(f"set server {self.options.backend}/{name} state {state}"))
        ]
        if refusals or self._explain_other(earlier, also_down=True):
            raise MaybeSent("; ".join([problem, *refusals]))
        raise HookError(f"{problem}; they are as before")

    def _explain_other(self, states: Mapping[str, str], *, also_down: bool = False) -> str:
        """Say which servers are not in the states that they were given; empty if all are.

        `also_down`: one that is to serve, and is down, has its state all the same.
        """
        try:
            backend = self._read_backend()
        except HookError as error:
            return error.message
        problems = []
        for name, state in states.items():
            server = backend.servers.get(name)
            if server is None:
                problems.append(f"HAProxy's backend {backend.name} has no server {name} any more")
            elif state == "drain" and server.obstacle != _DRAINED and not server.can_be_enabled:
                problems.append(f"{name} still gets requests")
            elif state == "ready" and server.obstacle and not (also_down and not server.can_be_enabled):
                problems.append(f"{name} {server.obstacle}")
        return "; ".join(problems)

    # -------------------------------------------------------------- as a hook

    def test(self, action: Action = "promote") -> Outcome:  # noqa: ARG002 - it has no shares
        """Check that HAProxy answers and has the instances; changes nothing."""
        return self._attempt(self._test)

    def _test_router(self) -> list[str]:
        self._read_known()
        found = super()._test_router()
        return [f"HAProxy answers; {self._describe_value(self._read_state({}))}", *found[1:]]

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        batch = self.batch
        if batch.do == "drain":
            return f"drains {', '.join(batch.servers)} of {self._describe_router({})}, and waits up to {batch.wait:g} s"
        return f"undrains {', '.join(batch.servers)} of {self._describe_router({})}"

    def _describe_undo(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - as above
        verb = "undrains" if self.batch.do == "drain" else "drains"
        return f"{verb} {', '.join(self.batch.servers)} of {self._describe_router({})}"

    def _describe_value(self, value: Any) -> str:
        return ", ".join(f"{name} {obstacle or 'serves'}" for name, obstacle in value.items())

    def _check_target(self, action: Action) -> None:
        """Look at nothing: what is undrained is looked at afterwards."""

    def _goes_back(self, action: Action) -> bool:
        return action in ("rollback", "hold")

    def _read_state(self, words: Mapping[str, str]) -> Any:  # noqa: ARG002 - its options have no words
        backend = self._read_known()
        names = self.options.batch.servers if self.options.batch else self.instances
        return {name: _find_state(backend, name) for name in names}

    def _check_state(self, state: Any) -> Any:
        if not isinstance(state, dict) or not all(isinstance(obstacle, str) for obstacle in state.values()):
            raise HookError("it is not known which instances served before")
        return state

    def read_settings(self, context: HookContext | None = None) -> dict[str, float]:
        """Read the shares by the servers that serve: states are the settings."""
        return self.read_shares(context)

    def _execute(self, context: HookContext) -> Outcome:  # noqa: ARG002 - its options have no words
        """Drain or undrain the batch. Raises HookError, MaybeSent."""
        if self.batch.do == "drain":
            self.drain(self.batch.servers, self.batch.least_serving)
            return Outcome("acknowledged", self.describe_drained())
        self.undrain(self.batch.servers, self.batch.wait)
        return Outcome("acknowledged", f"{', '.join(self.batch.servers)} served again")

    def describe_drained(self) -> str:
        """Wait for the sessions of the batch, which is drained, and describe what came of that. Raises MaybeSent."""
        names = ", ".join(self.batch.servers)
        try:
            left = self.wait_for_sessions(self.batch.servers, self.batch.wait)
            cookie = self._read_known().cookie
        except HookError as error:  # they are drained all the same, and have to be undrained
            raise MaybeSent(f"the drain of {names} was done, but not what followed: {error.message}") from None
        text = f"{names} get no new requests; {left or 'none of theirs is in progress'}"
        if not cookie:
            return text
        # A drained server goes on getting the requests of users who have its cookie.
        backend = self.options.backend
        problems = [self._change(f"set server {backend}/{name} state maint") for name in self.batch.servers]
        if problem := "; ".join(filter(None, problems)):
            raise MaybeSent(f"users with the cookie {cookie} still get to {names}: {problem}")
        return f"{text}; in maintenance, because users with the cookie {cookie} would stay there"

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - as above
        """Undrain what was drained, of what served before, and the reverse. Raises HookError, MaybeSent."""
        batch = self.batch
        if batch.do == "undrain":
            self.drain(batch.servers, batch.least_serving)
            return Outcome("acknowledged", self.describe_drained())
        state = self._check_state(earlier)
        names = [name for name in batch.servers if not state.get(name, "")]
        self.undrain(names, batch.wait)
        others = [f"{name} {state[name]}, as before" for name in batch.servers if state.get(name, "")]
        return Outcome("acknowledged", "; ".join([f"{', '.join(names) or 'none'} served again", *others]))

    def write_by_hand(self, context: HookContext) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that drain or undrain the batch."""
        return self._write_states("drain" if self.batch.do == "drain" else "ready")

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that take that back."""
        return self._write_states("ready" if self.batch.do == "drain" else "drain")

    def _write_states(self, state: str) -> list[str]:
        """Write the lines for a shell that set the state of the servers of the batch."""
        backend = self.options.backend
        lines = [f"set server {backend}/{name} state {state}" for name in self.batch.servers]
        lines.append(f"show servers state {backend}")
        return [write_socat(line, socket=self.options.socket, address=self.options.address) for line in lines]

    def _plan(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> Any:  # noqa: ARG002
        raise HookError("the shares of instances follow from how many are replaced", hint="drain or undrain some")

    def _apply(self, state: Any, words: Mapping[str, str], *, back: bool) -> Applied:  # noqa: ARG002 - as above
        raise HookError("instances have no weights that could be set", hint="drain or undrain some")


def _find_state(backend: Backend, name: str) -> str:
    """Find how a person or a program has disabled a server; empty: it is not, though it may be down."""
    server = backend.servers[name]
    return server.obstacle if server.can_be_enabled else ""


def _explain_others(backend: Backend, instances: Sequence[str], leaving: Sequence[str]) -> str:
    """Say why other instances do not serve; empty if all do."""
    others = backend.list_obstacles({name: 1 for name in instances if name not in leaving})
    return f": {'; '.join(others)}" if others else ""
