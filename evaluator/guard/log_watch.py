"""Follows the access log of one service, and counts the requests of its arms."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, InputError
from evaluator.guard.limits import FALSE_ALARM, RequestWindow, remember_usual
from evaluator.guard.log_lines import LogRequestReader
from evaluator.guard.recognise import find_settings, recognise
from evaluator.records.access_logs import HIDDEN_NAMES, find_arm
from evaluator.records.rollouts import GuardLimits
from evaluator.records.words import BASELINE
from evaluator.sources.access_logs.following import LogFollower

Clock = Callable[[], float]

BLIND_S = 30.0
"""After so long without a line that can be read, while the router has requests, traffic returns."""
_MOST_LINES = 20_000
"""Lines of one look that are read; of more, every second, third … one is."""
_READING_S = 0.4
"""Most time of one look for reading."""
_MOST_WAITING = 5_000
"""Lines that are kept until the format is known."""
_RECOGNISE_AGAIN_S = 2.0
_END_BYTES = 1 << 18
"""So much of the end of a log is read before traffic moves."""
_MOST_NAMES = 5
"""Names of servers of no arm that are shown."""
_QUICK_MS = 10_000.0
"""Requests that take less are logged in time: where the baseline has many of them, the candidate should have some."""
_LEAST_LOOKS = 10
"""They are spread over so many looks at least: a router that writes its log rarely also writes what is older."""


class LogWatch:
    """What was read of an access log in the last time."""

    def __init__(
        self, path: Path, log: Mapping[str, Any], servers: Mapping[str, Any], limits: GuardLimits, clock: Clock
    ) -> None:
        """`log`: `sources.access_log` as plain JSON. `servers`: arm → its servers, if the router knows them.

        Raises InputError, UsageError for options that cannot be used.
        """
        self.path = path
        self._settings = find_settings(log, servers)
        self._limits, self._clock = limits, clock
        self.windows = {arm: RequestWindow(limits) for arm in self._settings.options.arms}
        self._follower: LogFollower | None = None
        self._reader: LogRequestReader | None = None
        self._waiting: deque[bytes] = deque(maxlen=_MOST_WAITING)
        """Lines that came before the format was known."""
        self._recognising: threading.Thread | None = None
        self._recognised_at = -_RECOGNISE_AGAIN_S
        began = clock()
        self._read_at = began
        """When a request of any arm was read last."""
        self._has_arms = False
        """Was a request of any arm read?"""
        self._of_no_arm = 0
        """Requests of no arm, as long as none of an arm was read."""
        self._other_names: Counter[str] = Counter()
        """Name of a server of no arm → its requests."""
        self.note = ""
        """What the end of the log has shown before traffic moved, as a sentence; empty: nothing of note."""
        self._usually_left = 0.0
        """Share of the baseline's requests whose clients leave."""
        self._seen_at = began
        """When any line of a request, or one that could not be read, was there last."""
        self._counts: deque[tuple[float, Counter[str]]] = deque()
        """Time of each look, and how many lines were `read`, `unread`, of an `arm` and `left` out."""
        self.problem = ""
        """Why nothing can be read now; empty: it can."""
        self._format_problem = ""
        """Why the format could not be recognised; empty: it could, or was not tried yet."""

    def assign(self, servers: Mapping[str, Any]) -> None:
        """Say which servers are of which arm, in the lines that are read from now on. `servers`: arm → its servers."""
        arms = find_settings({}, servers).options.arms
        self._settings = replace(self._settings, options=replace(self._settings.options, arms=arms))
        if self._reader is not None:
            self._reader = LogRequestReader(self._reader.layout, self._settings.options)

    def try_format(self) -> None:
        """Open the log, and recognise its format if it has lines. Raises EvaluatorError if the lines cannot be read."""
        follower = self._open()
        if follower.problem:
            raise InputError(
                f"the access log {self.path} cannot be read: {follower.problem}",
                hint="let the router write it, and this user read it, before traffic moves",
            )
        if self.path.stat().st_size:
            self._reader = LogRequestReader(recognise(self.path, self._settings), self._settings.options)
            self.note = self._try_arms(self._reader)

    def _try_arms(self, reader: LogRequestReader) -> str:
        """Say that no request at the end of the log is of an arm; empty if one is, or there are too few to tell."""
        with self.path.open("rb") as log:
            log.seek(max(self.path.stat().st_size - _END_BYTES, 0))
            results = [reader.read(line) for line in log.read(_END_BYTES).splitlines()[1:]]
        names = Counter(result.named for result in results if result.is_request)
        if names.total() < self._limits.least or any(result.arm or result.requests for result in results):
            return ""
        return (
            f"none of the last {names.total()} requests in the access log {self.path} is of an arm "
            f"({self._describe_names(names)}); if that stays so, traffic returns after {BLIND_S:g} s"
        )

    def _describe_names(self, names: Counter[str]) -> str:
        """Say which names the log has, and which ones the arms look for."""
        shown = ", ".join(name or "-" for name, _ in names.most_common(_MOST_NAMES))
        if self._settings.options.sensitive and self._settings.options.arm_from == "arm":
            shown = HIDDEN_NAMES
        arms = "; ".join(f"{arm}: {', '.join(patterns)}" for arm, patterns in self._settings.options.arms.items())
        origin = {"server": "servers", "backend": "backends"}.get(self._settings.options.arm_from, "names")
        return (
            f"its {origin} are {shown}; the arms look for {arms}: write them in sources.access_log.arms as the log does"
        )

    def look(self) -> None:
        """Read what was added since the last look."""
        now = self._clock()
        requests: dict[str, list[tuple[bool, float | None]]] = {arm: [] for arm in self.windows}
        left: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        try:
            lines = self._read_lines(counts)
        except (EvaluatorError, OSError) as error:
            self.problem = getattr(error, "message", "") or str(error)
            self._close()
            return
        if lines:
            self._seen_at = now
        if self._reader is None and (lines or self._waiting):
            self._waiting.extend(lines)
            self._recognise_aside()
            return
        reader = self._reader
        for line in (*self._waiting, *lines) if reader else ():
            result = reader.read(line)  # type: ignore[union-attr] # there is one
            counts["unread"] += not result.is_read
            counts["read"] += result.is_request
            is_of_arm = bool(result.arm or result.requests)
            counts["arm"] += is_of_arm
            counts[f"of {result.arm}"] += 1
            if result.is_request and not is_of_arm:
                self._note_other(result.named)
            for request in result.requests:
                counts["quick"] += (
                    request.arm == BASELINE and request.time_ms is not None and request.time_ms < _QUICK_MS
                )
                if request.left:
                    left[request.arm] += 1
                else:
                    requests[request.arm].append((request.failed, request.time_ms))
        self._waiting.clear()
        for arm, window in self.windows.items():
            window.add(now, requests[arm], left[arm])
        if counts["arm"]:
            self._read_at, self._has_arms, self._of_no_arm = now, True, 0
        usual = self.windows[BASELINE].find_left_share(now)
        if usual is not None:
            self._usually_left = remember_usual(self._usually_left, usual)
        self._keep_counts(now, counts)
        if counts["unread"] and not counts["read"]:
            self._recognise_aside()  # the router may have got another format meanwhile

    def _note_other(self, name: str) -> None:
        """Note a request of no arm."""
        self._of_no_arm += 1
        if name in self._other_names or len(self._other_names) < 10 * _MOST_NAMES:
            self._other_names[name] += 1

    def find_reason(self) -> str:
        """Say why the requests of a candidate are a reason to go back, or that lines are not readable; else empty."""
        now = self._clock()
        for arm, window in self.windows.items():
            if arm != BASELINE and (reason := window.find_reason(now, self._usually_left)):
                return f"{arm}: {reason}"
        blind_s = now - self._read_at
        if blind_s < BLIND_S:
            return ""
        if self.problem:
            return f"the access log {self.path} cannot be read for {blind_s:.0f} s: {self.problem}"
        counts = self.sum_counts()
        unread = counts["unread"] + len(self._waiting)
        # Once arms were seen, further requests of no arm are of other services in the same log.
        of_no_arm = 0 if self._has_arms else self._of_no_arm
        if unread + of_no_arm >= self._limits.least and not counts["arm"]:
            names = f" ({self._describe_names(self._other_names)})" if of_no_arm else ""
            return (
                f"no line of the access log {self.path} shows an arm for {blind_s:.0f} s: "
                f"{unread} cannot be read, {self._of_no_arm} are of no arm{names}"
            )
        return ""

    def find_unseen(self, arm: str, share: float) -> str:
        """Say that the log has no request of a candidate, and so many of the baseline that this is no chance.

        `share`: of the requests that it has had since `BLIND_S` at least, from 0 to 1. Empty if that is not so.
        """
        counts = self.sum_counts()
        looks = sum(look["quick"] > 0 for _, look in self._counts)
        if counts[f"of {arm}"] or looks < _LEAST_LOOKS or (1 - share) ** counts["quick"] > FALSE_ALARM:
            return ""
        return self.describe_unseen(arm, f"{counts['quick']} requests of the {BASELINE} were logged")

    def describe_unseen(self, arm: str, meanwhile: str) -> str:
        """Say that the log shows no request of a candidate. `meanwhile`: what happened, as a sentence."""
        names = f" ({self._describe_names(self._other_names)})" if self._other_names else ""
        silence = f"the access log {self.path} has shown none of its requests for {BLIND_S:g} s"
        return f"{arm}: {silence}, while {meanwhile}{names}"

    def has_seen(self, arm: str) -> bool:
        """Has the log shown a request of an arm in the last time?"""
        return self.sum_counts()[f"of {arm}"] > 0

    def find_arm_of_server(self, name: str) -> str | None:
        """Find the arm of a server by the options of the log; None if it belongs to none, or these are no servers."""
        options = self._settings.options
        return find_arm(options, name) if options.arm_from == "server" else None

    def blind_s(self) -> float:
        """Seconds since a request of any arm was read."""
        return self._clock() - self._read_at

    def sum_counts(self) -> Counter[str]:
        """Sum up the lines of the last time, by what became of them."""
        return sum((counts for _, counts in self._counts), Counter())

    def describe(self) -> str:
        """Say what cannot be read; empty if all can."""
        counts = self.sum_counts()
        parts = [text for text in (self.problem, self._format_problem) if text]
        if self._waiting:
            parts.append(f"the format of the access log is not known yet ({len(self._waiting)} lines wait)")
        if counts["unread"]:
            parts.append(f"{counts['unread']} lines of the last {BLIND_S:g} s could not be read")
        if others := counts["read"] - counts["arm"]:
            names = "" if counts["arm"] else f" ({self._describe_names(self._other_names)})"
            parts.append(f"{others} requests of the last {BLIND_S:g} s are of no arm{names}")
        if counts["skipped"]:
            parts.append(f"there are more lines than can be read: {counts['skipped']} were passed over")
        silent_s = self._clock() - self._seen_at
        if silent_s > BLIND_S:
            parts.append(f"the access log has no new lines for {silent_s:.0f} s")
        return "; ".join(parts)

    def close(self) -> None:
        """Stop following."""
        self._close()

    # -------------------------------------------------------------- lines

    def _open(self) -> LogFollower:
        """Follow the log from its end on, unless it is followed. Raises InputError."""
        if self._follower is None:
            self._follower = LogFollower(self.path, clock=self._clock)
        return self._follower

    def _close(self) -> None:
        """Close the files of the log."""
        if self._follower is not None:
            with contextlib.suppress(OSError):
                self._follower.close()
            self._follower = None

    def _read_lines(self, counts: Counter[str]) -> list[bytes]:
        """Read the lines that were added; of too many only some, and `skipped` is counted. Raises EvaluatorError."""
        follower = self._open()
        lines: list[bytes] = []
        deadline = time.monotonic() + _READING_S
        while block := follower.read_block():
            lines += block.lines
            if time.monotonic() > deadline:
                break
        counts["unread"] += sum(hole.lines for hole in follower.take_holes())
        self.problem = follower.problem and f"{self.path}: {follower.problem}"
        stride = len(lines) // _MOST_LINES + 1
        counts["skipped"] += len(lines) - len(lines[::stride])
        return lines[::stride]

    def _keep_counts(self, now: float, counts: Counter[str]) -> None:
        """Keep the counts of this look for some time."""
        if counts:
            self._counts.append((now, counts))
        while self._counts and self._counts[0][0] < now - BLIND_S:
            self._counts.popleft()

    # -------------------------------------------------------------- the format

    def _recognise_aside(self) -> None:
        """Recognise the format in a thread, at most every few seconds."""
        now = self._clock()
        if self._recognising is not None or now - self._recognised_at < _RECOGNISE_AGAIN_S:
            return
        self._recognised_at = now

        def run() -> None:
            """Recognise the format; lines that cannot be recognised stay unread."""
            try:
                layout = recognise(self.path, self._settings)
                self._reader = LogRequestReader(layout, self._settings.options)
                self._format_problem = ""
            except (EvaluatorError, OSError) as error:
                self._format_problem = getattr(error, "message", "") or str(error)
            finally:
                self._recognising = None

        self._recognising = threading.Thread(target=run, daemon=True)
        self._recognising.start()
