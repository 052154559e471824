"""A process that starts drivers and guards of rollouts by fork, each of which may be killed before one of its writes.

`python kill_server.py` reads questions, a line of JSON each, and answers each with a line. All programs are loaded
before the first fork, so that a driver or a guard starts within milliseconds. They are the real ones, of a real store
and a real router; only what evidence shows is scripted, and they wait for shorter times between two looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.guard import client, returning, rollouts, server
from evaluator.guard.client import GuardClient
from evaluator.hooks import command
from evaluator.hooks.haproxy_api import HaProxyHook
from evaluator.policy import parse_policy
from evaluator.rollout import driving, starting
from evaluator.rollout.starting import DriverSettings, drive_rollout
from evaluator.store import Store
from evaluator.store.control_file import ControlFile
from evaluator.store.rollouts import Rollouts

SHORT_S = 0.02
"""Time after which a driver looks again, instead of a second."""
GUARD_LOOK_S = 0.3
"""Time between two looks of a guard, instead of a second."""
FILE_CHANGES = ("pwrite", "ftruncate", "posix_fallocate", "replace", "unlink")
"""Functions of `os` by which the evaluator changes the files of guard, journal and locks."""
CHANGES = ("open", "set_shares", "back", "close")
"""Questions to the guard that change something."""


# ------------------------------------------------------------------ the writes of a process


class Changes:
    """Counts what this process changes outside of itself, and kills it before one of the changes.

    These are files, transactions, commands to the router, programs that are run, and questions and answers between
    driver and guard. Nothing lasting happens between two of them, so before one is also after the one before it.
    """

    def __init__(self, record: Path, kill_at: int, kill_before: str = "") -> None:
        """`kill_at`: number of the change, from 0; -1: none. `record`: gets the name of each change.

        `kill_before`: only changes of this name are counted; empty: all.
        """
        self.record, self.kill_at, self.kill_before = record, kill_at, kill_before
        self._count = 0
        self._counting = threading.Lock()

    def note(self, name: str) -> None:
        """Note a change that comes next, or be killed if it is its turn."""
        with self._counting:
            with self.record.open("a") as file:
                file.write(f"{name}\n")
            if self.kill_before not in ("", name):
                return
            if self._count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self._count += 1

    def watch(self) -> None:
        """Count the changes of this process from now on."""
        for name in FILE_CHANGES:
            self._note_before(os, name, self._name_system_write)
        self._note_before(HaProxyHook, "_send", lambda _, line: f"router: {line}" if line.startswith("set ") else "")
        self._note_before(command, "_run_for", lambda words, *_: f"program: {words[-1]}")
        self._note_before(GuardClient, "_ask", lambda _, verb, *__, **___: f"ask {verb}" if verb in CHANGES else "")
        answer, opened = server.Guard.answer, ControlFile.opened

        def note_and_answer(guard: server.Guard, asked: Any) -> Any:
            answered = answer(guard, asked)
            if asked["do"] in CHANGES:
                self.note(f"answer {asked['do']}")
            return answered

        @contextlib.contextmanager
        def note_and_open(file: ControlFile, *, write: bool = False):
            if write:
                self.note(f"decisions: {sys._getframe(2).f_code.co_name}")
            with opened(file, write=write) as connection:
                yield connection

        server.Guard.answer, ControlFile.opened = note_and_answer, note_and_open

    def _note_before(self, owner: Any, name: str, name_change: Callable[..., str]) -> None:
        """Note each call of a function by the name that `name_change` gives it; empty: it changes nothing."""
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if change := name_change(*arguments, **named):
                self.note(change)
            return original(*arguments, **named)

        setattr(owner, name, call)

    def _name_system_write(self, *_: Any, **__: Any) -> str:
        """Name a call of a function of `os` by the function of the evaluator that makes it; empty: another does."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_globals["__name__"] == "pathlib":
            frame = frame.f_back
        is_ours = frame is not None and frame.f_globals["__name__"].startswith("evaluator.")
        return f"file: {frame.f_code.co_name}" if is_ours else ""


# ------------------------------------------------------------------ scripted evidence


@dataclass
class Found:
    """What a judgement found."""

    word: str
    no_harm: bool
    missing: tuple[str, ...] = ()
    data_hash: str = "sha256:d"
    note: str = ""
    arm: str = ""
    is_sound: bool = False


class ScriptedJudge:
    """Finds GO, or NO-GO at the step of the policy's name."""

    no_go_at = ""

    def __init__(self, path, rollout, plan) -> None:
        self.plan = plan

    def judge(self, position: int, look: object) -> Found:
        is_bad = self.plan.steps[position].name == self.no_go_at
        return Found("no_go" if is_bad else "go", no_harm=not is_bad)

    def find_no_go(self, since: float) -> str:
        return ""


class ScriptedRecorder:
    """All data are there at once."""

    def __init__(self, *_: Any) -> None:
        pass

    def follow(self) -> None:
        pass

    end = follow

    def ensure(self, position: int, step: object, begun_at: float) -> None:
        pass

    def is_closed(self, *_: Any) -> bool:
        return True

    def explain_failure(self, *_: Any) -> str:
        return ""

    find_problem = explain_failure

    def count_lines(self) -> dict[str, int]:
        return {"cart": time.monotonic_ns()}


class Report:
    def say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def show(self, text: str) -> None:
        pass


# ------------------------------------------------------------------ the processes


def run_guard(store: Path) -> int:
    """Guard the rollouts of a store."""
    server.run_guard(store, Report().say)
    return 0


def script_evidence(no_go_at: str) -> None:
    """Let the stage of a name be NO-GO, and all others GO; and let driver and guard look more often."""
    driving.POLL_S = driving.RETRY_S = returning._AGAIN_S = SHORT_S
    client._LOOK_AGAIN_S = SHORT_S / 4
    rollouts.LOOK_S = GUARD_LOOK_S
    ScriptedJudge.no_go_at = no_go_at
    starting.StoreJudge, starting.StepRecorder = ScriptedJudge, ScriptedRecorder


def drive(store: Path) -> int:
    """Drive the rollout of a store to its end. A guard that is gone is started again by who has started it."""
    client._start_guard = lambda _store: None
    opened = Store.open(store, decisions_only=True)
    [rollout] = Rollouts(opened.control.file).rollouts()
    load_policy = lambda _release: parse_policy(rollout.policy)  # noqa: E731
    settings = DriverSettings(load_policy, load_policy, "", threading.Event(), Report())
    return drive_rollout(opened, rollout, settings)


def run_child(asked: dict[str, Any]) -> int:
    """Be the driver or the guard of a question."""
    store = Path(asked["store"])
    output = os.open(store.parent / f"{asked['role']}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for handle in (1, 2):
        os.dup2(output, handle)
    try:
        if "kill_at" in asked:
            record = store.parent / f"{asked['role']}.changes"
            Changes(record, asked["kill_at"], asked.get("kill_before", "")).watch()
        if "no_go_at" in asked:
            script_evidence(asked["no_go_at"])
        return run_guard(store) if asked["role"] == "guard" else drive(store)
    except BaseException:  # noqa: BLE001 - the test shows it
        traceback.print_exc()
        return 70


def wait_for_one(seconds: float) -> tuple[int, int]:
    """Wait until a child has ended; returns its process id and its exit code, and 0, 0 if none has."""
    until = time.monotonic() + seconds
    while True:
        pid = status = 0
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return pid, os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return 0, 0
        time.sleep(SHORT_S / 2)


def main() -> None:
    """Answer questions until there are no more."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait_s" in asked:
            answer: Any = wait_for_one(asked["wait_s"])
        elif answer := os.fork():
            pass
        else:
            os._exit(run_child(asked))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
