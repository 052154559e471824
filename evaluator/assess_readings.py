"""Readings become evidence: by themselves, or in the time for which a load was judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from evaluator.health.base import is_imported, warn
from evaluator.health.reading_base import ReadingScene
from evaluator.health.readings import READING_CHECKS
from evaluator.looks import judged_buckets, look_back_with
from evaluator.metrics.reading_measure import ReadingPairs, has_reading_rules, measure_readings, without_readings
from evaluator.records import (
    BASELINE,
    CANDIDATE,
    UP,
    ArmSummary,
    Cells,
    Evidence,
    Finding,
    Level,
    Monitoring,
    QueryFacts,
    QueryKind,
    ReadingCells,
    Rulebook,
    Run,
    RunState,
    Window,
)
from evaluator.stats.calendar import Calendar, plan_looks
from evaluator.stats.index import distinct
from evaluator.stats.reading_panels import ReadingView, Stretch, cut, keep_rows
from evaluator.stats.window import WarmUp, find_warm_up

__all__ = ["JudgedLoad", "assess_readings", "count_samples", "plan_runs"]


@dataclass(frozen=True, slots=True)
class JudgedLoad:
    """The load beside the readings, as it was judged."""

    cells: Cells
    runs: tuple[Run, ...]
    evidence: Evidence


def plan_runs(runs: tuple[Run, ...], monitoring: Monitoring, *, bucket_s: int, start: int, end: int) -> Calendar:
    """The calendar of looks at runs that are judged from bucket `start` to before bucket `end`.

    Several runs are judged when all are there, and so are imported files unless the policy says otherwise.
    """
    covered = (end - start) * bucket_s
    nobody_looked = monitoring.mode == "auto" and is_imported(runs)
    ended = all(run.state is not RunState.RUNNING for run in runs)
    if len(runs) != 1 or end == start or (nobody_looked and ended):
        return Calendar("fixed", (), float(covered), final=True)
    run = runs[0]
    planned = float(covered)
    if run.planned_end is not None:
        planned = max(run.planned_end.timestamp() - start * bucket_s, bucket_s)
    elif run.state is RunState.RUNNING:
        return plan_looks(monitoring, bucket_s=bucket_s, covered_s=covered, planned_s=None)
    calendar = plan_looks(monitoring, bucket_s=bucket_s, covered_s=covered, planned_s=planned)
    # A run that has ended gives no more data, whatever was planned.
    return calendar if run.state is RunState.RUNNING else replace(calendar, final=True)


def assess_readings(
    readings: ReadingCells | None,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    release: str,
    load: JudgedLoad | None = None,
) -> Evidence:
    """All that can be said of readings. `runs`: the collections that they came by."""
    if readings is None:
        arms = load.cells.arms[1:] if load else ()
        return Evidence(without_readings(rulebook, release, arms), (), (), Window(None, None))
    readings, targets = _take_out_targets(_with_both_arms(readings), rulebook)
    if not has_reading_rules(rulebook):
        ignored = warn("readings", "readings were collected, and the policy has no metric of them")
        return Evidence((), (ignored,), (), Window(None, None))
    readings, shared = _without_shared_instances(readings)
    stretches = _judged_stretches(load, rulebook) if load else None
    view = cut(readings, _since_the_candidate(readings) if stretches is None else stretches)
    if load and not view.run.size:
        return _without_overlap(readings, rulebook, release)
    start_s, end_s = _span(view, load, rulebook)
    calendar = _plan(view, runs, rulebook, load)
    pairs = ReadingPairs(view, rulebook)
    comparisons = look_back_with(
        lambda at_s: measure_readings(pairs, before_s=start_s + at_s),
        calendar,
        end_s - start_s,
        rulebook,
        measure_readings(pairs),
    )
    scene = ReadingScene(
        release=release,
        readings=readings,
        view=view,
        rulebook=rulebook,
        seconds=sum(one.end_s - one.start_s for one in stretches) if stretches else end_s - start_s,
        comparisons=comparisons,
        client=load.evidence.comparisons if load else (),
        shared_instances=shared,
        stretches=stretches or (),
        targets=targets,
    )
    return Evidence(
        comparisons=comparisons,
        findings=tuple(finding for check in READING_CHECKS for finding in check(scene)),
        arms=_summarise_arms(view, rulebook),
        window=Window(None, None) if load else _find_window(view),
        incomplete=any(run.state is RunState.INCOMPLETE for run in runs),
        monitoring=calendar.kind,
        final=load is not None or (calendar.final and all(run.state is not RunState.RUNNING for run in runs)),
        collected=load is None,
    )


def _without_overlap(readings: ReadingCells, rulebook: Rulebook, release: str) -> Evidence:
    """Readings of another time than the load's say nothing of it."""
    why = "no readings lie in the time for which the load is judged"
    remedy = (
        f"collect that time: `evaluator collect {release} --from T --to T`, or `evaluator load {release} --collect`"
    )
    finding = Finding("reading_overlap", Level.FAIL, why, remedy=remedy)
    return Evidence(without_readings(rulebook, release, readings.arms[1:], why), (finding,), (), Window(None, None))


def _with_both_arms(readings: ReadingCells) -> ReadingCells:
    """Name the arms that have no series: a missing arm is judged as missing, not left out."""
    arms = readings.arms
    if not arms or arms[0] != BASELINE:
        readings = replace(readings, arms=(BASELINE, *arms), arm=readings.arm + 1)
    return readings if len(readings.arms) > 1 else replace(readings, arms=(*readings.arms, CANDIDATE))


def _since_the_candidate(readings: ReadingCells) -> tuple[Stretch, ...] | None:
    """The time from the first reading of a candidate on: before, there is nothing to compare the baseline with."""
    theirs, own = readings.bucket[readings.arm > 0], readings.bucket[readings.arm == 0]
    if not theirs.size or not own.size or theirs.min() <= own.min():
        return None
    return (Stretch("readings", float(theirs.min()) * readings.bucket_s, math.inf),)


def _take_out_targets(readings: ReadingCells, rulebook: Rulebook) -> tuple[ReadingCells, ReadingCells | None]:
    """Set apart what the server says of its scrapes: its targets may be more than the service.

    Where the policy has a metric of it, it stays among the readings as well.
    """
    if UP not in readings.queries:
        return readings, None
    own = readings.query == readings.queries.index(UP)
    if any(UP in rule.metric.queries for rule in rulebook.rules):
        return readings, replace(keep_rows(readings, own), facts=tuple(f for f in readings.facts if f.query == UP))
    facts = {True: [fact for fact in readings.facts if fact.query == UP]}
    facts[False] = [fact for fact in readings.facts if fact.query != UP]
    # Queries are known by their place, which none may lose.
    rest = replace(keep_rows(readings, ~own), queries=tuple(q for q in readings.queries if q != UP))
    shift = rest.query > readings.queries.index(UP)
    rest = replace(rest, query=rest.query - shift, facts=tuple(facts[False]))
    return rest, replace(keep_rows(readings, own), facts=tuple(facts[True]))


def _without_shared_instances(readings: ReadingCells) -> tuple[ReadingCells, tuple[str, ...]]:
    """Take the name of an instance from readings in which it counted both arms; gives these names too.

    It is a proxy before both. Its series tell the arms apart, and it does not tell the arm's own instances apart.
    """
    if any(fact.shared for fact in readings.facts):  # then the selectors are wrong
        return readings, ()
    baseline = distinct(readings.instance[readings.arm == 0])
    others = distinct(readings.instance[readings.arm > 0])
    both = [code for code in np.intersect1d(baseline, others).tolist() if readings.instances[code]]
    if not both:
        return readings, ()
    names = (*readings.instances, "")
    instance = np.where(np.isin(readings.instance, both), len(readings.instances), readings.instance)
    return replace(readings, instances=names, instance=instance), tuple(readings.instances[code] for code in both)


def _judged_stretches(load: JudgedLoad, rulebook: Rulebook) -> tuple[Stretch, ...]:
    """When each load run was judged: from the end of its warm-up to its last request."""
    cells = load.cells
    warm_up = _warm_up(load, rulebook)
    out = []
    for code in distinct(cells.moments.run).tolist():
        buckets = cells.moments.bucket[cells.moments.run == code]
        start = max(warm_up.first_bucket.get(code, 0), int(buckets.min()))
        end = int(buckets.max()) + 1
        out.append(Stretch(cells.runs[code], float(start * cells.bucket_s), float(end * cells.bucket_s)))
    return tuple(out)


def _plan(view: ReadingView, runs: tuple[Run, ...], rulebook: Rulebook, load: JudgedLoad | None) -> Calendar:
    """The calendar of the load, or that of the collection: several of them are one stretch."""
    if load:
        start, end = judged_buckets(load.cells, _warm_up(load, rulebook))
        return plan_runs(load.runs, rulebook.monitoring, bucket_s=load.cells.bucket_s, start=start, end=end)
    start, end = view.span
    return plan_runs(_as_one(runs), rulebook.monitoring, bucket_s=view.readings.bucket_s, start=start, end=end)


def _as_one(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Collections of one release are parts of one stretch: it goes on while one of them does."""
    if len(runs) < 2:
        return runs
    running = any(run.state is RunState.RUNNING for run in runs)
    ends = [run.planned_end for run in runs]
    planned = max((end for end in ends if end is not None), default=None)
    state = RunState.RUNNING if running else RunState.COMPLETE
    return (replace(runs[-1], state=state, planned_end=None if None in ends else planned),)


def _warm_up(load: JudgedLoad, rulebook: Rulebook) -> WarmUp:
    return find_warm_up(load.cells, rulebook.warm_up_s)


def _span(view: ReadingView, load: JudgedLoad | None, rulebook: Rulebook) -> tuple[float, float]:
    """Start and end of what is judged, seconds since the epoch; looks are counted from that start."""
    start, end = judged_buckets(load.cells, _warm_up(load, rulebook)) if load else view.span
    bucket_s = load.cells.bucket_s if load else view.readings.bucket_s
    return float(start * bucket_s), float(end * bucket_s)


def _summarise_arms(view: ReadingView, rulebook: Rulebook) -> tuple[ArmSummary, ...]:
    readings = view.readings
    return tuple(
        ArmSummary(
            name=name,
            role="candidate" if code else "baseline",
            requests=_count_requests(view, rulebook, code),
            instances=int(distinct(readings.instance[readings.arm == code]).size),
            runs=int(distinct(view.run[readings.arm == code]).size),
        )
        for code, name in enumerate(readings.arms)
    )


def _count_requests(view: ReadingView, rulebook: Rulebook, arm: int) -> int:
    """What the busiest denominator of the policy's metrics counted: requests or observations."""
    counted = [0.0]
    for rule in rulebook.rules:
        query = rule.metric.denominator
        if query is None:
            continue
        rows = view.find(query, 3 if query.kind is QueryKind.HISTOGRAM else 0)
        counted.append(float(view.readings.total[rows][view.readings.arm[rows] == arm].sum()))
    return round(max(counted))


def count_samples(readings: ReadingCells, fact: QueryFacts, window: Window) -> Mapping[str, int]:
    """The account of one query's samples of one arm: `read` is the sum of all the others.

    `not_judged`: of a time that is not judged, or in which the other arm was not read yet, or not any more.
    """
    used = dict(fact.used)
    first, last = _counterpart_span(readings, fact)
    if window.start and window.end:
        first = max(first, math.ceil(window.start.timestamp() / readings.bucket_s))
        last = min(last, math.ceil(window.end.timestamp() / readings.bucket_s) - 1)
    judged = sum(samples for bucket, samples in used.items() if first <= bucket <= last)
    return {
        "read": fact.read,
        "judged": judged,
        "not_judged": sum(used.values()) - judged,
        "not_a_number": fact.nan,
        "infinite": fact.infinite,
        "repeated": fact.repeated,
        "other_time": fact.outside,
        "dropped": fact.falls,
    }


def _counterpart_span(readings: ReadingCells, fact: QueryFacts) -> tuple[int, int]:
    """First and last bucket in which the arm that this one is compared with was read; none: `(0, -1)`."""
    code = {name: code for code, name in enumerate(readings.arms)}.get(fact.arm, 0)
    others = readings.bucket[(readings.arm > 0) if fact.arm == BASELINE else (readings.arm == 0) & (code > 0)]
    return (int(others.min()), int(others.max())) if others.size else (0, -1)


def _find_window(view: ReadingView) -> Window:
    """From the first to the last bucket with readings, and how much time they cover."""
    start, end = view.span
    if start == end:
        return Window(None, None)
    bucket_s = view.readings.bucket_s
    seconds = float(np.unique(view.readings.bucket).size * bucket_s)
    first, last = (datetime.fromtimestamp(bucket * bucket_s, UTC) for bucket in (start, end))
    return Window(first, last, seconds)
