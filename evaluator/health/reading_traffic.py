"""Does each arm serve requests while it is scraped? An arm may answer scrapes although its counters no longer grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import END_STEPS, TOLERATED, ReadingContext, fail, grade, name_some, show_clock, show_period
from evaluator.records import PARTS, Direction, Finding, Query, QueryKind
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.reading_panels import name_of
from evaluator.wording import format_duration, format_number, quote_command

FEWEST_EXPECTED = 20.0
"""Least number of expected requests for a pause to count: by chance none comes once in 10⁸ times."""

IDLE = 0.05
"""Share of the expected requests below which a service counts as idle: health checks go on."""

FALLEN = 0.25
"""Share of its own usual level below which an arm may count as idle."""

KNOWN_BUCKETS = 8
"""Buckets after which the usual level of an arm or instance counts as known."""
REMEMBERED = 40
"""Latest buckets of which the usual level is the mean."""
LONGER_THAN_BEFORE = 2.0
"""A pause counts only if it is longer than this multiple of any pause before it."""

VALUE, COUNT = PARTS.index("value"), PARTS.index("count")


def check_traffic(context: ReadingContext) -> Iterable[Finding]:
    """Find arms whose instances answer scrapes, and whose requests stop while the other arm's go on.

    Each candidate is compared with the baseline, and the baseline with each candidate. If readings have endpoints and
    no arm stops as a whole, each endpoint is checked as well. A candidate without any request of an endpoint is named.
    """
    queries, endpoints = _list_request_counters(context), context.readings.endpoints
    # Name of the check → endpoints that it compares; `None`: all endpoints together.
    endpoints_by_check = {"traffic": (None,), "endpoint_silent": endpoints if len(endpoints) > 1 else ()}
    for candidate in range(1, len(context.readings.arms)):  # codes of arms; 0: the baseline
        for judged, reference in ((candidate, 0), (0, candidate)):
            for check, names in endpoints_by_check.items():
                pauses = [_find_pause(context, query, name, judged, reference) for query in queries for name in names]
                worst = max((pause for pause in pauses if pause), default=None, key=_badness)
                if worst is not None:
                    yield from _name_pause(context, check, worst, judged, reference)
                    break  # endpoints of an arm that stops as a whole need no findings of their own
        if queries:  # any counter of requests shows which endpoints were answered: the first is enough
            yield from _name_unanswered(context, queries[0], candidate)


def _name_unanswered(context: ReadingContext, query: Query, candidate: int) -> Iterator[Finding]:
    """Name endpoints that the baseline answered and the candidate never did, although enough requests were expected.

    `query` counts requests; `candidate` is the code of the arm.
    """
    readings = context.view.readings
    rows = _find_counts(context, query)
    endpoints = len(readings.endpoints)
    requests = np.zeros((2, endpoints))  # of baseline and candidate
    for role, arm_code in enumerate((0, candidate)):
        rows_of_arm = rows[readings.arm[rows] == arm_code]
        np.add.at(requests[role], readings.endpoint[rows_of_arm], readings.total[rows_of_arm])
    baseline_total, candidate_total = requests.sum(axis=1)
    if not baseline_total or not candidate_total:
        return
    expected = requests[0] * candidate_total / baseline_total  # of the candidate, by endpoint
    has_series = np.isin(np.arange(endpoints), readings.endpoint[rows[readings.arm[rows] == candidate]])
    never = np.flatnonzero(~has_series & (expected >= FEWEST_EXPECTED))
    if never.size:
        names = name_some([readings.endpoints[endpoint_code] for endpoint_code in never.tolist()])
        text = (
            f"{readings.arms[candidate]} never answered {names}, where {format_number(float(expected[never].sum()))} "
            "requests were expected from what baseline answered"
        )
        remedy = "find out whether it still has them; sources.prometheus.endpoint_label sets what an endpoint is"
        yield fail("endpoint_silent", text, remedy)


@dataclass(frozen=True, slots=True)
class _Pause:
    """A time in which an arm is scraped and counts nothing, while the other arm goes on as before."""

    query: Query
    endpoint: str
    """Empty: all of them."""
    start_s: float
    end_s: float
    expected: float
    """Requests that were expected in this time."""
    grown: float
    """Requests that were counted in this time."""
    at_end: bool
    """Does the pause last until the end of the readings?"""


def _badness(pause: _Pause) -> tuple[bool, float]:
    """Sort key: a pause at the end is worse than any other, then the longer pause is worse."""
    return pause.at_end, pause.end_s - pause.start_s


def _name_pause(context: ReadingContext, check: str, pause: _Pause, judged: int, reference: int) -> Iterator[Finding]:
    """Word a pause of the arm `judged` compared with the arm `reference` (codes); nothing if it is short and has ended.

    `check`: name of the check in the finding.
    """
    pause_s, start_ms = pause.end_s - pause.start_s, pause.start_s * 1000
    time_s = context.covered_s
    if context.intervals:  # there was a load: only the time of its runs counts
        time_s = sum(interval.end_s - interval.start_s for interval in context.intervals)
    share = pause_s / time_s if time_s else 1.0
    if not pause.at_end and share <= TOLERATED:
        return
    since = f"from {show_clock(start_ms)} on" if pause.at_end else f"at {show_clock(start_ms)}"
    arms = context.readings.arms
    subject = f"{pause.endpoint} of {arms[judged]}" if pause.endpoint else arms[judged]
    text = (
        f"{subject} answers scrapes and serves no requests {since}: {name_of(pause.query)} grew by "
        f"{format_number(pause.grown)} in {format_duration(pause_s)}, where {format_number(pause.expected)} "
        f"were expected from what {arms[reference]} counted"
    )
    remedy = "find out why no request reached it, or why it answered none"
    if pause.at_end and not context.intervals:
        view_start_ms = context.view.span[0] * context.readings.bucket_s * 1000
        command = f"{quote_command('collect', context.release)} {show_period(view_start_ms, start_ms)}"
        remedy = f"find out why; only if its traffic was removed on purpose, judge the time before: `{command}`"
    yield grade(check, text, remedy, fails=pause.at_end or share > context.rulebook.silence)


def _find_counts(context: ReadingContext, query: Query, endpoint: str | None = None) -> IntArray:
    """Find the rows (indices) of the view with increases of a counter of requests; `endpoint=None`: all endpoints."""
    return context.view.find(query, COUNT if query.kind is QueryKind.HISTOGRAM else VALUE, endpoint)


def _find_patience_s(context: ReadingContext) -> float:
    """Longest pause (s) that a late and a failed scrape explain."""
    return END_STEPS * max((fact.step_ms for fact in context.readings.facts), default=0.0) / 1000


def find_idle_instances(context: ReadingContext) -> Mapping[tuple[int, str], float]:
    """Find idle instances: until the end they are scraped, but they serve no requests while the arm's others do.

    Only instances count that served before, for which at least 20 requests were expected since, and whose silence is
    more than twice as long as any pause after which an instance of any arm came back.

    Returns code of the arm and name of the instance → time since when it serves no requests (ms since the epoch).
    """
    idle_since: dict[tuple[int, str], float] = {}
    bucket_s, end = context.readings.bucket_s, context.view.span[1]  # the bucket after the last
    patience_s = _find_patience_s(context)
    for query in _list_request_counters(context):
        increases = _count_by_instance(context, query)
        # Code of the arm and name of the instance → idle buckets at the end, longest pause before them (buckets).
        stops = {key: _find_stop(own, others) for key, (own, others) in increases.items()}
        longest_pause = max((pause for _, pause in stops.values()), default=0)
        for key, (idle_buckets, _) in stops.items():
            if idle_buckets * bucket_s > patience_s and idle_buckets > LONGER_THAN_BEFORE * longest_pause:
                since_ms = float((end - idle_buckets) * bucket_s * 1000)
                idle_since[key] = min(idle_since.get(key, since_ms), since_ms)
    return idle_since


def _count_by_instance(context: ReadingContext, query: Query) -> dict[tuple[int, str], tuple[FloatArray, FloatArray]]:
    """Count the requests of each instance that is read until the end, and those of its arm's other instances.

    Returns code of the arm and name of the instance → requests of the instance and of the others, in each bucket of the
    view: two arrays of shape (buckets,).
    """
    view, readings = context.view, context.view.readings
    rows = _find_counts(context, query)
    start, end = view.span
    out: dict[tuple[int, str], tuple[FloatArray, FloatArray]] = {}
    for arm_code in range(len(readings.arms)):
        rows_of_arm = rows[readings.arm[rows] == arm_code]
        # Codes of the arm's instances; of each row, the position of its instance among them.
        codes, position = np.unique(readings.instance[rows_of_arm], return_inverse=True)
        increases = np.zeros((codes.size, end - start))  # requests by instance and bucket
        np.add.at(increases, (position, readings.bucket[rows_of_arm] - start), readings.total[rows_of_arm])
        last_buckets = np.zeros(codes.size, dtype=np.int64)
        np.maximum.at(last_buckets, position, readings.bucket[rows_of_arm])
        for own, code, last_bucket in zip(increases, codes.tolist(), last_buckets.tolist(), strict=True):
            # An instance that ended earlier is left out. The last scrape of two instances at the end may lie in two
            # adjacent buckets.
            if last_bucket >= last_buckets.max() - 1:
                out[arm_code, readings.instances[code]] = own, increases.sum(axis=0) - own
    return out


def _find_stop(own: FloatArray, others: FloatArray) -> tuple[int, int]:
    """Find since when an instance serves nearly nothing, although its arm's other instances go on.

    `own`, `others`: requests of the instance and of its arm's other instances in each bucket, shape (buckets,).

    Returns for how many buckets at the end it has served nearly nothing (0: it serves), and the longest pause (buckets)
    before that.
    """
    # Every bucket may be the last in which the instance served. Each array has a value for a stop after bucket 0, 1, …:
    # shape (buckets,).
    before, others_before = np.cumsum(own), np.cumsum(others)
    after, others_after = before[-1] - before, others_before[-1] - others_before
    # Requests of the instance per request of the others; 0: the others have too few to know.
    share_of_others = np.where(others_before >= FEWEST_EXPECTED, before / np.maximum(others_before, 1.0), 0.0)
    level = before / np.arange(1, own.size + 1)  # mean requests in a bucket before the stop
    buckets_after = np.arange(own.size - 1, -1, -1)
    # The smaller of two expectations: a burst of the others makes the first too large, an own burst the second.
    expected = np.minimum(share_of_others * others_after, level * buckets_after)
    # The likeliest stop has the largest excess of expected requests over those after it. A request after it weighs as
    # much as 20 expected ones (1 / IDLE), so it is evidence that the instance stopped later.
    excess = expected - after / IDLE
    excess[: KNOWN_BUCKETS - 1] = -np.inf  # the level is not known yet, so no stop is found there
    likeliest = int(np.argmax(excess))
    stopped = bool(excess[likeliest] >= 0 and expected[likeliest] - after[likeliest] >= FEWEST_EXPECTED)
    last_served = likeliest if stopped else own.size - 1
    served_buckets = last_served + 1
    # Until the stop, in each bucket: the smaller of the same two expectations.
    expected_each = np.minimum(share_of_others[last_served] * others[:served_buckets], level[last_served])
    return own.size - served_buckets, _find_longest_pause(own[:served_buckets], expected_each)


def _find_longest_pause(requests: FloatArray, expected: FloatArray) -> int:
    """Find the most successive buckets with nearly no requests, compared with those expected; both shape (buckets,)."""
    is_idle = requests <= IDLE * expected
    # A bucket with requests is put before and after all others, so that each pause is between two such buckets.
    serving = np.flatnonzero(np.concatenate(([True], ~is_idle, [True])))
    return int((np.diff(serving) - 1).max())


def _list_request_counters(context: ReadingContext) -> list[Query]:
    """List the counters that grow with requests.

    They are the denominators of ratios, such as all requests of a failure rate; and the counters of metrics of which
    more is better, such as orders per second.
    """
    # A dict is a set that keeps the order.
    counters: dict[Query, None] = {}
    for rule in context.rulebook.rules:
        if rule.metric.denominator:
            counters[rule.metric.denominator] = None
        elif rule.direction is Direction.HIGHER:
            counters |= {query: None for query in rule.metric.queries if query.kind is QueryKind.COUNTER}
    return list(counters)


def _find_pause(
    context: ReadingContext, query: Query, endpoint: str | None, judged: int, reference: int
) -> _Pause | None:
    """Find the worst pause of the arm `judged` while the arm `reference` goes on; `None`: there is none.

    A pause is a series of idle buckets that is longer than what scraping or usual traffic explains.

    Args:
        context: The readings.
        query: The counter of requests that is compared.
        endpoint: An endpoint; `None`: the requests of all endpoints together.
        judged: Code of the arm whose pauses are searched.
        reference: Code of the other arm.
    """
    counts = _count_by_bucket(context, query, endpoint, (judged, reference))
    if counts is None:
        return None
    first_bucket, judged_counts, reference_counts = counts  # requests from that bucket on, shape (buckets,) each
    buckets, bucket_s = judged_counts.size, context.readings.bucket_s
    patience_s = _find_patience_s(context)
    pauses: list[_Pause] = []
    growth = _GrowthRatio()  # what is known of both arms from the buckets before
    idle: list[int] = []  # positions of the successive idle buckets just before the current one
    longest_usual = 0  # length, in buckets, of the longest interruption that was no pause
    for position in range(buckets + 1):  # the position after the last bucket ends a pause at the end
        if position < buckets and growth.is_idle(float(judged_counts[position]), float(reference_counts[position])):
            idle.append(position)
            continue
        if idle:
            expected = growth.ratio * float(reference_counts[idle].sum())
            counted = float(judged_counts[idle].sum())
            is_long_enough = len(idle) > LONGER_THAN_BEFORE * longest_usual and len(idle) * bucket_s > patience_s
            # So many requests are missing that it is no chance.
            if is_long_enough and expected - counted >= FEWEST_EXPECTED:
                start_s, end_s = float((first_bucket + idle[0]) * bucket_s), float((first_bucket + position) * bucket_s)
                at_end = position == buckets
                pauses.append(_Pause(query, endpoint or "", start_s, end_s, expected, counted, at_end=at_end))
            else:  # the idle buckets are usual traffic, from which the ratio is learnt too
                longest_usual = max(longest_usual, len(idle))
                growth.add(judged_counts[idle], reference_counts[idle])
            idle.clear()
        if position < buckets:
            this_bucket = slice(position, position + 1)  # `add` takes arrays
            growth.add(judged_counts[this_bucket], reference_counts[this_bucket])
    return max(pauses, default=None, key=_badness)


class _GrowthRatio:
    """Requests of the judged arm per request of the other arm (the reference), before a pause."""

    def __init__(self) -> None:
        """Start without any buckets."""
        self.latest: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        """Requests of both arms in the latest buckets: pairs of the judged arm and its reference."""
        self.judged = self.reference = 0.0
        """Requests of each arm in all buckets so far."""

    def add(self, judged: FloatArray, reference: FloatArray) -> None:
        """Add the increases of both arms in some buckets, shape (buckets,) each."""
        self.latest.extend(zip(judged.tolist(), reference.tolist(), strict=True))
        self.judged += float(judged.sum())
        self.reference += float(reference.sum())

    def is_idle(self, judged: float, reference: float) -> bool:
        """Did the judged arm nearly stop, compared with its own latest buckets and with what the other arm counts now?

        `judged`, `reference`: requests of both arms in one bucket. `False` until enough buckets are known.
        """
        if len(self.latest) < KNOWN_BUCKETS:
            return False
        usual_requests = sum(requests for requests, _ in self.latest) / len(self.latest)
        return judged <= FALLEN * usual_requests and judged <= IDLE * self.ratio * reference

    @property
    def ratio(self) -> float:
        """Requests of the judged arm that are at least expected per request of the other arm.

        0 if the other arm has too few requests to know. It is the smaller of the latest ratio and the ratio over all
        time, because a pause of the other arm makes one of them large.
        """
        latest_judged = sum(judged for judged, _ in self.latest)
        latest_reference = sum(reference for _, reference in self.latest)
        if latest_reference < FEWEST_EXPECTED or self.reference < FEWEST_EXPECTED:
            return 0.0
        return min(latest_judged / latest_reference, self.judged / self.reference)


def _count_by_bucket(
    context: ReadingContext, query: Query, endpoint: str | None, arms: tuple[int, int]
) -> tuple[int, FloatArray, FloatArray] | None:
    """Count the requests of two arms in each bucket of their common time; `None`: they have no time in common.

    `query` counts requests; `endpoint=None`: of all endpoints together. `arms`: their codes.

    Returns the first bucket that both arms have, and for each arm its requests from there to the last common bucket,
    shape (buckets,).
    """
    rows, readings = _find_counts(context, query, endpoint), context.view.readings
    rows_by_arm = [rows[readings.arm[rows] == arm] for arm in arms]
    if not all(rows_of_arm.size for rows_of_arm in rows_by_arm):
        return None
    first = max(int(readings.bucket[rows_of_arm].min()) for rows_of_arm in rows_by_arm)
    last = min(int(readings.bucket[rows_of_arm].max()) for rows_of_arm in rows_by_arm)
    if last < first:
        return None
    counts = []
    for rows_of_arm in rows_by_arm:
        inside = rows_of_arm[(readings.bucket[rows_of_arm] >= first) & (readings.bucket[rows_of_arm] <= last)]
        weights = readings.total[inside]
        counts.append(np.bincount(readings.bucket[inside] - first, weights=weights, minlength=last - first + 1))
    return first, np.asarray(counts[0], float), np.asarray(counts[1], float)
