"""What HAProxy reports of a backend: its servers, which of them can serve, and which weights they can take.

https://docs.haproxy.org/2.6/management.html#9.3, `show servers state` and `show stat`; the numbers of states are in
haproxy/include/haproxy/server-t.h (SRV_ST_…, SRV_ADMF_…).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from evaluator.errors import HookError
from evaluator.hooks.weights import show_weights

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
_LEAST_CONNECTIONS = "leastconn"
_HASH_ALGORITHMS = ("source", "uri", "url_param", "hdr", "rdp-cookie", "hash")
"""Static or not, which depends on `hash-type` and is not reported."""
_FILLS_SERVERS = "first"
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
    has_agent: bool
    """A program at the server answers HAProxy's `agent-check`; it may change the weight, too."""
    slow_start: float
    """Part of its weight that counts now: less than 1 for some time after the start of a server with `slowstart`."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend as HAProxy reports it."""

    name: str
    algorithm: str
    """How it balances: roundrobin, static-rr, …"""
    cookie: str
    """Name of the cookie by which users stay at their server; empty: there is none."""
    servers: Mapping[str, BackendServer]

    @property
    def may_be_static(self) -> bool:
        """Whether its way to balance takes few weights, or may: of hashes, HAProxy does not report `hash-type`."""
        return self.algorithm in (_STATIC_ALGORITHM, *_HASH_ALGORITHMS)

    def read_weights(self, names: Iterable[str]) -> dict[str, int]:
        """Return server → weight of those named servers that exist."""
        return {name: self.servers[name].weight for name in names if name in self.servers}

    def can_serve(self, name: str, *, enabled: bool = False) -> bool:
        """Whether a server gets requests if it has a weight; `enabled`: after `set server … state ready`."""
        server = self.servers.get(name)
        return server is not None and (not server.obstacle or (enabled and server.can_be_enabled))

    def list_obstacles(self, weights: Mapping[str, int]) -> list[str]:
        """List which of the servers that are to get traffic (weight above 0) cannot serve it, as sentences."""
        return [
            f"{name} {self.servers[name].obstacle}"
            for name, weight in weights.items()
            if weight and name in self.servers and self.servers[name].obstacle
        ]

    def find_effective_weights(self) -> dict[str, float]:
        """Return server → the weight by which it gets requests now: 0 where it gets none.

        Backup servers get requests only if no other server can; then HAProxy uses the first of them, or all, which it
        does not report: here all count.
        """
        serving = {name: server for name, server in self.servers.items() if not server.obstacle and server.weight}
        first = {name for name, server in serving.items() if not server.is_backup} or set(serving)
        return {
            name: server.weight * server.slow_start if name in first else 0.0 for name, server in self.servers.items()
        }

    def replace_weights(self, weights: Mapping[str, int]) -> Backend:
        """Return the backend as it would be with these weights (server → weight)."""
        servers = {
            name: replace(server, weight=weights.get(name, server.weight)) for name, server in self.servers.items()
        }
        return replace(self, servers=servers)

    def order_changes(self, weights: Mapping[str, int], candidates: Collection[str]) -> list[str]:
        """Order servers so that weights (server → weight) can be set one after the other.

        In between, candidates together get no larger share than before or afterwards, even if all weights become
        smaller; and at no moment are all servers at 0.
        """
        is_served_by_others = any(
            server.weight and self.can_serve(name) and weights.get(name, 1)
            for name, server in self.servers.items()
            if name not in candidates
        )

        def find_step(name: str) -> int:
            """Candidates that lose; other servers; candidates that gain; what goes to 0 last if it must."""
            new, old = weights[name], self.servers[name].weight if name in self.servers else 0
            if name in candidates and new < old and (new or is_served_by_others):
                return 0
            if not new:
                return 3
            return 2 if name in candidates else 1

        return sorted(weights, key=lambda name: (find_step(name), -weights[name]))

    def describe_limits(self, names: Collection[str], *, also_unused: bool = False) -> list[str]:
        """List what the weights of these servers do not decide now, or what is not known of them, as sentences.

        `also_unused`: of servers without a weight, too, which may get one.
        """
        with_traffic = {
            name: server for name, server in self.servers.items() if name in names and (server.weight or also_unused)
        }
        limits = self.list_obstacles(dict.fromkeys(with_traffic, 1))
        limits += [
            f"{name} is a backup server, which gets requests only while no other server can take them"
            for name, server in with_traffic.items()
            if server.is_backup
        ]
        limits += [
            f"{name} has started a short time ago, and gets {100 * server.slow_start:.0f} % of its weight (`slowstart`)"
            for name, server in with_traffic.items()
            if server.slow_start < 1
        ]
        others = {name: server.weight for name, server in self.servers.items() if name not in names and server.weight}
        if others:
            limits.append(f"servers of no arm keep their weights: {show_weights(others)}")
        if unchecked := [name for name, server in with_traffic.items() if not server.is_checked]:
            limits.append(f"HAProxy does not check the health of {', '.join(unchecked)}")
        if agents := [name for name in names if name in self.servers and self.servers[name].has_agent]:
            limits.append(f"an agent may change the weight of {', '.join(agents)}, too (`agent-check`)")
        if self.cookie:
            limits.append(f"users who have the cookie {self.cookie} stay at their server, whatever its weight")
        return [*limits, *self._describe_algorithm(with_traffic)]

    def _describe_algorithm(self, with_traffic: Mapping[str, BackendServer]) -> list[str]:
        """Say what the way to balance makes of the weights: in a list, empty if it follows them."""
        start = f"the backend balances by {self.algorithm}"
        if self.algorithm in _HASH_ALGORITHMS:
            needs = ""
            if any(server.weight != server.initial_weight for server in with_traffic.values()):
                needs = ", and weights other than those of the configuration need `hash-type consistent`"
            return [f"{start}: clients are shared by the weights, and each one stays at its server{needs}"]
        if self.algorithm == _LEAST_CONNECTIONS:
            return [f"{start}, which gives a slower arm fewer requests than its share"]
        if self.algorithm == _STATIC_ALGORITHM:
            return [f"{start}, so an arm can get all or nothing, and no share in between"]
        return []


def explain_refused_shares(backend: Backend, shares: Mapping[str, float]) -> str:
    """Say why the backend's way of balancing cannot give arms these shares; empty if it can."""
    if backend.algorithm == _FILLS_SERVERS and sum(share > 0 for share in shares.values()) > 1:
        return (
            f"HAProxy's backend {backend.name} balances by {backend.algorithm}, which does not share traffic by"
            " weights: only one arm can have more than 0"
        )
    return ""


def explain_refused_weights(backend: Backend, weights: Mapping[str, int]) -> str:
    """Say why the backend's way of balancing cannot take these weights of its servers; empty if it can."""
    if backend.algorithm != _STATIC_ALGORITHM:
        return ""
    refused = [
        f"{name} can have 0 or {backend.servers[name].initial_weight}, not {weight}"
        for name, weight in weights.items()
        if weight not in (0, backend.servers[name].initial_weight)
    ]
    if not refused:
        return ""
    return (
        f"HAProxy's backend {backend.name} balances by {backend.algorithm}, which takes no weight but 0 and that of the"
        f" configuration: {'; '.join(refused)}"
    )


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
    whole = row_by_server["BACKEND"]
    return Backend(name, whole.get("algo") or "", whole.get("cookie") or "", servers)


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
        has_agent=bool(statistics["agent_status"]),
        slow_start=float(statistics.get("throttle") or 100) / 100,
    )
