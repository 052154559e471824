"""Asks the guard of a store, and starts it where none answers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluator.errors import HookError, NotReached
from evaluator.guard.places import (
    LOG,
    check_private_folder,
    find_folder,
    is_same_user,
    list_socket_paths,
    make_private_folder,
)
from evaluator.guard.returning import go_back_without_guard
from evaluator.guard.setup import VERSION, GuardSetup, GuardStatus, read_status, to_plain
from evaluator.hooks import MaybeSent, Realised

__all__ = ["GuardClient", "connect", "go_back_without_guard"]

Say = Callable[[str], None]

_ANSWER_S = 10.0
"""Longest wait for an answer that needs no router."""
_ROUTER_S = 120.0
"""Longest wait for an answer that needs a router: each of its calls has a time limit of its own."""
_START_S = 15.0
_LOOK_AGAIN_S = 0.05
_LONGEST_ANSWER = 16 << 20
_STARTED: list[subprocess.Popen[bytes]] = []
"""Guards that this process has started: they outlive it, and are waited for only if they end before."""


def connect(store: Path, *, start: bool, say: Say) -> GuardClient:
    """Find the guard of a store. `start`: start one where none answers, which outlives this process.

    `say` shows a sentence to people. Raises NotReached if none answers, and HookError if one cannot be started.
    """
    client = GuardClient(store)
    try:
        client.ping()
    except NotReached:
        if not start:
            raise
    else:
        return client
    _start_guard(store)
    deadline = time.monotonic() + _START_S
    while True:
        try:
            facts = client.ping()
        except NotReached:
            if time.monotonic() > deadline:
                raise HookError(
                    f"the guard of {store} was started, and does not answer",
                    hint=f"{find_folder(store) / LOG} may say why; or start it yourself: evaluator rollout guard",
                ) from None
            time.sleep(_LOOK_AGAIN_S)
        else:
            say(f"The guard of the rollouts runs (process {facts.get('pid')}).")
            return client


def _start_guard(store: Path) -> None:
    """Start a guard in a session of its own, with the environment of this process. Raises HookError."""
    folder = find_folder(store)
    make_private_folder(folder)
    command = [sys.executable, "-m", "evaluator.guard", "--store", str(store.absolute()), "--leave-when-idle"]
    try:
        output = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # it works without
        output = os.open(os.devnull, os.O_WRONLY)
    try:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        _STARTED.append(started)
    except OSError as error:
        raise HookError(f"the guard cannot be started: {error.strerror}", hint="evaluator rollout guard") from None
    finally:
        os.close(output)


class AnswerLost(MaybeSent):
    """The guard ended before it answered. It may have done what it was asked for."""


class GuardClient:
    """The guard of one store. Each question has a connection of its own, so a restarted guard is found again."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def ping(self) -> Mapping[str, Any]:
        """Ask whether the guard is there: its pid, version of the evaluator, rollouts. Raises NotReached."""
        answer: Mapping[str, Any] = self._ask("ping", {}, _ANSWER_S)
        return answer

    def guards(self, rollout: str) -> bool:
        """Does the guard have a rollout? Raises NotReached."""
        return rollout in self.ping()["rollouts"]

    def open(self, setup: GuardSetup) -> GuardStatus:
        """Have a rollout guarded: secrets and routers are tried, and its file is made. Nothing is changed.

        The same setup again is allowed. Raises HookError, which says what is missing, and NotReached.
        """
        services = tuple(  # the guard may run in another folder
            replace(each, access_log=each.access_log.absolute() if each.access_log else None) for each in setup.services
        )
        return read_status(self._ask("open", {"setup": to_plain(replace(setup, services=services))}, _ROUTER_S))

    def set_shares(
        self,
        rollout: str,
        service: str,
        shares: Mapping[str, float],
        words: Mapping[str, str],
        servers: Mapping[str, Sequence[str]] | None = None,
    ) -> Realised:
        """Give the arms of a service their shares, and return what was realised, as read back from the router.

        `words`: values of template words that differ from those of the setup, such as `step`. `servers`: arm → its
        instances, of a service whose instances are replaced. Raises HookError if nothing was changed (always once the
        rollout goes back), MaybeSent if that is not known, and AnswerLost if the guard ended meanwhile.
        """
        question: dict[str, Any] = {
            "rollout": rollout,
            "service": service,
            "shares": dict(shares),
            "words": dict(words),
        }
        if servers is not None:
            question["servers"] = {arm: list(names) for arm, names in servers.items()}
        answer = self._ask("set_shares", question, _ROUTER_S, changes=True)
        return Realised(answer["shares"], tuple(answer["notes"]), tuple(answer["missing"]), answer["earlier"])

    def renew(self, rollout: str) -> GuardStatus:
        """Show that the driver is there, which extends the lease, and read the status.

        Raises NotReached if no guard answers, so that one has to be started (`connect`), and HookError if it does not
        know the rollout, which then has to be opened again.
        """
        return read_status(self._ask("renew", {"rollout": rollout}, _ANSWER_S))

    def look(self, rollout: str, *, wait_s: float = _ANSWER_S) -> GuardStatus:
        """Read the status without being the driver: the lease goes on. Raises NotReached, HookError."""
        return read_status(self._ask("look", {"rollout": rollout}, wait_s))

    def back(self, rollout: str, why: str, by: str) -> GuardStatus:
        """Return all traffic of a rollout to the baseline, now and for good.

        `why`: part of a sentence. `by`: name of a person, `guard`, `driver` or `lease`. The answer comes after a first
        attempt at all routers (`is_returned`); the guard goes on until they are read back. Raises NotReached.
        """
        return read_status(self._ask("back", {"rollout": rollout, "why": why, "by": by}, _ROUTER_S))

    def close(self, rollout: str, *, promoted: bool = False) -> None:
        """End guarding, because the rollout has ended. `promoted`: all traffic stays at the candidate.

        Raises HookError while users meet both versions, and if it went back although `promoted`; NotReached.
        """
        self._ask("close", {"rollout": rollout, "promoted": promoted}, _ANSWER_S)

    # -------------------------------------------------------------- the socket

    def _ask(self, verb: str, question: Mapping[str, Any], timeout: float, *, changes: bool = False) -> Any:
        """Send a question, and return the answer.

        `changes`: once it was sent, a lost answer is AnswerLost or, after the time limit, MaybeSent instead of
        NotReached. Raises also what it answers.
        """
        line = json.dumps({"v": VERSION, "do": verb, **question}).encode() + b"\n"
        with contextlib.closing(self._connect(timeout)) as connection:
            try:
                connection.sendall(line)
                text = _read_line(connection, time.monotonic() + timeout)
                answer = json.loads(text)
            except (OSError, ValueError) as error:
                problem = f"the guard did not answer: {type(error).__name__}"
                if changes:
                    lost = MaybeSent if isinstance(error, TimeoutError) else AnswerLost
                    raise lost(f"{problem}; it may have set the shares") from None
                raise NotReached(problem, hint="evaluator rollout guard starts it; it goes on where it was") from None
        if "error" in answer:
            refusal = answer["error"]
            if refusal.get("kind") == "MaybeSent":
                raise MaybeSent(refusal["message"])
            raise HookError(refusal["message"], hint=refusal.get("hint"))
        return answer["ok"]

    def _connect(self, timeout: float) -> socket.socket:
        """Connect to the guard's socket. Raises NotReached if there is none, or it is another user's."""
        for path in list_socket_paths(self.store):
            connection = socket.socket(socket.AF_UNIX)
            try:
                check_private_folder(path.parent)
                connection.settimeout(timeout)
                connection.connect(str(path))
                if is_same_user(connection):
                    return connection
            except (OSError, HookError):
                pass
            connection.close()
        raise NotReached(
            f"no guard of {self.store} answers", hint="evaluator rollout guard starts it; it goes on where it was"
        )


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Read up to the end of a line. `deadline`: on the monotonic clock (s). Raises OSError."""
    received = b""
    while not received.endswith(b"\n"):
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(1 << 16)
        if not part or len(received) > _LONGEST_ANSWER:
            raise ConnectionError
        received += part
    return received
