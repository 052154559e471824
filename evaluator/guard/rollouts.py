"""One guarded rollout: its services are watched in threads of their own, and its state is in its file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluator.errors import EvaluatorError, HookError
from evaluator.guard.instances import InstanceWatch, make_watch
from evaluator.guard.log_watch import Clock
from evaluator.guard.memory import Memory
from evaluator.guard.setup import VERSION, GuardReading, GuardSetup, GuardStatus, read_setup, to_plain
from evaluator.guard.state_file import StateFile, StoredState
from evaluator.guard.watch import ServiceWatch
from evaluator.hooks import Realised
from evaluator.hooks.router import check_shares, show_shares
from evaluator.records.words import BASELINE

Say = Callable[[str], None]

LOOK_S = 1.0
"""Time between two looks, and between two attempts to return traffic."""
_FIRST_RETURN_S = 30.0
"""How long `back` waits for the first attempts: each call of a router has a time limit of its own."""
_SEEN_WRITES = 4
"""The file is written so many times per lease, to keep when the driver was seen."""
_LEAST_LEASE_S = 5.0
"""A driver has at least so long to find a guard that was started again."""
BY_GUARD, BY_LEASE = "guard", "lease"


class GuardedRollout:
    """A rollout that is guarded."""

    def __init__(self, setup: GuardSetup, file: StateFile, say: Say, clock: Clock = time.monotonic) -> None:
        """Make its routers and readers. Raises EvaluatorError for options that cannot be used."""
        self.setup = setup
        self._file, self._say, self._clock = file, say, clock
        self.services = {
            each.service: make_watch(each, setup.rollout, setup.release, setup.limits, clock) for each in setup.services
        }
        self._memory = Memory(file.paths[0], setup.key)
        self._remembering = threading.Lock()
        """Held while what was seen is written."""
        self._changing = threading.RLock()
        """Held while the state is written."""
        self._backing = threading.Lock()
        """Held for a moment when it goes back: that must not wait for a disk."""
        self.is_back = False
        self._is_closed = False
        """Has guarding ended for good? Then nothing goes back any more."""
        self.why_back = self.by = ""
        self._earlier: dict[str, Any] = {}
        """Service → the router's state before the first shift."""
        self._notes: list[str] = []
        self._seen_at = clock()
        """When the driver was seen last (monotonic, s)."""
        self._seen_kept_at = clock()
        self._looked_at = 0.0
        self._ended = threading.Event()
        self._first_returns = threading.Event()
        """Set when each service was tried once on the way back."""
        self._first_missing = set(self.services)
        self._threads: list[threading.Thread] = []

    # -------------------------------------------------------------- begin, and go on after a kill

    def begin(self) -> None:
        """Try all that is needed, make the file, and watch. Raises EvaluatorError, which says what is missing."""
        for watch in self.services.values():
            watch.try_all()
            self._earlier[watch.service.service] = watch.router.read_state()
            self._notes += watch.list_blind_spots()
        self._file.make(self._to_state())
        self._start_watching()

    def resume(self, stored: StoredState) -> None:
        """Go on as a state says: watch, or go on going back. A damaged file is a reason to go back."""
        self._take_state(stored.state)
        for name, seen in self._memory.read(self._clock()).items():
            counters = self.services[name].counters if name in self.services else None
            if counters is not None:
                counters.take(seen)
        for watch in self.services.values():
            self._notes += watch.list_blind_spots()
            self._start(self._try_again, watch)  # a router that hangs delays nothing else
        if self.is_back:
            self._start_returning()
        elif stored.is_damaged:
            self.go_back("its file is damaged, so what was set last may be lost", BY_GUARD, wait=False)
        self._start_watching()

    def _try_again(self, watch: ServiceWatch) -> None:
        """Try the router of a service after a start, and set what a kill may have cut off."""
        try:
            watch.try_router()
            self._check_shares(watch)
        except (EvaluatorError, OSError) as error:  # what is read from time to time tries it again
            self._notes.append(f"{watch.service.service}: {getattr(error, 'message', '') or error}")

    def _take_state(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state. Raises KeyError, TypeError, ValueError if it is none."""
        for name, shares in state["wanted"].items():
            if name in self.services:
                self.services[name].wanted = dict(shares)
                self.services[name].drifts = int(state["drifts"].get(name, 0))
                watch = self.services[name]
                if isinstance(watch, InstanceWatch):
                    watch.assign(state["servers"][name])
                    watch.kept, watch.is_returned = str(state["kept"][name]), bool(state["returned"][name])
        self._earlier = dict(state["earlier"])
        self.is_back, self.why_back, self.by = bool(state["is_back"]), str(state["why_back"]), str(state["by"])
        unseen_s = min(max(time.time() - float(state["seen_at"]), 0.0), self.setup.lease_s)
        self._seen_at = self._clock() - min(unseen_s, max(self.setup.lease_s - _LEAST_LEASE_S, 0.0))

    def _to_state(self, **changed: Any) -> dict[str, Any]:
        """Turn all that is kept into plain JSON. `changed`: values that are not set yet."""
        return {
            "version": VERSION,
            "setup": to_plain(self.setup),
            "wanted": {name: watch.wanted for name, watch in self.services.items()},
            "drifts": {name: watch.drifts for name, watch in self.services.items()},
            "servers": {name: watch.servers for name, watch in self.services.items()},
            "kept": {name: watch.kept for name, watch in self.services.items()},
            "returned": {name: watch.is_returned for name, watch in self.services.items()},
            "earlier": self._earlier,
            "is_back": self.is_back,
            "why_back": self.why_back,
            "by": self.by,
            "is_closed": self._is_closed,
            "seen_at": time.time() - (self._clock() - self._seen_at),
            **changed,
        }

    def _start_watching(self) -> None:
        """Start the threads: two for each service, so that a slow router delays no look at the log, and the lease."""
        for watch in self.services.values():
            self._start(self._repeat, watch, LOOK_S, self._look)
            self._start(self._repeat, watch, self.setup.limits.health_s, self._check_shares)
        self._start(self._watch_lease)

    def _start(self, function: Callable[..., None], *arguments: Any) -> None:
        """Start a thread."""
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    # -------------------------------------------------------------- what the driver asks

    def set_shares(
        self,
        service: str,
        shares: Mapping[str, float],
        words: Mapping[str, str],
        servers: Mapping[str, Sequence[str]] | None = None,
    ) -> Realised:
        """Give the arms of a service their shares. What is wanted is written first, and the traffic moves afterwards.

        `servers`: arm → the servers that serve it from now on; None: as before. Raises HookError if
        nothing was changed, MaybeSent if that is not known.
        """
        watch = self._find_service(service)
        requested = check_shares(shares, watch.router.router.arms())
        self.note_driver()
        self._refuse_if_back()
        with watch.router.changing:
            with self._changing:
                self._refuse_if_back()
                before, watch.wanted = watch.wanted, requested
                servers_before, watch.servers = watch.servers, watch.servers if servers is None else servers
                try:
                    self._file.write(self._to_state())
                except HookError:
                    watch.wanted, watch.servers = before, servers_before
                    raise
            try:
                self._refuse_if_back()  # meanwhile
                realised = watch.set_shares(requested, words)
            except HookError:
                with self._changing:
                    watch.wanted, watch.servers = before, servers_before
                    self._write_if_possible()
                raise
        self.note_driver()
        self._say(f"{self.setup.rollout}: {service} gets {show_shares(realised.shares)}")
        return realised

    def _find_service(self, service: str) -> ServiceWatch:
        """Find a service of the rollout. Raises HookError."""
        if service not in self.services:
            raise HookError(
                f"the rollout {self.setup.rollout} has no service {service}",
                hint=f"its services are {', '.join(self.services)}",
            )
        return self.services[service]

    def _refuse_if_back(self) -> None:
        """Raise HookError once the rollout goes back."""
        if self.is_back:
            raise HookError(
                f"the rollout {self.setup.rollout} went back to the baseline: {self.why_back}",
                hint="start another rollout when the reason is gone",
            )

    def note_driver(self) -> None:
        """Note that the driver was seen just now."""
        self._seen_at = now = self._clock()
        if now - self._seen_kept_at > self.setup.lease_s / _SEEN_WRITES:
            self._seen_kept_at = now
            with self._changing:
                self._write_if_possible()

    def is_exposed(self) -> bool:
        """Do users meet a candidate?"""
        return any(watch.is_exposed(is_back=self.is_back) for watch in self.services.values())

    def is_returned(self) -> bool:
        """Were all routers read back with the traffic at the baseline?"""
        return self.is_back and all(watch.is_returned for watch in self.services.values())

    def is_settled(self) -> bool:
        """Is all done that the guard can do to return the traffic? Users may stay at instances that are restored."""
        return self.is_back and all(watch.is_settled for watch in self.services.values())

    def make_status(self) -> GuardStatus:
        """Make the status of now."""
        readings: list[GuardReading] = []
        for watch in self.services.values():
            readings += watch.list_readings()
        texts = [watch.router_note for watch in self.services.values() if watch.router_note]
        texts += [
            f"{name}: {watch.return_text}"
            for name, watch in self.services.items()
            if self.is_back and watch.return_text
        ]
        return GuardStatus(
            rollout=self.setup.rollout,
            release=self.setup.release,
            key=self.setup.key,
            is_exposed=self.is_exposed(),
            wanted={
                name: {BASELINE: 1.0} if self.is_back else dict(watch.wanted) for name, watch in self.services.items()
            },
            realised={name: dict(watch.realised) for name, watch in self.services.items()},
            is_back=self.is_back,
            why_back=self.why_back,
            by=self.by,
            is_returned=self.is_returned(),
            kept="; ".join(watch.kept for watch in self.services.values() if watch.kept) if self.is_settled() else "",
            drift="; ".join(filter(None, (watch.drift for watch in self.services.values()))),
            looked_at=self._looked_at,
            readings=tuple(readings),
            notes=(*self._notes, *texts),
        )

    def close(self, *, promoted: bool) -> None:
        """End guarding for good. `promoted`: because the candidate has all traffic, which stays there.

        That it has ended is written before the watch ends, so that no guard that starts later returns the traffic.
        Raises HookError while traffic has not returned, users meet both versions, or it went back although `promoted`;
        then it is guarded as before.
        """
        self._check_can_close(promoted=promoted)
        was_back = self.is_back
        with self._changing:
            self._file.write(self._to_state(is_closed=True), twice=True)
            with self._backing:
                self._is_closed = self.is_back == was_back
        if not self._is_closed:  # meanwhile; that it went back is written next
            self._refuse_if_back()
        self.end()
        self._memory.forget()
        self._file.forget({"is_back": self.is_back})

    def _check_can_close(self, *, promoted: bool) -> None:
        """Raise HookError while traffic has not returned, or users meet both versions."""
        if promoted:
            self._refuse_if_back()
        if self.is_back and not self.is_settled():
            raise HookError(
                f"the traffic of {self.setup.rollout} has not returned yet, so the guard goes on",
                hint="`evaluator rollout status` says what is missing",
            )
        for name, watch in self.services.items():
            if not self.is_back and max(watch.wanted.values(), default=1.0) < 1:
                raise HookError(
                    f"users of {name} still meet both versions: {show_shares(watch.wanted)}",
                    hint="give all to one arm first, or go back",
                )

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2 * LOOK_S)
        for watch in self.services.values():
            watch.close()

    # -------------------------------------------------------------- back

    def go_back(self, why: str, by: str, *, wait: bool = True) -> None:
        """Return all traffic to the baseline, for good. `wait`: for the first attempt at each router.

        That it goes back is written, if that is possible; nothing else is needed.
        """
        with self._backing:
            if self._is_closed:
                return
            is_first = not self.is_back
            if is_first:
                self.why_back, self.by, self.is_back = why, by, True
        if is_first:
            self._start_returning()  # before the write: a disk may hang
            self._say(f"{self.setup.rollout}: back to the baseline ({by}): {why}")
            with self._changing:
                self._write_if_possible(twice=True)
        if wait:
            self._first_returns.wait(_FIRST_RETURN_S)

    def _start_returning(self) -> None:
        """Return the traffic of all services at the same time, each in a thread."""
        for watch in self.services.values():
            self._start(self._keep_returning, watch)

    def _keep_returning(self, watch: ServiceWatch) -> None:
        """Try each second until the router was read back; then look from time to time whether it stays so."""
        while True:
            if watch.is_returned:
                watch.check_returned()
            if not watch.is_settled and watch.return_traffic():
                text = watch.kept or f"the traffic of {watch.service.service} is at the baseline"
                self._say(f"{self.setup.rollout}: {text}")
                if isinstance(watch, InstanceWatch):  # a guard that starts again must not drain what is restored then
                    with self._changing:
                        self._write_if_possible(twice=True)
            self._first_missing.discard(watch.service.service)
            if not self._first_missing:
                self._first_returns.set()
            if self._ended.wait(self.setup.limits.health_s if watch.is_returned else LOOK_S):
                return

    # -------------------------------------------------------------- threads

    def _repeat(self, watch: ServiceWatch, every_s: float, function: Callable[[ServiceWatch], str]) -> None:
        """Look again and again at a service, and go back if there is a reason."""
        while not self._ended.wait(every_s):
            try:
                reason = function(watch)
            except Exception as error:  # noqa: BLE001 - a look that fails must not end all looks
                reason = watch.note_failed_look(f"{type(error).__name__}: {error}")
            if reason and not self.is_back and self.is_exposed():
                of_service = f"{watch.service.service}: " if len(self.services) > 1 else ""
                self.go_back(of_service + reason, BY_GUARD, wait=False)

    def _look(self, watch: ServiceWatch) -> str:
        """Look at log and counters of a service."""
        self._looked_at = time.time()
        reason = watch.look()
        if not reason and self._remembering.acquire(blocking=False):
            try:
                self._memory.keep(self._clock(), self._list_seen())
            finally:
                self._remembering.release()
        return reason

    def _list_seen(self) -> dict[str, Any]:
        """List what was seen of the counters of each service."""
        watches = self.services.items()
        return {name: watch.counters.to_plain() for name, watch in watches if watch.counters is not None}

    def _check_shares(self, watch: ServiceWatch) -> str:
        """Read the shares of a service back."""
        if self.is_back:
            return ""
        drifts = watch.drifts
        reason = watch.check_shares()
        if watch.drifts != drifts:
            with self._changing:
                self._write_if_possible()
        return reason

    def _watch_lease(self) -> None:
        """Go back if the driver is gone for too long, or another process has written that it goes back."""
        lease_s = self.setup.lease_s
        while not self._ended.wait(min(LOOK_S, lease_s / 4)):
            if self.is_back:
                continue
            if self._clock() - self._seen_at > lease_s and self.is_exposed():
                self.go_back(f"no driver was there for {lease_s:g} s", BY_LEASE, wait=False)
                continue
            with self._changing:
                newer = self._file.read_newer()
            if newer and newer.state.get("is_back"):
                self.go_back(str(newer.state.get("why_back")), str(newer.state.get("by")), wait=False)

    def _write_if_possible(self, *, twice: bool = False) -> None:
        """Write the state; a disk that fails is noted, and does not stop what is done for users."""
        try:
            self._file.write(self._to_state(), twice=twice)
        except HookError as error:
            if error.message not in self._notes:
                self._notes.append(error.message)
                self._say(f"{self.setup.rollout}: {error.message}")


def load_rollout(stored: StoredState, file: StateFile, say: Say, clock: Clock = time.monotonic) -> GuardedRollout:
    """Make the rollout of a stored state. Raises HookError if it cannot be read."""
    try:
        setup = read_setup(stored.state["setup"])
    except KeyError:
        raise HookError("the file of the rollout has no setup") from None
    return GuardedRollout(setup, file, say, clock)
