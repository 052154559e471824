"""What HAProxy counts of the servers of each arm: a request is seen when it begins, and logged only when it ends.

https://docs.haproxy.org/2.6/management.html#9.1. The counters begin at 0 when HAProxy is reloaded.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluator.errors import SourceError
from evaluator.guard.limits import ArmCounters, CounterWindow
from evaluator.records.rollouts import GuardLimits
from evaluator.records.words import BASELINE

_DOWN_LOOKS = 3
"""After so many looks in a row that find no server of an arm up, the arm is down."""
_NEEDED = ("pxname", "svname", "type", "stot", "scur", "qcur", "econ", "eresp", "status")
_OF_SERVERS = "2"
_SERVER_ERRORS = "5xx"

AskStats = Callable[[str], str]
"""Sends a command to HAProxy, and returns the answer. Raises EvaluatorError."""
FindArm = Callable[[str], str | None]
"""Name of a server, or of its backend → its arm; None: of no arm."""


@dataclass(slots=True)
class _ServerCounts:
    """What was counted last of one server."""

    sessions_total: int
    errors: dict[str, int]
    """Name of a counter of failures → its value."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """The servers of an arm now."""

    servers: int = 0
    down: int = 0


class CounterWatch:
    """The counters of the arms of one service, in the last time."""

    def __init__(
        self,
        ask: AskStats,
        backend: str,
        find_arm: FindArm,
        arms: Sequence[str],
        limits: GuardLimits,
        *,
        by_status: bool,
        by_backend: bool = False,
    ) -> None:
        """Count the servers of arms.

        `backend`: whose servers are counted; empty: of all. `by_status`: statuses of 5xx are failures. `by_backend`:
        the name of a server's backend says its arm, not its own.
        """
        self._named_by = "pxname" if by_backend else "svname"
        self._ask, self._backend, self._find_arm = ask, backend, find_arm
        self._error_columns = ("econ", "eresp", *(("hrsp_5xx",) if by_status else ()))
        self._limits = limits
        self.windows = {arm: CounterWindow(limits) for arm in arms if arm != BASELINE}
        self.counters: dict[str, ArmCounters] = {arm: ArmCounters() for arm in arms}
        self.states: dict[str, ArmState] = {arm: ArmState() for arm in arms}
        self._last: dict[tuple[str, str], _ServerCounts] = {}
        self._is_reloaded = False
        """Did the counters of a server begin at 0 again at this look?"""
        self._down_looks = dict.fromkeys(arms, 0)
        self.problem = ""
        """Why the counters cannot be read now; empty: they can."""
        self.read_at: float | None = None
        """When they were read last; None: not yet."""

    def look(self, at: float) -> None:
        """Read the counters at the time `at` (monotonic, s). Raises SourceError or HookError if they cannot be read."""
        command = f"show stat {self._backend} 4 -1" if self._backend else "show stat"
        rows = _parse(self._ask(command))
        if self._backend:
            rows = [row for row in rows if row["pxname"] == self._backend]
        before, self._is_reloaded = self.counters, False
        now = {arm: replace(counters, sessions=0, queued=0) for arm, counters in before.items()}
        states = dict.fromkeys(now, ArmState())
        for row in rows:
            arm = self._find_arm(row[self._named_by])
            if row["type"] != _OF_SERVERS or arm not in now:
                continue
            started, failures = self._count_since(row)
            sessions, queued = _to_int(row["scur"]), _to_int(row["qcur"])
            counters = now[arm]
            now[arm] = ArmCounters(
                counters.started + started, counters.failures + failures, counters.sessions + sessions,
                counters.queued + queued,
            )  # fmt: skip
            is_down = row["status"].startswith("DOWN")
            states[arm] = ArmState(states[arm].servers + 1, states[arm].down + is_down)
        # A request that waits was not given to a server yet. What waited before a reload waits for the old process.
        waited = {arm: 0 if self._is_reloaded else counters.queued for arm, counters in before.items()}
        self.counters = {
            arm: replace(counters, started=counters.started + counters.queued - waited[arm])
            for arm, counters in now.items()
        }
        self.states = states
        for arm, state in states.items():
            self._down_looks[arm] = self._down_looks[arm] + 1 if state.servers and state.down == state.servers else 0
        for arm, window in self.windows.items():
            if self._is_reloaded:
                window.forget_progress()
            window.add(at, self.counters[arm], self.counters.get(BASELINE, ArmCounters()))
        self.read_at = at

    def to_plain(self) -> dict[str, Any]:
        """Turn what was seen into plain JSON."""
        return {
            "servers": [[*key, last.sessions_total, last.errors] for key, last in self._last.items()],
            "counters": {arm: asdict(counters) for arm, counters in self.counters.items()},
            "windows": {arm: window.to_plain() for arm, window in self.windows.items()},
        }

    def take(self, plain: Mapping[str, Any]) -> None:
        """Take over what an earlier guard has seen of the same router; what does not fit is not used at all."""
        try:
            last = {
                (str(proxy), str(server)): _ServerCounts(
                    int(total), {name: int(errors[name]) for name in self._error_columns}
                )
                for proxy, server, total, errors in plain["servers"]
            }
            counters = {arm: ArmCounters(**plain["counters"][arm]) for arm in self.counters}
            windows = {arm: CounterWindow(self._limits) for arm in self.windows}
            for arm, window in windows.items():
                window.take(plain["windows"][arm])
        except (KeyError, TypeError, ValueError):
            return
        self._last, self.counters, self.windows = last, counters, windows

    def find_reason(self, at: float) -> str:
        """Say why the counters of a candidate are a reason to go back; empty if they are none."""
        for arm, window in self.windows.items():
            if reason := window.find_reason(at):
                return f"{arm}: {reason}"
            if self._down_looks[arm] >= _DOWN_LOOKS:
                return f"{arm}: HAProxy finds all of its servers down"
        return ""

    def _count_since(self, row: Mapping[str, str]) -> tuple[int, int]:
        """Count the requests and failures of a server since the last look; of a new server, there are none."""
        key = (row["pxname"], row["svname"])
        current = _ServerCounts(_to_int(row["stot"]), {name: _to_int(row.get(name)) for name in self._error_columns})
        last = self._last.get(key)
        self._last[key] = current
        if last is None:
            return 0, 0
        if current.sessions_total < last.sessions_total:  # HAProxy was reloaded, and counts from 0
            last = _ServerCounts(0, dict.fromkeys(current.errors, 0))
            self._is_reloaded = True
        # One failure may be counted as a bad answer and by the status that the client got.
        failures = max(max(count - last.errors[name], 0) for name, count in current.errors.items())
        return current.sessions_total - last.sessions_total, failures


def _parse(text: str) -> list[dict[str, str]]:
    """Read the answer to `show stat`. Raises SourceError for another text."""
    rows = list(csv.DictReader(text.removeprefix("# ").splitlines()))
    if not rows or not all(rows[0].get(name) is not None for name in _NEEDED):
        first = text.strip().splitlines()[:1]
        raise SourceError(
            f"this is no answer of HAProxy's statistics: {first[0][:100] if first else 'nothing'}",
            hint="name the socket of `stats socket` in HAProxy's configuration",
        )
    return rows


def _to_int(text: str | None) -> int:
    """Read a count; 0 for an empty one."""
    return int(text) if text and text.isdecimal() else 0
