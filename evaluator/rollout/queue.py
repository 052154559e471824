"""Rollouts that were started with `--queue`: the worker drives each of them in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from evaluator.errors import EvaluatorError, Refused
from evaluator.records.rollouts import Rollout
from evaluator.rollout.driving import DriverStopped
from evaluator.rollout.locking import find_driver_of
from evaluator.rollout.starting import DriverSettings, drive_rollout
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

POLL_S = 2.0
JOIN_S = 60.0
"""How long the end of the drivers is waited for: a hook that is being executed ends first."""


class QueuedRollouts:
    """Drives queued rollouts in threads; one that a killed worker has left is continued."""

    def __init__(
        self, store: Store, make_settings: Callable[[Rollout], DriverSettings], stop: threading.Event,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.store, self.make_settings, self.stop, self.say = store, make_settings, stop, say
        self._threads: dict[str, threading.Thread] = {}
        self._left: dict[str, int] = {}
        """Rollouts that wait for people and have no driver meanwhile → how many events they had then."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._problem = ""

    def start(self) -> None:
        """Look for queued rollouts from now on, in a thread."""
        self._thread.start()

    def drive_once(self) -> int:
        """Drive the rollouts that are queued now to their ends; returns how many."""
        count = self._start_waiting()
        for thread in list(self._threads.values()):
            while thread.is_alive():
                thread.join(POLL_S)
        return count

    def _run(self) -> None:
        """Look for queued rollouts until the worker ends."""
        while not self.stop.is_set():
            self._start_waiting()
            self.stop.wait(POLL_S)

    def _start_waiting(self) -> int:
        """Start a driver of each queued rollout that has none; returns how many."""
        try:
            waiting = [rollout for rollout in Rollouts(self.store.control.file).find_running() if self._waits(rollout)]
        except EvaluatorError as error:
            if error.message != self._problem:
                self._problem = error.message
                self.say(f"queued rollouts cannot be read now: {error.message}")
            return 0
        self._problem = ""
        for rollout in waiting:
            thread = threading.Thread(target=self._drive, args=(rollout,), daemon=True)
            self._threads[rollout.id] = thread
            thread.start()
        return len(waiting)

    def _waits(self, rollout: Rollout) -> bool:
        """Is a rollout queued, and does no process drive it?"""
        thread = self._threads.get(rollout.id)
        if not rollout.is_queued or (thread is not None and thread.is_alive()):
            return False
        if self._left.get(rollout.id) == len(Rollouts(self.store.control.file).events(rollout.id)):
            return False
        driver = find_driver_of(self.store, rollout.id, rollout.plan.get("services", ()))
        return driver is None or not driver.is_there

    def _drive(self, rollout: Rollout) -> None:
        """Drive one rollout to its end."""
        try:
            drive_rollout(self.store, rollout, self.make_settings(rollout))
            self._left[rollout.id] = len(Rollouts(self.store.control.file).events(rollout.id))
        except DriverStopped:
            self.say(f"{rollout.id} ({rollout.release}) is not driven any more; the next worker continues it")
        except Refused:  # another process was faster
            return
        except EvaluatorError as error:
            self.say(f"{rollout.id} ({rollout.release}) cannot be driven: {error.message}")
            self.stop.wait(POLL_S)

    def end(self) -> None:
        """Wait until the drivers have ended; the worker was asked to end."""
        for thread in list(self._threads.values()):
            thread.join(JOIN_S)
