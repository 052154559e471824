"""Join adjacent answers of a metrics server, series by series, and find what only all answers together show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.records import Answer, Query, QueryFacts, QueryKind, Series, Spans
from evaluator.records.arrays import FloatArray, IntArray

MOST_STEPS_APART = 1.5
"""If two adjacent samples are further apart than so many steps, a scrape between them is missing."""


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
"""Labels, instance, endpoint, part and bound (as text) of a series."""


def stitch(answers: Sequence[Answer]) -> list[JoinedAnswers]:
    """Join the answers of one query and arm that have no long gap between them, in the order of time.

    A gap of more than `MOST_STEPS_APART` steps (scrape intervals) between two answers begins the next `JoinedAnswers`.
    """
    chains: list[list[Answer]] = []
    for answer in sorted(answers, key=lambda answer: (answer.start, answer.end)):
        longest_gap_s = MOST_STEPS_APART * answer.step_s
        if chains and (answer.start - max(part.end for part in chains[-1])).total_seconds() <= longest_gap_s:
            chains[-1].append(answer)
        else:
            chains.append([answer])
    return [_join_answers(chain) for chain in chains]


def _join_answers(chain: Sequence[Answer]) -> JoinedAnswers:
    """Join adjacent answers, in the order of time, series by series; their facts are added up."""
    parts_by_identity: dict[Identity, list[Series]] = {}  # of each series, its samples in each answer
    duplicate_series = 0  # that occur more than once in one answer
    for answer in chain:
        identities: set[Identity] = set()
        for series in answer.series:
            identity = _identify(series)
            if identity in identities:
                duplicate_series += 1
            identities.add(identity)
            if series.ts_ms.size:
                parts_by_identity.setdefault(identity, []).append(series)
    tracks = tuple(_join_series(parts) for parts in parts_by_identity.values())
    samples = sum(part.ts_ms.size for parts in parts_by_identity.values() for part in parts)
    # Samples at a time that two answers share.
    repeated_samples = samples - sum(track.ts_ms.size for track in tracks)
    start_ms = round(min(answer.start for answer in chain).timestamp() * 1000)
    end_ms = round(max(answer.end for answer in chain).timestamp() * 1000)
    step_ms = max(answer.step_s for answer in chain) * 1000
    facts = QueryFacts(
        chain[0].query,
        chain[0].arm,
        sent=tuple(dict.fromkeys(text for answer in chain for text in answer.sent)),
        series=len(parts_by_identity),
        warnings=tuple(dict.fromkeys(text for answer in chain for text in answer.warnings)),
        nan=sum(answer.nan for answer in chain),
        duplicates=sum(answer.duplicates for answer in chain) + duplicate_series,
        notes=tuple(dict.fromkeys(text for answer in chain for text in answer.notes)),
        # The newest answers know best what the source can tell.
        impossible=chain[-1].impossible,
        form=next((answer.form for answer in reversed(chain) if answer.form), ""),
        read=sum(_count_read(answer) for answer in chain),
        infinite=sum(answer.infinite for answer in chain),
        repeated=sum(answer.repeated for answer in chain) + repeated_samples,
        outside=sum(answer.outside for answer in chain),
        start_ms=start_ms,
        end_ms=end_ms,
        step_ms=step_ms,
    )
    return JoinedAnswers(chain[0].query, chain[0].arm, start_ms, end_ms, step_ms, tracks, facts)


def _count_read(answer: Answer) -> int:
    """Count the samples that were read: as the source counted them, else those in the answer and those left out."""
    if answer.read is not None:
        return answer.read
    samples = sum(int(series.ts_ms.size) for series in answer.series)
    return samples + answer.nan + answer.infinite + answer.repeated + answer.outside


def _identify(series: Series) -> Identity:
    # The bound as text, because NaN (no bound) is not equal to itself.
    return (*identify_group(series), series.part, repr(float(series.le)))


def identify_group(series: Series) -> tuple[frozenset[tuple[str, str]], str, str]:
    """Return what the counters of one histogram have in common: labels (except `le` and name), instance, endpoint."""
    labels = frozenset((key, value) for key, value in series.labels.items() if key not in {"le", "__name__"})
    return labels, series.instance, series.endpoint


def _join_series(parts: Sequence[Series]) -> Track:
    """Join the samples of one series, given as its part of each answer, in the order of time.

    Of two samples at the same time, that of the later answer is kept.
    """
    if len(parts) == 1:
        return Track(parts[0], np.asarray(parts[0].ts_ms), np.asarray(parts[0].values, float))
    ts_ms = np.concatenate([part.ts_ms for part in parts])
    values = np.concatenate([part.values for part in parts])
    # The sort is stable: of samples at the same time, the last is of the last answer.
    order = np.argsort(ts_ms, kind="stable")
    sorted_ts_ms, sorted_values = ts_ms[order], values[order]
    is_last_at_time = np.append(sorted_ts_ms[1:] != sorted_ts_ms[:-1], True)
    return Track(parts[0], sorted_ts_ms[is_last_at_time], np.asarray(sorted_values[is_last_at_time], float))


def find_scrapes(all_joined: Sequence[JoinedAnswers]) -> dict[str, dict[str, IntArray]]:
    """Find when each instance of each arm answered a scrape: arm → instance → times (ms) of samples of any counter.

    Gauges are ignored: their values may be at the steps of a query, when no scrape took place.
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


_PLAIN_SELECTOR = re.compile(r"\s*[a-zA-Z_:][\w:]*\s*(\{[^{}]*\})?\s*")


def count_shared(all_joined: Sequence[JoinedAnswers], baseline: str) -> list[int]:
    """Count the series of each candidate that are in fact series of the baseline, one count for each joined answer.

    Then the query does not distinguish the arms. Series of a plain selector are the same if their labels are, and if
    they have samples of the same time: one server may have served the arms one after the other.
    Expressions drop labels: so series of an expression with the same labels are the same only if they name an instance
    and have equal values at all times, and if the values vary. The count of an answer of the baseline is 0.
    """
    # Query → labels (with instance, endpoint, part and bound) → the baseline's series with them.
    baseline_tracks: dict[Query, dict[Identity, list[Track]]] = {}
    for joined in all_joined:
        if joined.arm == baseline:
            for track in joined.tracks:
                baseline_tracks.setdefault(joined.query, {}).setdefault(_identify(track.series), []).append(track)
    counts = []
    for joined in all_joined:
        references = baseline_tracks.get(joined.query, {}) if joined.arm != baseline else {}
        is_plain = _PLAIN_SELECTOR.fullmatch(joined.query.text) is not None
        shared = 0
        for track in joined.tracks:
            same_labels = references.get(_identify(track.series), ())
            if any(
                _overlap(track, reference) if is_plain else _has_same_values(track, reference)
                for reference in same_labels
            ):
                shared += 1
        counts.append(shared)
    return counts


def _overlap(track: Track, reference: Track) -> bool:
    """Do two tracks, which have samples, overlap in time? One that ends with the first sample of the other does not."""
    starts_before_end = track.ts_ms[0] < reference.ts_ms[-1] and reference.ts_ms[0] < track.ts_ms[-1]
    return bool(starts_before_end or track.ts_ms[0] == reference.ts_ms[0])


def _has_same_values(track: Track, reference: Track) -> bool:
    """Is a track the same series as `reference`: does it name an instance, vary, and have equal values at all times?

    Values that never vary may be equal by chance, and so may those of different instances that are not named.
    """
    return (
        bool(track.series.instance)
        and bool(np.ptp(track.values))
        and np.array_equal(track.ts_ms, reference.ts_ms)
        and np.array_equal(track.values, reference.values)
    )


Drops = Mapping[tuple[str, str, int], tuple[float, float]]
"""(Arm, instance, time in ms) → value before and after the drop of a counter; of several counters that drop at the same
time, those of the counter with the highest value before."""


def find_drops(all_joined: Sequence[JoinedAnswers]) -> Drops:
    """Find where counters dropped, and how deep, for each arm, instance and time (see `Drops`).

    The sum of a histogram is ignored, because it may drop without a restart.
    """
    drops: dict[tuple[str, str, int], tuple[float, float]] = {}
    for joined in all_joined:
        if joined.query.kind is QueryKind.GAUGE:
            continue
        for track in joined.tracks:
            if joined.query.kind is QueryKind.HISTOGRAM and track.series.part == "sum":
                continue
            for last_before in np.flatnonzero(np.diff(track.values) < 0).tolist():
                # `last_before` is the index of the last sample before the drop.
                key = joined.arm, track.series.instance, int(track.ts_ms[last_before + 1])
                before, after = float(track.values[last_before]), float(track.values[last_before + 1])
                # Of several counters that drop at this time, the one with the highest value before is kept.
                if key not in drops or before > drops[key][0]:
                    drops[key] = before, after
    return drops


def find_spans(joined: JoinedAnswers) -> Spans:
    """Return the intervals, each (start, end) in ms, in which the samples of all series together have no gap.

    A gap is longer than `MOST_STEPS_APART` steps. A track is a series with its samples.
    """
    times_ms = np.unique(np.concatenate([track.ts_ms for track in joined.tracks]))
    # Indices in `times_ms`: the last sample before each gap, then the first and the last sample of each interval.
    last_before_gap = np.flatnonzero(np.diff(times_ms) > MOST_STEPS_APART * joined.step_ms)
    starts, ends = np.append(0, last_before_gap + 1), np.append(last_before_gap, times_ms.size - 1)
    return tuple(zip(times_ms[starts].tolist(), times_ms[ends].tolist(), strict=True))
