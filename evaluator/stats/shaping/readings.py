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
    LONGEST_STEP,
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
Table = Mapping[str, Any]


def choose_reading_bucket_s(seconds: float | None, step_s: float) -> int:
    """Choose the bucket (s): as for requests, rounded up to a multiple of the step, so that all have equal scrapes.

    Args:
        seconds: Planned or recorded duration; `None`: unknown.
        step_s: Time between two scrapes.

    >>> choose_reading_bucket_s(3600, 1), choose_reading_bucket_s(3600, 10)
    (15, 20)
    """
    step = max(1, math.ceil(step_s))
    return step * math.ceil(choose_bucket_s(seconds) / step)


def sum_up(answers: Sequence[Answer], arms: Sequence[str], bucket_s: int) -> ReadingCells:
    """Sum up the answers of a source.

    Answers of one query and arm that adjoin or overlap are read as one. Across a gap between two answers nothing is
    counted. `arms[0]` is the baseline.

    Raises:
        ValueError: for an answer of an arm that is not among `arms`.
    """
    alike: dict[tuple[Query, str], list[Answer]] = {}
    for answer in answers:
        alike.setdefault((answer.query, answer.arm), []).append(answer)
    all_joined = [joined for group in alike.values() for joined in stitch(group)]
    scrapes = find_scrapes(all_joined)
    queries = tuple(dict.fromkeys(answer.query for answer in answers))
    names: Names = {
        "query": queries,
        "arm": tuple(arms),
        "instance": tuple(sorted({track.series.instance for joined in all_joined for track in joined.tracks})),
        "endpoint": tuple(sorted({track.series.endpoint for joined in all_joined for track in joined.tracks})),
    }
    drops = find_drops(all_joined)
    shared = count_shared(all_joined, arms[0] if arms else "")
    parts = [
        _sum_joined(replace(joined, facts=replace(joined.facts, shared=count)), scrapes, drops, names, bucket_s)
        for joined, count in zip(all_joined, shared, strict=True)
    ]
    facts = _join_facts([part[1] for part in parts])
    return _assemble(names, bucket_s, [part[0] for part in parts], facts)


# ------------------------------------------------------------------ joined answers become rows


@dataclass(frozen=True, slots=True)
class _Samples:
    """Samples of all series of joined answers, one series after the other."""

    ts: IntArray
    values: FloatArray
    firsts: IntArray
    """Index of the first sample of each series."""
    track: IntArray
    """Number of the series of each sample."""


def _sum_joined(
    joined: JoinedAnswers, scrapes: Mapping[str, Mapping[str, IntArray]], drops: Drops, names: Names, bucket_s: int
) -> tuple[Table, QueryFacts]:
    tracks = joined.tracks
    if not tracks:
        return _empty(), joined.facts
    sizes = np.array([track.ts_ms.size for track in tracks])
    samples = _Samples(
        ts=np.concatenate([track.ts_ms for track in tracks]),
        values=np.concatenate([track.values for track in tracks]),
        firsts=np.cumsum(sizes) - sizes,
        track=np.repeat(np.arange(sizes.size), sizes),
    )
    facts = _count(joined, sizes)
    if joined.query.kind is QueryKind.GAUGE:
        counted = used = samples.ts > joined.start_ms
        grown, step_ms = samples.values, np.zeros(samples.ts.size)
        facts = replace(facts, outside=facts.outside + int((~used).sum()))
    else:
        growth = _find_growth(joined, samples, scrapes.get(joined.arm, {}), drops)
        grown, step_ms, counted, used = growth.grown, growth.step_ms, growth.counted, ~growth.left_out
        facts = replace(facts, resets=growth.resets, falls=int(growth.left_out.sum()))
    # The key of each series without the bucket; codes index `names`.
    codes_of = {column: {name: code for code, name in enumerate(names[column])} for column in ("instance", "endpoint")}
    series = [track.series for track in tracks]
    codes = {
        "query": np.full(sizes.size, names["query"].index(joined.query)),
        "arm": np.full(sizes.size, names["arm"].index(joined.arm)),
        "instance": np.array([codes_of["instance"][part.instance] for part in series]),
        "endpoint": np.array([codes_of["endpoint"][part.endpoint] for part in series]),
        "part": np.array([PARTS.index(part.part) for part in series]),
        "le": np.array([part.le if part.part == "bucket" else np.nan for part in series], float),
    }
    table = _by_bucket(samples, codes, grown, step_ms, counted, bucket_s, gauge=joined.query.kind is QueryKind.GAUGE)
    buckets, samples_of = np.unique(samples.ts[used] // (bucket_s * 1000), return_counts=True)
    pairs = zip(buckets.tolist(), samples_of.tolist(), strict=True)
    return table, replace(facts, used=tuple(pairs))


@dataclass(frozen=True, slots=True)
class _Growth:
    """The result for each sample of counters."""

    grown: FloatArray
    """Increase since the sample before."""
    step_ms: FloatArray
    """Time since the sample before."""
    counted: BoolArray
    left_out: BoolArray
    """Is it below the sample before, without a restart?"""
    resets: int


def _find_growth(joined: JoinedAnswers, samples: _Samples, scrapes: Mapping[str, IntArray], drops: Drops) -> _Growth:
    """Find the increase of each sample since the sample before, and whether it counts."""
    grown = np.diff(samples.values, prepend=0.0)
    step_ms = np.diff(samples.ts, prepend=0).astype(float)
    counted = np.ones(samples.ts.size, dtype=bool)
    counted[samples.firsts] = False
    instances = [part.series.instance for part in joined.tracks]
    restarted, left_out = np.zeros_like(counted), np.zeros_like(counted)
    for row in np.flatnonzero((grown < 0) & counted).tolist():
        drop = drops.get((joined.arm, instances[samples.track[row]], int(samples.ts[row])))
        if drop is not None:  # the sum of a histogram may fall by itself
            (restarted if drop[1] < RESTARTED * drop[0] else left_out)[row] = True
    if restarted.any():
        restarted = _restart_together(joined, samples, restarted)
        grown = np.where(restarted, samples.values, grown)
    if left_out.any():
        left_out = _restart_together(joined, samples, left_out)
        counted &= ~left_out
    # Counters that did not exist when their instance was scraped before: their first value counts.
    reach = LONGEST_STEP * joined.step_ms
    late = np.flatnonzero(samples.ts[samples.firsts] > joined.start_ms)
    for track in late.tolist():
        at = int(samples.firsts[track])
        first = int(samples.ts[at])
        times = scrapes[instances[track]]
        before = int(np.searchsorted(times, first))
        latest = int(times[before - 1]) if before else -1
        if latest >= max(first - reach, joined.start_ms):
            grown[at], step_ms[at], counted[at] = samples.values[at], float(first - latest), True
    again = np.flatnonzero(restarted)
    events = set(zip((instances[k] for k in samples.track[again]), samples.ts[again].tolist(), strict=True))
    return _Growth(
        np.where(counted, grown, 0.0), np.where(counted, step_ms, 0.0), counted, left_out, resets=len(events)
    )


def _restart_together(joined: JoinedAnswers, samples: _Samples, restarted: BoolArray) -> BoolArray:
    """Let all counters of a histogram restart (or drop) when its count or one of its buckets does."""
    if joined.query.kind is not QueryKind.HISTOGRAM:
        return restarted
    out = restarted.copy()
    groups: dict[Any, list[int]] = {}
    for series in {int(track) for track in samples.track[np.flatnonzero(restarted)]}:
        groups.setdefault(identify_group(joined.tracks[series].series), [])
    for series, track in enumerate(joined.tracks):
        key = identify_group(track.series)
        if key in groups:
            groups[key].append(series)
    ends = np.append(samples.firsts[1:], samples.ts.size)
    for members in groups.values():
        counts = [series for series in members if joined.tracks[series].series.part != "sum"] or members
        rows = np.concatenate([np.arange(samples.firsts[series], ends[series]) for series in counts])
        times = np.unique(samples.ts[rows[restarted[rows]]])
        for series in members:
            own = slice(samples.firsts[series] + 1, ends[series])
            out[own] = np.isin(samples.ts[own], times)
    return out


def _by_bucket(
    samples: _Samples,
    codes: Mapping[str, Any],
    grown: FloatArray,
    step_ms: FloatArray,
    counted: BoolArray,
    bucket_s: int,
    *,
    gauge: bool,
) -> Table:
    """One row for each series and bucket with a sample that counts."""
    bucket = samples.ts // (bucket_s * 1000)
    starts = np.union1d(np.flatnonzero(bucket[1:] != bucket[:-1]) + 1, samples.firsts)
    covering = counted if gauge else _cover_once(samples, codes, counted)
    track = samples.track[starts]
    table = {name: codes[name][track] for name in codes} | {
        "bucket": bucket[starts],
        "n": np.add.reduceat(covering, starts, dtype=np.int64),
        "seconds": np.add.reduceat(np.where(covering, step_ms, 0.0), starts) / 1000,
        "total": np.add.reduceat(np.where(counted, grown, 0.0), starts),
        "peak": np.maximum.reduceat(np.where(counted, grown, -np.inf), starts)
        if gauge
        else np.full(starts.size, np.nan),
    }
    used = np.logical_or.reduceat(counted, starts)
    return {name: column[used] for name, column in table.items()}


def _cover_once(samples: _Samples, codes: Mapping[str, Any], counted: BoolArray) -> BoolArray:
    """Which samples count time: of several series with the same key, only one at each time does.

    Requests by status code, for example, are several counters of one instance, but its time must count once.
    """
    columns = (codes["instance"].tolist(), codes["endpoint"].tolist(), codes["part"].tolist(), codes["le"].tolist())
    key = [(instance, endpoint, part, repr(le)) for instance, endpoint, part, le in zip(*columns, strict=True)]
    ends = np.append(samples.firsts[1:], samples.ts.size)
    sizes = ends - samples.firsts
    covering = counted.copy()
    for _, group in groupby(sorted(range(len(key)), key=key.__getitem__), key=key.__getitem__):
        longest, *others = sorted(group, key=lambda series: -sizes[series])
        times = _moments(samples, counted, longest, ends)
        for series in others:
            own = slice(samples.firsts[series], ends[series])
            if sizes[series] == times.size + 1 and np.array_equal(samples.ts[own][1:], times):
                covering[own] = False
                continue
            again = np.isin(samples.ts[own], times)
            covering[own] &= ~again
            if not again[1:].all():
                times = np.union1d(times, _moments(samples, counted, series, ends))
    return covering


def _moments(samples: _Samples, counted: BoolArray, series: int, ends: IntArray) -> IntArray:
    own = slice(samples.firsts[series], ends[series])
    return samples.ts[own][counted[own]]


def _count(joined: JoinedAnswers, sizes: IntArray) -> QueryFacts:
    """Count expected and missing samples, and find when the series and the instances were seen."""
    spans = np.array([track.ts_ms[-1] - track.ts_ms[0] for track in joined.tracks])
    expected = np.maximum(np.rint(spans / joined.step_ms).astype(np.int64) + 1, sizes)
    lives: dict[str, tuple[int, int]] = {}
    for track in joined.tracks:
        first, last = lives.get(track.series.instance, (int(track.ts_ms[0]), int(track.ts_ms[-1])))
        lives[track.series.instance] = min(first, int(track.ts_ms[0])), max(last, int(track.ts_ms[-1]))
    return replace(
        joined.facts,
        expected=int(expected.sum()),
        missing=max(int((expected - sizes).sum()) - joined.facts.nan - joined.facts.infinite, 0),
        spans=find_spans(joined),
        lives=lives,
    )


# ------------------------------------------------------------------ rows become cells


def _empty() -> Table:
    codes = {name: np.zeros(0, dtype=np.int64) for name in (*CODES, "n")}
    return codes | {name: np.zeros(0) for name in ("le", "seconds", "total", "peak")}


def _join_facts(facts: Iterable[QueryFacts]) -> tuple[QueryFacts, ...]:
    """One entry for each query and arm: counts are added, numbers of series are the largest of all intervals."""
    joined: dict[tuple[Query, str], QueryFacts] = {}
    added = ("nan", "duplicates", "resets", "expected", "missing", "read", "infinite", "repeated", "outside", "falls")
    for fact in facts:
        facts_so_far = joined.setdefault((fact.query, fact.arm), fact)
        if facts_so_far is fact:
            continue
        lives = dict(facts_so_far.lives)
        for name, (first, last) in fact.lives.items():
            life = lives.get(name, (first, last))
            lives[name] = min(life[0], first), max(life[1], last)
        joined[fact.query, fact.arm] = replace(
            facts_so_far,
            sent=tuple(dict.fromkeys((*facts_so_far.sent, *fact.sent))),
            warnings=tuple(dict.fromkeys((*facts_so_far.warnings, *fact.warnings))),
            notes=tuple(dict.fromkeys((*facts_so_far.notes, *fact.notes))),
            impossible=fact.impossible,
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
    """Add up the rows of equal keys, in the order of keys."""
    tables = tables or [_empty()]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in (*KEY, *SUMS, "peak")}
    # NaN cannot be sorted; -inf is never the bound of a bucket.
    le = np.where(np.isnan(columns["le"]), -np.inf, columns["le"])
    order = np.lexsort(
        (columns["bucket"], le, *(columns[name] for name in ("part", "endpoint", "instance", "arm", "query")))
    )
    columns = {name: column[order] for name, column in columns.items()}
    le = le[order]
    new = np.ones(le.size, dtype=bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in (*(columns[name] for name in CODES), le)], axis=0)
    starts = np.flatnonzero(new)
    keys: dict[str, Any] = {name: columns[name][starts] for name in KEY}
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
