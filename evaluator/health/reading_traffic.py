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
from evaluator.wording import format_duration, format_number

EXPECTED = 20.0
"""Least number of expected requests for a pause to count: by chance none comes once in 10⁸ times."""

STILL = 0.05
"""Share of the expected requests below which a service counts as silent: health checks are still counted."""

FALLEN = 0.25
"""Share of its own usual level below which an arm may count as silent."""

KNOWN_BUCKETS = 8
REMEMBERED = 40
LONGER_THAN_BEFORE = 2.0

VALUE, COUNT = PARTS.index("value"), PARTS.index("count")


def check_traffic(context: ReadingContext) -> Iterable[Finding]:
    """An arm whose instances answer scrapes, and whose requests stop while the other arm's go on.

    If readings have endpoints, each endpoint is checked as well.
    """
    queries, endpoints = _request_counters(context), context.readings.endpoints
    looked_at = {"traffic": (None,), "endpoint_silent": endpoints if len(endpoints) > 1 else ()}
    for arm in range(1, len(context.readings.arms)):
        for judged, reference in ((arm, 0), (0, arm)):
            for check, names in looked_at.items():
                pauses = [_find_pause(context, query, name, judged, reference) for query in queries for name in names]
                worst = max((pause for pause in pauses if pause), default=None, key=_badness)
                if worst is not None:
                    yield from _name_pause(context, check, worst, judged, reference)
                    break
        for query in queries[:1]:
            yield from _name_unanswered(context, query, arm)


def _name_unanswered(context: ReadingContext, query: Query, arm: int) -> Iterator[Finding]:
    """Endpoints that the baseline answered and the candidate never did, although enough requests were expected."""
    readings = context.view.readings
    rows = _find_counts(context, query)
    total = np.zeros((2, len(readings.endpoints)))
    for row, code in enumerate((0, arm)):
        rows_of_arm = rows[readings.arm[rows] == code]
        np.add.at(total[row], readings.endpoint[rows_of_arm], readings.total[rows_of_arm])
    every = total.sum(axis=1)
    if not every.all():
        return
    expected = total[0] * every[1] / every[0]
    is_answered = np.isin(np.arange(len(readings.endpoints)), readings.endpoint[rows[readings.arm[rows] == arm]])
    never = np.flatnonzero(~is_answered & (expected >= EXPECTED))
    if never.size:
        names = name_some([readings.endpoints[code] for code in never.tolist()])
        text = (
            f"{readings.arms[arm]} never answered {names}, where {format_number(float(expected[never].sum()))} "
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
    grown: float
    at_end: bool


def _badness(pause: _Pause) -> tuple[bool, float]:
    return pause.at_end, pause.end_s - pause.start_s


def _name_pause(context: ReadingContext, check: str, pause: _Pause, judged: int, reference: int) -> Iterator[Finding]:
    seconds, begun_ms = pause.end_s - pause.start_s, pause.start_s * 1000
    periods = [interval.end_s - interval.start_s for interval in context.intervals] or [context.covered_s]
    share = seconds / sum(periods) if sum(periods) else 1.0
    if not pause.at_end and share <= TOLERATED:
        return
    since = f"from {show_clock(begun_ms)} on" if pause.at_end else f"at {show_clock(begun_ms)}"
    arms = context.readings.arms
    what = f"{pause.endpoint} of {arms[judged]}" if pause.endpoint else arms[judged]
    text = (
        f"{what} answers scrapes and serves no requests {since}: {name_of(pause.query)} grew by "
        f"{format_number(pause.grown)} in {format_duration(seconds)}, where {format_number(pause.expected)} "
        f"were expected from what {arms[reference]} counted"
    )
    remedy = "find out why no request reached it, or why it answered none"
    if pause.at_end and not context.intervals:
        start_ms = context.view.span[0] * context.readings.bucket_s * 1000
        command = f"evaluator collect {context.release} {show_period(start_ms, begun_ms)}"
        remedy = f"find out why; only if its traffic was removed on purpose, judge the time before: `{command}`"
    yield grade(check, text, remedy, fails=pause.at_end or share > context.rulebook.silence)


def _find_counts(context: ReadingContext, query: Query, endpoint: str | None = None) -> IntArray:
    """Rows of the view with the increases of a counter of requests."""
    return context.view.find(query, COUNT if query.kind is QueryKind.HISTOGRAM else VALUE, endpoint)


def _shortest_s(context: ReadingContext) -> float:
    """Longest pause (s) that scraping itself explains."""
    return END_STEPS * max((fact.step_ms for fact in context.readings.facts), default=0.0) / 1000


def find_still_instances(context: ReadingContext) -> Mapping[tuple[int, str], float]:
    """Instances whose requests stop for good while they are scraped and the arm's other instances go on.

    Returns arm and name → since when (ms). Only instances that served before, for which at least 20 requests were
    expected since, and whose silence is more than twice as long as any pause after which an instance of either arm
    came back.
    """
    still_since: dict[tuple[int, str], float] = {}
    bucket_s, first = context.readings.bucket_s, context.view.span[0]
    shortest_s = _shortest_s(context)
    for query in _request_counters(context):
        served = _grow_by_instance(context, query)
        stops = {key: _find_stop(own, others) for key, (own, others) in served.items()}
        longest = max((pause for _, pause in stops.values()), default=0)
        for key, (lasts, _) in stops.items():
            if lasts * bucket_s > shortest_s and lasts > LONGER_THAN_BEFORE * longest:
                since = float((first + served[key][0].size - lasts) * bucket_s * 1000)
                still_since[key] = min(still_since.get(key, since), since)
    return still_since


def _grow_by_instance(context: ReadingContext, query: Query) -> dict[tuple[int, str], tuple[FloatArray, FloatArray]]:
    """Increases in each bucket of the view: of each instance that is read until the end, and of its arm's others."""
    view, readings = context.view, context.view.readings
    rows = _find_counts(context, query)
    start, end = view.span
    out: dict[tuple[int, str], tuple[FloatArray, FloatArray]] = {}
    for arm in range(len(readings.arms)):
        rows_of_arm = rows[readings.arm[rows] == arm]
        codes, instance = np.unique(readings.instance[rows_of_arm], return_inverse=True)
        grown = np.zeros((codes.size, end - start))
        np.add.at(grown, (instance, readings.bucket[rows_of_arm] - start), readings.total[rows_of_arm])
        last = np.zeros(codes.size, dtype=np.int64)
        np.maximum.at(last, instance, readings.bucket[rows_of_arm])
        for own, code, last_bucket in zip(grown, codes.tolist(), last.tolist(), strict=True):
            if last_bucket >= last.max() - 1:
                out[arm, readings.instances[code]] = own, grown.sum(axis=0) - own
    return out


def _find_stop(own: FloatArray, others: FloatArray) -> tuple[int, int]:
    """Buckets for which an instance has served nearly nothing at the end (0: it serves), and its longest pause before.

    `own`, `others`: increases of the instance and of its arm's others, shape (buckets,).
    """
    before, others_before = np.cumsum(own), np.cumsum(others)
    after, others_after = before[-1] - before, others_before[-1] - others_before
    share = np.where(others_before >= EXPECTED, before / np.maximum(others_before, 1.0), 0.0)
    # The smaller of two expectations, by the share of its others and by its own level: either may be due to a burst.
    level = before / np.arange(1, own.size + 1)
    expected = np.minimum(share * others_after, level * np.arange(own.size - 1, -1, -1))
    # Each later request is evidence that it stopped later.
    excess = expected - after / STILL
    excess[: KNOWN_BUCKETS - 1] = -np.inf
    at = int(np.argmax(excess))
    stopped = bool(excess[at] >= 0 and expected[at] - after[at] >= EXPECTED)
    served = at + 1 if stopped else own.size
    still = own[:served] <= STILL * np.minimum(share[served - 1] * others[:served], level[served - 1])
    pauses = np.diff(np.flatnonzero(np.concatenate(([True], ~still, [True])))) - 1
    return own.size - served, int(pauses.max())


def _request_counters(context: ReadingContext) -> list[Query]:
    """Counters that grow with requests: denominators, and counters of metrics of which more is better."""
    counters: dict[Query, None] = {}
    for rule in context.rulebook.rules:
        if rule.metric.denominator:
            counters[rule.metric.denominator] = None
        elif rule.direction is Direction.HIGHER:
            counters |= {query: None for query in rule.metric.queries if query.kind is QueryKind.COUNTER}
    return list(counters)


def _find_pause(context: ReadingContext, query: Query, endpoint: str | None, arm: int, reference: int) -> _Pause | None:
    """The worst pause of one arm compared with the other; `endpoint` `None`: over all endpoints."""
    grown = _grow_by_bucket(context, query, endpoint, (arm, reference))
    if grown is None:
        return None
    first, judged_counts, reference_counts = grown
    bucket_s = context.readings.bucket_s
    shortest_s = _shortest_s(context)
    pauses: list[_Pause] = []
    growth, run, longest = _GrowthRatio(), list[int](), 0
    for at in range(judged_counts.size + 1):
        if at < judged_counts.size and growth.is_still(float(judged_counts[at]), float(reference_counts[at])):
            run.append(at)
            continue
        if run:
            expected, grew = growth.ratio * float(reference_counts[run].sum()), float(judged_counts[run].sum())
            enough = len(run) > LONGER_THAN_BEFORE * longest and len(run) * bucket_s > shortest_s
            if enough and expected - grew >= EXPECTED:
                start, end = float((first + run[0]) * bucket_s), float((first + at) * bucket_s)
                pauses.append(
                    _Pause(query, endpoint or "", start, end, expected, grew, at_end=at == judged_counts.size)
                )
            else:
                longest = max(longest, len(run))
                growth.add(judged_counts[run], reference_counts[run])
            run.clear()
        if at < judged_counts.size:
            growth.add(judged_counts[at : at + 1], reference_counts[at : at + 1])
    return max(pauses, default=None, key=_badness)


class _GrowthRatio:
    """Requests of an arm per request of the other arm, before a pause."""

    def __init__(self) -> None:
        self.latest: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self.judged = self.reference = 0.0

    def add(self, judged: FloatArray, reference: FloatArray) -> None:
        """Add the increases of both arms in some buckets, shape (buckets,) each."""
        self.latest.extend(zip(judged.tolist(), reference.tolist(), strict=True))
        self.judged += float(judged.sum())
        self.reference += float(reference.sum())

    def is_still(self, judged: float, reference: float) -> bool:
        """Did the arm nearly stop, compared with its own latest buckets and with what the other arm counts now?"""
        if len(self.latest) < KNOWN_BUCKETS:
            return False
        usual = sum(pair[0] for pair in self.latest) / len(self.latest)
        return judged <= FALLEN * usual and judged <= STILL * self.ratio * reference

    @property
    def ratio(self) -> float:
        """Least expected requests of the arm per request of the other.

        The smaller of the latest ratio and the ratio over all time: a pause of the other arm makes one of them large.
        """
        lately = [sum(pair[position] for pair in self.latest) for position in (0, 1)]
        sums = lately, (self.judged, self.reference)
        return min(judged / reference if reference >= EXPECTED else 0.0 for judged, reference in sums)


def _grow_by_bucket(
    context: ReadingContext, query: Query, endpoint: str | None, arms: tuple[int, int]
) -> tuple[int, FloatArray, FloatArray] | None:
    """First bucket that both arms have, and the increases of both in each bucket from there to the last in common."""
    rows, readings = _find_counts(context, query, endpoint), context.view.readings
    rows_by_arm = [rows[readings.arm[rows] == arm] for arm in arms]
    if not all(rows_of_arm.size for rows_of_arm in rows_by_arm):
        return None
    first = max(int(readings.bucket[rows_of_arm].min()) for rows_of_arm in rows_by_arm)
    last = min(int(readings.bucket[rows_of_arm].max()) for rows_of_arm in rows_by_arm)
    if last < first:
        return None
    grown = []
    for rows_of_arm in rows_by_arm:
        inside = rows_of_arm[(readings.bucket[rows_of_arm] >= first) & (readings.bucket[rows_of_arm] <= last)]
        weights = readings.total[inside]
        grown.append(np.bincount(readings.bucket[inside] - first, weights=weights, minlength=last - first + 1))
    return first, np.asarray(grown[0], float), np.asarray(grown[1], float)
