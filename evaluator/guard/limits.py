"""The rules of the guard, as pure functions: when what is seen of a candidate is a reason to go back.

All rules compare a count with what is allowed by a binomial test: of `n` requests `k` were bad, and a candidate at the
limit would have so many or more with a probability below `FALSE_ALARM`. So few requests prove nothing, and a healthy
candidate does not trip by chance, however often it is looked at.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from evaluator.records.rollouts import GuardLimits

FALSE_ALARM = 1e-6
"""Probability of one look to trip for a candidate exactly at its limit. A day has 86,400 looks, most of them alike."""
WINDOWS = (1, 3, 10)
"""Times that are looked at, as multiples of `over`: many bad requests are seen in the first, few in the last."""
SLOW_SHARE = 0.05
"""Share of requests that may be slower than a limit of the 95th percentile."""
_LONGER_THAN_LIMIT = 1.5
"""A request that takes longer than this multiple of the limit of p95 is stuck."""
_TIMES_BASELINE = 3.0
"""How many times as many stuck requests, or clients that leave, as the baseline a candidate may have."""
_FORGETS = 0.98
"""What is usual for the baseline becomes less by this factor with each look that finds less."""
_MOST_TIMES = 500
"""Response times that are kept of one look and arm, for the reading."""
_LOOK_S = 2.0
"""At most so long until a request is counted, and the router called."""


def find_tail(n: int, k: int, share: float) -> float:
    """Probability that of `n` requests `k` or more are bad if each one is with probability `share`."""
    if k <= n * share or k <= 0:
        return 1.0
    if share <= 0 or k > n:
        return 0.0
    log_first = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
    )
    term = total = math.exp(log_first)
    for bad in range(k, n):  # beyond the mean each term is smaller than the one before
        term *= (n - bad) / (bad + 1) * share / (1 - share)
        total += term
        if term <= total * 1e-9:
            break
    return min(total, 1.0)


def exceeds(n: int, k: int, share: float, least: int) -> bool:
    """Is it certain that more than `share` of the requests are bad? False for fewer than `least` requests."""
    return n >= least and find_tail(n, k, share) < FALSE_ALARM


def estimate_reaction_s(limits: GuardLimits, requests_per_s: float, failing: float = 0.5) -> float | None:
    """Estimate the time (s) in which a candidate is off the traffic if a part of its requests fails.

    `requests_per_s`: of the candidate. `failing`: share of its requests that fail. None: the guard would not see it.
    """
    longest_s = WINDOWS[-1] * limits.over_s
    most = math.floor(requests_per_s * longest_s)
    for n in range(max(limits.least, 1), min(most, 100_000) + 1):
        if find_tail(n, math.floor(n * failing), limits.failures) < FALSE_ALARM:
            return n / requests_per_s + _LOOK_S
    return None


def remember_usual(usual: float, share: float) -> float:
    """Return what is usual for the baseline after a look that found `share`: a rise at once, a fall slowly."""
    return max(share, _FORGETS * usual)


# ------------------------------------------------------------------ requests of the log


@dataclass(slots=True)
class RequestCounts:
    """Requests of one arm in some time."""

    requests: int = 0
    failures: int = 0
    slow: int = 0
    """Those slower than the limit of p95."""
    timed: int = 0
    """Those whose response time is known."""
    left: int = 0
    """Those whose client left before it had the answer; they are not among `requests`."""
    times_ms: list[float] = field(default_factory=list)
    """Some of the response times."""

    def add(self, other: RequestCounts, *, with_times: bool) -> None:
        """Add the requests of another time; their response times only where they are needed."""
        self.requests += other.requests
        self.failures += other.failures
        self.slow += other.slow
        self.timed += other.timed
        self.left += other.left
        if with_times:
            self.times_ms += other.times_ms

    def find_p95(self) -> float | None:
        """Return the 95th percentile of the response times (ms); None if there are none."""
        if not self.times_ms:
            return None
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]


class RequestWindow:
    """The requests of one arm in the last time, by when they were read: clocks of logs do not matter."""

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._looks: deque[tuple[float, RequestCounts]] = deque()
        """Time of each look (monotonic, s) and what it has read."""

    def add(self, at: float, requests: Iterable[tuple[bool, float | None]], left: int = 0) -> None:
        """Add the requests that a look at `at` has read: whether each failed, and its response time (ms) or None.

        `left`: number of further requests, whose clients left before they had an answer.
        """
        counts = RequestCounts(left=left)
        limit_ms = self._limits.p95_ms
        for failed, time_ms in requests:
            counts.requests += 1
            counts.failures += failed
            if time_ms is not None:
                counts.timed += 1
                counts.slow += limit_ms is not None and time_ms > limit_ms
                if len(counts.times_ms) < _MOST_TIMES:
                    counts.times_ms.append(time_ms)
        if counts.requests or left:
            self._looks.append((at, counts))
        while self._looks and self._looks[0][0] <= at - WINDOWS[-1] * self._limits.over_s:
            self._looks.popleft()

    def sum_up(self, at: float, multiple: int = 1) -> RequestCounts:
        """Sum up the requests of the last `multiple` times `over`; response times are there for once `over` only."""
        total = RequestCounts()
        for looked_at, counts in self._looks:
            if looked_at > at - multiple * self._limits.over_s:
                total.add(counts, with_times=multiple == 1)
        return total

    def find_left_share(self, at: float) -> float | None:
        """Find the share of requests whose clients left, in the last time; None if there are fewer than `least`."""
        counts = self.sum_up(at)
        total = counts.requests + counts.left
        return counts.left / total if total >= self._limits.least else None

    def find_reason(self, at: float, usually_left: float = 0.0) -> str:
        """Say why these requests are a reason to go back; empty if they are none.

        `usually_left`: share of the baseline's requests whose clients leave. Clients leave a server that hangs, too,
        and then no request of it fails or stays in progress.
        """
        limits = self._limits
        may_leave = max(limits.failures, _TIMES_BASELINE * usually_left)
        for multiple in WINDOWS:
            counts, time_s = self.sum_up(at, multiple), multiple * limits.over_s
            if exceeds(counts.requests, counts.failures, limits.failures, limits.least):
                return (
                    f"{counts.failures} of its {counts.requests} requests of the last {time_s:g} s failed "
                    f"(the limit is {100 * limits.failures:.4g} %)"
                )
            total = counts.requests + counts.left
            if may_leave < 1 and exceeds(total, counts.left, may_leave, limits.least):
                return (
                    f"the clients of {counts.left} of its {total} requests of the last {time_s:g} s left before they "
                    f"had an answer ({100 * usually_left:.3g} % of the baseline's do)"
                )
            if limits.p95_ms is not None and exceeds(counts.timed, counts.slow, SLOW_SHARE, limits.least):
                return (
                    f"{counts.slow} of its {counts.timed} requests of the last {time_s:g} s took longer than "
                    f"{limits.p95_ms:g} ms, the limit of 95 % of them"
                )
        return ""


# ------------------------------------------------------------------ counters of the router


@dataclass(frozen=True, slots=True)
class ArmCounters:
    """What a router counts of the servers of one arm, summed up since the first look."""

    started: int = 0
    """Requests that were given to a server, or wait for one."""
    failures: int = 0
    """Connections and answers that failed."""
    sessions: int = 0
    """Requests in progress now."""
    queued: int = 0
    """Requests that wait now."""


class CounterWindow:
    """The counters of candidate and baseline in the last time."""

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._looks: deque[tuple[float, ArmCounters, ArmCounters]] = deque()
        """Time of each look (monotonic, s), the counters of the candidate, and those of the baseline."""
        self._usual_stuck = 0.0
        """Share of stuck requests that the baseline has or had lately: services with long requests have many."""

    @property
    def patience_s(self) -> float:
        """Time (s) after which a request that has no answer is stuck."""
        limits = self._limits
        return max(limits.over_s / 2, _LONGER_THAN_LIMIT * (limits.p95_ms or 0) / 1000)

    def add(self, at: float, candidate: ArmCounters, baseline: ArmCounters) -> None:
        """Add a look at `at`."""
        self._looks.append((at, candidate, baseline))
        longest_s = WINDOWS[-1] * self._limits.over_s + self.patience_s + 1
        while len(self._looks) > 1 and self._looks[1][0] <= at - longest_s:
            self._looks.popleft()
        stuck, started = self._find_stuck(at, position=2, since_start=True)
        if started >= self._limits.least:
            self._usual_stuck = remember_usual(self._usual_stuck, min(stuck / started, 1.0))

    def forget_progress(self) -> None:
        """Forget which requests were in progress: the router was reloaded, and its counters do not have them any more.

        Otherwise as many new ones would be taken for them, and a candidate that hangs would be seen later.
        """
        self._looks = deque(
            (at, replace(candidate, sessions=0, queued=0), replace(baseline, sessions=0, queued=0))
            for at, candidate, baseline in self._looks
        )

    def to_plain(self) -> dict[str, Any]:
        """Turn what was seen into plain JSON."""
        looks = [[at, *astuple(candidate), *astuple(baseline)] for at, candidate, baseline in self._looks]
        return {"looks": looks, "usual": self._usual_stuck}

    def take(self, plain: Mapping[str, Any]) -> None:
        """Take over what an earlier guard has seen. Raises KeyError, TypeError, ValueError before any change."""
        size = len(astuple(ArmCounters()))
        looks = []
        for at, *counts in plain["looks"]:
            if len(counts) != 2 * size:
                raise ValueError(f"a look has {2 * size} counts, not {len(counts)}")
            numbers = [int(count) for count in counts]
            looks.append((float(at), ArmCounters(*numbers[:size]), ArmCounters(*numbers[size:])))
        usual = float(plain["usual"])
        self._looks, self._usual_stuck = deque(looks), usual

    def count_started(self, at: float, time_s: float) -> int:
        """Count the requests that the candidate got in the last `time_s`."""
        return self._looks[-1][1].started - self._find(at - time_s)[1].started if self._looks else 0

    def find_reason(self, at: float) -> str:
        """Say why these counters are a reason to go back; empty if they are none."""
        if len(self._looks) < 2:
            return ""
        limits, now = self._limits, self._looks[-1][1]
        for multiple in WINDOWS:
            before = self._find(at - multiple * limits.over_s)[1]
            failures = now.failures - before.failures
            started = max(now.started - before.started, failures)
            if exceeds(started, failures, limits.failures, limits.least):
                return (
                    f"the router counted {failures} failed connections or answers of its {started} requests of the "
                    f"last {multiple * limits.over_s:g} s (the limit is {100 * limits.failures:.4g} %)"
                )
        allowed = max(limits.failures, _TIMES_BASELINE * self._usual_stuck)
        for multiple in WINDOWS:
            stuck, started = self._find_stuck(at, position=1, multiple=multiple)
            if allowed < 1 and exceeds(started, stuck, allowed, limits.least):
                return (
                    f"{stuck} of {started} requests that it got have had no answer for at least {self.patience_s:g} s "
                    f"({now.sessions} are in progress, {now.queued} wait)"
                )
        return ""

    def _find(self, at: float) -> tuple[float, ArmCounters, ArmCounters]:
        """Find the last look at `at` or before; the first one if there is none."""
        return next((look for look in reversed(self._looks) if look[0] <= at), self._looks[0])

    def _find_stuck(self, at: float, position: int, *, multiple: int = 1, since_start: bool = False) -> tuple[int, int]:
        """Count the stuck requests of an arm: those that were there some time ago and are not finished.

        `position`: of the arm in a look. `multiple`: the time is that many times `over`. Returns the number of
        requests in progress that are older than the patience, and the number of requests that were started in the time
        before it. Of the first, those are left out that may have been there before that time, unless `since_start`; so
        the number is at least so large.
        """
        now: ArmCounters = self._looks[-1][position]  # type: ignore[assignment] # positions 1 and 2 are counters
        recent: ArmCounters = self._find(at - self.patience_s)[position]  # type: ignore[assignment]
        early: ArmCounters = self._find(at - self.patience_s - multiple * self._limits.over_s)[position]  # type: ignore[assignment]
        in_progress = now.sessions + now.queued - (now.started - recent.started)
        if not since_start:
            in_progress -= early.sessions + early.queued
        started = recent.started - early.started
        stuck = max(in_progress, 0)
        return (stuck if since_start else min(stuck, started)), started
