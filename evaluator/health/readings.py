"""Can what a metrics server said be trusted, and does it agree with what the load saw?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import ok, warn
from evaluator.records import Comparison, Finding, Level, Query, QueryFacts, ReadingCells, Rulebook
from evaluator.stats.index import distinct
from evaluator.stats.reading_panels import ReadingView, measures_the_same, name_of
from evaluator.wording import format_change, format_count, format_duration, format_number, name_comparison

__all__ = ["READING_CHECKS", "ReadingScene"]

TOLERATED = 0.02
TOO_MUCH = 0.5
ENOUGH = 3
NAMED = 3
CLIENT_TIMES = ("latency_quantile", "latency_mean")
SERVER_TIMES = ("histogram_quantile", "histogram_mean")


@dataclass(frozen=True, slots=True)
class ReadingScene:
    """Everything around a comparison of readings."""

    release: str
    readings: ReadingCells
    """All that was collected."""
    view: ReadingView
    """The part in the time that is judged."""
    rulebook: Rulebook
    seconds: float
    """Length of that time."""
    comparisons: tuple[Comparison, ...]
    client: tuple[Comparison, ...] = ()
    """What the load beside it saw."""


ReadingCheck = Callable[[ReadingScene], Iterable[Finding]]


def check_selectors(scene: ReadingScene) -> Iterable[Finding]:
    """An instance cannot be baseline and candidate at once: then the selectors do not tell the arms apart."""
    readings = scene.readings
    baseline = set(distinct(readings.instance[readings.arm == 0]).tolist())
    for code, arm in enumerate(readings.arms[1:], start=1):
        both = baseline & set(distinct(readings.instance[readings.arm == code]).tolist())
        names = sorted(readings.instances[one] for one in both if readings.instances[one])
        if names:
            text = f"the selectors of baseline and {arm} both find {_name_some(names)}: they do not tell the arms apart"
            remedy = "correct sources.prometheus.selectors, then collect again"
            yield Finding("selectors", Level.FAIL, text, void=True, remedy=remedy)


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def check_series(scene: ReadingScene) -> Iterable[Finding]:
    """Arms without any series, and queries that only some of the arms answer."""
    readings = scene.readings
    silent = [arm for code, arm in enumerate(readings.arms) if not (readings.arm == code).any()]
    for arm in silent:
        remedy = f"check the selector of {arm}, then `evaluator collect {scene.release}` again"
        yield Finding("series", Level.FAIL, f"no query has a series of {arm}", remedy=remedy)
    lacking = 0
    for place, query in enumerate(readings.queries):
        here = readings.query == place
        absent = [
            arm
            for code, arm in enumerate(readings.arms)
            if arm not in silent and not (here & (readings.arm == code)).any()
        ]
        if absent:
            lacking += 1
            yield _explain_absent(query, absent, readings)
    if not silent and not lacking:
        yield ok("series", f"all {len(readings.queries)} queries have series of every arm")


def _explain_absent(query: Query, absent: list[str], readings: ReadingCells) -> Finding:
    others = [other for other in readings.queries if other != query]
    if any(measures_the_same(query, other) for other in others):
        # Libraries create such a counter at its first event.
        return warn("series", f"{query.text.strip()} never happened on {' and '.join(absent)}: taken as 0")
    return warn("series", f"{query.text.strip()} has no series of {' and '.join(absent)}", "check the query's labels")


def check_partial(scene: ReadingScene) -> Iterable[Finding]:
    """What the server itself said of its answers: part of the data may be missing."""
    said = dict.fromkeys(text for fact in scene.readings.facts for text in fact.warnings)
    if said:
        text = f"the server warned of its own answers: {'; '.join(said)}"
        remedy = f"mend the server, then `evaluator collect {scene.release}` again"
        yield Finding("partial_answer", Level.FAIL, text, remedy=remedy)


def check_scrapes(scene: ReadingScene) -> Iterable[Finding]:
    """Scrapes that are not there, within series and over the time that is judged."""
    worst = max(scene.readings.facts, key=_missing_share, default=None)
    share, where = (_missing_share(worst), f"{name_of(worst.query)} of {worst.arm}") if worst else (0.0, "")
    covered = _covered(scene)
    if share > TOO_MUCH or covered < TOO_MUCH:
        what = _say_missing(share, where) if share > TOO_MUCH else _say_covered(covered, scene)
        remedy = f"mend the scrapes, then `evaluator collect {scene.release}` again"
        yield Finding("scrapes", Level.FAIL, what, remedy=remedy)
    elif share > TOLERATED:
        yield warn("scrapes", _say_missing(share, where))
    elif covered < 1 - TOLERATED * 5:
        yield warn("scrapes", _say_covered(covered, scene))
    else:
        yield ok("scrapes", "no gaps")


def _missing_share(fact: QueryFacts) -> float:
    return fact.missing / fact.expected if fact.expected else 0.0


def _covered(scene: ReadingScene) -> float:
    """Share of the judged time in which every arm was read."""
    view = scene.view
    arms = [view.readings.bucket[view.readings.arm == code] for code in range(len(view.readings.arms))]
    if not scene.seconds or not all(arm.size for arm in arms):
        return 1.0  # an arm without series has a finding of its own
    return min(float(np.unique(arm).size) for arm in arms) * view.readings.bucket_s / scene.seconds


def _say_missing(share: float, where: str) -> str:
    return f"{format_number(share * 100)} % of the scrapes of {where} are missing"


def _say_covered(covered: float, scene: ReadingScene) -> str:
    return f"readings cover {format_number(covered * 100)} % of the {format_duration(scene.seconds)} that are judged"


def check_restarts(scene: ReadingScene) -> Iterable[Finding]:
    """Counters that started again: a process did."""
    for arm in scene.readings.arms:
        resets = max((fact.resets for fact in scene.readings.facts if fact.arm == arm), default=0)
        if resets:
            times = "once" if resets == 1 else f"{format_count(resets)} times"
            yield warn("restarts", f"counters of {arm} started again {times}: its instances were restarted")


def check_instances(scene: ReadingScene) -> Iterable[Finding]:
    """Instances that came or went."""
    for arm in scene.readings.arms:
        facts = [fact for fact in scene.readings.facts if fact.arm == arm]
        started = max((fact.started for fact in facts), default=0)
        ended = max((fact.ended for fact in facts), default=0)
        parts = [f"{started} came after the start"] if started else []
        parts += [f"{ended} vanished before the end"] if ended else []
        if parts:
            yield warn("instances", f"instances of {arm}: {', '.join(parts)}; each counts while it was there")


def check_samples(scene: ReadingScene) -> Iterable[Finding]:
    """Samples and series that were left out."""
    facts = scene.readings.facts
    nan, twice = sum(fact.nan for fact in facts), sum(fact.duplicates for fact in facts)
    if nan:
        yield warn("not_a_number", f"{format_count(nan)} samples were not a number; left out")
    if twice:
        yield warn("duplicate_series", f"{format_count(twice)} series say the same as another; left out")


def check_source_clock(scene: ReadingScene) -> Iterable[Finding]:
    """The server's clock against ours: beside a load it decides what belongs together."""
    offset = scene.readings.sources.get("clock_offset_s")
    if not isinstance(offset, int | float):
        return
    text = f"the clock of the metrics server differs from ours by {format_number(abs(offset))} s"
    if abs(offset) <= scene.rulebook.max_clock_offset_s:
        yield ok("source_clock", text)
    elif scene.client:
        yield Finding("source_clock", Level.FAIL, text, void=True, remedy="set both clocks by NTP, then load again")
    else:
        yield warn("source_clock", text)


def check_single_instance(scene: ReadingScene) -> Iterable[Finding]:
    """One instance a side cannot tell the release from the machine it ran on (method B.3a)."""
    for arm in scene.readings.arms[1:]:
        single = [c for c in scene.comparisons if c.arm == arm and not c.no_data and c.method.endswith("single")]
        fewest = min((c.instances for c in single), key=min, default=None)
        if fewest is not None and min(fewest) < ENOUGH:
            text = (
                f"readings of one instance a side ({arm} {fewest[1]}, baseline {fewest[0]}): "
                "the release cannot be told from the machine it ran on"
            )
            remedy = "run three instances of each arm, or set instance_label to the label that tells them apart"
            yield Finding("single_instance", Level.FAIL, text, remedy=remedy)


def check_bounds(scene: ReadingScene) -> Iterable[Finding]:
    """Histograms too coarse for the margin that is set on them."""
    for comparison in scene.comparisons:
        if comparison.unresolved:
            yield warn("bucket_bounds", f"{name_comparison(comparison)}: {comparison.unresolved}")


def check_agreement(scene: ReadingScene) -> Iterable[Finding]:
    """The load's clients and the server itself should tell the same story."""
    alpha = scene.rulebook.alpha
    for arm in scene.readings.arms[1:]:
        client = [c for c in scene.client if c.arm == arm and c.rule.type in CLIENT_TIMES and not c.scan]
        server = [c for c in scene.comparisons if c.arm == arm and c.rule.type in SERVER_TIMES]
        slow_outside = next((c for c in client if _is_worse(c, alpha)), None)
        slow_inside = next((c for c in server if _is_worse(c, alpha)), None)
        if slow_outside and not slow_inside and (fine := next((c for c in server if _is_within(c, alpha)), None)):
            why = "look between them: queues, network or load balancer"
            yield warn("disagreement", f"the load sees {_moved(slow_outside)}, the server {_moved(fine)}: {why}")
        elif slow_inside and not slow_outside and (fine := next((c for c in client if _is_within(c, alpha)), None)):
            why = "the load does not ask for what is slow"
            yield warn("disagreement", f"the server sees {_moved(slow_inside)}, the load {_moved(fine)}: {why}")


def _is_worse(comparison: Comparison, alpha: float) -> bool:
    return any(q.p_worse < alpha for q in comparison.questions if q.kind == "margin")


def _is_within(comparison: Comparison, alpha: float) -> bool:
    return any(q.p_within < alpha for q in comparison.questions if q.kind == "margin")


def _moved(comparison: Comparison) -> str:
    change = format_change(comparison.effect, comparison.unit) if comparison.effect else "?"
    return f"{name_comparison(comparison)} of {comparison.arm} at {change}"


READING_CHECKS: tuple[ReadingCheck, ...] = (
    check_selectors,
    check_source_clock,
    check_series,
    check_partial,
    check_scrapes,
    check_single_instance,
    check_restarts,
    check_instances,
    check_samples,
    check_bounds,
    check_agreement,
)
