"""Watches one service of a rollout: its requests in the log, its router's counters, and its shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluator.errors import EvaluatorError, HookError
from evaluator.guard.counters import CounterWatch, FindArm
from evaluator.guard.log_watch import BLIND_S, Clock, LogWatch
from evaluator.guard.routers import ServiceRouter
from evaluator.guard.setup import GuardedService, GuardReading
from evaluator.hooks import MaybeSent, Realised, describe_drift
from evaluator.records.rollouts import GuardLimits
from evaluator.records.words import BASELINE

_SERVER_ERRORS = "5xx"


class ServiceWatch:
    """What the guard knows of one service, and does for it."""

    def __init__(self, service: GuardedService, rollout: str, release: str, limits: GuardLimits, clock: Clock) -> None:
        """Make the router, the follower of the log and the reader of counters. Raises EvaluatorError."""
        self.service, self._limits, self._clock = service, limits, clock
        self.router = ServiceRouter(service, rollout, release)
        self.log: LogWatch | None = None
        if service.access_log is not None:
            self.log = LogWatch(
                service.access_log, self.router.complete_log(), self.router.list_servers(), limits, clock
            )
        self.counters = self._make_counters()
        self.wanted: dict[str, float] = {}
        """The shares that were set last, or those that were there."""
        self.settings: dict[str, float] | None = None
        """What the router's settings gave after they were set, also to servers that could not serve; None: not known"""
        self.realised: dict[str, float] = {}
        self.drifts = 0
        """How often the router had other settings than were set."""
        self.drift = ""
        """How the router differs from what was set, because its settings were changed; empty: they were not."""
        self.router_note = ""
        """What is unusual at the router, and no change of its settings: it cannot be read, or servers went down."""
        self.return_text = ""
        """What could not be done on the way back."""
        self.is_returned = False
        self.kept = ""
        """Why users stay at new instances until these are restored; empty: that is not so."""
        self.servers: Mapping[str, Sequence[str]] = {}
        """Arm → its servers, where instances are replaced; empty: those of the router's options, all the time."""
        self._router_read_at = clock()
        """When the shares were read last."""
        self._is_tried = False
        """Was the router tried? Before, a difference of shares means nothing."""
        self._keeps_clients = False
        """Do all requests of a client go to one server?"""
        self._share_since: dict[str, tuple[float, float]] = {}
        """Candidate → its share, and since when (monotonic, s) it has this one."""
        self._looks_fail_since: float | None = None
        self._look_problem = ""

    def _make_counters(self) -> CounterWatch | None:
        """Make the reader of the router's counters; None if it has none that are known."""
        stats = self.router.make_stats()
        if stats is None:
            return None
        ask, backend = stats
        servers = self.router.list_servers()
        find_arm: FindArm = self._find_arm_of_server
        if not servers and self.log is not None:
            find_arm = self.log.find_arm_of_server
        statuses = self.service.log.get("failures", [_SERVER_ERRORS])
        return CounterWatch(
            ask,
            backend,
            find_arm,
            self.router.router.arms(),
            self._limits,
            by_status=_SERVER_ERRORS in statuses,
            by_backend=self.router.counts_by_backend,
        )

    def _find_arm_of_server(self, name: str) -> str | None:
        """Find the arm of a server now, by the router's options; None: of none."""
        return next((arm for arm, names in self.router.list_servers().items() if name in names), None)

    # -------------------------------------------------------------- before the first shift

    def try_all(self) -> None:
        """Try what is needed before traffic moves: secrets, router, counters, the format of the log.

        Raises EvaluatorError, which says what is missing.
        """
        self.try_router()
        if self.counters is not None:
            self.counters.look(self._clock())
        if self.log is not None:
            self.log.try_format()

    def try_router(self) -> None:
        """Try secrets and router, and read its shares. Raises EvaluatorError."""
        try:
            self.router.test()
            self.realised = self.router.read_shares()
            self.settings = self._read_settings()
            self.wanted = self.wanted or dict(self.realised)
            self._keeps_clients = self.router.router.keeps_clients()
        finally:
            self._is_tried = True

    def list_blind_spots(self) -> list[str]:
        """List what cannot be seen of this router, as sentences."""
        name, spots = self.service.service, []
        if self.counters is None:
            spots.append(
                f"{name}: the router ({self.service.kind}) has no counters that the guard can read, so open connections"
                " are not known: a candidate that never answers is seen when the router logs that it gave up"
            )
        if self.log is None:
            seen = "only the router's counters are looked at" if self.counters else "the guard sees no requests at all"
            spots.append(f"{name}: there is no access log, so {seen}, and no response times")
        elif self.log.note:
            spots.append(f"{name}: {self.log.note}")
        return spots

    # -------------------------------------------------------------- each second

    def look(self) -> str:
        """Look at the log and the counters; return why the traffic has to return, empty if there is no reason."""
        now, problems = self._clock(), list[str]()
        if self.log is not None:
            self.log.look()
        if self.counters is not None:
            try:
                self.counters.look(now)
                self.counters.problem = ""
            except EvaluatorError as error:
                self.counters.problem = error.message
                problems.append(error.message)
        self._keep_problem(now, problems if self.log is None or self.log.problem else [])
        return self._find_reason(now)

    def _find_reason(self, now: float) -> str:
        """Find why the traffic has to return; empty if there is no reason."""
        reason = self.log.find_reason() if self.log else ""
        if not reason and self.counters is not None and not self.counters.problem:
            reason = self.counters.find_reason(now)
        if not reason and self._looks_fail_since is not None and now - self._looks_fail_since > BLIND_S:
            reason = f"nothing could be looked at for {BLIND_S:g} s: {self._look_problem}"
        return reason or self._find_silent_log(now) or self._find_unseen_candidate(now)

    def _find_silent_log(self, now: float) -> str:
        """Say that the log shows no request while the router counts some; empty if that is not so."""
        if self.log is None or self.counters is None or self.log.blind_s() < BLIND_S or self.counters.problem:
            return ""
        started = sum(window.count_started(now, BLIND_S) for window in self.counters.windows.values())
        if started < self._limits.least:
            return ""
        return (
            f"the router gave {started} requests to candidates within {BLIND_S:g} s, and the access log shows none"
            f" ({self.log.describe() or 'no line was added'})"
        )

    def _find_unseen_candidate(self, now: float) -> str:
        """Say that the log does not show a candidate that gets traffic; empty if that is not so.

        The router's counters say whether it got requests; without them, its share and the baseline's requests do.
        """
        if self.log is None or self.log.problem:
            return ""
        for arm in self.router.candidates:
            share = self.realised.get(arm, 0.0)
            known, since = self._share_since.setdefault(arm, (share, now))
            if share != known:
                self._share_since[arm] = (share, now)
                continue
            if share <= 0 or now - since < BLIND_S or self.log.has_seen(arm):
                continue
            reason = ""
            if self.counters is None and self._keeps_clients:
                reason = ""  # few clients may all be at the baseline, however many requests they send
            elif self.counters is None:
                reason = self.log.find_unseen(arm, share)
            elif not self.counters.problem:
                counters = self.counters.counters[arm]
                ended = self.counters.windows[arm].count_started(now, BLIND_S) - counters.sessions - counters.queued
                if ended >= self._limits.least:
                    reason = self.log.describe_unseen(arm, f"the router gave {ended} to it that have ended")
            if reason:
                return reason
        return ""

    def note_failed_look(self, problem: str) -> str:
        """Note that a look has failed as a whole; returns why the traffic has to return, empty if not yet."""
        now = self._clock()
        self._keep_problem(now, [problem])
        since = self._looks_fail_since or now
        return f"nothing could be looked at for {BLIND_S:g} s: {problem}" if now - since > BLIND_S else ""

    def _keep_problem(self, now: float, problems: Sequence[str]) -> None:
        """Remember since when looks fail."""
        if not problems:
            self._looks_fail_since = None
        elif self._looks_fail_since is None:
            self._looks_fail_since = now
        self._look_problem = "; ".join(problems)

    # -------------------------------------------------------------- the shares

    def set_shares(self, shares: Mapping[str, float], words: Mapping[str, str]) -> Realised:
        """Give each arm its share; `router.changing` is held. Raises HookError, MaybeSent."""
        realised = self.router.set_shares(shares, words)
        self.realised = dict(realised.shares)
        self.settings = self._read_settings()
        self._router_read_at = self._clock()
        self.drift = ""
        return realised

    def check_shares(self) -> str:
        """Read the shares back; set them again if they differ. Returns why the traffic has to return, or empty.

        Settings that are others than were set (a reload has forgotten them, a person has changed them) may happen once.
        A server that went down changes shares, too; then they are shared again among those that serve.
        """
        if not self._is_tried or not self.router.changing.acquire(blocking=False):
            return ""  # they are being set
        try:
            return self._check_shares()
        finally:
            self.router.changing.release()

    def _check_shares(self) -> str:
        """Do what `check_shares` does."""
        try:
            self.realised = self.router.read_shares()
            settings = self._read_settings()
        except HookError as error:
            return self._note_unread(error)
        self._router_read_at, self.router_note = self._clock(), ""
        difference = describe_drift(self.wanted, self.realised)
        if not difference:
            self.drift, self.settings = "", settings
            return ""
        is_changed = self.settings is None or settings is None or bool(describe_drift(self.settings, settings))
        if is_changed:
            self.drifts += 1
        text = f"{self.service.service}: {difference}"
        self._note_difference(text, is_changed=is_changed)
        if is_changed and self.drifts > 1:
            return f"the router of {self.service.service} has other shares than were set, again: {difference}"
        try:
            self.set_shares(self.wanted, {})
            text += "; they were set again"
        except (EvaluatorError, MaybeSent) as error:
            text += f"; setting them again failed: {getattr(error, 'message', '') or error}"
        self._note_difference(text, is_changed=is_changed)
        return ""

    def _note_unread(self, error: HookError) -> str:
        """Note that the router cannot be read; returns why the traffic has to return, empty if not yet."""
        unread_s = self._clock() - self._router_read_at
        self.router_note = f"{self.service.service}: the router cannot be read: {error.message}"
        if unread_s > max(BLIND_S, 2 * self._limits.health_s):
            return f"the router of {self.service.service} cannot be read for {unread_s:.0f} s: {error.message}"
        return ""

    def _note_difference(self, text: str, *, is_changed: bool) -> None:
        """Keep how the shares differ: as a drift, or, where servers have gone down or come back, as a note."""
        self.drift = text if is_changed else ""
        self.router_note = "" if is_changed else f"{text}, as servers went down or came back"

    def _read_settings(self) -> dict[str, float] | None:
        """Read the shares that the settings give; None if they cannot be given. Raises nothing."""
        try:
            return self.router.read_settings()
        except HookError:
            return None

    @property
    def is_settled(self) -> bool:
        """Is all done that the guard can do to return the traffic?"""
        return self.is_returned or bool(self.kept)

    def return_traffic(self) -> bool:
        """Try once to return all traffic to the baseline, and keep how that ended; returns whether it is there."""
        attempt = self.router.return_traffic()
        self.is_returned, self.return_text = attempt.is_returned, attempt.text
        if attempt.shares:
            self.realised = dict(attempt.shares)
        return self.is_returned

    def check_returned(self) -> None:
        """Read whether the traffic is still at the baseline; a reload may have forgotten it."""
        try:
            self.realised = self.router.read_shares()
            self.is_returned = self.router.is_at_baseline(self.realised)
        except HookError as error:
            self.return_text = error.message

    def is_exposed(self, *, is_back: bool) -> bool:
        """Do users meet a candidate? By what was set, unless it goes back, and by what was read."""
        if is_back:
            return not self.is_returned and (not self.realised or not self.router.is_at_baseline(self.realised))
        return any(not self.router.is_at_baseline(each) for each in (self.realised, self.wanted))

    # -------------------------------------------------------------- what was seen

    def list_readings(self) -> list[GuardReading]:
        """List what was seen last of each arm."""
        now, readings = self._clock(), []
        for arm in self.router.router.arms():
            window = self.log.windows.get(arm) if self.log else None
            counts = window.sum_up(now) if window else None
            counters = self.counters.counters.get(arm) if self.counters and not self.counters.problem else None
            readings.append(
                GuardReading(
                    service=self.service.service,
                    arm=arm,
                    requests=counts.requests if counts else 0,
                    failures=counts.failures if counts else 0,
                    p95_ms=counts.find_p95() if counts else None,
                    sessions=counters.sessions if counters else None,
                    queued=counters.queued if counters else None,
                    counted=counters.started if counters else None,
                    counted_failures=counters.failures if counters else None,
                    text=self._describe(arm, now),
                )
            )
        return readings

    def _describe(self, arm: str, now: float) -> str:
        """Describe what was seen of an arm in a sentence."""
        parts = []
        if self.log and (window := self.log.windows.get(arm)):
            counts = window.sum_up(now)
            p95 = counts.find_p95()
            parts.append(
                f"{counts.requests} requests in {self._limits.over_s:g} s, {counts.failures} failed"
                + (f", p95 {p95:.0f} ms" if p95 is not None else "")
            )
        if self.counters and not self.counters.problem:
            counters, state = self.counters.counters[arm], self.counters.states[arm]
            parts.append(f"{counters.sessions} in progress, {counters.queued} wait")
            if state.down:
                parts.append(f"{state.down} of {state.servers} servers are down")
        if arm != BASELINE:
            parts += filter(
                None, [self.log.describe() if self.log else "", self.counters.problem if self.counters else ""]
            )
        return f"{self.service.service} {arm}: {'; '.join(parts) or 'nothing is seen of it'}"

    def close(self) -> None:
        """Stop following the log."""
        if self.log is not None:
            self.log.close()
