"""Does each arm serve requests for as long as it is scraped? Counters that stand still are no silence of a scrape."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluator.health.reading_base import END_STEPS, TOLERATED, ReadingScene, name_some, show_clock, show_command
from evaluator.records import PARTS, Direction, Finding, Level, Query, QueryKind
from evaluator.stats.reading_panels import name_of
from evaluator.wording import format_duration, format_number

__all__ = ["check_traffic", "find_still_instances"]

EXPECTED = 20.0
"""Requests that must have been expected where none came: without cause that happens once in 10⁸ times."""

STILL = 0.05
"""Share of the expected requests below which a service is as good as silent: checks of its health still count."""

FALLEN = 0.25
"""Share of its own usual level below which an arm may be taken for still."""

KNOWN_BUCKETS = 8
REMEMBERED = 40
LONGER_THAN_BEFORE = 2.0

FloatArray = npt.NDArray[np.float64]
VALUE, COUNT = PARTS.index("value"), PARTS.index("count")


def check_traffic(scene: ReadingScene) -> Iterable[Finding]:
    """An arm whose instances answer scrapes, and whose requests stop while the other arm's go on.

    Where readings know endpoints, that is looked at for each of them as well.
    """
    queries, endpoints = _request_counters(scene), scene.readings.endpoints
    for arm in range(1, len(scene.readings.arms)):
        for one, other in ((arm, 0), (0, arm)):
            pauses = [_find_pause(scene, query, None, one, other) for query in queries]
            worst = max((pause for pause in pauses if pause), default=None, key=_badness)
            if worst is not None:
                yield from _name_pause(scene, "traffic", worst, one, other)
            elif len(endpoints) > 1:
                of_each = [_find_pause(scene, query, name, one, other) for query in queries for name in endpoints]
                worst = max((pause for pause in of_each if pause), default=None, key=_badness)
                if worst is not None:
                    yield from _name_pause(scene, "endpoint_silent", worst, one, other)
        for query in queries[:1]:
            yield from _name_unanswered(scene, query, arm)


def _name_unanswered(scene: ReadingScene, query: Query, arm: int) -> Iterator[Finding]:
    """Endpoints that the baseline answered and the candidate never, where its share of them was to be expected."""
    view, part = scene.view, COUNT if query.kind is QueryKind.HISTOGRAM else VALUE
    rows, readings = view.find(query, part), view.readings
    total = np.zeros((2, len(readings.endpoints)))
    seen = np.zeros(len(readings.endpoints), dtype=bool)
    for place, code in enumerate((0, arm)):
        mine = rows[readings.arm[rows] == code]
        np.add.at(total[place], readings.endpoint[mine], readings.total[mine])
        if place:
            seen[readings.endpoint[mine]] = True
    every = total.sum(axis=1)
    if not every.all():
        return
    expected = total[0] * every[1] / every[0]
    never = np.flatnonzero(~seen & (expected >= EXPECTED))
    if never.size:
        names = name_some([readings.endpoints[code] for code in never.tolist()])
        text = (
            f"{readings.arms[arm]} never answered {names}, where {format_number(float(expected[never].sum()))} "
            "requests were to be expected from what baseline answered"
        )
        remedy = "find out whether it still has them; sources.prometheus.endpoint_label says what an endpoint is"
        yield Finding("endpoint_silent", Level.FAIL, text, remedy=remedy)


def _badness(pause: _Pause) -> tuple[bool, float]:
    return pause.at_end, pause.seconds


def _name_pause(scene: ReadingScene, check: str, pause: _Pause, one: int, other: int) -> Iterator[Finding]:
    share = pause.seconds / scene.seconds if scene.seconds else 1.0
    if pause.at_end or share > TOLERATED:
        level = Level.FAIL if pause.at_end or share > scene.rulebook.silence else Level.WARN
        text = pause.say(scene.readings.arms[one], scene.readings.arms[other])
        yield Finding(check, level, text, remedy=_say_what_to_do(scene, pause))


@dataclass(frozen=True, slots=True)
class _Pause:
    """A stretch of time in which an arm is scraped and counts nothing, and the other arm goes on as before."""

    query: Query
    endpoint: str
    """Empty: all of them."""
    start_s: float
    end_s: float
    expected: float
    grown: float
    at_end: bool

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def say(self, arm: str, other: str) -> str:
        since = f"from {show_clock(self.start_s * 1000)} on" if self.at_end else f"at {show_clock(self.start_s * 1000)}"
        what = f"{self.endpoint} of {arm}" if self.endpoint else arm
        return (
            f"{what} answers scrapes and serves nothing {since}: {name_of(self.query)} grew by "
            f"{format_number(self.grown)} in {format_duration(self.seconds)}, where {format_number(self.expected)} "
            f"were to be expected from what {other} went on counting"
        )


def _say_what_to_do(scene: ReadingScene, pause: _Pause) -> str:
    start = scene.view.span[0] * scene.readings.bucket_s * 1000
    if not pause.at_end or scene.stretches:
        return "find out why no request reached it, or why it answered none"
    command = show_command(scene, start, pause.start_s * 1000)
    return f"find out why; only if its traffic was taken away on purpose, judge the time before: `{command}`"


def find_still_instances(scene: ReadingScene) -> Mapping[tuple[int, str], float]:
    """Instances whose requests stop for good while they are scraped and their arm's others go on.

    Gives arm and name → since when (ms). Only those that served before, for which 20 requests or more were to be
    expected since, and whose silence is more than twice as long as any that an instance of either arm came back from.
    """
    found: dict[tuple[int, str], float] = {}
    bucket_s, first = scene.readings.bucket_s, scene.view.span[0]
    shortest_s = END_STEPS * max((fact.step_ms for fact in scene.readings.facts), default=0.0) / 1000
    for query in _request_counters(scene):
        served = _grow_by_instance(scene, query)
        stops = {key: _find_stop(own, others) for key, (own, others) in served.items()}
        longest = max((stop.longest_pause for stop in stops.values()), default=0)
        for key, stop in stops.items():
            if stop.lasts * bucket_s > shortest_s and stop.lasts > LONGER_THAN_BEFORE * longest:
                since = float((first + served[key][0].size - stop.lasts) * bucket_s * 1000)
                found[key] = min(found.get(key, since), since)
    return found


def _grow_by_instance(scene: ReadingScene, query: Query) -> dict[tuple[int, str], tuple[FloatArray, FloatArray]]:
    """By how much each instance that is read until the end grew in each bucket of the view, and its arm's others."""
    view, readings = scene.view, scene.view.readings
    rows = view.find(query, COUNT if query.kind is QueryKind.HISTOGRAM else VALUE)
    start, end = view.span
    out: dict[tuple[int, str], tuple[FloatArray, FloatArray]] = {}
    for arm in range(len(readings.arms)):
        mine = rows[readings.arm[rows] == arm]
        codes, place = np.unique(readings.instance[mine], return_inverse=True)
        grown = np.zeros((codes.size, end - start))
        np.add.at(grown, (place, readings.bucket[mine] - start), readings.total[mine])
        last = np.zeros(codes.size, dtype=np.int64)
        np.maximum.at(last, place, readings.bucket[mine])
        for own, code, seen in zip(grown, codes.tolist(), last.tolist(), strict=True):
            if seen >= last.max() - 1:
                out[arm, readings.instances[code]] = own, grown.sum(axis=0) - own
    return out


@dataclass(frozen=True, slots=True)
class _Stop:
    """For how many buckets an instance has served nearly nothing at the end, and the longest pause before (buckets)."""

    lasts: int
    longest_pause: int


def _find_stop(own: FloatArray, others: FloatArray) -> _Stop:
    """When an instance stopped for good, beside its arm's others; `lasts` 0: it serves."""
    before, others_before = np.cumsum(own), np.cumsum(others)
    after, others_after = before[-1] - before, others_before[-1] - others_before
    share = np.where(others_before >= EXPECTED, before / np.maximum(others_before, 1.0), 0.0)
    # What it did before is no more than a share of its others, and no more than its own level: either may be a burst.
    level = before / np.arange(1, own.size + 1)
    expected = np.minimum(share * others_after, level * np.arange(own.size - 1, -1, -1))
    # Each request that came after all says that it stopped later.
    excess = expected - after / STILL
    excess[: KNOWN_BUCKETS - 1] = -np.inf
    at = int(np.argmax(excess))
    stopped = bool(excess[at] >= 0 and expected[at] - after[at] >= EXPECTED)
    served = at + 1 if stopped else own.size
    still = own[:served] <= STILL * np.minimum(share[served - 1] * others[:served], level[served - 1])
    pauses = np.diff(np.flatnonzero(np.concatenate(([True], ~still, [True])))) - 1
    return _Stop(own.size - served, int(pauses.max()))


def _request_counters(scene: ReadingScene) -> list[Query]:
    """Counters that grow with requests: denominators, histograms, and rates of which more is better."""
    found: dict[Query, None] = {}
    for rule in scene.rulebook.rules:
        if rule.metric.denominator:
            found[rule.metric.denominator] = None
        elif rule.direction is Direction.HIGHER:
            found |= {query: None for query in rule.metric.queries if query.kind is QueryKind.COUNTER}
    return list(found)


def _find_pause(scene: ReadingScene, query: Query, endpoint: str | None, arm: int, other: int) -> _Pause | None:
    """The worst pause of one arm against the other; `endpoint` `None`: over all of them."""
    grown = _grow_by_bucket(scene, query, endpoint, (arm, other))
    if grown is None:
        return None
    first, own, theirs = grown
    bucket_s = scene.readings.bucket_s
    shortest_s = END_STEPS * max((fact.step_ms for fact in scene.readings.facts), default=0.0) / 1000
    pauses: list[_Pause] = []
    history, run, longest = _History(), list[int](), 0
    for at in range(own.size + 1):
        if at < own.size and history.is_still(float(own[at]), float(theirs[at])):
            run.append(at)
            continue
        if run:
            expected, grew = history.ratio * float(theirs[run].sum()), float(own[run].sum())
            enough = len(run) > LONGER_THAN_BEFORE * longest and len(run) * bucket_s > shortest_s
            if enough and expected - grew >= EXPECTED:
                start, over = float((first + run[0]) * bucket_s), float((first + at) * bucket_s)
                pauses.append(_Pause(query, endpoint or "", start, over, expected, grew, at_end=at == own.size))
            else:
                longest = max(longest, len(run))
                history.add(own[run], theirs[run])
            run.clear()
        if at < own.size:
            history.add(own[at : at + 1], theirs[at : at + 1])
    return max(pauses, default=None, key=_badness)


class _History:
    """By how much an arm grew for each request of the other, before a pause."""

    def __init__(self) -> None:
        self.latest: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self.own = self.theirs = 0.0

    def add(self, own: FloatArray, theirs: FloatArray) -> None:
        """Remember what both arms grew by in some buckets."""
        self.latest.extend(zip(own.tolist(), theirs.tolist(), strict=True))
        self.own += float(own.sum())
        self.theirs += float(theirs.sum())

    def is_still(self, own: float, theirs: float) -> bool:
        """Did the arm nearly stop, beside what it did itself lately and beside what the other arm goes on doing?"""
        if len(self.latest) < KNOWN_BUCKETS:
            return False
        usual = sum(pair[0] for pair in self.latest) / len(self.latest)
        return own <= FALLEN * usual and own <= STILL * self.ratio * theirs

    @property
    def ratio(self) -> float:
        """How much is the least to be expected of the arm for each request of the other.

        The smaller of the latest ratio and that of all time: a pause of the other arm makes one of them large.
        """
        own, theirs = (sum(pair[place] for pair in self.latest) for place in (0, 1))
        return min(_ratio(own, theirs), _ratio(self.own, self.theirs))


def _ratio(own: float, theirs: float) -> float:
    """Requests of the arm for each of the other; 0 where those are too few to say."""
    return own / theirs if theirs >= EXPECTED else 0.0


def _grow_by_bucket(
    scene: ReadingScene, query: Query, endpoint: str | None, arms: tuple[int, int]
) -> tuple[int, FloatArray, FloatArray] | None:
    """First bucket, and by how much both arms grew in each from there to the last that both were read in."""
    view = scene.view
    rows = view.find(query, COUNT if query.kind is QueryKind.HISTOGRAM else VALUE, endpoint)
    readings = view.readings
    mine = [rows[readings.arm[rows] == arm] for arm in arms]
    if not all(one.size for one in mine):
        return None
    first = max(int(readings.bucket[one].min()) for one in mine)
    last = min(int(readings.bucket[one].max()) for one in mine)
    if last < first:
        return None
    grown = []
    for one in mine:
        inside = one[(readings.bucket[one] >= first) & (readings.bucket[one] <= last)]
        weights = readings.total[inside]
        grown.append(np.bincount(readings.bucket[inside] - first, weights=weights, minlength=last - first + 1))
    return first, np.asarray(grown[0], float), np.asarray(grown[1], float)
