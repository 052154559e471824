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
from evaluator.health.reading_traffic import find_idle_instances
from evaluator.records import Finding, Query, QueryFacts, QueryKind, ReadingCells, Role, Spans
from evaluator.records.arrays import BoolArray
from evaluator.stats.shaping.reading_panels import name_of
from evaluator.wording import format_duration, format_number, quote_command

HOLE_STEPS = 1.5
"""Scrape intervals without a sample between two samples that are no hole: the later scrape is late."""

TURNED_OVER = 0.25
"""Share of an arm's instances that ended before the others."""

Times = Sequence[tuple[float, float]]
"""Intervals in the order of time: start and end of each, ms since the epoch."""


def check_silence_of_scrapes(context: ReadingContext) -> Iterable[Finding]:
    """Find arms, or queries of gates and holds, whose readings end early or have holes, over all collected time."""
    periods = _find_periods(context)
    findings = [*_name_late_starts(context, periods)]
    for arm_code, arm in enumerate(context.readings.arms):
        facts = [fact for fact in context.readings.facts if fact.arm == arm and fact.spans]  # of queries with samples
        arm_start_ms = _find_expected_start(context, arm_code)
        expected = [(max(start_ms, arm_start_ms), end_ms) for start_ms, end_ms in periods]
        # The worst silence of all queries together, and of each query that decides. Silences are ordered: those at the
        # end are worse than holes, then a larger share is worse.
        worst = max((_find_silence(sampled, expected) for sampled in _list_spans(context, facts)), default=None)
        if worst is not None and worst.rank > 0:
            findings.append(_describe_silence(context, arm, worst, periods))
    arms_with_samples = {fact.arm for fact in context.readings.facts if fact.spans}
    if not findings and arms_with_samples >= set(context.readings.arms):
        findings.append(ok("silence", "every arm has readings until the end"))
    return findings


def _find_expected_start(context: ReadingContext, arm_code: int) -> float:
    """Find when readings of an arm are expected from (ms since the epoch); -inf: over all of the collected time.

    `arm_code`: 0 for the baseline.
    """
    if context.intervals:  # the load called all arms from its start on
        return -math.inf
    # A candidate may have been started after the baseline. Until the first candidate started, readings of the baseline
    # are not judged, so they are expected from then on.
    candidates = context.readings.arms[1:]
    arms = candidates if arm_code == 0 else (context.readings.arms[arm_code],)
    first_samples = [sample for arm in arms if (sample := _find_first_sample(context, arm)) is not None]
    # The service may have started just after the scrape before its first sample.
    return min((first_ms - step_ms for first_ms, step_ms in first_samples), default=-math.inf)


@dataclass(frozen=True, slots=True, order=True)
class _ScrapeSilence:
    """For how much of its expected time an arm or a query had no samples. Times are ms since the epoch."""

    rank: int
    """0: too short for a finding, 1: holes, 2: silent at the end."""
    share: float
    """Share of the expected time without samples."""
    silent_s: float
    """Time without samples, s."""
    expected_s: float
    """Time for which samples were expected, s."""
    query: str
    """Name of a query; empty: the whole arm."""
    since_ms: float
    """Start of the longest silence."""
    until_ms: float
    """End of that silence."""
    first_ms: float
    """First sample."""
    last_ms: float
    """Last sample."""


def _describe_silence(context: ReadingContext, arm: str, silence: _ScrapeSilence, periods: Times) -> Finding:
    """Word a silence as a finding: holes (rank 1) or no samples at the end (rank 2).

    `periods`: times for which readings are expected.
    """
    subject = f"{silence.query} of {arm}" if silence.query else arm
    period = format_duration(silence.expected_s)
    since, until = show_clock(silence.since_ms), show_clock(silence.until_ms)
    if silence.rank == 1:
        share, length = format_number(silence.share * 100), format_duration(silence.silent_s)
        text = f"{subject} is silent for {length} of {period} ({share} %), the longest from {since} to {until}"
        remedy = "find out why it was not scraped; see the page of targets on the metrics server"
        return grade("silence", text, remedy, fails=silence.share > context.rulebook.silence)
    length = format_duration((silence.until_ms - silence.since_ms) / 1000)
    text = f"{subject} falls silent at {since}: no readings in the last {length} of {period}"
    remedy = "find out why it ended before the load did, then load again"
    if not context.intervals:  # there was no load
        start_ms = max(periods[0][0], silence.first_ms)
        command = f"{quote_command('collect', context.release)} {show_period(start_ms, silence.last_ms)}"
        remedy = f"find out why it ended; only if it ended on purpose, judge the time before: `{command}`"
    return fail("silence", text, remedy)


def _find_periods(context: ReadingContext) -> Times:
    """Find the times for which readings are expected: those of the load, or all that was collected; () if unknown."""
    if context.intervals:
        # A load is known by whole buckets: it began within the first of them and ended within the last. Only the
        # buckets between are surely covered by the load.
        edge_s = context.readings.bucket_s
        inner = ((interval.start_s + edge_s, interval.end_s - edge_s) for interval in context.intervals)
        return tuple((start_s * 1000, end_s * 1000) for start_s, end_s in inner if start_s < end_s)
    facts = [fact for fact in context.readings.facts if fact.end_ms]
    return [(min(fact.start_ms for fact in facts), max(fact.end_ms for fact in facts))] if facts else ()


def _list_spans(context: ReadingContext, facts: Sequence[QueryFacts]) -> Iterator[tuple[str, Spans, float]]:
    """Yield what shows when an arm was scraped: name of a query, its spans with samples, its scrape interval (ms).

    First all queries together, with an empty name, then each query of a gate or hold by itself. A span is the time of
    the first and the last of successive samples (ms). `facts`: the facts of the arm's queries.
    """
    scraped = _select_scraped(context, facts)
    if not scraped:
        return
    yield "", tuple(sorted(span for fact in scraped for span in fact.spans)), max(fact.step_ms for fact in scraped)
    deciding_rules = [rule for rule in context.rulebook.rules if rule.role in (Role.GATE, Role.HOLD)]
    deciding_queries = {query for rule in deciding_rules for query in rule.metric.queries}
    failure_queries = _find_failure_queries(context)
    for fact in facts:
        # Samples that are not finite are missing from the spans although the target was scraped.
        if fact.query in deciding_queries and fact.query not in failure_queries and not fact.nan + fact.infinite:
            yield name_of(fact.query), fact.spans, fact.step_ms


def _select_scraped(context: ReadingContext, facts: Sequence[QueryFacts]) -> list[QueryFacts]:
    """Select the facts whose samples show best when an arm was scraped: counters without failures, if there are any.

    A gauge may be an expression, whose value a server repeats after the last scrape; failures may be rare.
    """
    failure_queries = _find_failure_queries(context)
    regular = [fact for fact in facts if fact.query not in failure_queries]
    counters = [fact for fact in regular if fact.query.kind is not QueryKind.GAUGE]
    return counters or regular or list(facts)


def _find_failure_queries(context: ReadingContext) -> set[Query]:
    """Find the queries of failures, which may happen late or never: the numerators of ratios.

    The queries of a ratio are its numerator and its denominator. A numerator of one ratio that is the denominator of
    another counts requests, so it is no query of failures.
    """
    ratios = [rule.metric.queries for rule in context.rulebook.rules if len(rule.metric.queries) > 1]
    numerators, denominators = {queries[0] for queries in ratios}, {queries[-1] for queries in ratios}
    return numerators - denominators


def _find_first_sample(context: ReadingContext, arm: str) -> tuple[float, float] | None:
    """Find the first sample of an arm: its time (ms since the epoch) and scrape interval (ms); `None`: no samples.

    Only the queries whose samples show best when the arm was scraped count (`_select_scraped`).
    """
    facts = _select_scraped(context, [fact for fact in context.readings.facts if fact.arm == arm and fact.spans])
    if not facts:
        return None
    return float(min(fact.spans[0][0] for fact in facts)), max(fact.step_ms for fact in facts)


def _find_silence(sampled: tuple[str, Spans, float], expected: Times) -> _ScrapeSilence:
    """Measure for how long samples are missing in the expected times.

    `sampled`: name of a query (empty: the whole arm), its spans with samples and its scrape interval (ms).
    """
    query, spans, step_ms = sampled
    holes: list[tuple[float, float]] = []  # start and end, ms
    expected_ms = silent_ms = 0.0
    is_silent_at_end = False
    for start, end in expected:
        expected_ms += max(end - start, 0.0)
        for hole_start, hole_end in _list_holes(spans, start, end):
            # At an end of the time, a hole may be longer: there is no sample beyond it that shows when to expect one.
            tolerated_steps = END_STEPS if hole_start == start or hole_end == end else HOLE_STEPS
            if hole_end - hole_start > tolerated_steps * step_ms:
                holes.append((hole_start, hole_end))
                silent_ms += hole_end - hole_start - step_ms  # no sample is expected before the next scrape
                is_silent_at_end |= hole_end == end
    share = silent_ms / expected_ms if expected_ms else 0.0
    # The hole at the very end is shown, else the longest. Without holes, and without samples, times are 0.
    since, until = max(holes, key=lambda hole: (hole[1] == expected[-1][1], hole[1] - hole[0]), default=(0.0, 0.0))
    rank = 2 if is_silent_at_end else int(share > TOLERATED)  # 1: holes that count; 0: they are too short
    first_ms, last_ms = (float(spans[0][0]), float(spans[-1][1])) if spans else (0.0, 0.0)
    return _ScrapeSilence(
        rank=rank,
        share=share,
        silent_s=silent_ms / 1000,
        expected_s=expected_ms / 1000,
        query=query,
        since_ms=since,
        until_ms=until,
        first_ms=first_ms,
        last_ms=last_ms,
    )


def _list_holes(spans: Spans, start: float, end: float) -> list[tuple[float, float]]:
    """List the times from `start` to `end` that no span covers (ms); the first and the last of them may be empty."""
    edges = [start]  # in turns: start of a hole, end of a hole (where a span starts)
    cut_spans = sorted((max(first, start), min(last, end)) for first, last in spans if first <= end)
    for first, last in cut_spans:
        if last < start:  # the span ended before that time
            continue
        # Unless it is the very first, the last edge is the end of the span before.
        if len(edges) > 1 and first <= edges[-1]:  # spans that touch or overlap have no hole between them
            edges[-1] = max(edges[-1], last)
        else:
            edges += [first, last]
    edges.append(end)
    return list(zip(edges[::2], edges[1::2], strict=True))


def _name_late_starts(context: ReadingContext, periods: Times) -> Iterator[Finding]:
    """Warn of a long time before a candidate's first sample: without a load it is not judged."""
    if context.intervals or not periods:
        return
    start_ms, end_ms = periods[0]
    for arm in context.readings.arms[1:]:
        first_sample = _find_first_sample(context, arm)
        if first_sample is None:
            continue
        first_ms, step_ms = first_sample
        before_ms, collected_ms = first_ms - start_ms, end_ms - start_ms
        # A late start that scraping explains, or that is a small part of the time, is not named.
        if before_ms > max(END_STEPS * step_ms, TOLERATED * collected_ms):
            before, collected = format_duration(before_ms / 1000), format_duration(collected_ms / 1000)
            text = (
                f"{arm} has its first reading at {show_clock(first_ms)}: the {before} of {collected} before that "
                "are not judged; if it was running then, it did not answer"
            )
            command = f"{quote_command('collect', context.release)} {show_period(first_ms, end_ms)}"
            yield warn("late_start", text, f"to judge only its own time: `{command}`")


def check_targets(context: ReadingContext) -> Iterable[Finding]:
    """Name targets of an arm that did not answer their scrapes (`up` is 0); a target is an address that is scraped.

    Targets that never answered are included; they have no other series. More failed scrapes than in the other arm, or
    no answer at the end, forbid a GO.
    """
    targets, periods = context.targets, _find_periods(context)
    if targets is None or not periods:
        return
    middle_ms = (targets.bucket + 0.5) * targets.bucket_s * 1000
    # True for each row of `targets` in a time for which readings are expected.
    judged = np.any([(middle_ms >= start) & (middle_ms <= end) for start, end in periods], axis=0)
    failed_scrapes = targets.n - targets.total  # `n` counts all scrapes, `total` those with `up` = 1
    shares = []  # of each arm: share of its scrapes that failed
    for arm_code in range(len(targets.arms)):
        rows = judged & (targets.arm == arm_code)
        scrapes = float(targets.n[rows].sum())
        shares.append(float(failed_scrapes[rows].sum()) / scrapes if scrapes else 0.0)
    worst_candidate = max(range(1, len(shares)), key=shares.__getitem__)
    for arm_code, arm in enumerate(targets.arms):
        # A candidate is compared with the baseline, the baseline with the worst candidate.
        reference = worst_candidate if arm_code == 0 else 0
        failing = judged & (targets.arm == arm_code) & (failed_scrapes > 0)
        last_end_ms = periods[-1][1]
        down_at_end = _find_down_at_end(targets, arm_code, last_end_ms)
        if shares[arm_code] <= TOLERATED and not down_at_end.any():
            continue
        texts = []
        if failing.any():
            texts.append(
                f"targets of {arm} did not answer {format_number(shares[arm_code] * 100)} % of their scrapes "
                f"({format_number(shares[reference] * 100)} % of {targets.arms[reference]}'s"
                f"{', the worst candidate' if arm_code == 0 and len(targets.arms) > 2 else ''}): "
                f"{_name_targets(targets, failing)}, first at {_show_first(targets, failing)}"
            )
        if down_at_end.any():
            since = _show_first(targets, down_at_end)
            if texts:
                texts.append(f"at the end no target answers (since {since})")
            else:  # the targets are down only between two replicates, so no judged scrape failed
                names = _name_targets(targets, down_at_end)
                texts.append(f"at the end no target of {arm} answers (since {since}): {names}")
        share = shares[arm_code]
        lopsided = share > context.rulebook.silence and share > LOPSIDED * shares[reference]
        remedy = (
            "find out why they were down: the metrics server's page of targets shows why a scrape failed; "
            "to leave out targets that do not belong to the service, set sources.prometheus.selectors"
        )
        yield grade("targets", "; ".join(texts), remedy, fails=lopsided or bool(down_at_end.any()))


def _find_down_at_end(targets: ReadingCells, arm_code: int, end_ms: float) -> BoolArray:
    """Mark the rows of an arm after the last scrape that any of its targets answered, up to `end_ms`: shape (rows,).

    No row is marked if so short a time may be due to one late and one failed scrape. Scrapes before the load and
    between replicates count as well: a target that is down may disappear from the metrics server before the next load.
    """
    scraped = (targets.arm == arm_code) & (targets.bucket * targets.bucket_s * 1000 < end_ms)
    # Numbers of buckets. Without an answered scrape (`total` counts them), the last is -inf, and all rows are
    # unanswered; without an unanswered row both are equal.
    last_answered = max(targets.bucket[scraped & (targets.total > 0)].tolist(), default=-math.inf)
    unanswered: BoolArray = scraped & (targets.bucket > last_answered)
    last_scraped = max(targets.bucket[unanswered].tolist(), default=last_answered)
    patience_ms = END_STEPS * max((fact.step_ms for fact in targets.facts), default=0.0)
    if unanswered.any() and (last_scraped - last_answered) * targets.bucket_s * 1000 > patience_ms:
        return unanswered
    return np.zeros(unanswered.size, dtype=bool)


def _name_targets(targets: ReadingCells, rows: BoolArray) -> str:
    """Name the first targets (instances) of the rows that are True in `rows`, shape (rows,)."""
    return name_some([targets.instances[instance] for instance in np.unique(targets.instance[rows]).tolist()])


def _show_first(targets: ReadingCells, rows: BoolArray) -> str:
    """Write the time of the first bucket of the rows that are True in `rows`, shape (rows,)."""
    return show_clock(float(targets.bucket[rows].min()) * targets.bucket_s * 1000)


# ------------------------------------------------------------------ instances


@dataclass(frozen=True, slots=True)
class _Turnover:
    """How many instances an arm has, and which of them came or ended while others were there.

    An instance that is scraped and no longer serves requests has ended as well.
    """

    instances: int = 0
    came: tuple[str, ...] = ()
    """Name and time of each, as text for a finding."""
    ended: tuple[str, ...] = ()
    """Name and time of each, as text for a finding."""

    @property
    def share_ended(self) -> float:
        """Share of the instances that ended; 0 without instances."""
        return len(self.ended) / self.instances if self.instances else 0.0


def check_instances(context: ReadingContext) -> Iterable[Finding]:
    """Name instances that came or ended while their arm went on; fail if more of a candidate's than usual ended."""
    periods = _find_periods(context)
    if not periods:
        return
    arms = context.readings.arms
    turnovers = {arm: _find_turnover(context, arm, periods[0][0], periods[-1][1]) for arm in arms}
    for arm, turnover in turnovers.items():
        parts = []
        if turnover.came:
            parts.append(f"{len(turnover.came)} came after the start ({name_some(turnover.came)})")
        if turnover.ended:
            parts.append(f"{len(turnover.ended)} ended before the others ({name_some(turnover.ended)})")
        if parts:
            text = f"of {turnover.instances} instances of {arm}, {', '.join(parts)}; each counts while it was there"
            yield warn("instances", text)
    baseline = turnovers[arms[0]]
    for arm in arms[1:]:
        turnover = turnovers[arm]
        share = turnover.share_ended
        lopsided = share >= TURNED_OVER and share > LOPSIDED * baseline.share_ended
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


def _find_turnover(context: ReadingContext, arm: str, start_ms: float, end_ms: float) -> _Turnover:
    """Find the instances of an arm that came or ended between `start_ms` and `end_ms` while others were there.

    Without any instance in that time, the result is empty.
    """
    facts = _select_scraped(context, [fact for fact in context.readings.facts if fact.arm == arm and fact.lives])
    lives: dict[str, tuple[int, int]] = {}  # instance → first and last sample of any query, ms
    for fact in facts:
        for name, (first, last) in fact.lives.items():
            known_first, known_last = lives.get(name, (first, last))
            lives[name] = min(known_first, first), max(known_last, last)
    lives_in_window = {
        name: (first, last) for name, (first, last) in lives.items() if first <= end_ms and last >= start_ms
    }
    if not lives_in_window:
        return _Turnover()
    # An instance whose first or last sample is within this time of the arm's start or end did not come or end.
    patience_ms = END_STEPS * max(fact.step_ms for fact in facts)
    arm_start_ms = max(min(first for first, _ in lives_in_window.values()), start_ms)
    arm_end_ms = min(max(last for _, last in lives_in_window.values()), end_ms)
    came = [
        f"{name} at {show_clock(first)}"
        for name, (first, _) in sorted(lives_in_window.items())
        if first > arm_start_ms + patience_ms
    ]
    # Name of an instance that ended → its time, as text.
    end_times = {
        name: show_clock(last) for name, (_, last) in lives_in_window.items() if last < arm_end_ms - patience_ms
    }
    # Idle instances are scraped until the end of the judged time, so they lie in the window.
    for (arm_code, name), since_ms in find_idle_instances(context).items():
        if context.readings.arms[arm_code] == arm and name not in end_times:
            end_times[name] = f"{show_clock(since_ms)}, scraped since then without serving requests"
    ended = [f"{name} at {end_time}" for name, end_time in sorted(end_times.items())]
    return _Turnover(instances=len(lives_in_window), came=tuple(came), ended=tuple(ended))
