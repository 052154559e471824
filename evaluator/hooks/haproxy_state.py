"""What HAProxy reports of a backend: its servers, which of them can serve, and which weights they can take.

https://docs.haproxy.org/2.6/management.html#9.3, `show servers state` and `show stat`; the numbers of states are in
haproxy/include/haproxy/server-t.h (SRV_ST_…, SRV_ADMF_…).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluator.errors import HookError

_STOPPED, _STOPPING = 0, 3
"""Operational states of a server that get no new requests: down, and about to stop (its check asked for that)."""
_ADMIN_OBSTACLES = (
    (0x01, "is in maintenance"),
    (0x02, "is in maintenance, like the server that it tracks"),
    (0x20, "is in maintenance, because its name cannot be resolved"),
    (0x08, "is drained"),
    (0x10, "is drained, like the server that it tracks"),
)
"""Bit of the administrative state → what it means. 0x04 only says that the configuration has the word `disabled`."""
_SET_BY_HAND = 0x01 | 0x08
"""Bits that `set server … state ready` clears."""
_STATIC_ALGORITHM = "static-rr"
_HASH_ALGORITHMS = ("source", "uri", "url_param", "hdr", "rdp-cookie", "hash")
"""Static or not, which depends on `hash-type` and is not reported."""
_IGNORES_WEIGHTS = "first"
"""This algorithm fills one server after the other; a weight only says whether a server takes part (above 0)."""


@dataclass(frozen=True, slots=True)
class BackendServer:
    """A server of a backend."""

    weight: int
    initial_weight: int
    """In the configuration."""
    obstacle: str
    """Why it gets no new requests, whatever its weight, as in "is drained"; empty if it can serve."""
    can_be_enabled: bool
    """The obstacle was set by a person or a program, and `set server … state ready` ends it."""
    is_checked: bool
    """It has a health check, or tracks a server that may have one; otherwise HAProxy never notices that it is down."""
    is_backup: bool
    """It gets requests only while no other server can take them, whatever its weight."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend as HAProxy reports it."""

    name: str
    algorithm: str
    """How it balances: roundrobin, static-rr, …"""
    servers: Mapping[str, BackendServer]

    @property
    def may_be_static(self) -> bool:
        """Whether its way to balance takes few weights, or may: of hashes, HAProxy does not report `hash-type`."""
        return self.algorithm in (_STATIC_ALGORITHM, *_HASH_ALGORITHMS)

    def read_weights(self, names: Iterable[str]) -> dict[str, int]:
        """Return server → weight of those named servers that exist."""
        return {name: self.servers[name].weight for name in names if name in self.servers}

    def list_obstacles(self, weights: Mapping[str, int]) -> list[str]:
        """List which of the servers that are to get traffic (weight above 0) cannot serve it, as sentences."""
        return [
            f"{name} {self.servers[name].obstacle}"
            for name, weight in weights.items()
            if weight and name in self.servers and self.servers[name].obstacle
        ]

    def describe_limits(self, weights: Mapping[str, int]) -> list[str]:
        """List what these weights (server → weight) do not decide, or what is not known of their servers."""
        known = {name: self.servers[name] for name in weights if name in self.servers}
        unchecked = [name for name, server in known.items() if weights[name] and not server.is_checked]
        others = {name: server.weight for name, server in self.servers.items() if name not in weights and server.weight}
        limits = [
            f"{name} is a backup server, which gets requests only while no other server can take them"
            for name, server in known.items()
            if weights[name] and server.is_backup
        ]
        if others:
            limits.append("other servers keep their weights: " + ", ".join(f"{name} {others[name]}" for name in others))
        if unchecked:
            limits.append(f"HAProxy does not check the health of {', '.join(unchecked)}")
        if self.algorithm in _HASH_ALGORITHMS and any(
            weights[name] not in (0, server.initial_weight) for name, server in known.items()
        ):
            limits.append(
                f"these weights need `hash-type consistent`, because the backend balances by {self.algorithm}"
            )
        return limits


def explain_refused_weights(backend: Backend, weights: Mapping[str, int]) -> str:
    """Say why the backend's way of balancing cannot take these weights of its servers; empty if it can."""
    start = f"HAProxy's backend {backend.name} balances by {backend.algorithm}"
    if backend.algorithm == _STATIC_ALGORITHM:
        refused = [
            f"{name} can have 0 or {backend.servers[name].initial_weight}, not {weight}"
            for name, weight in weights.items()
            if weight not in (0, backend.servers[name].initial_weight)
        ]
        if refused:
            return f"{start}, which takes no weight but 0 and that of the configuration: {'; '.join(refused)}"
    if backend.algorithm == _IGNORES_WEIGHTS and sum(weight > 0 for weight in weights.values()) > 1:
        return f"{start}, which does not share traffic by weights: only one server can have more than 0"
    return ""


def parse_backend(name: str, states: str, statistics: str) -> Backend:
    """Read a backend from the answers to `show servers state NAME` and `show stat NAME 6 -1`. Raises HookError."""
    lines = states.splitlines()
    header = next((line.lstrip("# ").split() for line in lines if line.startswith("#")), None)
    if header is None:  # a text for people, such as "Can't find backend."
        raise HookError(
            f"HAProxy does not report the servers of the backend {name}: {states[:200] or 'no answer'}",
            hint="check the name of the backend in HAProxy's configuration",
        )
    rows = [line.split() for line in lines if line.startswith(tuple("0123456789")) and " " in line]
    unreadable = HookError(f"HAProxy's answer about the backend {name} cannot be read")
    try:
        statistics_rows = list(csv.DictReader(io.StringIO(statistics.removeprefix("# "))))
    except csv.Error:
        raise unreadable from None
    row_by_server = {row.get("svname"): row for row in statistics_rows if row.get("pxname") == name}
    if "BACKEND" not in row_by_server:
        raise HookError(f"HAProxy does not report the state of the backend {name}: {statistics[:200] or 'no answer'}")
    servers = {}
    try:
        for row in rows:
            state = dict(zip(header, row, strict=True))
            servers[state["srv_name"]] = _read_server(state, row_by_server[state["srv_name"]])
    except (KeyError, ValueError, TypeError):
        raise unreadable from None
    return Backend(name, row_by_server["BACKEND"].get("algo") or "", servers)


def _read_server(state: Mapping[str, str], statistics: Mapping[str, str]) -> BackendServer:
    """Read a server from its row of `show servers state` and that of `show stat`. Raises KeyError, ValueError."""
    admin_state, operational_state = int(state["srv_admin_state"]), int(state["srv_op_state"])
    obstacle = next((text for bit, text in _ADMIN_OBSTACLES if admin_state & bit), "")
    if not obstacle and operational_state == _STOPPED:
        check = ": ".join(filter(None, (statistics["check_status"], statistics["last_chk"])))
        obstacle = f"is {statistics['status']}" + (f" ({check})" if check else "")
    elif not obstacle and operational_state == _STOPPING:
        obstacle = "takes no new requests, because its health check asked for that"
    return BackendServer(
        weight=int(state["srv_uweight"]),
        initial_weight=int(state["srv_iweight"]),
        obstacle=obstacle,
        can_be_enabled=bool(admin_state & _SET_BY_HAND),
        is_checked=bool(statistics["check_status"] or statistics["agent_status"] or statistics["tracked"]),
        is_backup=statistics["bck"] == "1",
    )
