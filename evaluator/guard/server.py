"""The guard's process: it answers on its socket, and guards the rollouts of one store."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from evaluator.errors import EvaluatorError, HookError
from evaluator.guard.places import (
    GuardLock,
    choose_socket_path,
    find_copies_folder,
    find_folder,
    is_same_user,
    make_private_folder,
)
from evaluator.guard.rollouts import BY_GUARD, GuardedRollout, load_rollout
from evaluator.guard.setup import VERSION, GuardSetup, GuardStatus, read_setup, to_plain
from evaluator.guard.state_file import ENDED_SUFFIX, SUFFIX, StateFile, StoredState, find_state_files
from evaluator.hooks import MaybeSent
from evaluator.version import find_version

Say = Callable[[str], None]

IDLE_S = 60.0
"""A guard that a driver started ends after so long without a rollout."""
_LONGEST_QUESTION = 1 << 20
_QUESTION_S = 10.0
_TICK_S = 0.5
_RETURN_S = 25.0
"""How long a guard that is ended tries to return traffic."""


class Guard:
    """All rollouts of a store that are guarded, and the answers to questions about them."""

    def __init__(self, store: Path, say: Say) -> None:
        self.store, self._say = store, say
        self.folders = [find_folder(store)]
        copies = find_copies_folder(store)
        if copies is not None:
            with contextlib.suppress(EvaluatorError):
                make_private_folder(copies)
                self.folders.append(copies)
        self.rollouts: dict[str, GuardedRollout] = {}
        self._openings: dict[str, threading.Lock] = {}
        """Id of a rollout → held while it is opened, which may take as long as its routers do."""
        self.idle_since = time.monotonic()

    def load(self) -> None:
        """Go on with the rollouts whose files are there."""
        for name, file in find_state_files(self.folders).items():
            stored = file.read()
            if stored is None:
                self._say(
                    f"{name}: its file cannot be read, so the guard can do nothing for it:"
                    " look at the shares of its router, and set them yourself"
                )
                continue
            if stored.state.get("is_closed"):
                file.forget(stored.state)
                continue
            try:
                self._resume(name, file, stored)
            except (EvaluatorError, KeyError, TypeError, ValueError) as error:
                self._say(
                    f"{name}: {getattr(error, 'message', '') or type(error).__name__}; return its traffic yourself"
                )

    def _resume(self, name: str, file: StateFile, stored: StoredState) -> None:
        """Go on with a rollout of a file. Raises EvaluatorError, KeyError, TypeError, ValueError."""
        rollout = load_rollout(stored, file, self._say)
        self.rollouts[name] = rollout
        if stored.state.get("version") != VERSION:
            stored = StoredState(stored.number, stored.state, is_damaged=True)
        rollout.resume(stored)
        what = f"goes on going back ({rollout.why_back})" if rollout.is_back else "is guarded again"
        self._say(f"{rollout.setup.rollout}: {what}")

    # -------------------------------------------------------------- questions

    def answer(self, question: Mapping[str, Any]) -> Any:
        """Answer a question. Raises EvaluatorError, MaybeSent, and KeyError for a question without what it needs."""
        if question.get("v") != VERSION:
            raise HookError(
                f"the guard speaks version {VERSION} of its protocol, and was asked in version {question.get('v')}",
                hint="restart the guard with the same version of the evaluator: it goes on with its rollouts",
            )
        verb = question.get("do")
        if verb == "ping":
            return {"pid": os.getpid(), "evaluator": find_version(), "rollouts": sorted(self.rollouts)}
        if verb == "open":
            return to_plain(self._open(read_setup(question["setup"])))
        if verb not in ("set_shares", "renew", "look", "back", "close"):
            raise HookError(f"the guard does not know '{verb}'", hint="restart it: it may have another version")
        rollout = self._find(str(question["rollout"]))
        if verb == "set_shares":
            realised = rollout.set_shares(
                str(question["service"]), question["shares"], question["words"], question.get("servers")
            )
            names = ("shares", "notes", "missing", "earlier")
            return {name: getattr(realised, name) for name in names}
        if verb == "close":
            return self._close(rollout, promoted=bool(question["promoted"]))
        if verb == "renew":
            rollout.note_driver()
        if verb == "back":
            rollout.go_back(str(question["why"]), str(question["by"]))
        return to_plain(rollout.make_status())

    def _find(self, name: str) -> GuardedRollout:
        """Find a rollout by its name, or by its id alone: then the newest one. Raises HookError."""
        if name in self.rollouts:
            return self.rollouts[name]
        of_id = [rollout for rollout in list(self.rollouts.values()) if rollout.setup.rollout == name]
        if not of_id:
            raise HookError(
                f"the guard does not know the rollout {name}", hint="it is guarded once its driver has opened it"
            )
        return of_id[-1]

    def _open(self, setup: GuardSetup) -> GuardStatus:
        """Guard a rollout, unless it is guarded already. Raises EvaluatorError."""
        name = setup.name
        if not name or "/" in name or name.startswith(".") or len(name) > 100:
            raise HookError(f"'{setup.rollout}' is no id of a rollout")
        with self._openings.setdefault(name, threading.Lock()):
            if name in self.rollouts:
                return self._open_again(self.rollouts[name], setup)
            for folder in self.folders:
                make_private_folder(folder)
            self._refuse_ended(setup)
            self._leave_shared_services(setup)
            file = StateFile(tuple(folder / f"{name}{SUFFIX}" for folder in self.folders))
            rollout = GuardedRollout(setup, file, self._say)
            rollout.begin()
            self.rollouts[name] = rollout
        self._say(f"{setup.rollout}: {setup.release} is guarded")
        return rollout.make_status()

    def _open_again(self, rollout: GuardedRollout, setup: GuardSetup) -> GuardStatus:
        """Go on guarding a rollout whose driver has come back. Raises HookError for another setup."""
        if rollout.setup != setup:
            raise HookError(
                f"the rollout {setup.rollout} is guarded with other services or limits",
                hint="a plan does not change while it runs: go back, and start another rollout",
            )
        rollout.note_driver()
        return rollout.make_status()

    def _leave_shared_services(self, setup: GuardSetup) -> None:
        """End other rollouts of these services, which have returned. Raises HookError if one has not."""
        services = {each.service for each in setup.services}
        for other in list(self.rollouts.values()):
            shared = sorted(other.services.keys() & services)
            if shared and other.is_returned():
                self._close(other, promoted=False)  # else it would go on keeping their traffic at the baseline
            elif shared:
                raise HookError(
                    f"{', '.join(shared)} is guarded for the rollout {other.setup.rollout} of {other.setup.release},"
                    " which was started earlier and has not returned",
                    hint=f"evaluator rollback {other.setup.release} returns it; without a driver, it returns after "
                    f"{other.setup.lease_s:g} s by itself",
                )

    def _refuse_ended(self, setup: GuardSetup) -> None:
        """Raise HookError for a rollout that went back and has ended."""
        file = StateFile(tuple(folder / f"{setup.name}{ENDED_SUFFIX}" for folder in self.folders))
        with contextlib.closing(file):
            ended = file.read()
        if ended is not None:
            raise HookError(
                f"the rollout {setup.rollout} went back to the baseline: {ended.state.get('why_back')}",
                hint="start another rollout when the reason is gone",
            )

    def _close(self, rollout: GuardedRollout, *, promoted: bool) -> None:
        """End guarding a rollout. One that went back stays refused: its file gets another name. Raises HookError."""
        rollout.close(promoted=promoted)
        self.rollouts.pop(rollout.setup.name, None)
        self.idle_since = time.monotonic()
        self._say(f"{rollout.setup.rollout}: it has ended, and is not guarded any more")

    def return_all(self, why: str) -> None:
        """Return the traffic of all rollouts in which users meet a candidate, and wait for it for some time."""
        exposed = [rollout for rollout in self.rollouts.values() if rollout.is_exposed()]
        for rollout in exposed:
            rollout.go_back(why, BY_GUARD, wait=False)
        deadline = time.monotonic() + _RETURN_S
        while time.monotonic() < deadline and not all(rollout.is_settled() for rollout in exposed):
            time.sleep(0.1)
        for rollout in exposed:
            if not rollout.is_returned():
                self._say(f"{rollout.setup.rollout}: its traffic could not be returned: {rollout.make_status().notes}")


# ------------------------------------------------------------------ the socket


class _QuestionServer:
    """Answers each connection in a thread."""

    def __init__(self, guard: Guard, path: Path) -> None:
        """Listen on a socket at `path`. Raises HookError."""
        self._guard = guard
        make_private_folder(path.parent)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            path.unlink(missing_ok=True)  # that of a guard that was killed: this one holds the lock
            self._socket.bind(str(path))
            self._socket.listen(64)
        except OSError as error:
            raise HookError(f"the guard cannot listen at {path}: {error.strerror or error}") from None

    def start(self) -> None:
        """Accept connections from now on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._socket.close()

    def _accept(self) -> None:
        """Accept connections until the socket is closed."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return
                time.sleep(0.1)  # too many open files, for example
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Read one question of this user, and answer it."""
        with contextlib.closing(connection), contextlib.suppress(OSError):
            if not is_same_user(connection):
                return
            connection.settimeout(_QUESTION_S)
            with connection.makefile("rb") as reading:
                line = reading.readline(_LONGEST_QUESTION)
            answer = self._answer(line)
            connection.sendall(json.dumps({"v": VERSION, **answer}).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        """Answer a line; errors are answers, too."""
        try:
            return {"ok": self._guard.answer(dict(json.loads(line)))}
        except EvaluatorError as error:
            return {"error": {"kind": "HookError", "message": error.message, "hint": error.hint}}
        except MaybeSent as error:
            return {"error": {"kind": "MaybeSent", "message": str(error)}}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            text = f"the guard cannot read the question ({type(error).__name__})"
            return {"error": {"kind": "HookError", "message": text}}
        except Exception as error:  # noqa: BLE001 - a router of another package; the guard has to go on
            kind = "MaybeSent" if b"set_shares" in line else "HookError"
            return {"error": {"kind": kind, "message": f"{type(error).__name__}: {error}"}}


# ------------------------------------------------------------------ the process


def run_guard(store: Path, say: Say, *, leave_when_idle: bool = False) -> None:
    """Guard the rollouts of a store until the process is ended. Call it in the main thread.

    SIGTERM and SIGINT return the traffic of rollouts in which users meet a candidate: no process would watch then.
    SIGHUP starts the program again, of a newer version for example, which goes on from the files.

    Raises HookError if another guard runs, or the socket cannot be made.
    """
    lock = GuardLock(store)
    guard = Guard(store, say)
    received: list[int] = []

    def note_signal(number: int, _frame: FrameType | None) -> None:
        """Note a signal for the loop."""
        received.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note_signal)
    guard.load()  # before it answers
    path = choose_socket_path(store)
    server = _QuestionServer(guard, path)
    lock.describe({"pid": os.getpid(), "host": socket.gethostname(), "socket": str(path), "since": int(time.time())})
    server.start()
    say(f"The guard of {store} runs (process {os.getpid()}).")
    while True:
        time.sleep(_TICK_S)
        is_idle = not guard.rollouts and time.monotonic() - guard.idle_since > IDLE_S
        if signal.SIGHUP in received:
            server.close()
            lock.release()
            _start_again(store, leave_when_idle=leave_when_idle)
        server = _listen_again(server, guard, path)
        if received:
            say("The guard was asked to end.")
            guard.return_all("the guard was ended, and no process would watch")
        elif lock.is_lost():
            say(f"The store's folder {find_folder(store)} is gone.")
            guard.return_all("the store is gone")
        elif not (leave_when_idle and is_idle):
            continue
        server.close()
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
        return


def _listen_again(server: _QuestionServer, guard: Guard, path: Path) -> _QuestionServer:
    """Return a server that listens: another one if a program that cleans up has removed the socket. Raises nothing."""
    if path.exists():
        return server
    try:
        another = _QuestionServer(guard, path)
    except HookError:  # it is tried again; the guard watches meanwhile
        return server
    server.close()
    another.start()
    return another


def _start_again(store: Path, *, leave_when_idle: bool) -> NoReturn:
    """Replace this program by itself as it is installed now; files, sockets and locks of this one are closed."""
    options = ["--leave-when-idle"] if leave_when_idle else []
    command = [sys.executable, "-m", "evaluator.guard", "--store", str(store.absolute()), *options]
    os.execv(sys.executable, command)  # noqa: S606 - there is no shell
