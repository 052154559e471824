"""Was each arm heard for as long as it was to be heard? One that says nothing has no failures either."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import ok, warn
from evaluator.health.reading_base import END_STEPS, TOLERATED, ReadingScene, name_some, show_clock, show_command
from evaluator.health.reading_traffic import find_still_instances
from evaluator.records import Finding, Level, Query, QueryFacts, QueryKind, ReadingCells, Role, Spans
from evaluator.stats.reading_panels import name_of
from evaluator.wording import format_duration, format_number

__all__ = ["SILENCE_CHECKS"]

HOLE_STEPS = 1.5

TURNED_OVER = 0.25
"""Share of an arm's instances that ended before the others."""


def check_silence(scene: ReadingScene) -> Iterable[Finding]:
    """Arms that end before their time, or are not heard in between, over all of the time that was collected."""
    periods, found = _find_periods(scene), False
    for finding in _name_late_starts(scene):
        found = True
        yield finding
    for code, arm in enumerate(scene.readings.arms):
        facts = [fact for fact in scene.readings.facts if fact.arm == arm and fact.spans]
        worst = max((_find_silence(scene, one, code, periods) for one in _listen(scene, facts)), default=None)
        if worst is None or worst.rank == 0:
            continue
        found = True
        level = Level.FAIL if worst.at_end or worst.share > scene.rulebook.silence else Level.WARN
        yield Finding("silence", level, worst.say(arm), remedy=_say_how_to_collect(scene, worst))
    heard = {fact.arm for fact in scene.readings.facts if fact.spans}
    if not found and heard >= set(scene.readings.arms):
        yield ok("silence", "every arm was heard until the end")


@dataclass(frozen=True, slots=True, order=True)
class _Silence:
    """How long something was not heard of the time in which it was to be heard."""

    rank: int
    """0: not worth a word, 1: holes, 2: silent at the end."""
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

    @property
    def at_end(self) -> bool:
        return self.rank == 2

    def say(self, arm: str) -> str:
        who = f"{self.what} of {arm}" if self.what else arm
        long = format_duration(self.seconds)
        whole = format_duration(self.period_s)
        if self.at_end:
            last = format_duration((self.until_ms - self.since_ms) / 1000)
            return f"{who} falls silent at {show_clock(self.since_ms)}: no readings in the last {last} of {whole}"
        where = f"the longest from {show_clock(self.since_ms)} to {show_clock(self.until_ms)}"
        return f"{who} is silent for {long} of {whole} ({format_number(self.share * 100)} %), {where}"


def _find_periods(scene: ReadingScene) -> tuple[tuple[float, float], ...]:
    """Stretches of time (ms) in which arms were to be heard: those of the load, or all that was collected."""
    if scene.stretches:
        # A load is known by whole buckets, and began and ended somewhere within the first and the last of them.
        edge = scene.readings.bucket_s
        inner = ((one.start_s + edge, one.end_s - edge) for one in scene.stretches)
        return tuple((start * 1000, end * 1000) for start, end in inner if start < end)
    facts = [fact for fact in scene.readings.facts if fact.end_ms]
    if not facts:
        return ()
    return ((min(fact.start_ms for fact in facts), max(fact.end_ms for fact in facts)),)


def _listen(scene: ReadingScene, facts: Sequence[QueryFacts]) -> Iterator[tuple[str, Spans, float]]:
    """What is listened to: the arm by all of its scrapes, and each query that may stop a GO."""
    heard = _scraped(scene, facts)
    if not heard:
        return
    yield "", tuple(sorted(span for fact in heard for span in fact.spans)), max(fact.step_ms for fact in heard)
    deciding = {q for rule in scene.rulebook.rules if rule.role in (Role.GATE, Role.HOLD) for q in rule.metric.queries}
    rare = _failure_queries(scene)
    for fact in facts:
        if fact.query in deciding and fact.query not in rare and not fact.nan + fact.infinite:
            yield name_of(fact.query), fact.spans, fact.step_ms


def _scraped(scene: ReadingScene, facts: Sequence[QueryFacts]) -> list[QueryFacts]:
    """Facts whose samples are scrapes: a value of an expression may be repeated after the last one."""
    rare = _failure_queries(scene)
    counters = [fact for fact in facts if fact.query.kind is not QueryKind.GAUGE and fact.query not in rare]
    return counters or [fact for fact in facts if fact.query not in rare] or list(facts)


def _failure_queries(scene: ReadingScene) -> set[Query]:
    """Failures may happen late, or never."""
    asked = [rule.metric.queries for rule in scene.rulebook.rules if len(rule.metric.queries) > 1]
    return {queries[0] for queries in asked} - {queries[-1] for queries in asked}


def _first_heard(scene: ReadingScene, arm: str) -> tuple[float, float] | None:
    """First sample of an arm and its scrape interval (ms)."""
    facts = _scraped(scene, [fact for fact in scene.readings.facts if fact.arm == arm and fact.spans])
    if not facts:
        return None
    return float(min(fact.spans[0][0] for fact in facts)), max(fact.step_ms for fact in facts)


def _find_silence(
    scene: ReadingScene, heard: tuple[str, Spans, float], arm: int, periods: Sequence[tuple[float, float]]
) -> _Silence:
    what, spans, step_ms = heard
    holes: list[tuple[float, float]] = []
    whole, silent, at_end = 0.0, 0.0, False
    for begun, end in periods:
        start = max(begun, _start_of_comparison(scene, arm, begun))
        whole += max(end - start, 0.0)
        reach, tail = HOLE_STEPS * step_ms, END_STEPS * step_ms
        inside = [(max(one, start), min(other, end)) for one, other in spans if one <= end and other >= start]
        edges = [start, *(moment for span in _join(inside) for moment in span), end]
        for before, after in zip(edges[::2], edges[1::2], strict=True):
            allowed = tail if before == start or after == end else reach
            if after - before > allowed:
                holes.append((before, after))
                silent += after - before - step_ms  # until the next scrape nothing was to be heard
                at_end |= after == end
    share = silent / whole if whole else 0.0
    since, until = max(holes, key=lambda hole: (hole[1] == periods[-1][1], hole[1] - hole[0]), default=(0.0, 0.0))
    rank = 2 if at_end else int(share > TOLERATED)
    first, last = (float(spans[0][0]), float(spans[-1][1])) if spans else (0.0, 0.0)
    return _Silence(rank, share, silent / 1000, whole / 1000, what, since, until, first, last)


def _join(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that touch or overlap as one."""
    out: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return out


def _start_of_comparison(scene: ReadingScene, arm: int, start: float) -> float:
    """When an arm was to be heard first: without a load that is when the (first) candidate was."""
    if scene.stretches:
        return start
    candidates = [scene.readings.arms[arm]] if arm else list(scene.readings.arms[1:])
    known = [first for name in candidates if (first := _first_heard(scene, name))]
    return min((first - step for first, step in known), default=start)


def _name_late_starts(scene: ReadingScene) -> Iterator[Finding]:
    """Time before a candidate's first sample, which nobody can judge."""
    periods = _find_periods(scene)
    if scene.stretches or not periods:
        return
    start, end = periods[0]
    for arm in scene.readings.arms[1:]:
        known = _first_heard(scene, arm)
        if known and known[0] - start > max(END_STEPS * known[1], TOLERATED * (end - start)):
            first = known[0]
            before, whole = format_duration((first - start) / 1000), format_duration((end - start) / 1000)
            text = (
                f"{arm} is first heard at {show_clock(first)}: the {before} of {whole} before that are not judged; "
                "if it was to run by then, it did not answer"
            )
            remedy = f"to judge its own time only: `{show_command(scene, first, end)}`"
            yield warn("late_start", text, remedy)


def _say_how_to_collect(scene: ReadingScene, silence: _Silence) -> str:
    if not silence.at_end:
        return "find out why it was not scraped; see the target's page at the metrics server"
    if scene.stretches:
        return "find out why it ended before the load did, then load again"
    periods = _find_periods(scene)
    start = max(periods[0][0], silence.first_ms)
    command = show_command(scene, start, silence.last_ms)
    return f"find out why it ended; only if it was meant to end then, judge the time before: `{command}`"


def check_targets(scene: ReadingScene) -> Iterable[Finding]:
    """Targets that were to be scraped and did not answer, also those that never did and left no series."""
    targets, periods = scene.targets, _find_periods(scene)
    if targets is None or not periods:
        return
    at_ms = (targets.bucket + 0.5) * targets.bucket_s * 1000
    inside = np.any([(at_ms >= start) & (at_ms <= end) for start, end in periods], axis=0)
    down = np.where(inside, targets.n - targets.total, 0.0)
    shares = []
    for code in range(len(targets.arms)):
        mine = inside & (targets.arm == code)
        scrapes = float(targets.n[mine].sum())
        shares.append(float(down[mine].sum()) / scrapes if scrapes else 0.0)
    for code, arm in enumerate(targets.arms):
        others = max(shares[1:], default=0.0) if code == 0 else shares[0]
        at_end = _is_down_at_end(targets, code, periods[-1][1])
        if shares[code] <= TOLERATED and not at_end:
            continue
        failing = (targets.arm == code) & (down > 0)
        names = name_some([targets.instances[one] for one in np.unique(targets.instance[failing]).tolist()])
        first = show_clock(float(targets.bucket[failing].min()) * targets.bucket_s * 1000)
        text = (
            f"targets of {arm} did not answer {format_number(shares[code] * 100)} % of their scrapes "
            f"({format_number(others * 100)} % of the other arm's): {names}, first at {first}"
        )
        lopsided = shares[code] > scene.rulebook.silence and shares[code] > 2 * others
        remedy = (
            "find out why they were down: the metrics server's page of targets says how a scrape failed; "
            "targets that are not of the service are left out by sources.prometheus.selectors"
        )
        text += "; at the end none answers" if at_end else ""
        yield Finding("targets", Level.FAIL if lopsided or at_end else Level.WARN, text, remedy=remedy)


def _is_down_at_end(targets: ReadingCells, arm: int, end_ms: float) -> bool:
    """Did no target of an arm answer any more, though they were scraped?"""
    mine = (targets.arm == arm) & (targets.bucket * targets.bucket_s * 1000 < end_ms)
    if not mine.any():
        return False
    up = targets.bucket[mine & (targets.total > 0)]
    step_ms = max((fact.step_ms for fact in targets.facts), default=0.0)
    last_up = float(up.max()) if up.size else -math.inf
    return (float(targets.bucket[mine].max()) - last_up) * targets.bucket_s * 1000 > END_STEPS * step_ms


# ------------------------------------------------------------------ instances


def check_instances(scene: ReadingScene) -> Iterable[Finding]:
    """Instances that came or went while their arm went on."""
    periods = _find_periods(scene)
    if not periods:
        return
    turned = [_find_turnover(scene, arm, periods) for arm in scene.readings.arms]
    for arm, one in zip(scene.readings.arms, turned, strict=True):
        parts = [f"{len(one.came)} came after the start ({name_some(one.came)})"] if one.came else []
        parts += [f"{len(one.ended)} ended before the others ({name_some(one.ended)})"] if one.ended else []
        if parts:
            text = f"instances of {arm}, of {one.instances}: {', '.join(parts)}; each counts while it was there"
            yield warn("instances", text)
    for arm, one in list(zip(scene.readings.arms, turned, strict=True))[1:]:
        if one.share >= TURNED_OVER and one.share > 2 * turned[0].share and not scene.rulebook.prior.turnover_expected:
            text = (
                f"{len(one.ended)} of {one.instances} instances of {arm} ended while the others went on "
                f"({name_some(one.ended)}), and {len(turned[0].ended)} of {turned[0].instances} of baseline"
            )
            remedy = (
                "find out why they ended; where instances come and go by design, set "
                "`instances: {turnover: expected}` in the policy"
            )
            yield Finding("turnover", Level.FAIL, text, remedy=remedy)


@dataclass(frozen=True, slots=True)
class _Turnover:
    """Instances of one arm, and those that came or ended while others were there, with the time of it.

    One that is scraped and serves nothing any more has ended as well.
    """

    instances: int
    came: list[str]
    ended: list[str]

    @property
    def share(self) -> float:
        return len(self.ended) / self.instances if self.instances else 0.0


def _find_turnover(scene: ReadingScene, arm: str, periods: Sequence[tuple[float, float]]) -> _Turnover:
    facts = _scraped(scene, [fact for fact in scene.readings.facts if fact.arm == arm and fact.lives])
    lives: dict[str, tuple[int, int]] = {}
    for fact in facts:
        for name, (first, last) in fact.lives.items():
            known = lives.get(name, (first, last))
            lives[name] = min(known[0], first), max(known[1], last)
    start, end = periods[0][0], periods[-1][1]
    seen = {name: life for name, life in lives.items() if life[0] <= end and life[1] >= start}
    if not seen:
        return _Turnover(0, [], [])
    reach = END_STEPS * max(fact.step_ms for fact in facts)
    begun = max(min(first for first, _ in seen.values()), start)
    over = min(max(last for _, last in seen.values()), end)
    came = [f"{name} at {show_clock(first)}" for name, (first, _) in sorted(seen.items()) if first > begun + reach]
    gone = {name: show_clock(last) for name, (_, last) in seen.items() if last < over - reach}
    for (code, name), since in find_still_instances(scene).items():
        if scene.readings.arms[code] == arm:
            gone.setdefault(name, f"{show_clock(since)}, scraped since and serving nothing")
    return _Turnover(len(seen), came, [f"{name} at {when}" for name, when in sorted(gone.items())])


SILENCE_CHECKS = (check_silence, check_targets, check_instances)
