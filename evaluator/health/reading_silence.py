"""Has each arm readings for all of its time? An arm without readings has no failures either."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import (
    END_STEPS,
    LOPSIDED,
    TOLERATED,
    ReadingContext,
    fail,
    grade,
    name_some,
    ok,
    show_clock,
    show_period,
    warn,
)
from evaluator.health.reading_traffic import find_still_instances
from evaluator.records import Finding, Query, QueryFacts, QueryKind, ReadingCells, Role, Spans
from evaluator.records.arrays import BoolArray
from evaluator.stats.shaping.reading_panels import name_of
from evaluator.wording import format_duration, format_number

HOLE_STEPS = 1.5

TURNED_OVER = 0.25
"""Share of an arm's instances that ended before the others."""

Times = Sequence[tuple[float, float]]
"""Starts and ends, ms since the epoch."""


def check_silence_of_scrapes(context: ReadingContext) -> Iterable[Finding]:
    """Arms whose readings end early or have holes, over all of the time that was collected."""
    periods = _find_periods(context)
    findings = [*_name_late_starts(context, periods)]
    for code, arm in enumerate(context.readings.arms):
        facts = [fact for fact in context.readings.facts if fact.arm == arm and fact.spans]
        # Without a load, readings are expected from the arm's own first sample on (baseline: from any candidate's).
        names = () if context.intervals else (arm,) if code else context.readings.arms[1:]
        first_samples = [first for name in names if (first := _find_first_sample(context, name))]
        start = min((first - step for first, step in first_samples), default=-math.inf)
        expected = [(max(begun, start), end) for begun, end in periods]
        worst = max((_find_silence(spans, expected) for spans in _list_spans(context, facts)), default=None)
        if worst is not None and worst.rank:
            findings.append(_describe_silence(context, arm, worst, periods))
    with_samples = {fact.arm for fact in context.readings.facts if fact.spans}
    if not findings and with_samples >= set(context.readings.arms):
        findings.append(ok("silence", "every arm has readings until the end"))
    return findings


@dataclass(frozen=True, slots=True, order=True)
class _ScrapeSilence:
    """For how much of its expected time an arm or a query had no samples."""

    rank: int
    """0: too short for a finding, 1: holes, 2: silent at the end."""
    share: float
    seconds: float
    period_s: float
    what: str
    """A query; empty: the whole arm."""
    since_ms: float
    """Start of the longest silence."""
    until_ms: float
    first_ms: float
    last_ms: float


def _describe_silence(context: ReadingContext, arm: str, silence: _ScrapeSilence, periods: Times) -> Finding:
    who = f"{silence.what} of {arm}" if silence.what else arm
    period = format_duration(silence.period_s)
    since, until = show_clock(silence.since_ms), show_clock(silence.until_ms)
    if silence.rank == 1:
        share, long = format_number(silence.share * 100), format_duration(silence.seconds)
        text = f"{who} is silent for {long} of {period} ({share} %), the longest from {since} to {until}"
        remedy = "find out why it was not scraped; see the page of targets on the metrics server"
        return grade("silence", text, remedy, fails=silence.share > context.rulebook.silence)
    last = format_duration((silence.until_ms - silence.since_ms) / 1000)
    text = f"{who} falls silent at {since}: no readings in the last {last} of {period}"
    remedy = "find out why it ended before the load did, then load again"
    if not context.intervals:
        start_ms = max(periods[0][0], silence.first_ms)
        command = f"evaluator collect {context.release} {show_period(start_ms, silence.last_ms)}"
        remedy = f"find out why it ended; only if it ended on purpose, judge the time before: `{command}`"
    return fail("silence", text, remedy)


def _find_periods(context: ReadingContext) -> Times:
    """Times for which readings are expected: those of the load, or all that was collected."""
    if context.intervals:
        # A load is known by whole buckets: it began within the first of them and ended within the last.
        edge = context.readings.bucket_s
        inner = ((interval.start_s + edge, interval.end_s - edge) for interval in context.intervals)
        return tuple((start * 1000, end * 1000) for start, end in inner if start < end)
    facts = [fact for fact in context.readings.facts if fact.end_ms]
    return [(min(fact.start_ms for fact in facts), max(fact.end_ms for fact in facts))] if facts else ()


def _list_spans(context: ReadingContext, facts: Sequence[QueryFacts]) -> Iterator[tuple[str, Spans, float]]:
    """Name, spans with samples and scrape interval (ms): of the arm as a whole, and of each query of a gate or hold."""
    scraped = _scraped(context, facts)
    if not scraped:
        return
    yield "", tuple(sorted(span for fact in scraped for span in fact.spans)), max(fact.step_ms for fact in scraped)
    deciding = {
        q for rule in context.rulebook.rules if rule.role in (Role.GATE, Role.HOLD) for q in rule.metric.queries
    }
    rare = _failure_queries(context)
    for fact in facts:
        if fact.query in deciding and fact.query not in rare and not fact.nan + fact.infinite:
            yield name_of(fact.query), fact.spans, fact.step_ms


def _scraped(context: ReadingContext, facts: Sequence[QueryFacts]) -> list[QueryFacts]:
    """Facts whose samples are scrapes: the value of an expression may be repeated after the last scrape."""
    rare = _failure_queries(context)
    counters = [fact for fact in facts if fact.query.kind is not QueryKind.GAUGE and fact.query not in rare]
    return counters or [fact for fact in facts if fact.query not in rare] or list(facts)


def _failure_queries(context: ReadingContext) -> set[Query]:
    """Queries of failures, which may happen late or never."""
    by_rule = [rule.metric.queries for rule in context.rulebook.rules if len(rule.metric.queries) > 1]
    return {queries[0] for queries in by_rule} - {queries[-1] for queries in by_rule}


def _find_first_sample(context: ReadingContext, arm: str) -> tuple[float, float] | None:
    """Time of the first sample of an arm and its scrape interval (ms)."""
    facts = _scraped(context, [fact for fact in context.readings.facts if fact.arm == arm and fact.spans])
    if not facts:
        return None
    return float(min(fact.spans[0][0] for fact in facts)), max(fact.step_ms for fact in facts)


def _find_silence(sampled: tuple[str, Spans, float], expected: Times) -> _ScrapeSilence:
    """For how long samples are missing in the expected times; `sampled`: name, spans and scrape interval (ms)."""
    what, spans, step_ms = sampled
    holes: list[tuple[float, float]] = []
    total, silent, at_end = 0.0, 0.0, False
    for start, end in expected:
        total += max(end - start, 0.0)
        edges = [start]
        for begin, finish in sorted((max(begin, start), min(finish, end)) for begin, finish in spans if begin <= end):
            if finish < start:
                continue
            if len(edges) > 1 and begin <= edges[-1]:  # spans that touch or overlap are one
                edges[-1] = max(edges[-1], finish)
            else:
                edges += [begin, finish]
        edges.append(end)
        for before, after in zip(edges[::2], edges[1::2], strict=True):
            steps = END_STEPS if before == start or after == end else HOLE_STEPS
            if after - before > steps * step_ms:
                holes.append((before, after))
                silent += after - before - step_ms  # no sample is expected before the next scrape
                at_end |= after == end
    share = silent / total if total else 0.0
    since, until = max(holes, key=lambda hole: (hole[1] == expected[-1][1], hole[1] - hole[0]), default=(0.0, 0.0))
    rank = 2 if at_end else int(share > TOLERATED)
    first, last = (float(spans[0][0]), float(spans[-1][1])) if spans else (0.0, 0.0)
    return _ScrapeSilence(rank, share, silent / 1000, total / 1000, what, since, until, first, last)


def _name_late_starts(context: ReadingContext, periods: Times) -> Iterator[Finding]:
    """Time before a candidate's first sample, which cannot be judged."""
    if context.intervals or not periods:
        return
    start, end = periods[0]
    for arm in context.readings.arms[1:]:
        first = _find_first_sample(context, arm)
        if first and first[0] - start > max(END_STEPS * first[1], TOLERATED * (end - start)):
            before, collected = format_duration((first[0] - start) / 1000), format_duration((end - start) / 1000)
            text = (
                f"{arm} has its first reading at {show_clock(first[0])}: the {before} of {collected} before that "
                "are not judged; if it was running then, it did not answer"
            )
            command = f"evaluator collect {context.release} {show_period(first[0], end)}"
            yield warn("late_start", text, f"to judge only its own time: `{command}`")


def check_targets(context: ReadingContext) -> Iterable[Finding]:
    """Targets that did not answer their scrapes (`up` is 0), including those that never did and have no series."""
    targets, periods = context.targets, _find_periods(context)
    if targets is None or not periods:
        return
    middle_ms = (targets.bucket + 0.5) * targets.bucket_s * 1000
    judged = np.any([(middle_ms >= start) & (middle_ms <= end) for start, end in periods], axis=0)
    failed_scrapes = targets.n - targets.total  # `n` counts all scrapes, `total` those with `up` = 1
    shares = []
    for code in range(len(targets.arms)):
        rows = judged & (targets.arm == code)
        scrapes = float(targets.n[rows].sum())
        shares.append(float(failed_scrapes[rows].sum()) / scrapes if scrapes else 0.0)
    worst_candidate = max(range(1, len(shares)), key=shares.__getitem__)
    for code, arm in enumerate(targets.arms):
        # A candidate is compared with the baseline, the baseline with the worst candidate.
        reference = worst_candidate if code == 0 else 0
        failing = judged & (targets.arm == code) & (failed_scrapes > 0)
        down_at_end = _find_down_at_end(targets, code, periods[-1][1])
        if shares[code] <= TOLERATED and not down_at_end.any():
            continue
        texts = []
        if failing.any():
            texts.append(
                f"targets of {arm} did not answer {format_number(shares[code] * 100)} % of their scrapes "
                f"({format_number(shares[reference] * 100)} % of {targets.arms[reference]}'s"
                f"{', the worst candidate' if code == 0 and len(targets.arms) > 2 else ''}): "
                f"{_name_targets(targets, failing)}, first at {_show_first(targets, failing)}"
            )
        if down_at_end.any():
            since = _show_first(targets, down_at_end)
            if texts:
                texts.append(f"at the end no target answers (since {since})")
            else:  # the targets are down only between two replicates, so no judged scrape failed
                names = _name_targets(targets, down_at_end)
                texts.append(f"at the end no target of {arm} answers (since {since}): {names}")
        lopsided = shares[code] > context.rulebook.silence and shares[code] > LOPSIDED * shares[reference]
        remedy = (
            "find out why they were down: the metrics server's page of targets shows why a scrape failed; "
            "to leave out targets that do not belong to the service, set sources.prometheus.selectors"
        )
        yield grade("targets", "; ".join(texts), remedy, fails=lopsided or bool(down_at_end.any()))


def _find_down_at_end(targets: ReadingCells, code: int, end_ms: float) -> BoolArray:
    """Mark an arm's scrapes after the last scrape that any of its targets answered, up to the judged end (rows,).

    No row is marked if so short a time may be due to one late and one failed scrape. Scrapes before the load and
    between replicates count as well: a target that is down may disappear from the metrics server before the next load.
    """
    scraped = (targets.arm == code) & (targets.bucket * targets.bucket_s * 1000 < end_ms)
    last_answered = max(targets.bucket[scraped & (targets.total > 0)].tolist(), default=-math.inf)
    unanswered: BoolArray = scraped & (targets.bucket > last_answered)
    last_scraped = max(targets.bucket[unanswered].tolist(), default=last_answered)
    patience_ms = END_STEPS * max((fact.step_ms for fact in targets.facts), default=0.0)
    if unanswered.any() and (last_scraped - last_answered) * targets.bucket_s * 1000 > patience_ms:
        return unanswered
    return np.zeros(unanswered.size, dtype=bool)


def _name_targets(targets: ReadingCells, rows: BoolArray) -> str:
    return name_some([targets.instances[instance] for instance in np.unique(targets.instance[rows]).tolist()])


def _show_first(targets: ReadingCells, rows: BoolArray) -> str:
    return show_clock(float(targets.bucket[rows].min()) * targets.bucket_s * 1000)


# ------------------------------------------------------------------ instances


@dataclass(frozen=True, slots=True)
class _Turnover:
    """Instances of one arm, and those that came or ended while others were there, with the time.

    An instance that is scraped and no longer serves requests has ended as well.
    """

    instances: int = 0
    came: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return len(self.ended) / self.instances if self.instances else 0.0


def check_instances(context: ReadingContext) -> Iterable[Finding]:
    """Instances that came or went while their arm went on."""
    periods = _find_periods(context)
    if not periods:
        return
    arms = context.readings.arms
    turned = {arm: _find_turnover(context, arm, periods[0][0], periods[-1][1]) for arm in arms}
    for arm, turnover in turned.items():
        parts = [f"{len(turnover.came)} came after the start ({name_some(turnover.came)})"] if turnover.came else []
        parts += (
            [f"{len(turnover.ended)} ended before the others ({name_some(turnover.ended)})"] if turnover.ended else []
        )
        if parts:
            text = f"of {turnover.instances} instances of {arm}, {', '.join(parts)}; each counts while it was there"
            yield warn("instances", text)
    baseline = turned[arms[0]]
    for arm in arms[1:]:
        turnover = turned[arm]
        lopsided = turnover.share >= TURNED_OVER and turnover.share > 2 * baseline.share
        if lopsided and not context.rulebook.prior.turnover_expected:
            text = (
                f"{len(turnover.ended)} of {turnover.instances} instances of {arm} ended while the others went on "
                f"({name_some(turnover.ended)}), and {len(baseline.ended)} of {baseline.instances} of baseline"
            )
            remedy = (
                "find out why they ended; if instances come and go by design, set "
                "`instances: {turnover: expected}` in the policy"
            )
            yield fail("turnover", text, remedy)


def _find_turnover(context: ReadingContext, arm: str, start: float, end: float) -> _Turnover:
    facts = _scraped(context, [fact for fact in context.readings.facts if fact.arm == arm and fact.lives])
    lives: dict[str, tuple[int, int]] = {}
    for fact in facts:
        for name, (first, last) in fact.lives.items():
            span = lives.get(name, (first, last))
            lives[name] = min(span[0], first), max(span[1], last)
    lives_inside = {name: life for name, life in lives.items() if life[0] <= end and life[1] >= start}
    if not lives_inside:
        return _Turnover()
    reach = END_STEPS * max(fact.step_ms for fact in facts)
    begun = max(min(first for first, _ in lives_inside.values()), start)
    over = min(max(last for _, last in lives_inside.values()), end)
    came = [
        f"{name} at {show_clock(first)}" for name, (first, _) in sorted(lives_inside.items()) if first > begun + reach
    ]
    gone = {name: show_clock(last) for name, (_, last) in lives_inside.items() if last < over - reach}
    for (code, name), since in find_still_instances(context).items():
        if context.readings.arms[code] == arm:
            gone.setdefault(name, f"{show_clock(since)}, scraped since then without serving requests")
    return _Turnover(len(lives_inside), tuple(came), tuple(f"{name} at {when}" for name, when in sorted(gone.items())))
