"""Split users between backends of HAProxy by a map of hash values, so that each user keeps an arm.

HAProxy's configuration hashes a cookie to a value from 0 to 9999, and looks it up in the map, which has ranges of hash
values with the backend of their arm: `0:999 shop_b`. A value that is not in it belongs to the baseline. So the shares
are exact, which weights of a consistent hash are not, and an empty map gives all users to the baseline: going back is
one command, `clear map`, that depends on nothing.

All ranges are replaced in one transaction: https://docs.haproxy.org/2.6/management.html#9.3, `prepare map`. The file of
the map is written, too, so that a reload and a restart of HAProxy keep the shares.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.base import HookContext
from evaluator.hooks.by_hand import write_socat
from evaluator.hooks.haproxy_api import HaProxyHook
from evaluator.hooks.haproxy_state import Backend, parse_backend
from evaluator.hooks.hash_values import ALL, Range, count_values, move_values
from evaluator.hooks.router import Applied, Realised, show_share
from evaluator.records import BASELINE
from evaluator.replacing import replace_file

_ENTRY = re.compile(r"0x[0-9a-f]+ (\d+):(\d+) (\S+)")
"""A line of the answer to `show map`: an address in memory, the first and the last hash value, the backend."""
_NEW_VERSION = re.compile(r"New version created: (\d+)")


class HaProxyMap(HaProxyHook):
    """A map of hash values, at run time.

    The state is a list of ranges: first hash value, last one, arm. Those of the baseline are left out.
    """

    def arms(self) -> tuple[str, ...]:
        """Return the arms that have backends."""
        return tuple(self.options.servers)

    def keeps_clients(self) -> bool:
        """The hash value of a user is always the same."""
        return True

    def _describe_router(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"HAProxy's map {self.options.map} at {self.options.socket or self.options.address}"

    def _backend_of(self, arm: str) -> str:
        """Return the backend of an arm."""
        (name,) = self.options.servers[arm]
        return str(name)

    # -------------------------------------------------------------- what is there

    def _test_router(self) -> list[str]:
        """Check that HAProxy answers, has the map and the backends, and lets us set the map. Raises HookError."""
        self._check_level()
        if BASELINE not in self.options.servers:
            raise HookError("a map needs the arm baseline, which has all hash values that are not in the map")
        shares = self._describe_value(self._read_state({}))
        for arm in self.arms():
            self._read_backend_of(arm)
        return [f"HAProxy answers; the map gives {shares}", *self._describe_file()]

    def _describe_file(self) -> list[str]:
        """Say that a reload would forget the shares, unless the file of the map can be written here."""
        path = Path(str(self.options.map))
        if path.is_file() and os.access(path.resolve().parent, os.W_OK):
            return [f"a reload of HAProxy keeps the shares: they are also written to {path}"]
        return [f"a reload of HAProxy forgets the shares: {path} cannot be written from here"]

    def _read_state(self, words: Mapping[str, str]) -> Any:  # noqa: ARG002 - its options have no words
        """Read the ranges of the map. Raises HookError for a map with ranges that are not of these arms."""
        answer = self._ask(f"show map {self.options.map}")
        arm_by_backend = {self._backend_of(arm): arm for arm in self.arms()}
        ranges: list[list[Any]] = []
        for line in filter(None, map(str.strip, answer.splitlines())):
            match = _ENTRY.fullmatch(line)
            if not match:
                raise HookError(
                    f"HAProxy's map {self.options.map} cannot be used: {line[:200]}",
                    hint="name it as HAProxy's configuration does; its lines look like `0:999 shop_b`",
                )
            first, last, backend = int(match[1]), int(match[2]), match[3]
            if backend not in arm_by_backend or not first <= last < ALL:
                raise HookError(
                    f"HAProxy's map {self.options.map} has `{first}:{last} {backend}`, which is of no arm",
                    hint=f"the backends are {', '.join(arm_by_backend)}, the hash values 0 to {ALL - 1}",
                )
            ranges.append([first, last, arm_by_backend[backend]])
        ranges.sort()
        for earlier, later in pairwise(ranges):
            if later[0] <= earlier[1]:
                raise HookError(
                    f"HAProxy's map {self.options.map} gives hash value {later[0]} to two arms",
                    hint="remove one of its lines",
                )
        return [entry for entry in ranges if entry[2] != BASELINE]

    def _read_backend_of(self, arm: str) -> Backend:
        """Read the servers of an arm's backend. Raises HookError."""
        name = self._backend_of(arm)
        return parse_backend(name, self._ask(f"show servers state {name}"), self._ask(f"show stat {name} 6 -1"))

    def _check_state(self, state: Any) -> Any:
        """Return stored ranges, after checking their form. Raises HookError."""
        if not isinstance(state, list) or not all(
            isinstance(entry, list)
            and len(entry) == 3
            and isinstance(entry[0], int)
            and isinstance(entry[1], int)
            and 0 <= entry[0] <= entry[1] < ALL
            and entry[2] in self.arms()
            for entry in state
        ):
            raise HookError(
                "there are no earlier ranges of the map to restore", hint="they are kept when the hook is executed"
            )
        return state

    def _to_shares(self, state: Any) -> dict[str, float]:
        """Return arm → share: its part of all hash values."""
        counts = dict.fromkeys(self.arms(), 0)
        for first, last, arm in state:
            counts[arm] += last - first + 1
        counts[BASELINE] = ALL - sum(count for arm, count in counts.items() if arm != BASELINE)
        return {arm: count / ALL for arm, count in counts.items()}

    def _describe_value(self, value: Any) -> str:
        return ", ".join(f"{arm} {show_share(share)}" for arm, share in self._to_shares(value).items())

    def _measure(self, words: Mapping[str, str]) -> Realised:
        """Read the shares. Users keep their arm where its servers are down: then its requests fail."""
        state = self._read_state(words)
        down = [text for arm in {entry[2] for entry in state} if (text := self._explain_down(arm))]
        return Realised(self._to_shares(state), tuple(down))

    def _explain_down(self, arm: str) -> str | None:
        """Look whether a server of the arm's backend can serve; None: HAProxy does not check one that may."""
        backend = self._read_backend_of(arm)
        can_serve = [name for name in backend.servers if backend.can_serve(name)]
        if any(backend.servers[name].is_checked for name in can_serve):
            return ""
        if can_serve:
            return None
        obstacles = "; ".join(backend.list_obstacles(dict.fromkeys(backend.servers, 1)))
        return f"no server of {arm} (backend {backend.name}) can serve: {obstacles or 'it has none'}"

    def _check_servers(self, shares: Mapping[str, float]) -> None:
        """Raise HookError if an arm that is to get users has no server that can serve."""
        for arm, share in shares.items():
            problem = self._explain_down(arm) if share else ""
            if problem:
                raise HookError(problem, hint="start it, or let it serve: `set server BACKEND/SERVER state ready`")

    # -------------------------------------------------------------- what is set

    def _plan(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> Any:
        """Find the ranges that give each arm its share, and that change the arm of as few users as possible."""
        if back and shares.get(BASELINE) == 1:
            return []
        if not back:
            self._check_level()
            self._check_servers(shares)
        counts = count_values(shares)
        for arm, share in shares.items():
            if share and not counts[arm]:
                raise HookError(f"{arm} cannot get {show_share(share)}: a hash value has 0.01 %", hint="give it more")
        ranges: list[Range] = []
        following = 0
        for first, last, arm in self._read_state(words):
            ranges += [(first - following, BASELINE), (last - first + 1, arm)]
            following = last + 1
        ranges.append((ALL - following, BASELINE))
        state, first = list[list[Any]](), 0
        for count, arm in move_values(ranges, counts):
            state += [[first, first + count - 1, arm]] if arm != BASELINE else []
            first += count
        return state

    def _apply(self, state: Any, words: Mapping[str, str], *, back: bool) -> Applied:  # noqa: ARG002
        """Replace all ranges of the map at once, then those of its file. Raises HookError, MaybeSent."""
        lines = [f"{first}:{last} {self._backend_of(arm)}" for first, last, arm in state]
        if lines:
            self._replace_map(lines)
        else:
            self._send_change(f"clear map {self.options.map}")
        problem = self._write_file(lines)
        if not problem:
            return Applied()
        return Applied(notes=(f"a reload of HAProxy will forget these shares: {problem}",))

    def _replace_map(self, lines: Sequence[str]) -> None:
        """Replace the ranges of the map in one transaction. Raises HookError, and MaybeSent where that is not known."""
        name = self.options.map
        answer = self._ask(f"prepare map {name}")
        version = _NEW_VERSION.search(answer)
        if not version:
            raise HookError(
                f"HAProxy does not replace the map {name}: {answer[:200] or '(no answer)'}",
                hint="transactions of maps need HAProxy 2.4 or newer",
            )
        # Nothing of this counts before it is committed.
        for line in lines:
            if problem := self._change(f"add map @{version[1]} {name} {line}"):
                raise HookError(problem)
        self._send_change(f"commit map @{version[1]} {name}")

    def _send_change(self, command: str) -> None:
        """Send a command that changes what users get. Raises HookError if HAProxy refuses it, MaybeSent."""
        if answer := self._send(command):
            raise HookError(f"`{command}` was not done: {answer[:200]}")

    def _write_file(self, lines: Sequence[str]) -> str:
        """Write the ranges to the file of the map, for the next start of HAProxy; returns why that is not possible."""
        path = Path(str(self.options.map))
        try:
            before = path.stat()
            replace_file(path.resolve(), "".join(f"{line}\n" for line in lines), before.st_mode & 0o777)
            with contextlib.suppress(OSError):  # only root may give files away
                os.chown(path, before.st_uid, before.st_gid)
        except OSError as error:
            return f"{path} cannot be written: {error.strerror}"
        return ""

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that set the shares of the action, also while HAProxy does not answer."""
        try:
            return self._write_state_by_hand(self._plan(self.get_shares(context.action), {}, back=True), {})
        except HookError:
            if self.get_shares(context.action).get(BASELINE) == 1:
                return self._write_state_by_hand([], {})
            raise

    def _write_state_by_hand(self, state: Any, words: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """Write the lines that replace the ranges of the map, and show the outcome."""
        name = self.options.map
        commands = [f"clear map {name}"]
        commands += [f"add map {name} {first}:{last} {self._backend_of(arm)}" for first, last, arm in state]
        commands.append(f"show map {name}")
        return [write_socat(line, socket=self.options.socket, address=self.options.address) for line in commands]
