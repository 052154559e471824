"""Sum up answers of a metrics server into reading cells (method B.7).

Of a counter, the increase between two actual scrapes counts, never an extrapolation:

- A drop by more than half is a restart: the counter began again at 0, so its new value is the increase. All counters
  of one histogram restart together, also those that passed their old value before the next scrape. Only the sum of a
  histogram may fall without a restart, because observations can be negative.
- A smaller drop is not a restart: another server of a pair answered, which had scraped a little earlier, or digits were
  lost. The increase in that step is unknown; the step is left out. If several counters of an instance drop at the same
  time, the one with the highest value decides which case it is, because a small counter may lose all it had.
- The increase belongs to the bucket of the later scrape.
- The first sample of a series shows no increase. One exception: the instance answered the scrape before and did not
  have this counter yet (many libraries create `code="500"` at the first failure). Then the counter started at 0 in
  between, and its first value is the increase. An instance that was not scraped before may have run for hours.
- An interval contains the samples after its start, up to and including its end. So two intervals that share the sample
  at their border add up to the whole, for gauges as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from evaluator.records import PARTS, Answer, Query, QueryFacts, QueryKind, ReadingCells, choose_bucket_s
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.answered import (
    MOST_STEPS_APART,
    Drops,
    JoinedAnswers,
    count_shared,
    find_drops,
    find_scrapes,
    find_spans,
    identify_group,
    stitch,
)

RESTARTED = 0.5
"""A counter that drops below this share of its last value has started again."""

CODES = ("query", "arm", "instance", "endpoint", "bucket", "part")
KEY = (*CODES, "le")
SUMS = ("n", "seconds", "total")
Names = Mapping[str, tuple[Any, ...]]
"""Column (`query`, `arm`, `instance`, `endpoint`) → names; the codes of the column are positions in them."""
Table = Mapping[str, Any]
"""Column of `ReadingCells` → its values, shape (rows,)."""


def choose_reading_bucket_s(seconds: float | None, step_s: float) -> int:
    """Choose the length of a bucket (s) of readings.

    It is that of requests, rounded up to a multiple of the step, so that all buckets contain equally many scrapes.

    Args:
        seconds: Planned or recorded duration of the run; `None`: unknown.
        step_s: Time between two scrapes.

    >>> choose_reading_bucket_s(3600, 1), choose_reading_bucket_s(3600, 10)
    (15, 20)
    """
    step = max(1, math.ceil(step_s))
    return step * math.ceil(choose_bucket_s(seconds) / step)


def sum_up(answers: Sequence[Answer], arms: Sequence[str], bucket_s: int) -> ReadingCells:
    """Sum up the answers of a metrics server in buckets of `bucket_s` seconds.

    Answers of one query and arm that adjoin or overlap are read as one. Across a gap between two answers nothing is
    counted. `arms[0]` is the baseline.

    Raises:
        ValueError: for an answer of an arm that is not among `arms`.
    """
    answers_by_query_and_arm: dict[tuple[Query, str], list[Answer]] = {}
    for answer in answers:
        answers_by_query_and_arm.setdefault((answer.query, answer.arm), []).append(answer)
    all_joined = [joined for group in answers_by_query_and_arm.values() for joined in stitch(group)]
    scrapes = find_scrapes(all_joined)  # when each instance answered, which shows which counters are new
    queries = tuple(dict.fromkeys(answer.query for answer in answers))
    names: Names = {
        "query": queries,
        "arm": tuple(arms),
        "instance": tuple(sorted({track.series.instance for joined in all_joined for track in joined.tracks})),
        "endpoint": tuple(sorted({track.series.endpoint for joined in all_joined for track in joined.tracks})),
    }
    drops = find_drops(all_joined)  # when counters became smaller, which shows restarts
    # Series of each joined answer that are in fact series of the baseline.
    shared = count_shared(all_joined, arms[0] if arms else "")
    tables, all_facts = [], []
    for joined, shared_series in zip(all_joined, shared, strict=True):
        table, facts = _sum_joined(joined, scrapes, drops, names, bucket_s)
        tables.append(table)
        all_facts.append(replace(facts, shared=shared_series))
    return _assemble(names, bucket_s, tables, _join_facts(all_facts))


# ------------------------------------------------------------------ joined answers become rows


@dataclass(frozen=True, slots=True)
class _Samples:
    """Samples of all series of joined answers, one series after the other."""

    ts_ms: IntArray
    """Time of each sample, since the epoch."""
    values: FloatArray
    first_samples: IntArray
    """Index of the first sample of each series."""
    track: IntArray
    """Number of the series of each sample: its position in the tracks of the joined answers."""


def _sum_joined(
    joined: JoinedAnswers, scrapes: Mapping[str, Mapping[str, IntArray]], drops: Drops, names: Names, bucket_s: int
) -> tuple[Table, QueryFacts]:
    """Sum up joined answers by series and bucket. Returns a table with a row for each series and bucket, and the facts.

    Args:
        joined: Joined answers of one query and arm.
        scrapes: Arm → instance → times (ms) at which it answered a scrape.
        drops: When counters became smaller, which shows that their process restarted (a reset).
        names: Names of which the codes of the table are positions.
        bucket_s: Length of a bucket.
    """
    tracks = joined.tracks
    if not tracks:
        return _make_empty_table(), joined.facts
    sizes = np.array([track.ts_ms.size for track in tracks])  # samples of each series
    samples = _Samples(
        ts_ms=np.concatenate([track.ts_ms for track in tracks]),
        values=np.concatenate([track.values for track in tracks]),
        first_samples=np.cumsum(sizes) - sizes,
        track=np.repeat(np.arange(sizes.size), sizes),
    )
    facts = _complete_facts(joined, sizes)
    if joined.query.kind is QueryKind.GAUGE:
        # A sample at the start belongs to the interval before.
        used = samples.ts_ms > joined.start_ms
        no_steps_ms = np.zeros(samples.ts_ms.size)  # a gauge is not an increase over a time
        amounts = _Amounts(samples.values, step_ms=no_steps_ms, counted=used)
        facts = replace(facts, outside=facts.outside + int((~used).sum()))
    else:
        growth = _find_growth(joined, samples, scrapes.get(joined.arm, {}), drops)
        # Left out are falls: samples below the one before without a restart. The first sample of a counter is used: the
        # increase of the next sample needs it.
        used, amounts = ~growth.left_out, growth.amounts
        facts = replace(facts, resets=growth.resets, falls=int(growth.left_out.sum()))
    # The key of each series without the bucket; codes are positions in `names`.
    instance_codes = {name: code for code, name in enumerate(names["instance"])}
    endpoint_codes = {name: code for code, name in enumerate(names["endpoint"])}
    all_series = [track.series for track in tracks]
    codes = {
        "query": np.full(sizes.size, names["query"].index(joined.query)),
        "arm": np.full(sizes.size, names["arm"].index(joined.arm)),
        "instance": np.array([instance_codes[series.instance] for series in all_series]),
        "endpoint": np.array([endpoint_codes[series.endpoint] for series in all_series]),
        "part": np.array([PARTS.index(series.part) for series in all_series]),
        "le": np.array([series.le if series.part == "bucket" else np.nan for series in all_series], float),
    }
    table = _sum_by_bucket(samples, codes, amounts, bucket_s, gauge=joined.query.kind is QueryKind.GAUGE)
    # Facts: how many samples were used in each bucket.
    buckets, samples_in_bucket = np.unique(samples.ts_ms[used] // (bucket_s * 1000), return_counts=True)
    return table, replace(facts, used=tuple(zip(buckets.tolist(), samples_in_bucket.tolist(), strict=True)))


@dataclass(frozen=True, slots=True)
class _Amounts:
    """What each sample adds to its bucket, shape (samples,)."""

    values: FloatArray
    """Of counters the increase since the sample before, of gauges the value."""
    step_ms: FloatArray
    """Time since the sample before; 0 for gauges."""
    counted: BoolArray
    """Does the sample count?"""


@dataclass(frozen=True, slots=True)
class _Growth:
    """The result for the samples of counters."""

    amounts: _Amounts
    left_out: BoolArray
    """Is a sample below the sample before, without a restart? Shape (samples,)."""
    resets: int
    """Restarts: instances × times at which a counter began again at 0."""


def _find_growth(joined: JoinedAnswers, samples: _Samples, scrapes: Mapping[str, IntArray], drops: Drops) -> _Growth:
    """Find by how much counters grew at each sample since the sample before, and which of these increases count.

    After a drop to less than half, the process has restarted: the counter has counted its new value from 0. A sample
    after a smaller drop is left out. The first sample of a series counts only if the counter is new: then its whole
    value is the increase.

    Args:
        joined: Joined answers of one query and arm.
        samples: Their samples, one series after the other.
        scrapes: Instance → times (ms) at which it answered a scrape of any counter.
        drops: (Arm, instance, time) → value before and after the drop that decides; it may be that of another counter.
    """
    increases = np.diff(samples.values, prepend=0.0)  # that of the first sample of a series has no meaning
    step_ms = np.diff(samples.ts_ms, prepend=0).astype(float)
    # The first sample of a series has no sample before.
    counted = np.ones(samples.ts_ms.size, dtype=bool)
    counted[samples.first_samples] = False
    instance_of_track = [track.series.instance for track in joined.tracks]
    restarted, left_out = np.zeros_like(counted), np.zeros_like(counted)  # shape (samples,)
    for row in np.flatnonzero((increases < 0) & counted).tolist():  # `row` is the index of a sample
        drop = drops.get((joined.arm, instance_of_track[samples.track[row]], int(samples.ts_ms[row])))
        if drop is None:
            # Only the sum of a histogram has no entry: it may fall without a restart, and its negative increase counts.
            continue
        before, after = drop
        if after < RESTARTED * before:
            restarted[row] = True
        else:
            left_out[row] = True
    if restarted.any():
        restarted = _spread_to_histogram(joined, samples, restarted)
        # After a restart, the counter has counted its new value from 0.
        increases = np.where(restarted, samples.values, increases)
    if left_out.any():
        left_out = _spread_to_histogram(joined, samples, left_out)
        counted &= ~left_out
    # Counters that did not exist when their instance was scraped before: their first value counts. They begin after the
    # start of the answer, shortly after a scrape that shows other counters of the instance.
    longest_step_ms = MOST_STEPS_APART * joined.step_ms
    late_tracks = np.flatnonzero(samples.ts_ms[samples.first_samples] > joined.start_ms)
    for track in late_tracks.tolist():
        row = int(samples.first_samples[track])
        first_ms = int(samples.ts_ms[row])
        scrape_times_ms = scrapes[instance_of_track[track]]
        scrapes_before = int(np.searchsorted(scrape_times_ms, first_ms))
        if not scrapes_before:
            continue
        last_scrape_ms = int(scrape_times_ms[scrapes_before - 1])  # before the first sample
        if last_scrape_ms >= max(first_ms - longest_step_ms, joined.start_ms):
            increases[row] = samples.values[row]
            step_ms[row] = float(first_ms - last_scrape_ms)
            counted[row] = True
    # Several counters of an instance that restart at one time are one restart.
    restarted_rows = np.flatnonzero(restarted)
    restarted_instances = [instance_of_track[track] for track in samples.track[restarted_rows]]
    resets = set(zip(restarted_instances, samples.ts_ms[restarted_rows].tolist(), strict=True))
    amounts = _Amounts(np.where(counted, increases, 0.0), np.where(counted, step_ms, 0.0), counted)
    return _Growth(amounts, left_out, resets=len(resets))


def _spread_to_histogram(joined: JoinedAnswers, samples: _Samples, has_event: BoolArray) -> BoolArray:
    """Give an event (a restart or a drop) of the count or of a bucket of a histogram to all counters of the histogram.

    `has_event` and the result have the shape (samples,): the event of a counter's sample gives the same event to the
    samples of the other counters at the same time. Queries of other kinds do not change.
    """
    if joined.query.kind is not QueryKind.HISTOGRAM:
        return has_event
    spread = has_event.copy()
    # Each histogram with an event → numbers of all its series (count, sum and buckets).
    series_of_histogram: dict[Any, list[int]] = {}
    for series_number in {int(track) for track in samples.track[np.flatnonzero(has_event)]}:
        series_of_histogram.setdefault(identify_group(joined.tracks[series_number].series), [])
    for series_number, track in enumerate(joined.tracks):
        histogram = identify_group(track.series)
        if histogram in series_of_histogram:
            series_of_histogram[histogram].append(series_number)
    ends = np.append(samples.first_samples[1:], samples.ts_ms.size)  # index after the last sample of each series
    for all_series in series_of_histogram.values():
        # The sum may fall by itself: it decides only if the histogram has nothing else.
        without_sum = [series for series in all_series if joined.tracks[series].series.part != "sum"]
        deciding_series = without_sum or all_series
        rows = np.concatenate([np.arange(samples.first_samples[series], ends[series]) for series in deciding_series])
        event_times_ms = np.unique(samples.ts_ms[rows[has_event[rows]]])
        for series in all_series:
            # The first sample has no sample before from which it could drop.
            after_first = slice(samples.first_samples[series] + 1, ends[series])
            spread[after_first] = np.isin(samples.ts_ms[after_first], event_times_ms)
    return spread


def _sum_by_bucket(
    samples: _Samples, codes: Mapping[str, Any], amounts: _Amounts, bucket_s: int, *, gauge: bool
) -> Table:
    """Sum up the samples of each series and bucket. Returns a row for each series and bucket with a sample that counts.

    Args:
        samples: The samples, one series after the other.
        codes: Columns of the key without the bucket, with one element for each series.
        amounts: What each sample adds to its bucket: a value, the time since the sample before, and whether it counts.
        bucket_s: Length of a bucket.
        gauge: Whether the query is a gauge, which has a peak (largest sample) in each bucket; NaN for counters.
    """
    counted = amounts.counted
    bucket = samples.ts_ms // (bucket_s * 1000)
    # Index of the first sample of each row of the result: where the bucket or the series changes.
    starts = np.union1d(np.flatnonzero(bucket[1:] != bucket[:-1]) + 1, samples.first_samples)
    # Several counters of one instance cover the same time, which must count once. Samples of a gauge cover no time.
    counts_time = counted if gauge else _count_time_once(samples, codes, counted)
    track = samples.track[starts]
    if gauge:
        peak = np.maximum.reduceat(np.where(counted, amounts.values, -np.inf), starts)
    else:
        peak = np.full(starts.size, np.nan)
    table = {name: codes[name][track] for name in codes} | {
        "bucket": bucket[starts],
        "n": np.add.reduceat(counts_time, starts, dtype=np.int64),
        "seconds": np.add.reduceat(np.where(counts_time, amounts.step_ms, 0.0), starts) / 1000,
        "total": np.add.reduceat(np.where(counted, amounts.values, 0.0), starts),
        "peak": peak,
    }
    has_counted = np.logical_or.reduceat(counted, starts)
    return {name: column[has_counted] for name, column in table.items()}


def _count_time_once(samples: _Samples, codes: Mapping[str, Any], counted: BoolArray) -> BoolArray:
    """Find the samples whose step (the time since the sample before) counts as observed time.

    Requests by status code, for example, are several counters of one instance, but its time must count once. So of all
    samples that series with the same key have at one time, only one counts.

    Args:
        samples: Samples of all series, one series after the other.
        codes: Columns of the key, with one element for each series.
        counted: Which samples have an increase that counts, shape (samples,).

    Returns:
        Which of the counted samples count as time, shape (samples,).
    """
    # The key of each series, and the range of its samples.
    columns = (codes["instance"].tolist(), codes["endpoint"].tolist(), codes["part"].tolist(), codes["le"].tolist())
    # The bound as text, because NaN (no bound) is not equal to itself.
    keys = [(instance, endpoint, part, repr(le)) for instance, endpoint, part, le in zip(*columns, strict=True)]
    ends = np.append(samples.first_samples[1:], samples.ts_ms.size)
    sizes = ends - samples.first_samples
    counts_time = counted.copy()

    def find_counted_times(series: int) -> IntArray:
        """Return the times (ms) of the counted samples of a series."""
        rows = slice(samples.first_samples[series], ends[series])
        return samples.ts_ms[rows][counted[rows]]

    for _, series_of_key in groupby(sorted(range(len(keys)), key=keys.__getitem__), key=keys.__getitem__):
        longest, *others = sorted(series_of_key, key=lambda series: -sizes[series])
        times_so_far = find_counted_times(longest)  # of the series of this key that were visited
        for series in others:
            rows = slice(samples.first_samples[series], ends[series])
            # The usual case, quickly: the same times, of which the first sample has no increase.
            if sizes[series] == times_so_far.size + 1 and np.array_equal(samples.ts_ms[rows][1:], times_so_far):
                counts_time[rows] = False
                continue
            is_repeated = np.isin(samples.ts_ms[rows], times_so_far)
            counts_time[rows] &= ~is_repeated
            if not is_repeated[1:].all():  # it has new times
                times_so_far = np.union1d(times_so_far, find_counted_times(series))
    return counts_time


def _complete_facts(joined: JoinedAnswers, sizes: IntArray) -> QueryFacts:
    """Add to the facts: samples expected and missing, and when the series and the instances were seen.

    `sizes` are the samples of each series, shape (series,).
    """
    spans_ms = np.array([track.ts_ms[-1] - track.ts_ms[0] for track in joined.tracks])
    # A sample at each step from the first to the last; never fewer than there are.
    expected = np.maximum(np.rint(spans_ms / joined.step_ms).astype(np.int64) + 1, sizes)
    # Instance → first and last time (ms) at which it was seen.
    lives: dict[str, tuple[int, int]] = {}
    for track in joined.tracks:
        track_first, track_last = int(track.ts_ms[0]), int(track.ts_ms[-1])
        first, last = lives.get(track.series.instance, (track_first, track_last))
        lives[track.series.instance] = min(first, track_first), max(last, track_last)
    return replace(
        joined.facts,
        expected=int(expected.sum()),
        # Samples without a usable number were answered, so they are not missing.
        missing=max(int((expected - sizes).sum()) - joined.facts.nan - joined.facts.infinite, 0),
        spans=find_spans(joined),
        lives=lives,
    )


# ------------------------------------------------------------------ rows become cells


def _make_empty_table() -> Table:
    codes = {name: np.zeros(0, dtype=np.int64) for name in (*CODES, "n")}
    return codes | {name: np.zeros(0) for name in ("le", "seconds", "total", "peak")}


def _join_facts(facts: Iterable[QueryFacts]) -> tuple[QueryFacts, ...]:
    """Join the facts of all intervals of each query and arm into one entry.

    Counts of samples are added. Counts of series are the largest of all intervals, because they are the same series.
    """
    joined: dict[tuple[Query, str], QueryFacts] = {}
    added = ("nan", "duplicates", "resets", "expected", "missing", "read", "infinite", "repeated", "outside", "falls")
    for fact in facts:
        facts_so_far = joined.setdefault((fact.query, fact.arm), fact)
        if facts_so_far is fact:
            continue  # the first interval of this query and arm
        lives = dict(facts_so_far.lives)  # instance → first and last time (ms) at which it was seen
        for instance, (first_ms, last_ms) in fact.lives.items():
            first_so_far_ms, last_so_far_ms = lives.get(instance, (first_ms, last_ms))
            lives[instance] = min(first_so_far_ms, first_ms), max(last_so_far_ms, last_ms)
        joined[fact.query, fact.arm] = replace(
            facts_so_far,
            sent=tuple(dict.fromkeys((*facts_so_far.sent, *fact.sent))),
            warnings=tuple(dict.fromkeys((*facts_so_far.warnings, *fact.warnings))),
            notes=tuple(dict.fromkeys((*facts_so_far.notes, *fact.notes))),
            impossible=fact.impossible,  # what the newest interval says
            form=fact.form or facts_so_far.form,
            series=max(facts_so_far.series, fact.series),
            shared=max(facts_so_far.shared, fact.shared),
            used=tuple(sorted((Counter(dict(facts_so_far.used)) + Counter(dict(fact.used))).items())),
            start_ms=min(facts_so_far.start_ms, fact.start_ms),
            end_ms=max(facts_so_far.end_ms, fact.end_ms),
            step_ms=max(facts_so_far.step_ms, fact.step_ms),
            spans=tuple(sorted((*facts_so_far.spans, *fact.spans))),
            lives=lives,
            **{name: getattr(facts_so_far, name) + getattr(fact, name) for name in added},
        )
    return tuple(joined.values())


def _assemble(names: Names, bucket_s: int, tables: Sequence[Table], facts: tuple[QueryFacts, ...]) -> ReadingCells:
    """Build the cells from the rows of all tables: rows of equal keys are added up, in the order of their keys.

    `names` are those of which the codes in the tables are positions.
    """
    tables = tables or [_make_empty_table()]  # without any table, the columns are empty
    unsorted = {name: np.concatenate([table[name] for table in tables]) for name in (*KEY, *SUMS, "peak")}
    # NaN (no bound) cannot be sorted and is not equal to itself; -inf is never the bound of a bucket.
    unsorted_le = np.where(np.isnan(unsorted["le"]), -np.inf, unsorted["le"])
    # The last of these columns is the most significant.
    least_to_most = ("part", "endpoint", "instance", "arm", "query")
    order = np.lexsort((unsorted["bucket"], unsorted_le, *(unsorted[name] for name in least_to_most)))
    columns = {name: column[order] for name, column in unsorted.items()}
    sortable_le = unsorted_le[order]
    is_new_key = np.ones(sortable_le.size, dtype=bool)
    # `CODES`: the columns of the key without the bound.
    key_columns = (*(columns[name] for name in CODES), sortable_le)
    is_new_key[1:] = np.any([column[1:] != column[:-1] for column in key_columns], axis=0)
    starts = np.flatnonzero(is_new_key)
    keys: dict[str, Any] = {name: columns[name][starts] for name in KEY}
    # `reduceat` cannot take columns without rows.
    sums: dict[str, Any] = {
        name: np.add.reduceat(columns[name], starts) if starts.size else columns[name] for name in SUMS
    }
    peak = np.maximum.reduceat(columns["peak"], starts) if starts.size else columns["peak"]
    return ReadingCells(
        queries=names["query"],
        arms=names["arm"],
        instances=names["instance"],
        endpoints=names["endpoint"],
        bucket_s=bucket_s,
        facts=facts,
        peak=peak,
        **keys,
        **sums,
    )
