"""Join adjacent answers of a metrics server, series by series, and find what only all answers together show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.records import Answer, Query, QueryFacts, QueryKind, Series, Spans
from evaluator.records.arrays import FloatArray, IntArray

LONGEST_STEP = 1.5
"""Scrape intervals: in a longer step between two samples, a scrape is missing."""


@dataclass(frozen=True, slots=True)
class Track:
    """All samples of one series over joined answers."""

    series: Series
    ts_ms: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class JoinedAnswers:
    """Adjacent answers of one query and arm, as one. Times are ms since the epoch."""

    query: Query
    arm: str
    start_ms: int
    end_ms: int
    step_ms: float
    tracks: tuple[Track, ...]
    facts: QueryFacts


Identity = tuple[frozenset[tuple[str, str]], str, str, str, str]


def stitch(alike: Sequence[Answer]) -> list[JoinedAnswers]:
    """Join answers of one query and arm; answers with a gap between them stay apart."""
    chains: list[list[Answer]] = []
    for answer in sorted(alike, key=lambda answer: (answer.start, answer.end)):
        reach = LONGEST_STEP * answer.step_s
        if chains and (answer.start - max(part.end for part in chains[-1])).total_seconds() <= reach:
            chains[-1].append(answer)
        else:
            chains.append([answer])
    return [_join_answers(chain) for chain in chains]


def _join_answers(chain: Sequence[Answer]) -> JoinedAnswers:
    series: dict[Identity, list[Series]] = {}
    repeated = 0
    for answer in chain:
        identities: set[Identity] = set()
        for part in answer.series:
            key = _identify(part)
            repeated += key in identities
            identities.add(key)
            if part.ts_ms.size:
                series.setdefault(key, []).append(part)
    tracks = tuple(_join_series(parts) for parts in series.values())
    met = sum(part.ts_ms.size for parts in series.values() for part in parts)
    lost = met - sum(track.ts_ms.size for track in tracks)
    start_ms = round(min(answer.start for answer in chain).timestamp() * 1000)
    end_ms = round(max(answer.end for answer in chain).timestamp() * 1000)
    step_ms = max(answer.step_s for answer in chain) * 1000
    facts = QueryFacts(
        chain[0].query,
        chain[0].arm,
        sent=tuple(dict.fromkeys(text for answer in chain for text in answer.sent)),
        series=len(series),
        warnings=tuple(dict.fromkeys(text for answer in chain for text in answer.warnings)),
        nan=sum(answer.nan for answer in chain),
        duplicates=sum(answer.duplicates for answer in chain) + repeated,
        notes=tuple(dict.fromkeys(text for answer in chain for text in answer.notes)),
        impossible=chain[-1].impossible,
        form=next((answer.form for answer in reversed(chain) if answer.form), ""),
        read=sum(
            sum(int(part.ts_ms.size) for part in answer.series)
            + (answer.nan + answer.infinite + answer.repeated + answer.outside)
            if answer.read is None
            else answer.read
            for answer in chain
        ),
        infinite=sum(answer.infinite for answer in chain),
        repeated=sum(answer.repeated for answer in chain) + lost,
        outside=sum(answer.outside for answer in chain),
        start_ms=start_ms,
        end_ms=end_ms,
        step_ms=step_ms,
    )
    return JoinedAnswers(chain[0].query, chain[0].arm, start_ms, end_ms, step_ms, tracks, facts)


def _identify(series: Series) -> Identity:
    return (*identify_group(series), series.part, repr(float(series.le)))


def identify_group(series: Series) -> tuple[frozenset[tuple[str, str]], str, str]:
    """Return what all counters of one histogram share: labels without `le` and name, instance and endpoint."""
    labels = frozenset((key, value) for key, value in series.labels.items() if key not in {"le", "__name__"})
    return labels, series.instance, series.endpoint


def _join_series(parts: Sequence[Series]) -> Track:
    """Join the samples of one series in the order of time; of two samples at the same time, keep the later answer's."""
    if len(parts) == 1:
        return Track(parts[0], np.asarray(parts[0].ts_ms), np.asarray(parts[0].values, float))
    ts = np.concatenate([part.ts_ms for part in parts])
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(ts, kind="stable")
    ts, values = ts[order], values[order]
    last = np.append(ts[1:] != ts[:-1], True)
    return Track(parts[0], ts[last], np.asarray(values[last], float))


def find_scrapes(all_joined: Sequence[JoinedAnswers]) -> dict[str, dict[str, IntArray]]:
    """Find when each instance of each arm answered a scrape, over all counters: arm → instance → times (ms).

    Gauges do not count: their values may be at the steps of a query, when no scrape took place.
    """
    scrapes: dict[str, dict[str, IntArray]] = {}
    for joined in all_joined:
        if joined.query.kind is QueryKind.GAUGE:
            continue
        times_by_instance = scrapes.setdefault(joined.arm, {})
        for track in joined.tracks:
            times = times_by_instance.get(track.series.instance)
            if times is None:
                times_by_instance[track.series.instance] = track.ts_ms
            elif not np.array_equal(times, track.ts_ms):
                times_by_instance[track.series.instance] = np.union1d(times, track.ts_ms)
    return scrapes


_PLAIN = re.compile(r"\s*[a-zA-Z_:][\w:]*\s*(\{[^{}]*\})?\s*")


def count_shared(all_joined: Sequence[JoinedAnswers], baseline: str) -> list[int]:
    """Count the series of each joined answer that the baseline has too, with the same labels: they are the same series.

    Expressions drop labels. So two series of an expression are the same only if they have equal values at all times,
    and the values vary.
    """
    of_baseline: dict[Query, dict[Identity, list[Track]]] = {}
    for joined in all_joined:
        if joined.arm == baseline:
            for track in joined.tracks:
                of_baseline.setdefault(joined.query, {}).setdefault(_identify(track.series), []).append(track)
    counts = []
    for joined in all_joined:
        references = of_baseline.get(joined.query, {}) if joined.arm != baseline else {}
        plain = _PLAIN.fullmatch(joined.query.text) is not None
        shared = 0
        for track in joined.tracks:
            alike = references.get(_identify(track.series), ())
            named = bool(track.series.instance) and bool(np.ptp(track.values))
            shared += any(
                plain
                or (named and np.array_equal(track.ts_ms, same.ts_ms) and np.array_equal(track.values, same.values))
                for same in alike
            )
        counts.append(shared)
    return counts


Drops = Mapping[tuple[str, str, int], tuple[float, float]]
"""Arm, instance and time (ms) → value before and after the drop of a counter; of several, the highest before."""


def find_drops(all_joined: Sequence[JoinedAnswers]) -> Drops:
    """Find when counters dropped. The sum of a histogram is ignored, because it may drop without a restart."""
    drops: dict[tuple[str, str, int], tuple[float, float]] = {}
    for joined in all_joined:
        if joined.query.kind is QueryKind.GAUGE:
            continue
        for track in joined.tracks:
            if joined.query.kind is QueryKind.HISTOGRAM and track.series.part == "sum":
                continue
            for at in np.flatnonzero(np.diff(track.values) < 0).tolist():
                key = joined.arm, track.series.instance, int(track.ts_ms[at + 1])
                before, after = float(track.values[at]), float(track.values[at + 1])
                if key not in drops or before > drops[key][0]:
                    drops[key] = before, after
    return drops


def find_spans(joined: JoinedAnswers) -> Spans:
    """Return the intervals (ms) in which at least one series had a sample at each step."""
    times = np.unique(np.concatenate([track.ts_ms for track in joined.tracks]))
    breaks = np.flatnonzero(np.diff(times) > LONGEST_STEP * joined.step_ms)
    starts, ends = np.append(0, breaks + 1), np.append(breaks, times.size - 1)
    return tuple(zip(times[starts].tolist(), times[ends].tolist(), strict=True))
